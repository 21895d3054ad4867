//! The protocols of leases and batches under a model checker (R10).
//!
//! What runs is the product's own code: hosts, controllers, lease keepers. Below it stands a
//! [`Table`], the store in memory with a point of choice before and after each commit and read;
//! the time is a number that a thread of the model moves. A planted fault is a table that leaves
//! something out of a commit, or a process that is set up wrongly; the checker must find it.

use std::fmt;
use std::sync::Mutex as StdMutex;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    Clock, CommitId, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput,
    EventDraft, EventKind, ExecutionScope, Random, ReplayKey, Sleep, Timestamp,
};
use runtime_store::{
    Commit, CommitError, Committed, Epoch, Guard, MemoryStore, Page, Position, ReadError, Row,
    RowChange, RowKey, RowPage, RowQuery, Store, StoreLayer,
};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::{future, thread};

use crate::journal::{EffectState, Recorded};
use crate::recording::EFFECT_SPACE;
use crate::{
    EffectHost, EffectLimits, LocalExecutor, Projection, Projector, ScopeOpening, StoreEffectHost,
};

mod batch;
mod lease;

/// Schedules of each scenario.
const SCHEDULES: usize = 20_000;

/// Room for a whole host and its store on the stack of one thread of a model, in bytes.
const STACK_BYTES: usize = 1 << 20;

/// Checks a scenario under random schedules.
fn check(scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    let scheduler = shuttle::scheduler::RandomScheduler::new(SCHEDULES);
    shuttle::Runner::new(scheduler, config).run(scenario);
}

fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(body)
}

fn joined<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("ends")
}

/// What a planted fault leaves out of the commits of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    /// The fence: whose commit it is, and of which epoch.
    Owner,
    /// The guards on lease rows.
    LeaseGuards,
}

/// A store in memory whose every commit and read is a point of choice.
#[derive(Debug, Clone)]
struct Table {
    inner: MemoryStore,
    left_out: LeftOut,
}

impl Table {
    fn new() -> Self {
        Self::leaving_out(LeftOut::Nothing)
    }

    fn leaving_out(left_out: LeftOut) -> Self {
        Self {
            inner: MemoryStore::new("model".parse().expect("legal")),
            left_out,
        }
    }

    /// How many events of a kind there are.
    async fn told(&self, kind: &EventKind) -> usize {
        let page = Page::after(Position(0), 256);
        let page = self.inner.events(None, page).await.expect("reads");
        let decoded = page
            .events
            .iter()
            .map(|event| event.decode().expect("decodes"));
        decoded.filter(|event| event.kind() == kind).count()
    }

    /// The rows of the effects of a scope.
    async fn effects(&self, scope: &ExecutionScope) -> Vec<Recorded> {
        let query = RowQuery::scope(EFFECT_SPACE, scope.scope_id());
        let page = self.inner.rows(query, Page::after(None, 256)).await;
        let rows = page.expect("reads").rows;
        rows.iter()
            .map(|row| Recorded::decode(row).expect("is whole"))
            .collect()
    }
}

/// Lets the checker run somebody else.
async fn choice() {
    future::yield_now().await;
}

#[async_trait]
impl StoreLayer for Table {
    fn below(&self) -> &dyn Store {
        &self.inner
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        choice().await;
        match self.left_out {
            LeftOut::Nothing => {}
            LeftOut::Owner => commit.owner = None,
            LeftOut::LeaseGuards => commit.guards.retain(|guard| match guard {
                Guard::Version(key, _) => &*key.space != crate::lease::LEASE_SPACE,
                _ => true,
            }),
        }
        let committed = self.inner.commit(commit).await;
        // The answer travels, too.
        choice().await;
        committed
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        let row = self.inner.row(key).await;
        choice().await;
        row
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        let rows = self.inner.rows(query, page).await;
        choice().await;
        rows
    }
}

/// Time that only [`advance`](ModelClock::advance) moves.
#[derive(Clone, Default)]
struct ModelClock(Arc<shuttle::sync::Mutex<Time>>);

#[derive(Default)]
struct Time {
    now: Duration,
    sleepers: Vec<(Duration, Waker)>,
}

impl fmt::Debug for ModelClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelClock")
    }
}

impl ModelClock {
    fn advance(&self, by: Duration) {
        let due = {
            let mut time = self.0.lock().expect("no thread panics");
            time.now += by;
            let now = time.now;
            let (due, later): (Vec<_>, Vec<_>) =
                time.sleepers.drain(..).partition(|(at, _)| *at <= now);
            time.sleepers = later;
            due
        };
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Clock for ModelClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_000_000).after(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().expect("no thread panics").now
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let time = Arc::clone(&self.0);
        let at = self.monotonic().saturating_add(duration);
        Box::pin(std::future::poll_fn(move |context| {
            let mut time = time.lock().expect("no thread panics");
            if time.now >= at {
                return Poll::Ready(());
            }
            time.sleepers.push((at, context.waker().clone()));
            Poll::Pending
        }))
    }
}

/// Bytes that are not the same twice, in one process or two.
#[derive(Debug, Default)]
struct Counter(StdMutex<u64>);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        let mut count = self.0.lock().expect("no thread panics");
        *count += 1;
        let spread = count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        for (byte, value) in bytes.iter_mut().zip(spread.iter().cycle()) {
            *byte = *value;
        }
    }
}

/// One event for each step.
#[derive(Debug)]
struct Plain;

impl Projector for Plain {
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

fn scope() -> ExecutionScope {
    ExecutionScope::Process {
        process: "p".parse().expect("legal"),
    }
}

fn step(name: &str) -> EffectEnvelope {
    let command = EffectCommand::DurableStep {
        name: name.to_owned(),
        input: None,
    };
    let key = ReplayKey::step(name, 0).expect("legal");
    EffectEnvelope::new(scope(), key, command).expect("consistent")
}

fn value(value: u32) -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::DurableStep {
        value: value.into(),
    })
}

/// How often the bodies of an effect ran.
#[derive(Debug, Clone, Default)]
struct Runs(Arc<AtomicU32>);

impl Runs {
    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// An executor that takes a while.
    fn executor<'run>(&self, gives: u32) -> LocalExecutor<'run> {
        let runs = self.clone();
        LocalExecutor::new(EffectKind::DurableStep, move |_| {
            let runs = runs.clone();
            async move {
                runs.0.fetch_add(1, Ordering::SeqCst);
                choice().await;
                Ok(EffectOutput::DurableStep {
                    value: gives.into(),
                })
            }
        })
    }
}

fn host_over(table: &Table, clock: &ModelClock) -> StoreEffectHost {
    StoreEffectHost::new(
        std::sync::Arc::new(table.clone()),
        std::sync::Arc::new(clock.clone()),
        std::sync::Arc::new(Counter::default()),
        EffectLimits::default(),
    )
}

/// Puts the next epoch of the scope, as whoever opens it does.
async fn next_epoch(table: &Table, number: u64) -> Epoch {
    let key = RowKey::epoch(scope().scope_id());
    let version = table
        .inner
        .row(&key)
        .await
        .expect("reads")
        .map(|row| row.version);
    let time = Timestamp::from_millis(number);
    let commit =
        Commit::new(CommitId::generate(time, [9; 10]), time).row(RowChange::put(key, Vec::new()));
    table.inner.commit(commit).await.expect("commits");
    Epoch(version.unwrap_or(0) + 1)
}

fn opening(epoch: Epoch) -> ScopeOpening {
    ScopeOpening::new(scope(), epoch, std::sync::Arc::new(Plain))
}

/// How many outcomes are recorded, by their rows.
async fn ended(table: &Table) -> usize {
    let effects = table.effects(&scope()).await;
    effects
        .iter()
        .filter(|effect| effect.row.state == EffectState::Done)
        .count()
}

type Driven = Vec<Result<EffectOutcome, crate::Interrupt>>;

/// Drives a batch of two effects, the first of which must not run twice.
async fn drive(host: &StoreEffectHost, opening: ScopeOpening, runs: &[Runs; 2]) -> Driven {
    let controller = host.scoped(opening).expect("opens");
    let once = step("once");
    let often = step("often").retry_safe(true);
    let items = vec![(once, runs[0].executor(1)), (often, runs[1].executor(2))];
    controller.execute_batch(items).await
}
