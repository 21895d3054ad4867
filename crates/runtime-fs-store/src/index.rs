//! What the log folds to, in memory: rows whole, events by where they are. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{EventPlace, Page, Position, Removal, RetentionUnit, RowKey, RowQuery, Seq};

use crate::record::{Applied, AppliedEvent, Extent, RowEdit, StreamEnd};

/// The state that readers see: that of the durable part of the log.
#[derive(Debug, Default)]
pub(crate) struct Index {
    rows: BTreeMap<RowKey, RowEntry>,
    /// The spaces that ever had a row, for `Retire`: a few constant words.
    spaces: BTreeSet<Arc<str>>,
    due: BTreeSet<(Arc<str>, Timestamp, RowKey)>,
    /// The events after `before`; the one at index `i` has position `before + i + 1`.
    events: Vec<Extent>,
    /// Events up to here are not served and not looked for by position.
    before: u64,
    streams: HashMap<StreamKey, Stream>,
    memory: CommitMemory,
    /// The scopes and streams that damage has touched, with where it is.
    damaged: BTreeMap<String, String>,
    /// The last position that retention removed.
    pruned: u64,
    erased: Erased,
    units: Vec<Unit>,
    namings: Vec<Naming>,
}

/// A commit, for an export.
#[derive(Debug)]
pub(crate) struct CommitListing {
    pub(crate) id: CommitId,
    pub(crate) content: Digest,
    pub(crate) first_position: u64,
    pub(crate) events: Vec<Extent>,
    pub(crate) remembered: bool,
    pub(crate) attachments: Vec<Digest>,
    pub(crate) scopes: Vec<ScopeId>,
}

/// What is alive, for a cleaning.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) pruned: u64,
    pub(crate) erased: Erased,
    pub(crate) rows: HashMap<Extent, (RowKey, RowEntry)>,
    /// The positions of the events of rows.
    pub(crate) events: HashSet<u64>,
    pub(crate) remembered: HashSet<CommitId>,
    pub(crate) streams: Vec<StreamEnd>,
    /// Attachments, with the scopes that hold them.
    pub(crate) namings: Vec<(Vec<Digest>, Vec<ScopeId>)>,
}

/// What a commit named attachments for.
#[derive(Debug)]
struct Naming {
    commit: CommitId,
    content: Digest,
    attachments: Vec<Digest>,
    events: Vec<(Position, Vec<EventPlace>)>,
    /// The scopes of the rows that it put.
    scopes: Vec<ScopeId>,
}

/// The streams whose events up to a position were erased. Whoever reads takes a copy of the
/// pointer, so that reading from the disk needs no lock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Erased(Arc<HashMap<StreamKey, u64>>);

impl Erased {
    /// Says whether an event of these places is a stub.
    pub(crate) fn has(&self, position: Position, places: &[EventPlace]) -> bool {
        let up_to = |place: &EventPlace| self.0.get(&place.stream).copied().unwrap_or_default();
        !self.0.is_empty() && places.iter().any(|place| up_to(place) >= position.0)
    }
}

/// The events of one segment, for retention.
#[derive(Debug, Clone, Copy)]
struct Unit {
    segment: u32,
    first: u64,
    last: u64,
    newest: Timestamp,
    bytes: u64,
}

/// A row without its body, which stays on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowEntry {
    pub(crate) version: u64,
    /// The record that holds the body.
    pub(crate) at: Extent,
    /// The event that it was put with: its position, and where it is.
    pub(crate) event: Option<(u64, Extent)>,
    pub(crate) due: Option<Timestamp>,
}

/// An event that is damaged.
const MISSING: Extent = Extent {
    segment: 0,
    offset: 0,
    bytes: 0,
};

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Those of its events that are served.
    positions: VecDeque<u64>,
    last: u64,
    pub(crate) head: Seq,
    pub(crate) closed: bool,
    /// Events of it between these positions, exclusive, are damaged.
    gaps: Vec<(u64, u64)>,
}

impl Stream {
    pub(crate) fn last(&self) -> Position {
        Position(self.last)
    }

    fn is_forgotten(&self, pruned: u64) -> bool {
        self.closed && self.last().0 <= pruned
    }
}

/// What is known of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommitEntry {
    pub(crate) content: Digest,
    pub(crate) positions: Range<u64>,
    /// Its events and where they are; they are forgotten with it.
    pub(crate) events: Box<[(EventId, Extent)]>,
}

/// The last commits, so that a repetition is told from a new commit.
#[derive(Debug, Default)]
struct CommitMemory {
    entries: HashMap<CommitId, CommitEntry>,
    /// The order they came in; the front is forgotten first.
    order: VecDeque<CommitId>,
    times: BTreeSet<(Timestamp, CommitId)>,
    /// The events of the remembered commits (V1).
    events: HashSet<EventId>,
    has_forgotten: bool,
}

impl CommitMemory {
    fn remember(&mut self, id: CommitId, entry: CommitEntry, max: usize) {
        self.events.extend(entry.events.iter().map(|(id, _)| *id));
        self.entries.insert(id, entry);
        self.order.push_back(id);
        if let Some(time) = id.timestamp() {
            self.times.insert((time, id));
        }
        while self.order.len() > max {
            let oldest = self.order.pop_front().expect("the length was checked");
            self.forget(oldest);
        }
    }

    fn forget(&mut self, id: CommitId) {
        self.has_forgotten = true;
        let entry = self.entries.remove(&id);
        for (event, _) in entry.into_iter().flat_map(|entry| entry.events) {
            self.events.remove(&event);
        }
        if let Some(time) = id.timestamp() {
            self.times.remove(&(time, id));
        }
    }

    /// A commit of this id may have been forgotten if it is older than all that are remembered.
    ///
    /// The latest forgotten time would not do as the bound. A wall clock that once jumped ahead
    /// would leave one in the future, and one that stands still would leave one that every new
    /// id equals.
    fn may_have_forgotten(&self, id: &CommitId) -> bool {
        let earliest = self.times.first().map(|&(time, _)| time);
        self.has_forgotten && id.timestamp().is_some() && id.timestamp() < earliest
    }
}

/// A page of events, still where they are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EventList {
    pub(crate) events: Vec<(u64, Extent)>,
    pub(crate) next: u64,
    pub(crate) has_more: bool,
    pub(crate) head: u64,
    /// The page stops before these positions, since they are damaged.
    pub(crate) damaged: Option<Range<u64>>,
}

impl Index {
    pub(crate) fn head(&self) -> u64 {
        self.before + self.events.len() as u64
    }

    pub(crate) fn row(&self, key: &RowKey) -> Option<&RowEntry> {
        self.rows.get(key)
    }

    /// Returns what is known of a stream; a closed one is forgotten with its last event.
    pub(crate) fn stream(&self, key: &StreamKey) -> Option<&Stream> {
        let stream = self.streams.get(key)?;
        (!stream.is_forgotten(self.pruned)).then_some(stream)
    }

    pub(crate) fn pruned(&self) -> u64 {
        self.pruned
    }

    pub(crate) fn erased(&self) -> Erased {
        self.erased.clone()
    }

    pub(crate) fn has_event(&self, id: &EventId) -> bool {
        self.memory.events.contains(id)
    }

    pub(crate) fn commit(&self, id: &CommitId) -> Option<&CommitEntry> {
        self.memory.entries.get(id)
    }

    pub(crate) fn may_have_forgotten(&self, id: &CommitId) -> bool {
        self.memory.may_have_forgotten(id)
    }

    /// Returns `now`, or a time right after the latest remembered id.
    pub(crate) fn id_time(&self, now: Timestamp) -> Timestamp {
        let latest = self.memory.times.last();
        latest.map_or(now, |(time, _)| {
            now.max(time.after(Duration::from_millis(1)))
        })
    }

    /// Says where the damage is that touches a scope or stream.
    pub(crate) fn damage_of(&self, name: &str) -> Option<&str> {
        self.damaged.get(name).map(String::as_str)
    }

    pub(crate) fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub(crate) fn extent(&self, position: u64) -> Option<Extent> {
        let index = usize::try_from(position.checked_sub(self.before + 1)?).ok()?;
        self.events.get(index).copied()
    }

    /// Takes one commit, or what a base keeps of one.
    pub(crate) fn apply(&mut self, applied: Applied, end_position: u64, remembered_max: usize) {
        let first = applied.first_position;
        self.skip_to(first);
        for removal in &applied.removals {
            self.remove(removal, first - 1);
        }
        self.name_attachments(&applied);
        let events: Box<[(EventId, Extent)]> = applied
            .events
            .iter()
            .map(|event| (event.id, event.at))
            .collect();
        let has_events = !events.is_empty();
        let extents: Vec<(u64, Extent)> = applied
            .events
            .iter()
            .map(|event| (event.position, event.at))
            .collect();
        for event in applied.events {
            self.append(event, applied.time);
        }
        self.skip_to(end_position);
        for end in applied.streams {
            self.end_stream(end);
        }
        for row in applied.rows {
            self.edit_row(row, &extents);
        }
        if applied.is_remembered {
            let entry = CommitEntry {
                content: applied.content,
                positions: first..end_position,
                events,
            };
            self.memory.remember(applied.id, entry, remembered_max);
        } else if has_events || !applied.id.as_uuid().is_nil() {
            // What a base keeps of no commit at all, its streams, says nothing of that.
            self.memory.has_forgotten = true;
        }
    }

    /// Takes where a stream ends, from a base that has not all of its events.
    fn end_stream(&mut self, end: StreamEnd) {
        let stream = self.streams.entry(end.stream).or_default();
        stream.head = end.head;
        stream.last = end.last.0;
        stream.closed = end.closed;
    }

    /// Begins after what a base says is pruned.
    pub(crate) fn begin_after(&mut self, pruned: u64) {
        self.before = self.before.max(pruned);
        self.pruned = self.pruned.max(pruned);
    }

    /// Fills the positions of events that are damaged, up to the one before `position`.
    pub(crate) fn skip_to(&mut self, position: u64) {
        let known = position.saturating_sub(self.before + 1);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        if known > self.events.len() {
            self.events.resize(known, MISSING);
        }
    }

    /// Remembers that damage touched these scopes and streams.
    pub(crate) fn mark_damaged(&mut self, names: impl IntoIterator<Item = String>, place: &str) {
        for name in names {
            self.damaged.entry(name).or_insert_with(|| place.to_owned());
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
        let gone = usize::try_from(through - self.before).unwrap_or(usize::MAX);
        self.events.drain(..gone.min(self.events.len()));
        self.before = through;
        self.streams.retain(|_, stream| {
            let gone = stream.positions.partition_point(|at| *at <= through);
            stream.positions.drain(..gone);
            stream.gaps.retain(|(_, before)| *before > through);
            !stream.is_forgotten(through)
        });
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
            let stream = self.streams.entry(place.stream).or_default();
            if stream.is_forgotten(self.pruned) {
                *stream = Stream::default();
            }
            // Where the event before it was pruned with its stream's end, nothing is known of it.
            let last = stream.last();
            if last != place.previous && place.previous.0 > self.before {
                stream.gaps.push((last.0, position));
            }
            stream.positions.push_back(position);
            stream.last = position;
            stream.head = place.seq;
            stream.closed |= event.closes && index == 0;
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
            commit: applied.id,
            content: applied.content,
            attachments: applied.attachments.clone(),
            events: events.collect(),
            scopes: scopes.chain(applied.named_for.iter().cloned()).collect(),
        });
    }

    /// The commits that are remembered or named attachments, in the order of the log.
    pub(crate) fn commits(&self) -> Vec<CommitListing> {
        let mut namings: HashMap<CommitId, &Naming> = HashMap::new();
        let mut listed: Vec<CommitListing> = Vec::new();
        for naming in &self.namings {
            if self.memory.entries.contains_key(&naming.commit) {
                namings.insert(naming.commit, naming);
                continue;
            }
            let served = naming.events.iter().map(|(position, _)| position.0);
            let served: Vec<u64> = served.filter(|position| *position > self.pruned).collect();
            listed.push(CommitListing {
                id: naming.commit,
                content: naming.content,
                first_position: served.first().copied().unwrap_or(1),
                events: served.iter().filter_map(|at| self.extent(*at)).collect(),
                remembered: false,
                attachments: naming.attachments.clone(),
                scopes: naming.scopes.clone(),
            });
        }
        for id in &self.memory.order {
            let Some(entry) = self.memory.entries.get(id) else {
                continue;
            };
            let naming = namings.get(id);
            listed.push(CommitListing {
                id: *id,
                content: entry.content,
                first_position: entry.positions.start,
                events: entry.events.iter().map(|(_, at)| *at).collect(),
                remembered: true,
                attachments: naming.map_or_else(Vec::new, |naming| naming.attachments.clone()),
                scopes: naming.map_or_else(Vec::new, |naming| naming.scopes.clone()),
            });
        }
        // Stable, so commits without events stay before the one whose events begin there.
        listed.sort_by_key(|commit| (commit.first_position, !commit.events.is_empty()));
        listed
    }

    /// Where streams end of which no event is served.
    pub(crate) fn ended_streams(&self) -> Vec<StreamEnd> {
        let ended = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.last <= self.pruned);
        ended
            .map(|(key, stream)| StreamEnd {
                stream: key.clone(),
                head: stream.head,
                last: Position(stream.last),
                closed: stream.closed,
            })
            .collect()
    }

    pub(crate) fn spaces(&self) -> Vec<Arc<str>> {
        self.spaces.iter().cloned().collect()
    }

    /// The scopes that have rows.
    pub(crate) fn scopes(&self) -> BTreeSet<ScopeId> {
        self.rows.keys().map(|key| key.scope.clone()).collect()
    }

    /// What a cleaning must know, all of one moment. What is dead then stays dead.
    pub(crate) fn survey(&self) -> Survey {
        let rows = self
            .rows
            .iter()
            .map(|(key, row)| (row.at, (key.clone(), *row)));
        let events = self.rows.values().filter_map(|row| row.event);
        let remembered = self.memory.entries.iter();
        let open = self.streams.iter().filter(|(_, stream)| !stream.closed);
        let has_rows = |scope: &ScopeId| !self.keys_of(scope).is_empty();
        let mut streams: Vec<StreamEnd> = open
            .map(|(key, stream)| StreamEnd {
                stream: key.clone(),
                head: stream.head,
                last: Position(stream.last),
                closed: false,
            })
            .collect();
        // The same store makes the same base.
        streams.sort_by(|a, b| a.stream.cmp(&b.stream));
        let namings = self.namings.iter().map(|naming| {
            let scopes = naming.scopes.iter().filter(|scope| has_rows(scope));
            (naming.attachments.clone(), scopes.cloned().collect())
        });
        Survey {
            pruned: self.pruned,
            erased: self.erased.clone(),
            rows: rows.collect(),
            events: events.map(|(position, _)| position).collect(),
            remembered: remembered.map(|(id, _)| *id).collect(),
            streams,
            namings: namings.collect(),
        }
    }

    /// Lets rows, events and commits be where a base has them now.
    pub(crate) fn move_to(&mut self, moves: &HashMap<Extent, Extent>) {
        let moved = |at: &mut Extent| {
            if let Some(to) = moves.get(at) {
                *at = *to;
            }
        };
        for row in self.rows.values_mut() {
            moved(&mut row.at);
            if let Some((_, at)) = &mut row.event {
                moved(at);
            }
        }
        for entry in self.memory.entries.values_mut() {
            entry.events.iter_mut().for_each(|(_, at)| moved(at));
        }
        self.events.iter_mut().for_each(moved);
        for unit in &mut self.units {
            // A run is named by where its events are.
            let index = usize::try_from(unit.last - self.before - 1).ok();
            if let Some(at) = index.and_then(|index| self.events.get(index)) {
                unit.segment = at.segment;
            }
        }
    }

    /// Returns the attachments that something names.
    pub(crate) fn named_attachments(&self) -> HashSet<Digest> {
        let is_whole = |(position, places): &(Position, Vec<EventPlace>)| {
            position.0 > self.pruned && !self.erased.has(*position, places)
        };
        let is_live = |naming: &&Naming| {
            let has_rows = |scope: &ScopeId| !self.keys_of(scope).is_empty();
            naming.events.iter().any(is_whole) || naming.scopes.iter().any(has_rows)
        };
        let live = self.namings.iter().filter(is_live);
        live.flat_map(|naming| naming.attachments.iter().copied())
            .collect()
    }

    /// Forgets who named attachments that are gone.
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

    /// Reports the segments that are served. Of one that is served in part, so are the bytes.
    pub(crate) fn retention_units(&self, page: &Page<Position>) -> Vec<RetentionUnit> {
        let after = page.after.0.max(self.pruned);
        let first = self.units.partition_point(|unit| unit.last <= after);
        let served = |unit: &Unit| {
            let first = unit.first.max(after + 1);
            let is_whole = first == unit.first;
            let bytes = |position| self.extent(position).map_or(0, |at| u64::from(at.bytes));
            RetentionUnit {
                last: Position(unit.last),
                newest: unit.newest,
                events: unit.last + 1 - first,
                bytes: match is_whole {
                    true => unit.bytes,
                    false => (first..=unit.last).map(bytes).sum(),
                },
            }
        };
        self.units[first..]
            .iter()
            .take(page.limit)
            .map(served)
            .collect()
    }

    fn edit_row(&mut self, edit: RowEdit, events: &[(u64, Extent)]) {
        match edit {
            RowEdit::Put {
                key,
                version,
                at,
                event,
                due,
            } => {
                let find = |position| {
                    let found = events.iter().find(|(known, _)| *known == position);
                    found.copied().unwrap_or((position, MISSING))
                };
                self.put_row(key, version, at, event.map(find), due);
            }
            RowEdit::Delete(key) => self.delete_row(&key),
            RowEdit::Retire(scope) => {
                for key in self.keys_of(&scope) {
                    self.delete_row(&key);
                }
            }
        }
    }

    fn put_row(
        &mut self,
        key: RowKey,
        version: Option<u64>,
        at: Extent,
        event: Option<(u64, Extent)>,
        due: Option<Timestamp>,
    ) {
        let previous = self.rows.get(&key);
        let is_new = previous.is_none();
        let next = previous.map_or(1, |row| row.version + 1);
        let version = version.unwrap_or(next);
        if let Some(time) = previous.and_then(|row| row.due) {
            self.due
                .remove(&(Arc::clone(&key.space), time, key.clone()));
        }
        if let Some(time) = due {
            self.due.insert((Arc::clone(&key.space), time, key.clone()));
        }
        if is_new && !self.spaces.contains(&key.space) {
            self.spaces.insert(Arc::clone(&key.space));
        }
        let entry = RowEntry {
            version,
            at,
            event,
            due,
        };
        self.rows.insert(key, entry);
    }

    fn delete_row(&mut self, key: &RowKey) {
        let Some(row) = self.rows.remove(key) else {
            return;
        };
        if let Some(time) = row.due {
            self.due
                .remove(&(Arc::clone(&key.space), time, key.clone()));
        }
    }

    fn keys_of(&self, scope: &ScopeId) -> Vec<RowKey> {
        let name: Arc<str> = Arc::from("");
        let rows_in = |space: &Arc<str>| {
            let start = RowKey {
                space: Arc::clone(space),
                scope: scope.clone(),
                name: Arc::clone(&name),
            };
            let rows = self.rows.range(start..).map(|(key, _)| key.clone());
            rows.take_while(|key| key.scope == *scope && *key.space == **space)
                .collect::<Vec<_>>()
        };
        self.spaces.iter().flat_map(rows_in).collect()
    }

    /// Returns the rows of a query, and the last key if more follow.
    pub(crate) fn rows(
        &self,
        query: &RowQuery,
        page: Page<Option<RowKey>>,
    ) -> (Vec<(RowKey, RowEntry)>, Option<RowKey>) {
        let limit = page.limit;
        let mut keys = match query {
            RowQuery::Prefix { space, scope, name } => {
                self.prefix_keys(space, scope.as_ref(), name, page.after, limit + 1)
            }
            RowQuery::Due { space, until } => self.due_keys(space, *until, page.after, limit + 1),
            // `RowQuery` may grow; a query of an unknown kind finds nothing.
            _ => Vec::new(),
        };
        let has_more = keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| has_more).map(|&key| key.clone());
        let rows = keys
            .into_iter()
            .filter_map(|key| Some((key.clone(), *self.rows.get(key)?)))
            .collect();
        (rows, next)
    }

    fn prefix_keys(
        &self,
        space: &Arc<str>,
        scope: Option<&ScopeId>,
        name: &Arc<str>,
        after: Option<RowKey>,
        count: usize,
    ) -> Vec<&RowKey> {
        let start = match scope {
            Some(scope) => RowKey {
                space: Arc::clone(space),
                scope: scope.clone(),
                name: Arc::clone(name),
            },
            None => first_key(space),
        };
        let start = match after {
            Some(after) if after >= start => Bound::Excluded(after),
            _ => Bound::Included(start),
        };
        let belongs = |key: &&RowKey| {
            let in_scope = |scope: &ScopeId| key.scope == *scope && key.name.starts_with(&**name);
            key.space == *space && scope.is_none_or(in_scope)
        };
        self.rows
            .range((start, Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(belongs)
            .take(count)
            .collect()
    }

    fn due_keys(
        &self,
        space: &Arc<str>,
        until: Timestamp,
        after: Option<RowKey>,
        count: usize,
    ) -> Vec<&RowKey> {
        let after = after.and_then(|key| {
            let time = self.rows.get(&key)?.due?;
            Some((Arc::clone(&key.space), time, key))
        });
        let start = (Arc::clone(space), Timestamp::default(), first_key(space));
        let start = match after {
            Some(after) if after >= start => Bound::Excluded(after),
            _ => Bound::Included(start),
        };
        self.due
            .range((start, Bound::Unbounded))
            .take_while(|(found, time, _)| found == space && *time <= until)
            .map(|(_, _, key)| key)
            .take(count)
            .collect()
    }

    /// Lists the events of a stream, or of the whole log, after a position.
    pub(crate) fn events(&self, stream: Option<&StreamKey>, page: &Page<Position>) -> EventList {
        let head = self.head();
        let page = &Page::after(page.after.max(Position(self.pruned)), page.limit);
        let (positions, has_more, gap) = match stream {
            None => self.log_positions(page),
            Some(key) => match self.streams.get(key) {
                Some(stream) => stream_positions(stream, page),
                None => (Vec::new(), false, None),
            },
        };
        let mut damaged = gap;
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
        // Without more, everything up to the head has been returned: a reader of a quiet stream
        // then waits for what comes after the head instead of looking at the same log again.
        let has_more = has_more || damaged.is_some();
        let next = match events.last() {
            Some((last, _)) if has_more => *last,
            _ => page.after.0.max(head),
        };
        EventList {
            events,
            next,
            has_more,
            head,
            damaged,
        }
    }

    fn log_positions(&self, page: &Page<Position>) -> (Vec<u64>, bool, Option<Range<u64>>) {
        let head = self.head();
        let first = page.after.0.saturating_add(1);
        let last = page.after.0.saturating_add(page.limit as u64).min(head);
        ((first..=last).collect(), last < head, None)
    }

    fn damaged_from(&self, position: u64) -> Range<u64> {
        let mut end = position;
        while self.extent(end).is_some_and(|extent| extent.bytes == 0) {
            end += 1;
        }
        position..end
    }
}

/// Returns the positions of a page of a stream, up to the first gap in it.
fn stream_positions(
    stream: &Stream,
    page: &Page<Position>,
) -> (Vec<u64>, bool, Option<Range<u64>>) {
    let first = stream
        .positions
        .partition_point(|position| *position <= page.after.0);
    let rest = stream.positions.len() - first;
    let mut taken: Vec<u64> = stream
        .positions
        .range(first..)
        .take(page.limit)
        .copied()
        .collect();
    let mut damaged = None;
    let reached = taken.last().copied().unwrap_or(page.after.0);
    // A gap counts for whoever has not been past it yet.
    let gap = stream
        .gaps
        .iter()
        .find(|(_, before)| *before > page.after.0.saturating_add(1) && *before <= reached);
    if let Some(&(after, before)) = gap {
        let end = taken.partition_point(|position| *position < before);
        taken.truncate(end);
        damaged = Some(page.after.0.max(after) + 1..before);
    }
    let has_more = rest > taken.len();
    (taken, has_more, damaged)
}

/// The key before all others of a space.
fn first_key(space: &Arc<str>) -> RowKey {
    RowKey {
        space: Arc::clone(space),
        // No scope id is empty or starts with a control character, so a blank is the smallest.
        scope: ScopeId::new(" ").expect("a blank is a scope id"),
        name: Arc::from(""),
    }
}
