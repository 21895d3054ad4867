//! Segment files: a header, then frames.

use crate::bytes::Bytes;
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
const BASE_FORGOTTEN: u32 = 2;

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
    /// There were commits of which nothing may be left, not even that they were made.
    pub(crate) forgotten: bool,
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
        let buffered = if self.buffered { BASE_BUFFERED } else { 0 };
        let forgotten = if self.forgotten { BASE_FORGOTTEN } else { 0 };
        let flags = buffered | forgotten;
        out.extend(flags.to_le_bytes());
        out.extend(checksum(tag, self.number | BASE, &out).to_le_bytes());
        out.try_into().expect("the fields have 64 bytes")
    }

    /// Reads the header of the base that the file name says.
    pub(crate) fn from_bytes(tag: StoreTag, number: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
        let mut fields = Bytes(bytes);
        let known = fields.array()? == BASE_MAGIC && fields.u32()? == BASE_VERSION;
        let mut header = Self {
            number: fields.u32()?,
            incarnation: fields.u64()?,
            bytes: fields.u64()?,
            last_frame: fields.u64()?,
            last_position: fields.u64()?,
            pruned: fields.u64()?,
            buffered: false,
            forgotten: false,
        };
        let flags = fields.u32()?;
        header.buffered = flags & BASE_BUFFERED != 0;
        header.forgotten = flags & BASE_FORGOTTEN != 0;
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

    /// A header that is whole, which is believed even if its payload is not.
    pub(crate) const fn header(&self) -> Option<&Header> {
        match self {
            Self::Frame { header, .. } | Self::BadPayload { header, .. } => Some(header),
            Self::Hole { .. } => None,
        }
    }
}

/// Finds the frames in `bytes`, which stand at `start` of a segment. It has no opinion on what may
/// be torn, or filled ahead; that is decided with the marks of all of them.
pub(crate) fn scan(tag: StoreTag, start: Place, bytes: &[u8]) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let item = item_at(tag, start, bytes, at);
        at = usize::try_from(item.end() - start.offset).expect("it lies in the same bytes");
        items.push(item);
    }
    items
}

fn item_at(tag: StoreTag, start: Place, bytes: &[u8], at: usize) -> Item<'_> {
    let place = at_offset(start, at);
    let Ok((header, header_bytes)) = Header::read(tag, place, &bytes[at..]) else {
        return Item::Hole {
            offset: place.offset,
            end: at_offset(start, next_header(tag, start, bytes, at)).offset,
        };
    };
    let payload_start = at + header_bytes;
    let payload_end = payload_start + header.payload_bytes as usize;
    match bytes.get(payload_start..payload_end) {
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
    }
}

const fn at_offset(start: Place, at: usize) -> Place {
    Place {
        segment: start.segment,
        offset: start.offset + at as u64,
    }
}

/// Where a segment ends if the header of the next one, which says so, is lost: with the last frame
/// before those of the next one. What follows there was cut, and may be whole frames.
pub(crate) fn end_by_frames(
    header: Option<SegmentHeader>,
    items: &[Item<'_>],
    next: &[Item<'_>],
) -> u64 {
    let start = SEGMENT_HEADER_BYTES as u64;
    let end = items.last().map_or(start, Item::end);
    let Some(first) = next.iter().find_map(Item::header) else {
        return end;
    };
    let before = header.map(|header| (header.first_frame.saturating_sub(1), start));
    let frames = items
        .iter()
        .filter_map(|item| Some((item.header()?.number, item.end())));
    let mut known = before.into_iter().chain(frames);
    let last = known.rfind(|(number, _)| *number < first.number);
    let Some((number, last_end)) = last else {
        return start;
    };
    let begins_whole = next.first().is_some_and(|item| item.header().is_some());
    if !begins_whole || number + 1 == first.number {
        return last_end;
    }
    // Frames are missing between the two, so what is no frame here was some.
    let mut after = items.iter().filter(|item| item.offset() >= last_end);
    let cut = after.find(|item| item.header().is_some());
    cut.map_or(end, Item::offset)
}

/// The last offset that any header says was synced.
pub(crate) fn last_mark(items: &[Item<'_>]) -> u64 {
    let headers = items.iter().filter_map(Item::header);
    let marks = headers.map(|header| header.durable_mark);
    marks.max().unwrap_or_default()
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

    const TAG: StoreTag = StoreTag(*b"store-01");
    const NONE: u64 = 0;

    /// The frames of these numbers, each of 64 bytes; no frame stands where there is none.
    fn frames(segment: u32, numbers: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in numbers {
            let at = Place {
                segment,
                offset: 64 + bytes.len() as u64,
            };
            match number {
                &NONE => bytes.resize(bytes.len() + 64, 7),
                number => Header::new(1, 1, *number, 1).write(TAG, at, &[], &mut bytes),
            }
        }
        bytes
    }

    /// S4: what was cut stays cut without the header that says so, and what is missing before the
    /// next segment is not taken for something that was cut.
    #[test]
    fn s4_a_segment_ends_before_the_frames_of_the_next() {
        let cases: [(&[u64], &[u64], u64); 8] = [
            (&[9, 10], &[11], 2),
            (&[9, 10, NONE, 12], &[11, 12], 2),
            (&[9, 10, NONE, 12], &[NONE, 12], 2),
            (&[9, NONE], &[11], 2),
            (&[9, NONE, 11], &[11], 2),
            (&[NONE, 10], &[9], 0),
            (&[NONE], &[10], 1),
            (&[9, NONE], &[NONE], 2),
        ];
        for (numbers, next, counted) in cases {
            let header = SegmentHeader {
                number: 2,
                incarnation: 1,
                previous_bytes: 64,
                first_frame: 9,
                first_position: 1,
            };
            let [bytes, after] = [frames(2, numbers), frames(3, next)];
            let place = |segment| Place {
                segment,
                offset: 64,
            };
            let items = scan(TAG, place(2), &bytes);
            let next_items = scan(TAG, place(3), &after);
            let end = end_by_frames(Some(header), &items, &next_items);
            assert_eq!(end, 64 + 64 * counted, "{numbers:?} before {next:?}");
        }
    }

    /// S4, V6: a base says whether what it stands for may only have been in the page cache, and
    /// every flipped bit of its header is seen.
    #[test]
    fn s4_every_flipped_bit_of_a_base_header_is_seen() {
        for (buffered, forgotten) in [(false, false), (true, false), (false, true), (true, true)] {
            let header = BaseHeader {
                number: 2,
                incarnation: 5,
                bytes: 4096,
                last_frame: 90,
                last_position: 1000,
                pruned: 900,
                buffered,
                forgotten,
            };
            let bytes = header.to_bytes(TAG);
            assert_eq!(BaseHeader::from_bytes(TAG, 2, &bytes), Some(header));
            assert_eq!(BaseHeader::from_bytes(TAG, 3, &bytes), None);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                let read = BaseHeader::from_bytes(TAG, 2, &flipped);
                assert_eq!(read, None, "bit {bit} was not seen");
            }
        }
    }
}
