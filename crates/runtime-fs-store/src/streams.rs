//! The streams that grew since a checkpoint. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use foldhash::HashMap;
use runtime_core::StreamKey;
use runtime_store::{EventPlace, Page, Position, Seq};

use crate::record::StreamEnd;
use crate::rows::Lookup;
use crate::units::Unit;

/// Where a stream ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamTail {
    pub(crate) head: Seq,
    pub(crate) last: Position,
    pub(crate) closed: bool,
}

impl StreamTail {
    /// A closed stream is forgotten with its last event.
    pub(crate) fn is_forgotten(self, pruned: u64) -> bool {
        self.closed && self.last.0 <= pruned
    }

    pub(crate) fn end_of(self, stream: StreamKey) -> StreamEnd {
        StreamEnd {
            stream,
            head: self.head,
            last: self.last,
            closed: self.closed,
        }
    }
}

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Those of its events that are served and come after the checkpoint.
    positions: VecDeque<u64>,
    tail: StreamTail,
}

/// Positions of a page of a stream, whether more follow, and the lost end at which it stops.
pub(crate) type StreamPage = (Vec<u64>, bool, Option<Range<u64>>);

impl Stream {
    pub(crate) const fn tail(&self) -> StreamTail {
        self.tail
    }

    /// Those of its events that one segment holds.
    pub(crate) fn positions_in(&self, unit: &Unit) -> impl Iterator<Item = u64> {
        let start = self.positions.partition_point(|at| *at < unit.first);
        let end = self.positions.partition_point(|at| *at <= unit.last);
        self.positions.range(start..end).copied()
    }

    /// Returns the positions of a page, and whether more follow.
    fn page(&self, page: &Page<Position>) -> (Vec<u64>, bool) {
        let first = self.positions.partition_point(|at| *at <= page.after.0);
        let taken = self.positions.range(first..).take(page.limit);
        let taken: Vec<u64> = taken.copied().collect();
        let has_more = self.positions.len() - first > taken.len();
        (taken, has_more)
    }
}

/// The streams that grew.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    known: HashMap<StreamKey, Stream>,
    /// Up to these positions damaged commits touched a stream, which may have lost events there.
    lost: HashMap<StreamKey, u64>,
}

impl Streams {
    pub(crate) fn find(&self, key: &StreamKey, pruned: u64) -> Lookup<StreamTail> {
        match self.known.get(key) {
            Some(stream) => {
                let tail = Some(stream.tail);
                Lookup::Known(tail.filter(|tail| !tail.is_forgotten(pruned)))
            }
            None => Lookup::Below,
        }
    }

    /// Takes an event's place.
    pub(crate) fn append(&mut self, place: EventPlace, position: u64, closes: bool, pruned: u64) {
        let stream = self.known.entry(place.stream).or_default();
        if stream.tail.is_forgotten(pruned) {
            *stream = Stream::default();
        }
        stream.positions.push_back(position);
        stream.tail.last = Position(position);
        stream.tail.head = place.seq;
        stream.tail.closed |= closes;
    }

    /// Takes where a stream ends, from a base that has not all of its events.
    pub(crate) fn end(&mut self, end: StreamEnd) {
        let stream = self.known.entry(end.stream).or_default();
        stream.tail = StreamTail {
            head: end.head,
            last: end.last,
            closed: end.closed,
        };
    }

    pub(crate) fn page(&self, key: &StreamKey, page: &Page<Position>) -> StreamPage {
        let stream = self.known.get(key);
        let (taken, has_more) = stream.map_or_else(Default::default, |stream| stream.page(page));
        let known = stream.map_or(0, |stream| stream.tail.last.0);
        let reached = page.after.0.max(known);
        match self.lost.get(key) {
            // Nothing that follows shows that the end is not whole.
            Some(lost) if !has_more && *lost > reached => {
                let damaged = taken.is_empty().then_some(reached + 1..lost + 1);
                (taken, true, damaged)
            }
            _ => (taken, has_more, None),
        }
    }

    /// Takes the names that a damaged commit touched whose events ended at a position.
    pub(crate) fn lose<'a>(&mut self, names: impl IntoIterator<Item = &'a str>, last: u64) {
        let streams = names
            .into_iter()
            .filter_map(|name| StreamKey::new(name).ok());
        self.lost.extend(streams.map(|stream| (stream, last)));
    }

    /// Events up to here are not served any more. What a stream's end was stays known: the
    /// checkpoint below may tell of an earlier one.
    pub(crate) fn prune(&mut self, through: u64) {
        for stream in self.known.values_mut() {
            stream.forget(through);
        }
        self.lost.retain(|_, last| *last > through);
    }

    /// Forgets what a checkpoint up to a position holds.
    pub(crate) fn rebase(&mut self, last_position: u64) {
        self.known.retain(|_, stream| {
            stream.forget(last_position);
            stream.tail.last.0 > last_position
        });
        self.known.shrink_to_fit();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&StreamKey, &Stream)> {
        self.known.iter()
    }

    pub(crate) fn lost_ends(&self) -> impl Iterator<Item = (&StreamKey, u64)> {
        self.lost.iter().map(|(key, last)| (key, *last))
    }

    pub(crate) fn tails(&self) -> impl Iterator<Item = (&StreamKey, StreamTail)> {
        self.known.iter().map(|(key, stream)| (key, stream.tail))
    }
}

impl Stream {
    fn forget(&mut self, through: u64) {
        let gone = self.positions.partition_point(|at| *at <= through);
        self.positions.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StreamKey {
        StreamKey::new("session/all").expect("it is a key")
    }

    /// A stream with events at 1 to 4 and from 8 to 10.
    fn grown() -> Streams {
        let mut streams = Streams::default();
        for (seq, position, previous) in [
            (1, 1, 0),
            (2, 2, 1),
            (3, 3, 2),
            (4, 4, 3),
            (5, 8, 4),
            (6, 9, 8),
            (7, 10, 9),
        ] {
            let place = EventPlace {
                stream: key(),
                seq: Seq(seq),
                previous: Position(previous),
            };
            streams.append(place, position, false, 0);
        }
        streams
    }

    fn page_after(streams: &Streams, after: u64) -> StreamPage {
        streams.page(&key(), &Page::after(Position(after), 10))
    }

    /// S6: what is pruned takes no memory any more, and what is served stays.
    #[test]
    fn s6_a_pruned_stream_keeps_what_is_served_and_nothing_else() {
        let mut streams = grown();
        streams.prune(5);
        assert_eq!(page_after(&streams, 5), (vec![8, 9, 10], false, None));
        assert_eq!(streams.known[&key()].positions, [8, 9, 10]);
        let (_, stream) = streams.iter().next().expect("there is one");
        let unit = Unit {
            segment: 1,
            first: 1,
            last: 9,
            newest: runtime_core::Timestamp::default(),
            bytes: 0,
        };
        let told: Vec<_> = stream.positions_in(&unit).collect();
        assert_eq!(told, [8, 9]);
        streams.prune(8);
        assert_eq!(page_after(&streams, 8), (vec![9, 10], false, None));
        let stream = &streams.known[&key()];
        assert_eq!((stream.positions.len(), stream.tail.head), (2, Seq(7)));
    }

    /// S6: a stream that has not grown since a checkpoint is known to the checkpoint only.
    #[test]
    fn s6_a_checkpoint_takes_a_stream_out_of_memory_with_its_last_event() {
        let mut streams = grown();
        streams.rebase(9);
        assert_eq!(page_after(&streams, 9), (vec![10], false, None));
        assert_eq!(streams.iter().count(), 1);
        streams.rebase(10);
        assert_eq!(streams.find(&key(), 0), Lookup::Below);
        assert_eq!(streams.iter().count(), 0);
    }
}
