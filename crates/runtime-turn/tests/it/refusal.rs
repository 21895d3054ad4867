//! Calls that no envelope can name (E3).

use runtime_core::{
    ApprovalPolicy, Digest, EffectOutcome, EffectOutput, PendingCall, Timestamp, ToolCall,
    ToolCallOutput,
};
use runtime_turn::Next;
use serde_json::json;

use crate::world::{PROMPT, answer, asked, call, definition, machine, one, results};

fn named(name: &str) -> ToolCall {
    call("a", name, json!({}))
}

/// E3: a blank or endless name gets an error as result, and the turn goes on.
#[test]
fn e3_a_call_without_a_usable_name_is_answered_without_an_effect() {
    for name in ["", "  ", &"x".repeat(5000), &"\u{1}".repeat(700)] {
        let machine = asked(&[named(name)]);
        let results = results(&machine);
        assert!(results[0].1.starts_with("call cannot be made: "), "{name}");
        assert!(results[0].2);
        assert_eq!(one(&machine).envelope.key().as_str(), "1.llm_call.0");
    }
}

/// E3: a call that is made can also be waited for, however long the name of its tool is: there is
/// no length at which a pending call has no wait.
#[test]
fn e3_every_call_that_is_made_can_be_waited_for() {
    let (mut made, mut refused) = (0, 0);
    for length in (1..4000).step_by(17) {
        let name = "n".repeat(length);
        let catalogue =
            serde_json::to_vec(&[definition(&name, ApprovalPolicy::Never, true)]).unwrap();
        let mut machine = machine();
        let synced = EffectOutcome::Completed(EffectOutput::SyncExecutionEnvironment {
            prompt: Digest::of_bytes(PROMPT),
            tools: Digest::of_bytes(&catalogue),
            reports: Vec::new(),
        });
        let sync = one(&machine);
        machine.record(sync.envelope.key(), &synced).unwrap();
        machine.environment(PROMPT, &catalogue).unwrap();
        let model = one(&machine);
        let call = call(&"\"".repeat(512), &name, json!({}));
        machine
            .record(model.envelope.key(), &answer(&[call]))
            .unwrap();
        let planned = one(&machine);
        if planned.envelope.key().as_str() == "1.llm_call.0" {
            refused += 1;
            continue;
        }
        made += 1;
        let pending = EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(
            PendingCall {
                deadline: Some(Timestamp::from_millis(u64::MAX)),
                ..PendingCall::default()
            },
        )));
        machine.record(planned.envelope.key(), &pending).unwrap();
        assert!(matches!(machine.next(), Next::Wait(_)));
    }
    assert!(made > 0 && refused > 0);
}
