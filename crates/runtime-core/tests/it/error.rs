//! C3: classes drive behaviour, and errors survive the wire. C6: secrets do not.

use proptest::prelude::*;
use runtime_core::{Classified, ErrorClass, Secret, TurnId, WireError};
use serde_json::json;

/// The table of C3, ruled by hand: class, wire name, final when recorded, worth trying again.
const CLASSES: [(ErrorClass, &str, bool, bool); 13] = [
    (ErrorClass::Invalid, "invalid", true, false),
    (ErrorClass::NotFound, "not_found", true, false),
    (ErrorClass::Conflict, "conflict", false, false),
    (ErrorClass::Busy, "busy", false, true),
    (ErrorClass::Unsupported, "unsupported", true, false),
    (ErrorClass::Cancelled, "cancelled", false, false),
    (ErrorClass::TimedOut, "timed_out", false, true),
    (ErrorClass::Unavailable, "unavailable", false, true),
    (ErrorClass::Indeterminate, "indeterminate", false, false),
    (ErrorClass::Gap, "gap", false, false),
    (ErrorClass::Corrupt, "corrupt", false, false),
    (ErrorClass::Fenced, "fenced", false, false),
    (ErrorClass::Terminal, "terminal", true, false),
];

#[test]
fn c3_each_class_is_final_or_tried_again_as_specified() {
    for (class, name, is_final, is_retryable) in CLASSES {
        assert_eq!(class.is_final(), is_final, "{name}");
        assert_eq!(class.is_retryable(), is_retryable, "{name}");
    }
}

#[test]
fn c3_each_class_has_one_name_everywhere() {
    for (class, name, ..) in CLASSES {
        assert_eq!(class.to_string(), name);
        assert_eq!(serde_json::to_value(class).unwrap(), json!(name));
        assert_eq!(
            serde_json::from_value::<ErrorClass>(json!(name)).unwrap(),
            class
        );
    }
}

#[test]
fn c3_an_error_goes_to_the_wire_with_its_code_and_class() {
    let error = TurnId::new("a b").unwrap_err();
    let wire = error.to_wire();
    assert_eq!(
        (wire.code.as_str(), wire.class),
        ("id_character", ErrorClass::Invalid)
    );
    assert_eq!(wire.message, error.to_string());
}

#[test]
fn c5_a_later_version_may_add_members_to_an_error() {
    let text = r#"{"code":"a_code","class":"busy","message":"m","retry_after":3}"#;
    let error: WireError = serde_json::from_str(text).unwrap();
    assert_eq!(error, WireError::new("a_code", ErrorClass::Busy, "m"));
}

proptest! {
    #[test]
    fn c3_a_recorded_error_replays_the_same(
        code in "[a-z_]{1,20}",
        class in 0..CLASSES.len(),
        message: String,
        details: Option<Vec<u64>>,
    ) {
        let mut error = WireError::new(&code, CLASSES[class].0, message);
        error.details = details.map(|numbers| json!(numbers));
        let json = serde_json::to_string(&error).unwrap();
        prop_assert_eq!(serde_json::from_str::<WireError>(&json).unwrap(), error);
    }
}

#[test]
fn c6_a_secret_is_not_printed() {
    let secret = Secret::new(*b"canary-7f3a");
    assert_eq!(
        format!("{secret} {secret:?} {:#?}", Some(&secret))
            .matches("canary")
            .count(),
        0
    );
    assert!(format!("{secret}").contains("[redacted]"));
    assert_eq!(secret.expose(), b"canary-7f3a");
}
