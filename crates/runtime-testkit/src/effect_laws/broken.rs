//! Stores that are right but for one thing that effects, promises and processes rely on (R18):
//! each must break a law of theirs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::StreamKey;
use runtime_store::{
    Commit, CommitError, Committed, EventPage, Page, Position, ReadError, Row, RowChange, RowKey,
    RowPage, RowQuery, Store, StoreLayer,
};

use super::{EffectLaw, Tally, run};
use crate::store_laws::StoreFixture;

macro_rules! breakages {
    ($($(#[$doc:meta])+ $name:ident => $law:ident),+ $(,)?) => {
        /// What is wrong with a [`BrokenStore`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Breakage {
            $($(#[$doc])+ $name),+
        }

        /// Each with the law that must catch it.
        const BREAKAGES: &[(Breakage, &str)] = &[$((Breakage::$name, stringify!($law))),+];
    };
}

breakages! {
    /// What was recorded of effects is not found.
    ForgetsEffects => e4_a_recorded_outcome_is_answered_without_running,
    /// Rows come without the event that tells of them.
    LosesEventsOfRows => e6_a_final_error_is_recorded,
    /// Commits of an earlier owner are taken.
    IgnoresOwner => e5_a_later_owner_fences_the_earlier,
    /// Deleted rows stay.
    KeepsDeleted => e10_the_index_of_what_waits_goes_with_the_wait,
    /// Retired scopes stay.
    KeepsRetired => e16_a_retired_process_leaves_only_its_events,
    /// How a promise was settled is not found.
    ForgetsPromises => e10_the_first_resolution_wins,
    /// Whose promises were revoked is not found.
    ForgetsRevocations => e13_revoking_a_session_covers_its_later_turns,
    /// What waits is not listed.
    ForgetsWhatWaits => e9_a_wait_that_is_not_ready_parks_and_is_listed,
    /// Processes are not found.
    ForgetsProcesses => e15_registering_is_idempotent_by_its_hash,
    /// Who holds a process is not found.
    ForgetsGrants => e15_grants_are_given_revoked_and_transferred,
    /// Pages of events say nothing of what was pruned.
    HidesThatItPruned => e15_a_reader_is_told_of_pruned_events,
}

/// A store that is right but for one thing.
#[derive(Debug)]
pub(crate) struct BrokenStore {
    inner: Arc<dyn Store>,
    breakage: Breakage,
}

impl BrokenStore {
    pub(crate) fn over(inner: Arc<dyn Store>, breakage: Breakage) -> Arc<dyn Store> {
        Arc::new(Self { inner, breakage })
    }

    /// Says whether rows of this space are not found.
    fn hides(&self, space: &str) -> bool {
        let hidden = match self.breakage {
            Breakage::ForgetsEffects => "effect",
            Breakage::ForgetsPromises => "promise",
            Breakage::ForgetsRevocations => "promise_revoked",
            Breakage::ForgetsWhatWaits => "pending",
            Breakage::ForgetsProcesses => "process",
            Breakage::ForgetsGrants => "process_grants",
            _ => return false,
        };
        space == hidden
    }

    fn broken(&self, mut row: Row) -> Row {
        if self.breakage == Breakage::LosesEventsOfRows {
            row.event = None;
        }
        row
    }
}

/// A fixture whose stores are broken.
struct BrokenFixture<'fixture> {
    inner: &'fixture dyn StoreFixture,
    breakage: Breakage,
}

#[async_trait]
impl StoreFixture for BrokenFixture<'_> {
    async fn open(&self) -> Arc<dyn Store> {
        BrokenStore::over(self.inner.open().await, self.breakage)
    }
}

/// R18: breaks the stores of fresh fixtures, each in one way, and runs the law that speaks of it:
/// a law that passes is a failure.
///
/// # Panics
/// When a breakage names no law.
pub fn broken_stores<F: StoreFixture>(fixture: impl Fn() -> F) -> Tally {
    let mut tally = Tally::default();
    for (breakage, name) in BREAKAGES {
        let mut laws = super::ALL.iter().chain(crate::process_laws::ALL);
        let law: &EffectLaw = laws.find(|law| law.0 == *name).expect("is a law");
        let inner = fixture();
        let broken = BrokenFixture {
            inner: &inner,
            breakage: *breakage,
        };
        let ran = catch_unwind(AssertUnwindSafe(|| run(|| (law.1)(&broken))));
        tally.count(ran.is_err(), || format!("{breakage:?} passes {name}"));
    }
    tally
}

#[async_trait]
impl StoreLayer for BrokenStore {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        match self.breakage {
            Breakage::IgnoresOwner => commit.owner = None,
            Breakage::KeepsDeleted => {
                let kept = |change: &RowChange| !matches!(change, RowChange::Delete(_));
                commit.rows.retain(kept);
            }
            Breakage::KeepsRetired => {
                let kept = |change: &RowChange| !matches!(change, RowChange::Retire(_));
                commit.rows.retain(kept);
            }
            _ => {}
        }
        self.inner.commit(commit).await
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        if self.hides(&key.space) {
            return Ok(None);
        }
        let row = self.inner.row(key).await?;
        Ok(row.map(|row| self.broken(row)))
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        let mut page = self.inner.rows(query, page).await?;
        page.rows.retain(|row| !self.hides(&row.key.space));
        page.rows = page.rows.into_iter().map(|row| self.broken(row)).collect();
        Ok(page)
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        let mut page = self.inner.events(stream, page).await?;
        if self.breakage == Breakage::HidesThatItPruned {
            page.pruned = Position(0);
        }
        Ok(page)
    }
}
