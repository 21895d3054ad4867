//! C5, V2: wire types keep their form, and read what a later version wrote.

use std::collections::BTreeSet;

use runtime_core::{
    CallId, ContentPart, Digest, EventDraft, EventId, EventKind, ExecutionScope, FinishReason,
    Message, ModelEvent, Role, RuntimeEvent, SessionId, Timestamp, ToolCall, ToolDefinition,
    ToolResult, Topic, TurnId,
};
use serde_json::{Value, json};

fn turn() -> ExecutionScope {
    ExecutionScope::Turn {
        session: SessionId::new("desk").unwrap(),
        turn: TurnId::new("t1").unwrap(),
    }
}

fn event() -> RuntimeEvent {
    RuntimeEvent {
        position: 7,
        seq: Some(2),
        id: EventId::generate(Timestamp::from_millis(1), [0; 10]),
        time: Timestamp::from_millis(1_000),
        draft: EventDraft::new(EventKind::TurnStarted)
            .in_scope(&turn())
            .with_message("started")
            .with_payload(json!({"deployment": "a"})),
    }
}

#[test]
fn v2_the_form_of_an_event() {
    let event = event();
    let expected = json!({
        "position": 7,
        "seq": 2,
        "id": event.id.to_string(),
        "time": 1_000,
        "schema": 1,
        "kind": "turn_started",
        "session": "desk",
        "turn": "t1",
        "message": "started",
        "payload": {"deployment": "a"},
    });
    assert_eq!(serde_json::to_value(&event).unwrap(), expected);
    assert_eq!(
        serde_json::from_value::<RuntimeEvent>(expected).unwrap(),
        event
    );
}

#[test]
fn v2_an_event_survives_the_store() {
    let draft = event().draft;
    assert_eq!(EventDraft::from_bytes(&draft.to_bytes()).unwrap(), draft);
    let error = EventDraft::from_bytes(b"{}").unwrap_err();
    assert_eq!(error.code, "event_undecodable");
}

#[test]
fn c5_a_kind_of_a_later_version_is_kept_as_it_came() {
    let text = r#"{"schema":9,"kind":"turn_dreamt","payload":1,"mood":"calm"}"#;
    let draft: EventDraft = serde_json::from_str(text).unwrap();
    assert_eq!(draft.kind, EventKind::Other("turn_dreamt".to_owned()));
    assert_eq!(serde_json::to_value(&draft).unwrap()["kind"], "turn_dreamt");
    assert!(!draft.kind.ends_turn());
}

#[test]
fn v2_each_kind_has_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for kind in EventKind::KNOWN {
        assert!(names.insert(kind.as_str()), "{kind} is there twice");
        assert_eq!(EventKind::from(kind.to_string()), *kind);
        assert!(!matches!(kind, EventKind::Other(_)));
    }
}

#[test]
fn v5_three_kinds_end_a_turn() {
    let ending = EventKind::KNOWN.iter().filter(|kind| kind.ends_turn());
    let names: Vec<&str> = ending.map(EventKind::as_str).collect();
    assert_eq!(names, ["turn_completed", "turn_failed", "turn_cancelled"]);
}

/// The stream that `seq` counts stands first, and topics find the same streams.
#[test]
fn v4_an_event_belongs_to_the_streams_of_its_topics() {
    let draft = EventDraft::new(EventKind::TurnStarted).in_scope(&turn());
    let session = SessionId::new("desk").unwrap();
    let topics = [
        Topic::Turn {
            session: session.clone(),
            turn: TurnId::new("t1").unwrap(),
        },
        Topic::Session { session },
    ];
    let streams: Vec<_> = topics.iter().filter_map(Topic::stream_key).collect();
    assert_eq!(draft.streams(), streams);
    assert_eq!(turn().stream_key().as_ref(), streams.first());
    assert_eq!(Topic::Runtime.stream_key(), None);
}

#[test]
fn c5_messages_keep_their_form() {
    let call = ToolCall {
        id: CallId::new("c1").unwrap(),
        name: "clock".to_owned(),
        arguments: json!({"zone": "UTC"}),
    };
    let message = Message {
        role: Role::Assistant,
        content: vec![
            ContentPart::Text {
                text: "one ".to_owned(),
            },
            ContentPart::ToolCall(call.clone()),
            ContentPart::ToolResult(ToolResult::error(call.id.clone(), "down")),
            ContentPart::Text {
                text: "two".to_owned(),
            },
        ],
    };
    let expected = json!({
        "role": "assistant",
        "content": [
            {"type": "text", "text": "one "},
            {"type": "tool_call", "id": "c1", "name": "clock", "arguments": {"zone": "UTC"}},
            {"type": "tool_result", "call": "c1", "is_error": true,
             "content": [{"type": "text", "text": "down"}]},
            {"type": "text", "text": "two"},
        ],
    });
    assert_eq!(serde_json::to_value(&message).unwrap(), expected);
    assert_eq!(
        serde_json::from_value::<Message>(expected).unwrap(),
        message
    );
    assert_eq!(message.plain_text(), "one two");
    assert_eq!(message.tool_calls().collect::<Vec<_>>(), [&call]);
}

#[test]
fn c5_what_a_later_provider_says_is_read_as_unknown() {
    let event: ModelEvent =
        serde_json::from_value(json!({"type": "finished", "reason": "moderated", "x": 1})).unwrap();
    let reason = FinishReason::Unknown;
    assert_eq!(event, ModelEvent::Finished { reason });
}

fn tool(more: &Value) -> ToolDefinition {
    let mut value = json!({"name": "t", "description": "", "input_schema": {}});
    let members = more.as_object().unwrap().clone();
    value.as_object_mut().unwrap().extend(members);
    serde_json::from_value(value).unwrap()
}

/// T3, M10: what is not declared, or declared by nobody trusted, gets the cautious answer.
#[test]
fn t3_a_tool_asks_unless_somebody_trusted_says_it_only_reads() {
    let hints = |hints: Value| tool(&json!({ "hints": hints }));
    assert!(tool(&json!({})).needs_approval());
    assert!(!tool(&json!({})).is_retry_safe());
    assert!(hints(json!({"read_only": true})).needs_approval());
    assert!(!hints(json!({"read_only": true, "retry_safe": true})).is_retry_safe());
    assert!(hints(json!({"trusted": true})).needs_approval());

    let reader = hints(json!({"read_only": true, "trusted": true}));
    assert!(!reader.needs_approval() && reader.is_retry_safe());
    let writer = hints(json!({"retry_safe": true, "trusted": true}));
    assert!(writer.needs_approval() && writer.is_retry_safe());

    assert!(!tool(&json!({"approval": "never"})).needs_approval());
    let hints = json!({"read_only": true, "trusted": true});
    assert!(tool(&json!({"approval": "always", "hints": hints})).needs_approval());
}

/// T3: an approval is bound to the arguments, not to how they were written.
#[test]
fn t3_the_digest_of_arguments() {
    let digest = |text: &str| {
        let call = ToolCall {
            id: CallId::new("c1").unwrap(),
            name: "pay".to_owned(),
            arguments: serde_json::from_str(text).unwrap(),
        };
        call.arguments_digest()
    };
    assert_eq!(
        digest(r#"{"to":"a","sum":1}"#),
        digest(r#"{ "sum": 1.0, "to": "a" }"#)
    );
    assert_ne!(
        digest(r#"{"to":"a","sum":1}"#),
        digest(r#"{"to":"a","sum":10}"#)
    );
}

/// E3: naming a context costs one step per message, and says its order and its content.
#[test]
fn e3_a_context_chain_tells_conversations_apart() {
    let chain = |texts: &[&str]| {
        let start = Digest::of_bytes(b"");
        texts.iter().fold(start, |before, text| {
            Message::text(Role::User, *text).chained(&before)
        })
    };
    assert_eq!(chain(&["a", "b"]), chain(&["a", "b"]));
    assert_ne!(chain(&["a", "b"]), chain(&["b", "a"]));
    assert_ne!(chain(&["ab"]), chain(&["a", "b"]));
    assert_ne!(
        chain(&["a"]),
        Message::text(Role::System, "a").chained(&Digest::of_bytes(b""))
    );
}
