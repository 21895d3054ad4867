//! Who drives processes: one instance, its tasks, and their end.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use runtime_core::{
    Classified, Clock, ErrorClass, ProcessId, ProcessInput, ProcessOutcome, ProcessRegistration,
    ProcessStatus, Random, RecoveryDisposition, ScopeId, SessionId, Timestamp, WireError,
};
use runtime_store::{Epoch, Page, Position, Store, SystemClock, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::context::ended;
use super::desk::{Desk, Next};
use super::projector::ProcessProjector;
use super::{
    Failure, Functions, ProcessRunner, WorkflowCloseReport, WorkflowConfig, WorkflowContext,
};
use crate::pending::PendingKind;
use crate::process::{process_of, process_scope};
use crate::store_controller::panic_text;
use crate::{
    AwaitEvents, EffectHost, EffectLimits, Interrupt, ProcessClaim, ProcessError, ProcessLimits,
    ProcessListener, ProcessRecord, ProcessView, Processes, ScopeOpening, StoreEffectHost,
};

const FAILURES_KEPT: usize = 64;

/// Drives the processes of a runtime: what is started here, and whatever an earlier instance left
/// unfinished. One instance of a runtime at a time. Cloning gives another handle to the same.
///
/// # Cancel safety
/// Dropping a future of an operation forgets its answer, not what it has committed. Dropping the
/// last handle without [`close`](Self::close) ends the tasks; the processes go on when the runtime
/// opens again.
#[derive(Debug, Clone)]
pub struct WorkflowHost {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
}

/// The one task of an instance, which owns all others; it ends with the last handle.
#[derive(Debug)]
struct Tasks {
    dispatcher: Mutex<Option<JoinHandle<()>>>,
    closed: OnceCell<WorkflowCloseReport>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let dispatcher = self.dispatcher.get_mut();
        if let Some(dispatcher) = dispatcher.unwrap_or_else(PoisonError::into_inner) {
            dispatcher.abort();
        }
    }
}

/// What the tasks of an instance share.
#[derive(Debug)]
pub(super) struct Shared {
    host: StoreEffectHost,
    pub(super) processes: Processes,
    pub(super) clock: Arc<dyn Clock>,
    functions: Functions,
    config: WorkflowConfig,
    desk: Mutex<Desk>,
    /// Rung when there is something for the dispatcher.
    bell: Notify,
    /// Changes when the desk may have come to rest.
    rested: watch::Sender<u64>,
    closing: watch::Sender<bool>,
    failures: Mutex<VecDeque<WireError>>,
}

/// Makes a [`WorkflowHost`] over a store of its own.
#[derive(Debug)]
pub struct WorkflowHostBuilder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    effect_limits: EffectLimits,
    process_limits: ProcessLimits,
    config: WorkflowConfig,
    functions: Functions,
}

impl WorkflowHostBuilder {
    /// Adds a durable function; see [`Functions::function`].
    #[must_use]
    pub fn function<I, O, E, F, Running>(mut self, name: impl Into<String>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        E: Into<Failure>,
        F: Fn(WorkflowContext, I) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<O, E>> + Send + 'static,
    {
        self.functions = self.functions.function(name, function);
        self
    }

    /// Adds what runs processes of another kind of input; see [`Functions::runner`].
    #[must_use]
    pub fn runner(mut self, kind: &'static str, runner: Arc<dyn ProcessRunner>) -> Self {
        self.functions = self.functions.runner(kind, runner);
        self
    }

    /// Sets the clock and the randomness: the machine's by default.
    #[must_use]
    pub fn world(mut self, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        (self.clock, self.random) = (clock, random);
        self
    }

    /// Sets the bounds of processes.
    #[must_use]
    pub fn process_limits(mut self, limits: ProcessLimits) -> Self {
        self.process_limits = limits;
        self
    }

    /// Sets the bounds of effects. How long a wait holds its room,
    /// [`WorkflowConfig::park_after`] says.
    #[must_use]
    pub fn effect_limits(mut self, limits: EffectLimits) -> Self {
        self.effect_limits = limits;
        self
    }

    /// Sets how processes are driven.
    #[must_use]
    pub fn config(mut self, config: WorkflowConfig) -> Self {
        self.config = config;
        self
    }

    /// Opens the instance: every unfinished process goes on.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn open(self) -> Result<WorkflowHost, ProcessError> {
        let host = StoreEffectHost::new(
            self.store,
            Arc::clone(&self.clock),
            self.random,
            self.effect_limits,
        );
        let processes = host.processes(self.process_limits).await?;
        WorkflowHost::over(host, processes, self.clock, self.functions, self.config).await
    }
}

impl WorkflowHost {
    /// Starts to make an instance over a store.
    #[must_use]
    pub fn builder(store: Arc<dyn Store>) -> WorkflowHostBuilder {
        WorkflowHostBuilder {
            store,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
            effect_limits: EffectLimits::default(),
            process_limits: ProcessLimits::default(),
            config: WorkflowConfig::default(),
            functions: Functions::default(),
        }
    }

    /// Opens an instance over a host that is there already: every unfinished process goes on.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn over(
        host: StoreEffectHost,
        processes: Processes,
        clock: Arc<dyn Clock>,
        functions: Functions,
        config: WorkflowConfig,
    ) -> Result<Self, ProcessError> {
        let shared = Arc::new(Shared {
            host,
            processes,
            clock,
            functions,
            config,
            desk: Mutex::default(),
            bell: Notify::new(),
            rested: watch::Sender::new(0),
            closing: watch::Sender::new(false),
            failures: Mutex::default(),
        });
        let listener: Arc<dyn ProcessListener> = Arc::clone(&shared) as _;
        // Before the look at what is unfinished, so that nothing is missed in between.
        shared.processes.listen(&listener);
        if config.resume {
            shared.recover().await?;
        }
        let dispatcher = tokio::spawn(dispatch(Arc::clone(&shared)));
        Ok(Self {
            shared,
            tasks: Arc::new(Tasks {
                dispatcher: Mutex::new(Some(dispatcher)),
                closed: OnceCell::new(),
            }),
        })
    }

    /// Returns the processes of the runtime.
    #[must_use]
    pub fn processes(&self) -> &Processes {
        &self.shared.processes
    }

    /// Returns the host of the effects, for what is pending and for rulings.
    #[must_use]
    pub fn effects(&self) -> &StoreEffectHost {
        &self.shared.host
    }

    /// Returns the promises, which something outside resolves by their tokens.
    #[must_use]
    pub fn promises(&self) -> &AwaitEvents {
        &self.shared.processes.promises
    }

    /// Starts a durable function as a process of that id. Starting the same again does nothing,
    /// so that a request that is repeated works once.
    ///
    /// # Errors
    /// [`ProcessError::FunctionUnknown`], [`ProcessError::InputInvalid`],
    /// [`ProcessError::Conflict`] when the id has another function or input.
    pub async fn start(
        &self,
        process: &ProcessId,
        function: &str,
        input: &impl Serialize,
    ) -> Result<WorkflowRun, ProcessError> {
        let invalid = |reason: String| ProcessError::InputInvalid {
            name: function.to_owned(),
            reason,
        };
        let input = serde_json::to_value(input).map_err(|error| invalid(error.to_string()))?;
        let registration = ProcessRegistration::function(process.clone(), function, input);
        self.start_process(&registration, None).await
    }

    /// Starts a process, held by a session if one is given.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_process(
        &self,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
    ) -> Result<WorkflowRun, ProcessError> {
        self.shared.check(registration)?;
        self.shared.processes.start(registration, owner).await?;
        Ok(self.run(&registration.process))
    }

    /// Returns a handle to a process, whether it is there or not.
    #[must_use]
    pub fn run(&self, process: &ProcessId) -> WorkflowRun {
        WorkflowRun {
            processes: self.shared.processes.clone(),
            process: process.clone(),
        }
    }

    /// Looks at every unfinished process again: those that another instance drove, which has ended
    /// or left, go on here.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn recover(&self) -> Result<(), ProcessError> {
        self.shared.recover().await?;
        self.shared.bell.notify_one();
        Ok(())
    }

    /// Hears that something may have changed for a process: another instance was told so. A
    /// process that nobody holds goes on here.
    pub fn heard(&self, process: &ProcessId) {
        self.shared.desk().add(process, None);
        self.shared.bell.notify_one();
    }

    /// Says whether this instance drives something now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.shared.desk().is_busy()
    }

    /// Waits until this instance drives nothing: each process has ended, or waits.
    pub async fn settled(&self) {
        let mut rested = self.shared.rested.subscribe();
        loop {
            rested.borrow_and_update();
            if !self.shared.desk().is_busy() {
                return;
            }
            // The sender lives as long as `self`.
            let _ = rested.changed().await;
        }
    }

    /// Closes in order: nothing more is driven, what is driven may go on for a while, the rest
    /// goes on when the runtime opens again. The store stays open. Closing twice does nothing.
    pub async fn close(&self) -> WorkflowCloseReport {
        let report = self.tasks.closed.get_or_init(|| async {
            self.shared.closing.send_replace(true);
            let dispatcher = self.tasks.dispatcher.lock();
            let dispatcher = dispatcher.unwrap_or_else(PoisonError::into_inner).take();
            if let Some(dispatcher) = dispatcher
                && let Err(error) = dispatcher.await
            {
                self.shared
                    .report(WireError::new("task_panicked", ErrorClass::Terminal, error));
            }
            let failures = self.shared.failures.lock();
            let failures = failures.unwrap_or_else(PoisonError::into_inner);
            WorkflowCloseReport {
                interrupted: self.shared.desk().running(),
                failures: failures.iter().cloned().collect(),
            }
        });
        report.await.clone()
    }
}

/// A handle to one process.
#[derive(Debug, Clone)]
pub struct WorkflowRun {
    processes: Processes,
    process: ProcessId,
}

impl WorkflowRun {
    /// Returns the process.
    #[must_use]
    pub const fn id(&self) -> &ProcessId {
        &self.process
    }

    /// Waits for the end, and returns it.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], and what the store says.
    pub async fn ended(&self) -> Result<ProcessOutcome, ProcessError> {
        self.processes.ended(&self.process, None, pending()).await
    }

    /// Waits for the end, and returns the value.
    ///
    /// # Errors
    /// How the process failed, that it was cancelled, or why it is parked: it has not ended then,
    /// and goes on when somebody has ruled (`effect_in_doubt`) or repaired.
    pub async fn value<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        let stands = self.processes.ended_or_parked(&self.process).await;
        let value = ended(stands.map_err(|error| error.to_wire())??)?;
        serde_json::from_value(value).map_err(|error| Failure::from(error).error)
    }
}

impl ProcessListener for Shared {
    fn scope_woken(&self, scope: &ScopeId) {
        if let Some(process) = process_of(scope) {
            self.desk().wake(&process);
            self.bell.notify_one();
        }
    }

    fn scopes_woken(&self, meant: &dyn Fn(&ScopeId) -> bool) {
        let meant = |process: &ProcessId| meant(&process_scope(process).scope_id());
        self.desk().wake_where(meant);
        self.bell.notify_one();
    }

    fn process_started(&self, process: &ProcessId) {
        // The epoch of a process that has just started; if somebody else took it over already,
        // the first write says so.
        self.desk().add(process, Some(Epoch(1)));
        self.bell.notify_one();
    }

    fn process_ended(&self, process: &ProcessId) {
        self.desk().ended(process);
        self.bell.notify_one();
    }
}

/// What became of one drive.
enum Driven {
    /// It is over, or not ours.
    Gone,
    /// It waits, or is recorded as parked until somebody rules or repairs.
    Waits { due: Option<Timestamp> },
}

impl Shared {
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a process waits for another, before it looks whether that has ended.
    pub(super) fn will_wait_for(&self, waiter: &ProcessId, process: &ProcessId) {
        self.desk().waits_for(waiter, process);
    }

    fn report(&self, error: WireError) {
        tracing::error!(code = error.code, "{error}");
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == FAILURES_KEPT {
            failures.pop_front();
        }
        failures.push_back(error);
    }

    /// Refuses what this instance could never run.
    fn check(&self, registration: &ProcessRegistration) -> Result<(), ProcessError> {
        let input = &registration.input;
        let is_turn = matches!(input, ProcessInput::SessionTurn { .. });
        if registration.disposition == RecoveryDisposition::External
            || (is_turn && self.functions.takes_session_turns())
        {
            return Ok(());
        }
        let name = input.title();
        match self.functions.of(input) {
            None => Err(ProcessError::FunctionUnknown { name }),
            Some(runner) => {
                let checked = runner.check(input);
                checked.map_err(|reason| ProcessError::InputInvalid { name, reason })
            }
        }
    }

    /// Holds every unfinished process. What only waits costs a look at its rows, no task and no
    /// write (E9).
    async fn recover(&self) -> Result<(), ProcessError> {
        for status in [ProcessStatus::Running, ProcessStatus::Parked] {
            let mut after = None;
            loop {
                let page = Page::after(after, self.processes.page_entries());
                let page = self.processes.list(status, page).await?;
                for record in page.processes {
                    match record.disposition {
                        _ if record.is_driven_elsewhere() => {}
                        // Whoever drove it is gone: it ends, whatever it waits for.
                        RecoveryDisposition::OwnerBound => self.desk().add(&record.process, None),
                        // The functions of this instance may fit the record again (E4).
                        _ if record.conflict().is_some() => self.desk().add(&record.process, None),
                        _ => self.recover_one(&record.process, status).await?,
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn recover_one(
        &self,
        process: &ProcessId,
        status: ProcessStatus,
    ) -> Result<(), ProcessError> {
        let wait = self.wait_of(process, status).await?;
        let Some(wait) = wait else {
            self.desk().add(process, None);
            return Ok(());
        };
        {
            let mut desk = self.desk();
            desk.add_parked(process, wait.due);
            for awaited in &wait.processes {
                desk.waits_for(process, awaited);
            }
        }
        // Again, now that wakes are heard.
        if self.wait_of(process, status).await?.is_none() {
            self.desk().wake(process);
        }
        Ok(())
    }

    /// What a process waits for, as the store says; none when driving it would take it further.
    async fn wait_of(
        &self,
        process: &ProcessId,
        status: ProcessStatus,
    ) -> Result<Option<StoredWait>, ProcessError> {
        let found = self.processes.get(process).await?;
        if found.record.cancel.is_some() {
            return Ok(None);
        }
        let scope = process_scope(process);
        let page = Page::after(None, self.processes.page_entries());
        let pending = self.host.pending_of(&scope.scope_id(), page).await?;
        let mut wait = StoredWait::default();
        let now = self.clock.now();
        let mut waits = false;
        for effect in pending.items {
            if matches!(effect.kind, PendingKind::InDoubt | PendingKind::Conflict) {
                // It only parks again; but the row says so only if it came so far.
                return Ok((status == ProcessStatus::Parked).then_some(wait));
            }
            waits = true;
            if effect.due.is_some_and(|due| due <= now) {
                return Ok(None);
            }
            wait.due = [wait.due, effect.due].into_iter().flatten().min();
            for promise in &effect.promises {
                let promises = &self.processes.promises;
                if promises.is_settled(&scope, &promise.identity).await? {
                    return Ok(None);
                }
            }
            for process in effect.processes {
                match self.processes.find(&process).await? {
                    Some(found) if !found.record.status.is_ended() => wait.processes.push(process),
                    _ => return Ok(None),
                }
            }
        }
        Ok(waits.then_some(wait))
    }

    /// Drives a process as far as it goes, and notes where it stands then.
    async fn drive(self: Arc<Self>, next: Next) {
        let Next { process, mut epoch } = next;
        let driven = self.drive_once(&process, &mut epoch).await;
        let mut desk = self.desk();
        match driven {
            Ok(Driven::Gone) => desk.forget(&process),
            Ok(Driven::Waits { due }) => {
                desk.failed(&process, false);
                desk.park(&process, epoch, due);
            }
            // Another instance drives it now.
            Err(error) if error.class == ErrorClass::Fenced => desk.forget(&process),
            Err(error) => {
                let failures = desk.failed(&process, true);
                let again = failures <= self.config.failures_max && may_pass(error.class);
                let doublings = failures.saturating_sub(1).min(16);
                let pause = self.config.failure_pause.saturating_mul(1 << doublings);
                let due = again.then(|| self.clock.now().after(pause));
                desk.park(&process, epoch, due);
                drop(desk);
                if !again {
                    self.report(error);
                }
            }
        }
    }

    /// Drives a process once. `epoch` is the one under which this instance drives it, if it does,
    /// and becomes so when it takes the process over.
    async fn drive_once(
        self: &Arc<Self>,
        process: &ProcessId,
        epoch: &mut Option<Epoch>,
    ) -> Result<Driven, WireError> {
        // Before the look at the record: a cancellation after it is heard.
        let cancellation = self
            .host
            .watch_cancellation(&process_scope(process).scope_id());
        let view = match self.processes.get(process).await {
            Ok(view) => view,
            Err(ProcessError::NotFound { .. }) => return Ok(Driven::Gone),
            Err(error) => return Err(error.to_wire()),
        };
        let record = &view.record;
        if record.status.is_ended() || record.is_driven_elsewhere() {
            return Ok(Driven::Gone);
        }
        // Without an epoch, it was driven by an instance that is gone.
        let lost = epoch.is_none() && record.disposition == RecoveryDisposition::OwnerBound;
        let runner = self.functions.of(&view.registration.input);
        if runner.is_none() && !lost && record.cancel.is_none() && !self.config.park_unknown {
            return Ok(Driven::Gone);
        }
        let claim = match self.claim(record, *epoch).await {
            Ok(claim) => claim,
            Err(ProcessError::Ended { .. }) => return Ok(Driven::Gone),
            Err(error) => return Err(error.to_wire()),
        };
        *epoch = Some(claim.epoch);
        if let Some(reason) = &record.cancel {
            return self.end_cancelled(&claim, reason).await;
        }
        if lost {
            let message = "whoever drove it is gone, and it is bound to it";
            let lost = WireError::new("process_owner_lost", ErrorClass::Terminal, message);
            return self.end(&claim, &lost.into()).await;
        }
        let Some(runner) = runner else {
            let name = view.registration.input.title();
            let unknown = ProcessError::FunctionUnknown { name }.to_wire();
            return self.park(&claim, &unknown).await;
        };
        let driven = self.run(&claim, &view, runner);
        // Code between two effects is interrupted too (E9).
        let ended = match select(pin!(driven), pin!(cancellation.cancelled())).await {
            Either::Left((ended, _)) => ended?,
            Either::Right(_) => Err(Interrupt::Cancelled),
        };
        match ended {
            Ok(outcome) => self.end(&claim, &outcome).await,
            Err(interrupt) => self.interrupted(&claim, interrupt).await,
        }
    }

    /// The right to drive a process: of this instance already, or taken over.
    async fn claim(
        &self,
        record: &ProcessRecord,
        epoch: Option<Epoch>,
    ) -> Result<ProcessClaim, ProcessError> {
        let process = &record.process;
        if record.status == ProcessStatus::Running {
            match epoch {
                // The epoch that this instance gave it, as nobody else writes to the store.
                Some(epoch) if !self.processes.is_leased() => {
                    return Ok(ProcessClaim {
                        process: process.clone(),
                        epoch,
                        instance: None,
                    });
                }
                None if !self.processes.is_leased() => {}
                _ => {
                    if let Some(claim) = self.processes.held_claim(process).await? {
                        return Ok(claim);
                    }
                }
            }
        }
        self.processes.take_over(process).await
    }

    /// Runs the code of a process until it ends or is interrupted.
    async fn run(
        self: &Arc<Self>,
        claim: &ProcessClaim,
        view: &ProcessView,
        runner: &Arc<dyn ProcessRunner>,
    ) -> Result<Result<ProcessOutcome, Interrupt>, WireError> {
        let scope = process_scope(&claim.process);
        let opening = ScopeOpening::new(scope, claim.epoch, Arc::new(ProcessProjector))
            .held_by(claim.instance.clone())
            .parking_after(self.config.park_after);
        let controller = self.host.scoped_static(opening);
        let controller = controller.map_err(|error| error.to_wire())?;
        let controller = controller.expect("a host over a store gives what outlives its caller");
        let context = WorkflowContext::new(Arc::clone(self), claim.clone(), controller);
        let workflow = AssertUnwindSafe(runner.run(context.clone(), &view.registration));
        Ok(match context.drive(workflow.catch_unwind()).await {
            Ok(Ok(Ok(value))) => Ok(ProcessOutcome::Success { value }),
            Ok(Ok(Err(failure))) => Ok(failure.into()),
            Ok(Err(panic)) => {
                let text = panic_text(&*panic, PANIC_TEXT_BYTES_MAX);
                let message = format!("the workflow panicked: {text}");
                Ok(WireError::new("process_panicked", ErrorClass::Terminal, message).into())
            }
            Err(interrupt) => Err(interrupt),
        })
    }

    async fn interrupted(
        &self,
        claim: &ProcessClaim,
        interrupt: Interrupt,
    ) -> Result<Driven, WireError> {
        match interrupt {
            Interrupt::Suspended { due, .. } => Ok(Driven::Waits { due }),
            Interrupt::Fenced => Ok(Driven::Gone),
            Interrupt::Cancelled => {
                let view = self.processes.get(&claim.process).await;
                match view.map_err(|error| error.to_wire())?.record.cancel {
                    Some(reason) => self.end_cancelled(claim, &reason).await,
                    // A cancellation that was not recorded is none: it is driven again.
                    None => Ok(Driven::Waits {
                        due: Some(self.clock.now()),
                    }),
                }
            }
            Interrupt::Terminal(error) if may_pass(error.class) => Err(error),
            other => self.park(claim, &other.to_wire()).await,
        }
    }

    async fn end(
        &self,
        claim: &ProcessClaim,
        outcome: &ProcessOutcome,
    ) -> Result<Driven, WireError> {
        match self.processes.end(claim, outcome).await {
            Ok(_) => Ok(Driven::Gone),
            // What is over the limit is an end of another kind (E16).
            Err(error @ ProcessError::TooLarge { .. }) => {
                let outcome = error.to_wire().into();
                let ended = self.processes.end(claim, &outcome).await;
                ended.map(|_| Driven::Gone).map_err(|error| error.to_wire())
            }
            Err(error) => Err(error.to_wire()),
        }
    }

    async fn park(&self, claim: &ProcessClaim, why: &WireError) -> Result<Driven, WireError> {
        let parked = self.processes.park(claim, why).await;
        parked.map_err(|error| error.to_wire())?;
        Ok(Driven::Waits { due: None })
    }

    /// Cancels what the process spawned, then ends it: a crash in between repeats both (E9).
    async fn end_cancelled(&self, claim: &ProcessClaim, reason: &str) -> Result<Driven, WireError> {
        let children = self.processes.children(&claim.process).await;
        for child in children.map_err(|error| error.to_wire())? {
            let message = format!("process {} was cancelled: {reason}", claim.process);
            let message: String = message.chars().take(REASON_CHARS_MAX).collect();
            match self.processes.cancel(&child, &message, None).await {
                Ok(_) | Err(ProcessError::NotFound { .. }) => {}
                Err(error) => return Err(error.to_wire()),
            }
        }
        let outcome = ProcessOutcome::Cancelled {
            message: reason.to_owned(),
            raw: None,
        };
        self.end(claim, &outcome).await
    }

    /// Retires what ended long ago.
    async fn retire(&self) -> Result<(), ProcessError> {
        if let Some(age) = self.config.retire_after {
            let until = self.clock.now().before(age);
            self.processes.retire_ended(until, RETIRED_AT_ONCE).await?;
        }
        Ok(())
    }

    /// Wakes what waits no more, whoever has settled it: other processes ring no bell of this one.
    async fn look_at_parked(&self) -> Result<(), ProcessError> {
        let parked = self.desk().parked();
        for process in parked {
            let Some(found) = self.processes.find(&process).await? else {
                self.desk().forget(&process);
                continue;
            };
            if self.wait_of(&process, found.record.status).await?.is_none() {
                self.desk().wake(&process);
            }
        }
        Ok(())
    }
}

/// What a process waits for, as the store says.
#[derive(Debug, Default)]
struct StoredWait {
    due: Option<Timestamp>,
    processes: Vec<ProcessId>,
}

const PANIC_TEXT_BYTES_MAX: usize = 2048;
const REASON_CHARS_MAX: usize = 1024;
const RETIRED_AT_ONCE: usize = 64;
const SETTLED_AT_ONCE: usize = 64;

fn may_pass(class: ErrorClass) -> bool {
    class.is_retryable() || class == ErrorClass::Indeterminate
}

/// The one task of an instance: it drives what is ready, as long as there is room.
async fn dispatch(shared: Arc<Shared>) {
    let mut closes = shared.closing.subscribe();
    let mut closing = pin!(async {
        // The sender lives as long as what is shared.
        let _ = closes.wait_for(|closing| *closing).await;
    });
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut look_after = shared.clock.sleep(shared.config.housekeeping_interval);
    let mut seen = Position(0);
    loop {
        {
            let now = shared.clock.now();
            let mut desk = shared.desk();
            desk.due(now);
            while let Some(next) = desk.take(shared.config.running_max) {
                tasks.spawn(Arc::clone(&shared).drive(next));
            }
        }
        shared.rested.send_modify(|count| *count += 1);
        let due = shared.desk().next_due();
        let timer = match due {
            Some(due) => shared.clock.sleep(due.since(shared.clock.now())),
            None => Box::pin(pending()),
        };
        let ended = async {
            match tasks.join_next().await {
                Some(ended) => ended,
                None => pending().await,
            }
        };
        let (rung, ended) = (pin!(shared.bell.notified()), pin!(ended));
        let work = select(ended, select(rung, timer));
        match select(select(work, &mut look_after), closing.as_mut()).await {
            Either::Right(_) => break,
            Either::Left((Either::Left((Either::Left((Err(error), _)), _)), _)) => {
                shared.report(WireError::new("task_panicked", ErrorClass::Terminal, error));
            }
            Either::Left((Either::Left(_), _)) => {}
            Either::Left((Either::Right(_), _)) => {
                seen = keep_house(&shared, seen).await;
                look_after = shared.clock.sleep(shared.config.housekeeping_interval);
            }
        }
    }
    drain(&shared, tasks).await;
}

/// What is done now and then; says up to which position it has looked.
async fn keep_house(shared: &Arc<Shared>, seen: Position) -> Position {
    let mut failed = shared.retire().await.err().map(|error| error.to_wire());
    let (promises, now) = (&shared.processes.promises, shared.clock.now());
    if let Err(error) = promises.settle_due(now, SETTLED_AT_ONCE).await {
        failed = Some(error.to_wire());
    }
    let mut looked = seen;
    if shared.processes.is_shared() {
        match shared.processes.head().await {
            Ok(head) if head == seen => {}
            Ok(head) => {
                looked = head;
                if let Err(error) = shared.look_at_parked().await {
                    failed = Some(error.to_wire());
                }
            }
            Err(error) => failed = Some(error.to_wire()),
        }
    }
    if let Some(error) = failed {
        let known = {
            let failures = shared
                .failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            failures.back() == Some(&error)
        };
        // A failure that lasts is reported once.
        if !known {
            shared.report(error);
        }
    }
    looked
}

/// Lets what is driven go on for a while, then ends it.
async fn drain(shared: &Arc<Shared>, mut tasks: JoinSet<()>) {
    let patience = shared.clock.sleep(shared.config.drain_timeout);
    let drained = {
        let all = pin!(async { while tasks.join_next().await.is_some() {} });
        matches!(select(all, patience).await, Either::Left(_))
    };
    if !drained {
        tasks.abort_all();
    }
    while tasks.join_next().await.is_some() {}
}
