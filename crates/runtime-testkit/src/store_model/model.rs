//! The naive model: a list of commits, read from its beginning after each one.

use std::collections::{BTreeMap, HashMap, HashSet};

use runtime_core::{CommitId, Digest, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    Commit, CommitError, Committed, EventPlace, Found, Guard, NewEvent, Position, Removal, Row,
    RowChange, RowKey, RowQuery, Seq, StoredEvent,
};

#[derive(Debug, Default)]
pub(super) struct Model {
    /// The commits that happened, in order; log and table follow from them.
    pub(super) accepted: Vec<Commit>,
    pub(super) history: History,
    table: BTreeMap<RowKey, Row>,
    pub(super) attachments: HashSet<Digest>,
}

/// Every event that ever was, with what was erased, and how much of it is served.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) log: Vec<StoredEvent>,
    pub(super) pruned: Position,
    /// A closed stream is forgotten with its last event: up to here it has never been.
    forgotten: HashMap<StreamKey, Position>,
}

impl History {
    /// The events of a stream, unless it is forgotten.
    fn of<'a>(&'a self, stream: &'a StreamKey) -> impl Iterator<Item = &'a StoredEvent> {
        let from = self.forgotten.get(stream).copied().unwrap_or_default();
        let events = self.log.iter().filter(move |event| event.position > from);
        events.filter(|event| seq(event, stream).is_some())
    }

    fn append(&mut self, event: &NewEvent, time: Timestamp) {
        let place = |stream: &StreamKey| EventPlace {
            stream: stream.clone(),
            seq: Seq(self.of(stream).count() as u64 + 1),
            previous: self
                .of(stream)
                .last()
                .map_or(Position(0), |event| event.position),
        };
        let stored = StoredEvent {
            position: Position(self.log.len() as u64 + 1),
            id: event.id,
            time,
            places: event.streams.iter().map(place).collect(),
            closes: event.closes && !event.streams.is_empty(),
            erased: false,
            body: event.body.clone(),
        };
        self.log.push(stored);
    }

    fn remove(&mut self, removal: &Removal) {
        match removal {
            Removal::Through(position) => {
                let head = Position(self.log.len() as u64);
                self.pruned = self.pruned.max((*position).min(head));
                for event in self
                    .log
                    .iter()
                    .filter(|event| event.position <= self.pruned)
                {
                    if event.closes {
                        let own = event.places[0].stream.clone();
                        self.forgotten.insert(own, event.position);
                    }
                }
            }
            Removal::Stream(stream) => {
                for event in self
                    .log
                    .iter_mut()
                    .filter(|event| seq(event, stream).is_some())
                {
                    event.erased = true;
                    event.body = [].as_slice().into();
                }
            }
            _ => {}
        }
    }

    /// What is served.
    pub(super) fn served(&self) -> &[StoredEvent] {
        let pruned = usize::try_from(self.pruned.0).expect("the log is in memory");
        &self.log[pruned..]
    }
}

impl Model {
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<Committed, CommitError> {
        if let Some(first) = self.accepted.iter().find(|first| first.id == commit.id) {
            let content = |commit: &Commit| {
                let Commit {
                    rows,
                    events,
                    attachments,
                    removals,
                    ..
                } = commit.clone();
                (rows, events, attachments, removals)
            };
            if content(first) != content(commit) {
                return Err(CommitError::DifferentContent { id: commit.id });
            }
            let first = self.committed(&commit.id).expect("it was accepted");
            return Ok(Committed {
                repeated: true,
                ..first
            });
        }
        self.check(commit)?;
        self.accepted.push(commit.clone());
        self.history = history_of(&self.accepted);
        self.table = table_of(&self.accepted, &self.history.log);
        Ok(self.committed(&commit.id).expect("it was just accepted"))
    }

    fn check(&self, commit: &Commit) -> Result<(), CommitError> {
        if let Some((scope, epoch)) = &commit.owner {
            let row = self.row(&RowKey::epoch(scope.clone()));
            if row.is_none_or(|row| row.version != epoch.0) {
                return Err(CommitError::Fenced);
            }
        }
        let rejected = |guard, found| Err(CommitError::Rejected { guard, found });
        for guard in &commit.guards {
            let version = |key| self.row(key).map(|row| row.version);
            match guard {
                Guard::Absent(key) => {
                    if let Some(version) = version(key) {
                        return rejected(guard.clone(), Found::Version(version));
                    }
                }
                Guard::Version(key, wanted) => match version(key) {
                    None => return rejected(guard.clone(), Found::Absent),
                    Some(found) if found != *wanted => {
                        return rejected(guard.clone(), Found::Version(found));
                    }
                    Some(_) => {}
                },
                Guard::Head(stream, wanted) if self.head(stream) != *wanted => {
                    return rejected(guard.clone(), Found::Head(self.head(stream)));
                }
                _ => {}
            }
        }
        for (index, event) in commit.events.iter().enumerate() {
            let earlier = &commit.events[..index];
            for stream in &event.streams {
                let ends = |event: &StoredEvent| event.closes && event.places[0].stream == *stream;
                let is_end =
                    |event: &NewEvent| event.closes && event.streams.first() == Some(stream);
                if self.history.of(stream).any(ends) || earlier.iter().any(is_end) {
                    let there = |event: &&NewEvent| event.streams.contains(stream);
                    let head = self.head(stream).0 + earlier.iter().filter(there).count() as u64;
                    return rejected(Guard::Head(stream.clone(), Seq(head)), Found::Closed);
                }
            }
        }
        let taken: HashSet<_> = self.appended().map(|event| event.id).collect();
        if commit.events.iter().any(|event| taken.contains(&event.id)) {
            return Err(CommitError::DifferentContent { id: commit.id });
        }
        let missing = |digest: &&Digest| !self.attachments.contains(*digest);
        match commit.attachments.iter().find(missing) {
            Some(&digest) => Err(CommitError::MissingAttachment { digest }),
            None => Ok(()),
        }
    }

    fn appended(&self) -> impl Iterator<Item = &NewEvent> {
        self.accepted.iter().flat_map(|commit| &commit.events)
    }

    pub(super) fn committed(&self, id: &CommitId) -> Option<Committed> {
        let index = self.accepted.iter().position(|commit| commit.id == *id)?;
        let before: usize = self.accepted[..index]
            .iter()
            .map(|commit| commit.events.len())
            .sum();
        let count = self.accepted[index].events.len();
        Some(Committed {
            positions: before as u64 + 1..(before + count) as u64 + 1,
            places: self.history.log[before..before + count]
                .iter()
                .map(|event| event.places.clone())
                .collect(),
            repeated: false,
        })
    }

    pub(super) fn head(&self, stream: &StreamKey) -> Seq {
        Seq(self.history.of(stream).count() as u64)
    }

    /// A page of events, whether more follow, the head, and what is pruned.
    pub(super) fn events(
        &self,
        stream: Option<&StreamKey>,
        after: Position,
        limit: usize,
    ) -> (Vec<StoredEvent>, bool, Position, Position) {
        let head = Position(self.history.log.len() as u64);
        let belongs = |event: &&StoredEvent| {
            event.position > after && stream.is_none_or(|stream| seq(event, stream).is_some())
        };
        let served = self.history.served().iter();
        let mut events: Vec<StoredEvent> = served.filter(belongs).cloned().collect();
        let has_more = events.len() > limit;
        events.truncate(limit);
        (events, has_more, head, self.history.pruned)
    }

    pub(super) fn row(&self, key: &RowKey) -> Option<&Row> {
        self.table.get(key)
    }

    /// All rows of a query, in its order.
    pub(super) fn rows(&self, query: &RowQuery) -> Vec<Row> {
        let mut rows: Vec<Row> = self.table.values().cloned().collect();
        match query {
            RowQuery::Prefix { space, scope, name } => rows.retain(|Row { key, .. }| {
                let owned = |scope: &ScopeId| key.scope == *scope && key.name.starts_with(&**name);
                key.space == *space && scope.as_ref().is_none_or(owned)
            }),
            RowQuery::Due { space, until } => {
                rows.retain(|row| {
                    row.key.space == *space && row.due.is_some_and(|due| due <= *until)
                });
                rows.sort_by_key(|row| row.due);
            }
            _ => rows.clear(),
        }
        rows
    }
}

fn history_of(accepted: &[Commit]) -> History {
    let mut history = History::default();
    for commit in accepted {
        for removal in &commit.removals {
            history.remove(removal);
        }
        for event in &commit.events {
            history.append(event, commit.time);
        }
    }
    history
}

fn table_of(accepted: &[Commit], log: &[StoredEvent]) -> BTreeMap<RowKey, Row> {
    let mut rows = BTreeMap::new();
    let mut first = 0;
    for commit in accepted {
        for change in &commit.rows {
            apply(&mut rows, change, &log[first..]);
        }
        first += commit.events.len();
    }
    rows
}

fn seq(event: &StoredEvent, stream: &StreamKey) -> Option<Seq> {
    let place = event.places.iter().find(|place| place.stream == *stream)?;
    Some(place.seq)
}

fn apply(rows: &mut BTreeMap<RowKey, Row>, change: &RowChange, events: &[StoredEvent]) {
    match change {
        RowChange::Put {
            key,
            body,
            event,
            due,
        } => {
            let row = Row {
                key: key.clone(),
                version: rows.get(key).map_or(1, |row| row.version + 1),
                body: body.clone(),
                event: event.map(|index| events[index].clone()),
                due: *due,
            };
            rows.insert(key.clone(), row);
        }
        RowChange::Delete(key) => {
            rows.remove(key);
        }
        RowChange::Retire(scope) => rows.retain(|key, _| key.scope != *scope),
        _ => {}
    }
}
