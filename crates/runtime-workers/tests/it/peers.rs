//! Two instances over one shared store: leases, take-over, answers that come elsewhere (E5).

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Clock, EventKind, ProcessEventType, ProcessRegistration, ProcessStatus};
use runtime_effects::LeaseConfig;
use runtime_store::{MemoryStore, Store};
use runtime_testkit::{FaultStore, ProcessStore, SeededRandom};
use runtime_workers::{ParkReason, Runtime, RuntimeParts, TurnStatus, view};
use serde_json::json;

use crate::Memory;
use crate::suite::{
    Desk, GATED, GOLDEN, Place, approve_all, count, desk, ends, events, running_most,
};

/// One process over a shared store, and what kills it.
struct Process {
    runtime: Runtime,
    killer: Arc<FaultStore>,
    store: Arc<ProcessStore>,
}

async fn process(world: &Desk, memory: &MemoryStore, seed: u64) -> Process {
    with_terms(world, memory, seed, LeaseConfig::default()).await
}

async fn with_terms(world: &Desk, memory: &MemoryStore, seed: u64, lease: LeaseConfig) -> Process {
    with_parts(world, memory, seed, |parts| parts.config.lease = lease).await
}

async fn with_parts(
    world: &Desk,
    memory: &MemoryStore,
    seed: u64,
    set: impl FnOnce(&mut RuntimeParts),
) -> Process {
    let killer = FaultStore::new(Arc::new(memory.reopen()));
    let store = ProcessStore::over(Arc::clone(&killer) as _);
    let mut parts: RuntimeParts = world.parts(Arc::clone(&store) as _);
    parts.random = Arc::new(SeededRandom::new(seed));
    set(&mut parts);
    Process {
        runtime: Runtime::open(parts).await.unwrap(),
        killer,
        store,
    }
}

/// One process over a shared store of a runtime in which two turns may run at once.
async fn limited(world: &Desk, memory: &MemoryStore, seed: u64) -> Process {
    with_parts(world, memory, seed, |parts| {
        parts.config.lease = LeaseConfig::default();
        let limits = parts.limits.get_or_insert_default();
        limits.turns_running_max = Some(2);
    })
    .await
}

fn memory() -> MemoryStore {
    MemoryStore::new("shared".parse().unwrap())
}

/// Lets time go by in small steps; each task gets to run in between.
async fn pass(world: &Desk, time: Duration) {
    let step = Duration::from_millis(100);
    for _ in 0..time.as_millis() / step.as_millis() {
        world.clock.advance(step);
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}

/// E5: a process dies in the middle of a tool call; the other one resumes its turn within 15 s,
/// and ends it once.
#[tokio::test]
async fn e5_a_peer_resumes_the_turns_of_a_dead_instance() {
    let (world, memory) = (Desk::new(), memory());
    let dead = process(&world, &memory, 1).await;
    let heir = process(&world, &memory, 2).await;
    dead.runtime.worker("desk").await.unwrap();
    dead.runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    // An input behind it, which nobody holds.
    heir.runtime.send(&desk(), "and then?").await.unwrap();
    pass(&world, Duration::from_secs(30)).await;
    assert_eq!(count(&events(&memory).await, &EventKind::TurnResumed), 0);

    dead.killer.crash();
    let died = world.clock.monotonic();
    while count(&events(&memory).await, &EventKind::TurnResumed) == 0 {
        pass(&world, Duration::from_millis(100)).await;
        let waited = world.clock.monotonic() - died;
        assert!(waited <= Duration::from_secs(15), "{waited:?}");
    }
    world.gate.pass(2);
    heir.runtime.settled().await;
    let told = events(&memory).await;
    assert_eq!(ends(&told).len(), 2);
    assert_eq!(count(&told, &EventKind::InstanceExpired), 1);
    let resumed = told
        .iter()
        .find(|event| *event.kind() == EventKind::TurnResumed);
    assert_eq!(resumed.unwrap().draft.payload["crashes"], 1);
    pass(&world, Duration::from_secs(2)).await;
    heir.runtime.close().await.unwrap();
    // Nothing is left of either instance.
    let left = memory
        .rows(
            runtime_store::RowQuery::space("lease"),
            runtime_store::Page::after(None, 10),
        )
        .await;
    assert_eq!(left.unwrap().rows.len(), 0);
}

/// E5: a call of a minute under a lease of three seconds runs once, although another instance
/// watches.
#[tokio::test]
async fn e5_a_long_call_under_a_short_lease_runs_once() {
    let (world, memory) = (Desk::new(), memory());
    let terms = LeaseConfig {
        ttl: Duration::from_secs(3),
        renew_every: Duration::from_secs(1),
        look_every: Duration::from_millis(500),
        margin: Duration::from_millis(500),
    };
    let worker = with_terms(&world, &memory, 1, terms).await;
    let other = with_terms(&world, &memory, 2, terms).await;
    worker.runtime.worker("desk").await.unwrap();
    worker.runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    pass(&world, Duration::from_secs(60)).await;
    world.gate.pass(1);
    worker.runtime.settled().await;
    let told = events(&memory).await;
    assert_eq!(ends(&told).len(), 1);
    assert_eq!(count(&told, &EventKind::TurnResumed), 0);
    for process in [worker, other] {
        process.runtime.close().await.unwrap();
    }
}

/// E5: a process that stood still beyond its lease is fenced; it goes on under a new name.
#[tokio::test]
async fn e5_a_process_that_stood_still_is_fenced_and_joins_again() {
    let (world, memory) = (Desk::new(), memory());
    let zombie = process(&world, &memory, 1).await;
    let heir = process(&world, &memory, 2).await;
    zombie.runtime.worker("desk").await.unwrap();
    zombie.runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    zombie.store.stop();
    pass(&world, Duration::from_secs(15)).await;
    // The heir is inside the same call now; both may pass, one of them counts.
    world.gate.entered().await;
    zombie.store.wake();
    world.gate.pass(2);
    heir.runtime.settled().await;
    pass(&world, Duration::from_secs(5)).await;
    let told = events(&memory).await;
    assert_eq!(ends(&told).len(), 1);
    assert_eq!(count(&told, &EventKind::TurnResumed), 1);
    // It works again.
    zombie.runtime.worker("other").await.unwrap();
    let answer = zombie.runtime.worker("other").await.unwrap();
    assert_eq!(answer.ask("world").await.unwrap(), "Hello, world!");
    for process in [zombie, heir] {
        process.runtime.close().await.unwrap();
    }
}

/// W6, E5: the limit of the whole runtime holds over its instances, also when one of them dies:
/// its places go over with its turns.
#[tokio::test]
async fn w6_a_limit_of_the_runtime_holds_over_its_instances() {
    let (world, memory) = (Desk::new(), memory());
    let dead = limited(&world, &memory, 1).await;
    let heir = limited(&world, &memory, 2).await;
    for number in 0..8 {
        let process = if number % 2 == 0 { &dead } else { &heir };
        let worker = process.runtime.worker(&format!("w{number}")).await.unwrap();
        worker.send(GATED).await.unwrap();
    }
    world.gate.entered().await;
    world.gate.entered().await;
    pass(&world, Duration::from_secs(3)).await;
    assert_eq!(count(&events(&memory).await, &EventKind::TurnStarted), 2);
    // The place of a turn that ends here is taken there or here, once.
    world.gate.pass(1);
    world.gate.entered().await;
    pass(&world, Duration::from_secs(3)).await;
    assert_eq!(count(&events(&memory).await, &EventKind::TurnStarted), 3);

    dead.killer.crash();
    pass(&world, Duration::from_secs(20)).await;
    // Turns that were inside at the dead one enter again, and hold a permit of the gate each.
    world.gate.pass(20);
    heir.runtime.settled().await;
    while ends(&events(&memory).await).len() < 8 {
        pass(&world, Duration::from_secs(1)).await;
    }
    let told = events(&memory).await;
    assert_eq!(running_most(&told), 2);
    pass(&world, Duration::from_secs(2)).await;
    heir.runtime.close().await.unwrap();
    let left = memory
        .rows(
            runtime_store::RowQuery::space("place"),
            runtime_store::Page::after(None, 10),
        )
        .await;
    assert_eq!(left.unwrap().rows.len(), 0);
}

/// E5, U3: who closes in order lets go of its turns: the other one resumes them at once, and no
/// crash is counted.
#[tokio::test]
async fn e5_closing_lets_go_of_what_is_driven() {
    let (world, memory) = (Desk::new(), memory());
    let first = process(&world, &memory, 1).await;
    let heir = process(&world, &memory, 2).await;
    first.runtime.worker("desk").await.unwrap();
    first.runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    let closing = tokio::spawn(async move { first.runtime.close().await });
    // The drain takes five seconds.
    pass(&world, Duration::from_secs(8)).await;
    let report = closing.await.unwrap().unwrap();
    assert_eq!(report.interrupted, 1);
    world.gate.pass(1);
    heir.runtime.settled().await;
    let told = events(&memory).await;
    assert_eq!(ends(&told).len(), 1);
    let resumed = told
        .iter()
        .find(|event| *event.kind() == EventKind::TurnResumed);
    assert_eq!(resumed.unwrap().draft.payload["crashes"], 0);
    heir.runtime.close().await.unwrap();
}

/// E14: an answer that one instance takes wakes the turn that another one has parked; and so
/// does one that no runtime took.
#[tokio::test]
async fn e14_an_answer_that_comes_elsewhere_wakes_the_turn() {
    let (world, memory) = (Desk::new(), memory());
    let first = process(&world, &memory, 1).await;
    let second = process(&world, &memory, 2).await;
    first.runtime.worker("desk").await.unwrap();
    first.runtime.send(&desk(), GOLDEN).await.unwrap();
    first.runtime.settled().await;
    approve_all(&second.runtime).await;
    pass(&world, Duration::from_secs(1)).await;
    second.runtime.settled().await;
    first.runtime.settled().await;
    assert_eq!(ends(&events(&memory).await).len(), 1);
    for process in [first, second] {
        process.runtime.close().await.unwrap();
    }
}

/// A workflow whose body waits for the gate.
fn hold(id: &str, retry_safe: bool) -> ProcessRegistration {
    ProcessRegistration::function(id.parse().unwrap(), "hold", json!(retry_safe))
}

async fn resumptions(memory: &MemoryStore) -> usize {
    count(&events(memory).await, &EventKind::ProcessResumed)
}

/// E5, E15: a process dies in the body of a workflow; the other instance goes on with it within
/// 15 s, runs a body that may run again once more, and ends the workflow once.
#[tokio::test]
async fn e5_a_peer_goes_on_with_the_workflows_of_a_dead_instance() {
    let (world, memory) = (Desk::new(), memory());
    let dead = process(&world, &memory, 1).await;
    let heir = process(&world, &memory, 2).await;
    dead.runtime
        .start_process(&hold("h", true), None)
        .await
        .unwrap();
    world.gate.entered().await;
    pass(&world, Duration::from_secs(30)).await;
    assert_eq!(resumptions(&memory).await, 0);
    dead.killer.crash();
    let died = world.clock.monotonic();
    while resumptions(&memory).await == 0 {
        pass(&world, Duration::from_millis(100)).await;
        let waited = world.clock.monotonic() - died;
        assert!(waited <= Duration::from_secs(15), "{waited:?}");
    }
    world.gate.entered().await;
    world.gate.pass(2);
    heir.runtime.settled().await;
    let ended = heir.runtime.processes().get(&"h".parse().unwrap()).await;
    assert_eq!(ended.unwrap().record.status, ProcessStatus::Succeeded);
    assert_eq!(world.ledger(), ["hold", "hold"]);
    assert_eq!(resumptions(&memory).await, 1);
    assert_eq!(
        count(&events(&memory).await, &EventKind::ProcessSucceeded),
        1
    );
    pass(&world, Duration::from_secs(2)).await;
    heir.runtime.close().await.unwrap();
    for space in ["lease", "held"] {
        let query = runtime_store::RowQuery::space(space);
        let left = memory
            .rows(query, runtime_store::Page::after(None, 10))
            .await;
        assert_eq!(left.unwrap().rows.len(), 0, "{space}");
    }
}

/// E5, E15: a body of a minute under a lease of three seconds runs once.
#[tokio::test]
async fn e5_a_workflow_with_a_body_longer_than_the_lease_runs_once() {
    let (world, memory) = (Desk::new(), memory());
    let terms = LeaseConfig {
        ttl: Duration::from_secs(3),
        renew_every: Duration::from_secs(1),
        look_every: Duration::from_millis(500),
        margin: Duration::from_millis(500),
    };
    let worker = with_terms(&world, &memory, 1, terms).await;
    let other = with_terms(&world, &memory, 2, terms).await;
    for (id, retry_safe) in [("safe", true), ("once", false)] {
        worker
            .runtime
            .start_process(&hold(id, retry_safe), None)
            .await
            .unwrap();
        world.gate.entered().await;
    }
    pass(&world, Duration::from_secs(60)).await;
    world.gate.pass(2);
    worker.runtime.settled().await;
    let told = events(&memory).await;
    assert_eq!(count(&told, &EventKind::ProcessSucceeded), 2);
    assert_eq!(count(&told, &EventKind::ProcessResumed), 0);
    assert_eq!(world.ledger(), ["hold", "hold"]);
    for process in [worker, other] {
        process.runtime.close().await.unwrap();
    }
}

/// E5, E15: an instance that stood still in the body of a workflow is fenced: the other one drives
/// it, and its end is recorded once. A body that must not run twice is in doubt there.
#[tokio::test]
async fn e5_a_zombie_of_a_workflow_is_fenced() {
    for retry_safe in [true, false] {
        let (world, memory) = (Desk::new(), memory());
        let zombie = process(&world, &memory, 1).await;
        let heir = process(&world, &memory, 2).await;
        zombie
            .runtime
            .start_process(&hold("h", retry_safe), None)
            .await
            .unwrap();
        world.gate.entered().await;
        zombie.store.stop();
        pass(&world, Duration::from_secs(15)).await;
        if retry_safe {
            world.gate.entered().await;
        }
        zombie.store.wake();
        world.gate.pass(2);
        heir.runtime.settled().await;
        pass(&world, Duration::from_secs(5)).await;
        zombie.runtime.settled().await;
        let told = events(&memory).await;
        assert_eq!(
            count(&told, &EventKind::ProcessSucceeded),
            usize::from(retry_safe)
        );
        let view = heir.runtime.processes().get(&"h".parse().unwrap()).await;
        let status = view.unwrap().record.status;
        let ruled = if retry_safe {
            ProcessStatus::Succeeded
        } else {
            ProcessStatus::Parked
        };
        assert_eq!(status, ruled);
        for process in [zombie, heir] {
            process.runtime.close().await.unwrap();
        }
    }
}

/// E15, E5: a signal and a cancellation that another instance takes reach the process where it is
/// driven.
#[tokio::test]
async fn e15_a_signal_and_a_cancellation_reach_the_instance_that_drives() {
    let (world, memory) = (Desk::new(), memory());
    let first = process(&world, &memory, 1).await;
    let second = process(&world, &memory, 2).await;
    let watch = ProcessRegistration::function("w".parse().unwrap(), "watch", json!("w")).declaring(
        ProcessEventType {
            name: "told".to_owned(),
            schema: None,
            wakes: false,
        },
    );
    first.runtime.start_process(&watch, None).await.unwrap();
    first
        .runtime
        .start_process(&hold("h", true), None)
        .await
        .unwrap();
    world.gate.entered().await;
    let signal = second
        .runtime
        .processes()
        .signal(&watch.process, "go", 1, json!(1), None);
    signal.await.unwrap();
    let id = "h".parse().unwrap();
    let cancel = second.runtime.processes().cancel(&id, "enough", None);
    cancel.await.unwrap();
    pass(&world, Duration::from_secs(3)).await;
    first.runtime.settled().await;
    second.runtime.settled().await;
    let told = events(&memory).await;
    assert_eq!(count(&told, &EventKind::ProcessSucceeded), 1);
    assert_eq!(count(&told, &EventKind::ProcessCancelled), 1);
    // Nobody took over what is driven by the living.
    assert_eq!(count(&told, &EventKind::ProcessResumed), 0);
    for process in [first, second] {
        process.runtime.close().await.unwrap();
    }
}

/// E5: on a store of one process too: each process that dies in the same call counts, and after
/// as many as it may have attempts the turn parks; resumed by hand, the count starts again.
#[tokio::test]
async fn e5_a_call_in_which_processes_keep_dying_parks() {
    let (world, place) = (Desk::new(), Memory::new());
    for life in 0..4 {
        let killer = FaultStore::new(place.open().await);
        let mut parts = world.parts(Arc::clone(&killer) as _);
        parts.random = Arc::new(SeededRandom::new(life));
        let runtime = Runtime::open(parts).await.unwrap();
        if life == 0 {
            runtime.worker("desk").await.unwrap();
            runtime.send(&desk(), GATED).await.unwrap();
        }
        if life < 3 {
            world.gate.entered().await;
            killer.crash();
            continue;
        }
        runtime.settled().await;
        let unfinished = view::unfinished_turns(runtime.store(), None).await.unwrap();
        let TurnStatus::Parked { reason, .. } = &unfinished[0].status else {
            panic!("{:?} is not parked", unfinished[0]);
        };
        assert!(matches!(reason, ParkReason::CrashLoop { .. }), "{reason:?}");
        runtime.insist(&desk());
        world.gate.entered().await;
        world.gate.pass(4);
        runtime.settled().await;
        assert_eq!(ends(&events(runtime.store()).await).len(), 1);
    }
}
