//! The tail: what commits of the group being written will have changed. Guards are checked
//! against it, readers do not see it.

use foldhash::{HashMap, HashSet};
use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey};
use runtime_store::{
    Commit, CommitError, Committed, Epoch, EventPlace, Found, Guard, NewEvent, Position, Removal,
    RowChange, RowKey, Seq,
};

use crate::index::{Index, row_at_once, tail_at_once};
use crate::log::Submission;
use crate::rows::Lookup;
use crate::streams::StreamTail;

/// The changes of a group, on top of an index that holds everything before it.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// The version of each changed row; none for a deleted one.
    rows: HashMap<RowKey, Option<u64>>,
    retired: HashSet<ScopeId>,
    streams: HashMap<StreamKey, StreamTail>,
    /// What the checkpoint said of rows and streams that did not change since.
    rows_below: HashMap<RowKey, Option<u64>>,
    streams_below: HashMap<StreamKey, StreamTail>,
    /// The new ones, with which submission of the group each is.
    commits: HashMap<CommitId, (Digest, usize)>,
    event_ids: HashSet<EventId>,
    events: u64,
    /// The last position that a commit of this group removed.
    pruned: u64,
}

/// What a commit turned out to be.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// New; its events get these places, and its puts these versions.
    New(Committed, Vec<u64>),
    /// The same as an earlier submission of this group.
    RepeatedHere(usize),
    /// The same as one that is durable.
    RepeatedBefore,
}

impl Overlay {
    /// Decides on the submission `number` of a group and, if it is new, takes it in. What was found without looking at the
    /// state comes in the order that every store has: after the question whether this is a
    /// repetition, and the attachments last.
    pub(crate) fn decide(
        &mut self,
        index: &Index,
        submission: &Submission,
        number: usize,
    ) -> Result<Verdict, CommitError> {
        let Submission {
            commit,
            content,
            form,
            attachments,
        } = submission;
        let content = *content;
        if let Some(repeated) = self.repetition(index, commit.id, content)? {
            return Ok(repeated);
        }
        form.clone()?;
        check_damage(index, commit)?;
        self.look_below(index, commit)
            .map_err(|error| CommitError::Unavailable {
                reason: format!("cannot read a checkpoint: {error}"),
            })?;
        self.check_owner(index, commit.owner.as_ref())?;
        for guard in &commit.guards {
            self.check_guard(index, guard)?;
        }
        self.check_streams(index, &commit.events)?;
        let taken =
            |event: &NewEvent| self.event_ids.contains(&event.id) || index.has_event(&event.id);
        if commit.events.iter().any(taken) {
            return Err(CommitError::DifferentContent { id: commit.id });
        }
        attachments.clone()?;
        self.commits.insert(commit.id, (content, number));
        let (committed, versions) = self.take(index, commit);
        Ok(Verdict::New(committed, versions))
    }

    fn repetition(
        &self,
        index: &Index,
        id: CommitId,
        content: Digest,
    ) -> Result<Option<Verdict>, CommitError> {
        let different = CommitError::DifferentContent { id };
        if let Some((first, number)) = self.commits.get(&id) {
            return match *first == content {
                true => Ok(Some(Verdict::RepeatedHere(*number))),
                false => Err(different),
            };
        }
        match index.memory().content(&id) {
            Some(known) if known == content => Ok(Some(Verdict::RepeatedBefore)),
            Some(_) => Err(different),
            None if index.may_have_forgotten(&id) => Err(CommitError::TooOld { id }),
            None => Ok(None),
        }
    }

    /// Reads what the commit asks for and only the checkpoint knows, so that deciding reads
    /// nothing.
    fn look_below(&mut self, index: &Index, commit: &Commit) -> std::io::Result<()> {
        if index.below().is_none() {
            return Ok(());
        }
        let owner = commit.owner.iter();
        let owner = owner.map(|(scope, _)| RowKey::epoch(scope.clone()));
        let guarded = commit.guards.iter().filter_map(|guard| match guard {
            Guard::Absent(key) | Guard::Version(key, _) => Some(key.clone()),
            _ => None,
        });
        let put = commit.rows.iter().filter_map(|change| match change {
            RowChange::Put { key, .. } => Some(key.clone()),
            _ => None,
        });
        for key in owner.chain(guarded).chain(put) {
            let is_known = self.rows.contains_key(&key)
                || self.rows_below.contains_key(&key)
                || index.find_row(&key) != Lookup::Below;
            if !is_known {
                let row = row_at_once(index, &key)?;
                self.rows_below.insert(key, row.map(|row| row.version));
            }
        }
        let heads = commit.guards.iter().filter_map(|guard| match guard {
            Guard::Head(stream, _) => Some(stream),
            _ => None,
        });
        let appended = commit.events.iter().flat_map(|event| &event.streams);
        for key in heads.chain(appended) {
            let is_known = self.streams.contains_key(key)
                || self.streams_below.contains_key(key)
                || index.find_stream(key) != Lookup::Below;
            if !is_known {
                let tail = tail_at_once(index, key)?.unwrap_or_default();
                self.streams_below.insert(key.clone(), tail);
            }
        }
        Ok(())
    }

    fn version(&self, index: &Index, key: &RowKey) -> Option<u64> {
        match self.rows.get(key) {
            Some(version) => return *version,
            None if self.retired.contains(&key.scope) => return None,
            None => {}
        }
        match index.find_row(key) {
            Lookup::Known(row) => row.map(|row| row.version),
            Lookup::Below => self.rows_below.get(key).copied().flatten(),
        }
    }

    fn stream(&self, index: &Index, key: &StreamKey) -> StreamTail {
        let durable = || match index.find_stream(key) {
            Lookup::Known(tail) => tail,
            Lookup::Below => self.streams_below.get(key).copied(),
        };
        let tail = self.streams.get(key).copied().or_else(durable);
        tail.filter(|tail| !tail.is_forgotten(self.pruned))
            .unwrap_or_default()
    }

    fn check_owner(
        &self,
        index: &Index,
        owner: Option<&(ScopeId, Epoch)>,
    ) -> Result<(), CommitError> {
        let Some((scope, epoch)) = owner else {
            return Ok(());
        };
        match self.version(index, &RowKey::epoch(scope.clone())) {
            Some(version) if version == epoch.0 => Ok(()),
            _ => Err(CommitError::Fenced),
        }
    }

    fn check_guard(&self, index: &Index, guard: &Guard) -> Result<(), CommitError> {
        let row = |key| {
            self.version(index, key)
                .map_or(Found::Absent, Found::Version)
        };
        let (found, wanted) = match guard {
            Guard::Absent(key) => (row(key), Found::Absent),
            Guard::Version(key, version) => (row(key), Found::Version(*version)),
            Guard::Head(stream, seq) => (
                Found::Head(self.stream(index, stream).head),
                Found::Head(*seq),
            ),
            other => {
                return Err(CommitError::Malformed {
                    reason: format!("guard {other:?} is not known to this store"),
                });
            }
        };
        if found == wanted {
            return Ok(());
        }
        Err(CommitError::Rejected {
            guard: guard.clone(),
            found,
        })
    }

    /// Refuses an event for a stream that is closed, or that an earlier event of the same commit
    /// closes (V5).
    fn check_streams(&self, index: &Index, events: &[NewEvent]) -> Result<(), CommitError> {
        let mut closing = HashSet::default();
        for (at, event) in events.iter().enumerate() {
            let is_closed =
                |stream: &&StreamKey| closing.contains(stream) || self.stream(index, stream).closed;
            if let Some(stream) = event.streams.iter().find(is_closed) {
                let earlier = events[..at]
                    .iter()
                    .filter(|event| event.streams.contains(stream))
                    .count() as u64;
                let head = Seq(self.stream(index, stream).head.0 + earlier);
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

    fn take(&mut self, index: &Index, commit: &Commit) -> (Committed, Vec<u64>) {
        let first = index.head() + self.events + 1;
        for removal in &commit.removals {
            if let Removal::Through(position) = removal {
                self.pruned = self.pruned.max(position.0.min(first - 1));
            }
        }
        let places: Vec<_> = commit
            .events
            .iter()
            .map(|event| self.take_event(index, event))
            .collect();
        let rows = commit.rows.iter();
        let versions = rows.filter_map(|change| self.take_row(index, change));
        let versions = versions.collect();
        let committed = Committed {
            positions: first..first + places.len() as u64,
            places,
            repeated: false,
        };
        (committed, versions)
    }

    fn take_event(&mut self, index: &Index, event: &NewEvent) -> Vec<EventPlace> {
        self.events += 1;
        self.event_ids.insert(event.id);
        let position = Position(index.head() + self.events);
        let mut places = Vec::with_capacity(event.streams.len());
        for (at, key) in event.streams.iter().enumerate() {
            let before = self.stream(index, key);
            let tail = StreamTail {
                head: before.head.next(),
                last: position,
                closed: before.closed || (event.closes && at == 0),
            };
            self.streams.insert(key.clone(), tail);
            places.push(EventPlace {
                stream: key.clone(),
                seq: tail.head,
                previous: before.last,
            });
        }
        places
    }

    /// Takes a change; returns the version that a put gives its row.
    fn take_row(&mut self, index: &Index, change: &RowChange) -> Option<u64> {
        match change {
            RowChange::Put { key, .. } => {
                let version = self.version(index, key).map_or(1, |version| version + 1);
                self.rows.insert(key.clone(), Some(version));
                return Some(version);
            }
            RowChange::Delete(key) => {
                self.rows.insert(key.clone(), None);
            }
            RowChange::Retire(scope) => {
                self.rows.retain(|key, _| key.scope != *scope);
                self.retired.insert(scope.clone());
            }
            // A kind that the format cannot hold was refused with the form of the commit.
            _ => {}
        }
        None
    }
}

/// Refuses a commit that would change what damage has touched: its true state is not known (S4).
fn check_damage(index: &Index, commit: &Commit) -> Result<(), CommitError> {
    if !index.has_damage() {
        return Ok(());
    }
    let found = names_of(commit).find_map(|name| Some((name, index.damage_of(name)?)));
    match found {
        None => Ok(()),
        Some((name, place)) => Err(CommitError::ReadOnly {
            reason: format!(
                "{name} is damaged at {place}; it can be read, not changed; put the file back from a copy"
            ),
        }),
    }
}

/// The scopes and streams that a commit touches.
pub(crate) fn names_of(commit: &Commit) -> impl Iterator<Item = &str> {
    let owner = commit.owner.iter().map(|(scope, _)| scope.as_str());
    let rows = commit.rows.iter().filter_map(|change| match change {
        RowChange::Put { key, .. } | RowChange::Delete(key) => Some(key.scope.as_str()),
        RowChange::Retire(scope) => Some(scope.as_str()),
        _ => None,
    });
    let events = commit.events.iter();
    let streams = events.flat_map(|event| event.streams.iter().map(StreamKey::as_str));
    let erased = commit.removals.iter().filter_map(|removal| match removal {
        Removal::Stream(stream) => Some(stream.as_str()),
        _ => None,
    });
    owner.chain(rows).chain(streams).chain(erased)
}
