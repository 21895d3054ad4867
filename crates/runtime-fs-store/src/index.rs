//! What the log folds to, in memory: rows whole, events by where they are. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::{Bound, Range};
use std::sync::Arc;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    EventPlace, Page, Payload, Position, Removal, RetentionUnit, RowKey, RowQuery, Seq,
};

use crate::record::{Applied, AppliedEvent, Extent, RowEdit};

/// The state that readers see: that of the durable part of the log.
#[derive(Debug, Default)]
pub(crate) struct Index {
    rows: BTreeMap<RowKey, RowEntry>,
    /// The spaces that ever had a row, for `Retire`: a few constant words.
    spaces: BTreeSet<Arc<str>>,
    due: BTreeSet<(Arc<str>, Timestamp, RowKey)>,
    /// The event at index `i` has position `i + 1`.
    events: Vec<Extent>,
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

/// What a commit named attachments for.
#[derive(Debug)]
struct Naming {
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

#[derive(Debug, Clone)]
pub(crate) struct RowEntry {
    pub(crate) version: u64,
    pub(crate) body: Payload,
    pub(crate) event: Option<u64>,
    pub(crate) due: Option<Timestamp>,
}

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    positions: Vec<u64>,
    pub(crate) head: Seq,
    pub(crate) closed: bool,
    /// Events of it between these positions, exclusive, are damaged.
    gaps: Vec<(u64, u64)>,
}

impl Stream {
    pub(crate) fn last(&self) -> Position {
        Position(self.positions.last().copied().unwrap_or_default())
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
    /// The ids of its events; they are forgotten with it.
    pub(crate) events: Box<[EventId]>,
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
        self.events.extend(entry.events.iter().copied());
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
        for event in self
            .entries
            .remove(&id)
            .into_iter()
            .flat_map(|entry| entry.events)
        {
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
        self.events.len() as u64
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

    /// Says where the damage is that touches a scope or stream.
    pub(crate) fn damage_of(&self, name: &str) -> Option<&str> {
        self.damaged.get(name).map(String::as_str)
    }

    pub(crate) fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub(crate) fn extent(&self, position: u64) -> Option<Extent> {
        let index = usize::try_from(position.checked_sub(1)?).ok()?;
        self.events.get(index).copied()
    }

    /// Takes one commit.
    pub(crate) fn apply(&mut self, applied: Applied, remembered_max: usize) {
        let first = applied.first_position;
        self.skip_to(first);
        for removal in &applied.removals {
            self.remove(removal, first - 1);
        }
        self.name_attachments(&applied);
        let events = applied.events.iter().map(|event| event.id).collect();
        for event in applied.events {
            self.append(event, applied.time);
        }
        for row in applied.rows {
            self.edit_row(row);
        }
        let entry = CommitEntry {
            content: applied.content,
            positions: first..self.head() + 1,
            events,
        };
        self.memory.remember(applied.id, entry, remembered_max);
    }

    /// Fills the positions of events that are damaged, up to the one before `position`.
    pub(crate) fn skip_to(&mut self, position: u64) {
        let missing = Extent {
            segment: 0,
            offset: 0,
            bytes: 0,
        };
        let known = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX);
        if known > self.events.len() {
            self.events.resize(known, missing);
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
            Removal::Through(position) => self.pruned = self.pruned.max(position.0.min(head)),
            Removal::Stream(stream) => {
                Arc::make_mut(&mut self.erased.0).insert(stream.clone(), head);
            }
            // A kind that the format cannot hold was refused with the form of the commit.
            _ => {}
        }
    }

    fn append(&mut self, event: AppliedEvent, time: Timestamp) {
        self.events.push(event.at);
        let position = self.head();
        self.count(event.at, position, time);
        for (index, place) in event.places.into_iter().enumerate() {
            let stream = self.streams.entry(place.stream).or_default();
            if stream.is_forgotten(self.pruned) {
                *stream = Stream::default();
            }
            let last = stream.last();
            if last != place.previous {
                stream.gaps.push((last.0, position));
            }
            stream.positions.push(position);
            stream.head = place.seq;
            stream.closed |= event.closes && index == 0;
        }
    }

    fn name_attachments(&mut self, applied: &Applied) {
        if applied.attachments.is_empty() {
            return;
        }
        let positions = (applied.first_position..).map(Position);
        let places = applied.events.iter().map(|event| event.places.clone());
        let scopes = applied.rows.iter().filter_map(|row| match row {
            RowEdit::Put { key, .. } => Some(key.scope.clone()),
            RowEdit::Delete(_) | RowEdit::Retire(_) => None,
        });
        self.namings.push(Naming {
            attachments: applied.attachments.clone(),
            events: positions.zip(places).collect(),
            scopes: scopes.collect(),
        });
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

    fn edit_row(&mut self, edit: RowEdit) {
        match edit {
            RowEdit::Put {
                key,
                body,
                event,
                due,
            } => self.put_row(key, body, event, due),
            RowEdit::Delete(key) => self.delete_row(&key),
            RowEdit::Retire(scope) => {
                for key in self.keys_of(&scope) {
                    self.delete_row(&key);
                }
            }
        }
    }

    fn put_row(&mut self, key: RowKey, body: Payload, event: Option<u64>, due: Option<Timestamp>) {
        let previous = self.rows.get(&key);
        let version = previous.map_or(1, |row| row.version + 1);
        if let Some(time) = previous.and_then(|row| row.due) {
            self.due
                .remove(&(Arc::clone(&key.space), time, key.clone()));
        }
        if let Some(time) = due {
            self.due.insert((Arc::clone(&key.space), time, key.clone()));
        }
        if version == 1 && !self.spaces.contains(&key.space) {
            self.spaces.insert(Arc::clone(&key.space));
        }
        let entry = RowEntry {
            version,
            body,
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
            .filter_map(|key| Some((key.clone(), self.rows.get(key)?.clone())))
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
    let rest = &stream.positions[first..];
    let mut taken = &rest[..rest.len().min(page.limit)];
    let mut damaged = None;
    let reached = taken.last().copied().unwrap_or(page.after.0);
    // A gap counts for whoever has not been past it yet.
    let gap = stream
        .gaps
        .iter()
        .find(|(_, before)| *before > page.after.0.saturating_add(1) && *before <= reached);
    if let Some(&(after, before)) = gap {
        let end = taken.partition_point(|position| *position < before);
        taken = &taken[..end];
        damaged = Some(page.after.0.max(after) + 1..before);
    }
    (taken.to_vec(), rest.len() > taken.len(), damaged)
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
