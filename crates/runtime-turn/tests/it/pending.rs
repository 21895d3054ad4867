//! Tools that are answered later, from outside (T5).

use runtime_core::{
    EffectOutcome, EffectOutput, PendingCall, Resolution, Timestamp, ToolCallOutput, WaitIdentity,
    WaitOutput, WaitSource,
};
use serde_json::json;

use crate::world::{READ, WRITE, asked, call, effects, finished, resolved, results, sources, wait};

fn pending(deadline: Option<u64>) -> EffectOutcome {
    let deadline = deadline.map(Timestamp::from_millis);
    EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(
        PendingCall {
            deadline,
            ..PendingCall::default()
        },
    )))
}

fn elapsed(due: u64) -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Elapsed {
        source: 0,
        due: Timestamp::from_millis(due),
    }))
}

/// T5: completions and approvals are waited for together; the first that comes counts.
#[test]
fn t5_a_pending_call_is_completed_from_outside() {
    let calls = [
        call("a", READ, json!({})),
        call("b", WRITE, json!({})),
        call("c", READ, json!({ "n": 1 })),
    ];
    let mut machine = asked(&calls);
    let batch = effects(&machine);
    machine
        .record(batch[0].envelope.key(), &pending(None))
        .unwrap();
    machine
        .record(batch[1].envelope.key(), &finished("read"))
        .unwrap();

    let waiting = wait(&machine);
    let call = calls[0].id.clone();
    assert_eq!(
        sources(&waiting)[0],
        WaitSource::Promise {
            identity: WaitIdentity::ToolCompletion { call: call.clone() },
            call: Some(call),
            tool: Some(READ.into()),
            asks: None,
        }
    );
    assert_eq!(sources(&waiting).len(), 2);
    let value = json!({ "rows": 3 });
    machine
        .record(waiting.key(), &resolved(0, Resolution::Ok { value }))
        .unwrap();
    let waiting = wait(&machine);
    machine
        .record(waiting.key(), &resolved(0, Resolution::Timeout))
        .unwrap();
    assert_eq!(
        results(&machine)[0],
        ("a".into(), "{\"rows\":3}".into(), false)
    );
}

/// T5: the earliest deadline ends the wait; the default of `on_timeout` is an error as result.
#[test]
fn t5_a_deadline_ends_the_calls_that_are_due_and_no_other() {
    let calls = [
        call("a", READ, json!({ "n": 1 })),
        call("b", READ, json!({ "n": 2 })),
    ];
    let mut machine = asked(&calls);
    let batch = effects(&machine);
    for (planned, deadline) in batch.iter().zip([900, 500]) {
        machine
            .record(planned.envelope.key(), &pending(Some(deadline)))
            .unwrap();
    }
    let waiting = wait(&machine);
    let due = Timestamp::from_millis(500);
    assert_eq!(sources(&waiting)[0], WaitSource::Until { due });
    assert_eq!(sources(&waiting).len(), 3);
    machine.record(waiting.key(), &elapsed(500)).unwrap();

    let waiting = wait(&machine);
    let due = Timestamp::from_millis(900);
    assert_eq!(sources(&waiting)[0], WaitSource::Until { due });
    assert_eq!(sources(&waiting).len(), 2);
    let error = Resolution::Err {
        code: "down".into(),
        message: "no answer".into(),
        raw: None,
    };
    machine.record(waiting.key(), &resolved(1, error)).unwrap();
    assert_eq!(
        results(&machine),
        [
            ("a".into(), "down: no answer".into(), true),
            (
                "b".into(),
                "the tool was not completed in time".into(),
                true
            ),
        ]
    );
}
