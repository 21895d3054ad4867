//! Waiting for the first of some promises and times (E8, E9, E11).

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, pending, select};
use runtime_core::{
    Classified, EffectCommand, EffectEnvelope, EffectOutcome, EffectOutput, ProcessAnswer,
    ProcessCommand, ProcessId, ProcessOutcome, Timestamp, WaitOutput, WaitSource,
};
use runtime_store::{Page, Position, RowChange};

use crate::journal::Decision;
use crate::pending::{pending_key, processes_of, promises_of};
use crate::process::{end_of, ended_key};
use crate::promise::{early_key, look_at_promise, public_name};
use crate::promise_deadline::deadline_of;
use crate::recording::Subject;
use crate::registry::Interest;
use crate::store_controller::StoreController;
use crate::{EffectError, Interrupt, ProcessError};

impl StoreController {
    pub(crate) async fn wait(&self, envelope: EffectEnvelope) -> Result<EffectOutcome, Interrupt> {
        self.check_scope(&envelope)?;
        let now = self.shared.clock.now();
        let Some(due) = due_times(&envelope, now) else {
            let what = "wait for an effect that is no wait";
            return Err(EffectError::Unsupported { what }.into());
        };
        let _claim = self.claim(&envelope)?;
        let mut subject = Subject::new(envelope);
        let runtime = &self.shared.store.identity().runtime;
        let names: Vec<String> = promises_of(&subject.envelope)
            .iter()
            .map(|identity| public_name(runtime, &self.scope, identity))
            .collect();
        // Interest first, the look second: a promise resolved in between rings the bell (E14).
        let promises = names.iter().map(|name| (self.scope.clone(), name.clone()));
        let ends = processes_of(&subject.envelope).into_iter().map(ended_key);
        let interest = self
            .shared
            .registry
            .register(promises.chain(ends).collect());
        let due = match self.look_up(&mut subject).await? {
            Decision::Wait { due } => due,
            Decision::Run { .. } => {
                if self.cancellation.is_cancelled() {
                    return Err(Interrupt::Cancelled);
                }
                let commit = self.recorder().wait_begun(&subject, &due, &names);
                self.shared.record(commit).await?;
                due
            }
            settled => return self.settle(&subject, settled).await,
        };
        let seen = self.until_ready(&subject, &due, &names, &interest).await?;
        self.record_wait(&subject, &names, seen).await
    }

    /// Waits until a source is ready, in the order resolution, cancel, deadline (E11).
    async fn until_ready(
        &self,
        subject: &Subject,
        due: &[Option<Timestamp>],
        names: &[String],
        interest: &Interest,
    ) -> Result<EffectOutput, Interrupt> {
        let shared = &self.shared;
        let park_at = shared.clock.monotonic() + self.park_after();
        let mut earliest = due.iter().flatten().min().copied();
        for name in names {
            // One that comes later wakes, whoever sweeps.
            let deadline = deadline_of(shared, &self.scope, name).await;
            let deadline = deadline.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
            earliest = [earliest, deadline].into_iter().flatten().min();
        }
        loop {
            let seen = self.watermark().await?;
            if let Some(resolved) = self.resolved(subject).await? {
                return Ok(resolved);
            }
            if self.cancellation.is_cancelled() {
                return Err(Interrupt::Cancelled);
            }
            let now = shared.clock.now();
            if let Some(elapsed) = elapsed(&subject.envelope, due, now) {
                return Ok(elapsed);
            }
            let left = park_at.saturating_sub(shared.clock.monotonic());
            if left.is_zero() {
                return Err(Interrupt::Suspended {
                    key: subject.key().clone(),
                    due: earliest,
                });
            }
            let until_due = earliest.map_or(Duration::MAX, |due| due.since(now));
            self.doze(interest, left.min(until_due), seen).await;
        }
    }

    /// The end of the log, if other processes may write to it: they ring no bell of this one.
    async fn watermark(&self) -> Result<Option<Position>, Interrupt> {
        let store = &self.shared.store;
        if !store.capabilities().shared_by_processes {
            return Ok(None);
        }
        let end = store.events(None, Page::after(Position(u64::MAX), 1)).await;
        let end = end.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
        Ok(Some(end.head))
    }

    /// Sleeps until something may have changed since `seen`.
    async fn doze(&self, interest: &Interest, at_most: Duration, seen: Option<Position>) {
        let changed = match seen {
            Some(position) => Either::Left(self.shared.store.changed(position)),
            None => Either::Right(pending()),
        };
        let rung = pin!(interest.woken());
        let cancelled = pin!(self.cancellation.cancelled());
        let news = select(select(rung, cancelled), changed);
        select(news, self.shared.clock.sleep(at_most)).await;
    }

    /// Looks at the promises and processes of a wait, in the order of its sources.
    async fn resolved(&self, subject: &Subject) -> Result<Option<EffectOutput>, Interrupt> {
        if let EffectCommand::Process {
            command: ProcessCommand::Await { process, .. },
        } = subject.envelope.command()
        {
            let ended = self.process_end(process).await?;
            let answer = ended.map(|outcome| ProcessAnswer::Ended { outcome });
            return Ok(answer.map(EffectOutput::Process));
        }
        let EffectCommand::AwaitEvent { sources } = subject.envelope.command() else {
            return Ok(None);
        };
        for (source, index) in sources.iter().zip(0..) {
            if let WaitSource::Process { process } = source
                && let Some(outcome) = self.process_end(process).await?
            {
                return Ok(Some(EffectOutput::AwaitEvent(WaitOutput::ProcessEnded {
                    source: index,
                    outcome,
                })));
            }
            let WaitSource::Promise { identity, .. } = source else {
                continue;
            };
            let looked = look_at_promise(&self.shared, &self.opening.scope, identity).await?;
            if let Some(resolution) = looked {
                return Ok(Some(EffectOutput::AwaitEvent(WaitOutput::Resolved {
                    source: index,
                    resolution,
                })));
            }
        }
        Ok(None)
    }

    /// Looks whether a process has ended. One that is not there can never end, so waiting for it
    /// fails for good.
    async fn process_end(&self, process: &ProcessId) -> Result<Option<ProcessOutcome>, Interrupt> {
        match end_of(&self.shared, process).await {
            Ok(outcome) => Ok(outcome),
            Err(error @ ProcessError::NotFound { .. }) => Ok(Some(error.to_wire().into())),
            Err(error) => Err(Interrupt::Terminal(error.to_wire())),
        }
    }

    async fn record_wait(
        &self,
        subject: &Subject,
        names: &[String],
        seen: EffectOutput,
    ) -> Result<EffectOutcome, Interrupt> {
        let outcome = EffectOutcome::Completed(seen);
        let mut commit = self
            .recorder()
            .outcome(subject, 1, &outcome)
            .row(RowChange::Delete(pending_key(&self.scope, subject.key())));
        for name in names {
            commit = commit.row(RowChange::Delete(early_key(&self.scope, name)));
        }
        self.record_ended(commit).await?;
        Ok(outcome)
    }
}

/// The absolute times of a wait that begins now, one for each source; none if it is no wait.
fn due_times(envelope: &EffectEnvelope, now: Timestamp) -> Option<Vec<Option<Timestamp>>> {
    let due_time = |source: &WaitSource| match source {
        WaitSource::After { duration } => Some(now.after(*duration)),
        WaitSource::Until { due } => Some(*due),
        _ => None,
    };
    match envelope.command() {
        EffectCommand::AwaitEvent { sources } => Some(sources.iter().map(due_time).collect()),
        EffectCommand::Sleep { duration } => Some(vec![Some(now.after(*duration))]),
        EffectCommand::Process {
            command: ProcessCommand::Await { until, .. },
        } => Some(vec![*until]),
        _ => None,
    }
}

/// The earliest time that has come, if one has.
fn elapsed(
    envelope: &EffectEnvelope,
    due: &[Option<Timestamp>],
    now: Timestamp,
) -> Option<EffectOutput> {
    let times = due.iter().zip(0..);
    let (due, source) = times
        .filter_map(|(due, source)| due.map(|due| (due, source)))
        .min()?;
    if due > now {
        return None;
    }
    Some(match envelope.command() {
        EffectCommand::Sleep { .. } => EffectOutput::Sleep { due },
        EffectCommand::Process { .. } => EffectOutput::Process(ProcessAnswer::WaitTimedOut { due }),
        _ => EffectOutput::AwaitEvent(WaitOutput::Elapsed { source, due }),
    })
}
