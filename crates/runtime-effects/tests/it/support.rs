//! What the tests share: a world of one store and one simulated clock, and executors that count.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use runtime_core::{
    CallId, CommitId, Digest, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome,
    EffectOutput, ErrorClass, EventDraft, EventKind, ExecutionScope, ReplayKey, RetryPolicy,
    RuntimeEvent, Timestamp, ToolCallCommand, ToolCallOutput, ToolResult, WaitIdentity, WaitSource,
    WireError,
};
use runtime_effects::{
    Applied, EffectHost, EffectLimits, ExecutorError, LocalExecutor, Projection, Projector,
    ScopeOpening, ScopedEffectController, StoreEffectHost,
};
use runtime_store::{Commit, Epoch, Guard, MemoryStore, Page, Position, RowChange, RowKey, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};

/// A store with its hosts, one after another, as processes come and go.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: SimulatedClock,
    pub(crate) limits: EffectLimits,
}

/// The stores that every law runs on.
pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new("test".parse().expect("legal")))
}

impl World {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            clock: SimulatedClock::new(Timestamp::from_millis(1_000_000)),
            limits: EffectLimits::default(),
        }
    }

    /// A host, as a fresh process has it.
    pub(crate) fn host(&self) -> StoreEffectHost {
        StoreEffectHost::new(
            Arc::clone(&self.store),
            Arc::new(self.clock.clone()),
            Arc::new(SeededRandom::new(7)),
            self.limits,
        )
    }

    /// Puts the epoch row of the scope, as the commit that starts or resumes a turn does.
    pub(crate) async fn next_epoch(&self, scope: &ExecutionScope) -> Epoch {
        next_epoch(&*self.store, scope).await
    }

    /// Opens the scope under its next epoch.
    pub(crate) async fn open<'run>(
        &self,
        host: &'run StoreEffectHost,
        scope: &ExecutionScope,
    ) -> ScopedEffectController<'run> {
        let epoch = self.next_epoch(scope).await;
        self.open_at(host, scope, epoch)
    }

    /// Opens the scope under an epoch that was put before.
    pub(crate) fn open_at<'run>(
        &self,
        host: &'run StoreEffectHost,
        scope: &ExecutionScope,
        epoch: Epoch,
    ) -> ScopedEffectController<'run> {
        host.scoped(opening(scope, epoch)).expect("opens")
    }

    /// Drives a future; whenever it stands still, time moves on to the next wait.
    pub(crate) async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            for _ in 0..8 {
                if let Poll::Ready(value) = poll_once(future.as_mut()).await {
                    return value;
                }
                tokio::task::yield_now().await;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "stands still, and nothing is waited for"
            );
        }
    }

    /// All events, oldest first.
    pub(crate) async fn events(&self) -> Vec<RuntimeEvent> {
        let page = Page::after(Position(0), 256);
        let page = self.store.events(None, page).await.expect("reads");
        let decoded = page.events.iter().map(|event| event.decode());
        decoded.collect::<Result<_, _>>().expect("decodes")
    }

    /// The kinds of all events, oldest first.
    pub(crate) async fn kinds(&self) -> Vec<String> {
        let events = self.events().await;
        events
            .iter()
            .map(|event| event.kind().to_string())
            .collect()
    }
}

/// Polls a future once.
pub(crate) async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// Polls a future until it stands still.
pub(crate) async fn stands_still<T>(mut future: Pin<&mut impl Future<Output = T>>) -> bool {
    for _ in 0..8 {
        if poll_once(future.as_mut()).await.is_ready() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

pub(crate) async fn next_epoch(store: &dyn Store, scope: &ExecutionScope) -> Epoch {
    let key = RowKey::epoch(scope.scope_id());
    let version = store.row(&key).await.expect("reads").map(|row| row.version);
    let guard = match version {
        None => Guard::Absent(key.clone()),
        Some(version) => Guard::Version(key.clone(), version),
    };
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(1))
        .guard(guard)
        .row(RowChange::put(key, Vec::new()));
    store.commit(commit).await.expect("commits");
    Epoch(version.unwrap_or(0) + 1)
}

pub(crate) fn opening(scope: &ExecutionScope, epoch: Epoch) -> ScopeOpening {
    ScopeOpening {
        scope: scope.clone(),
        epoch,
        projector: Arc::new(PlainProjector),
        strict_replay: false,
    }
}

/// An id that no other commit of this process has.
pub(crate) fn fresh_id() -> CommitId {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut random = [0; 10];
    random[..4].copy_from_slice(&count.to_be_bytes());
    CommitId::generate(Timestamp::from_millis(1), random)
}

/// One event for each step.
#[derive(Debug)]
struct PlainProjector;

impl Projector for PlainProjector {
    fn outcome(&self, envelope: &EffectEnvelope, _: &EffectOutcome) -> Projection {
        told(envelope, EventKind::EffectFinished)
    }

    fn started(&self, envelope: &EffectEnvelope) -> Projection {
        told(envelope, EventKind::EffectStarted)
    }
}

fn told(envelope: &EffectEnvelope, kind: EventKind) -> Projection {
    Projection {
        carrier: EventDraft::new(kind).in_scope(envelope.scope()),
        further: Vec::new(),
    }
}

pub(crate) fn turn(session: &str, turn: &str) -> ExecutionScope {
    ExecutionScope::Turn {
        session: session.parse().expect("legal"),
        turn: turn.parse().expect("legal"),
    }
}

pub(crate) fn desk() -> ExecutionScope {
    turn("desk", "1")
}

/// A tool call; `tool` changes its identity.
pub(crate) fn tool_call(scope: &ExecutionScope, ordinal: u32, tool: &str) -> EffectEnvelope {
    let command = ToolCallCommand {
        call: CallId::new(format!("call-{ordinal}")).expect("legal"),
        tool: tool.to_owned(),
        arguments: Digest::of_bytes(b"{}"),
    };
    let key = ReplayKey::turn(1, EffectKind::ToolCall, ordinal);
    EffectEnvelope::new(scope.clone(), key, EffectCommand::ToolCall(command)).expect("consistent")
}

pub(crate) fn patient(attempts: u32) -> RetryPolicy {
    RetryPolicy {
        max_attempts: attempts,
        backoff_initial: Duration::from_millis(100),
        backoff_max: Duration::from_millis(400),
        attempt_timeout: Duration::from_secs(10),
    }
}

pub(crate) fn custom(key: &str) -> WaitIdentity {
    WaitIdentity::Custom {
        key: key.to_owned(),
    }
}

/// A wait for a promise, and until a time if given.
pub(crate) fn wait_for(
    scope: &ExecutionScope,
    identity: &WaitIdentity,
    at_most: Option<Duration>,
) -> EffectEnvelope {
    let promise = WaitSource::Promise {
        identity: identity.clone(),
        call: Some(CallId::new("call-0").expect("legal")),
        tool: Some("write".to_owned()),
    };
    let time = at_most.map(|duration| WaitSource::After { duration });
    let sources = [Some(promise), time].into_iter().flatten().collect();
    let key = ReplayKey::turn(1, EffectKind::AwaitEvent, 0);
    let command = EffectCommand::AwaitEvent { sources };
    EffectEnvelope::new(scope.clone(), key, command).expect("consistent")
}

/// What a tool gives.
pub(crate) fn result(text: &str) -> EffectOutput {
    let call = CallId::new("call-0").expect("legal");
    EffectOutput::ToolCall(ToolCallOutput::Finished {
        result: ToolResult::text(call, text),
    })
}

pub(crate) fn failure(class: ErrorClass, applied: Applied) -> ExecutorError {
    ExecutorError {
        error: WireError::new("test_failure", class, "the test wants it so"),
        applied,
    }
}

/// How often a body ran.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(Arc<AtomicU32>);

impl Runs {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    fn begin(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// An executor that succeeds.
    pub(crate) fn succeeds<'run>(&self, text: &'static str) -> LocalExecutor<'run> {
        self.answers(move |_| Ok(result(text)))
    }

    /// An executor that answers by the number of its run, from 1.
    pub(crate) fn answers<'run>(
        &self,
        answer: impl Fn(u32) -> Result<EffectOutput, ExecutorError> + Send + Sync + 'static,
    ) -> LocalExecutor<'run> {
        let runs = self.clone();
        let answer = Arc::new(answer);
        LocalExecutor::new(EffectKind::ToolCall, move |_| {
            let (runs, answer) = (runs.clone(), Arc::clone(&answer));
            async move { answer(runs.begin()) }
        })
    }

    /// An executor that never ends.
    pub(crate) fn hangs<'run>(&self) -> LocalExecutor<'run> {
        let runs = self.clone();
        LocalExecutor::new(EffectKind::ToolCall, move |_| {
            let runs = runs.clone();
            async move {
                runs.begin();
                std::future::pending().await
            }
        })
    }
}
