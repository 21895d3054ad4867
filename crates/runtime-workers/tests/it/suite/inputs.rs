//! Inputs: accepted durably, once, in order.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, Clock as _, CommitId, EventId, EventKind, Random as _, TurnId};
use runtime_store::{Commit, CommitError, Found, NewEvent, Page, RowQuery, Store, SystemRandom};
use runtime_testkit::{Fault, FaultStore};
use runtime_workers::view;
use runtime_workers::{Runtime, RuntimeParts, TurnStatus};

use super::{
    Desk, GATED, GOLDEN, PLAIN, Place, approve_all, count, desk, ends, events, running_most,
};

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

/// E16, V5: the id of a turn that has ended is not free again: its stream has had its last event.
pub(crate) async fn e16_a_turn_that_has_ended_is_not_begun_again(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.ask(PLAIN).await.unwrap();
    let told = events(runtime.store()).await;
    let started = told
        .iter()
        .find(|event| *event.kind() == EventKind::TurnStarted);
    let draft = &started.unwrap().draft;
    let (now, random) = (world.clock.now(), SystemRandom);
    let again = Commit::new(CommitId::generate(now, random.ten()), now).event(
        NewEvent::from_draft(EventId::generate(now, random.ten()), draft),
    );
    let refused = runtime.store().commit(again).await.unwrap_err();
    let CommitError::Rejected { found, .. } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(found, Found::Closed);
    assert_eq!(events(runtime.store()).await, told);
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
    two_run_at_once(&world, parts).await;
}

/// The limit of the whole runtime counts the same; no place is left taken.
pub(crate) async fn w6_turns_beyond_the_limit_of_the_runtime_wait(place: &dyn Place) {
    let world = Desk::new();
    let runtime = two_run_at_once(&world, limited(&world, place.open().await, 2)).await;
    assert_eq!(places(runtime.store()).await, 0);
}

fn limited(world: &Desk, store: Arc<dyn Store>, turns: u32) -> RuntimeParts {
    let mut parts = world.parts(store);
    let limits = parts.limits.get_or_insert_default();
    limits.turns_running_max = Some(turns);
    parts
}

async fn places(store: &dyn Store) -> usize {
    let places = store.rows(RowQuery::space("place"), Page::after(None, 100));
    places.await.unwrap().rows.len()
}

/// W6: a turn has its place again after a crash, and has none while its worker is stopped.
pub(crate) async fn w6_a_place_is_neither_lost_nor_given_twice(place: &dyn Place) {
    let world = Desk::new();
    let store = FaultStore::new(place.open().await);
    let mut parts = limited(&world, Arc::clone(&store) as _, 1);
    parts.config.drain_timeout = Duration::ZERO;
    let runtime = Runtime::open(parts).await.unwrap();
    for name in ["one", "two"] {
        runtime
            .worker(name)
            .await
            .unwrap()
            .send(GATED)
            .await
            .unwrap();
    }
    world.gate.entered().await;
    assert_eq!(places(runtime.store()).await, 1);
    store.crash();
    let _ = runtime.close().await;
    drop((runtime, store));

    // The next process has the limit from the store.
    let mut parts = world.parts(place.open().await);
    parts.limits = None;
    let runtime = Runtime::open(parts).await.unwrap();
    world.gate.entered().await;
    assert_eq!(places(runtime.store()).await, 1);
    let one = runtime.worker("one").await.unwrap();
    one.stop(None).await.unwrap();
    // The call ends, and nothing of the first worker's turn begins after it: the second has room.
    world.gate.pass(1);
    world.gate.entered().await;
    one.resume().await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let so_far = events(runtime.store()).await;
    assert_eq!(ends(&so_far), []);
    assert_eq!(places(runtime.store()).await, 1);
    world.gate.pass(4);
    runtime.settled().await;
    let told = events(runtime.store()).await;
    assert_eq!(ends(&told).len(), 2);
    assert_eq!(
        running_most(&told),
        2,
        "a stopped turn has begun and runs not"
    );
    assert_eq!(places(runtime.store()).await, 0);
    runtime.close().await.unwrap();
}

async fn two_run_at_once(world: &Desk, parts: RuntimeParts) -> Runtime {
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
    let told = events(runtime.store()).await;
    assert_eq!((ends(&told).len(), running_most(&told)), (5, 2));
    runtime.close().await.unwrap();
    runtime
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
