//! What a workflow is given: durable steps, waits, children.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use futures_util::task::AtomicWaker;
use runtime_core::{
    CanonicalEncoder, Classified, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome,
    EffectOutput, ErrorClass, ExecutionScope, ProcessAnswer, ProcessCommand, ProcessId,
    ProcessOutcome, ProcessRegistration, ReplayKey, Resolution, Timestamp, WaitIdentity,
    WaitOutput, WaitSource, WireError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::host::Shared;
use super::step::StepBody;
use super::{Failure, Step};
use crate::process::signal_identity;
use crate::{
    AttemptContext, Interrupt, LocalExecutor, ProcessClaim, ProcessError, ScopedEffectController,
    Token, TokenError, TokenRights,
};

/// What a workflow is given. Cloning gives another handle to the same.
///
/// A workflow is driven again from its start after a crash or a long wait: what it did through its
/// context is answered from the record. So between steps it must be deterministic: no clock, no
/// randomness, nothing read from outside but by a step. Steps run one after another; what runs
/// side by side goes through [`all`](Self::all).
///
/// An operation whose answer is not there yet never returns: the workflow's future is dropped, and
/// driven again when it can go on. So an error that comes back is always a recorded, final one.
#[derive(Clone)]
pub struct WorkflowContext {
    run: Arc<Run>,
}

/// One drive of a process.
struct Run {
    shared: Arc<Shared>,
    claim: ProcessClaim,
    scope: ExecutionScope,
    controller: ScopedEffectController<'static>,
    occurrences: Mutex<HashMap<(EffectKind, String), u32>>,
    /// An effect runs: a second one at the same time is refused.
    occupied: AtomicBool,
    interrupt: Mutex<Option<Interrupt>>,
    driver: AtomicWaker,
}

impl fmt::Debug for WorkflowContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowContext")
            .field("claim", &self.run.claim)
            .finish_non_exhaustive()
    }
}

/// One thing to wait for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Wait {
    /// The next signal of that name that no earlier wait took.
    Signal(String),
    /// A promise of this process, which something outside resolves by its token.
    Promise(String),
    /// A time, counted from when the wait begins.
    After(Duration),
    /// An absolute time.
    Until(Timestamp),
    /// The end of a process.
    Process(ProcessId),
}

impl Wait {
    /// The next signal of that name.
    #[must_use]
    pub fn signal(name: impl Into<String>) -> Self {
        Self::Signal(name.into())
    }

    /// A promise of this process.
    #[must_use]
    pub fn promise(key: impl Into<String>) -> Self {
        Self::Promise(key.into())
    }
}

/// A process that a workflow spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The process.
    pub process: ProcessId,
}

/// What the counts of emitted events start with; no name of a step has a control character.
const EMIT: &str = "\u{1}";

/// Frees the context for the next effect, also when the effect was dropped.
struct Occupied<'a>(&'a AtomicBool);

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl WorkflowContext {
    pub(super) fn new(
        shared: Arc<Shared>,
        claim: ProcessClaim,
        controller: ScopedEffectController<'static>,
    ) -> Self {
        let scope = ExecutionScope::Process {
            process: claim.process.clone(),
        };
        Self {
            run: Arc::new(Run {
                shared,
                claim,
                scope,
                controller,
                occurrences: Mutex::default(),
                occupied: AtomicBool::new(false),
                interrupt: Mutex::default(),
                driver: AtomicWaker::new(),
            }),
        }
    }

    /// Runs a workflow until it ends or is interrupted.
    pub(super) async fn drive<T>(&self, workflow: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut workflow = std::pin::pin!(workflow);
        std::future::poll_fn(|context| {
            self.run.driver.register(context.waker());
            let polled = workflow.as_mut().poll(context);
            let interrupt = self.run.interrupt.lock();
            let interrupt = interrupt.unwrap_or_else(PoisonError::into_inner).take();
            match (interrupt, polled) {
                // What it went on to do after the interrupt is not to be believed.
                (Some(interrupt), _) => Poll::Ready(Err(interrupt)),
                (None, Poll::Ready(value)) => Poll::Ready(Ok(value)),
                (None, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    /// Returns the process that the workflow is.
    #[must_use]
    pub fn process(&self) -> &ProcessId {
        &self.run.claim.process
    }

    /// Makes a step: what it gives is recorded, and answered from then on. It runs when it is
    /// awaited.
    ///
    /// Its name is part of its identity, with how often a step of that name ran before it.
    pub fn step<'a, T, E, F, Attempt>(&'a self, name: &str, mut run: F) -> Step<'a, T>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
        E: Into<Failure>,
        F: FnMut() -> Attempt + Send + 'a,
        Attempt: Future<Output = Result<T, E>> + Send + 'a,
    {
        self.step_with(name, move |_| run())
    }

    /// Makes a step that is told of its attempt: which one it is, the idempotency key that is the
    /// same for every attempt, the fencing token.
    pub fn step_with<'a, T, E, F, Attempt>(&'a self, name: &str, run: F) -> Step<'a, T>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
        E: Into<Failure>,
        F: FnMut(AttemptContext) -> Attempt + Send + 'a,
        Attempt: Future<Output = Result<T, E>> + Send + 'a,
    {
        Step::new(self, name, run)
    }

    pub(super) async fn run_step<'a, T>(&'a self, step: Step<'a, T>) -> Result<T, WireError>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        let occurrence = self.occurrence(EffectKind::DurableStep, &step.name);
        let effect = self.made(step.effect(&self.run.scope, occurrence)).await;
        let outcome = self.execute(effect.0, effect.1).await;
        self.step_value(outcome).await
    }

    /// Runs steps side by side, and gives what each gave. It is a barrier: it is over when each of
    /// them has ended.
    ///
    /// # Errors
    /// The failure of the first in order that failed.
    pub async fn all<'a, T>(
        &'a self,
        steps: impl IntoIterator<Item = Step<'a, T>>,
    ) -> Result<Vec<T>, WireError>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        self.all_settled(steps).await.into_iter().collect()
    }

    /// Runs steps side by side, and gives how each ended, in their order.
    pub async fn all_settled<'a, T>(
        &'a self,
        steps: impl IntoIterator<Item = Step<'a, T>>,
    ) -> Vec<Result<T, WireError>>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        let mut effects = Vec::new();
        // Not across a wait: the iterator need not be fit for another thread.
        let steps: Vec<Step<'a, T>> = steps.into_iter().collect();
        for step in steps {
            let occurrence = self.occurrence(EffectKind::DurableStep, &step.name);
            effects.push(self.made(step.effect(&self.run.scope, occurrence)).await);
        }
        let outcomes = {
            let _occupied = self.occupy().await;
            self.run.controller.execute_batch(effects).await
        };
        if let Some(interrupt) = worst(&outcomes) {
            return self.unwind(interrupt).await;
        }
        let mut values = Vec::with_capacity(outcomes.len());
        for outcome in outcomes.into_iter().flatten() {
            values.push(self.step_value(outcome).await);
        }
        values
    }

    /// Runs steps side by side and gives the index and value of the first that succeeds; the
    /// others are dropped, and the winner is recorded. Each must be retry-safe.
    ///
    /// # Errors
    /// The last failure, when every step failed.
    pub async fn any_step<'a, T>(
        &'a self,
        steps: impl IntoIterator<Item = Step<'a, T>>,
    ) -> Result<(usize, T), WireError>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        let steps = steps.into_iter().collect();
        self.compete("any", false, steps).await
    }

    /// Runs steps side by side and gives the index and value of the first that ends; the others
    /// are dropped, and the winner is recorded. Each must be retry-safe.
    ///
    /// # Errors
    /// The failure of the first to end, if it failed.
    pub async fn race_steps<'a, T>(
        &'a self,
        steps: impl IntoIterator<Item = Step<'a, T>>,
    ) -> Result<(usize, T), WireError>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        let steps = steps.into_iter().collect();
        self.compete("race", true, steps).await
    }

    async fn compete<'a, T>(
        &'a self,
        what: &str,
        first_to_end: bool,
        steps: Vec<Step<'a, T>>,
    ) -> Result<(usize, T), WireError>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
    {
        if steps.is_empty() || steps.iter().any(|step| !step.retry_safe) {
            let message = "steps that compete must be retry-safe, and there must be one at least";
            let error = WireError::new("workflow_race_unsafe", ErrorClass::Invalid, message);
            return self.unwind(Interrupt::Terminal(error)).await;
        }
        let names: Vec<&str> = steps.iter().map(|step| &*step.name).collect();
        let name = format!("{what}({})", names.join(","));
        let mut bodies: Vec<StepBody<'a>> = steps.into_iter().map(|step| step.body).collect();
        let step: Step<'a, (usize, Value)> = self.step_with(&name, move |attempt| {
            let attempts = bodies.iter_mut().map(|body| body(attempt.clone()));
            let mut running: Vec<_> = attempts
                .enumerate()
                .map(|(index, attempt)| attempt.map(move |ended| (index, ended)).boxed())
                .collect();
            async move {
                loop {
                    let ((index, ended), _, others) = select_all(running).await;
                    match ended {
                        Ok(value) => return Ok((index, value)),
                        Err(failure) if first_to_end || others.is_empty() => return Err(failure),
                        Err(_) => running = others,
                    }
                }
            }
        });
        let (index, value) = step.retry_safe().await?;
        Ok((index, self.decoded(value).await))
    }

    /// Sleeps; what is stored is the absolute time, so a restart does not begin anew.
    pub async fn sleep(&self, duration: Duration) {
        let key = self.key(EffectKind::Sleep, "sleep");
        let envelope = self.envelope(key, EffectCommand::Sleep { duration }).await;
        self.wait_for(envelope).await;
    }

    /// Waits for the next signal of that name ([`Processes::signal`](crate::Processes::signal)),
    /// the first being its ordinal 1.
    ///
    /// # Errors
    /// How the signal was refused: it was revoked, or resolved with an error.
    pub async fn signal<T: DeserializeOwned>(&self, name: &str) -> Result<T, WireError> {
        let value = self.wait(Wait::signal(name)).await?;
        Ok(self.decoded(value).await)
    }

    /// Waits for one thing, and gives what it gave: a signal or promise its value, a process its
    /// outcome, a time null.
    ///
    /// # Errors
    /// The error that the promise was resolved with, or how the process failed.
    pub async fn wait(&self, wait: Wait) -> Result<Value, WireError> {
        self.race([wait]).await.1
    }

    /// Waits for the first of several things and gives which it was and what it gave. The winner
    /// is recorded; a signal that lost is there for the next wait.
    ///
    /// # Panics
    /// Without anything to wait for.
    pub async fn race(
        &self,
        waits: impl IntoIterator<Item = Wait>,
    ) -> (usize, Result<Value, WireError>) {
        let waits: Vec<Wait> = waits.into_iter().collect();
        assert!(!waits.is_empty(), "there must be something to wait for");
        let sources = waits.iter().map(|wait| self.source(wait)).collect();
        let key = self.key(EffectKind::AwaitEvent, "wait");
        let command = EffectCommand::AwaitEvent { sources };
        let envelope = self.envelope(key, command).await;
        let (index, value) = match self.wait_for(envelope).await {
            EffectOutput::AwaitEvent(WaitOutput::Resolved { source, resolution }) => {
                (source, resolved(resolution))
            }
            EffectOutput::AwaitEvent(WaitOutput::ProcessEnded { source, outcome }) => {
                (source, ended(outcome))
            }
            EffectOutput::AwaitEvent(WaitOutput::Elapsed { source, .. }) => {
                (source, Ok(Value::Null))
            }
            other => return self.unwind(undecodable(format!("{other:?}"))).await,
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match waits.get(index) {
            Some(Wait::Signal(name)) => drop(self.occurrence(EffectKind::AwaitEvent, name)),
            Some(_) => {}
            None => {
                return self
                    .unwind(undecodable("another wait won".to_owned()))
                    .await;
            }
        }
        (index, value)
    }

    /// Waits for the first of several things that succeeds, and gives which it was and what it
    /// gave.
    ///
    /// # Errors
    /// The last error, when each of them ended with one.
    ///
    /// # Panics
    /// Without anything to wait for.
    pub async fn any(
        &self,
        waits: impl IntoIterator<Item = Wait>,
    ) -> Result<(usize, Value), WireError> {
        let mut left: Vec<(usize, Wait)> = waits.into_iter().enumerate().collect();
        loop {
            let waits = left.iter().map(|(_, wait)| wait.clone());
            let (place, value) = self.race(waits).await;
            let (index, _) = left.remove(place);
            match value {
                Ok(value) => return Ok((index, value)),
                Err(error) if left.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Makes the token by which something outside resolves a promise of this process.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn token(&self, promise: &str) -> Result<Token, TokenError> {
        let identity = WaitIdentity::Custom {
            key: promise.to_owned(),
        };
        let promises = &self.run.shared.processes.promises;
        let rights = TokenRights::RESOLVE;
        promises
            .mint(&self.run.scope, &identity, rights, None)
            .await
    }

    /// Starts a named function as a process of its own. It is cancelled with this one; it is held
    /// by whoever owns this one.
    ///
    /// # Errors
    /// What is wrong with the registration; it is recorded.
    pub async fn spawn(&self, function: &str, input: &impl Serialize) -> Result<Child, WireError> {
        let input = serde_json::to_value(input);
        let input = input.map_err(|error| Failure::from(error).error)?;
        let occurrence = self.occurrence(EffectKind::Process, function);
        let process = child_id(self.process(), function, occurrence);
        let mut registration = ProcessRegistration::function(process.clone(), function, input);
        registration.parent = Some(self.process().clone());
        let command = EffectCommand::Process {
            command: ProcessCommand::Start {
                process: process.clone(),
                registration: registration.digest(),
                owner: None,
            },
        };
        let key = ReplayKey::process(EffectKind::Process, function, occurrence);
        let envelope = self
            .envelope(key.map_err(|error| error.to_wire()), command)
            .await;
        let processes = &self.run.shared.processes;
        let parent = self.process();
        let executor = LocalExecutor::new(EffectKind::Process, |_| {
            let (registration, process) = (registration.clone(), process.clone());
            async move {
                let started = processes.start_child(parent, &registration).await;
                started.map_err(executor_error)?;
                Ok(EffectOutput::Process(ProcessAnswer::Started { process }))
            }
        });
        // Starting the same process again does nothing.
        match self.execute(envelope.retry_safe(true), executor).await {
            EffectOutcome::Completed(_) => Ok(Child { process }),
            EffectOutcome::Failed(error) => Err(error),
        }
    }

    /// Waits for the end of a spawned process, and gives its value.
    ///
    /// # Errors
    /// How it failed, or that it was cancelled.
    pub async fn join<T: DeserializeOwned>(&self, child: &Child) -> Result<T, WireError> {
        let value = self.wait(Wait::Process(child.process.clone())).await?;
        Ok(self.decoded(value).await)
    }

    /// Appends an event of a type that the process declared, once however often the workflow is
    /// driven.
    ///
    /// # Errors
    /// [`ProcessError::EventUndeclared`], [`ProcessError::EventPayload`],
    /// [`ProcessError::TooLarge`].
    pub async fn emit(&self, event_type: &str, payload: &Value) -> Result<(), ProcessError> {
        let occurrence = self.occurrence(EffectKind::DurableStep, &format!("{EMIT}{event_type}"));
        let key = format!("workflow.{occurrence}.{event_type}");
        let Run { shared, claim, .. } = &*self.run;
        let processes = &shared.processes;
        let told = processes.append(self.process(), event_type, payload, &key, Some(claim));
        match told.await {
            Ok(_) => Ok(()),
            Err(error) if error.class() == ErrorClass::Invalid => Err(error),
            Err(error) if error.class() == ErrorClass::Fenced => {
                self.unwind(Interrupt::Fenced).await
            }
            Err(error) => self.unwind(Interrupt::Terminal(error.to_wire())).await,
        }
    }

    /// Returns the time of the first drive that came here.
    ///
    /// # Errors
    /// Never but by a damaged record.
    pub async fn now(&self) -> Result<Timestamp, WireError> {
        let clock = &self.run.shared.clock;
        let now = self.step("now", || async { Ok::<_, Failure>(clock.now()) });
        now.retry_safe().await
    }

    fn source(&self, wait: &Wait) -> WaitSource {
        let promise = |identity| WaitSource::Promise {
            identity,
            call: None,
            tool: None,
            asks: None,
        };
        match wait {
            Wait::Signal(name) => {
                let taken = self.occurrences_of(EffectKind::AwaitEvent, name);
                let ordinal = u64::from(taken) + 1;
                promise(signal_identity(self.process(), name, ordinal))
            }
            Wait::Promise(key) => promise(WaitIdentity::Custom { key: key.clone() }),
            Wait::After(duration) => WaitSource::After {
                duration: *duration,
            },
            Wait::Until(due) => WaitSource::Until { due: *due },
            Wait::Process(process) => {
                // Before the look, so that an end in between drives this one again.
                self.run.shared.will_wait_for(self.process(), process);
                WaitSource::Process {
                    process: process.clone(),
                }
            }
        }
    }

    async fn execute<'a>(
        &'a self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'a>,
    ) -> EffectOutcome {
        let ended = {
            let _occupied = self.occupy().await;
            self.run.controller.execute_effect(envelope, executor).await
        };
        match ended {
            Ok(outcome) => outcome,
            Err(interrupt) => self.unwind(interrupt).await,
        }
    }

    async fn wait_for(&self, envelope: EffectEnvelope) -> EffectOutput {
        let ended = {
            let _occupied = self.occupy().await;
            self.run.controller.wait_any(envelope).await
        };
        match ended {
            Ok(EffectOutcome::Completed(output)) => output,
            Ok(EffectOutcome::Failed(error)) => self.unwind(Interrupt::Terminal(error)).await,
            Err(interrupt) => self.unwind(interrupt).await,
        }
    }

    /// Claims the context for one effect: two at once would be keyed by who comes first.
    async fn occupy(&self) -> Occupied<'_> {
        if self.run.occupied.swap(true, Ordering::AcqRel) {
            let message = "two steps of a workflow ran at once; give them to `all`";
            let error = WireError::new("workflow_steps_overlap", ErrorClass::Invalid, message);
            return self.unwind(Interrupt::Terminal(error)).await;
        }
        Occupied(&self.run.occupied)
    }

    /// Ends this drive: the workflow's future is dropped, wherever it stands.
    async fn unwind<T>(&self, interrupt: Interrupt) -> T {
        {
            let slot = self.run.interrupt.lock();
            let mut slot = slot.unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert(interrupt);
        }
        self.run.driver.wake();
        pending().await
    }

    /// Parks the process: what is recorded does not fit this version of the workflow.
    pub(super) async fn park_undecodable<T>(&self, reason: String) -> T {
        self.unwind(undecodable(reason)).await
    }

    async fn made<T>(&self, made: Result<T, impl Classified>) -> T {
        match made {
            Ok(made) => made,
            Err(error) => self.unwind(Interrupt::Terminal(error.to_wire())).await,
        }
    }

    async fn envelope(
        &self,
        key: Result<ReplayKey, WireError>,
        command: EffectCommand,
    ) -> EffectEnvelope {
        let key = match key {
            Ok(key) => key,
            Err(error) => return self.unwind(Interrupt::Terminal(error)).await,
        };
        self.made(EffectEnvelope::new(self.run.scope.clone(), key, command))
            .await
    }

    fn key(&self, kind: EffectKind, name: &str) -> Result<ReplayKey, WireError> {
        let occurrence = self.occurrence(kind, &format!("{kind}.{name}"));
        ReplayKey::process(kind, name, occurrence).map_err(|error| error.to_wire())
    }

    /// Counts an occurrence of a name, from 0.
    fn occurrence(&self, kind: EffectKind, name: &str) -> u32 {
        let occurrences = self.run.occurrences.lock();
        let mut occurrences = occurrences.unwrap_or_else(PoisonError::into_inner);
        let count = occurrences.entry((kind, name.to_owned())).or_default();
        *count += 1;
        *count - 1
    }

    fn occurrences_of(&self, kind: EffectKind, name: &str) -> u32 {
        let occurrences = self.run.occurrences.lock();
        let occurrences = occurrences.unwrap_or_else(PoisonError::into_inner);
        let count = occurrences.get(&(kind, name.to_owned()));
        count.copied().unwrap_or_default()
    }

    async fn step_value<T: DeserializeOwned>(
        &self,
        outcome: EffectOutcome,
    ) -> Result<T, WireError> {
        match outcome {
            EffectOutcome::Completed(EffectOutput::DurableStep { value }) => {
                Ok(self.decoded(value).await)
            }
            EffectOutcome::Completed(other) => self.unwind(undecodable(format!("{other:?}"))).await,
            EffectOutcome::Failed(error) => Err(error),
        }
    }

    /// Decodes a recorded value. One that does not fit is of another version of the workflow: the
    /// process parks until there is one that reads it.
    async fn decoded<T: DeserializeOwned>(&self, value: Value) -> T {
        match serde_json::from_value(value) {
            Ok(value) => value,
            Err(error) => self.unwind(undecodable(error.to_string())).await,
        }
    }
}

fn undecodable(reason: String) -> Interrupt {
    let message = format!("a recorded value does not fit what this version asks for: {reason}");
    Interrupt::Terminal(WireError::new(
        "workflow_value_undecodable",
        ErrorClass::Conflict,
        message,
    ))
}

/// What becomes of the whole when parts of a batch were interrupted: the gravest of it.
fn worst(outcomes: &[Result<EffectOutcome, Interrupt>]) -> Option<Interrupt> {
    let gravity = |interrupt: &Interrupt| match interrupt {
        Interrupt::Fenced => 0,
        Interrupt::Terminal(_) => 1,
        Interrupt::Conflict(_) => 2,
        Interrupt::InDoubt { .. } => 3,
        Interrupt::Cancelled => 4,
        Interrupt::Suspended { .. } => 5,
    };
    let interrupts = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let worst = interrupts
        .clone()
        .min_by_key(|interrupt| gravity(interrupt))?;
    // Of several pauses, the shortest.
    let dues = interrupts.filter_map(|interrupt| match interrupt {
        Interrupt::Suspended { due, .. } => *due,
        _ => None,
    });
    Some(match worst {
        Interrupt::Suspended { key, .. } => Interrupt::Suspended {
            key: key.clone(),
            due: dues.min(),
        },
        worst => worst.clone(),
    })
}

fn resolved(resolution: Resolution) -> Result<Value, WireError> {
    let error = |code: &str, class, message: &str| Err(WireError::new(code, class, message));
    match resolution {
        Resolution::Ok { value } => Ok(value),
        Resolution::Err { code, message, raw } => Err(WireError {
            code,
            class: ErrorClass::Terminal,
            message,
            details: raw,
        }),
        Resolution::Timeout => error(
            "promise_timed_out",
            ErrorClass::TimedOut,
            "the promise's own deadline passed",
        ),
        _ => error(
            "promise_cancelled",
            ErrorClass::Cancelled,
            "the promise was cancelled, or its owner revoked",
        ),
    }
}

/// The value of a process that ended, or how it failed.
pub(super) fn ended(outcome: ProcessOutcome) -> Result<Value, WireError> {
    match outcome {
        ProcessOutcome::Success { value } => Ok(value),
        ProcessOutcome::Failure {
            class,
            code,
            message,
            raw,
        } => Err(WireError {
            code,
            class,
            message,
            details: raw,
        }),
        ProcessOutcome::Cancelled { message, raw } => Err(WireError {
            details: raw,
            ..WireError::new("process_cancelled", ErrorClass::Cancelled, message)
        }),
    }
}

fn executor_error(error: ProcessError) -> crate::ExecutorError {
    // Repeating it does no harm, so nothing is ever unknown about it.
    crate::ExecutorError {
        error: error.to_wire(),
        applied: crate::Applied::No,
    }
}

/// The id of a child follows from its parent and its place there.
fn child_id(parent: &ProcessId, function: &str, occurrence: u32) -> ProcessId {
    let digest = CanonicalEncoder::new("child-process")
        .text(parent.as_str())
        .text(function)
        .unsigned(u64::from(occurrence))
        .digest()
        .to_string();
    // Ids are ASCII, so any byte is a boundary.
    let parent = &parent.as_str()[..parent.as_str().len().min(96)];
    let id = format!("{parent}.{}", &digest[..24]);
    ProcessId::new(id).expect("96 bytes of an id, a dot and 24 digits are within the bounds")
}
