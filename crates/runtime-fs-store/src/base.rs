//! Bases: what is kept of all segments up to one, in their place.
//!
//! A base holds frames like a segment, but frames and events may be missing between them. It has
//! a name and a number of its own, so that it and what it stands for can be there at once: the
//! base is durable before anything that it names is removed.

use std::collections::HashMap;

use runtime_core::{CommitId, Digest, StreamKey, Timestamp};

use crate::frame::{Header, Place, StoreTag, flag};
use crate::record::{Extent, Kept, write_kept};
use crate::segment::{BASE, BaseHeader, SEGMENT_HEADER_BYTES};

/// A base being made.
#[derive(Debug)]
pub(crate) struct BaseWriter {
    tag: StoreTag,
    number: u32,
    incarnation: u64,
    bytes: Vec<u8>,
    /// Where the records that were kept are now.
    pub(crate) moves: HashMap<Extent, Extent>,
}

/// Which frame of the log something is kept of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramePlace {
    pub(crate) number: u64,
    pub(crate) first_position: u64,
    pub(crate) events: u32,
}

/// Where the records of a [`Kept`] were before, in its order.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    pub(crate) rows: Vec<Extent>,
    pub(crate) events: Vec<Extent>,
}

impl BaseWriter {
    pub(crate) fn new(tag: StoreTag, number: u32, incarnation: u64) -> Self {
        Self {
            tag,
            number,
            incarnation,
            bytes: vec![0; SEGMENT_HEADER_BYTES],
            moves: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds what is kept of a commit.
    pub(crate) fn keep(&mut self, frame: FramePlace, kept: &Kept, origins: &Origins) {
        let at = Place {
            segment: self.number | BASE,
            offset: self.bytes.len() as u64,
        };
        let FramePlace {
            number,
            first_position,
            events,
        } = frame;
        let mut header = Header::new(flag::KEPT, self.incarnation, number, first_position);
        header.events = events;
        header.names = names_of(kept).collect();
        header.fit_names();
        let payload_at = Place {
            offset: at.offset + header.encoded_bytes() as u64,
            ..at
        };
        let (payload, rows, events) = write_kept(self.tag, payload_at, kept);
        header.write(self.tag, at, &payload, &mut self.bytes);
        let rows = origins.rows.iter().copied().zip(rows);
        let events = origins.events.iter().copied().zip(events);
        self.moves.extend(rows.chain(events));
    }

    /// Returns the file.
    pub(crate) fn finish(mut self, header: BaseHeader) -> (Vec<u8>, HashMap<Extent, Extent>) {
        let header = BaseHeader {
            number: self.number,
            incarnation: self.incarnation,
            bytes: (self.bytes.len() - SEGMENT_HEADER_BYTES) as u64,
            ..header
        };
        self.bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.to_bytes(self.tag));
        (self.bytes, self.moves)
    }
}

impl Kept {
    /// Nothing of a commit: for what belongs to none.
    pub(crate) fn nothing() -> Self {
        Self {
            id: CommitId::from_uuid(uuid::Uuid::nil()),
            time: Timestamp::default(),
            content: Digest::from_bytes([0; 32]),
            is_remembered: false,
            rows: Vec::new(),
            events: Vec::new(),
            streams: Vec::new(),
            named_for: Vec::new(),
            attachments: Vec::new(),
        }
    }
}

fn names_of(kept: &Kept) -> impl Iterator<Item = &str> {
    let rows = kept.rows.iter().map(|put| put.key.scope.as_str());
    let places = kept.events.iter().flat_map(|event| &event.places);
    let places = places.map(|place| place.stream.as_str());
    let streams = kept
        .streams
        .iter()
        .map(|end| StreamKey::as_str(&end.stream));
    let scopes = kept.named_for.iter().map(|scope| scope.as_str());
    rows.chain(places).chain(streams).chain(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S6: the header of a base says what its writer wrote, and the writer how large it is so far.
    #[test]
    fn s6_a_base_says_how_long_it_is_and_whose() {
        let tag = StoreTag(*b"store-01");
        let mut writer = BaseWriter::new(tag, 7, 3);
        assert_eq!(writer.len(), SEGMENT_HEADER_BYTES);
        let frame = FramePlace {
            number: 5,
            first_position: 9,
            events: 0,
        };
        writer.keep(frame, &Kept::nothing(), &Origins::default());
        let length = writer.len();
        assert!(length > SEGMENT_HEADER_BYTES);
        let expected = BaseHeader {
            number: 7,
            incarnation: 3,
            bytes: (length - SEGMENT_HEADER_BYTES) as u64,
            last_frame: 5,
            last_position: 8,
            pruned: 8,
            buffered: true,
            forgotten: true,
        };
        // What only the writer knows is not asked of whoever ends it.
        let (bytes, _) = writer.finish(BaseHeader {
            number: 0,
            incarnation: 0,
            bytes: 0,
            ..expected
        });
        assert_eq!(bytes.len(), length);
        assert_eq!(BaseHeader::from_bytes(tag, 7, &bytes), Some(expected));
    }
}
