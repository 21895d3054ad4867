//! The processes of the runtime (E15): what they tell becomes inputs of their owners' sessions,
//! each once; and a process of kind `session_turn` is an input, which ends with its turn.
//!
//! Processes of every other kind are driven by a [`WorkflowHost`]. What is to be done here is
//! noted by whoever commits, and done by one task; what a crash leaves undone is found in the
//! store at the next opening.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use runtime_core::{
    CanonicalEncoder, Classified, CommitId, ErrorClass, ExecutionScope, Message, ProcessId,
    ProcessInput, ProcessOutcome, ProcessRegistration, ProcessStatus, Role, SessionId,
    SubmissionId, WireError, WorkerId,
};
use runtime_effects::{
    CancelAnswer, EndAnswer, Functions, ProcessError, ProcessListener, ProcessWake, Processes,
    SignalAnswer, StoreEffectHost, WorkflowConfig, WorkflowHost, WorkflowRun,
};
use runtime_store::{Commit, Page};
use runtime_turn::TurnEnd;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::delegate::{ANSWER_BYTES_MAX, Answer};
use crate::instance::Instance;
use crate::session::Wake;
use crate::turn::TurnRecord;
use crate::{CommandAnswer, RuntimeError, WhenBusy, WorkerRecord, WorkerStatus};

/// The processes of an instance, and what is to be done for them.
#[derive(Debug)]
pub(crate) struct Background {
    pub(crate) processes: Processes,
    workflows: OnceLock<WorkflowHost>,
    notes: Arc<Notes>,
    /// What is told of processes, as long as this lives.
    _listener: Arc<dyn ProcessListener>,
}

/// What is to be done, and the bell of the task that does it.
#[derive(Debug)]
struct Notes {
    due: Mutex<Due>,
    bell: Notify,
    /// Changes when the task may have come to rest.
    rested: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Due {
    /// Sessions have inputs to take.
    wakes: bool,
    /// Processes that may be turns of sessions, started or asked to end.
    processes: BTreeSet<ProcessId>,
    /// Whose promises were settled.
    scopes: Vec<ExecutionScope>,
    /// What is tried again later.
    later: Later,
    /// The task is at work.
    working: bool,
}

#[derive(Debug, Default)]
struct Later {
    wakes: bool,
    processes: BTreeSet<ProcessId>,
}

impl Due {
    fn is_empty(&self) -> bool {
        !self.wakes && self.processes.is_empty() && self.scopes.is_empty()
    }
}

impl Notes {
    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at(&self, process: &ProcessId) {
        self.note(|due| {
            due.processes.insert(process.clone());
        });
    }

    fn note(&self, what: impl FnOnce(&mut Due)) {
        what(&mut self.due());
        self.bell.notify_one();
    }
}

impl ProcessListener for Notes {
    fn process_started(&self, process: &ProcessId) {
        self.look_at(process);
    }

    fn process_cancelled(&self, process: &ProcessId) {
        self.look_at(process);
    }

    fn session_woken(&self) {
        self.note(|due| due.wakes = true);
    }
}

/// A process that ends with a turn, and whoever waits for it.
pub(crate) struct EndedWith {
    processes: Vec<ProcessId>,
    answered: Option<Answer>,
}

impl Background {
    pub(crate) fn new(processes: Processes) -> Self {
        let notes = Arc::new(Notes {
            due: Mutex::default(),
            bell: Notify::new(),
            rested: watch::Sender::new(0),
        });
        let listener: Arc<dyn ProcessListener> = Arc::clone(&notes) as _;
        processes.listen(&listener);
        Self {
            processes,
            workflows: OnceLock::new(),
            notes,
            _listener: listener,
        }
    }

    /// Opens the host that drives processes; each unfinished one goes on, if so asked.
    pub(crate) async fn open(
        &self,
        host: &StoreEffectHost,
        clock: Arc<dyn runtime_core::Clock>,
        functions: Functions,
        config: WorkflowConfig,
    ) -> Result<(), RuntimeError> {
        let processes = self.processes.clone();
        let functions = functions.session_turns();
        let opened = WorkflowHost::over(host.clone(), processes, clock, functions, config).await;
        // Opened once, right after the instance was made.
        let _ = self
            .workflows
            .set(opened.map_err(|error| RuntimeError::from_part(&error))?);
        Ok(())
    }

    /// Who drives processes, once the runtime is open.
    pub(crate) fn workflows(&self) -> Option<&WorkflowHost> {
        self.workflows.get()
    }

    /// Notes that a session may take inputs that it could not take before.
    pub(crate) fn sessions_changed(&self) {
        self.notes.note(|due| {
            due.wakes = true;
            due.processes.append(&mut due.later.processes);
        });
    }

    /// Notes that a process may have to be looked at.
    pub(crate) fn look_at(&self, process: &ProcessId) {
        self.notes.look_at(process);
    }

    /// Lets what failed in a way that may pass be tried again.
    pub(crate) fn try_again(&self) {
        let mut due = self.notes.due();
        let Later { wakes, processes } = std::mem::take(&mut due.later);
        if wakes || !processes.is_empty() {
            due.wakes |= wakes;
            due.processes.extend(processes);
            self.notes.bell.notify_one();
        }
    }

    fn take(&self) -> Option<(bool, BTreeSet<ProcessId>, Vec<ExecutionScope>)> {
        let mut due = self.notes.due();
        due.working = !due.is_empty();
        if !due.working {
            drop(due);
            self.notes.rested.send_modify(|count| *count += 1);
            return None;
        }
        let wakes = std::mem::take(&mut due.wakes);
        Some((
            wakes,
            std::mem::take(&mut due.processes),
            std::mem::take(&mut due.scopes),
        ))
    }

    /// Says whether something is left to do, here or in a process that this instance drives.
    pub(crate) fn is_busy(&self) -> bool {
        let due = self.notes.due();
        let busy = due.working || !due.is_empty();
        busy || self.workflows().is_some_and(WorkflowHost::is_busy)
    }

    /// Waits until nothing is left to do, and no process is driven.
    pub(crate) async fn settled(&self) {
        let mut rested = self.notes.rested.subscribe();
        loop {
            rested.borrow_and_update();
            let busy = {
                let due = self.notes.due();
                due.working || !due.is_empty()
            };
            if !busy {
                break;
            }
            // The sender lives as long as `self`.
            let _ = rested.changed().await;
        }
        if let Some(workflows) = self.workflows() {
            workflows.settled().await;
        }
    }

    /// Starts a process, held by a session if one is given.
    pub(crate) async fn start(
        &self,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
    ) -> Result<WorkflowRun, RuntimeError> {
        let workflows = self.workflows().ok_or(RuntimeError::Closed)?;
        let started = workflows.start_process(registration, owner).await;
        started.map_err(|error| RuntimeError::from_part(&error))
    }
}

impl Instance {
    /// Opens what drives processes, and finds what is undone for them.
    pub(crate) async fn open_processes(
        self: &Arc<Self>,
        functions: Functions,
        resume: bool,
    ) -> Result<(), RuntimeError> {
        self.start_background();
        let config = WorkflowConfig {
            resume: resume && self.config.workflows.resume,
            ..self.config.workflows
        };
        let clock = Arc::clone(&self.clock);
        self.background
            .open(&self.host, clock, functions, config)
            .await?;
        match resume {
            true => self.look_at_processes().await,
            false => Ok(()),
        }
    }

    /// Starts the task that does what is noted for processes.
    pub(crate) fn start_background(self: &Arc<Self>) {
        let instance = Arc::clone(self);
        self.spawn(async move {
            loop {
                let rung = instance.background.notes.bell.notified();
                if instance.until_closed(rung).await.is_none() {
                    return;
                }
                while let Some((wakes, processes, scopes)) = instance.background.take() {
                    let attended = instance.attend(wakes, processes, scopes);
                    if instance.until_closed(attended).await.is_none() {
                        return;
                    }
                }
            }
        });
    }

    async fn attend(
        self: &Arc<Self>,
        wakes: bool,
        processes: BTreeSet<ProcessId>,
        scopes: Vec<ExecutionScope>,
    ) {
        for scope in scopes {
            self.wake_scope(&scope);
        }
        for process in processes {
            if let Err(error) = self.attend_process(&process).await {
                self.background.notes.due().later.processes.insert(process);
                self.report_background(&error);
            }
        }
        if wakes && let Err(error) = self.take_wakes().await {
            self.background.notes.due().later.wakes = true;
            self.report_background(&error);
        }
    }

    /// What may pass is only tried again.
    fn report_background(&self, error: &RuntimeError) {
        let class = error.class();
        if class.is_retryable() || self.is_closing() {
            tracing::debug!(%error, "done later for a process");
            return;
        }
        let error = error.to_wire();
        if !self.is_reported(&error) {
            self.report_failure(None, error);
        }
    }

    /// Notes everything that an instance before this one, or a dead one, left undone.
    pub(crate) async fn look_at_processes(&self) -> Result<(), RuntimeError> {
        let processes = &self.background.processes;
        let mut after = None;
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let page = Page::after(after, limit);
            let page = processes.list(ProcessStatus::Running, page).await;
            let page = page.map_err(|error| RuntimeError::from_part(&error))?;
            for record in page.processes.iter().filter(|record| is_turn(record)) {
                self.background.look_at(&record.process);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.background.notes.session_woken();
        Ok(())
    }

    /// Looks at every process again, whoever drove it.
    pub(crate) async fn look_at_all_processes(&self) -> Result<(), RuntimeError> {
        if let Some(workflows) = self.background.workflows() {
            let recovered = workflows.recover().await;
            recovered.map_err(|error| RuntimeError::from_part(&error))?;
        }
        self.look_at_processes().await
    }

    /// Gives sessions what processes told them, each once: the same wake is the same submission.
    async fn take_wakes(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let processes = &self.background.processes;
        let mut after = None;
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let wakes = processes.wakes(after, limit).await;
            let wakes = wakes.map_err(|error| RuntimeError::from_part(&error))?;
            for wake in &wakes {
                if self.take_wake(wake).await? {
                    let taken = processes.wake_taken(wake).await;
                    taken.map_err(|error| RuntimeError::from_part(&error))?;
                }
            }
            after = wakes.iter().map(|wake| wake.row.clone()).max();
            if wakes.len() < limit {
                return Ok(());
            }
        }
    }

    /// Gives a session one input; says whether it was taken, or can never be.
    async fn take_wake(self: &Arc<Self>, wake: &ProcessWake) -> Result<bool, RuntimeError> {
        let worker = WorkerId::from(&wake.session);
        let mut text = wake.text.clone();
        let end = text.floor_char_boundary(self.limits().input_bytes_max);
        text.truncate(end);
        let submission = wake.submission.clone();
        let accepted = self
            .accept(&worker, submission, &text, WhenBusy::Queue, None)
            .await;
        match accepted {
            Ok(_) => {
                self.wake(&worker, Wake::News);
                Ok(true)
            }
            // It is taken when the worker, or the runtime, goes on.
            Err(RuntimeError::WorkerNotRunning {
                status: WorkerStatus::Stopped,
                ..
            }) => Ok(false),
            Err(RuntimeError::Stopped) => Ok(false),
            // Its event in the session's stream tells what was said.
            Err(RuntimeError::WorkerNotRunning { .. } | RuntimeError::UnknownWorker { .. }) => {
                Ok(true)
            }
            // Taken before, under another limit of inputs.
            Err(RuntimeError::SubmissionConflict { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Looks at a process that may be a turn of a session: it begins, or is to end.
    async fn attend_process(self: &Arc<Self>, process: &ProcessId) -> Result<(), RuntimeError> {
        let view = match self.background.processes.get(process).await {
            Ok(view) => view,
            Err(ProcessError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(RuntimeError::from_part(&error)),
        };
        let ProcessInput::SessionTurn { session, .. } = &view.registration.input else {
            return Ok(());
        };
        if view.record.status != ProcessStatus::Running {
            return Ok(());
        }
        let worker = WorkerId::from(session);
        if let Some(reason) = &view.record.cancel {
            return self.cancel_session_turn(process, &worker, reason).await;
        }
        match self.begin_session_turn(&view.registration, None).await {
            Ok(_) => Ok(()),
            // It begins when the worker, or the runtime, goes on.
            Err(RuntimeError::WorkerNotRunning {
                status: WorkerStatus::Stopped,
                ..
            }) => {
                self.background
                    .notes
                    .due()
                    .later
                    .processes
                    .insert(process.clone());
                Ok(())
            }
            Err(error) if error.class().is_final() || error.class() == ErrorClass::Conflict => {
                self.end_process(process, &error.to_wire().into()).await
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a session the input that a process is; starts the process in the same commit, unless
    /// it has started before. Doing so again changes nothing.
    pub(crate) async fn begin_session_turn(
        self: &Arc<Self>,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
    ) -> Result<WorkerId, RuntimeError> {
        let ProcessInput::SessionTurn { session, text } = &registration.input else {
            let message = "only a turn of a session is an input";
            return Err(
                WireError::new("process_input_invalid", ErrorClass::Invalid, message).into(),
            );
        };
        let worker = WorkerId::from(session);
        let digest = CanonicalEncoder::new("process-input")
            .text(registration.process.as_str())
            .digest()
            .to_string();
        let submission: SubmissionId = format!("process-{}", &digest[..32]).parse()?;
        let message = Message::text(Role::User, text);
        let starts = Some((registration, owner));
        self.accept_message(&worker, &submission, message, WhenBusy::Queue, None, starts)
            .await?;
        self.wake(&worker, Wake::News);
        Ok(worker)
    }

    /// Ends what a process does that was asked to end: its turn, or, where the worker was created
    /// for it, the worker. The process ends with the turn.
    pub(crate) async fn cancel_session_turn(
        self: &Arc<Self>,
        process: &ProcessId,
        worker: &WorkerId,
        reason: &str,
    ) -> Result<(), RuntimeError> {
        let record = match self.worker(worker).await {
            Ok((record, _)) => Some(record),
            Err(RuntimeError::UnknownWorker { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(record) = record {
            let turns = crate::view::unfinished_turns(&*self.store, Some(worker)).await?;
            let turn = turns
                .into_iter()
                .find(|turn| turn.process.as_ref() == Some(process));
            if is_own_worker(process, &record) && !record.status.is_final() {
                let max = self.limits().reason_bytes_max;
                let reason = reason[..reason.floor_char_boundary(max)].to_owned();
                self.change_status(worker, WorkerStatus::Cancelled, &Some(reason), None, false)
                    .await?;
            } else if let Some(turn) = &turn {
                self.host.cancel_scope(&turn.scope().scope_id());
                self.wake(worker, Wake::News);
            }
            if turn.is_some() {
                return Ok(());
            }
        }
        self.end_process(process, &cancelled(reason)).await
    }

    async fn end_process(
        &self,
        process: &ProcessId,
        outcome: &ProcessOutcome,
    ) -> Result<(), RuntimeError> {
        let processes = &self.background.processes;
        let ended = async {
            let claim = processes.claim(process).await?;
            processes.end(&claim, outcome).await
        };
        match ended.await {
            Ok(EndAnswer::Recorded | EndAnswer::AlreadyEnded { .. })
            | Err(ProcessError::Ended { .. } | ProcessError::NotFound { .. }) => Ok(()),
            Err(error) => Err(RuntimeError::from_part(&error)),
        }
    }

    /// Carries out a command to end a process.
    pub(crate) async fn cancel_process(
        &self,
        process: &ProcessId,
        reason: Option<String>,
        command: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let reason = reason.unwrap_or_else(|| "cancelled by command".to_owned());
        let processes = &self.background.processes;
        let cancelled = processes.cancel(process, &reason, command).await;
        match cancelled.map_err(|error| RuntimeError::from_part(&error))? {
            CancelAnswer::Requested => Ok(CommandAnswer::Done),
            _ => Ok(CommandAnswer::AlreadyDone),
        }
    }

    /// Carries out a command to signal a process.
    pub(crate) async fn signal_process(
        &self,
        process: &ProcessId,
        name: &str,
        ordinal: Option<u64>,
        value: Value,
        command: Option<CommitId>,
    ) -> Result<CommandAnswer, RuntimeError> {
        let processes = &self.background.processes;
        // Ended and unknown are told apart, so that a typing error is not taken for a late signal.
        processes
            .get(process)
            .await
            .map_err(|error| RuntimeError::from_part(&error))?;
        let part = |error: ProcessError| RuntimeError::from_part(&error);
        let answer = match ordinal {
            Some(ordinal) => processes
                .signal(process, name, ordinal, value, command)
                .await
                .map_err(part)?,
            None => match processes.signal_next(process, name, &value, command).await {
                Ok(Some(_)) => SignalAnswer::Accepted,
                Ok(None) => SignalAnswer::Ended,
                Err(error) => return Err(part(error)),
            },
        };
        match answer {
            SignalAnswer::Accepted => Ok(CommandAnswer::Done),
            SignalAnswer::AlreadySignalled => Ok(CommandAnswer::AlreadyDone),
            SignalAnswer::Ended => Err(part(ProcessError::Ended {
                process: process.clone(),
            })),
        }
    }

    /// Says why the process that a turn is was asked to end, if it was.
    pub(crate) async fn asked_to_end(
        &self,
        turn: &TurnRecord,
    ) -> Result<Option<String>, RuntimeError> {
        let Some(process) = &turn.process else {
            return Ok(None);
        };
        match self.background.processes.get(process).await {
            Ok(view) if view.record.status.is_ended() => Ok(Some("process_ended".to_owned())),
            Ok(view) => Ok(view.record.cancel),
            Err(ProcessError::NotFound { .. }) => Ok(None),
            Err(error) => Err(RuntimeError::from_part(&error)),
        }
    }

    /// Adds to the commit that ends turns the end of the processes that they are, and the answer
    /// to the call for which a worker was created.
    pub(crate) async fn with_process_ends(
        &self,
        mut commit: Commit,
        state: &WorkerRecord,
        turns: impl Iterator<Item = &TurnRecord>,
        end: &TurnEnd,
    ) -> Result<(Commit, EndedWith), RuntimeError> {
        let mut ended = EndedWith {
            processes: Vec::new(),
            answered: None,
        };
        for turn in turns {
            let Some(process) = &turn.process else {
                continue;
            };
            let processes = &self.background.processes;
            let mut ends = processes
                .end_in(commit.clone(), process, &outcome_of(turn, end))
                .await;
            // What is over the limit is an end of another kind (E16).
            if let Err(error @ ProcessError::TooLarge { .. }) = &ends {
                let outcome = error.to_wire().into();
                ends = processes.end_in(commit.clone(), process, &outcome).await;
            }
            match ends {
                Ok((extended, ends)) => {
                    commit = extended;
                    if ends {
                        ended.processes.push(process.clone());
                    }
                }
                // It was retired after an end of its own.
                Err(ProcessError::NotFound { .. }) => {}
                Err(error) => return Err(RuntimeError::from_part(&error)),
            }
            if is_own_worker(process, state)
                && let Some(parent) = &state.request.parent
            {
                let answer = Answer::new(parent, end);
                let resolved = self
                    .promises
                    .resolve_in(commit, &answer.scope, &answer.identity, &answer.resolution)
                    .await;
                let (extended, heard) =
                    resolved.map_err(|error| RuntimeError::from_part(&error))?;
                commit = extended;
                ended.answered = heard.then_some(answer);
            }
        }
        Ok((commit, ended))
    }

    /// Tells whoever waits of processes that ended with a turn.
    pub(crate) fn tell_ended(&self, ended: EndedWith) {
        for process in &ended.processes {
            self.background.processes.announce_end(process);
        }
        if let Some(Answer {
            scope, identity, ..
        }) = ended.answered
        {
            self.promises.announce_resolved(&scope, &identity);
            self.background.notes.note(|due| due.scopes.push(scope));
        }
    }

    /// Lets the processes of a deleted worker be: its holds on them end, and with them what is
    /// bound to it (E15).
    pub(crate) async fn let_processes_go(&self, worker: &WorkerId) -> Result<(), RuntimeError> {
        let session = SessionId::from(worker);
        let deleted = self.background.processes.delete_session(&session).await;
        deleted
            .map(drop)
            .map_err(|error| RuntimeError::from_part(&error))
    }
}

fn is_turn(record: &runtime_effects::ProcessRecord) -> bool {
    record.input_kind == "session_turn"
}

/// Says whether a worker was created for that process: a sub-agent has the id of its process.
fn is_own_worker(process: &ProcessId, worker: &WorkerRecord) -> bool {
    worker.request.parent.is_some() && worker.id().as_str() == process.as_str()
}

fn cancelled(reason: &str) -> ProcessOutcome {
    ProcessOutcome::Cancelled {
        message: reason.to_owned(),
        raw: None,
    }
}

/// What a process comes to whose turn ended so.
fn outcome_of(turn: &TurnRecord, end: &TurnEnd) -> ProcessOutcome {
    match end {
        TurnEnd::Completed {
            message,
            usage,
            account,
            output,
            ..
        } => {
            let mut text = message.plain_text();
            let cut = text.floor_char_boundary(ANSWER_BYTES_MAX);
            text.truncate(cut);
            let value = json!({
                "turn": turn.turn, "text": text, "output": output,
                "usage": usage, "cost": account.cost,
            });
            ProcessOutcome::Success { value }
        }
        TurnEnd::Failed { error, .. } => error.clone().into(),
        TurnEnd::Cancelled { reason } => cancelled(reason),
        _ => cancelled("its turn ended in a way that this version does not know"),
    }
}
