//! Deliberately broken stores: each must break a law (R18).

use std::collections::HashSet;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, EventId, Random as _, RuntimeId, StreamKey, Timestamp};
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, Commit, CommitError, Committed, EventPage,
    Found, Guard, KeyRing, KeyRingStore, Limits, MemoryStore, NewEvent, Page, Payload, Position,
    ReadError, Removal, RetentionUnit, Row, RowChange, RowKey, RowPage, RowQuery, Seq, Store,
    StoreIdentity, StoreLayer, StoredEvent,
};
use runtime_testkit::store_laws::{ALL, Law, LawBroken, StoreFixture, run};
use runtime_testkit::{SeededRandom, SimulatedClock, check_against_model};

macro_rules! breakages {
    ($($name:ident => $law:ident),+ $(,)?) => {
        /// What is wrong with a [`BrokenStore`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Breakage {
            Nothing,
            $($name),+
        }

        /// Each with the law that must catch it.
        const BREAKAGES: &[(Breakage, &str)] = &[$((Breakage::$name, stringify!($law))),+];
    };
}

breakages! {
    // What a commit does.
    AppliesHalfOfARefusedCommit => a_refused_commit_leaves_no_trace,
    DropsTheLastRow => row_changes_apply_in_order,
    IgnoresDelete => row_changes_apply_in_order,
    IgnoresRetire => retiring_a_scope_removes_its_rows_and_fences,
    RetireKeepsTheEpoch => retiring_a_scope_removes_its_rows_and_fences,
    TornWhenDropped => a_dropped_commit_is_whole_or_absent,
    StampsItsOwnTime => positions_and_seqs_are_dense_under_concurrent_writers,
    // What is checked.
    IgnoresAbsentGuard => guards_hold_as_they_say,
    IgnoresVersionGuard => guards_hold_as_they_say,
    IgnoresHeadGuard => guards_hold_as_they_say,
    ChecksGuardsBeforeTheQueue => guards_see_every_earlier_commit,
    ReportsTheLastGuard => guards_are_checked_in_order,
    ChecksGuardsBeforeOwner => guards_are_checked_in_order,
    IgnoresEpoch => an_epoch_fences_earlier_owners,
    IgnoresCloses => a_closed_stream_takes_no_event,
    AcceptsMissingAttachments => a_commit_needs_its_attachments,
    AcceptsLargeCommits => a_commit_too_large_is_refused,
    RefusesTheLargestCommit => a_commit_too_large_is_refused,
    CutsLongNames => a_malformed_commit_is_refused,
    // What is remembered.
    ForgetsRepetitions => a_repetition_answers_the_first_result,
    ForgetsAllCommits => repetitions_in_flight_happen_once,
    RefusesRepetitionsByGuard => a_repetition_answers_the_first_result,
    TakesOtherContentForARepetition => other_content_under_an_id_is_refused,
    UnmarkedRepetition => repetitions_in_flight_happen_once,
    ForgetsResults => committed_answers_what_happened,
    TakesOldIdsForNew => a_forgotten_commit_is_too_old,
    IdsOfTheWallClock => a_forgotten_commit_is_too_old,
    TakesAnEventIdTwice => an_event_id_is_unique_in_the_log,
    // Places.
    SkipsASeq => positions_and_seqs_are_dense_under_concurrent_writers,
    SkipsAPosition => positions_and_seqs_are_dense_under_concurrent_writers,
    WrongPrevious => positions_and_seqs_are_dense_under_concurrent_writers,
    // Pages.
    EventPageSkipsOne => event_pages_give_the_whole_log_and_each_stream,
    EventPageRepeatsOne => a_reader_beside_writers_misses_nothing,
    EventPageHidesMore => event_pages_give_the_whole_log_and_each_stream,
    StreamPageIgnoresTheStream => event_pages_give_the_whole_log_and_each_stream,
    RowPageSkipsOne => row_pages_give_every_row_in_order,
    RowPageHidesMore => row_pages_give_every_row_in_order,
    RowPageIgnoresTheScope => row_pages_give_every_row_in_order,
    DueRowsByKey => due_rows_come_in_order_of_time,
    DueRowsOfAnyTime => due_rows_come_in_order_of_time,
    RowLosesItsEvent => a_row_gives_the_event_it_was_put_with,
    AcceptsLimitZero => page_limits_are_kept,
    ServesPagesTooLarge => page_limits_are_kept,
    // The hint.
    NeverTellsAChange => a_reader_beside_writers_misses_nothing,
    LosesAChangeBeforeTheWait => a_change_is_never_lost,
    TellsAChangeTooEarly => a_change_is_never_lost,
    // Attachments and keys.
    NamesAttachmentsWrongly => attachments_are_kept_by_their_digest,
    TearsAttachments => attachments_are_kept_by_their_digest,
    SweepsTheLiving => the_sweep_spares_live_and_young_attachments,
    SweepsTheYoung => the_sweep_spares_live_and_young_attachments,
    RotationForgetsOldKeys => the_key_ring_is_stable_and_keeps_old_keys,
    ShortKeys => the_key_ring_is_stable_and_keeps_old_keys,
    // Removal.
    IgnoresPruning => pruned_events_are_gone_and_the_rest_stays,
    PrunesOneTooMany => pruned_events_are_gone_and_the_rest_stays,
    HidesThatItPruned => pruned_events_are_gone_and_the_rest_stays,
    UndoesPruningOnReopening => pruned_events_are_gone_and_the_rest_stays,
    RemovesThoughRefused => a_refused_removal_removes_nothing,
    ForgetsResultsWhenItRemoves => removed_events_are_still_known_by_their_commit,
    PrunedRowLosesItsEvent => a_row_keeps_its_event_when_that_is_pruned,
    NeverForgetsClosedStreams => a_closed_stream_is_forgotten_with_its_last_event,
    IgnoresErasure => erased_events_keep_their_places_only,
    ErasureLosesPlaces => erased_events_keep_their_places_only,
    ErasesWhatComesLater => erased_events_keep_their_places_only,
    HidesTheLastUnit => retention_units_are_what_is_served,
    UnitsCountThePruned => retention_units_are_what_is_served,
    NeverSweepsTheNamed => the_sweep_takes_what_nothing_names_any_more,
    SweepsTheNamed => the_sweep_takes_what_nothing_names_any_more,
    // Closing and opening.
    TakesCommitsAfterClosing => a_closed_store_takes_no_writes,
    LosesAllOnReopening => everything_survives_reopening,
    ForgetsRepetitionsOnReopening => everything_survives_reopening,
    LosesKeysOnReopening => the_key_ring_is_stable_and_keeps_old_keys,
    RenewsLineageOnReopening => everything_survives_reopening,
}

use Breakage::*;

/// A store that is right but for one thing.
#[derive(Debug)]
struct BrokenStore {
    inner: MemoryStore,
    breakage: Breakage,
    identity: StoreIdentity,
    capabilities: Capabilities,
    random: SeededRandom,
    /// The ids of commits, for the breakages about repetitions.
    seen: Mutex<HashSet<CommitId>>,
    noted: Arc<Mutex<Noted>>,
}

/// What a broken store needs to know of the commits so far.
#[derive(Debug, Default)]
struct Noted {
    closed: HashSet<StreamKey>,
    erased: HashSet<StreamKey>,
    named: HashSet<Digest>,
    pruned: Position,
}

impl BrokenStore {
    fn fresh_id(&self) -> CommitId {
        CommitId::generate(Timestamp::from_millis(u64::MAX >> 20), self.random.ten())
    }

    fn fresh_event_id(&self) -> EventId {
        EventId::generate(Timestamp::from_millis(0), self.random.ten())
    }

    fn is(&self, breakage: Breakage) -> bool {
        self.breakage == breakage
    }

    fn see(&self, id: CommitId) -> bool {
        !self.seen.lock().expect("no test panics here").insert(id)
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.noted.lock().expect("no test panics here")
    }

    fn note(&self, commit: &Commit) {
        let mut noted = self.noted();
        let closing = commit.events.iter().filter(|event| event.closes);
        noted
            .closed
            .extend(closing.filter_map(|event| event.streams.first().cloned()));
        noted.named.extend(&commit.attachments);
        for removal in &commit.removals {
            match removal {
                Removal::Through(position) => noted.pruned = noted.pruned.max(*position),
                Removal::Stream(stream) => {
                    noted.erased.insert(stream.clone());
                }
                _ => {}
            }
        }
    }

    async fn commit_broken(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        let id = commit.id;
        if self.is(NeverForgetsClosedStreams) {
            let mut streams = commit.events.iter().flat_map(|event| &event.streams);
            if let Some(stream) = streams.find(|stream| self.noted().closed.contains(*stream)) {
                return Err(CommitError::Rejected {
                    guard: Guard::Head(stream.clone(), Seq(2)),
                    found: Found::Closed,
                });
            }
        }
        self.note(&commit);
        let is_pruning = |removal: &Removal| matches!(removal, Removal::Through(_));
        match self.breakage {
            IgnoresPruning => commit.removals.retain(|removal| !is_pruning(removal)),
            PrunesOneTooMany => {
                for removal in &mut commit.removals {
                    if let Removal::Through(position) = removal {
                        position.0 = position.0.saturating_add(1);
                    }
                }
            }
            IgnoresErasure => commit.removals.retain(is_pruning),
            DropsTheLastRow if commit.rows.len() > 1 => {
                commit.rows.pop();
            }
            IgnoresDelete => commit
                .rows
                .retain(|row| !matches!(row, RowChange::Delete(_))),
            IgnoresRetire => commit
                .rows
                .retain(|row| !matches!(row, RowChange::Retire(_))),
            RetireKeepsTheEpoch => {
                let retired: Vec<RowKey> = commit
                    .rows
                    .iter()
                    .filter_map(|row| match row {
                        RowChange::Retire(scope) => Some(RowKey::epoch(scope.clone())),
                        _ => None,
                    })
                    .collect();
                for key in retired {
                    commit.rows.push(RowChange::put(key, b"".as_slice()));
                }
            }
            StampsItsOwnTime => commit.time = Timestamp::from_millis(7),
            IgnoresAbsentGuard => commit
                .guards
                .retain(|guard| !matches!(guard, Guard::Absent(_))),
            IgnoresVersionGuard => {
                commit
                    .guards
                    .retain(|guard| !matches!(guard, Guard::Version(..)));
            }
            IgnoresHeadGuard => commit
                .guards
                .retain(|guard| !matches!(guard, Guard::Head(..))),
            ChecksGuardsBeforeTheQueue => {
                let probe = Commit {
                    rows: Vec::new(),
                    events: Vec::new(),
                    guards: std::mem::take(&mut commit.guards),
                    id: self.fresh_id(),
                    ..commit.clone()
                };
                self.inner.commit(probe).await?;
                tokio::task::yield_now().await;
            }
            ReportsTheLastGuard => commit.guards.reverse(),
            ChecksGuardsBeforeOwner => {
                let probe = Commit {
                    rows: Vec::new(),
                    events: Vec::new(),
                    attachments: Vec::new(),
                    owner: None,
                    id: self.fresh_id(),
                    ..commit.clone()
                };
                if self.inner.committed(&id).await.expect("a read").is_none() {
                    self.inner.commit(probe).await?;
                }
            }
            IgnoresEpoch => commit.owner = None,
            IgnoresCloses => commit
                .events
                .iter_mut()
                .for_each(|event| event.closes = false),
            AcceptsMissingAttachments => commit.attachments.clear(),
            SweepsTheNamed if self.has_all(&commit.attachments).await => {
                commit.attachments.clear();
            }
            RefusesTheLargestCommit if commit.bytes() == self.limits().commit_bytes_max => {
                return Err(CommitError::TooLarge {
                    bytes: commit.bytes(),
                    max: self.limits().commit_bytes_max,
                });
            }
            CutsLongNames => {
                for row in &mut commit.rows {
                    if let RowChange::Put { key, .. } = row
                        && key.name.len() > 1024
                    {
                        key.name = key.name[..1024].into();
                    }
                }
            }
            ForgetsRepetitions if self.see(id) => commit.id = self.fresh_id(),
            ForgetsAllCommits => commit.id = self.fresh_id(),
            RefusesRepetitionsByGuard if self.see(id) => {
                let probe = Commit {
                    guards: commit.guards.clone(),
                    owner: commit.owner.clone(),
                    ..Commit::new(self.fresh_id(), commit.time)
                };
                self.inner.commit(probe).await?;
            }
            TornWhenDropped => {
                let rows = Commit {
                    events: Vec::new(),
                    id: self.fresh_id(),
                    ..commit.clone()
                };
                if self.inner.committed(&id).await.is_ok_and(|x| x.is_none()) {
                    self.inner.commit(rows).await?;
                    tokio::task::yield_now().await;
                    commit.rows.clear();
                    commit.guards.clear();
                }
            }
            TakesCommitsAfterClosing => return self.inner.reopen().commit(commit).await,
            _ => {}
        }
        let attempt = commit.clone();
        match self.inner.commit(commit).await {
            Err(CommitError::TooOld { .. }) if self.is(TakesOldIdsForNew) => {
                // The event ids of that time are forgotten as well.
                let renew = |event| NewEvent {
                    id: self.fresh_event_id(),
                    ..event
                };
                let anew = Commit {
                    id: self.fresh_id(),
                    events: attempt.events.into_iter().map(renew).collect(),
                    ..attempt
                };
                self.inner.commit(anew).await
            }
            Err(CommitError::DifferentContent { .. }) if self.is(TakesAnEventIdTwice) => {
                let mut anew = attempt;
                for event in &mut anew.events {
                    event.id = self.fresh_event_id();
                }
                self.inner.commit(anew).await
            }
            Err(error) if self.is(RemovesThoughRefused) => {
                let removals = Commit {
                    removals: attempt.removals,
                    ..Commit::new(self.fresh_id(), attempt.time)
                };
                self.inner.commit(removals).await?;
                Err(error)
            }
            Err(_) if self.is(AppliesHalfOfARefusedCommit) => {
                let half = Commit {
                    owner: None,
                    guards: Vec::new(),
                    events: Vec::new(),
                    attachments: Vec::new(),
                    id: self.fresh_id(),
                    ..attempt.clone()
                };
                let _half = self.inner.commit(half).await;
                // The refusal is told all the same.
                self.inner.commit(attempt).await
            }
            Err(CommitError::DifferentContent { id })
                if self.is(TakesOtherContentForARepetition) =>
            {
                match self.inner.committed(&id).await.expect("a read") {
                    Some(first) => Ok(Committed {
                        repeated: true,
                        ..first
                    }),
                    None => Err(CommitError::DifferentContent { id }),
                }
            }
            result => result,
        }
    }

    fn limits(&self) -> &Limits {
        &self.capabilities.limits
    }

    async fn has_all(&self, attachments: &[Digest]) -> bool {
        for digest in attachments {
            if !self.inner.has_attachment(digest).await.expect("a read") {
                return false;
            }
        }
        true
    }

    fn break_committed(&self, mut committed: Committed) -> Committed {
        let places = committed.places.iter_mut().flatten();
        match self.breakage {
            UnmarkedRepetition => committed.repeated = false,
            SkipsASeq => places.for_each(|place| place.seq.0 += u64::from(place.seq.0 > 1)),
            WrongPrevious => places.for_each(|place| place.previous = Position(0)),
            SkipsAPosition => {
                let skip = u64::from(committed.positions.start > 2);
                committed.positions.start += skip;
                committed.positions.end += skip;
            }
            _ => {}
        }
        committed
    }

    fn break_event(&self, event: &mut StoredEvent) {
        match self.breakage {
            SkipsASeq => {
                for place in &mut event.places {
                    place.seq.0 += u64::from(place.seq.0 > 1);
                }
            }
            WrongPrevious => {
                for place in &mut event.places {
                    place.previous = Position(0);
                }
            }
            SkipsAPosition => event.position.0 += u64::from(event.position.0 > 2),
            ErasureLosesPlaces if event.erased => event.places.clear(),
            ErasesWhatComesLater => {
                let noted = self.noted();
                if event
                    .places
                    .iter()
                    .any(|place| noted.erased.contains(&place.stream))
                {
                    event.erased = true;
                    event.body = b"".as_slice().into();
                }
            }
            _ => {}
        }
    }

    fn break_row(&self, row: &mut Row) {
        let position = row.event.as_ref().map(|event| event.position);
        let is_pruned = position.is_some_and(|position| position <= self.noted().pruned);
        if self.is(RowLosesItsEvent) || (self.is(PrunedRowLosesItsEvent) && is_pruned) {
            row.event = None;
        }
        if let Some(event) = &mut row.event {
            self.break_event(event);
        }
    }
}

#[async_trait]
impl StoreLayer for BrokenStore {
    fn below(&self) -> &dyn Store {
        &self.inner
    }

    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        if self.is(UndoesPruningOnReopening) {
            // It is never written down: what was pruned is only hidden.
            self.note(&commit);
            commit.removals.clear();
        }
        let committed = Box::pin(self.commit_broken(commit)).await?;
        Ok(self.break_committed(committed))
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        let removes = self.noted().pruned > Position(0);
        if self.is(ForgetsResults) || (self.is(ForgetsResultsWhenItRemoves) && removes) {
            return Ok(None);
        }
        let committed = self.inner.committed(id).await?;
        Ok(committed.map(|committed| self.break_committed(committed)))
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        if self.is(IdsOfTheWallClock) {
            return now;
        }
        self.inner.id_time(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        let mut row = self.inner.row(key).await?;
        row.iter_mut().for_each(|row| self.break_row(row));
        Ok(row)
    }

    async fn rows(
        &self,
        mut query: RowQuery,
        mut page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        if page.limit == 0 && self.is(AcceptsLimitZero) {
            return Ok(RowPage::default());
        }
        match &mut query {
            RowQuery::Prefix { scope, .. } if self.is(RowPageIgnoresTheScope) => *scope = None,
            RowQuery::Due { until, .. } if self.is(DueRowsOfAnyTime) => {
                *until = Timestamp::from_millis(u64::MAX);
            }
            RowQuery::Due { .. } if self.is(DueRowsByKey) => {
                page = Page::after(None, 256);
            }
            _ => {}
        }
        let is_next = page.after.is_some();
        let due = matches!(query, RowQuery::Due { .. });
        let mut found = self.inner.rows(query, page).await?;
        found.rows.iter_mut().for_each(|row| self.break_row(row));
        match self.breakage {
            RowPageSkipsOne if is_next && found.rows.len() > 1 => {
                found.rows.remove(0);
            }
            RowPageHidesMore => found.next = None,
            DueRowsByKey if due => found.rows.sort_by(|a, b| a.key.cmp(&b.key)),
            _ => {}
        }
        Ok(found)
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        if page.limit == 0 && self.is(AcceptsLimitZero) {
            return self.inner.events(stream, Page::after(page.after, 1)).await;
        }
        let stream = stream.filter(|_| !self.is(StreamPageIgnoresTheStream));
        let mut from = page.after;
        let hidden = self.noted().pruned;
        if self.is(UndoesPruningOnReopening) {
            from = from.max(hidden);
        }
        if self.is(EventPageRepeatsOne) && from.0 > 1 {
            from.0 -= 1;
        }
        let mut found = self
            .inner
            .events(stream, Page::after(from, page.limit))
            .await?;
        if self.is(ServesPagesTooLarge) && page.limit > 256 && found.has_more {
            let rest = Page::after(found.next, page.limit);
            let rest = self.inner.events(stream, rest).await?;
            found.events.extend(rest.events);
            found.has_more = rest.has_more;
        }
        match self.breakage {
            EventPageSkipsOne if found.has_more => found.next = found.next.next(),
            EventPageHidesMore => found.has_more = false,
            HidesThatItPruned => found.pruned = Position(0),
            UndoesPruningOnReopening => found.pruned = hidden,
            _ => {}
        }
        found
            .events
            .iter_mut()
            .for_each(|event| self.break_event(event));
        Ok(found)
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        let limit = page.limit;
        let mut units = self.inner.retention_units(page).await?;
        match self.breakage {
            HidesTheLastUnit if units.len() < limit => {
                units.pop();
            }
            UnitsCountThePruned => units.iter_mut().for_each(|unit| {
                unit.events = unit.events.max(16);
            }),
            _ => {}
        }
        Ok(units)
    }

    async fn changed(&self, after: Position) -> Position {
        match self.breakage {
            NeverTellsAChange => pending().await,
            LosesAChangeBeforeTheWait => {
                let page = self.inner.events(None, Page::after(Position(0), 1)).await;
                let head = page.expect("a read").head;
                if head > after {
                    return head;
                }
                // What is committed here is lost: the wait begins at the head of its own start.
                tokio::task::yield_now().await;
                let page = self.inner.events(None, Page::after(Position(0), 1)).await;
                self.inner.changed(page.expect("a read").head).await
            }
            TellsAChangeTooEarly => self.inner.changed(after).await.next(),
            _ => self.inner.changed(after).await,
        }
    }

    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        let digest = self.inner.put_attachment(bytes).await?;
        if self.is(NamesAttachmentsWrongly) {
            return Ok(Digest::of_bytes(digest.as_bytes()));
        }
        Ok(digest)
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        let bytes = self.inner.attachment(digest).await?;
        if self.is(TearsAttachments) {
            return Ok(bytes[..bytes.len().min(4096)].into());
        }
        Ok(bytes)
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        match self.breakage {
            SweepsTheLiving => self.inner.sweep_attachments(&|_| false, min_age).await,
            NeverSweepsTheNamed => {
                let named = self.noted().named.clone();
                let live = |digest: &Digest| live(digest) || named.contains(digest);
                self.inner.sweep_attachments(&live, min_age).await
            }
            SweepsTheYoung => self.inner.sweep_attachments(live, Duration::ZERO).await,
            _ => self.inner.sweep_attachments(live, min_age).await,
        }
    }

    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        let mut ring = self.inner.key_ring().await?;
        if self.is(RotationForgetsOldKeys) {
            ring.keys.drain(..ring.keys.len() - 1);
        }
        if self.is(ShortKeys) {
            for key in &mut ring.keys {
                key.secret = runtime_core::Secret::new(&key.secret.expose()[..16]);
            }
        }
        Ok(ring)
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.rotate_key_ring().await?;
        StoreLayer::key_ring(self).await
    }
}

/// The storage of one broken store.
pub(crate) struct Broken {
    storage: Mutex<MemoryStore>,
    breakage: Breakage,
    opened: Mutex<u32>,
    noted: Arc<Mutex<Noted>>,
}

fn storage(limits: Limits) -> MemoryStore {
    let runtime: RuntimeId = "broken".parse().expect("a runtime id");
    let clock = SimulatedClock::new(Timestamp::from_millis(0));
    let random = SeededRandom::new(18);
    MemoryStore::with_parts(runtime, Arc::new(clock), Arc::new(random), limits)
}

fn limits() -> Limits {
    Limits {
        commit_bytes_max: 64 * 1024,
        remembered_commits: 200,
        ..Limits::default()
    }
}

impl Broken {
    pub(crate) fn new(breakage: Breakage) -> Self {
        let inner = match breakage {
            AcceptsLargeCommits => Limits {
                commit_bytes_max: usize::MAX,
                ..limits()
            },
            _ => limits(),
        };
        Self {
            storage: Mutex::new(storage(inner)),
            breakage,
            opened: Mutex::new(0),
            noted: Arc::default(),
        }
    }
}

#[async_trait]
impl StoreFixture for Broken {
    async fn open(&self) -> Arc<dyn Store> {
        let opened = {
            let mut opened = self.opened.lock().expect("no test panics here");
            *opened += 1;
            *opened
        };
        let again = opened > 1;
        let mut storage_now = self.storage.lock().expect("no test panics here");
        let breakage = self.breakage;
        if again && breakage == LosesAllOnReopening {
            *storage_now = storage(limits());
        }
        let inner = storage_now.reopen();
        let mut identity = inner.identity().clone();
        if again && breakage == RenewsLineageOnReopening {
            identity.lineage = format!("{}-{opened}", identity.lineage);
        }
        let capabilities = Capabilities {
            limits: limits(),
            ..inner.capabilities().clone()
        };
        let breakage = match breakage {
            ForgetsRepetitionsOnReopening if again => ForgetsAllCommits,
            LosesKeysOnReopening if again => RotationForgetsOldKeys,
            other => other,
        };
        Arc::new(BrokenStore {
            inner,
            breakage,
            identity,
            capabilities,
            random: SeededRandom::new(u64::from(opened)),
            seen: Mutex::default(),
            noted: match breakage {
                UndoesPruningOnReopening => Arc::default(),
                _ => Arc::clone(&self.noted),
            },
        })
    }

    fn patience(&self) -> Duration {
        // Nothing here waits for a disk; a change that takes so long never comes.
        Duration::from_millis(100)
    }
}

fn find(law: &str) -> Law {
    *ALL.iter()
        .find(|(name, _)| *name == law)
        .expect("a law of that name")
}

/// Runs a law against a store of its own.
fn keeps((_, law): Law, breakage: Breakage) -> Result<(), LawBroken> {
    let fixture = Broken::new(breakage);
    // A broken store may panic on its way; that is caught as well as any other finding.
    catch_unwind(AssertUnwindSafe(|| run(|| law(&fixture))))
        .unwrap_or_else(|_| Err(LawBroken::at(file!(), line!(), "a panic")))
}

/// R18: each broken store breaks the law that speaks of it, and each law can be broken.
#[test]
fn r18_every_broken_store_is_caught_by_its_law() {
    let started = Instant::now();
    let missed: Vec<_> = BREAKAGES
        .iter()
        .filter(|(breakage, law)| keeps(find(law), *breakage).is_ok())
        .collect();
    println!(
        "R18 {} {} {:.1}",
        BREAKAGES.len(),
        missed.len(),
        started.elapsed().as_secs_f64()
    );
    assert!(
        missed.is_empty(),
        "breakages that their law does not catch: {missed:?}"
    );

    let breakable: HashSet<&str> = BREAKAGES.iter().map(|(_, law)| *law).collect();
    let unbroken: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    let unbroken: Vec<&str> = unbroken
        .into_iter()
        .filter(|law| !breakable.contains(law))
        .collect();
    assert_eq!(unbroken, [""; 0], "laws that no breakage breaks");
}

/// R18: what is broken above is broken by the breakage, not by the wrapping.
#[test]
fn the_store_that_is_broken_is_sound_before() {
    for law in ALL {
        assert_eq!(keeps(*law, Nothing), Ok(()), "{}", law.0);
    }
}

#[test]
fn a_law_names_what_it_found() {
    let broken = keeps(find("a_closed_stream_takes_no_event"), IgnoresCloses);
    let broken = broken.expect_err("closed streams take events").to_string();
    assert!(
        broken.contains("events.rs") && broken.contains("after the last one"),
        "{broken}"
    );
}

/// R12: the model finds breakages that show in one sequence of commits and reads.
#[test]
fn the_model_finds_what_is_broken() {
    let shown = [
        DropsTheLastRow,
        IgnoresRetire,
        IgnoresHeadGuard,
        IgnoresEpoch,
        IgnoresCloses,
        ForgetsRepetitions,
        TakesAnEventIdTwice,
        WrongPrevious,
        IgnoresPruning,
        PrunesOneTooMany,
        IgnoresErasure,
        ErasesWhatComesLater,
        NeverForgetsClosedStreams,
        EventPageHidesMore,
        RowPageSkipsOne,
        DueRowsByKey,
        RowLosesItsEvent,
        LosesAllOnReopening,
    ];
    for breakage in shown {
        let found = catch_unwind(|| check_against_model(200, 12, || Broken::new(breakage)));
        assert!(found.is_err(), "the model does not find {breakage:?}");
    }
    check_against_model(50, 12, || Broken::new(Nothing));
}
