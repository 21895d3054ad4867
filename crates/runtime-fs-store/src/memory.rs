//! The last commits, so that a repetition is told from a new commit (V1). Pure.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use runtime_core::{CommitId, Digest, EventId, Timestamp};

use crate::bytes::{Bytes, length_u32};
use crate::record::Extent;

/// What is known of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommitEntry {
    pub(crate) content: Digest,
    pub(crate) positions: Range<u64>,
    /// Its events and where they are; they are forgotten with it.
    pub(crate) events: Box<[(EventId, Extent)]>,
}

/// The last commits.
#[derive(Debug, Default)]
pub(crate) struct CommitMemory {
    pub(crate) entries: HashMap<CommitId, CommitEntry>,
    /// The order they came in; the front is forgotten first.
    pub(crate) order: VecDeque<CommitId>,
    times: BTreeSet<(Timestamp, CommitId)>,
    /// The events of the remembered commits.
    events: HashSet<EventId>,
    pub(crate) has_forgotten: bool,
}

impl CommitMemory {
    /// Nothing yet, after what was perhaps forgotten.
    pub(crate) fn empty(has_forgotten: bool) -> Self {
        Self {
            has_forgotten,
            ..Self::default()
        }
    }

    pub(crate) fn remember(&mut self, id: CommitId, entry: CommitEntry, max: usize) {
        self.events.extend(entry.events.iter().map(|(id, _)| *id));
        self.entries.insert(id, entry);
        self.order.push_back(id);
        if let Some(time) = id.timestamp() {
            self.times.insert((time, id));
        }
        self.forget_beyond(max);
    }

    pub(crate) fn forget_beyond(&mut self, max: usize) {
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

    pub(crate) fn has_event(&self, id: &EventId) -> bool {
        self.events.contains(id)
    }

    /// A commit of this id may have been forgotten if it is older than all that are remembered.
    ///
    /// The latest forgotten time would not do as the bound. A wall clock that once jumped ahead
    /// would leave one in the future, and one that stands still would leave one that every new
    /// id equals.
    pub(crate) fn may_have_forgotten(&self, id: &CommitId) -> bool {
        let earliest = self.times.first().map(|&(time, _)| time);
        self.has_forgotten && id.timestamp().is_some() && id.timestamp() < earliest
    }

    /// Returns `now`, or a time right after the latest remembered id.
    pub(crate) fn id_time(&self, now: Timestamp) -> Timestamp {
        let latest = self.times.last();
        latest.map_or(now, |(time, _)| {
            now.max(time.after(Duration::from_millis(1)))
        })
    }

    /// Lets events be where a base has them now.
    pub(crate) fn move_to(&mut self, moved: impl Fn(&mut Extent)) {
        for entry in self.entries.values_mut() {
            entry.events.iter_mut().for_each(|(_, at)| moved(at));
        }
    }

    /// Writes all of it in order, in parts of about `part_bytes`.
    pub(crate) fn write<E>(
        &self,
        part_bytes: usize,
        mut part: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out = Vec::with_capacity(part_bytes + 1024);
        for id in &self.order {
            let Some(entry) = self.entries.get(id) else {
                continue;
            };
            out.extend(id.as_uuid().as_bytes());
            out.extend(entry.content.as_bytes());
            out.extend(entry.positions.start.to_le_bytes());
            out.extend(entry.positions.end.to_le_bytes());
            out.extend(length_u32(entry.events.len()).to_le_bytes());
            for (event, at) in &entry.events {
                out.extend(event.as_uuid().as_bytes());
                at.write(&mut out);
            }
            if out.len() >= part_bytes {
                part(&out)?;
                out.clear();
            }
        }
        match out.is_empty() {
            true => Ok(()),
            false => part(&out),
        }
    }

    /// Reads what [`write`](Self::write) wrote in one part.
    pub(crate) fn read_part(&mut self, bytes: &[u8], max: usize) -> Option<()> {
        let mut fields = Bytes(bytes);
        while !fields.0.is_empty() {
            let id = CommitId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
            let content = Digest::from_bytes(fields.array()?);
            let positions = fields.u64()?..fields.u64()?;
            let count = fields.u32()? as usize;
            let mut events = Vec::with_capacity(count.min(bytes.len() / 28));
            for _ in 0..count {
                let event = EventId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
                events.push((event, Extent::read(&mut fields)?));
            }
            let entry = CommitEntry {
                content,
                positions,
                events: events.into(),
            };
            self.remember(id, entry, max);
        }
        Some(())
    }
}
