//! One process that has the runtime open: the parts, the tasks it owns, and their end.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{Either, join, select};
use runtime_agent::{LiveSink, TurnDelta};
use runtime_core::{
    CallId, Classified, Clock, CommitId, ErrorClass, EventDraft, EventKind, ExecutionScope, Random,
    ReplayKey, RuntimeId, WaitIdentity, WireError, WorkerId,
};
use runtime_effects::{
    AwaitEvents, EffectLimits, Lease, LeaseKeeper, StoreEffectHost, TokenRights,
    WorkflowCloseReport,
};
use runtime_events::{Delta, EventHub};
use runtime_store::{Commit, CommitError, Committed, Store, commit_settled};
use runtime_tools::{CompletionKeys, Delegates};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::JoinSet;

use crate::background::Background;
use crate::carried::event_hub;
use crate::delegate::SubAgents;
use crate::entity::{Settings, Standing};
use crate::places::PlaceLine;
use crate::runtime::{CloseReport, RuntimeParts};
use crate::session::Sessions;
use crate::{
    Admission, AgentLease, AgentResolver, CommandAnswer, CreateWorker, RuntimeConfig, RuntimeError,
    WorkerRecord,
};

const FAILURES_KEPT: usize = 64;

/// What the tasks of an instance share.
pub(crate) struct Instance {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) agents: Arc<dyn AgentResolver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) config: RuntimeConfig,
    pub(crate) host: StoreEffectHost,
    pub(crate) promises: AwaitEvents,
    pub(crate) completions: Arc<Completions>,
    pub(crate) hub: EventHub,
    pub(crate) sessions: Sessions,
    /// One permit for each turn that may be driven at once.
    pub(crate) permits: Semaphore,
    /// Where turns wait for a place in the whole runtime.
    pub(crate) places: PlaceLine,
    /// As the store has them; read once, at opening.
    pub(crate) settings: RwLock<Arc<Settings>>,
    /// Whether the runtime takes changes, as last read.
    pub(crate) standing: Mutex<Option<Standing>>,
    /// Keeps the lease of this instance, where the store is shared.
    pub(crate) keeper: Option<LeaseKeeper>,
    pub(crate) lease: Lease,
    tasks: Mutex<JoinSet<()>>,
    failures: Mutex<VecDeque<Failure>>,
    /// Counts failures, so that whoever waits for a turn hears of them.
    failed: watch::Sender<u64>,
    intake_closed: AtomicBool,
    closing: watch::Sender<bool>,
    closed: OnceCell<CloseReport>,
    /// Who starts sub-agents; set once the instance has its place.
    delegates: OnceLock<Arc<dyn Delegates>>,
    /// The processes of the runtime.
    pub(crate) background: Background,
}

/// A failure that no answer and no event could carry.
struct Failure {
    /// Which one, from 1.
    number: u64,
    worker: Option<WorkerId>,
    error: WireError,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Shows the pieces of streaming answers to whoever watches.
#[derive(Debug)]
pub(crate) struct Watchers<'a>(&'a EventHub);

impl LiveSink for Watchers<'_> {
    fn started(&self, scope: &ExecutionScope, call: &ReplayKey, attempt: u32) {
        if let ExecutionScope::Turn { session, turn } = scope {
            let (session, turn) = (session.clone(), turn.clone());
            let started = Delta::started(session, turn, call.to_string(), attempt);
            self.0.publish_delta(started);
        }
    }

    fn delta(&self, delta: TurnDelta) {
        let ExecutionScope::Turn { session, turn } = delta.scope else {
            return;
        };
        let Some((target, text)) = Delta::parts(&delta.event) else {
            return;
        };
        self.0.publish_delta(Delta {
            session,
            turn,
            call: delta.call.to_string(),
            attempt: delta.attempt,
            index: delta.index,
            pieces: 1,
            target,
            text: text.to_owned(),
        });
    }
}

/// Makes the keys by which calls are completed from outside.
#[derive(Debug)]
pub(crate) struct Completions(AwaitEvents);

#[async_trait]
impl CompletionKeys for Completions {
    async fn completion_key(
        &self,
        scope: &ExecutionScope,
        call: &CallId,
    ) -> Result<String, WireError> {
        let identity = WaitIdentity::ToolCompletion { call: call.clone() };
        let token = self.0.mint(scope, &identity, TokenRights::RESOLVE, None);
        let token = token.await.map_err(|error| error.to_wire())?;
        Ok(token.expose().to_owned())
    }
}

impl Instance {
    pub(crate) async fn open(parts: RuntimeParts) -> Result<Self, RuntimeError> {
        let keeper = Self::keeper_for(&parts)?;
        let lease = keeper.as_ref().map(LeaseKeeper::lease).unwrap_or_default();
        let RuntimeParts {
            store,
            agents,
            clock,
            random,
            config,
            events,
            ..
        } = parts;
        let hub = event_hub(store, Arc::clone(&clock), Arc::clone(&random), events);
        // Everything is committed through the hub's store, so that watchers hear of it.
        let store = hub.store();
        let limits = EffectLimits {
            park_after: config.park_after,
            commit_tries_max: config.commit_attempts_max,
            commit_pause: config.commit_pause,
            ..EffectLimits::default()
        };
        let host = StoreEffectHost::leased(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&random),
            limits,
            lease.clone(),
        );
        let promises = host.await_events().await?;
        let processes = host.processes(config.processes).await?;
        let permits = Semaphore::new(config.turns_max.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self {
            store,
            agents,
            clock,
            random,
            config,
            host,
            completions: Arc::new(Completions(promises.clone())),
            promises,
            hub,
            sessions: Sessions::default(),
            permits,
            places: PlaceLine::default(),
            settings: RwLock::default(),
            standing: Mutex::default(),
            keeper,
            lease,
            tasks: Mutex::default(),
            failures: Mutex::default(),
            failed: watch::Sender::new(0),
            intake_closed: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            closed: OnceCell::new(),
            delegates: OnceLock::new(),
            background: Background::new(processes),
        })
    }

    /// Lets turns start sub-agents.
    pub(crate) fn let_delegate(self: &Arc<Self>) {
        let delegates = Arc::new(SubAgents(Arc::downgrade(self)));
        // Set once, right after it was made.
        let _ = self.delegates.set(delegates);
    }

    pub(crate) fn delegates(&self) -> Option<&Arc<dyn Delegates>> {
        self.delegates.get()
    }

    pub(crate) fn live_sink(&self) -> Watchers<'_> {
        Watchers(&self.hub)
    }

    pub(crate) fn runtime_id(&self) -> &RuntimeId {
        &self.store.identity().runtime
    }

    /// Refuses once the intake is closed.
    pub(crate) fn accepting(&self) -> Result<(), RuntimeError> {
        if self.intake_closed.load(Ordering::Acquire) {
            return Err(RuntimeError::Closed);
        }
        Ok(())
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Runs a future until the instance closes; none when it closed first.
    pub(crate) async fn until_closed<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut closing = self.closing.subscribe();
        let closed = std::pin::pin!(closing.wait_for(|closing| *closing));
        match select(std::pin::pin!(future), closed).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    /// Starts a task that `close` awaits.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended tasks are let go here, so that the set does not grow with history.
        while let Some(ended) = tasks.try_join_next() {
            self.note_panic(ended);
        }
        tasks.spawn(task);
    }

    fn note_panic(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            let wire = WireError::new("task_panicked", ErrorClass::Terminal, error);
            self.report_failure(None, wire);
        }
    }

    /// Keeps a failure that no answer and no event could carry.
    pub(crate) fn report_failure(&self, worker: Option<&WorkerId>, error: WireError) {
        tracing::error!(
            worker = worker.map(WorkerId::as_str),
            code = error.code,
            "{error}"
        );
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == FAILURES_KEPT {
            failures.pop_front();
        }
        let number = *self.failed.borrow() + 1;
        failures.push_back(Failure {
            number,
            worker: worker.cloned(),
            error,
        });
        // Under the lock, so that numbers are given in order.
        self.failed.send_replace(number);
    }

    /// Returns a signal that changes with each failure.
    pub(crate) fn failures_changed(&self) -> watch::Receiver<u64> {
        self.failed.subscribe()
    }

    /// Returns the newest failure of a worker after the one of that number.
    pub(crate) fn failure_of(&self, worker: &WorkerId, after: u64) -> Option<WireError> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = failures.iter().rev();
        let mut newer = newer.take_while(|failure| failure.number > after);
        newer
            .find(|failure| failure.worker.as_ref() == Some(worker))
            .map(|failure| failure.error.clone())
    }

    /// Says whether the newest failure is this one: a failure that lasts is reported once.
    pub(crate) fn is_reported(&self, error: &WireError) -> bool {
        self.newest_failure().as_ref() == Some(error)
    }

    /// Returns the newest failure.
    pub(crate) fn newest_failure(&self) -> Option<WireError> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.back().map(|failure| failure.error.clone())
    }

    /// Returns the agent of a worker.
    pub(crate) async fn agent(&self, worker: &WorkerRecord) -> Result<AgentLease, RuntimeError> {
        self.asked(self.agents.resolve(worker)).await
    }

    /// Decides on a request for a worker.
    pub(crate) async fn admit(&self, request: &CreateWorker) -> Result<Admission, RuntimeError> {
        self.asked(self.agents.admit(request)).await
    }

    /// Lets the host carry out a command of its own.
    pub(crate) async fn carry_out(
        &self,
        id: Option<CommitId>,
        name: &str,
        body: Value,
    ) -> Result<CommandAnswer, RuntimeError> {
        let time = self.store.id_time(self.clock.now());
        let id = id.unwrap_or_else(|| CommitId::generate(time, self.random.ten()));
        self.asked(self.agents.carry_out(id, name, body)).await
    }

    /// Waits for the resolver. It is the host's: its panic is its answer, and it keeps nobody from
    /// closing (E9).
    async fn asked<T>(
        &self,
        answer: impl Future<Output = Result<T, WireError>>,
    ) -> Result<T, RuntimeError> {
        let answer = AssertUnwindSafe(answer);
        match self.until_closed(answer.catch_unwind()).await {
            None => Err(RuntimeError::Closed),
            Some(Ok(answer)) => Ok(answer?),
            Some(Err(panic)) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                let text: String = text.unwrap_or("no text").chars().take(512).collect();
                let message = format!("the agent resolver panicked: {text}");
                let error =
                    WireError::new("agent_resolver_panicked", ErrorClass::Terminal, message);
                Err(error.into())
            }
        }
    }

    /// Commits until the fate of the commit is known.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let (attempts, pause) = (self.config.commit_attempts_max, self.config.commit_pause);
        commit_settled(&*self.store, &*self.clock, commit, attempts, pause).await
    }

    /// Stops the intake, lets the running turns go on for a while, ends the tasks, flushes (U3).
    ///
    /// Callers that come later wait for the first; if its future is dropped, the next goes on.
    pub(crate) async fn close(&self) -> Result<CloseReport, RuntimeError> {
        let report = self.closed.get_or_try_init(|| self.close_once()).await?;
        Ok(report.clone())
    }

    async fn close_once(&self) -> Result<CloseReport, RuntimeError> {
        self.intake_closed.store(true, Ordering::Release);
        self.sessions.drain();
        let turns = async {
            let drained = self.sessions.settled();
            let patience = self.clock.sleep(self.config.drain_timeout);
            let _ = select(std::pin::pin!(drained), patience).await;
        };
        let processes = async {
            match self.background.workflows() {
                Some(workflows) => workflows.close().await,
                None => WorkflowCloseReport::default(),
            }
        };
        let ((), processes) = join(turns, processes).await;
        let interrupted = self.sessions.driven();
        self.closing.send_replace(true);
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tasks.join_next().await {
            self.note_panic(ended);
        }
        if let Err(error) = self.agents.close().await {
            self.report_failure(None, error);
        }
        let failures = {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            let errors = failures.iter().map(|failure| failure.error.clone());
            errors.chain(processes.failures).collect()
        };
        let left = self.leave_peers().await;
        let closed = EventDraft::new(EventKind::RuntimeClosed)
            .with_payload(json!({ "interrupted": interrupted }));
        let commit = self.new_commit(None).event(self.new_event(&closed));
        let commit = self.without_open_mark(commit);
        let told = self.commit(commit).await;
        self.hub.close().await;
        self.store.close().await?;
        left?;
        told?;
        Ok(CloseReport {
            interrupted,
            interrupted_processes: processes.interrupted,
            failures,
        })
    }
}
