//! Any sequence of outcomes: no panic, same effects for same inputs, every prefix replays (T1).

use proptest::prelude::*;
use runtime_core::{
    EffectCommand, EffectEnvelope, EffectOutcome, EffectOutput, ErrorClass, ReplayKey, Resolution,
    Timestamp, ToolCall, ToolCallOutput, WaitOutput, WaitSource, WireError,
};
use runtime_turn::{
    ApprovalDecision, Conversation, Next, RecordedEffect, TurnMachine, messages_of_turn,
};
use serde_json::json;

use crate::transcript::{started, told};
use crate::world::{
    PROMPT, READ, WRITE, answer, call, catalogue, finished, machine, recorded, resolved, start,
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
        let name = [READ, WRITE, "unknown", ""][usize::from(draw.next(4))];
        calls.push(call(id, name, json!({ "n": draw.next(4) })));
    }
    calls
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

/// An outcome that fits the envelope.
fn fitting(envelope: &EffectEnvelope, draw: &mut Draw<'_>) -> EffectOutcome {
    match envelope.command() {
        EffectCommand::SyncExecutionEnvironment { .. } => synced(),
        EffectCommand::LlmCall(_) if draw.next(12) == 11 => failed(),
        EffectCommand::LlmCall(_) => answer(&calls(draw)),
        EffectCommand::AwaitEvent { sources } => wait_outcome(sources, draw),
        _ => match draw.next(4) {
            0 | 1 => finished("done"),
            2 => failed(),
            _ => EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending {
                deadline: match draw.next(4) {
                    0 => None,
                    n => Some(Timestamp::from_millis(n.into())),
                },
            })),
        },
    }
}

fn open(machine: &TurnMachine) -> Vec<EffectEnvelope> {
    match machine.next() {
        Next::Effects(planned) => planned.into_iter().map(|one| one.envelope).collect(),
        Next::Wait(envelope) => vec![envelope],
        Next::Environment { .. } | Next::End(_) => Vec::new(),
    }
}

fn give_environment(machine: &mut TurnMachine) {
    if matches!(machine.next(), Next::Environment { .. }) {
        machine.environment(PROMPT, &catalogue()).unwrap();
    }
}

/// Runs a turn to its end, effects of a batch in any order.
fn run(draw: &mut Draw<'_>) -> (TurnMachine, Vec<(EffectEnvelope, EffectOutcome)>) {
    let mut machine = machine();
    let mut record = Vec::new();
    loop {
        give_environment(&mut machine);
        let mut open = open(&machine);
        if open.is_empty() {
            return (machine, record);
        }
        let at = usize::from(draw.next(u8::try_from(open.len()).unwrap()));
        let envelope = open.swap_remove(at);
        let outcome = fitting(&envelope, draw);
        machine.record(envelope.key(), &outcome).unwrap();
        record.push((envelope, outcome));
    }
}

fn any_outcome(draw: &mut Draw<'_>) -> EffectOutcome {
    match draw.next(7) {
        0 => synced(),
        1 => answer(&calls(draw)),
        2 => finished("x"),
        3 => failed(),
        4 => resolved(draw.next(4).into(), resolution(draw)),
        5 => EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Elapsed {
            source: draw.next(3).into(),
            due: Timestamp::from_millis(draw.next(5).into()),
        })),
        _ => EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending {
            deadline: None,
        })),
    }
}

proptest! {
    // Replaying every prefix is quadratic: fewer cases than the default.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// T1, T4: after any prefix of the record a new machine asks for the same as the old one did.
    #[test]
    fn t1_every_prefix_replays_to_the_same_next_effects(draws in prop::collection::vec(any::<u8>(), 0..400)) {
        let (_, record) = run(&mut Draw(draws.iter()));
        let mut live = machine();
        for (done, (envelope, outcome)) in record.iter().enumerate() {
            give_environment(&mut live);
            let mut replayed = machine();
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
        let (machine, record) = run(&mut Draw(draws.iter()));
        let Next::End(end) = machine.next() else { panic!("the turn has ended") };
        let mut conversation = Conversation::new();
        conversation.apply(&started(&start())).unwrap();
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
        prop_assert_eq!(messages_of_turn(&start(), effects).unwrap(), machine.messages());
    }

    /// Whatever is recorded under whatever key: an error or a step, never a panic, and an error
    /// changes nothing.
    #[test]
    fn t1_no_sequence_of_outcomes_panics(draws in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut draw = Draw(draws.iter());
        let mut machine = machine();
        while draw.0.len() > 0 {
            give_environment(&mut machine);
            let open = open(&machine);
            let foreign: ReplayKey = ["0.llm_call.0", "0.tool_call.7", "0.await_event.0/after9", "x"]
                [usize::from(draw.next(4))].parse().unwrap();
            let key = open.first().map_or(foreign.clone(), |envelope| envelope.key().clone());
            let key = if draw.next(3) == 2 { foreign } else { key };
            let outcome = any_outcome(&mut draw);
            let before = machine.next();
            if machine.record(&key, &outcome).is_err() {
                prop_assert_eq!(machine.next(), before);
            }
        }
    }
}
