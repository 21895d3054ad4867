//! A world of one storage and one simulated clock, and executors that count.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use runtime_core::{
    CallId, CommitId, Digest, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome,
    EffectOutput, ErrorClass, EventDraft, EventKind, ExecutionScope, ReplayKey, RetryPolicy,
    RuntimeEvent, Timestamp, ToolCallCommand, ToolCallOutput, ToolResult, WaitIdentity, WaitSource,
    WireError,
};
use runtime_effects::{
    Applied, AwaitEvents, EffectHost, EffectLimits, ExecutorError, Interrupt, LocalExecutor,
    Projection, Projector, ScopeOpening, ScopedEffectController, StoreEffectHost,
};
use runtime_store::{Commit, Epoch, Guard, Page, Position, RowChange, RowKey, Store};

use super::busy::Busy;
use crate::store_laws::StoreFixture;
use crate::{FaultStore, SeededRandom, SimulatedClock};

/// A store with its hosts, one after another, as processes come and go.
///
/// Between the hosts and the store stands a [`FaultStore`], so that any commit can go wrong. The
/// clock is simulated; the store may do real I/O.
pub struct World<'fixture> {
    fixture: &'fixture dyn StoreFixture,
    opened: Arc<dyn Store>,
    busy: Busy,
    /// The seed of the latest host: two processes never draw the same ids.
    seed: AtomicU64,
    /// What the hosts write to.
    pub store: Arc<FaultStore>,
    /// The time of the hosts.
    pub clock: SimulatedClock,
    /// The limits of hosts that are made from now on.
    pub limits: EffectLimits,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("store", &self.store)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<'fixture> World<'fixture> {
    /// Opens the storage of a fixture.
    pub async fn new(fixture: &'fixture dyn StoreFixture) -> Self {
        let opened = fixture.open().await;
        let busy = Busy::default();
        Self {
            fixture,
            store: FaultStore::new(busy.watch(&opened)),
            opened,
            busy,
            seed: AtomicU64::new(0),
            clock: SimulatedClock::new(Timestamp::from_millis(1_000_000)),
            limits: EffectLimits::default(),
        }
    }

    /// Ends the process and starts the next one: what is left of the old one can do no more, the
    /// storage is closed and opened again.
    pub async fn restart(&mut self) {
        self.store.crash();
        let opened = Arc::clone(&self.opened);
        self.opened = self.fixture.reopen(opened).await;
        self.store = FaultStore::new(self.busy.watch(&self.opened));
    }

    /// Returns a host, as another instance beside the others has it.
    #[must_use]
    pub fn host(&self) -> StoreEffectHost {
        self.host_over(Arc::clone(&self.store) as _)
    }

    /// Returns a host over a store that stands in front of that of the world.
    #[must_use]
    pub fn host_over(&self, store: Arc<dyn Store>) -> StoreEffectHost {
        StoreEffectHost::new(
            store,
            Arc::new(self.clock.clone()),
            Arc::new(SeededRandom::new(self.next_seed())),
            self.limits,
        )
    }

    /// A seed that no other process of the world has.
    pub(super) fn next_seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }

    /// Reads the kinds of the events of one scope, oldest first.
    pub(super) async fn events_of(&self, scope: &ExecutionScope) -> Vec<String> {
        let stream = scope.stream_key().expect("the scope has a stream");
        let page = Page::after(Position(0), 256);
        let page = self.store.events(Some(&stream), page).await.expect("reads");
        let decoded = page.events.iter().map(|event| event.decode());
        let events: Vec<RuntimeEvent> = decoded.collect::<Result<_, _>>().expect("decodes");
        events
            .iter()
            .map(|event| event.kind().to_string())
            .collect()
    }

    /// Returns the promises of a host of its own.
    pub async fn promises(&self) -> AwaitEvents {
        self.host().await_events().await.expect("loads")
    }

    /// Puts the epoch row of the scope, as the commit that starts or resumes a turn does.
    pub async fn next_epoch(&self, scope: &ExecutionScope) -> Epoch {
        let store = &self.store;
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

    /// Opens the scope under its next epoch.
    pub async fn open<'run>(
        &self,
        host: &'run StoreEffectHost,
        scope: &ExecutionScope,
    ) -> ScopedEffectController<'run> {
        let epoch = self.next_epoch(scope).await;
        host.scoped(opening(scope, epoch)).expect("opens")
    }

    /// Drives a future; whenever it stands still, time moves on to the next wait.
    pub async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Some(value) = self.until_still(future.as_mut()).await {
                return value;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "stands still, and nothing is waited for"
            );
        }
    }

    /// Polls a future until it stands still; says false if it ended.
    pub async fn stands_still<T>(&self, future: Pin<&mut impl Future<Output = T>>) -> bool {
        self.until_still(future).await.is_none()
    }

    async fn until_still<T>(&self, mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        for _ in 0..8 {
            let poll = |context: &mut Context<'_>| match future.as_mut().poll(context) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                // It does not stand still: the store will wake it.
                Poll::Pending if self.busy.is_busy() => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            };
            let ended = std::future::poll_fn(poll).await;
            if ended.is_some() {
                return ended;
            }
            tokio::task::yield_now().await;
        }
        None
    }

    /// Says whether the store is at work.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.busy.is_busy()
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        runtime_core::Clock::now(&self.clock)
    }

    /// Reads all events, oldest first.
    pub async fn events(&self) -> Vec<RuntimeEvent> {
        let page = Page::after(Position(0), 256);
        let page = self.store.events(None, page).await.expect("reads");
        let decoded = page.events.iter().map(|event| event.decode());
        decoded.collect::<Result<_, _>>().expect("decodes")
    }

    /// Reads the kinds of all events, oldest first.
    pub async fn kinds(&self) -> Vec<String> {
        let events = self.events().await;
        events
            .iter()
            .map(|event| event.kind().to_string())
            .collect()
    }
}

/// Opens a scope with one event for each step of an effect.
#[must_use]
pub fn opening(scope: &ExecutionScope, epoch: Epoch) -> ScopeOpening {
    ScopeOpening::new(scope.clone(), epoch, Arc::new(PlainProjector))
}

/// Makes an id that no other commit of this process has.
#[must_use]
pub fn fresh_id() -> CommitId {
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

/// Names the scope of a turn.
///
/// # Panics
/// When an id is not legal.
#[must_use]
pub fn turn(session: &str, turn: &str) -> ExecutionScope {
    ExecutionScope::Turn {
        session: session.parse().expect("legal"),
        turn: turn.parse().expect("legal"),
    }
}

/// Names the scope of the first turn of session `desk`.
#[must_use]
pub fn desk() -> ExecutionScope {
    turn("desk", "1")
}

/// Makes a tool call; `tool` changes its identity.
#[must_use]
pub fn tool_call(scope: &ExecutionScope, ordinal: u32, tool: &str) -> EffectEnvelope {
    let command = ToolCallCommand {
        call: CallId::new(format!("call-{ordinal}")).expect("legal"),
        tool: tool.to_owned(),
        arguments: Digest::of_bytes(b"{}"),
    };
    let key = ReplayKey::turn(1, EffectKind::ToolCall, ordinal);
    EffectEnvelope::new(scope.clone(), key, EffectCommand::ToolCall(command)).expect("consistent")
}

/// Makes a policy of so many attempts.
#[must_use]
pub fn patient(attempts: u32) -> RetryPolicy {
    RetryPolicy {
        max_attempts: attempts,
        backoff_initial: Duration::from_millis(100),
        backoff_max: Duration::from_millis(400),
        attempt_timeout: Duration::from_secs(10),
    }
}

/// Names a promise by a key of its own.
#[must_use]
pub fn custom(key: &str) -> WaitIdentity {
    WaitIdentity::Custom {
        key: key.to_owned(),
    }
}

/// Makes a wait for a promise, and until a time if given.
#[must_use]
pub fn wait_for(
    scope: &ExecutionScope,
    identity: &WaitIdentity,
    at_most: Option<Duration>,
) -> EffectEnvelope {
    let promise = WaitSource::Promise {
        identity: identity.clone(),
        call: Some(CallId::new("call-0").expect("legal")),
        tool: Some("write".to_owned()),
        asks: None,
    };
    let time = at_most.map(|duration| WaitSource::After { duration });
    let sources = [Some(promise), time].into_iter().flatten().collect();
    let key = ReplayKey::turn(1, EffectKind::AwaitEvent, 0);
    let command = EffectCommand::AwaitEvent { sources };
    EffectEnvelope::new(scope.clone(), key, command).expect("consistent")
}

/// Makes what a tool gives.
#[must_use]
pub fn result(text: &str) -> EffectOutput {
    let call = CallId::new("call-0").expect("legal");
    EffectOutput::ToolCall(ToolCallOutput::Finished {
        result: ToolResult::text(call, text),
        spent: None,
    })
}

/// Makes an error of a class.
#[must_use]
pub fn failure(class: ErrorClass, applied: Applied) -> ExecutorError {
    ExecutorError {
        error: WireError::new("test_failure", class, "the test wants it so"),
        applied,
    }
}

/// How often the executors of one effect ran.
#[derive(Debug, Clone, Default)]
pub struct Runs(Arc<AtomicU32>);

impl Runs {
    /// Says how often it ran.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn begin(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Makes an executor that succeeds.
    #[must_use]
    pub fn succeeds<'run>(&self, text: &'static str) -> LocalExecutor<'run> {
        self.answers(move |_| Ok(result(text)))
    }

    /// Makes an executor that answers by the number of its run, from 1.
    pub fn answers<'run>(
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

    /// Makes an executor that never ends.
    #[must_use]
    pub fn hangs<'run>(&self) -> LocalExecutor<'run> {
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

/// Fails unless the interrupt is terminal and has this code.
///
/// # Panics
/// When it is another.
pub fn assert_terminal(result: Result<EffectOutcome, Interrupt>, code: &str) {
    match result {
        Err(Interrupt::Terminal(error)) => assert_eq!(error.code, code),
        other => panic!("{other:?} is not {code}"),
    }
}
