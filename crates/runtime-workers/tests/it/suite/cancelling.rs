//! Cancelling workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use runtime_core::{Classified, EventKind, ModelEvent, ModelRequest};
use runtime_model::{Model, ModelError, ModelStream};
use runtime_workers::{Command, CommandAnswer, CreateWorker, Runtime, view};
use tokio::sync::Semaphore;

use super::{Desk, GATED, GOLDEN, PLAIN, Place, approve_all, count, desk, ends, events};

async fn cancel(runtime: &Runtime) -> CommandAnswer {
    let command = Command::CancelWorker {
        worker: desk(),
        reason: Some("enough".to_owned()),
    };
    runtime.apply(command).await.unwrap()
}

async fn check_cancelled(runtime: &Runtime, turns: usize) {
    assert_eq!(cancel(runtime).await, CommandAnswer::AlreadyDone);
    let refused = runtime.send(&desk(), PLAIN).await.unwrap_err();
    assert_eq!(refused.code(), "worker_not_running");
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    assert_eq!(ends.len(), turns);
    assert!(
        ends.iter()
            .all(|(_, kind)| *kind == EventKind::TurnCancelled)
    );
    let unfinished = view::unfinished_turns(runtime.store(), None).await.unwrap();
    assert_eq!(unfinished, []);
    let worker = view::worker(runtime.store(), &desk()).await.unwrap();
    assert_eq!(worker.unfinished, 0);
    assert_eq!(runtime.pending().await.unwrap(), []);
}

pub(crate) async fn w2_a_cancelled_worker_ends_each_turn_once_and_takes_no_inputs(
    place: &dyn Place,
) {
    // One that runs, with two queued behind it.
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.send(&desk(), GOLDEN).await.unwrap();
    assert_eq!(cancel(&runtime).await, CommandAnswer::Done);
    runtime.settled().await;
    check_cancelled(&runtime, 3).await;
    assert_eq!(world.model_calls(), 1);
    runtime.close().await.unwrap();
    // The next process finds nothing to do.
    let runtime = world.open(place).await;
    runtime.settled().await;
    check_cancelled(&runtime, 3).await;
    runtime.close().await.unwrap();
}

/// A model that begins to answer and never ends.
#[derive(Debug)]
struct Endless {
    asked: Semaphore,
    let_go: Arc<AtomicUsize>,
}

/// Counts when the stream that holds it is dropped.
struct LetGo(Arc<AtomicUsize>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Model for Endless {
    fn provider(&self) -> &str {
        "endless"
    }

    fn name(&self) -> &str {
        "endless"
    }

    async fn stream(&self, _: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        self.asked.add_permits(1);
        let held = LetGo(Arc::clone(&self.let_go));
        let text = "and so on".to_owned();
        let begun = stream::iter([Ok(ModelEvent::TextDelta { text })]);
        let never = stream::once(async move {
            let _held = held;
            std::future::pending().await
        });
        Ok(Box::pin(begun.chain(never)))
    }
}

/// E9: cancelling reaches a model in the middle of its answer: the connection is let go at once.
pub(crate) async fn e9_a_cancelled_worker_lets_go_of_its_model(place: &dyn Place) {
    let world = Desk::new();
    let model = Arc::new(Endless {
        asked: Semaphore::new(0),
        let_go: Arc::default(),
    });
    let mut agent = world.agent();
    agent.model = Arc::clone(&model) as _;
    let parts = world.parts_of(agent, place.open().await);
    let runtime = Runtime::open(parts).await.unwrap();
    runtime
        .create(CreateWorker::assistant(desk()))
        .await
        .unwrap();
    runtime.send(&desk(), PLAIN).await.unwrap();
    model.asked.acquire().await.unwrap().forget();
    assert_eq!(model.let_go.load(Ordering::SeqCst), 0);
    assert_eq!(cancel(&runtime).await, CommandAnswer::Done);
    runtime.settled().await;
    assert_eq!(model.let_go.load(Ordering::SeqCst), 1);
    check_cancelled(&runtime, 1).await;
    runtime.close().await.unwrap();
}

pub(crate) async fn e7_a_cancelled_turn_names_what_is_in_doubt(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    *world.panics.lock().unwrap() = true;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    approve_all(&runtime).await;
    runtime.settled().await;
    assert_eq!(cancel(&runtime).await, CommandAnswer::Done);
    runtime.settled().await;
    check_cancelled(&runtime, 1).await;
    let events = events(runtime.store()).await;
    let end = events.iter().find(|event| event.kind().ends_turn());
    let in_doubt = &end.unwrap().draft.payload["in_doubt"];
    assert_eq!(in_doubt.as_array().unwrap().len(), 1);
    assert_eq!(in_doubt[0]["tool"], "append");
    runtime.close().await.unwrap();
}

pub(crate) async fn w2_a_status_changes_once_with_one_event(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    // A parked turn.
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    let all = futures_util::future::join_all((0..8).map(|_| cancel(&runtime))).await;
    let done = all.iter().filter(|answer| **answer == CommandAnswer::Done);
    assert_eq!(done.count(), 1);
    runtime.settled().await;
    check_cancelled(&runtime, 1).await;
    let events = events(runtime.store()).await;
    assert_eq!(count(&events, &EventKind::WorkerStatusChanged), 1);
    assert_eq!(count(&events, &EventKind::WorkerCreated), 1);
    runtime.close().await.unwrap();
}
