//! Any sequence of outcomes: no panic, same effects for same inputs, every prefix replays (T1).

use std::time::Duration;

use proptest::prelude::*;
use runtime_core::{
    Continuation, EffectCommand, EffectEnvelope, EffectOutcome, EffectOutput, ErrorClass,
    JoinedMessage, Message, OnTimeout, PendingCall, ReplayKey, Reserve, Resolution, Role,
    Timestamp, ToolCall, ToolCallOutput, Usage, WaitOutput, WaitSource, WireError,
};
use runtime_turn::{
    ApprovalDecision, Compacted, CompactionPolicy, Conversation, ModelPrice, Next, Planned,
    RecordedEffect, TurnBudgets, TurnMachine, TurnStart, Work, messages_of_turn,
};
use serde_json::json;

use crate::transcript::{started, told};
use crate::world::{
    PROMPT, READ, RULED, WRITE, answer, call, catalogue, finished, recorded, resolved, start,
    synced,
};

/// Decisions, drawn in advance; after the last one everything ends well.
struct Draw<'a>(std::slice::Iter<'a, u8>);

impl Draw<'_> {
    fn next(&mut self, of: u8) -> u8 {
        self.0.next().map_or(0, |byte| byte % of)
    }
}

fn failed() -> EffectOutcome {
    EffectOutcome::Failed(WireError::new("broken", ErrorClass::Terminal, "it broke"))
}

fn calls(draw: &mut Draw<'_>) -> Vec<ToolCall> {
    let count = draw.next(5);
    let mut calls = Vec::new();
    for _ in 0..count {
        let id = ["a", "b", "c"][usize::from(draw.next(3))];
        let name = [READ, WRITE, RULED, "unknown", ""][usize::from(draw.next(5))];
        calls.push(call(id, name, json!({ "n": draw.next(4) })));
    }
    calls
}

fn time(draw: &mut Draw<'_>) -> Option<Timestamp> {
    match draw.next(4) {
        0 => None,
        n => Some(Timestamp::from_millis(n.into())),
    }
}

fn pending(draw: &mut Draw<'_>) -> PendingCall {
    PendingCall {
        deadline: time(draw),
        on_timeout: match draw.next(8) {
            7 => OnTimeout::FailTurn,
            _ => OnTimeout::ErrorResult,
        },
        handle: Some(json!({ "job": draw.next(3) })),
        reports: draw.next(2) == 1,
        reserve: Reserve {
            tokens: Some(draw.next(50).into()),
            cost: None,
        },
        ..PendingCall::default()
    }
}

/// A turn with any of what a turn can be told at its start.
fn drawn_start(draw: &mut Draw<'_>) -> TurnStart {
    let mut start = start().with_budgets(TurnBudgets {
        iterations_max: [32, 3][usize::from(draw.next(2))],
        tokens_max: [None, Some(90)][usize::from(draw.next(2))],
        cost_max: [None, Some(1_000)][usize::from(draw.next(2))],
        running_max: [None, Some(Duration::from_millis(40))][usize::from(draw.next(2))],
        approval_expiry: [None, Some(Duration::from_millis(2))][usize::from(draw.next(2))],
        ..TurnBudgets::default()
    });
    for model in ["second", "third"].iter().take(draw.next(3).into()) {
        start.fallbacks.push((*model).to_owned());
    }
    let price = ModelPrice {
        input: 5_000_000,
        output: 15_000_000,
        cached_input: 0,
    };
    for model in ["scripted", "second", "third"] {
        start.prices.insert(model.to_owned(), price);
    }
    if draw.next(2) == 1 {
        start.compaction = Some(CompactionPolicy {
            context_tokens_max: 14,
            messages_kept: draw.next(4).into(),
        });
    }
    if draw.next(4) == 3 {
        start.output_schema = Some(json!({ "type": "object", "required": ["n"] }));
    }
    start.inputs_join = draw.next(2) == 1;
    start
}

fn summary(planned: &Planned, draw: &mut Draw<'_>) -> EffectOutcome {
    let Work::Compact { covered, .. } = planned.work else {
        panic!("a summary is asked for");
    };
    let compacted = Compacted {
        covered,
        summary: Message::text(Role::User, format!("summary {}", draw.next(3))).into(),
        usage: Usage::default(),
        model: None,
    };
    EffectOutcome::Completed(EffectOutput::DurableStep {
        value: json!(compacted),
    })
}

fn joined(draw: &mut Draw<'_>) -> EffectOutcome {
    let inputs = (0..draw.next(3)).map(|n| JoinedMessage {
        message: Message::text(Role::User, format!("and {n}")),
        turn: Some(format!("joined-{n}").parse().unwrap()),
    });
    EffectOutcome::Completed(EffectOutput::TurnCheckpoint {
        joined: inputs.collect(),
    })
}

/// The answers of a model: also one that is too long for it.
fn said(draw: &mut Draw<'_>) -> EffectOutcome {
    match draw.next(14) {
        12 => {
            let error = WireError::new("model_context", ErrorClass::Invalid, "too long");
            EffectOutcome::Failed(WireError {
                details: Some(json!({ "reason": "context_overflow" })),
                ..error
            })
        }
        13 => failed(),
        _ => match answer(&calls(draw)) {
            EffectOutcome::Completed(EffectOutput::LlmCall(mut response)) => {
                response.ended = Some(Timestamp::from_millis(draw.next(3).into()));
                response.running_ms = draw.next(20).into();
                EffectOutcome::Completed(EffectOutput::LlmCall(response))
            }
            other => other,
        },
    }
}

fn resolution(draw: &mut Draw<'_>) -> Resolution {
    match draw.next(7) {
        0 => ApprovalDecision::Approve.to_resolution(),
        1 => ApprovalDecision::Deny { reason: None }.to_resolution(),
        2 => {
            let arguments = json!({ "edited": draw.next(3) });
            ApprovalDecision::Edit { arguments }.to_resolution()
        }
        3 => Resolution::Ok { value: json!([1]) },
        4 => Resolution::Timeout,
        5 => Resolution::Cancelled,
        _ => Resolution::Err {
            code: "e".into(),
            message: "m".into(),
            raw: None,
        },
    }
}

fn wait_outcome(sources: &[WaitSource], draw: &mut Draw<'_>) -> EffectOutcome {
    if draw.next(9) == 8 {
        return failed();
    }
    let at = usize::from(draw.next(u8::try_from(sources.len()).unwrap()));
    let source = u32::try_from(at).unwrap();
    match &sources[at] {
        WaitSource::Until { due } => {
            EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Elapsed {
                source,
                due: *due,
            }))
        }
        _ => resolved(source, resolution(draw)),
    }
}

/// An outcome that fits the effect.
fn fitting(planned: &Planned, draw: &mut Draw<'_>) -> EffectOutcome {
    match planned.envelope.command() {
        EffectCommand::SyncExecutionEnvironment { .. } => synced(),
        EffectCommand::LlmCall(_) => said(draw),
        EffectCommand::DurableStep { .. } if draw.next(6) == 5 => failed(),
        EffectCommand::DurableStep { .. } => summary(planned, draw),
        EffectCommand::TurnCheckpoint => joined(draw),
        EffectCommand::AwaitEvent { sources } => wait_outcome(sources, draw),
        _ => match draw.next(5) {
            0 | 1 => finished("done"),
            2 => failed(),
            3 => EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Parked {
                deadline: time(draw),
                continuation: Continuation {
                    question: Some("how many?".to_owned()),
                    state: json!({ "asked": draw.next(3) }),
                    retry_safe: draw.next(2) == 1,
                },
            })),
            _ => EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(
                pending(draw),
            ))),
        },
    }
}

fn open(machine: &TurnMachine) -> Vec<Planned> {
    match machine.next() {
        Next::Effects(planned) => planned,
        // What it takes to wait is in the envelope.
        Next::Wait(envelope) => vec![Planned {
            envelope,
            work: Work::SyncEnvironment,
        }],
        Next::Environment { .. } | Next::End(_) => Vec::new(),
    }
}

fn give_environment(machine: &mut TurnMachine) {
    if matches!(machine.next(), Next::Environment { .. }) {
        machine.environment(PROMPT, &catalogue()).unwrap();
    }
}

/// Runs a turn to its end, effects of a batch in any order.
fn run(
    start: &TurnStart,
    draw: &mut Draw<'_>,
) -> (TurnMachine, Vec<(EffectEnvelope, EffectOutcome)>) {
    let mut machine = machine_of(start);
    let mut record = Vec::new();
    loop {
        give_environment(&mut machine);
        let mut open = open(&machine);
        if open.is_empty() {
            return (machine, record);
        }
        let at = usize::from(draw.next(u8::try_from(open.len()).unwrap()));
        let planned = open.swap_remove(at);
        let outcome = fitting(&planned, draw);
        machine.record(planned.envelope.key(), &outcome).unwrap();
        record.push((planned.envelope, outcome));
    }
}

fn machine_of(start: &TurnStart) -> TurnMachine {
    TurnMachine::new(start.clone(), Vec::new()).unwrap()
}

fn any_outcome(draw: &mut Draw<'_>) -> EffectOutcome {
    match draw.next(9) {
        7 => joined(draw),
        8 => EffectOutcome::Completed(EffectOutput::DurableStep {
            value: json!({
                "covered": draw.next(6),
                "summary": Message::text(Role::User, "short"),
            }),
        }),
        0 => synced(),
        1 => said(draw),
        2 => finished("x"),
        3 => failed(),
        4 => resolved(draw.next(4).into(), resolution(draw)),
        5 => EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Elapsed {
            source: draw.next(3).into(),
            due: Timestamp::from_millis(draw.next(5).into()),
        })),
        _ => EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(pending(
            draw,
        )))),
    }
}

proptest! {
    // Replaying every prefix is quadratic: fewer cases than the default.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// T1, T4: after any prefix of the record a new machine asks for the same as the old one did.
    #[test]
    fn t1_every_prefix_replays_to_the_same_next_effects(draws in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut draw = Draw(draws.iter());
        let start = drawn_start(&mut draw);
        let (_, record) = run(&start, &mut draw);
        let mut live = machine_of(&start);
        for (done, (envelope, outcome)) in record.iter().enumerate() {
            give_environment(&mut live);
            let mut replayed = machine_of(&start);
            for (envelope, outcome) in &record[..done] {
                give_environment(&mut replayed);
                replayed.record(envelope.key(), outcome).unwrap();
            }
            give_environment(&mut replayed);
            prop_assert_eq!(replayed.next(), live.next());
            live.record(envelope.key(), outcome).unwrap();
        }
        prop_assert!(matches!(live.next(), Next::End(_)));
    }
}

proptest! {
    /// The conversation read from events is the one that the machine had, digest and all; no key
    /// is used twice.
    #[test]
    fn t4_events_fold_to_the_messages_of_the_machine(draws in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut draw = Draw(draws.iter());
        let start = drawn_start(&mut draw);
        let (machine, record) = run(&start, &mut draw);
        let Next::End(end) = machine.next() else { panic!("the turn has ended") };
        let mut conversation = Conversation::new();
        conversation.apply(&started(&start)).unwrap();
        let mut keys = std::collections::BTreeSet::new();
        for (envelope, outcome) in &record {
            prop_assert!(keys.insert(envelope.key().clone()), "{} twice", envelope.key());
            conversation.apply(&told(envelope, outcome)).unwrap();
        }
        conversation.apply(&end.to_event(machine.scope())).unwrap();
        prop_assert_eq!(conversation.history(), machine.messages());
        prop_assert_eq!(conversation.mark(), machine.mark());
        let effects: Vec<RecordedEffect> =
            record.iter().map(|(envelope, outcome)| recorded(envelope, outcome)).collect();
        prop_assert_eq!(messages_of_turn(&start, effects).unwrap(), machine.messages());
    }

    /// Whatever is recorded under whatever key: an error or a step, never a panic, and an error
    /// changes nothing.
    #[test]
    fn t1_no_sequence_of_outcomes_panics(draws in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut draw = Draw(draws.iter());
        let start = drawn_start(&mut draw);
        let mut machine = machine_of(&start);
        while draw.0.len() > 0 {
            give_environment(&mut machine);
            let open = open(&machine);
            let foreign: ReplayKey = ["0.llm_call.0", "0.tool_call.7", "0.await_event.0/after9", "x"]
                [usize::from(draw.next(4))].parse().unwrap();
            let key = open.first().map_or(foreign.clone(), |one| one.envelope.key().clone());
            let key = if draw.next(3) == 2 { foreign } else { key };
            let outcome = any_outcome(&mut draw);
            let before = machine.next();
            if machine.record(&key, &outcome).is_err() {
                prop_assert_eq!(machine.next(), before);
            }
        }
    }
}
