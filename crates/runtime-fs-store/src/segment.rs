//! Segment files: a header, then frames.

use crate::bytes::Bytes;
use crate::fill;
use crate::frame::{FRAME_BYTES_MAX, Header, Place, StoreTag};

pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"ARSegmnt";
const VERSION: u32 = 1;

/// The start of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    pub(crate) incarnation: u64,
    /// How much of the segment before counts; what follows there was cut.
    pub(crate) previous_bytes: u64,
    /// The number of its first frame.
    pub(crate) first_frame: u64,
    /// The position of its first event.
    pub(crate) first_position: u64,
}

impl SegmentHeader {
    pub(crate) fn to_bytes(self, tag: StoreTag) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        for field in [
            self.incarnation,
            self.previous_bytes,
            self.first_frame,
            self.first_position,
        ] {
            out.extend(field.to_le_bytes());
        }
        out.resize(SEGMENT_HEADER_BYTES - 4, 0);
        out.extend(checksum(tag, self.number, &out).to_le_bytes());
        out.try_into().expect("the fields have 64 bytes")
    }

    /// Reads the header of the segment that the file name says.
    pub(crate) fn from_bytes(tag: StoreTag, number: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
        let mut fields = Bytes(bytes);
        let known = fields.array()? == MAGIC && fields.u32()? == VERSION;
        let header = Self {
            number: fields.u32()?,
            incarnation: fields.u64()?,
            previous_bytes: fields.u64()?,
            first_frame: fields.u64()?,
            first_position: fields.u64()?,
        };
        let (body, stored) = bytes.split_at(SEGMENT_HEADER_BYTES - 4);
        let whole = checksum(tag, number, body).to_le_bytes() == stored;
        (known && whole && header.number == number).then_some(header)
    }
}

/// Set in the number by which a base is addressed, so that it and the segment it takes the place
/// of can be there at the same time.
pub(crate) const BASE: u32 = 1 << 31;
/// Says whether a segment, or a base, is among those up to a number.
pub(crate) const fn covers(number: u32, segment: u32) -> bool {
    segment & !BASE <= number
}

const BASE_MAGIC: [u8; 8] = *b"ARBaseLg";
const BASE_VERSION: u32 = 1;
const BASE_BUFFERED: u32 = 1;

/// The start of a base: what is kept of all segments up to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BaseHeader {
    /// The last segment that it takes the place of.
    pub(crate) number: u32,
    pub(crate) incarnation: u64,
    /// The length of what follows.
    pub(crate) bytes: u64,
    /// The number of the last frame of those segments.
    pub(crate) last_frame: u64,
    /// The position of their last event.
    pub(crate) last_position: u64,
    /// Up to here events are kept for rows and commits only.
    pub(crate) pruned: u64,
    /// The last incarnation acknowledged what only the page cache held.
    pub(crate) buffered: bool,
}

impl BaseHeader {
    pub(crate) fn to_bytes(self, tag: StoreTag) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend(BASE_MAGIC);
        out.extend(BASE_VERSION.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        for field in [
            self.incarnation,
            self.bytes,
            self.last_frame,
            self.last_position,
            self.pruned,
        ] {
            out.extend(field.to_le_bytes());
        }
        let flags = if self.buffered { BASE_BUFFERED } else { 0 };
        out.extend(flags.to_le_bytes());
        out.extend(checksum(tag, self.number | BASE, &out).to_le_bytes());
        out.try_into().expect("the fields have 64 bytes")
    }

    /// Reads the header of the base that the file name says.
    pub(crate) fn from_bytes(tag: StoreTag, number: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
        let mut fields = Bytes(bytes);
        let known = fields.array()? == BASE_MAGIC && fields.u32()? == BASE_VERSION;
        let header = Self {
            number: fields.u32()?,
            incarnation: fields.u64()?,
            bytes: fields.u64()?,
            last_frame: fields.u64()?,
            last_position: fields.u64()?,
            pruned: fields.u64()?,
            buffered: fields.u32()? & BASE_BUFFERED != 0,
        };
        let (body, stored) = bytes.split_at(SEGMENT_HEADER_BYTES - 4);
        let whole = checksum(tag, number | BASE, body).to_le_bytes() == stored;
        (known && whole && header.number == number).then_some(header)
    }
}

fn checksum(tag: StoreTag, segment: u32, bytes: &[u8]) -> u32 {
    let place = Place { segment, offset: 0 };
    crc32c::crc32c_append(tag.salt(place), bytes)
}

/// What was found at a place in a segment.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A whole frame.
    Frame {
        offset: u64,
        end: u64,
        header: Header,
        payload: &'a [u8],
        /// Where the payload starts.
        payload_at: u64,
    },
    /// A whole header whose payload is damaged or cut off.
    BadPayload {
        offset: u64,
        end: u64,
        header: Header,
    },
    /// No header here, up to the next one or the end.
    Hole { offset: u64, end: u64 },
}

impl Item<'_> {
    pub(crate) const fn offset(&self) -> u64 {
        match self {
            Self::Frame { offset, .. }
            | Self::BadPayload { offset, .. }
            | Self::Hole { offset, .. } => *offset,
        }
    }

    pub(crate) const fn end(&self) -> u64 {
        match self {
            Self::Frame { end, .. } | Self::BadPayload { end, .. } | Self::Hole { end, .. } => *end,
        }
    }
}

/// Finds the frames in `bytes`, which stand at `start` of a segment, up to where it is filled
/// ahead. It has no opinion on what may be torn; that is decided with the marks of all of them.
pub(crate) fn scan(tag: StoreTag, start: Place, bytes: &[u8]) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some(item) = item_at(tag, start, bytes, at) else {
            break;
        };
        at = usize::try_from(item.end() - start.offset).expect("it lies in the same bytes");
        items.push(item);
    }
    items
}

/// What is at a place; nothing if the rest is filled ahead.
fn item_at(tag: StoreTag, start: Place, bytes: &[u8], at: usize) -> Option<Item<'_>> {
    let place = at_offset(start, at);
    let Ok((header, header_bytes)) = Header::read(tag, place, &bytes[at..]) else {
        let offset = place.offset;
        let hole = || Item::Hole {
            offset,
            end: at_offset(start, next_header(tag, start, bytes, at)).offset,
        };
        return (!fill::is_all_of(tag, place, &bytes[at..])).then(hole);
    };
    let payload_start = at + header_bytes;
    let payload_end = payload_start + header.payload_bytes as usize;
    Some(match bytes.get(payload_start..payload_end) {
        Some(payload) if header.accepts(tag, place, payload) => Item::Frame {
            offset: place.offset,
            end: at_offset(start, payload_end).offset,
            header,
            payload,
            payload_at: at_offset(start, payload_start).offset,
        },
        _ => Item::BadPayload {
            offset: place.offset,
            end: at_offset(start, payload_end.min(bytes.len())).offset,
            header,
        },
    })
}

const fn at_offset(start: Place, at: usize) -> Place {
    Place {
        segment: start.segment,
        offset: start.offset + at as u64,
    }
}

/// Frames start at multiples of eight, so only those are tried.
fn next_header(tag: StoreTag, start: Place, bytes: &[u8], at: usize) -> usize {
    let first = (at + 1).next_multiple_of(8);
    (first..bytes.len())
        .step_by(8)
        .find(|&at| Header::read(tag, at_offset(start, at), &bytes[at..]).is_ok())
        .unwrap_or(bytes.len())
}

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_every_flipped_bit_of_a_segment_header_is_seen() {
        let tag = StoreTag(*b"store-01");
        let header = SegmentHeader {
            number: 2,
            incarnation: 5,
            previous_bytes: 4096,
            first_frame: 90,
            first_position: 1000,
        };
        let bytes = header.to_bytes(tag);
        assert_eq!(SegmentHeader::from_bytes(tag, 2, &bytes), Some(header));
        assert_eq!(SegmentHeader::from_bytes(tag, 3, &bytes), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                SegmentHeader::from_bytes(tag, 2, &flipped),
                None,
                "bit {bit} was not seen"
            );
        }
    }
}
