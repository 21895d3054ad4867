//! E2: execution scopes, and the texts that stores know them by.

use std::collections::BTreeMap;

use proptest::prelude::*;
use runtime_core::{ExecutionScope, ProcessId, ScopeId, SessionId, TurnId};

fn any_scope() -> impl Strategy<Value = ExecutionScope> {
    // Few and short ids, so that different scopes are made of the same ids.
    let id = || prop_oneof!["[ab1]", "[ab1][ab1:.-]{0,2}", "[a-z]{128}"];
    let session = move || id().prop_map(|id| SessionId::new(id).unwrap());
    let turn = move || id().prop_map(|id| TurnId::new(id).unwrap());
    let process = id().prop_map(|id| ProcessId::new(id).unwrap());
    prop_oneof![
        (session(), turn()).prop_map(|(session, turn)| ExecutionScope::Turn { session, turn }),
        process.prop_map(|process| ExecutionScope::Process { process }),
        (session(), turn())
            .prop_map(|(session, drain)| ExecutionScope::QueueDrain { session, drain }),
        session().prop_map(|session| ExecutionScope::SessionDelete { session }),
        turn().prop_map(|operation| ExecutionScope::RuntimeOperation { operation }),
    ]
}

proptest! {
    #[test]
    fn e2_a_scope_is_read_back_from_its_text(scope in any_scope()) {
        let id = scope.scope_id();
        prop_assert_eq!(&ExecutionScope::from_scope_id(&id).unwrap(), &scope);
        let json = serde_json::to_string(&scope).unwrap();
        prop_assert_eq!(serde_json::from_str::<ExecutionScope>(&json).unwrap(), scope);
    }

    #[test]
    fn e2_no_two_scopes_share_a_text(scopes in prop::collection::vec(any_scope(), 2..40)) {
        let mut seen = BTreeMap::new();
        for scope in scopes {
            let before = seen.insert(scope.scope_id(), scope.clone());
            prop_assert!(before.is_none_or(|before| before == scope));
        }
    }

    /// Whatever text is read, it is refused or it is that scope's own text.
    #[test]
    fn e2_only_the_text_of_a_scope_is_read(text in "(turn|process|drain|delete|operation|x)(/[ab./]{0,3}){0,3}") {
        let id = ScopeId::new(text).unwrap();
        if let Ok(scope) = ExecutionScope::from_scope_id(&id) {
            prop_assert_eq!(scope.scope_id(), id);
        }
    }
}

#[test]
fn e2_a_scope_with_a_blank_id_is_refused() {
    for blank in [
        r#"{"type":"turn","session":"","turn":"1"}"#,
        r#"{"type":"turn","session":"s","turn":" "}"#,
        r#"{"type":"process","process":""}"#,
        r#"{"type":"turn","session":"s"}"#,
        r#"{"type":"tur","session":"s","turn":"1"}"#,
    ] {
        assert!(
            serde_json::from_str::<ExecutionScope>(blank).is_err(),
            "{blank}"
        );
    }
}

#[test]
fn e2_turns_and_processes_have_a_stream_of_their_own() {
    let turn = ExecutionScope::Turn {
        session: SessionId::new("s").unwrap(),
        turn: TurnId::new("1").unwrap(),
    };
    assert_eq!(turn.stream_key().unwrap().as_str(), "turn/s/1");
    let operation = ExecutionScope::RuntimeOperation {
        operation: TurnId::new("1").unwrap(),
    };
    assert_eq!(operation.stream_key(), None);
}
