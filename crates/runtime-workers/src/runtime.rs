//! The runtime: one durable identity, opened by one instance.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use runtime_agent::Agent;
use runtime_core::{
    Clock, EffectOutcome, EffectOutput, ErrorClass, EventDraft, EventKind, ProcessRegistration,
    Random, RuntimeId, SessionId, SubmissionId, Tier, Topic, TurnId, WireError, WorkerId,
    WorkerRef,
};
use runtime_effects::{Functions, Processes, WorkflowRun};
use runtime_events::{
    Cursor, EventHub, EventRead, EventStream, HubParts, Retained, RetentionPolicy, StreamItem,
};
use runtime_store::{Position, ReadError, Store, SystemClock, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::agents::OneAgent;
use crate::carried::Said;
use crate::instance::Instance;
use crate::session::Wake;
use crate::view::{PendingItem, WorkerPage};
use crate::{
    AgentResolver, Command, CommandAnswer, CreateWorker, Diagnostic, InputReceipt, RuntimeConfig,
    RuntimeError, RuntimeLimits, RuntimeReceipt, RuntimeSummary, SystemInputReceipt, Transcript,
    WhenBusy, Worker, WorkerReceipt, WorkerStatus,
};

/// What a runtime is made of.
#[derive(Debug, Clone)]
pub struct RuntimeParts {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Who works for whom.
    pub agents: Arc<dyn AgentResolver>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The randomness.
    pub random: Arc<dyn Random>,
    /// How this instance works.
    pub config: RuntimeConfig,
    /// How the log is watched: bounds, live fan-out, who may read what.
    pub events: HubParts,
    /// What people call the runtime; none keeps what is stored.
    pub display_name: Option<String>,
    /// What an acknowledgement must survive at least: opening refuses a store of a lower tier.
    pub tier_min: Tier,
    /// What the runtime accepts; none keeps what is stored, at first the defaults.
    pub limits: Option<RuntimeLimits>,
    /// What runs processes: durable functions by name, other inputs by kind (E15).
    pub functions: Functions,
    /// Whether every unfinished turn and process goes on at once when the runtime opens.
    pub resume: bool,
    /// Whether turns and processes go on here at all. An instance that drives none takes inputs, answers and
    /// other commands for one that does: what is behind them is left to the next opening, or to
    /// another instance.
    pub drive: bool,
}

impl RuntimeParts {
    /// One agent for every worker, the machine's clock, default limits.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, agent: Arc<Agent>) -> Self {
        Self::with_agents(store, Arc::new(OneAgent(agent)))
    }

    /// An agent for each worker, as the resolver says.
    #[must_use]
    pub fn with_agents(store: Arc<dyn Store>, agents: Arc<dyn AgentResolver>) -> Self {
        Self {
            store,
            agents,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
            config: RuntimeConfig::default(),
            events: HubParts::default(),
            display_name: None,
            tier_min: Tier::Volatile,
            limits: None,
            functions: Functions::default(),
            resume: true,
            drive: true,
        }
    }
}

impl RuntimeParts {
    /// Checks that the parts fit together; the refusal names everything that does not (C7).
    fn check(&self) -> Result<(), RuntimeError> {
        let has = self.store.capabilities();
        let mut offending = Vec::new();
        if has.tier < self.tier_min {
            let (tier, min) = (has.tier, self.tier_min);
            offending.push(format!("store: its tier is {tier}, and {min} is asked for"));
        }
        let limits = self.limits.iter().flat_map(RuntimeLimits::zeros);
        offending.extend(limits.map(|limit| format!("limits: {limit} is 0")));
        let config = self.config.zeros();
        offending.extend(config.map(|setting| format!("config: {setting} is 0")));
        if has.shared_by_processes
            && let Err(error) = self.config.lease.check()
        {
            offending.push(format!("lease: {error}"));
        }
        match offending.is_empty() {
            true => Ok(()),
            false => Err(RuntimeError::Parts { offending }),
        }
    }
}

/// What closing did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CloseReport {
    /// Turns that were running when the drain ended; they go on when the runtime opens again.
    pub interrupted: usize,
    /// Processes that were driven when the drain ended; they go on likewise.
    pub interrupted_processes: usize,
    /// What failed while the runtime was open, the newest last; at most 64.
    pub failures: Vec<WireError>,
}

/// A runtime, opened. Clones share it.
///
/// # Cancel safety
/// Dropping a future of an operation forgets its answer, not what it has committed. Dropping the
/// last clone without [`close`](Self::close) ends the turns' tasks with the async runtime; they go
/// on when the runtime opens again.
#[derive(Debug, Clone)]
pub struct Runtime {
    instance: Arc<Instance>,
}

impl Runtime {
    /// Opens a runtime over a store and, if so asked, lets every unfinished turn go on.
    ///
    /// # Errors
    /// [`RuntimeError::Parts`] names everything that does not fit together; then nothing was
    /// written. [`RuntimeError`] when the store cannot be read or written.
    pub async fn open(parts: RuntimeParts) -> Result<Self, RuntimeError> {
        parts.check()?;
        let (resume, drive) = (parts.resume, parts.drive);
        let (display_name, limits) = (parts.display_name.clone(), parts.limits);
        let functions = parts.functions.clone();
        let instance = Arc::new(Instance::open(parts).await?);
        if !drive {
            instance.sessions.drain();
        }
        instance.join_peers().await?;
        instance.let_delegate();
        instance.open_entity(display_name, limits).await?;
        let runtime = Self { instance };
        runtime.instance.start_housekeeping();
        runtime.instance.start_retention();
        if drive {
            runtime.instance.open_processes(functions, resume).await?;
        }
        if resume && drive {
            runtime.resume_unfinished().await?;
        }
        Ok(runtime)
    }

    /// Returns the identity of the runtime.
    #[must_use]
    pub fn id(&self) -> &RuntimeId {
        self.instance.runtime_id()
    }

    /// Returns the store, for reading: see [`view`](crate::view).
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.instance.store
    }

    /// Creates a worker, or gives back the one that the same request created.
    ///
    /// # Errors
    /// [`RuntimeError::WorkerExists`] when another request created it,
    /// [`RuntimeError::RequestConflict`] when the request id was used otherwise, what
    /// [`CreateWorker::validate`] refuses, and what the [`AgentResolver`] refuses, such as an
    /// unknown profile. Nothing was created.
    pub async fn create(&self, request: CreateWorker) -> Result<WorkerReceipt, RuntimeError> {
        self.instance.create(request).await
    }

    /// Takes up a worker by its reference.
    ///
    /// # Errors
    /// [`RuntimeError::OtherRuntime`], [`RuntimeError::UnknownWorker`].
    pub async fn attach(&self, reference: &WorkerRef) -> Result<Worker, RuntimeError> {
        self.instance.check_reference(reference)?;
        crate::view::worker(self.store(), &reference.worker_id).await?;
        Ok(Worker::new(self.clone(), reference.clone()))
    }

    /// Reads the runtime at a glance. It counts its workers one by one.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store cannot be read.
    pub async fn summary(&self) -> Result<RuntimeSummary, RuntimeError> {
        crate::view::summary(self.store()).await
    }

    /// Lists workers by id, after one of them, at most so many: see [`view::list`](crate::view).
    ///
    /// # Errors
    /// [`RuntimeError::LimitZero`], or when the store cannot be read.
    pub async fn list(
        &self,
        after: Option<&WorkerId>,
        limit: usize,
    ) -> Result<WorkerPage, RuntimeError> {
        crate::view::list(self.store(), after, limit).await
    }

    /// Reads the diagnostics of one worker, or of the runtime and all workers.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store cannot be read.
    pub async fn diagnostics(
        &self,
        worker: Option<&WorkerId>,
    ) -> Result<Vec<Diagnostic>, RuntimeError> {
        crate::view::diagnostics(self.store(), worker).await
    }

    /// Stops the runtime and all its workers: it can be read, and takes no changes until it is
    /// [reopened](Self::reopen). Stopping again answers with the first event, and stops workers
    /// that a stop which was cut off has left.
    ///
    /// # Errors
    /// [`RuntimeError`].
    pub async fn stop(&self, reason: Option<String>) -> Result<RuntimeReceipt, RuntimeError> {
        self.instance.stop_runtime(reason, None).await
    }

    /// Lets a stopped runtime take changes again. Its workers stay stopped: each is resumed by
    /// itself.
    ///
    /// # Errors
    /// [`RuntimeError`].
    pub async fn reopen(&self) -> Result<RuntimeReceipt, RuntimeError> {
        self.instance.reopen_runtime(None).await
    }

    /// Stops a worker: it takes no inputs, its queued turns wait, and a turn that runs begins no
    /// further effect, until the worker is [resumed](Self::resume). Stopping again answers with
    /// the first event.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing has changed, unless the class is Indeterminate.
    pub async fn stop_worker(
        &self,
        worker: &WorkerId,
        reason: Option<String>,
    ) -> Result<WorkerReceipt, RuntimeError> {
        self.change(worker, WorkerStatus::Stopped, reason).await
    }

    /// Lets a stopped worker go on in a new run generation: the turns of its earlier self are
    /// fenced, wherever they run, and go on from what is recorded (W6).
    ///
    /// # Errors
    /// [`RuntimeError::WorkerStatus`] when it was cancelled or deleted.
    pub async fn resume(&self, worker: &WorkerId) -> Result<WorkerReceipt, RuntimeError> {
        self.change(worker, WorkerStatus::Running, None).await
    }

    /// Cancels a worker and what it does, for good.
    ///
    /// # Errors
    /// [`RuntimeError::WorkerStatus`] when it was deleted.
    pub async fn cancel(
        &self,
        worker: &WorkerId,
        reason: Option<String>,
    ) -> Result<WorkerReceipt, RuntimeError> {
        self.change(worker, WorkerStatus::Cancelled, reason).await
    }

    /// Deletes a worker, for good: what it does is cancelled, its promises are revoked, and it
    /// takes nothing any more. Its history stays readable.
    ///
    /// A process that nobody else holds is not ended by that (E15), unless it is bound to its
    /// owner. Nobody can keep the promises that it waits for any more, so it sees them cancelled
    /// (E13) and says itself how it ends.
    ///
    /// # Errors
    /// [`RuntimeError`].
    pub async fn delete(
        &self,
        worker: &WorkerId,
        reason: Option<String>,
    ) -> Result<WorkerReceipt, RuntimeError> {
        self.change(worker, WorkerStatus::Deleted, reason).await
    }

    /// Erases what a deleted worker and its users have said: its rows but a tombstone, and the
    /// payloads of its session's events, whose places stay as stubs (V4). The store frees the
    /// bytes when it next cleans. Says whether that is new.
    ///
    /// # Errors
    /// [`RuntimeError::NotPurgeable`] unless it is deleted and its turns have ended.
    pub async fn purge(&self, worker: &WorkerId) -> Result<bool, RuntimeError> {
        self.instance.purge(worker, None).await
    }

    async fn change(
        &self,
        worker: &WorkerId,
        to: WorkerStatus,
        reason: Option<String>,
    ) -> Result<WorkerReceipt, RuntimeError> {
        let changed = self
            .instance
            .change_status(worker, to, &reason, None, false)
            .await?;
        if changed.status == to {
            return Ok(changed);
        }
        Err(RuntimeError::WorkerStatus {
            worker: worker.clone(),
            status: changed.status,
        })
    }

    /// Reads a page of a worker's transcript: at most `limit` entries from the sequence `start`
    /// on, which counts from 1. Past the end it is empty. The messages of a turn are entries once
    /// the turn has ended.
    ///
    /// # Errors
    /// [`RuntimeError::LimitZero`], [`RuntimeError::UnknownWorker`], or when the store cannot be
    /// read.
    pub async fn transcript(
        &self,
        worker: &WorkerId,
        start: u64,
        limit: usize,
    ) -> Result<Transcript, RuntimeError> {
        crate::view::transcript(self.store(), worker, start, limit).await
    }

    /// Returns the assistant of that name; creates it if there is none.
    ///
    /// # Errors
    /// As [`create`](Self::create), and when the name is no worker id.
    pub async fn worker(&self, name: &str) -> Result<Worker, RuntimeError> {
        let id: WorkerId = name.parse()?;
        let reference = WorkerRef {
            runtime_id: self.id().clone(),
            worker_id: id.clone(),
        };
        match crate::view::worker(self.store(), &id).await {
            Ok(_) => {}
            Err(RuntimeError::UnknownWorker { .. }) => {
                match self.create(CreateWorker::assistant(id)).await {
                    // Another process that asked for it at the same time has created it.
                    Ok(_) | Err(RuntimeError::WorkerExists { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Worker::new(self.clone(), reference))
    }

    /// Sends an input under a fresh submission id.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn send(&self, worker: &WorkerId, text: &str) -> Result<InputReceipt, RuntimeError> {
        let submission =
            SubmissionId::generate(self.instance.clock.now(), self.instance.random.ten());
        self.submit(worker, submission, text).await
    }

    /// Sends an input. When this returns, the input is stored at the store's tier: it becomes a
    /// turn whatever happens to this process. Sending the same submission again is accepted once.
    ///
    /// # Errors
    /// [`RuntimeError`]; the input has not been accepted, unless the class is Indeterminate.
    pub async fn submit(
        &self,
        worker: &WorkerId,
        submission: SubmissionId,
        text: &str,
    ) -> Result<InputReceipt, RuntimeError> {
        self.submit_unless_busy(worker, submission, text, WhenBusy::Queue)
            .await
    }

    /// Sends an input, and says what becomes of it when the worker has unfinished turns.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`RuntimeError::Busy`] where the caller chose that.
    pub async fn submit_unless_busy(
        &self,
        worker: &WorkerId,
        submission: SubmissionId,
        text: &str,
        when_busy: WhenBusy,
    ) -> Result<InputReceipt, RuntimeError> {
        let accepted = self
            .instance
            .accept(worker, submission, text, when_busy, None);
        let receipt = accepted.await?;
        self.instance.wake(worker, Wake::News);
        Ok(receipt)
    }

    /// Gives a worker a System input: it joins the transcript and the conversation before the next
    /// turn, and starts none by itself. Sending the same submission again is accepted once.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn submit_system(
        &self,
        worker: &WorkerId,
        submission: SubmissionId,
        text: &str,
    ) -> Result<SystemInputReceipt, RuntimeError> {
        self.instance
            .accept_system(worker, submission, text, None)
            .await
    }

    /// Sends an input and returns the text of the last message of its turn.
    ///
    /// # Errors
    /// [`RuntimeError::TurnParked`] when the turn waits for somebody,
    /// [`RuntimeError::TurnNotCompleted`] when it failed or was cancelled.
    pub async fn ask(&self, worker: &WorkerId, text: &str) -> Result<String, RuntimeError> {
        // Before the input is sent: its turn may have failed when the wait for it begins.
        let mut failed = self.instance.failures_changed();
        let seen = *failed.borrow_and_update();
        let receipt = self.send(worker, text).await?;
        self.answer_after(worker, &receipt.turn, failed, seen).await
    }

    /// Waits for a turn and returns the text of its last message.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn answer(&self, worker: &WorkerId, turn: &TurnId) -> Result<String, RuntimeError> {
        // A failure of before this call concerns another wait, or an earlier try of this turn.
        let mut failed = self.instance.failures_changed();
        let seen = *failed.borrow_and_update();
        self.answer_after(worker, turn, failed, seen).await
    }

    /// Waits for a turn, or for a failure of its worker after the one of number `seen`.
    async fn answer_after(
        &self,
        worker: &WorkerId,
        turn: &TurnId,
        mut failed: watch::Receiver<u64>,
        seen: u64,
    ) -> Result<String, RuntimeError> {
        let topic = Topic::Turn {
            session: SessionId::from(worker),
            turn: turn.clone(),
        };
        let mut stream = self.subscribe(topic, None);
        let mut said = SaidSoFar::default();
        loop {
            let failure = std::pin::pin!(failed.changed());
            let item = match select(stream.next(), failure).await {
                Either::Left((item, _)) => item,
                Either::Right(_) => match self.instance.failure_of(worker, seen) {
                    Some(error) => return Err(error.into()),
                    None => continue,
                },
            };
            let Some(item) = item else {
                return Err(RuntimeError::Closed);
            };
            let item = item.map_err(|error| RuntimeError::from_part(&error))?;
            let ended = match item {
                StreamItem::Event(event) => {
                    // It may have gone on since, and be parked for another reason now.
                    if *event.kind() == EventKind::TurnParked
                        && let Some(reason) = self.park_reason(worker, turn).await?
                    {
                        return Err(RuntimeError::TurnParked { reason });
                    }
                    said.take(&event.draft)
                }
                StreamItem::Gap { .. } => self.said_before(worker, turn, &mut said).await?,
                // What was said is not known whole.
                StreamItem::Corrupt { from, to } => {
                    let place = None;
                    return Err(ReadError::CorruptEvents { from, to, place }.into());
                }
                _ => None,
            };
            match ended {
                None => {}
                Some(Ended::Answered) => return Ok(said.text),
                Some(Ended::Joined(turn)) => return Box::pin(self.answer(worker, &turn)).await,
                Some(Ended::Failed(error)) => return Err(RuntimeError::TurnNotCompleted(error)),
            }
        }
    }

    /// What a turn has said of whose events retention removed some: it is carried forward.
    async fn said_before(
        &self,
        worker: &WorkerId,
        turn: &TurnId,
        said: &mut SaidSoFar,
    ) -> Result<Option<Ended>, RuntimeError> {
        let unfinished = crate::view::unfinished_turns(self.store(), Some(worker)).await?;
        let goes_on = unfinished.iter().any(|open| open.turn == *turn);
        let mut ended = None;
        let of = Said {
            worker,
            turn: Some(turn),
        };
        of.each(self.store(), Position(0), |_, event| {
            ended = said.take(event).or(ended.take());
            Ok(())
        })
        .await?;
        if ended.is_none() && !goes_on {
            return Err(RuntimeError::TurnPruned { turn: turn.clone() });
        }
        Ok(ended)
    }

    /// Why a turn is parked now, as JSON; none if it is not.
    async fn park_reason(
        &self,
        worker: &WorkerId,
        turn: &TurnId,
    ) -> Result<Option<String>, RuntimeError> {
        let unfinished = crate::view::unfinished_turns(self.store(), Some(worker)).await?;
        let found = unfinished.into_iter().find(|found| found.turn == *turn);
        Ok(found.and_then(|found| match found.status {
            crate::TurnStatus::Parked { reason, .. } => Some(serde_json::json!(reason).to_string()),
            _ => None,
        }))
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing has changed, unless the class is Indeterminate.
    pub async fn apply(&self, command: Command) -> Result<CommandAnswer, RuntimeError> {
        self.instance.apply(command, None).await
    }

    /// Lets every unfinished turn go on.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store cannot be read.
    pub async fn resume_unfinished(&self) -> Result<(), RuntimeError> {
        self.instance.wake_unfinished(Wake::Insist).await
    }

    /// Lets the unfinished turns of one running worker go on: also those that are parked for a
    /// repair.
    pub fn insist(&self, worker: &WorkerId) {
        self.instance.wake(worker, Wake::Insist);
    }

    /// Lists what waits for somebody, with the tokens that answer it.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store cannot be read.
    pub async fn pending(&self) -> Result<Vec<PendingItem>, RuntimeError> {
        let instance = &self.instance;
        crate::view::pending_items(&*instance.store, &instance.host, &instance.promises).await
    }

    /// Returns the hub of the runtime's events: filtered subscriptions and whom they are for,
    /// durable consumers, retention, a bridge for events of the host's own.
    ///
    /// Retention through it makes no live worker forget what was said (V9).
    #[must_use]
    pub fn events(&self) -> &EventHub {
        &self.instance.hub
    }

    /// Removes what a policy lets go, now: see [`EventHub::retain`]. A policy of
    /// [`RuntimeConfig::retention`] is kept to without asking.
    ///
    /// What a live worker has said is carried forward first, so that it forgets nothing; a
    /// cancelled or deleted one's may go, which its transcript tells.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store could not be read or refused; after class Indeterminate it
    /// may have happened.
    ///
    /// # Cancel safety
    /// As [`EventHub::retain`].
    pub async fn retain(&self, policy: &RetentionPolicy) -> Result<Retained, RuntimeError> {
        let retained = self.instance.hub.retain(policy).await;
        retained.map_err(|error| RuntimeError::from_part(&error))
    }

    /// Follows a topic: what is stored from the cursor on (from the first event, without one),
    /// then what comes, without a gap or a repetition. What is wrong with the cursor comes as the
    /// first item.
    #[must_use]
    pub fn subscribe(&self, topic: Topic, from: Option<Cursor>) -> EventStream {
        let from = from.unwrap_or_else(|| self.cursor_from_start());
        self.instance.hub.subscribe(topic, from)
    }

    /// Reads a page of a topic after a cursor.
    ///
    /// # Errors
    /// What is wrong with the cursor, or that the store cannot be read.
    pub async fn read(
        &self,
        topic: Topic,
        after: Cursor,
        limit: usize,
    ) -> Result<EventRead, RuntimeError> {
        let read = self.instance.hub.read(topic, after, limit).await;
        read.map_err(|error| RuntimeError::from_part(&error))
    }

    /// The cursor before the first event.
    #[must_use]
    pub fn cursor_from_start(&self) -> Cursor {
        self.instance.hub.cursor_from_start()
    }

    /// The cursor after the last event that is stored now.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store cannot be read.
    pub async fn cursor_now(&self) -> Result<Cursor, RuntimeError> {
        Ok(self.instance.hub.cursor_now().await?)
    }

    /// The cursor after an event.
    #[must_use]
    pub fn cursor_after(&self, position: u64) -> Cursor {
        self.instance.hub.cursor_after(Position(position))
    }

    /// Waits until this instance drives neither a turn nor a process: each has ended, or waits for
    /// somebody.
    pub async fn settled(&self) {
        let instance = &self.instance;
        loop {
            instance.sessions.settled().await;
            instance.background.settled().await;
            if instance.sessions.driven() == 0 && !instance.background.is_busy() {
                return;
            }
        }
    }

    /// Returns the processes of the runtime (E15): to read them, to signal and cancel them, to
    /// grant them to sessions, to subscribe them to what happens outside. The session of a worker
    /// has the worker's id.
    #[must_use]
    pub fn processes(&self) -> &Processes {
        &self.instance.background.processes
    }

    /// Starts a process, held by the worker if one is given: its wake events, and its end if so
    /// registered, become inputs of that worker, each once. Starting the same again does nothing.
    ///
    /// # Errors
    /// As [`WorkflowHost::start_process`](runtime_effects::WorkflowHost::start_process);
    /// [`RuntimeError::Stopped`], [`RuntimeError::UnknownWorker`].
    pub async fn start_process(
        &self,
        registration: &ProcessRegistration,
        owner: Option<&WorkerId>,
    ) -> Result<WorkflowRun, RuntimeError> {
        self.instance.check_changing().await?;
        if let Some(owner) = owner {
            self.instance.worker(owner).await?;
        }
        let owner = owner.map(SessionId::from);
        self.instance
            .background
            .start(registration, owner.as_ref())
            .await
    }

    /// Gives the failures, from now on, that no answer and no event could carry: for instance
    /// that the store takes no more writes.
    #[must_use]
    pub fn failures(&self) -> Failures {
        Failures {
            instance: Arc::clone(&self.instance),
            changed: self.instance.failures_changed(),
        }
    }

    /// Closes in order: no more inputs, running turns may go on for a while, the rest goes on when
    /// the runtime opens again; then the store is flushed and let go (U3). Closing twice does
    /// nothing.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store could not be flushed.
    pub async fn close(&self) -> Result<CloseReport, RuntimeError> {
        self.instance.close().await
    }
}

/// Failures that no answer and no event could carry.
#[derive(Debug)]
pub struct Failures {
    instance: Arc<Instance>,
    changed: watch::Receiver<u64>,
}

impl Failures {
    /// Waits for the next failure; of several at once, the newest.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> WireError {
        loop {
            // The instance, and with it the sender, lives as long as this.
            let _ = self.changed.changed().await;
            if let Some(error) = self.instance.newest_failure() {
                return error;
            }
        }
    }
}

/// What a turn has answered so far.
#[derive(Debug, Default)]
struct SaidSoFar {
    /// The text of its last message.
    text: String,
}

/// How a turn ended.
#[derive(Debug)]
enum Ended {
    Answered,
    /// It joined another turn, which has its answer.
    Joined(TurnId),
    Failed(WireError),
}

impl SaidSoFar {
    fn take(&mut self, event: &EventDraft) -> Option<Ended> {
        match event.kind {
            EventKind::MessageCommitted => {
                if let Some(text) = message_text(event) {
                    self.text = text;
                }
                None
            }
            EventKind::TurnCompleted => Some(
                TurnId::deserialize(&event.payload["joined_into"])
                    .map_or(Ended::Answered, Ended::Joined),
            ),
            EventKind::TurnFailed | EventKind::TurnCancelled => {
                Some(Ended::Failed(turn_error(event)))
            }
            _ => None,
        }
    }
}

fn message_text(event: &EventDraft) -> Option<String> {
    let outcome = event.payload.get("outcome")?;
    match EffectOutcome::deserialize(outcome).ok()? {
        EffectOutcome::Completed(EffectOutput::LlmCall(response)) => {
            Some(response.message.plain_text())
        }
        _ => None,
    }
}

fn turn_error(event: &EventDraft) -> WireError {
    let recorded = event.payload.get("error").cloned();
    recorded
        .and_then(|error| serde_json::from_value(error).ok())
        .unwrap_or_else(|| {
            WireError::new(event.kind.as_str(), ErrorClass::Cancelled, "turn cancelled")
        })
}
