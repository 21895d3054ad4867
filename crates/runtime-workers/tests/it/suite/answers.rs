//! Answers to what waits: tokens, rulings.

use std::sync::Arc;

use futures_util::StreamExt;
use runtime_core::EventKind;
use runtime_effects::PendingKind;
use runtime_events::StreamItem;
use runtime_turn::ApprovalDecision;
use runtime_workers::{Command, CommandAnswer, InDoubtRuling};
use serde_json::json;

use super::{Desk, GOLDEN, Place, approve_all, count, desk, ends, events, pending, session};

pub(crate) async fn t3_a_parked_turn_goes_on_when_its_token_is_resolved_elsewhere(
    place: &dyn Place,
) {
    let world = Desk::new();
    let store = place.open().await;
    let runtime = runtime_workers::Runtime::open(world.parts(Arc::clone(&store)));
    let runtime = runtime.await.unwrap();
    let worker = runtime.worker("desk").await.unwrap();
    let parked = worker.ask(GOLDEN).await.unwrap_err();
    assert!(matches!(
        parked,
        runtime_workers::RuntimeError::TurnParked { .. }
    ));
    // Another handle reads the same store and finds the token.
    let waiting = pending(&store).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].kind, PendingKind::Approval);
    // M10: whoever approves sees the tool as the model saw it.
    let definition = waiting[0].definition.as_ref().unwrap();
    assert_eq!(Some(&definition.name), waiting[0].tool.as_ref());
    let command = Command::Decide {
        target: waiting[0].token.clone().unwrap(),
        decision: ApprovalDecision::Approve,
    };
    let second = runtime.clone();
    assert_eq!(
        second.apply(command.clone()).await.unwrap(),
        CommandAnswer::Done
    );
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    // Answered again, it is refused: the turn is over, and its promise with it.
    assert!(second.apply(command).await.is_err());
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCompleted);
    runtime.close().await.unwrap();
}

pub(crate) async fn e14_an_answer_that_comes_while_a_turn_parks_is_not_lost(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    for _ in 0..20 {
        let from = runtime.cursor_now().await.unwrap();
        let receipt = runtime.send(&desk(), GOLDEN).await.unwrap();
        let mut stream = runtime.subscribe(session(), Some(from));
        // Answers as soon as the question is stored, while the turn is still being parked.
        while let Some(item) = stream.next().await {
            let StreamItem::Event(event) = item.unwrap() else {
                continue;
            };
            match event.kind() {
                EventKind::ApprovalRequested => approve_all(&runtime).await,
                kind if kind.ends_turn() => {
                    assert_eq!(event.draft.turn.as_ref(), Some(&receipt.turn));
                    break;
                }
                _ => {}
            }
        }
    }
    assert_eq!(world.ledger().len(), 20);
    runtime.close().await.unwrap();
}

pub(crate) async fn e7_an_effect_in_doubt_parks_and_goes_on_when_ruled(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    *world.panics.lock().unwrap() = true;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    approve_all(&runtime).await;
    runtime.settled().await;
    let waiting = runtime.pending().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].kind, PendingKind::InDoubt);
    assert_eq!(world.ledger().len(), 1);
    // Neither time, nor a new process, nor somebody who asks runs it again.
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.insist(&desk());
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    let command = Command::RuleInDoubt {
        call: waiting[0].call.as_ref().unwrap().to_string(),
        ruling: InDoubtRuling::Done {
            value: json!("appended, says a person"),
        },
    };
    assert_eq!(runtime.apply(command).await.unwrap(), CommandAnswer::Done);
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCompleted);
    assert_eq!(count(&events, &EventKind::EffectInDoubt), 1);
    runtime.close().await.unwrap();
}
