//! What the log folds to: what came since a checkpoint is in memory, what it holds is looked up
//! there. Rows are without their bodies, events by where they are. Pure, but for old puts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{EventPlace, Page, Position, Removal, RowKey};

use crate::checkpoint::{Checkpoint, Remembered};
use crate::frame::Header;
use crate::memory::{CommitEntry, CommitMemory};
use crate::record::{Applied, AppliedEvent, Extent, RowEdit, StreamEnd};
use crate::rows::{Lookup, RowEntry, Rows};
use crate::segment::BASE;
use crate::snapshot::Snapshot;
use crate::streams::{Stream, StreamTail, Streams};
use crate::units::Unit;

/// The state that readers see: that of the durable part of the log.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Everything up to a sealed segment.
    below: Option<Arc<Checkpoint>>,
    rows: Rows,
    /// The events after `before`; the one at index `i` has position `before + i + 1`.
    events: Vec<Extent>,
    /// Events up to here are pruned, or the checkpoint knows where they are.
    before: u64,
    streams: Streams,
    memory: CommitMemory,
    /// The scopes and streams that damage has touched, with where it is.
    damaged: BTreeMap<String, String>,
    /// The last position that retention removed.
    pruned: u64,
    erased: Erased,
    units: Vec<Unit>,
    namings: Vec<Naming>,
    witness: Option<Witness>,
}

/// A commit by which a log is told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Witness {
    /// Its first record.
    pub(crate) at: Extent,
    pub(crate) id: CommitId,
    pub(crate) content: Digest,
}

/// What a commit named attachments for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Naming {
    pub(crate) segment: u32,
    pub(crate) commit: CommitId,
    pub(crate) content: Digest,
    pub(crate) attachments: Vec<Digest>,
    pub(crate) events: Vec<(Position, Vec<EventPlace>)>,
    /// The scopes of the rows that it put.
    pub(crate) scopes: Vec<ScopeId>,
}

/// The streams whose events up to a position were erased. Whoever reads takes a copy of the
/// pointer, so that reading from the disk needs no lock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Erased(Arc<HashMap<StreamKey, u64>>);

impl Erased {
    pub(crate) fn new(erased: HashMap<StreamKey, u64>) -> Self {
        Self(Arc::new(erased))
    }

    /// Says whether an event of these places is a stub.
    pub(crate) fn has(&self, position: Position, places: &[EventPlace]) -> bool {
        let up_to = |place: &EventPlace| self.0.get(&place.stream).copied().unwrap_or_default();
        !self.0.is_empty() && places.iter().any(|place| up_to(place) >= position.0)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let all = self.0.iter();
        all.map(|(stream, head)| (stream.as_str().to_owned(), *head))
    }
}

/// A page of events, still where they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EventList {
    pub(crate) events: Vec<(u64, Extent)>,
    pub(crate) has_more: bool,
    /// The page stops before these positions, since they are damaged.
    pub(crate) damaged: Option<Range<u64>>,
}

impl Index {
    /// Goes on after a checkpoint.
    pub(crate) fn after(checkpoint: Arc<Checkpoint>, remembered: Remembered) -> Self {
        let Remembered {
            memory,
            pruned,
            erased,
        } = remembered;
        Self {
            rows: Rows::in_spaces(checkpoint.spaces.clone()),
            before: checkpoint.sealed.last_position,
            witness: checkpoint.witness,
            below: Some(checkpoint),
            memory,
            pruned,
            erased,
            ..Self::default()
        }
    }

    /// What the index lies on.
    pub(crate) fn below(&self) -> Option<&Arc<Checkpoint>> {
        self.below.as_ref()
    }

    /// The last position that the checkpoint knows, or that is pruned.
    pub(crate) fn before(&self) -> u64 {
        self.before
    }

    pub(crate) fn head(&self) -> u64 {
        self.before + self.events.len() as u64
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What is known of a row without reading from the disk.
    pub(crate) fn find_row(&self, key: &RowKey) -> Lookup<RowEntry> {
        known_without(self.below.is_some(), self.rows.find(key))
    }

    /// What is known of a stream without reading from the disk.
    pub(crate) fn find_stream(&self, key: &StreamKey) -> Lookup<StreamTail> {
        let found = self.streams.find(key, self.pruned);
        known_without(self.below.is_some(), found)
    }

    pub(crate) fn pruned(&self) -> u64 {
        self.pruned
    }

    pub(crate) fn erased(&self) -> Erased {
        self.erased.clone()
    }

    pub(crate) fn memory(&self) -> &CommitMemory {
        &self.memory
    }

    pub(crate) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    pub(crate) fn has_event(&self, id: &EventId) -> bool {
        self.memory.has_event(id)
    }

    pub(crate) fn commit(&self, id: &CommitId) -> Option<CommitEntry> {
        self.memory.get(id)
    }

    pub(crate) fn may_have_forgotten(&self, id: &CommitId) -> bool {
        self.memory.may_have_forgotten(id)
    }

    /// Returns `now`, or a time right after the latest remembered id.
    pub(crate) fn id_time(&self, now: Timestamp) -> Timestamp {
        self.memory.id_time(now)
    }

    /// Says where the damage is that touches a scope or stream.
    pub(crate) fn damage_of(&self, name: &str) -> Option<&str> {
        self.damaged.get(name).map(String::as_str)
    }

    pub(crate) fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Says where an event after the checkpoint is.
    pub(crate) fn extent(&self, position: u64) -> Option<Extent> {
        let index = usize::try_from(position.checked_sub(self.before + 1)?).ok()?;
        self.events.get(index).copied()
    }

    /// The streams that grew since the checkpoint.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (&StreamKey, &Stream)> {
        self.streams.iter()
    }

    /// The streams that may have lost events up to a position, of which nothing that follows tells.
    pub(crate) fn lost_ends(&self) -> impl Iterator<Item = (&StreamKey, u64)> {
        self.streams.lost_ends()
    }

    /// The segments since the checkpoint that hold events.
    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// All segments that hold events that are served.
    pub(crate) fn all_units(&self) -> impl Iterator<Item = Unit> + '_ {
        let below = self.below.iter().flat_map(|below| &below.units);
        let below = below.filter(|unit| unit.last > self.pruned);
        below.chain(&self.units).copied()
    }

    pub(crate) fn spaces(&self) -> Vec<Arc<str>> {
        self.rows.spaces.iter().cloned().collect()
    }

    /// All of it at one moment, to be gone through without a lock.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let tails = self.streams.tails();
        Snapshot {
            below: self.below.clone(),
            rows: self.rows.clone(),
            tails: tails.map(|(key, tail)| (key.clone(), tail)).collect(),
            namings: self.namings.clone(),
            pruned: self.pruned,
            erased: self.erased.clone(),
        }
    }

    /// The commits that are remembered, in order.
    pub(crate) fn remembered(&self) -> Vec<(CommitId, CommitEntry)> {
        self.memory.iter().collect()
    }

    /// Takes one commit, or what a base keeps of one.
    pub(crate) fn apply(&mut self, applied: Applied, end_position: u64, remembered_max: usize) {
        let first = applied.first_position;
        let segment = applied.at.segment;
        self.skip_to(first);
        for removal in &applied.removals {
            self.remove(removal, first - 1);
        }
        self.name_attachments(&applied);
        let extents: Vec<(u64, EventId, Extent)> = applied
            .events
            .iter()
            .map(|event| (event.position, event.id, event.at))
            .collect();
        for event in applied.events {
            self.append(event, applied.time);
        }
        self.skip_to(end_position);
        for end in applied.streams {
            self.streams.end(end);
        }
        let has_rows = !applied.rows.is_empty();
        for row in applied.rows {
            self.edit_row(row, &extents, segment);
        }
        if segment & BASE == 0 {
            self.witness = Some(Witness {
                at: applied.at,
                id: applied.id,
                content: applied.content,
            });
        }
        if applied.is_remembered {
            let events = extents.iter().map(|(_, id, at)| (*id, *at));
            let positions = first..end_position;
            let (id, content) = (applied.id, applied.content);
            self.memory
                .remember(id, content, positions, events, remembered_max);
        } else if !applied.id.as_uuid().is_nil() || (!has_rows && !extents.is_empty()) {
            // What a base keeps of no commit at all, its streams and imported rows, says nothing
            // of that; an imported event without its commit does.
            self.memory.has_forgotten = true;
        }
    }

    /// Begins after what a base says is pruned, and perhaps forgotten.
    pub(crate) fn begin_after(&mut self, pruned: u64, forgotten: bool) {
        self.memory.has_forgotten |= forgotten;
        self.before = self.before.max(pruned);
        self.pruned = self.pruned.max(pruned);
    }

    /// Begins at an event, as if nothing were before it.
    pub(crate) fn begin_at(&mut self, first_position: u64) {
        self.before = first_position.saturating_sub(1);
    }

    /// Fills the positions of events that are damaged, up to the one before `position`.
    pub(crate) fn skip_to(&mut self, position: u64) {
        let known = position.saturating_sub(self.before + 1);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        if known > self.events.len() {
            self.events.resize(known, Extent::MISSING);
        }
    }

    /// Remembers that damage touched these scopes and streams.
    /// Takes a damaged commit, of which its header is known: what it touched, and its positions.
    pub(crate) fn take_damaged(&mut self, header: &Header, place: &str) {
        self.skip_to(header.end_position());
        self.mark_damaged(header.names.iter(), place);
        if header.events > 0 {
            self.streams
                .lose(header.names.iter(), header.end_position() - 1);
        }
    }

    pub(crate) fn mark_damaged<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
        place: &str,
    ) {
        for name in names {
            let entry = self.damaged.entry(name.to_owned());
            entry.or_insert_with(|| place.to_owned());
        }
    }

    /// Lies on a later checkpoint from now on, and forgets what that holds.
    pub(crate) fn rebase(&mut self, checkpoint: Arc<Checkpoint>) {
        let number = checkpoint.sealed.number;
        let last = checkpoint.sealed.last_position;
        let gone = usize::try_from(last.saturating_sub(self.before)).unwrap_or(usize::MAX);
        // New ones, so that the room of what is forgotten is given back.
        self.events = self.events.split_off(gone.min(self.events.len()));
        self.before = self.before.max(last);
        self.rows.rebase(number);
        self.streams.rebase(last);
        self.units
            .retain(|unit| !checkpoint.sealed.covers(unit.segment));
        self.namings
            .retain(|naming| !checkpoint.sealed.covers(naming.segment));
        self.below = Some(checkpoint);
    }

    /// Lets rows, events and commits be where a base has them now.
    pub(crate) fn move_to(&mut self, moves: &HashMap<Extent, Extent>) {
        let moved = |at: &mut Extent| {
            if let Some(to) = moves.get(at) {
                *at = *to;
            }
        };
        self.rows.move_to(moved);
        self.memory.move_to(moved);
        self.events.iter_mut().for_each(moved);
        for unit in &mut self.units {
            // A run is named by where its events are.
            let index = usize::try_from(unit.last - self.before - 1).ok();
            if let Some(at) = index.and_then(|index| self.events.get(index)) {
                unit.segment = at.segment;
            }
        }
    }

    /// Removes from what is there up to `head`.
    fn remove(&mut self, removal: &Removal, head: u64) {
        match removal {
            Removal::Through(position) => self.prune(position.0.min(head)),
            Removal::Stream(stream) => {
                Arc::make_mut(&mut self.erased.0).insert(stream.clone(), head);
            }
            // A kind that the format cannot hold was refused with the form of the commit.
            _ => {}
        }
    }

    fn prune(&mut self, through: u64) {
        if through <= self.pruned {
            return;
        }
        self.pruned = through;
        let gone = usize::try_from(through.saturating_sub(self.before)).unwrap_or(usize::MAX);
        self.events.drain(..gone.min(self.events.len()));
        self.before = self.before.max(through);
        self.streams.prune(through);
        self.units.retain(|unit| unit.last > through);
    }

    fn append(&mut self, event: AppliedEvent, time: Timestamp) {
        if event.position <= self.head() {
            // A base keeps it once more for its row, or for its row or commit only.
            return;
        }
        self.skip_to(event.position);
        self.events.push(event.at);
        let position = self.head();
        self.count(event.at, position, time);
        for (index, place) in event.places.into_iter().enumerate() {
            let closes = event.closes && index == 0;
            self.streams.append(place, position, closes, self.pruned);
        }
    }

    fn name_attachments(&mut self, applied: &Applied) {
        if applied.attachments.is_empty() {
            return;
        }
        let events = applied.events.iter();
        let events = events.map(|event| (Position(event.position), event.places.clone()));
        let scopes = applied.rows.iter().filter_map(|row| match row {
            RowEdit::Put { key, .. } => Some(key.scope.clone()),
            RowEdit::Delete(_) | RowEdit::Retire(_) => None,
        });
        self.namings.push(Naming {
            segment: applied.at.segment,
            commit: applied.id,
            content: applied.content,
            attachments: applied.attachments.clone(),
            events: events.collect(),
            scopes: scopes.chain(applied.named_for.iter().cloned()).collect(),
        });
    }

    /// Forgets who named attachments that are gone; a checkpoint is written without them.
    pub(crate) fn forget_attachments(&mut self, gone: &HashSet<Digest>) {
        for naming in &mut self.namings {
            naming.attachments.retain(|digest| !gone.contains(digest));
        }
        self.namings.retain(|naming| !naming.attachments.is_empty());
    }

    fn count(&mut self, at: Extent, position: u64, time: Timestamp) {
        match self.units.last_mut() {
            Some(unit) if unit.segment == at.segment => {
                unit.last = position;
                unit.newest = unit.newest.max(time);
                unit.bytes += u64::from(at.bytes);
            }
            _ => self.units.push(Unit {
                segment: at.segment,
                first: position,
                last: position,
                newest: time,
                bytes: u64::from(at.bytes),
            }),
        }
    }

    fn edit_row(&mut self, edit: RowEdit, events: &[(u64, EventId, Extent)], segment: u32) {
        match edit {
            RowEdit::Put {
                key,
                version,
                at,
                event,
                due,
            } => {
                let find = |position| {
                    let found = events.iter().find(|(known, ..)| *known == position);
                    (position, found.map_or(Extent::MISSING, |(.., at)| *at))
                };
                let entry = RowEntry {
                    version: version.unwrap_or_else(|| self.next_version(&key)),
                    at,
                    event: event.map(find),
                    due,
                };
                self.rows.put(key, entry, segment);
            }
            RowEdit::Delete(key) => self.rows.delete(key, segment),
            RowEdit::Retire(scope) => self.rows.retire(scope, segment),
        }
    }

    /// Only the first format did not write versions.
    fn next_version(&mut self, key: &RowKey) -> u64 {
        let before = match (self.find_row(key), &self.below) {
            (Lookup::Known(row), _) => Ok(row),
            (Lookup::Below, None) => Ok(None),
            (Lookup::Below, Some(below)) => below.row(key),
        };
        match before {
            Ok(row) => row.map_or(1, |row| row.version + 1),
            Err(error) => {
                // What cannot be known must not be changed.
                self.mark_damaged([key.scope.as_str()], &error.to_string());
                1
            }
        }
    }

    /// Lists the events of a stream, or of the whole log, after a position, as far as they came
    /// after the checkpoint.
    pub(crate) fn events(&self, stream: Option<&StreamKey>, page: &Page<Position>) -> EventList {
        let page = &Page::after(page.after.max(Position(self.before)), page.limit);
        let (positions, has_more, mut damaged) = match stream {
            None => {
                let first = page.after.0.saturating_add(1);
                let last = page.after.0.saturating_add(page.limit as u64);
                let last = last.min(self.head());
                ((first..=last).collect(), last < self.head(), None)
            }
            Some(key) => self.streams.page(key, page),
        };
        let mut events = Vec::with_capacity(positions.len());
        for position in positions {
            match self.extent(position) {
                Some(extent) if extent.bytes > 0 => events.push((position, extent)),
                _ => {
                    damaged = Some(self.damaged_from(position));
                    break;
                }
            }
        }
        EventList {
            events,
            has_more: has_more || damaged.is_some(),
            damaged,
        }
    }

    fn damaged_from(&self, position: u64) -> Range<u64> {
        let mut end = position;
        while self.extent(end).is_some_and(|extent| extent.bytes == 0) {
            end += 1;
        }
        position..end
    }
}

/// Without a checkpoint what is not known does not exist.
fn known_without<T>(has_below: bool, found: Lookup<T>) -> Lookup<T> {
    match found {
        Lookup::Below if !has_below => Lookup::Known(None),
        found => found,
    }
}

/// Reads a row wherever it is known; it may read from the disk.
pub(crate) fn row_at_once(index: &Index, key: &RowKey) -> io::Result<Option<RowEntry>> {
    match (index.find_row(key), index.below()) {
        (Lookup::Known(row), _) => Ok(row),
        (Lookup::Below, Some(below)) => below.row(key),
        (Lookup::Below, None) => Ok(None),
    }
}

/// Reads where a stream ends wherever it is known; it may read from the disk.
pub(crate) fn tail_at_once(index: &Index, key: &StreamKey) -> io::Result<Option<StreamTail>> {
    match (index.find_stream(key), index.below()) {
        (Lookup::Known(tail), _) => Ok(tail),
        (Lookup::Below, Some(below)) => {
            let tail = below.stream(key)?.map(|(tail, _)| tail);
            Ok(tail.filter(|tail| !tail.is_forgotten(index.pruned())))
        }
        (Lookup::Below, None) => Ok(None),
    }
}

/// Where streams end, for whoever keeps them.
pub(crate) fn ends_of(tails: impl IntoIterator<Item = (StreamKey, StreamTail)>) -> Vec<StreamEnd> {
    let ends = tails.into_iter().map(|(key, tail)| tail.end_of(key));
    ends.collect()
}

/// A commit, for an export.
#[derive(Debug)]
pub(crate) struct CommitListing {
    pub(crate) id: CommitId,
    pub(crate) content: Digest,
    pub(crate) first_position: u64,
    /// Its events that are not served, and where they are.
    pub(crate) stubs: Vec<(u64, Extent)>,
    pub(crate) events: usize,
    pub(crate) remembered: bool,
    pub(crate) attachments: Vec<Digest>,
    pub(crate) scopes: Vec<ScopeId>,
}

/// Lists the commits that are remembered or named attachments, in the order of the log.
pub(crate) fn list_commits(
    remembered: Vec<(CommitId, CommitEntry)>,
    namings: Vec<Naming>,
    pruned: u64,
) -> Vec<CommitListing> {
    let known: HashSet<CommitId> = remembered.iter().map(|(id, _)| *id).collect();
    let (named, others): (Vec<_>, Vec<_>) = namings
        .into_iter()
        .partition(|naming| known.contains(&naming.commit));
    let mut named: HashMap<CommitId, Naming> = named
        .into_iter()
        .map(|naming| (naming.commit, naming))
        .collect();
    let others = others.into_iter().map(|naming| {
        let served = naming.events.iter().map(|(position, _)| position.0);
        let served: Vec<u64> = served.filter(|position| *position > pruned).collect();
        CommitListing {
            id: naming.commit,
            content: naming.content,
            first_position: served.first().copied().unwrap_or(1),
            stubs: Vec::new(),
            events: served.len(),
            remembered: false,
            attachments: naming.attachments,
            scopes: naming.scopes,
        }
    });
    let mut listed: Vec<CommitListing> = others.collect();
    listed.extend(remembered.into_iter().map(|(id, entry)| {
        let naming = named.remove(&id);
        let (attachments, scopes) = naming.map_or_else(Default::default, |naming| {
            (naming.attachments, naming.scopes)
        });
        let places = entry.positions.clone().zip(&entry.events);
        let stubs = places.take_while(|(position, _)| *position <= pruned);
        CommitListing {
            id,
            content: entry.content,
            first_position: entry.positions.start,
            stubs: stubs.map(|(position, (_, at))| (position, *at)).collect(),
            events: entry.events.len(),
            remembered: true,
            attachments,
            scopes,
        }
    }));
    // Stable, so commits without events stay before the one whose events begin there.
    listed.sort_by_key(|commit| (commit.first_position, commit.events > 0));
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> CommitId {
        CommitId::generate(Timestamp::from_millis(number), [0; 10])
    }

    fn remembered(number: u64, positions: Range<u64>) -> (CommitId, CommitEntry) {
        let event = |position| {
            let time = Timestamp::from_millis(position);
            (EventId::generate(time, [1; 10]), Extent::MISSING)
        };
        let entry = CommitEntry {
            content: Digest::of_bytes(&number.to_le_bytes()),
            events: positions.clone().map(event).collect(),
            positions,
        };
        (id(number), entry)
    }

    /// S7: an export lists what a forgotten commit named attachments for as far as it is served,
    /// and a commit without events before the one whose events begin where it stands.
    #[test]
    fn s7_commits_are_listed_where_their_events_are_served() {
        let attachment = Digest::of_bytes(b"attachment");
        let naming = |number, positions: Range<u64>| Naming {
            segment: 1,
            commit: id(number),
            content: Digest::of_bytes(b"content"),
            attachments: vec![attachment],
            events: positions.map(|at| (Position(at), Vec::new())).collect(),
            scopes: Vec::new(),
        };
        let commits = vec![
            remembered(3, 5..5),
            remembered(4, 7..7),
            remembered(5, 7..9),
        ];
        let namings = vec![naming(1, 2..4), naming(2, 3..7), naming(5, 7..9)];
        let listed = list_commits(commits, namings, 4);
        let listed: Vec<_> = listed
            .iter()
            .map(|commit| {
                let names = commit.attachments.len();
                (commit.id, commit.first_position, commit.events, names)
            })
            .collect();
        let expected = [
            // Nothing of it is served.
            (id(1), 1, 0, 1),
            (id(3), 5, 0, 0),
            (id(2), 5, 2, 1),
            (id(4), 7, 0, 0),
            (id(5), 7, 2, 1),
        ];
        assert_eq!(listed, expected);
    }
}
