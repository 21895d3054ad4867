//! What happens as time goes by: waits that are due, failures that are tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runtime_agent::Agent;
use runtime_core::{Classified as _, ErrorClass, EventKind, WireError};
use runtime_effects::PendingKind;
use runtime_store::Store;
use runtime_workers::{
    AgentLease, AgentResolver, Command, InDoubtRuling, Runtime, WorkerRecord, view,
};

use crate::Memory;
use crate::suite::{Desk, GOLDEN, LATER, PLAIN, Place, approve_all, count, desk, ends, events};

/// Lets time go by in small steps; each task gets to run in between.
async fn pass(world: &Desk, time: Duration) {
    let step = Desk::config().housekeeping_interval;
    for _ in 0..time.as_millis() / step.as_millis() {
        world.clock.advance(step);
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}

/// E8, E9: a parked turn goes on by itself when its time has come, not before, and one that has
/// no time is left alone.
#[tokio::test]
async fn e8_a_wait_that_is_due_goes_on() {
    let (world, place) = (Desk::new(), Memory::new());
    let runtime = world.open_worker(&place).await;
    runtime.send(&desk(), LATER).await.unwrap();
    runtime
        .worker("other")
        .await
        .unwrap()
        .send(GOLDEN)
        .await
        .unwrap();
    runtime.settled().await;
    pass(&world, Duration::from_secs(59)).await;
    assert_eq!(ends(&events(runtime.store()).await), []);
    pass(&world, Duration::from_secs(2)).await;
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events).len(), 1);
    assert_eq!(count(&events, &EventKind::TurnResumed), 1);
    runtime.close().await.unwrap();
}

/// A resolver that fails the first few times that it is asked in a turn.
#[derive(Debug)]
struct Moody {
    agent: Arc<Agent>,
    asked: AtomicUsize,
    fails: std::ops::Range<usize>,
    panics: bool,
}

#[async_trait]
impl AgentResolver for Moody {
    async fn resolve(&self, _: &WorkerRecord) -> Result<AgentLease, WireError> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if !self.fails.contains(&asked) {
            return Ok(Arc::clone(&self.agent).into());
        }
        assert!(!self.panics, "the resolver's pen breaks");
        Err(WireError::new(
            "registry_down",
            ErrorClass::Unavailable,
            "down",
        ))
    }
}

async fn open_moody(
    world: &Desk,
    store: Arc<dyn Store>,
    fails: std::ops::Range<usize>,
    panics: bool,
) -> Runtime {
    let resolver = Moody {
        agent: Arc::new(world.agent()),
        asked: AtomicUsize::new(0),
        fails,
        panics,
    };
    let mut parts = world.parts(store);
    parts.agents = Arc::new(resolver);
    Runtime::open(parts).await.unwrap()
}

/// A failure that passes delays the turn; nobody need open the runtime again.
#[tokio::test]
async fn e6_a_turn_that_cannot_be_driven_now_is_driven_later() {
    let world = Desk::new();
    // Accepting asks once, driving from then on.
    let runtime = open_moody(&world, Memory::new().open().await, 1..4, false).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.send(PLAIN).await.unwrap();
    runtime.settled().await;
    assert_eq!(ends(&events(runtime.store()).await), []);
    pass(&world, Duration::from_secs(2)).await;
    runtime.settled().await;
    assert_eq!(ends(&events(runtime.store()).await).len(), 1);
    assert_eq!(runtime.close().await.unwrap().failures, []);
}

/// One that does not pass is reported once, and the turn stays as it is until somebody asks.
#[tokio::test]
async fn e6_driving_in_vain_is_bounded_and_reported() {
    let world = Desk::new();
    let tries = Desk::config().drive_attempts_max as usize;
    let runtime = open_moody(&world, Memory::new().open().await, 1..1 + tries, false).await;
    let worker = runtime.worker("desk").await.unwrap();
    let mut failures = runtime.failures();
    worker.send(PLAIN).await.unwrap();
    pass(&world, Duration::from_secs(60)).await;
    assert_eq!(failures.next().await.code, "registry_down");
    let turns = view::unfinished_turns(runtime.store(), None).await.unwrap();
    assert_eq!(turns.len(), 1);
    runtime.insist(worker.id());
    runtime.settled().await;
    assert_eq!(ends(&events(runtime.store()).await).len(), 1);
    assert_eq!(runtime.close().await.unwrap().failures.len(), 1);
}

/// E9: a panic of the resolver is an error that keeps its text, and poisons nothing.
#[tokio::test]
async fn e9_a_panic_of_the_resolver_is_its_answer() {
    let world = Desk::new();
    let runtime = open_moody(&world, Memory::new().open().await, 0..1, true).await;
    let worker = runtime.worker("desk").await.unwrap();
    let panicked = worker.send(PLAIN).await.unwrap_err();
    assert!(panicked.to_string().contains("pen breaks"), "{panicked}");
    assert_eq!(worker.ask(PLAIN).await.unwrap(), "Hello, hello!");
    runtime.close().await.unwrap();
}

/// A failure of one worker is no answer to whoever waits for another, nor one of before.
#[tokio::test]
async fn a_failure_concerns_its_own_worker_only() {
    let world = Desk::new();
    let tries = Desk::config().drive_attempts_max as usize;
    let runtime = open_moody(&world, Memory::new().open().await, 1..1 + tries, false).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.send(PLAIN).await.unwrap();
    pass(&world, Duration::from_secs(60)).await;
    let other = runtime.worker("other").await.unwrap();
    assert_eq!(other.ask(PLAIN).await.unwrap(), "Hello, hello!");
    assert_eq!(worker.ask(PLAIN).await.unwrap(), "Hello, hello!");
    runtime.close().await.unwrap();
}

/// S8: a command of a host's own that this host does not know is refused with a code of its own.
#[tokio::test]
async fn s8_a_command_that_the_host_does_not_know_is_refused() {
    let world = Desk::new();
    let runtime = open_moody(&world, Memory::new().open().await, 0..0, false).await;
    let before = events(runtime.store()).await.len();
    let command = runtime_workers::Command::Host {
        name: "fly".to_owned(),
        body: serde_json::json!({"where": "home"}),
    };
    let text = serde_json::to_string(&command).unwrap();
    assert_eq!(
        serde_json::from_str::<runtime_workers::Command>(&text).unwrap(),
        command
    );
    let refused = runtime.apply(command).await.unwrap_err().to_wire();
    assert_eq!(
        (&*refused.code, refused.class),
        ("command_unknown", ErrorClass::Unsupported)
    );
    assert_eq!(events(runtime.store()).await.len(), before);
}

/// E7, E9: a turn that is parked in doubt is not driven in vain, whatever time goes by, whoever
/// asks and whichever process opens; the ruling lets it go on, once.
#[tokio::test]
async fn e7_a_turn_in_doubt_is_not_driven_before_it_is_ruled_on() {
    let (world, place) = (Desk::new(), Memory::new());
    let runtime = world.open_worker(&place).await;
    *world.panics.lock().unwrap() = true;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    approve_all(&runtime).await;
    runtime.settled().await;
    let waiting = runtime.pending().await.unwrap();
    assert_eq!(waiting[0].kind, PendingKind::InDoubt);
    let resumed = count(&events(runtime.store()).await, &EventKind::TurnResumed);
    runtime.close().await.unwrap();
    let runtime = world.open(&place).await;
    for _ in 0..3 {
        runtime.insist(&desk());
        runtime.settled().await;
        pass(&world, Duration::from_secs(60)).await;
    }
    runtime.settled().await;
    let told = events(runtime.store()).await;
    assert_eq!(count(&told, &EventKind::TurnResumed), resumed);
    let command = Command::RuleInDoubt {
        call: waiting[0].call.as_ref().unwrap().to_string(),
        ruling: InDoubtRuling::Done {
            value: serde_json::json!("appended"),
        },
    };
    runtime.apply(command).await.unwrap();
    runtime.settled().await;
    let told = events(runtime.store()).await;
    assert_eq!(count(&told, &EventKind::TurnResumed), resumed + 1);
    assert_eq!(ends(&told).len(), 1);
    runtime.close().await.unwrap();
}
