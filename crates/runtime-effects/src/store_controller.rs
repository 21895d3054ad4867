//! The controller of one scope over a store.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, Either, join_all, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, TryFutureExt};
use runtime_core::{
    Classified, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, ErrorClass,
    ProcessCommand, ScopeId, Timestamp, Trigger, WireError,
};
use runtime_store::{Commit, RowChange};
use serde_json::json;

use crate::attempt::{AfterAttempt, AttemptEnd, after_attempt};
use crate::cancellation::Cancellation;
use crate::claims::Claim;
use crate::conflict::{self, conflict_key};
use crate::journal::{Decision, Recorded, Requested, decide};
use crate::lease::crash_key;
use crate::process::{Triggered, check_trigger, with_triggers};
use crate::recording::{Recorder, Subject, effect_key};
use crate::store_host::Shared;
use crate::{
    Addressing, AttemptContext, Concurrency, EffectController, EffectError, Interrupt,
    LocalExecutor, Mismatch, ScopeOpening, TriggerReports, WaitRequest,
};

/// Runs the effects of one opening of a scope.
#[derive(Debug)]
pub(crate) struct StoreController {
    pub(crate) shared: Arc<Shared>,
    pub(crate) opening: ScopeOpening,
    pub(crate) scope: ScopeId,
    pub(crate) cancellation: Cancellation,
    /// How often processes died in the scope since it last got further.
    pub(crate) crashes: AtomicU32,
}

/// An effect that is to run: it is claimed, and what is recorded of it allows it.
struct Runnable<'run> {
    subject: Subject,
    executor: LocalExecutor<'run>,
    attempt: u32,
    /// What the latest attempt reported of what happened outside.
    triggers: TriggerReports,
    /// When the first attempt may start.
    due: Option<Timestamp>,
    /// Given back when the effect has ended.
    _claim: Claim,
}

impl Runnable<'_> {
    /// Says whether its first attempt starts now and needs an intent.
    fn needs_intent_now(&self) -> bool {
        !self.subject.envelope.is_retry_safe() && self.due.is_none()
    }
}

/// An effect after the look into the record.
enum Prepared<'run> {
    Settled(Result<EffectOutcome, Interrupt>),
    Conflict(Box<(Subject, Mismatch)>),
    Run(Box<Runnable<'run>>),
}

#[async_trait]
impl EffectController for StoreController {
    fn concurrency(&self) -> Concurrency {
        Concurrency::Concurrent
    }

    fn addressing(&self) -> Addressing {
        Addressing::Keyed
    }

    async fn execute_effect<'run>(
        &'run self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Result<EffectOutcome, Interrupt> {
        // One effect needs none of what keeps a batch apart; each step of most turns is one.
        match self.prepare(envelope, executor).await {
            Prepared::Settled(result) => result,
            Prepared::Conflict(conflict) => Err(self.conflict(&conflict.0, conflict.1).await),
            Prepared::Run(effect) => {
                if effect.needs_intent_now() {
                    let commit = self
                        .recorder()
                        .intents(&[(&effect.subject, effect.attempt)]);
                    self.shared.record(commit).await?;
                }
                self.run(effect).await
            }
        }
    }

    async fn execute_batch<'run>(
        &'run self,
        items: Vec<(EffectEnvelope, LocalExecutor<'run>)>,
    ) -> Vec<Result<EffectOutcome, Interrupt>> {
        let prepared = items
            .into_iter()
            .map(|(envelope, executor)| self.prepare(envelope, executor));
        let mut prepared = join_all(prepared).await;
        let intents = match self.intents(&prepared) {
            Some(commit) => self.shared.record(commit).await.map(drop),
            None => Ok(()),
        };
        let mut running: FuturesUnordered<_> = FuturesUnordered::new();
        let mut results: Vec<Option<Result<EffectOutcome, Interrupt>>> = Vec::new();
        let mut conflicts = Vec::new();
        for (index, item) in prepared.drain(..).enumerate() {
            results.push(match (item, &intents) {
                (Prepared::Settled(result), _) => Some(result),
                (Prepared::Conflict(conflict), _) => {
                    conflicts.push((index, conflict));
                    None
                }
                (Prepared::Run(effect), Err(interrupt)) if effect.needs_intent_now() => {
                    Some(Err(interrupt.clone()))
                }
                (Prepared::Run(effect), _) => {
                    running.push(self.run(effect).map(move |result| (index, result)));
                    None
                }
            });
        }
        while let Some((index, result)) = running.next().await {
            results[index] = Some(result);
        }
        // Last: once a conflict is noted somebody may rule on it, and nothing of this scope may be
        // recorded any more.
        for (index, conflict) in conflicts {
            results[index] = Some(Err(self.conflict(&conflict.0, conflict.1).await));
        }
        let ended = results
            .into_iter()
            .map(|result| result.expect("every effect gave a result"));
        ended.collect()
    }

    async fn wait_any(&self, envelope: WaitRequest) -> Result<EffectOutcome, Interrupt> {
        self.wait(envelope).await
    }
}

impl StoreController {
    pub(crate) fn open(shared: &Arc<Shared>, opening: ScopeOpening) -> Self {
        let scope = opening.scope.scope_id();
        Self {
            cancellation: shared.cancellations.open(&scope),
            shared: Arc::clone(shared),
            crashes: AtomicU32::new(opening.crashes),
            opening,
            scope,
        }
    }

    /// How long a wait of this opening holds its task.
    pub(crate) fn park_after(&self) -> Duration {
        let opening = self.opening.park_after;
        opening.unwrap_or(self.shared.limits.park_after)
    }

    pub(crate) fn recorder(&self) -> Recorder<'_> {
        Recorder {
            projector: &*self.opening.projector,
            scope: &self.scope,
            epoch: self.opening.epoch,
            now: self.shared.clock.now(),
        }
    }

    pub(crate) fn check_scope(&self, envelope: &EffectEnvelope) -> Result<(), EffectError> {
        if *envelope.scope() == self.opening.scope {
            return Ok(());
        }
        Err(EffectError::ScopeMismatch {
            envelope: envelope.scope().scope_id(),
            controller: self.scope.clone(),
        })
    }

    pub(crate) fn claim(&self, envelope: &EffectEnvelope) -> Result<Claim, EffectError> {
        let claims = &self.shared.claims;
        claims.claim(&self.scope, self.opening.epoch, envelope.key())
    }

    /// Looks into the record and decides.
    pub(crate) async fn look_up(&self, subject: &mut Subject) -> Result<Decision, Interrupt> {
        let key = effect_key(&self.scope, subject.key());
        let row = self.shared.row(&key).await?;
        let mut requested = Requested {
            key: subject.envelope.key(),
            digest: subject.digest,
            identity: &subject.identity,
            epoch: self.opening.epoch,
            retry_safe: subject.envelope.is_retry_safe(),
            strict: self.opening.strict_replay,
            now: self.shared.clock.now(),
        };
        let recorded = row
            .as_ref()
            .map(|row| Recorded::decode_for(row, &requested))
            .transpose()
            .map_err(Interrupt::Terminal)?;
        if let Some(recorded) = &recorded {
            subject.ruling = recorded.row.ruling;
            subject.revision = recorded.row.revision;
        }
        let decision = decide(recorded.as_ref(), &requested).map_err(Interrupt::Terminal)?;
        let Decision::Conflict(mismatch) = &decision else {
            return Ok(decision);
        };
        let accepted = conflict::is_accepted(&self.shared, &self.scope, mismatch).await;
        if !accepted.map_err(|error| Interrupt::Terminal(error.to_wire()))? {
            return Ok(decision);
        }
        requested.digest = mismatch.recorded;
        decide(recorded.as_ref(), &requested).map_err(Interrupt::Terminal)
    }

    /// Notes a conflict where whoever rules finds it. Nothing runs.
    async fn conflict(&self, subject: &Subject, mismatch: Mismatch) -> Interrupt {
        let recorder = self.recorder();
        let noted = match self
            .shared
            .row(&conflict_key(&self.scope, subject.key()))
            .await
        {
            Ok(noted) => noted,
            Err(interrupt) => return interrupt,
        };
        if let Some(note) = conflict::note(subject, &mismatch, recorder.now, noted.as_ref()) {
            let commit = recorder.conflict(subject, &mismatch, note);
            if let Err(interrupt) = self.shared.record(commit).await {
                return interrupt;
            }
        }
        Interrupt::Conflict(mismatch)
    }

    async fn prepare<'run>(
        &self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Prepared<'run> {
        match self.try_prepare(envelope, executor).await {
            Ok(prepared) => prepared,
            Err(interrupt) => Prepared::Settled(Err(interrupt)),
        }
    }

    async fn try_prepare<'run>(
        &self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Result<Prepared<'run>, Interrupt> {
        self.check_scope(&envelope)?;
        check_executor(&envelope, executor.kind())?;
        let claim = self.claim(&envelope)?;
        let mut subject = Subject::new(envelope);
        let (attempt, due) = match self.look_up(&mut subject).await? {
            Decision::Run { attempt } => (attempt, None),
            Decision::NotYetDue { attempt, due } => (attempt, Some(due)),
            Decision::Conflict(mismatch) => {
                return Ok(Prepared::Conflict(Box::new((subject, mismatch))));
            }
            settled => {
                let settled = self.settle(&subject, settled).await;
                return Ok(Prepared::Settled(settled));
            }
        };
        if self.cancellation.is_cancelled() {
            return Err(Interrupt::Cancelled);
        }
        self.check_crash_loop(&subject)?;
        if !self.holds_lease() {
            return Err(Interrupt::Fenced);
        }
        Ok(Prepared::Run(Box::new(Runnable {
            subject,
            executor,
            attempt,
            triggers: TriggerReports::default(),
            due,
            _claim: claim,
        })))
    }

    /// Refuses to run what processes died of as often as it may be tried (E5).
    fn check_crash_loop(&self, subject: &Subject) -> Result<(), Interrupt> {
        let crashes = self.crashes.load(Ordering::Acquire);
        if crashes == 0 || crashes < subject.envelope.policy().max_attempts {
            return Ok(());
        }
        let key = subject.key().clone();
        Err(EffectError::CrashLoop { key, crashes }.into())
    }

    fn holds_lease(&self) -> bool {
        self.shared.lease.holds(self.opening.instance.as_ref())
    }

    /// Records an outcome; the first one after a crash resets their count.
    pub(crate) async fn record_ended(&self, commit: Commit) -> Result<(), Interrupt> {
        if self.crashes.load(Ordering::Acquire) == 0 {
            return self.shared.record(commit).await.map(drop);
        }
        let commit = commit.row(RowChange::Delete(crash_key(&self.scope)));
        self.shared.record(commit).await?;
        self.crashes.store(0, Ordering::Release);
        Ok(())
    }

    /// Answers a decision that runs nothing.
    pub(crate) async fn settle(
        &self,
        subject: &Subject,
        decision: Decision,
    ) -> Result<EffectOutcome, Interrupt> {
        match decision {
            Decision::Replay(outcome) => checked(subject, outcome),
            Decision::Adopt(outcome) => {
                let outcome = checked(subject, outcome)?;
                self.record_ended(self.recorder().outcome(subject, 0, &outcome))
                    .await?;
                Ok(outcome)
            }
            Decision::Conflict(mismatch) => Err(self.conflict(subject, mismatch).await),
            Decision::Fenced => Err(Interrupt::Fenced),
            Decision::Missing => Err(EffectError::Missing {
                key: subject.key().clone(),
            }
            .into()),
            Decision::InDoubt { attempt, recorded } => {
                if recorded {
                    return Err(in_doubt(subject));
                }
                let message = "the process ended, or gave it up, while it ran";
                let reason =
                    WireError::new("effect_interrupted", ErrorClass::Indeterminate, message);
                Err(self.report_in_doubt(subject, attempt, reason).await)
            }
            // A record of the same digest has the same command: a wait stays a wait.
            Decision::Run { .. } | Decision::NotYetDue { .. } | Decision::Wait { .. } => {
                Err(Interrupt::Terminal(WireError::new(
                    "effect_record_corrupt",
                    ErrorClass::Corrupt,
                    format!("effect {} is recorded as a wait", subject.key()),
                )))
            }
        }
    }

    async fn report_in_doubt(
        &self,
        subject: &Subject,
        attempt: u32,
        reason: WireError,
    ) -> Interrupt {
        let commit = self.recorder().in_doubt(subject, attempt, reason);
        match self.shared.record(commit).await {
            Ok(_) => in_doubt(subject),
            Err(interrupt) => interrupt,
        }
    }

    /// The intents of all effects that need one, as one commit.
    fn intents(&self, prepared: &[Prepared<'_>]) -> Option<Commit> {
        let needed: Vec<(&Subject, u32)> = prepared
            .iter()
            .filter_map(|item| match item {
                Prepared::Run(effect) if effect.needs_intent_now() => {
                    Some((&effect.subject, effect.attempt))
                }
                _ => None,
            })
            .collect();
        (!needed.is_empty()).then(|| self.recorder().intents(&needed))
    }

    /// Runs an effect, attempt by attempt, until it ends.
    fn run<'run>(
        &'run self,
        mut effect: Box<Runnable<'run>>,
    ) -> BoxFuture<'run, Result<EffectOutcome, Interrupt>> {
        Box::pin(async move {
            let retry_safe = effect.subject.envelope.is_retry_safe();
            let mut has_intent = effect.needs_intent_now();
            if let Some(due) = effect.due {
                let pause = due.since(self.shared.clock.now());
                self.pause(&effect.subject, pause, due).await?;
            }
            loop {
                let Runnable {
                    subject, attempt, ..
                } = &*effect;
                if !retry_safe && !has_intent {
                    let commit = self.recorder().intents(&[(subject, *attempt)]);
                    self.shared.record(commit).await?;
                }
                has_intent = false;
                let end = self.attempt(&mut effect).await;
                if let Some(result) = self.conclude(&mut effect, end).await {
                    return result;
                }
            }
        })
    }

    /// Runs one attempt, if the lease of this instance lasts.
    async fn attempt(&self, effect: &mut Runnable<'_>) -> AttemptEnd {
        if !self.holds_lease() {
            return AttemptEnd::LeaseEnded;
        }
        let policy = *effect.subject.envelope.policy();
        // What an attempt reports that fails is not told.
        effect.triggers = TriggerReports::default();
        let context = AttemptContext {
            attempt: effect.attempt,
            idempotency_key: effect.subject.envelope.idempotency_key(),
            fencing_token: self.opening.epoch.0,
            deadline: self.shared.clock.now().after(policy.attempt_timeout),
            triggers: effect.triggers.clone(),
        };
        let executor = &mut effect.executor;
        // Starting an attempt is the host's code too, so it is inside the net.
        let started = AssertUnwindSafe(async move { executor.attempt(context).await });
        let text_max = self.shared.limits.panic_text_bytes_max;
        let attempt = started.catch_unwind().map_ok_or_else(
            |panic| AttemptEnd::Panicked(panic_text(&*panic, text_max)),
            AttemptEnd::Returned,
        );
        let timeout = self.shared.clock.sleep(policy.attempt_timeout);
        let cancelled = pin!(self.cancellation.cancelled());
        let lease_ended = pin!(self.shared.lease.ended(self.opening.instance.as_ref()));
        // The lease is looked at before the time-out: what follows is not ours to record then.
        let stop = select(lease_ended, select(timeout, cancelled));
        // The attempt is looked at first: a result that is there is not thrown away.
        match select(pin!(attempt), stop).await {
            Either::Left((end, _)) => end,
            Either::Right((Either::Left(_), _)) => AttemptEnd::LeaseEnded,
            Either::Right((Either::Right((Either::Left(_), _)), _)) => AttemptEnd::TimedOut,
            Either::Right((Either::Right((Either::Right(_), _)), _)) => AttemptEnd::Cancelled,
        }
    }

    /// Records what follows from an attempt; none if another attempt is due now.
    async fn conclude(
        &self,
        effect: &mut Runnable<'_>,
        end: AttemptEnd,
    ) -> Option<Result<EffectOutcome, Interrupt>> {
        let Runnable {
            subject,
            attempt,
            triggers,
            ..
        } = effect;
        let envelope = &subject.envelope;
        let after = after_attempt(end, *attempt, envelope.is_retry_safe(), envelope.policy());
        match after {
            AfterAttempt::Record(outcome) => {
                let triggers = triggers.take();
                let recorded = self.record_outcome(subject, *attempt, outcome, triggers);
                Some(recorded.await)
            }
            AfterAttempt::Cancelled => Some(Err(Interrupt::Cancelled)),
            AfterAttempt::LetGo => Some(Err(Interrupt::Fenced)),
            AfterAttempt::InDoubt(reason) => {
                Some(Err(self.report_in_doubt(subject, *attempt, reason).await))
            }
            AfterAttempt::Surrender(error) => {
                let now = self.shared.clock.now();
                let failed = self.record_failed(subject, *attempt, &error, now).await;
                Some(Err(failed.err().unwrap_or(Interrupt::Terminal(error))))
            }
            AfterAttempt::Retry { error, pause } => {
                let pause = self.shared.spread(pause);
                let due = self.shared.clock.now().after(pause);
                let paused = match self.record_failed(subject, *attempt, &error, due).await {
                    Ok(()) => self.pause(subject, pause, due).await,
                    Err(interrupt) => Err(interrupt),
                };
                *attempt += 1;
                paused.err().map(Err)
            }
        }
    }

    async fn record_failed(
        &self,
        subject: &Subject,
        attempt: u32,
        error: &WireError,
        due: Timestamp,
    ) -> Result<(), Interrupt> {
        let commit = self.recorder().attempt_failed(subject, attempt, error, due);
        self.shared.record(commit).await.map(drop)
    }

    /// Waits until the next attempt, or parks if that is long.
    async fn pause(
        &self,
        subject: &Subject,
        pause: Duration,
        due: Timestamp,
    ) -> Result<(), Interrupt> {
        if pause > self.park_after() {
            return Err(Interrupt::Suspended {
                key: subject.key().clone(),
                due: Some(due),
            });
        }
        let cancelled = pin!(self.cancellation.cancelled());
        match select(cancelled, self.shared.clock.sleep(pause)).await {
            Either::Left(_) => Err(Interrupt::Cancelled),
            Either::Right(_) => Ok(()),
        }
    }

    /// Records an outcome and, in the same commit, starts what is subscribed to what it reports.
    async fn record_outcome(
        &self,
        subject: &Subject,
        attempts: u32,
        outcome: EffectOutcome,
        mut triggers: Vec<Trigger>,
    ) -> Result<EffectOutcome, Interrupt> {
        let mut outcome = self.bounded(checked(subject, outcome)?);
        if let EffectOutcome::Failed(_) = outcome {
            triggers.clear();
        }
        if let Err(error) = triggers.iter().try_for_each(check_trigger) {
            // The effect happened, so it must be recorded as ended.
            outcome = EffectOutcome::Failed(error.to_wire());
            triggers.clear();
        }
        let mut contended = None;
        for _ in 0..TRIGGER_TRIES_MAX {
            let commit = self.recorder().outcome(subject, attempts, &outcome);
            if triggers.is_empty() {
                self.record_ended(commit).await?;
                return Ok(outcome);
            }
            let triggered = with_triggers(&self.shared, commit, &triggers).await;
            let Triggered { commit, started } =
                triggered.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
            match self.record_ended(commit).await {
                Ok(_) => {
                    let listeners = &self.shared.registry.listeners;
                    for process in &started {
                        listeners.tell(|listener| listener.process_started(process));
                    }
                    return Ok(outcome);
                }
                // Somebody recorded the same occurrence first: look again what is left to start.
                Err(Interrupt::Terminal(error)) if error.class == ErrorClass::Conflict => {
                    contended = Some(error);
                }
                Err(interrupt) => return Err(interrupt),
            }
        }
        let error = contended.expect("without a contention it has returned");
        Err(Interrupt::Terminal(error))
    }

    /// Replaces an outcome over the limit by an error that says so (E16): the effect happened, so
    /// it must be recorded as ended.
    fn bounded(&self, outcome: EffectOutcome) -> EffectOutcome {
        let max = self.shared.limits.outcome_bytes_max;
        let encoded = serde_json::to_vec(&outcome).expect("an outcome is plain data");
        let bytes = encoded.len();
        if bytes <= max {
            return outcome;
        }
        let message = format!(
            "the outcome has {bytes} bytes; {max} are allowed, name large values by digest"
        );
        EffectOutcome::Failed(WireError {
            details: Some(json!({ "bytes": bytes, "max": max })),
            ..WireError::new("effect_outcome_too_large", ErrorClass::Terminal, message)
        })
    }
}

/// How often an outcome with triggers is decided anew.
const TRIGGER_TRIES_MAX: u32 = 8;

/// Refuses an outcome of another kind than its command (E3).
fn checked(subject: &Subject, outcome: EffectOutcome) -> Result<EffectOutcome, Interrupt> {
    let expected = subject.envelope.kind();
    match &outcome {
        EffectOutcome::Completed(output) if output.kind() != expected => {
            Err(EffectError::WrongOutcome {
                key: subject.key().clone(),
                expected: expected.as_str(),
                found: output.kind().as_str(),
            }
            .into())
        }
        _ => Ok(outcome),
    }
}

fn check_executor(envelope: &EffectEnvelope, executor: EffectKind) -> Result<(), EffectError> {
    let command = envelope.kind();
    let awaits_process = matches!(
        envelope.command(),
        EffectCommand::Process {
            command: ProcessCommand::Await { .. }
        }
    );
    if awaits_process || matches!(command, EffectKind::AwaitEvent | EffectKind::Sleep) {
        let what = "run a wait by an executor; use wait_any";
        return Err(EffectError::Unsupported { what });
    }
    if command == executor {
        return Ok(());
    }
    Err(EffectError::WrongExecutor {
        command: command.as_str(),
        executor: executor.as_str(),
    })
}

fn in_doubt(subject: &Subject) -> Interrupt {
    Interrupt::InDoubt {
        key: subject.key().clone(),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send), bytes_max: usize) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the panic has no text");
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
