//! The naive model: a list of commits, read from its beginning after each one.

use std::collections::{BTreeMap, HashSet};

use runtime_core::{CommitId, Digest, ScopeId, StreamKey};
use runtime_store::{
    Commit, CommitError, Committed, EventPlace, Found, Guard, NewEvent, Position, Row, RowChange,
    RowKey, RowQuery, Seq, StoredEvent,
};

#[derive(Debug, Default)]
pub(super) struct Model {
    /// The commits that happened, in order; log and table follow from them.
    pub(super) accepted: Vec<Commit>,
    pub(super) log: Vec<StoredEvent>,
    table: BTreeMap<RowKey, Row>,
    pub(super) attachments: HashSet<Digest>,
}

impl Model {
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<Committed, CommitError> {
        if let Some(first) = self.accepted.iter().find(|first| first.id == commit.id) {
            let content = |commit: &Commit| {
                let Commit {
                    rows,
                    events,
                    attachments,
                    ..
                } = commit.clone();
                (rows, events, attachments)
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
        self.log = log_of(&self.accepted);
        self.table = table_of(&self.accepted, &self.log);
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
        let mut events: Vec<&NewEvent> = self.appended().collect();
        for event in &commit.events {
            for stream in &event.streams {
                let is_end =
                    |event: &&NewEvent| event.closes && event.streams.first() == Some(stream);
                if events.iter().any(is_end) {
                    let there = |event: &&&NewEvent| event.streams.contains(stream);
                    let head = Seq(events.iter().filter(there).count() as u64);
                    return rejected(Guard::Head(stream.clone(), head), Found::Closed);
                }
            }
            events.push(event);
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
            places: self.log[before..before + count]
                .iter()
                .map(|event| event.places.clone())
                .collect(),
            repeated: false,
        })
    }

    pub(super) fn head(&self, stream: &StreamKey) -> Seq {
        let there = |event: &&NewEvent| event.streams.contains(stream);
        Seq(self.appended().filter(there).count() as u64)
    }

    /// A page of events, whether more follow, and the head.
    pub(super) fn events(
        &self,
        stream: Option<&StreamKey>,
        after: Position,
        limit: usize,
    ) -> (Vec<StoredEvent>, bool, Position) {
        let head = Position(self.log.len() as u64);
        let belongs = |event: &&StoredEvent| {
            event.position > after && stream.is_none_or(|stream| seq(event, stream).is_some())
        };
        let mut events: Vec<StoredEvent> = self.log.iter().filter(belongs).cloned().collect();
        let has_more = events.len() > limit;
        events.truncate(limit);
        (events, has_more, head)
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

fn log_of(accepted: &[Commit]) -> Vec<StoredEvent> {
    let mut log: Vec<StoredEvent> = Vec::new();
    for commit in accepted {
        for event in &commit.events {
            let place = |stream: &StreamKey| {
                let ends = |earlier: &StoredEvent| Some((earlier.position, seq(earlier, stream)?));
                let (previous, last) = log.iter().rev().find_map(ends).unwrap_or_default();
                EventPlace {
                    stream: stream.clone(),
                    seq: Seq(last.0 + 1),
                    previous,
                }
            };
            let places = event.streams.iter().map(place).collect();
            log.push(StoredEvent {
                position: Position(log.len() as u64 + 1),
                id: event.id,
                time: commit.time,
                places,
                body: event.body.clone(),
            });
        }
    }
    log
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
