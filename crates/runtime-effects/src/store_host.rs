//! Effects over a store: the host and what its controllers share.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, Clock, EffectOutcome, Random, ReplayKey, ScopeId, WireError};
use runtime_store::{
    Commit, CommitError, Committed, Page, ReadError, Row, RowKey, RowQuery, Store, commit_settled,
};

use crate::cancellation::{Cancellation, Cancellations};
use crate::claims::Claims;
use crate::conflict::{self, ConflictRuling};
use crate::journal::Recorded;
use crate::pending::{self, PendingPage};
use crate::promise::AwaitEvents;
use crate::recording::{EFFECT_SPACE, effect_key};
use crate::registry::WaitRegistry;
use crate::ruling::{self, Ruling, RulingAnswer, RulingError};
use crate::store_controller::StoreController;
use crate::{
    EffectError, EffectHost, EffectLimits, Interrupt, Lease, ProcessLimits, Processes,
    ScopeOpening, ScopedEffectController,
};

/// An [`EffectHost`] that records in a [`Store`]. Cloning it gives another handle to the same.
///
/// One host serves one instance of a runtime: claims and wake-ups live in its memory.
#[derive(Debug, Clone)]
pub struct StoreEffectHost {
    shared: Arc<Shared>,
}

/// What the controllers of a host share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) limits: EffectLimits,
    pub(crate) claims: Arc<Claims>,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) registry: Arc<WaitRegistry>,
    pub(crate) lease: Lease,
}

/// A scope whose wait or pause is over, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueScope {
    /// The scope.
    pub scope: ScopeId,
    /// When it was due.
    pub due: runtime_core::Timestamp,
}

impl StoreEffectHost {
    /// Makes a host over a store that no other instance writes to.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        limits: EffectLimits,
    ) -> Self {
        Self::leased(store, clock, random, limits, Lease::unneeded())
    }

    /// Makes a host over a store that other instances write to as well: scopes that are opened
    /// with [`ScopeOpening::held_by`] run their executors under this lease only.
    #[must_use]
    pub fn leased(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        limits: EffectLimits,
        lease: Lease,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                clock,
                random,
                limits,
                claims: Arc::default(),
                cancellations: Arc::default(),
                registry: Arc::default(),
                lease,
            }),
        }
    }

    /// Loads the key ring and returns the promises of this host: resolving one wakes its waits.
    ///
    /// # Errors
    /// [`ReadError`]: the key ring cannot be read.
    pub async fn await_events(&self) -> Result<AwaitEvents, ReadError> {
        AwaitEvents::open(Arc::clone(&self.shared)).await
    }

    /// Returns the processes of this host.
    ///
    /// # Errors
    /// [`ReadError`]: the store cannot be read.
    pub async fn processes(&self, limits: ProcessLimits) -> Result<Processes, ReadError> {
        Processes::open(Arc::clone(&self.shared), limits).await
    }

    /// Cancels what runs in a scope, in every opening of it (E9); says whether one was open.
    ///
    /// It is a signal, not a record: record the cancellation first, so that the scope is not
    /// opened again.
    pub fn cancel_scope(&self, scope: &ScopeId) -> bool {
        self.shared.cancellations.cancel(scope)
    }

    /// Hears of the cancellations of a scope from now on.
    pub(crate) fn watch_cancellation(&self, scope: &ScopeId) -> Cancellation {
        self.shared.cancellations.open(scope)
    }

    /// Reads what waits for somebody, of every scope, a page at a time: approvals, other waits,
    /// effects in doubt.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn pending(&self, page: Page<Option<RowKey>>) -> Result<PendingPage, ReadError> {
        pending::pending(&*self.shared.store, None, page).await
    }

    /// Reads what waits for somebody in one scope, a page at a time.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn pending_of(
        &self,
        scope: &ScopeId,
        page: Page<Option<RowKey>>,
    ) -> Result<PendingPage, ReadError> {
        pending::pending(&*self.shared.store, Some(scope.clone()), page).await
    }

    /// Reads the outcome that is recorded of an effect; none if it has none yet.
    ///
    /// # Errors
    /// The store cannot be read, or the record is damaged.
    pub async fn recorded_outcome(
        &self,
        scope: &ScopeId,
        key: &ReplayKey,
    ) -> Result<Option<EffectOutcome>, WireError> {
        let row = self.shared.store.row(&effect_key(scope, key)).await;
        let Some(row) = row.map_err(|error| error.to_wire())? else {
            return Ok(None);
        };
        let recorded = Recorded::decode(&row)?;
        match recorded.has_outcome() {
            true => recorded.outcome(key.as_str()).map(Some),
            false => Ok(None),
        }
    }

    /// Returns the scopes whose wait, sleep or pause between attempts was due at `until` or
    /// before, the earliest first, at most `limit`: drive them again.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn due(
        &self,
        until: runtime_core::Timestamp,
        limit: usize,
    ) -> Result<Vec<DueScope>, ReadError> {
        let query = RowQuery::Due {
            space: Arc::from(EFFECT_SPACE),
            until,
        };
        let page = self
            .shared
            .store
            .rows(query, Page::after(None, limit))
            .await?;
        let due = page.rows.into_iter().filter_map(|row| {
            row.due.map(|due| DueScope {
                scope: row.key.scope,
                due,
            })
        });
        Ok(due.collect())
    }

    /// Rules on an effect in doubt (E7). The next drive of its scope obeys: it runs the effect
    /// once more, or answers the ruled outcome.
    ///
    /// With `command`, the identity of a request, repeating the request does nothing.
    ///
    /// # Errors
    /// [`RulingError`].
    pub async fn rule_in_doubt(
        &self,
        scope: &ScopeId,
        key: &runtime_core::ReplayKey,
        ruling: Ruling,
        command: Option<runtime_core::CommitId>,
    ) -> Result<RulingAnswer, RulingError> {
        ruling::rule(&self.shared, scope, key, ruling, command).await
    }
}

impl StoreEffectHost {
    /// Rules on an effect that is not the one recorded under its key (E4). The next drive of its
    /// scope obeys.
    ///
    /// With `command`, the identity of a request, repeating the request does nothing.
    ///
    /// # Errors
    /// [`RulingError`]. A fork that would set aside more than one commit holds is refused by the
    /// store (`commit_too_large`).
    pub async fn rule_conflict(
        &self,
        scope: &ScopeId,
        key: &ReplayKey,
        ruling: ConflictRuling,
        command: Option<runtime_core::CommitId>,
    ) -> Result<RulingAnswer, RulingError> {
        conflict::rule(&self.shared, scope, key, ruling, command).await
    }
}

impl EffectHost for StoreEffectHost {
    fn scoped<'run>(
        &'run self,
        opening: ScopeOpening,
    ) -> Result<ScopedEffectController<'run>, EffectError> {
        Ok(Box::new(StoreController::open(&self.shared, opening)))
    }

    fn scoped_static(
        &self,
        opening: ScopeOpening,
    ) -> Result<Option<ScopedEffectController<'static>>, EffectError> {
        Ok(Some(Box::new(StoreController::open(&self.shared, opening))))
    }
}

impl Shared {
    /// Commits until the fate of the commit is known.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let (attempts, pause) = (self.limits.commit_tries_max, self.limits.commit_pause);
        commit_settled(&*self.store, &*self.clock, commit, attempts, pause).await
    }

    /// Commits a step of an effect.
    pub(crate) async fn record(&self, commit: Commit) -> Result<Committed, Interrupt> {
        let owner = commit.owner.clone();
        let error = match self.commit(commit).await {
            Ok(committed) => return Ok(committed),
            Err(error) => error,
        };
        match (&error, owner) {
            (CommitError::Fenced, _) => Err(Interrupt::Fenced),
            // A later owner may have recorded its own run of the same effect first.
            (CommitError::DifferentContent { .. }, Some((scope, epoch))) => {
                let row = self.row(&RowKey::epoch(scope)).await?;
                Err(match row {
                    Some(row) if row.version == epoch.0 => Interrupt::Terminal(error.to_wire()),
                    _ => Interrupt::Fenced,
                })
            }
            _ => Err(Interrupt::Terminal(error.to_wire())),
        }
    }

    pub(crate) async fn row(&self, key: &RowKey) -> Result<Option<Row>, Interrupt> {
        let row = self.store.row(key).await;
        row.map_err(|error| Interrupt::Terminal(error.to_wire()))
    }

    /// Spreads a pause by up to a tenth either way, so that effects that failed together do not
    /// all come back together.
    pub(crate) fn spread(&self, pause: Duration) -> Duration {
        let mut byte = [0];
        self.random.fill(&mut byte);
        let tenth = pause / 10;
        pause - tenth + (2 * tenth) * u32::from(byte[0]) / 255
    }
}
