//! The other instances on a shared store (E5): one lease for this one, and what the dead drove
//! goes on here.
//!
//! Where the store is not shared its own lock serves, and none of this runs.

use std::sync::Arc;

use runtime_core::{
    Classified, EventDraft, EventKind, ExecutionScope, InstanceId, ProcessId, ScopeId, WorkerId,
};
use runtime_effects::{Beat, Lease, LeaseKeeper};
use runtime_store::{Commit, Epoch, Page, Position, ReadError, Row, RowChange};

use crate::entity::not_closed;
use crate::instance::Instance;
use crate::session::{Hold, Wake};
use crate::turn::TurnRecord;
use crate::{RuntimeError, WorkerStatus};

impl Instance {
    /// Makes the keeper of this instance's lease; none where the store is not shared.
    pub(crate) fn keeper_for(
        parts: &crate::RuntimeParts,
    ) -> Result<Option<LeaseKeeper>, RuntimeError> {
        if !parts.store.capabilities().shared_by_processes {
            return Ok(None);
        }
        let keeper = LeaseKeeper::new(
            Arc::clone(&parts.store),
            Arc::clone(&parts.clock),
            Arc::clone(&parts.random),
            parts.config.lease,
        );
        keeper
            .map(Some)
            .map_err(|error| RuntimeError::from_part(&error))
    }

    /// Registers this instance, so that it may open scopes; then keeps its lease, looks at those
    /// of the others and hears what they commit.
    pub(crate) async fn join_peers(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let Some(keeper) = &self.keeper else {
            return Ok(());
        };
        let head = self.store.events(None, Page::after(Position(u64::MAX), 1));
        let head = head.await?.head;
        let beat = keeper.beat().await;
        beat.map_err(|error| RuntimeError::from_part(&error))?;
        let (beating, looking, hearing) = (Arc::clone(self), Arc::clone(self), Arc::clone(self));
        self.spawn(async move { beating.keep_lease().await });
        self.spawn(async move { looking.look_at_peers().await });
        self.spawn(async move { hearing.hear_peers(head).await });
        Ok(())
    }

    async fn keep_lease(self: Arc<Self>) {
        let Some(keeper) = &self.keeper else { return };
        let mut pause = keeper.config().renew_every;
        while self.until_closed(self.clock.sleep(pause)).await.is_some() {
            let Some(beat) = self.until_closed(keeper.beat()).await else {
                return;
            };
            pause = keeper.pause(&beat);
            let unfinished = match beat {
                Ok(Beat::Renewed) => Ok(()),
                // Inputs that came meanwhile wait for a lease.
                Ok(Beat::Registered) => self.wake_unfinished(Wake::News).await,
                Err(error) => Err(RuntimeError::from_part(&error)),
            };
            if let Err(error) = unfinished {
                self.report_once(error.to_wire());
            }
        }
    }

    /// Notes that others have declared this instance dead.
    pub(crate) fn fenced(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.fenced();
        }
    }

    async fn look_at_peers(self: Arc<Self>) {
        let Some(keeper) = &self.keeper else { return };
        let every = keeper.config().look_every;
        while self.until_closed(self.clock.sleep(every)).await.is_some() {
            let Some(looked) = self.until_closed(self.take_over_the_dead(keeper)).await else {
                return;
            };
            if let Err(error) = looked {
                self.report_once(error.to_wire());
            }
        }
    }

    async fn take_over_the_dead(
        self: &Arc<Self>,
        keeper: &LeaseKeeper,
    ) -> Result<(), RuntimeError> {
        let part = |error: runtime_effects::LeaseError| RuntimeError::from_part(&error);
        for dead in keeper.look().await.map_err(part)? {
            let mut after = None;
            let mut holds_nothing = true;
            loop {
                let page = keeper.held_by(&dead, after).await.map_err(part)?;
                for scope in &page.scopes {
                    holds_nothing = false;
                    if keeper.is_orphan(&dead, scope).await.map_err(part)? {
                        self.wake_owner_of(scope);
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            if holds_nothing {
                // What waited behind its turns is held by nobody; found before it is forgotten.
                self.wake_unfinished(Wake::News).await?;
                self.look_at_all_processes().await?;
                if keeper.has_expired(&dead).await.map_err(part)? {
                    let told = self.with_diagnostics(self.new_commit(None), &[not_closed()]);
                    self.commit(told).await?;
                }
                keeper.bury(&dead).await.map_err(part)?;
            }
        }
        Ok(())
    }

    /// Lets what a scope belongs to go on: its driver takes the scope over.
    fn wake_owner_of(self: &Arc<Self>, scope: &runtime_core::ScopeId) {
        match ExecutionScope::from_scope_id(scope) {
            Ok(ExecutionScope::Turn { session, .. }) => {
                self.wake(&WorkerId::from(&session), Wake::News);
            }
            Ok(ExecutionScope::Process { process }) => {
                if let Some(workflows) = self.background.workflows() {
                    workflows.heard(&process);
                }
            }
            _ => {}
        }
    }

    /// Hears what other instances commit: an answer that they took may let a turn go on that is
    /// parked, a worker that they cancelled may be driven here.
    async fn hear_peers(self: Arc<Self>, mut after: Position) {
        while let Some(_changed) = self.until_closed(self.store.changed(after)).await {
            match self.until_closed(self.hear_after(after)).await {
                None => return,
                Some(Ok(next)) => after = next,
                Some(Err(error)) => {
                    self.report_once(error.to_wire());
                    let pause = self.clock.sleep(self.config.housekeeping_interval);
                    if self.until_closed(pause).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn hear_after(self: &Arc<Self>, mut after: Position) -> Result<Position, RuntimeError> {
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let page = match self.store.events(None, Page::after(after, limit)).await {
                // As after retention, nobody can say what was in them.
                Err(ReadError::CorruptEvents { to, .. }) => {
                    self.look_at_open_turns().await?;
                    after = to;
                    continue;
                }
                page => page?,
            };
            if page.pruned > after {
                // Nobody can say any more what was in them: look at everything that is open.
                self.look_at_open_turns().await?;
            }
            for event in &page.events {
                self.heard(&event.decode()?.draft).await?;
            }
            after = page.next;
            if !page.has_more {
                return Ok(after);
            }
        }
    }

    /// What may have been heard of, had retention not been faster.
    async fn look_at_open_turns(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let mut last = None;
        for turn in crate::view::unfinished_turns(&*self.store, None).await? {
            if last.as_ref() != Some(&turn.worker) {
                self.heard_status(&turn.worker).await?;
            }
            last = Some(turn.worker);
        }
        Ok(())
    }

    async fn heard(self: &Arc<Self>, event: &EventDraft) -> Result<(), RuntimeError> {
        if event.kind.ends_turn() || event.kind == EventKind::TurnParked {
            self.places.look_again();
        }
        // What a peer that closed has let go of is held by nobody.
        if event.kind == EventKind::RuntimeClosed {
            self.places.look_again();
            self.look_at_processes().await?;
            return self.wake_unfinished(Wake::News).await;
        }
        if let Some(process) = &event.process
            && event.kind == EventKind::ProcessCancelRequested
        {
            self.host.cancel_scope(&event_scope(process));
            self.background.look_at(process);
            if let Some(workflows) = self.background.workflows() {
                workflows.heard(process);
            }
        }
        let Some(session) = &event.session else {
            return Ok(());
        };
        let worker = WorkerId::from(session);
        match event.kind {
            EventKind::PromiseResolved
            | EventKind::PromiseRevoked
            | EventKind::InDoubtRuled
            | EventKind::ConflictRuled => {
                self.wake(&worker, Wake::News);
            }
            EventKind::WorkerStatusChanged => self.heard_status(&worker).await?,
            _ => {}
        }
        Ok(())
    }

    /// What a status means for what runs here, whoever changed it: as it is now, since there may
    /// be a later change than the one that was heard of.
    async fn heard_status(self: &Arc<Self>, worker: &WorkerId) -> Result<(), RuntimeError> {
        let status = self.worker(worker).await?.0.status;
        self.sessions.halt(worker, status == WorkerStatus::Stopped);
        if matches!(status, WorkerStatus::Cancelled | WorkerStatus::Deleted) {
            for turn in crate::view::unfinished_turns(&*self.store, Some(worker)).await? {
                self.host.cancel_scope(&turn.scope().scope_id());
            }
        }
        self.wake(worker, Wake::News);
        Ok(())
    }

    /// Says whether another instance that lives holds a scope, by its epoch row. What this
    /// instance itself has opened and drives no more is nobody's.
    pub(crate) async fn is_held_elsewhere(&self, epoch_row: &Row) -> Result<bool, RuntimeError> {
        let Some(keeper) = &self.keeper else {
            return Ok(false);
        };
        let holder = Lease::holder(epoch_row);
        if holder.is_some() && holder == self.lease.instance() {
            return Ok(false);
        }
        let alive = keeper.is_alive(holder.as_ref()).await;
        alive.map_err(|error| RuntimeError::from_part(&error))
    }

    /// Adds to a commit what opens a scope in the name of this instance.
    pub(crate) fn opens(
        &self,
        commit: Commit,
        scope: &ExecutionScope,
        from: Option<&InstanceId>,
    ) -> Result<(Commit, Option<InstanceId>), RuntimeError> {
        let scope = scope.scope_id();
        let commit = Lease::lets_go(commit, from, &scope);
        let opened = self.lease.opens(commit, &scope);
        opened.map_err(|error| RuntimeError::from_part(&error))
    }

    /// Lets go of the turns that were interrupted by closing, so that resuming one is not taken
    /// for a crash, and another instance need not wait for the lease to run out; then gives the
    /// lease back.
    pub(crate) async fn leave_peers(&self) -> Result<(), RuntimeError> {
        for (record, hold) in self.sessions.opened() {
            self.let_go(record, &hold).await?;
        }
        if let Some(keeper) = &self.keeper {
            let given = keeper.give_back().await;
            given.map_err(|error| RuntimeError::from_part(&error))?;
        }
        Ok(())
    }

    async fn let_go(&self, mut record: TurnRecord, hold: &Hold) -> Result<(), RuntimeError> {
        let scope = record.scope().scope_id();
        record.let_go = true;
        let commit = record
            .gives_place_back(self.new_commit(None))
            .owned_by(scope.clone(), hold.epoch)
            .row(RowChange::put(record.key(), record.to_body()));
        let commit = Lease::lets_go(commit, hold.instance.as_ref(), &scope);
        match self.commit(commit).await {
            // Ended, cancelled or taken over meanwhile.
            Ok(_) | Err(runtime_store::CommitError::Fenced) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn report_once(&self, error: runtime_core::WireError) {
        if !self.is_reported(&error) {
            self.report_failure(None, error);
        }
    }
}

fn event_scope(process: &ProcessId) -> ScopeId {
    let process = process.clone();
    ExecutionScope::Process { process }.scope_id()
}

/// The first epoch of a scope.
pub(crate) const FIRST: Epoch = Epoch(1);
