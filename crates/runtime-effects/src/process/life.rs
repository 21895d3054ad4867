//! The life of a process: taken over, parked, cancelled, ended, awaited, retired.

use std::future::Future;
use std::pin::pin;

use futures_util::future::{Either, pending, select};
use runtime_core::{
    CommitId, EventKind, ExecutionScope, InstanceId, ProcessId, ProcessOutcome, ProcessStatus,
    RecoveryDisposition, Timestamp, WireError,
};
use runtime_store::{
    Commit, CommitError, Epoch, Guard, Page, Position, Row, RowChange, RowKey, RowQuery,
};
use serde_json::json;

use super::plan::{self, Versioned};
use super::record::{
    CHILD_SPACE, RETIRED_SPACE, process_key, process_of, process_scope, recorded_outcome,
    status_space, told,
};
use super::schema::check_size;
use super::table::keys_of;
use super::trigger::OCCURRENCE_SPACE;
use super::{ProcessClaim, ProcessError, ProcessRecord, Processes};
use crate::lease_keeper::is_alive;
use crate::pending::PENDING_SPACE;
use crate::registry::PromiseKey;
use crate::store_host::Shared;
use crate::{Lease, forgets_conflict};

/// What is waited for in the registry by whoever waits for the end of a process; no promise has
/// such a name.
pub(crate) fn ended_key(process: ProcessId) -> PromiseKey {
    let scope = ExecutionScope::Process { process }.scope_id();
    (scope, "process-ended".to_owned())
}

/// Reads how a process ended; none while it has not.
pub(crate) async fn end_of(
    shared: &Shared,
    process: &ProcessId,
) -> Result<Option<ProcessOutcome>, ProcessError> {
    let row = shared.store.row(&process_key(process)).await?;
    let row = row.ok_or_else(|| ProcessError::NotFound {
        process: process.clone(),
    })?;
    match ProcessRecord::decode(&row)?.status.is_ended() {
        true => Ok(Some(recorded_outcome(&row)?)),
        false => Ok(None),
    }
}

/// What became of a request to end.
#[derive(Debug, Clone, PartialEq)]
pub enum CancelAnswer {
    /// It is recorded, or the process was not started and is over.
    Requested,
    /// It was asked before, for this reason, which stands.
    AlreadyRequested {
        /// The first reason.
        reason: String,
    },
    /// It had ended.
    AlreadyEnded {
        /// How.
        outcome: ProcessOutcome,
    },
}

/// What became of an end.
#[derive(Debug, Clone, PartialEq)]
pub enum EndAnswer {
    /// It is recorded: the one end of the process.
    Recorded,
    /// It had ended; the first end stands.
    AlreadyEnded {
        /// How.
        outcome: ProcessOutcome,
    },
}

impl Processes {
    /// Returns the right to act for a process that has not ended, as the epoch says now. It
    /// fences nobody: for whoever starts a process, or reports on an external one.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::Ended`].
    pub async fn claim(&self, process: &ProcessId) -> Result<ProcessClaim, ProcessError> {
        let found = self.unended(process).await?;
        let opened = self.opened(&found.record.process).await?;
        Ok(ProcessClaim {
            process: process.clone(),
            epoch: Epoch(opened.version),
            instance: Lease::holder(&opened),
        })
    }

    /// Returns the claim of this instance on a process that it drives already; none when it has to
    /// be [taken over](Self::take_over) first.
    pub(crate) async fn held_claim(
        &self,
        process: &ProcessId,
    ) -> Result<Option<ProcessClaim>, ProcessError> {
        let opened = self.opened(process).await?;
        let instance = Lease::holder(&opened);
        let is_mine = instance.is_some() && instance == self.shared.lease.instance();
        Ok(is_mine.then(|| ProcessClaim {
            process: process.clone(),
            epoch: Epoch(opened.version),
            instance,
        }))
    }

    /// Says whether another instance that lives holds something.
    async fn is_held_elsewhere(&self, holder: Option<&InstanceId>) -> Result<bool, ProcessError> {
        let lease = &self.shared.lease;
        if !lease.is_needed() || lease.instance().as_ref() == holder {
            return Ok(false);
        }
        Ok(is_alive(&*self.shared.store, holder).await?)
    }

    /// Takes a process over: whoever drove it before is fenced (E5).
    ///
    /// # Errors
    /// [`ProcessError::Ended`]; on a store that instances share, [`ProcessError::Commit`] of class
    /// Fenced when another one that lives drives it, and [`ProcessError::Lease`] when this one has
    /// no lease.
    pub async fn take_over(&self, process: &ProcessId) -> Result<ProcessClaim, ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            let found = self.unended(process).await?;
            let opened = self.opened(process).await?;
            let holder = Lease::holder(&opened);
            if self.is_held_elsewhere(holder.as_ref()).await? {
                return Err(CommitError::Fenced.into());
            }
            let epoch = Epoch(opened.version).next();
            let payload = json!({ "epoch": epoch, "was": found.record.status });
            let event = told(process, EventKind::ProcessResumed, payload);
            let scope = process_scope(process).scope_id();
            let commit = self
                .fresh(None)
                .guard(Guard::Version(opened.key, opened.version));
            let commit = Lease::lets_go(commit, holder.as_ref(), &scope);
            let (commit, instance) = self.shared.lease.opens(commit, &scope)?;
            let mut commit = plan::step(commit, &found, &event);
            if let Some(effect) = found.record.conflict() {
                // This version may ask for what is recorded; if not, it is noted anew (E4).
                commit = forgets_conflict(commit, &scope, &effect);
            }
            if self.contend(commit).await?.is_some() {
                return Ok(ProcessClaim {
                    process: process.clone(),
                    epoch,
                    instance,
                });
            }
        }
        Err(self.contended(process))
    }

    /// Records that a process cannot go on by itself, and why.
    ///
    /// # Errors
    /// [`ProcessError::Commit`] of class Fenced when somebody took it over.
    pub async fn park(&self, claim: &ProcessClaim, why: &WireError) -> Result<(), ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            let found = self.unended(&claim.process).await?;
            let payload = json!({ "error": why });
            let event = told(&claim.process, EventKind::ProcessParked, payload);
            let commit = plan::step(self.owned(claim), &found, &event);
            if self.contend(commit).await?.is_some() {
                self.shared.registry.ring(&ended_key(claim.process.clone()));
                return Ok(());
            }
        }
        Err(self.contended(&claim.process))
    }

    /// Asks a process to end. The first reason stands. What runs in it is interrupted; whoever
    /// drives it records its end. One that was never started is over at once; an external one
    /// goes on until its end is reported.
    ///
    /// With `command`, the identity of a request, repeating the request does nothing.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::TooLarge`].
    pub async fn cancel(
        &self,
        process: &ProcessId,
        reason: &str,
        command: Option<CommitId>,
    ) -> Result<CancelAnswer, ProcessError> {
        check_size("reason", reason.len(), self.limits.reason_bytes_max)?;
        for _ in 0..self.limits.contention_tries_max {
            let found = self.versioned(process).await?;
            if let Some(outcome) = self.ended_before(&found).await? {
                return Ok(CancelAnswer::AlreadyEnded { outcome });
            }
            if let Some(reason) = found.record.cancel {
                return Ok(CancelAnswer::AlreadyRequested { reason });
            }
            let unstarted = found.record.status == ProcessStatus::Registered;
            let payload = json!({ "reason": reason });
            let mut event = told(process, EventKind::ProcessCancelRequested, payload);
            event.caused_by = command.map(|command| command.to_string());
            let commit = match unstarted {
                true => {
                    let grants = self.versioned_grants(process).await?;
                    let outcome = cancelled(reason);
                    let commit = self.fresh(command);
                    plan::end(commit, &found, &grants, Vec::new(), &outcome, command)
                }
                false => plan::step(self.fresh(command), &found, &event),
            };
            if self.contend(commit).await?.is_some() {
                let scope = process_scope(process).scope_id();
                self.shared.cancellations.cancel(&scope);
                let listeners = &self.shared.registry.listeners;
                listeners.tell(|listener| listener.scope_woken(&scope));
                listeners.tell(|listener| listener.process_cancelled(process));
                if unstarted {
                    self.announce_end(process);
                }
                return Ok(CancelAnswer::Requested);
            }
        }
        Err(self.contended(process))
    }

    /// Records the end of a process, in the name of whoever drives it. The first end stands.
    ///
    /// # Errors
    /// [`ProcessError::Commit`] of class Fenced when somebody took it over,
    /// [`ProcessError::TooLarge`].
    pub async fn end(
        &self,
        claim: &ProcessClaim,
        outcome: &ProcessOutcome,
    ) -> Result<EndAnswer, ProcessError> {
        let process = &claim.process;
        self.check_outcome(outcome)?;
        for _ in 0..self.limits.contention_tries_max {
            let found = self.versioned(process).await?;
            if let Some(outcome) = self.ended_before(&found).await? {
                return Ok(EndAnswer::AlreadyEnded { outcome });
            }
            let commit = self.end_commit(self.owned(claim), &found, outcome).await?;
            if self.contend(commit).await?.is_some() {
                self.announce_end(process);
                return Ok(EndAnswer::Recorded);
            }
        }
        Err(self.contended(process))
    }

    /// Adds to a commit of somebody else what ends a process, so that both happen or neither: for
    /// instance the end of the turn that the process is. The commit as it was, and false, when
    /// the process has ended before.
    ///
    /// When the commit has happened, call [`announce_end`](Self::announce_end); when it was
    /// rejected, decide anew. Whoever owns the commit fences it: by its own owner, or by a guard.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::TooLarge`].
    pub async fn end_in(
        &self,
        commit: Commit,
        process: &ProcessId,
        outcome: &ProcessOutcome,
    ) -> Result<(Commit, bool), ProcessError> {
        self.check_outcome(outcome)?;
        let found = self.versioned(process).await?;
        if found.record.status.is_ended() {
            return Ok((commit, false));
        }
        let commit = self.end_commit(commit, &found, outcome).await?;
        Ok((commit, true))
    }

    /// Tells whoever waits for the end of a process that ended by [`end_in`](Self::end_in).
    pub fn announce_end(&self, process: &ProcessId) {
        self.shared.registry.ring(&ended_key(process.clone()));
        let listeners = &self.shared.registry.listeners;
        listeners.tell(|listener| listener.process_ended(process));
        listeners.tell(|listener| listener.session_woken());
    }

    /// Reports the end of an external process. The first report stands.
    ///
    /// # Errors
    /// [`ProcessError::NotExternal`], and as [`end`](Self::end).
    pub async fn report_end(
        &self,
        process: &ProcessId,
        outcome: &ProcessOutcome,
    ) -> Result<EndAnswer, ProcessError> {
        let found = self.versioned(process).await?;
        if found.record.disposition != RecoveryDisposition::External {
            return Err(ProcessError::NotExternal {
                process: process.clone(),
            });
        }
        let opened = self.opened(process).await?;
        let claim = ProcessClaim {
            process: process.clone(),
            epoch: Epoch(opened.version),
            instance: None,
        };
        self.end(&claim, outcome).await
    }

    /// Waits for the end of a process, and returns it. Ready in the order end, cancel, deadline
    /// (E11); neither of the latter ends the process.
    ///
    /// # Errors
    /// [`ProcessError::WaitCancelled`], [`ProcessError::WaitTimedOut`],
    /// [`ProcessError::NotFound`].
    ///
    /// # Cancel safety
    /// Dropping it forgets the wait.
    pub async fn ended(
        &self,
        process: &ProcessId,
        deadline: Option<Timestamp>,
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<ProcessOutcome, ProcessError> {
        match self.until(process, deadline, cancel, false).await? {
            Ok(outcome) => Ok(outcome),
            Err(parked) => Err(parked.into()),
        }
    }

    /// Waits until a process has ended, or is parked: then the error says why.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`].
    pub async fn ended_or_parked(
        &self,
        process: &ProcessId,
    ) -> Result<Result<ProcessOutcome, WireError>, ProcessError> {
        self.until(process, None, pending(), true).await
    }

    async fn until(
        &self,
        process: &ProcessId,
        deadline: Option<Timestamp>,
        cancel: impl Future<Output = ()> + Send,
        or_parked: bool,
    ) -> Result<Result<ProcessOutcome, WireError>, ProcessError> {
        // Interest first, the look second: an end in between rings the bell (E14).
        let key = ended_key(process.clone());
        let interest = self.shared.registry.register(vec![key]);
        let mut cancel = pin!(cancel);
        let mut cancelled = false;
        loop {
            let seen = self.watermark().await?;
            if let Some(outcome) = end_of(&self.shared, process).await? {
                return Ok(Ok(outcome));
            }
            if or_parked && let Some(why) = self.versioned(process).await?.record.parked {
                return Ok(Err(why));
            }
            let process = process.clone();
            if cancelled {
                return Err(ProcessError::WaitCancelled { process });
            }
            let now = self.shared.clock.now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Err(ProcessError::WaitTimedOut { process });
            }
            let time = match deadline {
                Some(deadline) => Either::Left(self.shared.clock.sleep(deadline.since(now))),
                None => Either::Right(pending()),
            };
            let (rung, changed) = (pin!(interest.woken()), pin!(self.changed(seen)));
            let woken = select(select(rung, changed), time);
            cancelled = matches!(select(woken, cancel.as_mut()).await, Either::Right(_));
        }
    }

    /// The end of the log, if other processes may write to it: they ring no bell of this one.
    async fn watermark(&self) -> Result<Option<Position>, ProcessError> {
        let store = &self.shared.store;
        if !store.capabilities().shared_by_processes {
            return Ok(None);
        }
        let end = store.events(None, Page::after(Position(u64::MAX), 1));
        Ok(Some(end.await?.head))
    }

    async fn changed(&self, seen: Option<Position>) {
        match seen {
            Some(position) => drop(self.shared.store.changed(position).await),
            None => pending().await,
        }
    }

    /// Removes what is kept of an ended process but its events: its effects, promises, grants and
    /// indexes go together (E16). Its id cannot be used again within
    /// [`ProcessLimits::retention`](super::ProcessLimits::retention).
    ///
    /// # Errors
    /// [`ProcessError::NotEnded`], [`ProcessError::NotFound`].
    pub async fn retire(&self, process: &ProcessId) -> Result<(), ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            let found = self.versioned(process).await?;
            if !found.record.status.is_ended() {
                return Err(ProcessError::NotEnded {
                    process: process.clone(),
                });
            }
            let grants = self.versioned_grants(process).await?;
            let commit = self.fresh(None);
            let until = commit.time.after(self.limits.retention);
            let commit = plan::retire(commit, &found, &grants, until);
            if self.contend(commit).await?.is_some() {
                return Ok(());
            }
        }
        Err(self.contended(process))
    }

    /// Retires what ended at or before a time, and forgets ids whose retention is over, at most
    /// `limit` of each; says how many processes it retired.
    ///
    /// # Errors
    /// [`ProcessError`]; repeat it.
    pub async fn retire_ended(
        &self,
        until: Timestamp,
        limit: usize,
    ) -> Result<usize, ProcessError> {
        let mut retired = 0;
        for status in ProcessStatus::ALL
            .into_iter()
            .filter(|status| status.is_ended())
        {
            let query = RowQuery::Due {
                space: status_space(status).into(),
                until,
            };
            let left = limit - retired;
            if left == 0 {
                break;
            }
            let page = self
                .shared
                .store
                .rows(query, Page::after(None, left))
                .await?;
            for process in page
                .rows
                .iter()
                .filter_map(|row| process_of(&row.key.scope))
            {
                match self.retire(&process).await {
                    Ok(()) => retired += 1,
                    // Somebody else was first.
                    Err(ProcessError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for space in [RETIRED_SPACE, OCCURRENCE_SPACE] {
            self.forget_due(space, limit.max(1)).await?;
        }
        Ok(retired)
    }

    /// Removes rows that are due.
    async fn forget_due(&self, space: &str, limit: usize) -> Result<(), ProcessError> {
        let query = RowQuery::Due {
            space: space.into(),
            until: self.shared.clock.now(),
        };
        let page = self
            .shared
            .store
            .rows(query, Page::after(None, limit))
            .await?;
        if page.rows.is_empty() {
            return Ok(());
        }
        let mut commit = self.fresh(None);
        for row in page.rows {
            commit = commit.row(RowChange::Delete(row.key));
        }
        self.shared.commit(commit).await?;
        Ok(())
    }

    /// Returns what a process spawned, in the order of ids.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn children(&self, process: &ProcessId) -> Result<Vec<ProcessId>, ProcessError> {
        let scope = process_scope(process).scope_id();
        let children = keys_of(&self.shared, CHILD_SPACE, scope).await?;
        let ids = children.iter().filter_map(|key| key.name.parse().ok());
        Ok(ids.collect())
    }

    pub(crate) async fn dispose_of_orphan(&self, process: &ProcessId) -> Result<(), ProcessError> {
        let Some(found) = self.find(process).await? else {
            return Ok(());
        };
        let bound = found.record.disposition == RecoveryDisposition::OwnerBound;
        if bound && !found.record.status.is_ended() {
            self.cancel(process, "its last owner was deleted", None)
                .await?;
        }
        Ok(())
    }

    /// Reads the row of the epoch of a process, which names who drives it.
    pub(crate) async fn opened(&self, process: &ProcessId) -> Result<Row, ProcessError> {
        let key = RowKey::epoch(process_scope(process).scope_id());
        let row = self.shared.store.row(&key).await?;
        row.ok_or_else(|| ProcessError::NotFound {
            process: process.clone(),
        })
    }

    async fn unended(&self, process: &ProcessId) -> Result<Versioned, ProcessError> {
        let found = self.versioned(process).await?;
        if found.record.status.is_ended() {
            return Err(ProcessError::Ended {
                process: process.clone(),
            });
        }
        Ok(found)
    }

    async fn ended_before(
        &self,
        found: &Versioned,
    ) -> Result<Option<ProcessOutcome>, ProcessError> {
        match found.record.status.is_ended() {
            true => end_of(&self.shared, &found.record.process).await,
            false => Ok(None),
        }
    }

    fn owned(&self, claim: &ProcessClaim) -> Commit {
        let scope = process_scope(&claim.process).scope_id();
        self.fresh(None).owned_by(scope, claim.epoch)
    }

    fn check_outcome(&self, outcome: &ProcessOutcome) -> Result<(), ProcessError> {
        let encoded = serde_json::to_vec(outcome).expect("an outcome is plain data");
        check_size("outcome", encoded.len(), self.limits.outcome_bytes_max)
    }

    async fn end_commit(
        &self,
        commit: Commit,
        found: &Versioned,
        outcome: &ProcessOutcome,
    ) -> Result<Commit, ProcessError> {
        let process = &found.record.process;
        let grants = self.versioned_grants(process).await?;
        let scope = process_scope(process).scope_id();
        let waiting = keys_of(&self.shared, PENDING_SPACE, scope).await?;
        let holder = Lease::holder(&self.opened(process).await?);
        let commit = Lease::lets_go(commit, holder.as_ref(), &process_scope(process).scope_id());
        Ok(plan::end(commit, found, &grants, waiting, outcome, None))
    }
}

pub(crate) fn cancelled(reason: &str) -> ProcessOutcome {
    ProcessOutcome::Cancelled {
        message: reason.to_owned(),
        raw: None,
    }
}
