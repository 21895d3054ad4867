//! The last commits, so that a repetition is told from a new commit (V1). Pure.
//!
//! They come and go in order, so they stand in queues, and each is known by its number: how many
//! came before it. Taking one costs the same, however many are remembered.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use foldhash::{HashMap, HashSet};
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

/// A commit in the queue; its events stand in a queue of their own.
#[derive(Debug)]
struct Known {
    id: CommitId,
    content: Digest,
    positions: Range<u64>,
    /// The numbers of its events.
    events: Range<u64>,
}

/// The last commits.
#[derive(Debug, Default)]
pub(crate) struct CommitMemory {
    /// The oldest first.
    commits: VecDeque<Known>,
    /// The number of the oldest commit, and of the oldest event.
    first_commit: u64,
    first_event: u64,
    numbers: HashMap<CommitId, u64>,
    times: Times,
    /// The events of the remembered commits.
    events: VecDeque<(EventId, Extent)>,
    event_ids: HashSet<EventId>,
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

    pub(crate) fn remember(
        &mut self,
        id: CommitId,
        content: Digest,
        positions: Range<u64>,
        events: impl IntoIterator<Item = (EventId, Extent)>,
        max: usize,
    ) {
        let first = self.next_event();
        for event in events {
            self.event_ids.insert(event.0);
            self.events.push_back(event);
        }
        let number = self.first_commit + self.commits.len() as u64;
        self.numbers.insert(id, number);
        if let Some(time) = id.timestamp() {
            self.times.push(number, time);
        }
        self.commits.push_back(Known {
            id,
            content,
            positions,
            events: first..self.next_event(),
        });
        self.forget_beyond(max);
    }

    fn next_event(&self) -> u64 {
        self.first_event + self.events.len() as u64
    }

    pub(crate) fn forget_beyond(&mut self, max: usize) {
        while self.commits.len() > max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.commits.pop_front() else {
            return;
        };
        self.has_forgotten = true;
        let number = self.first_commit;
        if number == 0 {
            // From here on as many go as come. A table that is less than half full is tidied in
            // its place, so with this it has its size for good.
            self.numbers.reserve(self.commits.len() + 1);
            self.event_ids.reserve(self.event_ids.len() + 1);
        }
        self.first_commit += 1;
        if self.numbers.get(&oldest.id) == Some(&number) {
            self.numbers.remove(&oldest.id);
        }
        self.times.forget(number);
        for (event, _) in self.events.drain(..count(&oldest.events)) {
            self.event_ids.remove(&event);
        }
        self.first_event = oldest.events.end;
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.commits.len()
    }

    pub(crate) fn has_event(&self, id: &EventId) -> bool {
        self.event_ids.contains(id)
    }

    /// What a commit asked for, as a digest.
    pub(crate) fn content(&self, id: &CommitId) -> Option<Digest> {
        self.known(id).map(|known| known.content)
    }

    pub(crate) fn get(&self, id: &CommitId) -> Option<CommitEntry> {
        self.known(id).map(|known| self.entry(known))
    }

    fn known(&self, id: &CommitId) -> Option<&Known> {
        let number = self.numbers.get(id)?;
        let index = usize::try_from(number - self.first_commit).ok()?;
        self.commits.get(index)
    }

    fn entry(&self, known: &Known) -> CommitEntry {
        CommitEntry {
            content: known.content,
            positions: known.positions.clone(),
            events: self.events_of(known).copied().collect(),
        }
    }

    fn events_of(&self, known: &Known) -> impl ExactSizeIterator<Item = &(EventId, Extent)> {
        let from = count(&(self.first_event..known.events.start));
        self.events.range(from..from + count(&known.events))
    }

    /// The commits, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CommitId, CommitEntry)> {
        self.commits
            .iter()
            .map(|known| (known.id, self.entry(known)))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = CommitId> {
        self.commits.iter().map(|known| known.id)
    }

    /// A commit of this id may have been forgotten if it is older than all that are remembered.
    ///
    /// The latest forgotten time would not do as the bound. A wall clock that once jumped ahead
    /// would leave one in the future, and one that stands still would leave one that every new
    /// id equals.
    pub(crate) fn may_have_forgotten(&self, id: &CommitId) -> bool {
        self.has_forgotten && id.timestamp().is_some() && id.timestamp() < self.times.earliest()
    }

    /// Returns `now`, or a time right after the latest remembered id.
    pub(crate) fn id_time(&self, now: Timestamp) -> Timestamp {
        let latest = self.times.latest();
        latest.map_or(now, |time| now.max(time.after(Duration::from_millis(1))))
    }

    /// Lets events be where a base has them now.
    pub(crate) fn move_to(&mut self, moved: impl Fn(&mut Extent)) {
        self.events.iter_mut().for_each(|(_, at)| moved(at));
    }

    /// Writes all of it in order, in parts of about `part_bytes`.
    pub(crate) fn write<E>(
        &self,
        part_bytes: usize,
        mut part: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out = Vec::with_capacity(part_bytes + 1024);
        for known in &self.commits {
            out.extend(known.id.as_uuid().as_bytes());
            out.extend(known.content.as_bytes());
            out.extend(known.positions.start.to_le_bytes());
            out.extend(known.positions.end.to_le_bytes());
            out.extend(length_u32(count(&known.events)).to_le_bytes());
            for (event, at) in self.events_of(known) {
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
        let mut events = Vec::new();
        while !fields.0.is_empty() {
            let id = CommitId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
            let content = Digest::from_bytes(fields.array()?);
            let positions = fields.u64()?..fields.u64()?;
            let count = fields.u32()?;
            events.clear();
            for _ in 0..count {
                let event = EventId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
                events.push((event, Extent::read(&mut fields)?));
            }
            self.remember(id, content, positions, events.drain(..), max);
        }
        Some(())
    }
}

fn count(numbers: &Range<u64>) -> usize {
    usize::try_from(numbers.end - numbers.start).expect("what is in memory can be counted")
}

/// The earliest and the latest time of a queue: of each kind, those that may still become it.
#[derive(Debug, Default)]
struct Times {
    earliest: VecDeque<(u64, Timestamp)>,
    latest: VecDeque<(u64, Timestamp)>,
}

impl Times {
    fn push(&mut self, number: u64, time: Timestamp) {
        while self
            .earliest
            .back()
            .is_some_and(|(_, other)| *other >= time)
        {
            self.earliest.pop_back();
        }
        self.earliest.push_back((number, time));
        while self.latest.back().is_some_and(|(_, other)| *other <= time) {
            self.latest.pop_back();
        }
        self.latest.push_back((number, time));
    }

    fn forget(&mut self, number: u64) {
        for times in [&mut self.earliest, &mut self.latest] {
            if times.front().is_some_and(|(oldest, _)| *oldest == number) {
                times.pop_front();
            }
        }
    }

    fn earliest(&self) -> Option<Timestamp> {
        self.earliest.front().map(|(_, time)| *time)
    }

    fn latest(&self) -> Option<Timestamp> {
        self.latest.front().map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::Random as _;
    use runtime_testkit::SeededRandom;

    use super::*;

    fn extent(offset: u32) -> Extent {
        Extent {
            segment: 1,
            offset,
            bytes: 8,
        }
    }

    /// Beside a plain list, under clocks that jump: what is known of each id, which events are,
    /// and between which times the ids are.
    #[test]
    fn v1_the_queue_answers_as_a_list_would() {
        const MAX: usize = 16;
        let random = SeededRandom::new(1);
        let mut memory = CommitMemory::default();
        let mut list: Vec<(CommitId, CommitEntry)> = Vec::new();
        for number in 0..2_000_u32 {
            let [jump, events, ..] = random.ten();
            let time = u64::from(number) * 10 + u64::from(jump);
            let id = CommitId::generate(Timestamp::from_millis(time), random.ten());
            let ids = (0..u32::from(events % 4)).map(|event| {
                let id = EventId::generate(Timestamp::from_millis(time), random.ten());
                (id, extent(number * 4 + event))
            });
            let events: Vec<_> = ids.collect();
            let content = Digest::of_bytes(&number.to_le_bytes());
            let positions = u64::from(number)..u64::from(number) + events.len() as u64;
            let forgotten = (list.len() == MAX).then(|| list.remove(0));
            memory.remember(id, content, positions.clone(), events.clone(), MAX);
            let events = events.into();
            let entry = CommitEntry {
                content,
                positions,
                events,
            };
            list.push((id, entry));
            assert!(memory.iter().eq(list.iter().cloned()), "{number}");
            for (id, entry) in &list {
                assert_eq!(memory.get(id).as_ref(), Some(entry));
                assert_eq!(memory.content(id), Some(entry.content));
                assert!(entry.events.iter().all(|(id, _)| memory.has_event(id)));
            }
            let times = list.iter().filter_map(|(id, _)| id.timestamp());
            let (earliest, latest) = (times.clone().min(), times.max());
            assert_eq!(memory.times.earliest(), earliest);
            assert_eq!(memory.times.latest(), latest);
            if let Some((id, entry)) = forgotten {
                assert_eq!(memory.get(&id), None);
                assert!(!entry.events.iter().any(|(id, _)| memory.has_event(id)));
                assert_eq!(memory.may_have_forgotten(&id), id.timestamp() < earliest);
            }
        }
        let mut copy = CommitMemory::empty(true);
        let read = |part: &[u8]| copy.read_part(part, MAX).ok_or("a part");
        memory.write(64, read).expect("reads");
        assert!(copy.iter().eq(memory.iter()));
        assert_eq!((copy.len(), copy.events.len()), (MAX, memory.events.len()));
    }
}
