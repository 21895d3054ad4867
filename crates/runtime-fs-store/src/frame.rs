//! Frames: one commit, or one mark, each behind a header with a checksum of its own (S4).
//!
//! The layout is drawn in `docs/adr/0002-frame-format.md`.

use crate::bytes::{Bytes, length_u32, pad, put_text};

pub(crate) const MAGIC: [u8; 4] = *b"ARFr";
pub(crate) const VERSION: u8 = 1;
/// Header and payload together (S4).
pub(crate) const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The header without the names.
pub(crate) const HEADER_BYTES: usize = 64;
/// Header with the names; more names than fit are replaced by [`flag::ALL_NAMES`].
const HEADER_BYTES_MAX: usize = 2048;
const CHECKSUM_AT: usize = 60;

/// Bits of [`Header::flags`].
pub(crate) mod flag {
    /// No commit: only says that what is before it is synced.
    pub(crate) const MARK: u8 = 1;
    /// The first frame of an incarnation.
    pub(crate) const OPENED: u8 = 2;
    /// The last frame of an incarnation that ended in order.
    pub(crate) const CLOSED: u8 = 4;
    /// The names did not fit: any scope may be touched.
    pub(crate) const ALL_NAMES: u8 = 8;
    /// With [`OPENED`]: this incarnation acknowledges what only the page cache holds.
    pub(crate) const BUFFERED: u8 = 16;
    /// What a base keeps of a commit: frames, and events in it, may be missing before the next.
    pub(crate) const KEPT: u8 = 32;
    /// With [`KEPT`]: stands where damaged frames were given up.
    pub(crate) const LOST: u8 = 64;
}

/// Where bytes are; part of each checksum, so that a block in the wrong place is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

/// What makes the checksums of one store differ from those of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreTag(pub(crate) [u8; 8]);

impl StoreTag {
    /// Starts a checksum of something at a place.
    pub(crate) fn salt(self, place: Place) -> u32 {
        let mut salt = [0; 20];
        salt[..8].copy_from_slice(&self.0);
        salt[8..12].copy_from_slice(&place.segment.to_le_bytes());
        salt[12..].copy_from_slice(&place.offset.to_le_bytes());
        crc32c::crc32c(&salt)
    }
}

/// What stands before a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u8,
    /// +1 per opening for writing; in both checksums.
    pub(crate) incarnation: u64,
    /// +1 per frame, marks included.
    pub(crate) number: u64,
    /// The position of its first event, or of the next one if it has none.
    pub(crate) first_position: u64,
    pub(crate) events: u32,
    /// The end of what was known to be synced in this segment when this was written.
    pub(crate) durable_mark: u64,
    /// The scopes and streams that its commit touches.
    pub(crate) names: Names,
    pub(crate) payload_bytes: u32,
    payload_checksum: u32,
}

/// The scopes and streams that a commit touches, each once and in order, as they stand behind a
/// header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    count: u32,
    texts: Vec<u8>,
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut texts = Vec::with_capacity(names.iter().map(|name| 2 + name.len()).sum());
        for name in &names {
            put_text(&mut texts, name);
        }
        Self {
            count: length_u32(names.len()),
            texts,
        }
    }
}

impl Names {
    fn read(count: u32, bytes: &[u8]) -> Option<Self> {
        let mut rest = Bytes(bytes);
        for _ in 0..count {
            rest.text()?;
        }
        let texts = bytes[..bytes.len() - rest.0.len()].to_vec();
        Some(Self { count, texts })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = Bytes(&self.texts);
        // They were checked when they were read, or written from texts.
        (0..self.count).map_while(move |_| rest.text())
    }
}

/// Why there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoHeader;

impl Header {
    pub(crate) fn new(flags: u8, incarnation: u64, number: u64, first_position: u64) -> Self {
        Self {
            flags,
            incarnation,
            number,
            first_position,
            events: 0,
            durable_mark: 0,
            names: Names::default(),
            payload_bytes: 0,
            payload_checksum: 0,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The position after its last event.
    pub(crate) fn end_position(&self) -> u64 {
        self.first_position.saturating_add(u64::from(self.events))
    }

    /// Leaves the names out if they would make the header too long.
    pub(crate) fn fit_names(&mut self) {
        if self.encoded_bytes() > HEADER_BYTES_MAX {
            self.leave_out_names();
        }
    }

    /// Says that anything may be touched.
    pub(crate) fn leave_out_names(&mut self) {
        self.names = Names::default();
        self.flags |= flag::ALL_NAMES;
    }

    /// The bytes of the header with its names.
    pub(crate) fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.names.texts.len().next_multiple_of(8)
    }

    /// Writes the header and the payload, which must be padded to eight bytes.
    pub(crate) fn write(mut self, tag: StoreTag, place: Place, payload: &[u8], out: &mut Vec<u8>) {
        debug_assert_eq!(payload.len() % 8, 0, "payloads are padded");
        self.payload_bytes = length_u32(payload.len());
        self.payload_checksum = self.checksum_payload(tag, place, payload);
        let start = out.len();
        self.write_fields(out);
        let checksum = header_checksum(tag, place, &out[start..]);
        out[start + CHECKSUM_AT..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        out.extend(payload);
    }

    fn write_fields(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(MAGIC);
        out.extend([VERSION, self.flags]);
        let bytes = u16::try_from(self.encoded_bytes()).expect("names are cut to fit");
        out.extend(bytes.to_le_bytes());
        for field in [self.incarnation, self.number, self.first_position] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.durable_mark.to_le_bytes());
        for field in [
            self.payload_bytes,
            self.payload_checksum,
            self.events,
            self.names.count,
        ] {
            out.extend(field.to_le_bytes());
        }
        // Reserved, and the checksum that is filled in last.
        out.extend([0; 8 - 4]);
        out.resize(start + HEADER_BYTES, 0);
        out.extend(&self.names.texts);
        pad(out, start);
    }

    /// Reads the header at the start of `bytes`; returns it with its length.
    pub(crate) fn read(
        tag: StoreTag,
        place: Place,
        bytes: &[u8],
    ) -> Result<(Self, usize), NoHeader> {
        Self::read_fields(bytes)
            .filter(|(_, length, checksum)| {
                header_checksum(tag, place, &bytes[..*length]) == *checksum
            })
            .map(|(header, length, _)| (header, length))
            .ok_or(NoHeader)
    }

    fn read_fields(bytes: &[u8]) -> Option<(Self, usize, u32)> {
        let mut fields = Bytes(bytes);
        let known = fields.array()? == MAGIC && fields.byte()? == VERSION;
        let flags = fields.byte()?;
        let length = usize::from(fields.u16()?);
        let sane = (HEADER_BYTES..=HEADER_BYTES_MAX).contains(&length) && length <= bytes.len();
        if !known || !sane {
            return None;
        }
        let [incarnation, number, first_position, durable_mark] =
            [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let [payload_bytes, payload_checksum, events, count] =
            [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
        fields.take(4)?;
        let checksum = fields.u32()?;
        let names = Names::read(count, &bytes[HEADER_BYTES..length])?;
        let header = Self {
            flags,
            incarnation,
            number,
            first_position,
            events,
            durable_mark,
            names,
            payload_bytes,
            payload_checksum,
        };
        Some((header, length, checksum))
    }

    /// Says whether the payload is what was written with this header.
    pub(crate) fn accepts(&self, tag: StoreTag, place: Place, payload: &[u8]) -> bool {
        self.checksum_payload(tag, place, payload) == self.payload_checksum
    }

    fn checksum_payload(&self, tag: StoreTag, place: Place, payload: &[u8]) -> u32 {
        let salt = crc32c::crc32c_append(tag.salt(place), &self.incarnation.to_le_bytes());
        let salt = crc32c::crc32c_append(salt, &self.number.to_le_bytes());
        crc32c::crc32c_append(salt, payload)
    }
}

/// The checksum of a header with its names; its own field is left out.
fn header_checksum(tag: StoreTag, place: Place, header: &[u8]) -> u32 {
    let fixed = crc32c::crc32c_append(tag.salt(place), &header[..CHECKSUM_AT]);
    crc32c::crc32c_append(fixed, &header[HEADER_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: StoreTag = StoreTag(*b"store-01");
    const PLACE: Place = Place {
        segment: 3,
        offset: 640,
    };

    fn frame() -> (Header, Vec<u8>) {
        let mut header = Header::new(0, 7, 42, 100);
        header.events = 2;
        header.durable_mark = 64;
        header.names = ["worker/a", "turn/a/1", "worker/a"].into_iter().collect();
        let mut bytes = Vec::new();
        header.clone().write(TAG, PLACE, &[5; 24], &mut bytes);
        (header, bytes)
    }

    #[test]
    fn s4_a_header_round_trips_with_its_names() {
        let (written, bytes) = frame();
        let (read, length) = Header::read(TAG, PLACE, &bytes).expect("it was just written");
        assert_eq!(read.names, written.names);
        assert!(read.names.iter().eq(["turn/a/1", "worker/a"]));
        assert_eq!(
            (
                read.incarnation,
                read.number,
                read.first_position,
                read.events
            ),
            (7, 42, 100, 2)
        );
        assert!(read.accepts(TAG, PLACE, &bytes[length..]));
    }

    #[test]
    fn s4_every_flipped_bit_of_a_frame_is_seen() {
        let (_, bytes) = frame();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let whole = Header::read(TAG, PLACE, &flipped)
                .is_ok_and(|(header, length)| header.accepts(TAG, PLACE, &flipped[length..]));
            assert!(!whole, "bit {bit} was not seen");
        }
    }

    #[test]
    fn s4_a_frame_in_another_place_or_store_is_no_frame() {
        let (_, bytes) = frame();
        let moved = Place {
            offset: 648,
            ..PLACE
        };
        assert_eq!(Header::read(TAG, moved, &bytes), Err(NoHeader));
        assert_eq!(
            Header::read(StoreTag(*b"store-02"), PLACE, &bytes),
            Err(NoHeader)
        );
    }

    #[test]
    fn s4_another_incarnation_does_not_accept_the_payload() {
        let (_, bytes) = frame();
        let (mut header, length) = Header::read(TAG, PLACE, &bytes).expect("it was just written");
        header.incarnation += 1;
        assert!(!header.accepts(TAG, PLACE, &bytes[length..]));
    }
}
