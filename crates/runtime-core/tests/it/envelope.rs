//! E2–E4: what an envelope refuses, what its digest means, what a replay key is.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use runtime_core::{
    CallId, Classified, Digest, ENVELOPE_BYTES_MAX, EffectCommand, EffectEnvelope, EffectKind,
    EnvelopeError, ErrorClass, ExecutionScope, LlmCall, ReplayKey, RetryPolicy, SessionId,
    Timestamp, ToolCallCommand, TurnId, WaitIdentity, WaitSource,
};

fn scope(turn: &str) -> ExecutionScope {
    ExecutionScope::Turn {
        session: SessionId::new("desk").unwrap(),
        turn: TurnId::new(turn).unwrap(),
    }
}

fn tool_call(tool: &str) -> EffectCommand {
    EffectCommand::ToolCall(ToolCallCommand {
        call: CallId::new("c1").unwrap(),
        tool: tool.to_owned(),
        arguments: Digest::of_bytes(b"{}"),
    })
}

fn llm_call(model: &str) -> EffectCommand {
    let digest = Digest::of_bytes(b"");
    EffectCommand::LlmCall(LlmCall {
        model: model.to_owned(),
        context: digest,
        messages: 1,
        prompt: digest,
        tools: digest,
    })
}

fn step(name: &str) -> EffectCommand {
    EffectCommand::DurableStep {
        name: name.to_owned(),
        input: None,
    }
}

/// One command of each kind, none of them blank.
fn commands() -> Vec<EffectCommand> {
    vec![
        llm_call("m"),
        tool_call("t"),
        EffectCommand::SyncExecutionEnvironment {
            model: "m".to_owned(),
        },
        EffectCommand::AwaitEvent {
            sources: vec![WaitSource::Until {
                due: Timestamp::from_millis(1),
            }],
        },
        EffectCommand::Sleep {
            duration: Duration::from_secs(1),
        },
        step("s"),
    ]
}

fn envelope(turn: &str, ordinal: u32, command: EffectCommand) -> EffectEnvelope {
    let key = ReplayKey::turn(0, command.kind(), ordinal);
    EffectEnvelope::new(scope(turn), key, command).unwrap()
}

#[test]
fn e3_each_kind_takes_its_own_key_and_no_other() {
    let kinds: Vec<EffectKind> = commands().iter().map(EffectCommand::kind).collect();
    for command in commands() {
        for kind in &kinds {
            let key = ReplayKey::turn(3, *kind, 1);
            let made = EffectEnvelope::new(scope("1"), key, command.clone());
            match made {
                Ok(_) => assert_eq!(command.kind(), *kind),
                Err(error) => {
                    assert_ne!(command.kind(), *kind);
                    assert_eq!(error.code(), "envelope_key_mismatch");
                }
            }
        }
    }
}

#[test]
fn e3_a_blank_subject_is_refused() {
    let blanks = [
        llm_call(""),
        llm_call(" \t"),
        tool_call(" "),
        EffectCommand::SyncExecutionEnvironment {
            model: String::new(),
        },
        EffectCommand::AwaitEvent {
            sources: Vec::new(),
        },
        step(""),
    ];
    for command in blanks {
        let key = ReplayKey::turn(0, command.kind(), 0);
        let error = EffectEnvelope::new(scope("1"), key, command).unwrap_err();
        assert!(
            matches!(error, EnvelopeError::BlankSubject { .. }),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Invalid);
    }
}

#[test]
fn e3_an_envelope_is_at_most_4_kib() {
    let key = || ReplayKey::turn(0, EffectKind::ToolCall, 0);
    let named =
        |bytes: usize| EffectEnvelope::new(scope("1"), key(), tool_call(&"t".repeat(bytes)));
    let overhead = named(1).unwrap().identity().to_string().len() - 1;
    let largest = ENVELOPE_BYTES_MAX - overhead;
    assert!(named(largest).is_ok());
    let error = named(largest + 1).unwrap_err();
    let bytes = ENVELOPE_BYTES_MAX + 1;
    assert_eq!(error, EnvelopeError::TooLarge { bytes });
}

#[test]
fn e3_an_envelope_survives_the_wire() {
    for command in commands() {
        let envelope = envelope("1", 0, command).retry_safe(true);
        let json = serde_json::to_string(&envelope).unwrap();
        let read: EffectEnvelope = serde_json::from_str(&json).unwrap();
        assert_eq!(read, envelope);
        assert_eq!(read.digest(), envelope.digest());
    }
}

#[test]
fn e3_an_inconsistent_envelope_is_refused_on_the_wire_too() {
    let mut json = serde_json::to_value(envelope("1", 0, tool_call("t"))).unwrap();
    json["command"]["tool"] = " ".into();
    assert!(serde_json::from_value::<EffectEnvelope>(json.clone()).is_err());
    json["command"]["tool"] = "t".into();
    assert!(serde_json::from_value::<EffectEnvelope>(json.clone()).is_ok());
    json["key"] = "0.llm_call.0".into();
    assert!(serde_json::from_value::<EffectEnvelope>(json.clone()).is_err());
    json["key"] = "0.tool_call.0".into();
    json["scope"]["turn"] = "".into();
    assert!(serde_json::from_value::<EffectEnvelope>(json).is_err());
}

/// E4: changing a timeout or a declaration parks no open turn.
#[test]
fn e4_the_digest_leaves_policy_out() {
    let plain = envelope("1", 0, tool_call("t"));
    let policy = RetryPolicy {
        max_attempts: 9,
        attempt_timeout: Duration::from_secs(1),
        ..RetryPolicy::default()
    };
    let other = plain.clone().retry_safe(true).with_policy(policy);
    assert_ne!(plain, other);
    assert_eq!(plain.digest(), other.digest());
    assert_eq!(plain.idempotency_key(), other.idempotency_key());
}

#[test]
fn e4_the_digest_says_scope_key_and_command() {
    let envelopes = [
        envelope("1", 0, tool_call("t")),
        envelope("2", 0, tool_call("t")),
        envelope("1", 1, tool_call("t")),
        envelope("1", 0, tool_call("u")),
        envelope("1", 0, step("t")),
    ];
    let digests: BTreeSet<Digest> = envelopes.iter().map(EffectEnvelope::digest).collect();
    assert_eq!(digests.len(), envelopes.len());
}

/// E7: the key that a tool gets is that of the effect, whatever is asked for under it.
#[test]
fn e7_the_idempotency_key_is_one_per_effect() {
    let key = |turn, ordinal| envelope(turn, ordinal, tool_call("t")).idempotency_key();
    assert_eq!(
        key("1", 0),
        envelope("1", 0, tool_call("u")).idempotency_key()
    );
    assert_ne!(key("1", 0), key("1", 1));
    assert_ne!(key("1", 0), key("2", 0));
}

#[test]
fn t3_an_approval_is_bound_to_call_and_arguments() {
    let approval = |call: &str, arguments: &[u8]| {
        WaitIdentity::approval(&CallId::new(call).unwrap(), &Digest::of_bytes(arguments))
    };
    assert_eq!(approval("a", b"1"), approval("a", b"1"));
    assert_ne!(approval("a", b"1"), approval("b", b"1"));
    assert_ne!(approval("a", b"1"), approval("a", b"2"));
}

#[test]
fn e4_the_text_of_replay_keys() {
    let key = ReplayKey::turn(2, EffectKind::ToolCall, 1);
    assert_eq!(key.as_str(), "2.tool_call.1");
    assert_eq!(key.child("retry").unwrap().as_str(), "2.tool_call.1/retry");
    let step = ReplayKey::step("charge card", 0).unwrap();
    assert_eq!(step.as_str(), "step.durable_step.0.charge card");
    for bad in ["", "a\n", "\0"] {
        assert!(bad.parse::<ReplayKey>().is_err(), "{bad:?}");
    }
    let long = "k".repeat(1024);
    assert!(long.parse::<ReplayKey>().is_ok());
    assert!(key.child(&long).is_err());
}

proptest! {
    /// A step in a loop is no conflict, and no name can pass for another step's.
    #[test]
    fn e4_steps_have_keys_of_their_own(
        one in ("[a.0/]{1,4}", 0_u32..12),
        two in ("[a.0/]{1,4}", 0_u32..12),
    ) {
        let key = |(name, occurrence): &(String, u32)| ReplayKey::step(name, *occurrence).unwrap();
        prop_assert_eq!(key(&one) == key(&two), one == two);
    }

    #[test]
    fn e4_turn_effects_have_keys_of_their_own(
        one in (0_u32..12, 0_u32..12),
        two in (0_u32..12, 0_u32..12),
    ) {
        let key = |(iteration, ordinal)| ReplayKey::turn(iteration, EffectKind::ToolCall, ordinal);
        prop_assert_eq!(key(one) == key(two), one == two);
    }

    #[test]
    fn e4_a_replay_key_survives_its_text(name in "[^\\p{Cc}]{1,100}", occurrence: u32) {
        let key = ReplayKey::step(&name, occurrence).unwrap();
        let json = serde_json::to_string(&key).unwrap();
        prop_assert_eq!(&serde_json::from_str::<ReplayKey>(&json).unwrap(), &key);
        let command = step(&name);
        prop_assert_eq!(
            EffectEnvelope::new(scope("1"), key, command).is_ok(),
            !name.trim().is_empty()
        );
    }
}
