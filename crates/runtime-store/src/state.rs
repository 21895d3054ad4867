//! What a log folds to: rows, streams, remembered commits. Pure: no lock, no clock, no waiting.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};

use crate::{
    Commit, CommitError, Committed, Epoch, EventPage, EventPlace, Found, Guard, Limits, NewEvent,
    Page, Payload, Position, ReadError, Removal, RetentionUnit, Row, RowChange, RowKey, RowPage,
    RowQuery, Seq, StoredEvent,
};

/// Everything that commits have made, with the indexes that reads need.
#[derive(Debug, Default)]
pub(crate) struct State {
    rows: BTreeMap<RowKey, StoredRow>,
    /// The rows of each owner, for [`RowChange::Retire`].
    owned: BTreeSet<(ScopeId, RowKey)>,
    /// The rows with a due time, by space and time.
    due: BTreeSet<(Arc<str>, Timestamp, RowKey)>,
    /// The events that are served, and before them those that a row kept when they were pruned.
    events: BTreeMap<Position, StoredEvent>,
    head: Position,
    /// The last position that retention removed.
    pruned: Position,
    /// The commits that name attachments.
    namings: Vec<Naming>,
    event_ids: HashSet<EventId>,
    streams: HashMap<StreamKey, Stream>,
    memory: CommitMemory,
}

#[derive(Debug)]
struct StoredRow {
    version: u64,
    body: Payload,
    event: Option<Position>,
    due: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Stream {
    /// The positions of its events that are served.
    positions: VecDeque<Position>,
    head: Seq,
    /// The position of its last event, served or not.
    last: Position,
    closed: bool,
}

/// What a commit named attachments for.
#[derive(Debug)]
struct Naming {
    attachments: Vec<Digest>,
    positions: std::ops::Range<u64>,
    /// The scopes of the rows that it put.
    scopes: Vec<ScopeId>,
}

/// The last commits, so that a repetition is told from a new commit.
#[derive(Debug, Default)]
struct CommitMemory {
    results: HashMap<CommitId, (Digest, Committed)>,
    /// The order they came in; the front is forgotten first.
    order: VecDeque<CommitId>,
    /// The same ids by their time.
    times: BTreeSet<(Timestamp, CommitId)>,
    has_forgotten: bool,
}

impl CommitMemory {
    fn remember(&mut self, id: CommitId, content: Digest, committed: Committed, max: usize) {
        self.results.insert(id, (content, committed));
        self.order.push_back(id);
        if let Some(time) = id.timestamp() {
            self.times.insert((time, id));
        }
        while self.order.len() > max {
            let oldest = self.order.pop_front().expect("the length was checked");
            self.results.remove(&oldest);
            self.has_forgotten = true;
            if let Some(time) = oldest.timestamp() {
                self.times.remove(&(time, oldest));
            }
        }
    }

    /// Says whether a commit of this id may have been forgotten: it is older than all that are
    /// remembered.
    ///
    /// The latest forgotten time would not do as the bound. A wall clock that once jumped ahead
    /// would leave one in the future, and one that stands still would leave one that every new
    /// id equals.
    fn may_have_forgotten(&self, id: &CommitId) -> bool {
        let earliest = self.times.first().map(|&(time, _)| time);
        self.has_forgotten && id.timestamp() < earliest && id.timestamp().is_some()
    }
}

impl State {
    /// Returns the last position of the log.
    pub(crate) fn head(&self) -> Position {
        self.head
    }

    /// Returns the result of a remembered commit.
    pub(crate) fn committed(&self, id: &CommitId) -> Option<Committed> {
        let (_, committed) = self.memory.results.get(id)?;
        Some(committed.clone())
    }

    /// Returns `now`, or a time right after the latest remembered id.
    pub(crate) fn id_time(&self, now: Timestamp) -> Timestamp {
        let latest = self.memory.times.last();
        latest.map_or(now, |(time, _)| {
            now.max(time.after(Duration::from_millis(1)))
        })
    }

    /// Makes one atomic step: all checks come first, so a refusal leaves no trace. `content` is
    /// the commit's [`Commit::content_digest`].
    pub(crate) fn commit(
        &mut self,
        commit: Commit,
        content: Digest,
        limits: &Limits,
        has_attachment: impl Fn(&Digest) -> bool,
    ) -> Result<Committed, CommitError> {
        if let Some(repeated) = self.repetition(&commit.id, content)? {
            return Ok(repeated);
        }
        commit.check(limits)?;
        self.check_owner(commit.owner.as_ref())?;
        self.check_guards(&commit.guards)?;
        self.check_streams(&commit.events)?;
        self.check_event_ids(&commit)?;
        if let Some(&digest) = commit.attachments.iter().find(|name| !has_attachment(name)) {
            return Err(CommitError::MissingAttachment { digest });
        }
        Ok(self.apply(commit, content, limits.remembered_commits))
    }

    fn repetition(&self, id: &CommitId, content: Digest) -> Result<Option<Committed>, CommitError> {
        match self.memory.results.get(id) {
            Some((first, committed)) if *first == content => Ok(Some(Committed {
                repeated: true,
                ..committed.clone()
            })),
            Some(_) => Err(CommitError::DifferentContent { id: *id }),
            None if self.memory.may_have_forgotten(id) => Err(CommitError::TooOld { id: *id }),
            None => Ok(None),
        }
    }

    fn check_owner(&self, owner: Option<&(ScopeId, Epoch)>) -> Result<(), CommitError> {
        let Some((scope, epoch)) = owner else {
            return Ok(());
        };
        match self.rows.get(&RowKey::epoch(scope.clone())) {
            Some(row) if row.version == epoch.0 => Ok(()),
            _ => Err(CommitError::Fenced),
        }
    }

    fn check_guards(&self, guards: &[Guard]) -> Result<(), CommitError> {
        for guard in guards {
            let found = match guard {
                Guard::Absent(key) | Guard::Version(key, _) => self
                    .rows
                    .get(key)
                    .map_or(Found::Absent, |row| Found::Version(row.version)),
                Guard::Head(stream, _) => Found::Head(self.stream_head(stream)),
            };
            let wanted = match guard {
                Guard::Absent(_) => Found::Absent,
                Guard::Version(_, version) => Found::Version(*version),
                Guard::Head(_, seq) => Found::Head(*seq),
            };
            if found != wanted {
                let guard = guard.clone();
                return Err(CommitError::Rejected { guard, found });
            }
        }
        Ok(())
    }

    fn stream_head(&self, stream: &StreamKey) -> Seq {
        let stream = self.streams.get(stream);
        stream.map_or(Seq(0), |stream| stream.head)
    }

    /// Refuses an event for a stream that is closed, or that an earlier event of the same commit
    /// closes.
    fn check_streams(&self, events: &[NewEvent]) -> Result<(), CommitError> {
        let mut closing = HashSet::new();
        let is_closed = |stream: &StreamKey| {
            let found = self.streams.get(stream);
            found.is_some_and(|stream| stream.closed)
        };
        for (index, event) in events.iter().enumerate() {
            let closed = |stream: &&StreamKey| closing.contains(stream) || is_closed(stream);
            if let Some(stream) = event.streams.iter().find(closed) {
                let earlier = events[..index]
                    .iter()
                    .filter(|event| event.streams.contains(stream))
                    .count() as u64;
                let head = Seq(self.stream_head(stream).0 + earlier);
                return Err(CommitError::Rejected {
                    guard: Guard::Head(stream.clone(), head),
                    found: Found::Closed,
                });
            }
            if event.closes {
                closing.extend(event.streams.first());
            }
        }
        Ok(())
    }

    fn check_event_ids(&self, commit: &Commit) -> Result<(), CommitError> {
        let taken = |event: &NewEvent| self.event_ids.contains(&event.id);
        if commit.events.iter().any(taken) {
            return Err(CommitError::DifferentContent { id: commit.id });
        }
        Ok(())
    }

    fn apply(&mut self, commit: Commit, content: Digest, remembered_max: usize) -> Committed {
        for removal in commit.removals {
            self.remove(removal);
        }
        let first = self.head.next();
        let scopes = commit.rows.iter().filter_map(|row| match row {
            RowChange::Put { key, .. } => Some(key.scope.clone()),
            _ => None,
        });
        let scopes = scopes.collect();
        let places: Vec<Vec<EventPlace>> = commit
            .events
            .into_iter()
            .map(|event| self.append(event, commit.time))
            .collect();
        for change in commit.rows {
            self.apply_row(change, first);
        }
        let committed = Committed {
            positions: first.0..first.0 + places.len() as u64,
            places,
            repeated: false,
        };
        if !commit.attachments.is_empty() {
            self.namings.push(Naming {
                attachments: commit.attachments,
                positions: committed.positions.clone(),
                scopes,
            });
        }
        self.memory
            .remember(commit.id, content, committed.clone(), remembered_max);
        committed
    }

    fn remove(&mut self, removal: Removal) {
        match removal {
            Removal::Through(position) => self.prune(position.min(self.head)),
            Removal::Stream(stream) => self.erase(&stream),
        }
    }

    fn prune(&mut self, through: Position) {
        if through <= self.pruned {
            return;
        }
        let kept: HashSet<Position> = self.rows.values().filter_map(|row| row.event).collect();
        let served = self.events.range(self.pruned.next()..=through);
        let going: Vec<Position> = served.map(|(position, _)| *position).collect();
        for position in going {
            let event = &self.events[&position];
            for place in &event.places {
                if let Entry::Occupied(mut stream) = self.streams.entry(place.stream.clone()) {
                    stream.get_mut().positions.pop_front();
                    if stream.get().closed && stream.get().positions.is_empty() {
                        stream.remove();
                    }
                }
            }
        }
        self.pruned = through;
        // What an earlier pruning left for a row that is gone goes now.
        self.events
            .retain(|position, _| *position > through || kept.contains(position));
    }

    fn erase(&mut self, stream: &StreamKey) {
        let belongs =
            |event: &&mut StoredEvent| event.places.iter().any(|place| place.stream == *stream);
        for event in self.events.values_mut().filter(belongs) {
            event.erased = true;
            event.body = Payload::from([]);
        }
    }

    /// Returns the attachments that something names.
    pub(crate) fn named_attachments(&self) -> HashSet<Digest> {
        let is_whole = |position: u64| {
            let position = Position(position);
            let event = self.events.get(&position);
            position > self.pruned && event.is_some_and(|event| !event.erased)
        };
        let has_rows = |scope: &ScopeId| {
            let first = (scope.clone(), first_key(&Arc::from("")));
            let rows = self.owned.range(first..).next();
            rows.is_some_and(|(owner, _)| owner == scope)
        };
        let is_live = |naming: &Naming| {
            naming.positions.clone().any(is_whole) || naming.scopes.iter().any(has_rows)
        };
        let live = self.namings.iter().filter(|naming| is_live(naming));
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

    /// Reports what is served in runs of at most `run` events.
    pub(crate) fn retention_units(
        &self,
        page: &Page<Position>,
        run: usize,
        limits: &Limits,
    ) -> Result<Vec<RetentionUnit>, ReadError> {
        let limit = effective_limit(page.limit, limits)?;
        let after = page.after.max(self.pruned);
        let served: Vec<&StoredEvent> = self
            .events
            .range((Bound::Excluded(after), Bound::Unbounded))
            .map(|(_, event)| event)
            .take(limit.saturating_mul(run))
            .collect();
        let unit = |events: &[&StoredEvent]| RetentionUnit {
            last: events.last().map_or(after, |event| event.position),
            newest: events
                .iter()
                .map(|event| event.time)
                .max()
                .unwrap_or_default(),
            events: events.len() as u64,
            bytes: events.iter().map(|event| event.body.len() as u64).sum(),
        };
        Ok(served.chunks(run).map(unit).collect())
    }

    fn append(&mut self, event: NewEvent, time: Timestamp) -> Vec<EventPlace> {
        let position = self.head.next();
        self.head = position;
        let mut places = Vec::with_capacity(event.streams.len());
        for (index, key) in event.streams.into_iter().enumerate() {
            let stream = match self.streams.entry(key.clone()) {
                Entry::Occupied(found) => found.into_mut(),
                Entry::Vacant(new) => new.insert(Stream::default()),
            };
            let previous = std::mem::replace(&mut stream.last, position);
            stream.positions.push_back(position);
            stream.head = stream.head.next();
            stream.closed |= event.closes && index == 0;
            places.push(EventPlace {
                stream: key,
                seq: stream.head,
                previous,
            });
        }
        self.event_ids.insert(event.id);
        let stored = StoredEvent {
            position,
            id: event.id,
            time,
            places: places.clone(),
            closes: event.closes && !places.is_empty(),
            erased: false,
            body: event.body,
        };
        self.events.insert(position, stored);
        places
    }

    fn apply_row(&mut self, change: RowChange, first: Position) {
        match change {
            RowChange::Put {
                key,
                body,
                event,
                due,
            } => {
                let event = event.map(|index| Position(first.0 + index as u64));
                self.put_row(key, body, event, due);
            }
            RowChange::Delete(key) => self.delete_row(&key),
            RowChange::Retire(scope) => {
                for key in self.keys_of(scope) {
                    self.delete_row(&key);
                }
            }
        }
    }

    fn put_row(
        &mut self,
        key: RowKey,
        body: Payload,
        event: Option<Position>,
        due: Option<Timestamp>,
    ) {
        let previous = self.rows.get(&key);
        let version = previous.map_or(1, |row| row.version + 1);
        if let Some(time) = previous.and_then(|row| row.due) {
            self.due
                .remove(&(Arc::clone(&key.space), time, key.clone()));
        }
        if let Some(time) = due {
            self.due.insert((Arc::clone(&key.space), time, key.clone()));
        }
        if version == 1 {
            self.owned.insert((key.scope.clone(), key.clone()));
        }
        let row = StoredRow {
            version,
            body,
            event,
            due,
        };
        self.rows.insert(key, row);
    }

    fn delete_row(&mut self, key: &RowKey) {
        let Some(row) = self.rows.remove(key) else {
            return;
        };
        self.owned.remove(&(key.scope.clone(), key.clone()));
        if let Some(time) = row.due {
            self.due
                .remove(&(Arc::clone(&key.space), time, key.clone()));
        }
    }

    fn keys_of(&self, scope: ScopeId) -> Vec<RowKey> {
        let start = (scope.clone(), first_key(&Arc::from("")));
        self.owned
            .range(start..)
            .take_while(|(owner, _)| *owner == scope)
            .map(|(_, key)| key.clone())
            .collect()
    }

    /// Reads one row.
    pub(crate) fn row(&self, key: &RowKey) -> Option<Row> {
        let (key, row) = self.rows.get_key_value(key)?;
        Some(self.read_row(key, row))
    }

    fn read_row(&self, key: &RowKey, row: &StoredRow) -> Row {
        Row {
            key: key.clone(),
            version: row.version,
            body: Arc::clone(&row.body),
            event: row.event.map(|position| self.event(position).clone()),
            due: row.due,
        }
    }

    fn event(&self, position: Position) -> &StoredEvent {
        // Pruning spares the events of rows.
        &self.events[&position]
    }

    /// Reads rows, in the order of the query.
    pub(crate) fn rows(
        &self,
        query: &RowQuery,
        page: Page<Option<RowKey>>,
        limits: &Limits,
    ) -> Result<RowPage, ReadError> {
        let limit = effective_limit(page.limit, limits)?;
        let mut keys = match query {
            RowQuery::Prefix { space, scope, name } => {
                self.prefix_keys(space, scope.as_ref(), name, page.after, limit + 1)
            }
            RowQuery::Due { space, until } => self.due_keys(space, *until, page.after, limit + 1),
        };
        let more = keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| more).map(|&key| key.clone());
        let rows = keys.into_iter().filter_map(|key| self.row(key)).collect();
        Ok(RowPage { rows, next })
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
        self.rows
            .range((start, Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| {
                key.space == *space
                    && scope
                        .is_none_or(|scope| key.scope == *scope && key.name.starts_with(&**name))
            })
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

    /// Reads the events of a stream, or of the whole log.
    pub(crate) fn events(
        &self,
        stream: Option<&StreamKey>,
        page: &Page<Position>,
        limits: &Limits,
    ) -> Result<EventPage, ReadError> {
        let limit = effective_limit(page.limit, limits)?;
        let after = page.after.max(self.pruned);
        let (events, has_more): (Vec<StoredEvent>, bool) = match stream {
            None => {
                let rest = self
                    .events
                    .range((Bound::Excluded(after), Bound::Unbounded));
                let mut rest = rest.map(|(_, event)| event.clone());
                (rest.by_ref().take(limit).collect(), rest.next().is_some())
            }
            Some(key) => {
                let none = VecDeque::new();
                let positions = self
                    .streams
                    .get(key)
                    .map_or(&none, |found| &found.positions);
                let first = positions.partition_point(|position| *position <= after);
                let read = |position: &Position| self.event(*position).clone();
                (
                    positions.range(first..).take(limit).map(read).collect(),
                    positions.len() - first > limit,
                )
            }
        };
        // Without more, everything up to the head has been returned: a reader of a quiet stream
        // then waits for what comes after the head instead of looking at the same log again.
        let next = match events.last() {
            Some(last) if has_more => last.position,
            _ => page.after.max(self.head()),
        };
        Ok(EventPage {
            events,
            next,
            has_more,
            head: self.head(),
            pruned: self.pruned,
        })
    }
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

fn effective_limit(limit: usize, limits: &Limits) -> Result<usize, ReadError> {
    match limit {
        0 => Err(ReadError::LimitZero),
        limit => Ok(limit.min(limits.page_entries_max)),
    }
}
