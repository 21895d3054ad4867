//! Approvals (T3): approve, deny, edit, and everything that is no clear yes.

use runtime_core::{
    EffectOutcome, ErrorClass, Resolution, ToolCall, WaitIdentity, WaitSource, WireError,
};
use runtime_turn::{ApprovalDecision, Work};
use serde_json::json;

use crate::world::{
    READ, WRITE, answer, asked, call, effects, finished, one, resolved, results, sources, wait,
};

fn deny(reason: &str) -> Resolution {
    let reason = Some(reason.to_owned());
    ApprovalDecision::Deny { reason }.to_resolution()
}

fn approval(call: &ToolCall) -> WaitIdentity {
    WaitIdentity::approval(&call.id, &call.arguments_digest())
}

/// T3: what needs nobody runs first; then one wait names every call that needs somebody.
#[test]
fn t3_what_needs_nobody_runs_first_and_one_wait_asks_for_the_rest() {
    let calls = [
        call("a", WRITE, json!({ "n": 1 })),
        call("b", READ, json!({})),
        call("c", WRITE, json!({ "n": 2 })),
    ];
    let mut machine = asked(&calls);
    let first = one(&machine);
    assert_eq!(first.envelope.key().as_str(), "0.tool_call.1");
    machine
        .record(first.envelope.key(), &finished("read"))
        .unwrap();

    let asking = wait(&machine);
    assert_eq!(asking.key().as_str(), "0.await_event.0/after0");
    let expected = [&calls[0], &calls[2]].map(|call| WaitSource::Promise {
        identity: approval(call),
        call: Some(call.id.clone()),
        tool: Some(WRITE.into()),
        asks: None,
    });
    assert_eq!(sources(&asking), expected);

    // The second is approved first: it runs while the other is still asked for.
    let yes = resolved(1, ApprovalDecision::Approve.to_resolution());
    machine.record(asking.key(), &yes).unwrap();
    let approved = one(&machine);
    assert_eq!(approved.envelope.key().as_str(), "0.tool_call.2");
    assert!(!approved.envelope.is_retry_safe());
    machine
        .record(approved.envelope.key(), &finished("wrote 2"))
        .unwrap();

    let asking = wait(&machine);
    assert_eq!(asking.key().as_str(), "0.await_event.0/after1");
    assert_eq!(sources(&asking), expected[..1]);
    machine
        .record(asking.key(), &resolved(0, deny("not today")))
        .unwrap();
    assert_eq!(
        results(&machine),
        [
            (
                "a".into(),
                "a person denied this call: not today".into(),
                true
            ),
            ("b".into(), "read".into(), false),
            ("c".into(), "wrote 2".into(), false),
        ]
    );
    assert_eq!(one(&machine).envelope.key().as_str(), "1.llm_call.0");
}

/// T3: an edited call runs with the new arguments; the record and the model know.
#[test]
fn t3_an_edited_call_runs_with_the_new_arguments() {
    let mut machine = asked(&[call("a", WRITE, json!({ "n": 1 }))]);
    let asking = wait(&machine);
    let arguments = json!({ "n": 9 });
    let edit = ApprovalDecision::Edit {
        arguments: arguments.clone(),
    };
    machine
        .record(asking.key(), &resolved(0, edit.to_resolution()))
        .unwrap();
    let planned = one(&machine);
    match &planned.work {
        Work::Tool {
            arguments: runs, ..
        } => assert_eq!(*runs, arguments),
        other => panic!("a tool call expected, found {other:?}"),
    }
    let digest = call("a", WRITE, arguments).arguments_digest();
    assert_eq!(
        planned.envelope.identity()["command"]["arguments"],
        json!(digest)
    );
    machine
        .record(planned.envelope.key(), &finished("wrote"))
        .unwrap();
    assert_eq!(
        results(&machine),
        [(
            "a".into(),
            "[a person edited the arguments; the call ran with {\"n\":9}]|wrote".into(),
            false
        )]
    );
}

/// T3: whatever is no clear yes is a no, told to the model.
#[test]
fn t3_no_answer_but_a_clear_yes_lets_a_call_run() {
    let refused = [
        (deny("no"), "a person denied this call: no"),
        (
            Resolution::Ok {
                value: json!({ "decision": "deny" }),
            },
            "a person denied this call",
        ),
        (
            Resolution::Ok {
                value: json!("yes"),
            },
            "the answer was not understood, so the call is denied",
        ),
        (
            Resolution::Ok {
                value: json!({ "decision": "edit" }),
            },
            "the answer was not understood, so the call is denied",
        ),
        (Resolution::Timeout, "nobody approved this call in time"),
        (Resolution::Cancelled, "the approval was withdrawn"),
        (
            Resolution::Err {
                code: "gone".into(),
                message: "left".into(),
                raw: None,
            },
            "approval failed: gone: left",
        ),
    ];
    for (resolution, text) in refused {
        let mut machine = asked(&[call("a", WRITE, json!({}))]);
        let asking = wait(&machine);
        machine
            .record(asking.key(), &resolved(0, resolution))
            .unwrap();
        assert_eq!(results(&machine), [("a".into(), text.into(), true)]);
    }
}

/// A host that cannot wait refuses the calls that would have to be asked for, instead of running
/// them.
#[test]
fn e10_a_wait_that_fails_refuses_its_calls() {
    let mut machine = asked(&[call("a", WRITE, json!({}))]);
    let asking = wait(&machine);
    let error = WireError::new("effect_unsupported", ErrorClass::Unsupported, "no waits");
    machine
        .record(asking.key(), &EffectOutcome::Failed(error))
        .unwrap();
    assert_eq!(
        results(&machine),
        [("a".into(), "effect_unsupported: no waits".into(), true)]
    );
}

/// A provider that uses a call id twice gets no second call approved by the first answer.
#[test]
fn t3_a_repeated_call_id_is_asked_for_again() {
    let same = call("call_0", WRITE, json!({}));
    let mut machine = asked(&[same.clone(), same.clone()]);
    let identities: Vec<_> = sources(&wait(&machine))
        .into_iter()
        .map(|source| match source {
            WaitSource::Promise { identity, .. } => identity,
            other => panic!("a promise expected, found {other:?}"),
        })
        .collect();
    assert_eq!(identities[0], approval(&same));
    assert_ne!(identities[0], identities[1]);

    for _ in 0..2 {
        let asking = wait(&machine);
        machine
            .record(asking.key(), &resolved(0, deny("no")))
            .unwrap();
    }
    assert_eq!(
        results(&machine)[1].0,
        "call_0",
        "the model sees its own id"
    );

    // The same id in the next message.
    let model = one(&machine);
    let again = [same, call("b", READ, json!({}))];
    machine
        .record(model.envelope.key(), &answer(&again))
        .unwrap();
    let read = effects(&machine);
    machine
        .record(read[0].envelope.key(), &finished("read"))
        .unwrap();
    match &sources(&wait(&machine))[0] {
        WaitSource::Promise { identity, .. } => assert!(!identities.contains(identity)),
        other => panic!("a promise expected, found {other:?}"),
    }
}

/// E3: an envelope has 4 KiB, so many approvals are asked for in several waits, and none is lost.
#[test]
fn e3_more_approvals_than_an_envelope_names_are_asked_for_in_turn() {
    let calls: Vec<ToolCall> = (0..60)
        .map(|n| call(&format!("call-{n}"), WRITE, json!({ "n": n })))
        .collect();
    let mut machine = asked(&calls);
    let asked_at_once = sources(&wait(&machine)).len();
    assert!((10..60).contains(&asked_at_once), "{asked_at_once}");
    for n in 0..60 {
        let asking = wait(&machine);
        assert_eq!(asking.key().as_str(), format!("0.await_event.{n}/after{n}"));
        machine
            .record(asking.key(), &resolved(0, deny("no")))
            .unwrap();
    }
    assert_eq!(results(&machine).len(), 60);
}
