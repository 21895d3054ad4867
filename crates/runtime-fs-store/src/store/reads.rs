//! What is read: the index in memory says where it is, a checkpoint below it what did not change
//! since, and the segments hold the bytes.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use runtime_core::{CommitId, ScopeId, StreamKey};
use runtime_store::{
    Committed, EventPage, Page, Payload, Position, ReadError, RetentionUnit, Row, RowKey, RowPage,
    RowQuery, StoreIdentity, StoredEvent,
};

use super::{FsStore, View};
use crate::checkpoint::Checkpoint;
use crate::history::{self, History, Wanted};
use crate::index::{CommitListing, Erased, Index, list_commits};
use crate::record::{Extent, StreamEnd};
use crate::rows::{Lookup, RowEntry, RowsBelow};
use crate::segments::{Segments, is_gone, unavailable};

/// What a store was at one moment.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) identity: StoreIdentity,
    pub(crate) head: u64,
    pub(crate) pruned: u64,
    /// Some commits are not remembered any more.
    pub(crate) has_forgotten: bool,
    pub(crate) commits: Vec<CommitListing>,
    pub(crate) streams: Vec<StreamEnd>,
    pub(crate) spaces: Vec<Arc<str>>,
}

impl FsStore {
    pub(super) fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> Result<T, ReadError> {
        match &self.view {
            View::Owner { shared, .. } => Ok(read(&shared.read_index())),
            View::Beside(follower) => follower.with_index(read),
        }
    }

    fn segments(&self) -> &Segments {
        match &self.view {
            View::Owner { shared, .. } => &shared.segments,
            View::Beside(follower) => &follower.segments,
        }
    }

    fn history(&self) -> &History {
        match &self.view {
            View::Owner { shared, .. } => &shared.history,
            View::Beside(follower) => &follower.history,
        }
    }

    pub(super) fn limit(&self, asked: usize) -> Result<usize, ReadError> {
        match asked {
            0 => Err(ReadError::LimitZero),
            limit => Ok(limit.min(self.capabilities.limits.page_entries_max)),
        }
    }

    /// Reads, and once more if a cleaning has just moved what was looked for.
    pub(super) fn reading<T>(
        &self,
        read: impl Fn() -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        match read() {
            Err(error) if is_gone(&error) => {
                if let View::Beside(follower) = &self.view {
                    follower.reload()?;
                }
                read()
            }
            result => result,
        }
    }

    /// Reads events back to say what a commit did; none if nothing is known of it.
    pub(super) fn committed_now(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        let Some(entry) = self.with_index(|index| index.commit(id))? else {
            return Ok(None);
        };
        let mut places = Vec::new();
        for (position, (_, at)) in entry.positions.clone().zip(&entry.events) {
            places.push(self.segments().read(position, *at)?.places);
        }
        Ok(Some(Committed {
            positions: entry.positions,
            places,
            repeated: false,
        }))
    }

    pub(super) fn read_row(
        &self,
        key: RowKey,
        entry: RowEntry,
        erased: &Erased,
    ) -> Result<Row, ReadError> {
        let segments = self.segments();
        let (body, event) = match entry.event {
            Some(event) => {
                let (body, event) = segments.read_row_with_event(&key, entry.at, event)?;
                (body, Some(without_erased(event, erased)))
            }
            None => (segments.read_row(&key, entry.at)?, None),
        };
        Ok(Row {
            version: entry.version,
            body,
            event,
            due: entry.due,
            key,
        })
    }

    /// Returns the owners that have rows, in order. It reads all keys from the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn scopes(&self) -> Result<Vec<ScopeId>, ReadError> {
        let snapshot = self.with_index(Index::snapshot)?;
        let scopes = snapshot.scopes().map_err(unreadable)?;
        Ok(scopes.into_iter().collect())
    }

    /// Lets a store that was opened read-only stay as it is now, and returns what an export needs.
    pub(crate) fn freeze(&self) -> Result<Frozen, ReadError> {
        if let View::Beside(follower) = &self.view {
            follower.freeze();
        }
        let identity = self.identity.clone();
        let (snapshot, remembered, head, spaces, has_forgotten) = self.with_index(|index| {
            let remembered = index.remembered();
            let has_forgotten = index.memory().has_forgotten;
            let (head, spaces) = (index.head(), index.spaces());
            (index.snapshot(), remembered, head, spaces, has_forgotten)
        })?;
        let namings = snapshot.live_namings().map_err(unreadable)?;
        Ok(Frozen {
            identity,
            head,
            pruned: snapshot.pruned,
            has_forgotten,
            commits: list_commits(remembered, namings, snapshot.pruned),
            streams: snapshot.ended_streams().map_err(unreadable)?,
            spaces,
        })
    }

    pub(crate) fn event_at(&self, position: u64, at: Extent) -> Result<StoredEvent, ReadError> {
        self.segments().read(position, at)
    }

    pub(crate) fn rows_now(
        &self,
        query: &RowQuery,
        page: &Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        let after = match (&page.after, query) {
            (Some(after), RowQuery::Due { .. }) => {
                let (entry, _) = self.find_row(after)?;
                entry.map(|entry| (entry.due, after.clone()))
            }
            (after, _) => after.clone().map(|after| (None, after)),
        };
        let mut lies_on: Option<Arc<Checkpoint>> = None;
        let mut below = RowsBelow::default();
        // All that is found is put together at one moment; what the checkpoint says is read
        // before, without a lock, and stays as it is.
        let ((entries, next), erased) = loop {
            let found = self.with_index(|index| {
                let is_same = match (&lies_on, index.below()) {
                    (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                    (ours, theirs) => ours.is_none() && theirs.is_none(),
                };
                if !is_same {
                    return Err(index.below().cloned());
                }
                let rows = index.rows().page(query, after.as_ref(), page.limit, &below);
                rows.map(|rows| (rows, index.erased()))
                    .ok_or_else(|| lies_on.clone())
            })?;
            match found {
                Ok(found) => break found,
                Err(checkpoint) => {
                    let is_same = match (&lies_on, &checkpoint) {
                        (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                        _ => false,
                    };
                    if !is_same {
                        below = RowsBelow::default();
                    }
                    if let Some(checkpoint) = &checkpoint {
                        let count = page.limit.saturating_add(1);
                        checkpoint
                            .more_rows(query, after.as_ref(), count, &mut below)
                            .map_err(unreadable)?;
                    }
                    lies_on = checkpoint;
                }
            }
        };
        let rows = entries
            .into_iter()
            .map(|(key, entry)| self.read_row(key, entry, &erased))
            .collect::<Result<_, _>>()?;
        Ok(RowPage { rows, next })
    }

    /// Looks a row up, in the checkpoint without a lock.
    pub(super) fn find_row(&self, key: &RowKey) -> Result<(Option<RowEntry>, Erased), ReadError> {
        let (found, below, erased) = self.with_index(|index| {
            let found = index.find_row(key);
            (found, index.below().cloned(), index.erased())
        })?;
        let entry = match (found, below) {
            (Lookup::Known(entry), _) => entry,
            (Lookup::Below, Some(below)) => below.row(key).map_err(unreadable)?,
            (Lookup::Below, None) => None,
        };
        Ok((entry, erased))
    }

    pub(crate) fn events_now(
        &self,
        stream: Option<&StreamKey>,
        page: &Page<Position>,
    ) -> Result<EventPage, ReadError> {
        let (above, before, head, below, pruned, erased) = self.with_index(|index| {
            let after = page.after.max(Position(index.pruned()));
            (
                index.events(stream, &Page::after(after, page.limit)),
                index.before(),
                index.head(),
                index.below().cloned(),
                index.pruned(),
                index.erased(),
            )
        })?;
        let after = page.after.0.max(pruned);
        let mut list = match below {
            Some(below) if after < before => {
                let wanted = Wanted {
                    after,
                    through: before,
                    count: page.limit,
                };
                let known = self.history().events(&below, stream, wanted);
                history::join(known.map_err(unreadable)?, above, page.limit)
            }
            _ => above,
        };
        let read = self.segments().read_page(&list.events);
        let mut events = read.map_err(|error| match error {
            // Events of the stream may be lost before it, too.
            ReadError::CorruptEvents { to, place, .. } => corrupt_events(after, to, place),
            error => error,
        })?;
        if events.len() < list.events.len() {
            list.events.truncate(events.len());
            list.has_more = true;
        }
        if let Some((whole, lost)) = stream.and_then(|key| lost_before(key, after, &events)) {
            events.truncate(whole);
            list.events.truncate(whole);
            list.has_more = true;
            list.damaged = Some(lost);
        }
        if let (true, Some(damaged)) = (events.is_empty(), &list.damaged) {
            return Err(corrupt_events(after, Position(damaged.end - 1), None));
        }
        let next = history::next(&list, after, head);
        let events = events.into_iter();
        Ok(EventPage {
            events: events.map(|event| without_erased(event, &erased)).collect(),
            next,
            has_more: list.has_more,
            head: Position(head),
            pruned: Position(pruned),
        })
    }

    /// Reports the segments that are served. Of one that is served in part, so are the bytes.
    pub(super) fn retention_units_now(
        &self,
        page: &Page<Position>,
    ) -> Result<Vec<RetentionUnit>, ReadError> {
        let (units, after) = self.with_index(|index| {
            let after = page.after.0.max(index.pruned());
            let units = index.all_units().filter(|unit| unit.last > after);
            let units = units.take(page.limit).map(|unit| {
                let first = unit.first.max(after + 1);
                let above = (first..=unit.last).map(|position| index.extent(position));
                let above: Option<u64> = match first == unit.first {
                    true => Some(unit.bytes),
                    false => above.map(|at| at.map(|at| u64::from(at.bytes))).sum(),
                };
                (unit, above)
            });
            (units.collect::<Vec<_>>(), after)
        })?;
        let units = units.into_iter().map(|(unit, bytes)| {
            let first = unit.first.max(after + 1);
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => self.history().bytes(&unit, first).map_err(unreadable)?,
            };
            Ok(RetentionUnit {
                last: Position(unit.last),
                newest: unit.newest,
                events: unit.last + 1 - first,
                bytes,
            })
        });
        units.collect()
    }
}

/// What a checkpoint or a sidecar does not tell.
pub(super) fn unreadable(error: io::Error) -> ReadError {
    unavailable("read a checkpoint", error)
}

/// Events after `reached`, up to `to`, are damaged.
const fn corrupt_events(reached: u64, to: Position, place: Option<String>) -> ReadError {
    ReadError::CorruptEvents {
        from: Position(reached + 1),
        to,
        place,
    }
}

/// Finds the first event of a stream before which events of it are lost, and where they were:
/// each tells the position of the one before it, which a reader after `after` has seen or meets.
fn lost_before(
    stream: &StreamKey,
    after: u64,
    events: &[StoredEvent],
) -> Option<(usize, Range<u64>)> {
    let mut reached = after;
    for (index, event) in events.iter().enumerate() {
        let place = event.places.iter().find(|place| place.stream == *stream)?;
        if place.previous.0 > reached {
            return Some((index, reached + 1..place.previous.0 + 1));
        }
        reached = event.position.0;
    }
    None
}

/// Makes a stub of an event that was erased.
fn without_erased(mut event: StoredEvent, erased: &Erased) -> StoredEvent {
    if erased.has(event.position, &event.places) {
        event.erased = true;
        event.body = Payload::from([]);
    }
    event
}

#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests {
    use runtime_core::{EventId, Random as _, Timestamp};
    use runtime_store::{Commit, NewEvent, RowChange, Store};
    use runtime_testkit::SeededRandom;

    use super::*;
    use crate::clean::CleanOptions;
    use crate::config::FsStoreOptions;

    /// S6: whoever looked a row up just before it was put anew and cleaned is no reader of a damaged
    /// row: it looks again.
    #[tokio::test]
    async fn s6_a_row_that_a_cleaning_has_just_written_over_is_gone_and_not_damaged() {
        let parent = tempfile::tempdir().expect("there is a place for temporary files");
        let options = FsStoreOptions::new(parent.path().join("store"));
        let random = SeededRandom::new(1);
        let store = FsStore::open(&options).expect("it is new");
        let key = RowKey::new("state", ScopeId::new("worker/1").expect("a scope"), "row");
        let put = |body: u8| {
            let time = Timestamp::from_millis(1);
            let id = CommitId::generate(time, random.ten());
            // The event keeps its segment from going into a base.
            let event = NewEvent {
                id: EventId::generate(time, random.ten()),
                streams: Vec::new(),
                closes: false,
                body: [].into(),
            };
            let put = RowChange::put(key.clone(), [body]);
            Commit::new(id, time).event(event).row(put)
        };
        store.commit(put(1)).await.expect("it can be written to");
        let (entry, erased) = store.find_row(&key).expect("it can be read");
        let entry = entry.expect("it is there");
        store.commit(put(2)).await.expect("it can be written to");
        let cleaned = store.clean(CleanOptions::default(), |_| ()).await;
        assert_eq!(cleaned.expect("it goes well").segments_rewritten, 1);
        let gone = store.read_row(key.clone(), entry, &erased);
        assert!(is_gone(&gone.expect_err("it has been written over")));
        let found = store.row(&key).await.expect("it can be read");
        assert_eq!(*found.expect("it is there").body, [2]);
    }
}
