//! Conversations folded from events.

use runtime_core::{
    EffectEnvelope, EffectOutcome, EventDraft, EventKind, ExecutionScope, Message, Role,
};
use runtime_turn::{
    ContextMark, Conversation, TurnEnd, TurnError, TurnMachine, TurnStart, messages_of_turn,
    project_outcome,
};
use serde_json::{Value, json};

use crate::world::{
    PROMPT, READ, WRITE, answer, asked, call, catalogue, effects, finished, one, recorded, start,
    synced,
};

pub(crate) fn started(start: &TurnStart) -> EventDraft {
    EventDraft::new(EventKind::TurnStarted)
        .in_scope(&start.scope())
        .with_payload(serde_json::to_value(start).unwrap())
}

/// The event of an outcome, with the payload that a controller gives it, as a store returns it.
pub(crate) fn told(envelope: &EffectEnvelope, outcome: &EffectOutcome) -> EventDraft {
    let (carrier, _) = project_outcome(envelope, outcome);
    let payload = json!({ "identity": envelope.identity(), "outcome": outcome });
    EventDraft::from_bytes(&carrier.with_payload(payload).to_bytes()).unwrap()
}

fn input(role: Role, text: &str) -> EventDraft {
    let message: Value = serde_json::to_value(Message::text(role, text)).unwrap();
    EventDraft::new(EventKind::InputAccepted)
        .in_session("desk".parse().unwrap())
        .with_payload(json!({ "message": message }))
}

fn cancelled(scope: &ExecutionScope) -> EventDraft {
    let reason = "changed my mind".to_owned();
    TurnEnd::Cancelled { reason }.to_event(scope)
}

/// A turn of one answer, as events.
fn short_turn(conversation: &mut Conversation, turn: &str) -> TurnMachine {
    let start = TurnStart {
        turn: turn.parse().unwrap(),
        history: conversation.mark(),
        ..start()
    };
    let history = conversation.history().to_vec();
    let mut machine = TurnMachine::new(start.clone(), history).unwrap();
    conversation.apply(&started(&start)).unwrap();
    for outcome in [synced(), answer(&[])] {
        let planned = one(&machine);
        machine.record(planned.envelope.key(), &outcome).unwrap();
        conversation
            .apply(&told(&planned.envelope, &outcome))
            .unwrap();
        if planned.envelope.key().as_str().starts_with("0.sync") {
            machine.environment(PROMPT, &catalogue()).unwrap();
        }
    }
    machine
}

/// T4: the history that events give is the one that the machine had.
#[test]
fn t4_turns_follow_each_other_with_the_digest_of_the_machine() {
    let mut conversation = Conversation::new();
    for turn in ["1", "2", "3"] {
        conversation.apply(&input(Role::User, "hello")).unwrap();
        let machine = short_turn(&mut conversation, turn);
        assert!(conversation.open_turn().is_some());
        let end = TurnEnd::Cancelled { reason: "x".into() };
        conversation.apply(&end.to_event(machine.scope())).unwrap();
        assert_eq!(conversation.mark(), machine.mark());
    }
    assert_eq!(conversation.history().len(), 6);
    let all = conversation.history().iter().map(AsRef::as_ref);
    assert_eq!(ContextMark::of(all), conversation.mark());
}

/// W1: a System input joins before the next turn, never in the middle of one.
#[test]
fn w1_a_system_input_joins_before_the_next_turn() {
    let mut conversation = Conversation::new();
    conversation.apply(&input(Role::System, "first")).unwrap();
    let machine = short_turn(&mut conversation, "1");
    conversation.apply(&input(Role::System, "second")).unwrap();
    assert_eq!(conversation.history().len(), 1);
    let end = TurnEnd::Cancelled { reason: "x".into() };
    conversation.apply(&end.to_event(machine.scope())).unwrap();
    let texts: Vec<_> = conversation
        .history()
        .iter()
        .map(|message| message.plain_text())
        .collect();
    assert_eq!(texts, ["first", "hello", "so", "second"]);
}

/// A round that was cut off is closed: what ran in it stays told, what did not says so.
#[test]
fn t2_a_cancelled_turn_keeps_what_ran() {
    let calls = [call("a", READ, json!({})), call("b", WRITE, json!({}))];
    let mut machine = asked(&calls);
    let read = effects(&machine);
    let outcome = finished("read");
    machine.record(read[0].envelope.key(), &outcome).unwrap();

    let start = start();
    let mut conversation = Conversation::new();
    conversation.apply(&started(&start)).unwrap();
    let fresh = crate::world::machine();
    let mut effects = vec![recorded(&one(&fresh).envelope, &synced())];
    let model = one(&crate::world::ready(start.clone())).envelope;
    effects.push(recorded(&model, &answer(&calls)));
    effects.push(recorded(&read[0].envelope, &outcome));
    let envelopes = [one(&fresh).envelope, model, read[0].envelope.clone()];
    for (envelope, effect) in envelopes.iter().zip(&effects) {
        conversation
            .apply(&told(envelope, &effect.outcome))
            .unwrap();
    }
    conversation.apply(&cancelled(machine.scope())).unwrap();

    let messages = messages_of_turn(&start, effects).unwrap();
    assert_eq!(conversation.history(), messages);
    assert_eq!(messages.len(), 3);
    let text = serde_json::to_string(&messages[2]).unwrap();
    assert!(text.contains("read") && text.contains("the turn ended first"));
}

/// V1: an event that does not follow is a typed error, and the conversation stays usable.
#[test]
fn an_event_out_of_place_is_refused() {
    let mut conversation = Conversation::new();
    let machine = crate::world::machine();
    let outcome = told(&one(&machine).envelope, &synced());
    assert!(matches!(
        conversation.apply(&outcome),
        Err(TurnError::NoOpenTurn { .. })
    ));
    let damaged = started(&start()).with_payload(json!({ "session": 3 }));
    assert!(matches!(
        conversation.apply(&damaged),
        Err(TurnError::EventUndecodable { .. })
    ));
    conversation.apply(&started(&start())).unwrap();
    assert!(matches!(
        conversation.apply(&started(&start())),
        Err(TurnError::HistoryMismatch { .. })
    ));
    conversation.apply(&outcome).unwrap();
}

/// A turn that was cancelled in the queue has never started: it leaves nothing, and ends no other.
#[test]
fn a_turn_that_never_started_leaves_nothing() {
    let mut conversation = Conversation::new();
    let queued = TurnStart {
        turn: "2".parse().unwrap(),
        ..start()
    };
    conversation.apply(&cancelled(&queued.scope())).unwrap();
    conversation.apply(&started(&start())).unwrap();
    conversation.apply(&cancelled(&queued.scope())).unwrap();
    assert_eq!(conversation.open_turn(), Some(&start()));
    assert_eq!(conversation.mark(), ContextMark::empty());
}
