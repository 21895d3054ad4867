//! The way of a turn from its input to its end (T1, T2).

use std::sync::Arc;

use runtime_core::{
    EffectCommand, EffectOutcome, EffectOutput, ErrorClass, FinishReason, Message, Role, WireError,
};
use runtime_turn::{Account, ContextMark, Next, TurnEnd, TurnError, TurnMachine, TurnStart, Work};
use serde_json::json;

use crate::world::{
    PROMPT, READ, answer, asked, call, catalogue, effects, end, finished, machine, one, ready,
    results, start, synced,
};

/// T2, E3: environment, model, parallel calls, model, end; each under the key of its place.
#[test]
fn t2_a_turn_with_two_parallel_calls_runs_to_its_end() {
    let mut machine = machine();
    let sync = one(&machine);
    assert_eq!(sync.work, Work::SyncEnvironment);
    machine.record(sync.envelope.key(), &synced()).unwrap();
    assert!(matches!(machine.next(), Next::Environment { .. }));
    machine.environment(PROMPT, &catalogue()).unwrap();

    let model = one(&machine);
    assert_eq!(model.envelope.key().as_str(), "0.llm_call.0");
    assert!(model.envelope.is_retry_safe(), "T3: model calls are");
    let calls = [
        call("a", READ, json!({ "n": 1 })),
        call("b", READ, json!({ "n": 2 })),
    ];
    machine
        .record(model.envelope.key(), &answer(&calls))
        .unwrap();

    let batch = effects(&machine);
    let keys = batch.iter().map(|planned| planned.envelope.key().as_str());
    assert_eq!(keys.collect::<Vec<_>>(), ["0.tool_call.0", "0.tool_call.1"]);
    assert!(batch.iter().all(|planned| planned.envelope.is_retry_safe()));
    // They end in the other order; the results stand in the order of the calls.
    machine
        .record(batch[1].envelope.key(), &finished("two"))
        .unwrap();
    assert_eq!(effects(&machine), batch[..1]);
    machine
        .record(batch[0].envelope.key(), &finished("one"))
        .unwrap();
    assert_eq!(
        results(&machine),
        [
            ("a".into(), "one".into(), false),
            ("b".into(), "two".into(), false)
        ]
    );

    let model = one(&machine);
    assert_eq!(model.envelope.key().as_str(), "1.llm_call.0");
    machine.record(model.envelope.key(), &answer(&[])).unwrap();
    let TurnEnd::Completed {
        reason,
        iterations,
        usage,
        message,
        ..
    } = end(&machine)
    else {
        panic!("it should complete");
    };
    assert_eq!((reason, iterations), (FinishReason::Stop, 2));
    assert_eq!(usage.total(), 30);
    assert_eq!(message.plain_text(), "so");
    assert_eq!(machine.messages().len(), 4);
}

/// E3: the call names its context by the chain over history and turn, and asks with both.
#[test]
fn e3_a_model_call_names_its_context_by_digest() {
    let history = vec![
        Arc::new(Message::text(Role::User, "before")),
        Arc::new(Message::text(Role::Assistant, "yes")),
    ];
    let start = TurnStart {
        history: ContextMark::of(history.iter().map(AsRef::as_ref)),
        ..start()
    };
    let mut machine = TurnMachine::new(start.clone(), history).unwrap();
    let sync = one(&machine);
    machine.record(sync.envelope.key(), &synced()).unwrap();
    machine.environment(PROMPT, &catalogue()).unwrap();
    let model = one(&machine);
    let expected = start.history.after(&start.input);
    match model.envelope.command() {
        EffectCommand::LlmCall(call) => {
            assert_eq!((call.context, call.messages), (expected.digest, 3));
        }
        other => panic!("a model call expected, found {other:?}"),
    }
    match model.work {
        Work::Model {
            messages,
            instructions,
            tools,
            ..
        } => {
            assert_eq!(messages.len(), 3);
            assert_eq!(&*instructions, "be brief");
            assert_eq!(tools.len(), 3);
        }
        other => panic!("a model call expected, found {other:?}"),
    }
}

/// T1: what the machine asks for does not depend on how often it is asked.
#[test]
fn t1_asking_twice_gives_the_same() {
    let machine = asked(&[call("a", READ, json!({}))]);
    assert_eq!(machine.next(), machine.next());
}

/// E3: a failed call is told to the model with its code; the turn goes on.
#[test]
fn e3_a_failed_call_is_told_to_the_model() {
    let mut machine = asked(&[call("a", READ, json!({}))]);
    let failed = WireError::new("tool_failed", ErrorClass::Terminal, "disk full");
    let planned = one(&machine);
    machine
        .record(planned.envelope.key(), &EffectOutcome::Failed(failed))
        .unwrap();
    assert_eq!(
        results(&machine),
        [("a".into(), "tool_failed: disk full".into(), true)]
    );
    assert_eq!(one(&machine).envelope.key().as_str(), "1.llm_call.0");
}

#[test]
fn a_failed_model_call_fails_the_turn_with_its_error() {
    let mut machine = ready(start());
    let error = WireError::new("model_refused", ErrorClass::Terminal, "no");
    let planned = one(&machine);
    machine
        .record(
            planned.envelope.key(),
            &EffectOutcome::Failed(error.clone()),
        )
        .unwrap();
    assert_eq!(
        end(&machine),
        TurnEnd::Failed {
            error,
            iterations: 0,
            usage: Default::default(),
            account: Account::default(),
        }
    );
}

/// A name that was never offered is answered as unknown: nobody decided about its approval.
#[test]
fn an_unknown_tool_is_never_looked_up() {
    let machine = asked(&[call("a", "rm", json!({}))]);
    let planned = one(&machine);
    assert_eq!(planned.work, Work::UnknownTool { name: "rm".into() });
    assert!(planned.envelope.is_retry_safe());
}

/// E3: an outcome of another kind is never used.
#[test]
fn e3_an_outcome_of_another_kind_is_refused_and_changes_nothing() {
    let mut machine = asked(&[call("a", READ, json!({}))]);
    let before = machine.next();
    let planned = one(&machine);
    let key = planned.envelope.key();
    let wrong = machine.record(key, &answer(&[]));
    assert_eq!(wrong, Err(TurnError::WrongOutcome { key: key.clone() }));
    let model_key = "0.llm_call.0".parse().unwrap();
    let early = machine.record(&model_key, &answer(&[]));
    assert_eq!(early, Err(TurnError::UnexpectedOutcome { key: model_key }));
    assert_eq!(machine.next(), before);
}

#[test]
fn t4_another_history_or_environment_is_refused() {
    let foreign = vec![Arc::new(Message::text(Role::User, "forged"))];
    assert!(matches!(
        TurnMachine::new(start(), foreign),
        Err(TurnError::HistoryMismatch { .. })
    ));
    let mut machine = machine();
    let sync = one(&machine);
    assert_eq!(
        machine.environment(PROMPT, b"[]"),
        Err(TurnError::EnvironmentUnasked)
    );
    machine.record(sync.envelope.key(), &synced()).unwrap();
    assert!(matches!(
        machine.environment(b"another prompt", &catalogue()),
        Err(TurnError::EnvironmentMismatch { .. })
    ));
    machine.environment(PROMPT, &catalogue()).unwrap();
}

#[test]
fn c2_a_turn_of_a_later_encoding_is_refused() {
    let later = TurnStart {
        encoding_version: 200,
        ..start()
    };
    assert_eq!(
        TurnMachine::new(later, Vec::new()).unwrap_err(),
        TurnError::EncodingVersion { found: 200 }
    );
}

#[test]
fn e3_a_model_without_a_usable_name_is_refused_at_once() {
    for model in [String::new(), "\u{1}".repeat(2000)] {
        let start = TurnStart { model, ..start() };
        assert!(matches!(
            TurnMachine::new(start, Vec::new()),
            Err(TurnError::Envelope(_))
        ));
    }
}

/// E3: also the first effect takes no outcome of another kind.
#[test]
fn e3_the_first_effect_takes_no_other_outcome() {
    let mut machine = machine();
    let sync = one(&machine);
    let outcome = EffectOutcome::Completed(EffectOutput::Sleep {
        due: Default::default(),
    });
    assert!(matches!(
        machine.record(sync.envelope.key(), &outcome),
        Err(TurnError::WrongOutcome { .. })
    ));
}
