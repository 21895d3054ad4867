//! Inputs: accepted durably, once, in order.

use runtime_core::{Classified, EventKind, TurnId};
use runtime_testkit::{Fault, FaultStore};
use runtime_workers::view;
use runtime_workers::{Runtime, TurnStatus};

use super::{Desk, GATED, GOLDEN, PLAIN, Place, approve_all, count, desk, ends, events};

pub(crate) async fn w3_an_accepted_input_is_durable_before_anything_runs(place: &dyn Place) {
    let world = Desk::new();
    let store = FaultStore::new(place.open().await);
    let runtime = Runtime::open(world.parts(store.clone())).await.unwrap();
    let worker = runtime.worker("desk").await.unwrap();
    store.fault_at(store.commits() + 1, Fault::CrashAfter);
    let lost = worker.send(PLAIN).await.unwrap_err();
    assert_eq!(lost.code(), "commit_indeterminate");
    runtime.settled().await;
    assert_eq!(world.model_calls(), 0);
    let _ = runtime.close().await;
    drop((worker, runtime, store));

    let runtime = world.open(place).await;
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(count(&events, &EventKind::InputAccepted), 1);
    assert_eq!(ends(&events).len(), 1);
    assert_eq!(world.model_calls(), 1);
    runtime.close().await.unwrap();
}

pub(crate) async fn w3_accepting_and_starting_are_one_commit(place: &dyn Place) {
    let world = Desk::new();
    let store = FaultStore::new(place.open().await);
    let runtime = Runtime::open(world.parts(store.clone())).await.unwrap();
    let worker = runtime.worker("desk").await.unwrap();
    let before = store.commits();
    worker.ask(PLAIN).await.unwrap();
    let accepting = &store.record()[before].commit;
    let kinds = accepting.events.iter().map(|event| {
        runtime_core::EventDraft::from_bytes(&event.body)
            .unwrap()
            .kind
    });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, [EventKind::InputAccepted, EventKind::TurnStarted]);
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_a_submission_is_accepted_once(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let id = || "mine".parse().unwrap();
    let first = runtime.submit(&desk(), id(), PLAIN).await.unwrap();
    let again = runtime.submit(&desk(), id(), PLAIN).await.unwrap();
    assert!(!first.repeated && again.repeated);
    assert_eq!((&first.turn, first.event), (&again.turn, again.event));
    let other = runtime.submit(&desk(), id(), "other").await.unwrap_err();
    assert_eq!(other.code(), "submission_conflict");
    runtime.settled().await;
    // The same after the turn has ended, and in the next process (E16).
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let again = runtime.submit(&desk(), id(), PLAIN).await.unwrap();
    assert_eq!((&first.turn, first.event), (&again.turn, again.event));
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(count(&events, &EventKind::InputAccepted), 1);
    assert_eq!(ends(&events).len(), 1);
    runtime.close().await.unwrap();
}

/// The turns in the order of acceptance; fails when two overlap or one goes before its turn.
async fn in_order(runtime: &Runtime) -> Vec<TurnId> {
    let events = events(runtime.store()).await;
    let accepted = events
        .iter()
        .filter(|event| *event.kind() == EventKind::InputAccepted)
        .map(|event| {
            let turn = event.draft.payload["turn"].as_str().unwrap();
            turn.parse().unwrap()
        });
    let accepted: Vec<TurnId> = accepted.collect();
    let mut steps = Vec::new();
    for event in &events {
        let turn = || event.draft.turn.clone().unwrap();
        if *event.kind() == EventKind::TurnStarted {
            steps.push((turn(), "starts"));
        } else if event.kind().ends_turn() {
            steps.push((turn(), "ends"));
        }
    }
    let expected = accepted
        .iter()
        .flat_map(|turn| [(turn.clone(), "starts"), (turn.clone(), "ends")]);
    assert_eq!(steps, expected.collect::<Vec<_>>());
    accepted
}

pub(crate) async fn w6_inputs_of_a_busy_worker_run_in_order_one_at_a_time(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    for number in 0..5 {
        let text = format!("{PLAIN} {number}");
        runtime.send(&desk(), &text).await.unwrap();
    }
    let worker = desk();
    let turns = view::unfinished_turns(runtime.store(), Some(&worker));
    let queued = turns.await.unwrap();
    assert_eq!(queued.len(), 6);
    assert!(
        queued[1..]
            .iter()
            .all(|turn| turn.status == TurnStatus::Queued)
    );
    world.gate.pass(1);
    runtime.settled().await;
    assert_eq!(in_order(&runtime).await.len(), 6);
    runtime.close().await.unwrap();
}

/// Turns beyond what an instance drives at once wait until there is room; one that is parked takes
/// none.
pub(crate) async fn w6_turns_beyond_the_limit_wait(place: &dyn Place) {
    let world = Desk::new();
    let mut parts = world.parts(place.open().await);
    parts.config.turns_max = 2;
    let runtime = Runtime::open(parts).await.unwrap();
    let mut workers = Vec::new();
    for number in 0..5 {
        workers.push(runtime.worker(&format!("desk-{number}")).await.unwrap());
    }
    let started = async || {
        let events = events(runtime.store()).await;
        let started = events
            .iter()
            .filter(|event| *event.kind() == EventKind::TurnStarted);
        let who = started.map(|event| event.draft.session.clone().unwrap().to_string());
        who.collect::<Vec<_>>()
    };
    // The first parks and holds nobody up.
    workers[0].send(GOLDEN).await.unwrap();
    runtime.settled().await;
    for worker in &workers[1..3] {
        worker.send(GATED).await.unwrap();
        world.gate.entered().await;
    }
    for worker in &workers[3..] {
        worker.send(GATED).await.unwrap();
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(started().await, ["desk-0", "desk-1", "desk-2"]);
    for number in 4..6 {
        world.gate.pass(1);
        world.gate.entered().await;
        assert_eq!(started().await.len(), number);
    }
    // Answered, the first waits for its turn as well.
    approve_all(&runtime).await;
    assert_eq!(world.ledger().len(), 0);
    world.gate.pass(2);
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    assert_eq!(ends(&events(runtime.store()).await).len(), 5);
    runtime.close().await.unwrap();
}

pub(crate) async fn w6_inputs_of_a_parked_worker_run_in_order(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    for number in 0..3 {
        let text = format!("{PLAIN} {number}");
        runtime.send(&desk(), &text).await.unwrap();
    }
    runtime.settled().await;
    let before = events(runtime.store()).await;
    assert_eq!(ends(&before), []);
    // An input that must wait its turn is no reason to look at what the parked turn waits for.
    assert_eq!(count(&before, &EventKind::TurnResumed), 0);
    approve_all(&runtime).await;
    runtime.settled().await;
    assert_eq!(in_order(&runtime).await.len(), 4);
    runtime.close().await.unwrap();
}

pub(crate) async fn w4_what_is_blank_or_too_long_is_refused_before_anything_is_written(
    place: &dyn Place,
) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let before = events(runtime.store()).await.len();
    let refused = async |text: &str| runtime.send(&desk(), text).await.unwrap_err().code();
    assert_eq!(refused(" \n").await, "text_blank");
    assert_eq!(refused(&"x".repeat(101)).await, "text_too_long");
    let nobody = runtime.send(&"nobody".parse().unwrap(), PLAIN).await;
    assert_eq!(nobody.unwrap_err().code(), "worker_unknown");
    assert_eq!(events(runtime.store()).await.len(), before);
    runtime.close().await.unwrap();
}
