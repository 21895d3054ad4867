//! C1: one bounded grammar, checked at every entrance.

use proptest::prelude::*;
use runtime_core::{
    CallId, CanonicalEncoder, CommitId, EventId, IdError, RuntimeId, SessionId, Timestamp, TurnId,
    WorkerId,
};

/// The grammar, said in another way than the library says it.
fn is_own_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(byte))
}

fn is_foreign_id(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.chars().all(|c| !c.is_control())
}

/// What each entrance makes of a text; they must agree.
fn entrances(text: &str) -> [bool; 4] {
    [
        TurnId::new(text).is_ok(),
        text.parse::<TurnId>().is_ok(),
        TurnId::try_from(text.to_owned()).is_ok(),
        serde_json::from_value::<TurnId>(text.into()).is_ok(),
    ]
}

#[test]
fn c1_the_edges_of_the_grammar() {
    let longest = "a".repeat(128);
    for good in ["a", "7", "a.b_c:d-e", "Z-", "0::", &longest] {
        assert_eq!(entrances(good), [true; 4], "{good}");
    }
    let too_long = "a".repeat(129);
    for bad in [
        "", ".", "-a", "_a", ":a", "a/b", "a b", "a\n", "a\0", "../a", "ä", "a\\b", &too_long,
    ] {
        assert_eq!(entrances(bad), [false; 4], "{bad:?}");
    }
}

#[test]
fn c1_the_edges_of_foreign_text() {
    let longest = "ä".repeat(256);
    for good in ["/", " ", "call_…", "../a", &longest] {
        assert!(CallId::new(good).is_ok(), "{good}");
    }
    let too_long = format!("{longest}a");
    for bad in ["", "a\n", "\u{7f}", "\u{85}", &too_long] {
        assert!(CallId::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn c1_a_refusal_says_what_and_where() {
    let error = WorkerId::new("ab/c").unwrap_err();
    assert!(
        matches!(
            error,
            IdError::Character {
                found: '/',
                at: 2,
                ..
            }
        ),
        "{error:?}"
    );
    let error = WorkerId::new("a".repeat(200)).unwrap_err();
    assert!(
        matches!(
            error,
            IdError::Length {
                len: 200,
                max: 128,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn c1_a_session_is_named_like_its_worker() {
    let worker = WorkerId::new("desk").unwrap();
    let session = SessionId::from(&worker);
    assert_eq!(session.as_str(), "desk");
    assert_eq!(WorkerId::from(&session), worker);
}

#[test]
fn c1_derived_ids_repeat_and_have_no_time() {
    let identity = |text| CanonicalEncoder::new("test").text(text);
    let id = CommitId::derived(identity("a"));
    assert_eq!(id, CommitId::derived(identity("a")));
    assert_ne!(id, CommitId::derived(identity("b")));
    assert_eq!(id.as_uuid().get_version_num(), 8);
    assert_eq!(id.timestamp(), None);
}

#[test]
fn c1_a_uuid_is_checked_at_every_entrance() {
    for bad in ["", "7", "not-a-uuid", "0190163d-8694-739b-aea5-966c26f8ad9"] {
        assert!(bad.parse::<EventId>().is_err(), "{bad}");
        assert!(
            serde_json::from_value::<EventId>(bad.into()).is_err(),
            "{bad}"
        );
    }
}

proptest! {
    #[test]
    fn c1_every_entrance_follows_the_grammar(text in "[a-zA-Z0-9._:/ äß\\-\\x00-\\x1f]{0,140}") {
        prop_assert_eq!(entrances(&text), [is_own_id(&text); 4]);
    }

    #[test]
    fn c1_foreign_text_is_bounded(text in any::<String>()) {
        prop_assert_eq!(CallId::new(&text).is_ok(), is_foreign_id(&text));
    }

    #[test]
    fn c1_an_id_survives_its_text(text in "[a-zA-Z0-9][a-zA-Z0-9._:-]{0,127}") {
        let id = RuntimeId::new(&text).unwrap();
        prop_assert_eq!(id.to_string(), text);
        let json = serde_json::to_string(&id).unwrap();
        prop_assert_eq!(serde_json::from_str::<RuntimeId>(&json).unwrap(), id);
    }

    /// A UUIDv7 sorts by its time, and tells it; it comes from its arguments alone.
    #[test]
    fn c1_generated_ids_sort_by_time(
        early in 0_u64..1 << 47,
        later in 1_u64..1 << 40,
        random: [[u8; 10]; 2],
    ) {
        let time = Timestamp::from_millis(early);
        let id = CommitId::generate(time, random[0]);
        prop_assert_eq!(id, CommitId::generate(time, random[0]));
        prop_assert_eq!(id.as_uuid().get_version_num(), 7);
        prop_assert_eq!(id.timestamp(), Some(time));
        prop_assert_eq!(id.to_string().parse::<CommitId>().unwrap(), id);

        let next = CommitId::generate(Timestamp::from_millis(early + later), random[1]);
        prop_assert!(next > id);
        let turn = TurnId::generate(time, random[0]);
        prop_assert_eq!(turn.as_str(), id.to_string());
    }
}
