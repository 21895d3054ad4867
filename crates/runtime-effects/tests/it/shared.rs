//! A store that several processes write to: waits notice what others committed (E14), and of those
//! that decide at once one is first.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join;
use runtime_core::{
    EffectOutcome, EffectOutput, ErrorClass, ProcessStatus, Resolution, StreamKey, WaitOutput,
};
use runtime_effects::{
    Applied, Failure, Functions, ProcessLimits, ResolveAnswer, Ruling, RulingAnswer,
    WorkflowConfig, WorkflowContext, WorkflowHost,
};
use runtime_store::{EventPage, MemoryStore, Page, Position, ReadError, Store, StoreLayer};
use runtime_testkit::ProcessStore;
use runtime_testkit::effect_laws::{
    Runs, World, custom, desk, failure, fresh_id, result, tool_call, turn, wait_for,
};
use runtime_testkit::store_laws::StoreFixture;
use serde_json::json;

use crate::edges::{id, order, processes, success};
use crate::laws::Memory;
use crate::leases::rest;
use crate::process_edges::{arrived, subscription};
use crate::records::reports;

struct Shared;

#[async_trait]
impl StoreFixture for Shared {
    async fn open(&self) -> Arc<dyn Store> {
        let inner = MemoryStore::new("test".parse().expect("legal"));
        ProcessStore::over(Arc::new(inner))
    }
}

/// E14: a promise resolved by another process rings no bell here; the change of the log does.
#[tokio::test]
async fn e14_a_wait_sees_what_another_process_resolved() {
    let world = World::new(&Shared).await;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let mut waiting = pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    // The bells of this host are not those of the other one.
    let elsewhere = world.host().await_events().await.expect("loads");
    let resolution = Resolution::Ok {
        value: serde_json::json!("yes"),
    };
    elsewhere
        .resolve_identity(&scope, &identity, resolution.clone(), None)
        .await
        .expect("decides");
    let seen = EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution,
    });
    // A wait that is not woken parks as soon as time moves.
    assert_eq!(
        world.drive(waiting).await,
        Ok(EffectOutcome::Completed(seen))
    );
}

/// E10: processes that all found the promise open have one winner, by the guard of the commit.
#[tokio::test]
async fn e10_resolving_from_several_processes_at_once_has_one_winner() {
    let world = World::new(&Shared).await;
    world.next_epoch(&desk()).await;
    let racers = (0..8).map(|racer| {
        let host = world.host();
        async move {
            let promises = host.await_events().await.expect("loads");
            let value = serde_json::json!(racer);
            let resolution = Resolution::Ok { value };
            promises
                .resolve_identity(&desk(), &custom("answer"), resolution, Some(fresh_id()))
                .await
                .expect("decides")
        }
    });
    let answers = futures_util::future::join_all(racers).await;
    let accepted = answers
        .iter()
        .filter(|answer| **answer == ResolveAnswer::Accepted);
    assert_eq!(accepted.count(), 1);
    assert_eq!(world.kinds().await, ["promise_resolved"]);
}

/// E14: what another process resolved or ended is seen at once, not when time passes.
#[tokio::test]
async fn e14_what_another_process_committed_is_seen_at_once() {
    let world = World::new(&Shared).await;
    let (scope, identity, host) = (desk(), custom("answer"), world.host());
    let controller = world.open(&host, &scope).await;
    let mut resolved = pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    let table = host.processes(ProcessLimits::default()).await;
    let table = table.expect("opens");
    table.start(&order("p"), None).await.expect("starts");
    let p = id("p");
    let mut ended = pin!(table.ended(&p, None, std::future::pending()));
    assert!(world.stands_still(resolved.as_mut()).await);
    assert!(world.stands_still(ended.as_mut()).await);
    let before = world.now();
    let yes = Resolution::Ok {
        value: json!("yes"),
    };
    let promises = world.promises().await;
    let answer = promises.resolve_identity(&scope, &identity, yes, None);
    assert_eq!(answer.await.expect("decides"), ResolveAnswer::Accepted);
    world.drive(resolved).await.expect("is resolved");
    let elsewhere = processes(&world, ProcessLimits::default()).await;
    let claim = elsewhere.claim(&p).await.expect("is there");
    elsewhere.end(&claim, &success(7)).await.expect("ends");
    assert_eq!(world.drive(ended).await.expect("has ended"), success(7));
    assert_eq!(world.now(), before);
}

/// A function that waits for a signal.
fn waits() -> Functions {
    let waits = |context: WorkflowContext, _: u32| async move {
        Ok::<_, Failure>(context.signal::<u32>("go").await?)
    };
    Functions::default().function("order", waits)
}

/// E14, E15: a workflow that waits goes on when another process has told it so.
#[tokio::test]
async fn e14_a_workflow_goes_on_by_what_another_process_told_it() {
    let world = World::new(&Shared).await;
    let host = world.host();
    let table = host.processes(ProcessLimits::default()).await;
    let clock = Arc::new(world.clock.clone());
    let config = WorkflowConfig::default();
    let driver = WorkflowHost::over(host, table.expect("opens"), clock, waits(), config).await;
    let driver = driver.expect("opens");
    let run = driver.start(&id("p"), "order", &1).await.expect("starts");
    rest().await;
    let elsewhere = processes(&world, ProcessLimits::default()).await;
    let told = elsewhere.signal(&id("p"), "go", 1, json!(7), None).await;
    told.expect("signals");
    world.clock.advance(config.housekeeping_interval);
    rest().await;
    let before = world.now();
    assert_eq!(world.drive(run.ended()).await.expect("ends"), success(7));
    assert_eq!(world.now(), before);
}

/// A store that counts how often somebody looks at the log, or asks to hear of it.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Store>,
    looks: AtomicUsize,
}

#[async_trait]
impl StoreLayer for Watched {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.inner.events(stream, page).await
    }

    async fn changed(&self, after: Position) -> Position {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.inner.changed(after).await
    }
}

/// E14: on a store of its own an instance does not watch the log: whoever commits rings.
#[tokio::test]
async fn e14_an_instance_alone_with_its_store_does_not_watch_the_log() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let watched = Arc::new(Watched {
        inner: Arc::clone(&world.store) as _,
        looks: AtomicUsize::new(0),
    });
    let host = world.host_over(Arc::clone(&watched) as _);
    let scope = desk();
    let controller = world.open(&host, &scope).await;
    let table = host.processes(ProcessLimits::default()).await;
    let table = table.expect("opens");
    table.start(&order("p"), None).await.expect("starts");
    let (p, clock) = (id("p"), Arc::new(world.clock.clone()));
    let config = WorkflowConfig::default();
    let driver = WorkflowHost::over(host.clone(), table.clone(), clock, waits(), config).await;
    let driver = driver.expect("opens");
    rest().await;
    let waiting = pin!(controller.wait_any(wait_for(&scope, &custom("answer"), None)));
    let ended = pin!(table.ended(&p, None, std::future::pending()));
    assert!(world.stands_still(waiting).await && world.stands_still(ended).await);
    for _ in 0..3 {
        world.clock.advance(config.housekeeping_interval);
        rest().await;
    }
    assert!(!driver.is_busy());
    assert_eq!(watched.looks.load(Ordering::SeqCst), 0);
}

/// E7: of two who rule the same at once, one is told that it was ruled before.
#[tokio::test]
async fn e7_ruling_the_same_at_once_is_ruled_once() {
    let world = World::new(&Shared).await;
    let (scope, host, other) = (desk(), world.host(), world.host());
    let controller = world.open(&host, &scope).await;
    let call = tool_call(&scope, 0, "pay");
    let unknown = |_| Err(failure(ErrorClass::Unavailable, Applied::Unknown));
    let doubt = controller.execute_effect(call.clone(), Runs::default().answers(unknown));
    world.drive(doubt).await.expect_err("is in doubt");
    let scope = scope.scope_id();
    let (first, second) = join(
        host.rule_in_doubt(&scope, call.key(), Ruling::RunAgain, None),
        other.rule_in_doubt(&scope, call.key(), Ruling::RunAgain, None),
    )
    .await;
    assert_eq!(
        [first.expect("rules"), second.expect("rules")],
        [RulingAnswer::Ruled, RulingAnswer::AlreadyRuled]
    );
}

/// E15: of two who report the same occurrence at once, one starts what is subscribed; both
/// outcomes are recorded.
#[tokio::test]
async fn e15_an_occurrence_that_is_reported_at_once_starts_once() {
    let world = World::new(&Shared).await;
    let table = processes(&world, ProcessLimits::default()).await;
    let subscribed = table.subscribe(&subscription("s")).await;
    subscribed.expect("subscribes");
    let fetch = async |number: &str| {
        let (scope, host) = (turn("desk", number), world.host());
        let controller = world.open(&host, &scope).await;
        let call = tool_call(&scope, 0, "fetch").retry_safe(true);
        controller
            .execute_effect(call, reports(arrived("m1")))
            .await
    };
    let done = || Ok(EffectOutcome::Completed(result("done")));
    let both = world.drive(join(fetch("1"), fetch("2"))).await;
    assert_eq!(both, (done(), done()));
    let running = table
        .list(ProcessStatus::Running, Page::after(None, 8))
        .await;
    assert_eq!(running.expect("reads").processes.len(), 1);
}
