//! Reading the log: which bytes count, which are a torn tail, which are damage (S4).

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Remembered};
use crate::frame::{Header, Place, StoreTag, flag};
use crate::index::Index;
use crate::layout::{Layout, SEGMENTS};
use crate::record::{BadPayload, read_commit};
use crate::report::Damage;
use crate::segment::{BASE, BaseHeader, Item, SEGMENT_HEADER_BYTES, scan};

/// The state after the frames read so far.
#[derive(Debug)]
pub(crate) struct Fold {
    tag: StoreTag,
    remembered_max: usize,
    pub(crate) index: Index,
    /// The number of the last frame.
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) damage: Vec<Damage>,
    /// The last frame says that the instance ended in order.
    pub(crate) closed: bool,
    /// The last incarnation acknowledged what only the page cache held.
    pub(crate) buffered: bool,
    pub(crate) frames: u64,
    pub(crate) commits: u64,
    /// Frames are missing before the next one, so its number may be any later one.
    after_hole: bool,
}

/// What does not follow on: damage if it cannot be torn, else the torn tail.
struct Bad {
    damage: Damage,
    header: Option<Header>,
    /// Both checksums hold: it was written like this, perhaps by a later version, which may have
    /// acknowledged it.
    is_as_written: bool,
}

/// How far a segment can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trust {
    /// What is bad before this offset is damage; a bad frame after it begins the torn tail.
    pub(crate) synced: u64,
    /// Nothing is read beyond this offset.
    pub(crate) readable: u64,
}

impl Trust {
    /// All of it was synced before the next segment was begun.
    pub(crate) const SEALED: Self = Self {
        synced: u64::MAX,
        readable: u64::MAX,
    };
}

impl Fold {
    pub(crate) fn new(tag: StoreTag, remembered_max: usize) -> Self {
        Self {
            tag,
            remembered_max,
            index: Index::default(),
            number: 0,
            incarnation: 0,
            damage: Vec::new(),
            closed: true,
            buffered: false,
            frames: 0,
            commits: 0,
            after_hole: false,
        }
    }

    /// Goes on after a checkpoint.
    pub(crate) fn after(
        tag: StoreTag,
        remembered_max: usize,
        checkpoint: Arc<Checkpoint>,
        remembered: Remembered,
    ) -> Self {
        let sealed = checkpoint.sealed;
        Self {
            number: sealed.last_frame,
            incarnation: sealed.incarnation,
            buffered: sealed.buffered,
            closed: false,
            index: Index::after(checkpoint, remembered),
            ..Self::new(tag, remembered_max)
        }
    }

    /// Begins at a frame, as if nothing were before it.
    pub(crate) fn begin_at(&mut self, first_frame: u64, first_position: u64) {
        self.number = first_frame.saturating_sub(1);
        self.index.begin_at(first_position);
    }

    /// Says why nothing may be written, if so: something is lost of which nothing is known.
    pub(crate) fn read_only(&self) -> Option<String> {
        self.damage.iter().find_map(|damage| match damage {
            Damage::SegmentHeader { segment } => Some(format!(
                "the header of {} is damaged; reading still works, put the file back from a copy",
                segment_file(*segment)
            )),
            Damage::Header { segment, bytes } => Some(format!(
                "{} is damaged at bytes {} to {}; reading still works, put the file back from a copy",
                segment_file(*segment),
                bytes.start,
                bytes.end
            )),
            Damage::UnknownRecord { record, schema, .. } => Some(format!(
                "it holds records of kind {record} schema {schema}; open it with a later version"
            )),
            Damage::Payload { .. }
            | Damage::LostTail { .. }
            | Damage::Attachment { .. }
            | Damage::MissingAttachment { .. }
            | Damage::Command { .. }
            | Damage::Cache { .. } => None,
        })
    }

    /// A segment whose header cannot be read: what its frames follow on is not known.
    pub(crate) fn take_bad_segment_header(&mut self, segment: u32) {
        self.damage.push(Damage::SegmentHeader { segment });
        self.after_hole = true;
    }

    /// Bytes that should be there and are not.
    pub(crate) fn take_missing(&mut self, segment: u32, bytes: std::ops::Range<u64>) {
        self.damage.push(Damage::Header { segment, bytes });
        self.after_hole = true;
    }

    /// Begins with what is kept of the segments before.
    pub(crate) fn take_base(&mut self, header: &BaseHeader, frames: &[u8]) {
        self.index.begin_after(header.pruned, header.forgotten);
        let start = Place {
            segment: header.number | BASE,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        self.take(start, scan(self.tag, start, frames), Trust::SEALED);
        self.index.skip_to(header.last_position.saturating_add(1));
        self.number = header.last_frame;
        self.incarnation = header.incarnation;
        self.buffered = header.buffered;
        self.closed = false;
    }

    /// Takes what was found at `start`. Returns where it stopped: at the end, at the torn tail, or
    /// where nothing more is readable.
    pub(crate) fn take(&mut self, start: Place, items: Vec<Item<'_>>, trust: Trust) -> u64 {
        let mut end = start.offset;
        for item in items {
            if item.end() > trust.readable {
                return end;
            }
            end = item.end();
            let offset = item.offset();
            match self.take_item(start.segment, item) {
                Ok(()) => {}
                Err(bad) if bad.is_as_written || offset < trust.synced => self.take_damage(*bad),
                Err(_) => return offset,
            }
        }
        end
    }

    /// Takes a whole frame that follows on; anything else is returned as what it would be if its
    /// bytes had been synced.
    fn take_item(&mut self, segment: u32, item: Item<'_>) -> Result<(), Box<Bad>> {
        let bytes = item.offset()..item.end();
        match item {
            Item::Frame {
                header,
                payload,
                payload_at,
                ..
            } if self.follows(&header) => {
                let at = Place {
                    segment,
                    offset: payload_at,
                };
                self.take_frame(&header, at, payload).map_err(|bad| {
                    Box::new(Bad {
                        damage: bad_payload(segment, bytes, bad, &header),
                        header: Some(header),
                        is_as_written: true,
                    })
                })
            }
            Item::BadPayload { header, .. } if self.follows(&header) => Err(Box::new(Bad {
                damage: bad_payload(segment, bytes, BadPayload::Malformed, &header),
                header: Some(header),
                is_as_written: false,
            })),
            Item::Frame { .. } | Item::BadPayload { .. } | Item::Hole { .. } => {
                Err(Box::new(Bad {
                    damage: Damage::Header { segment, bytes },
                    header: None,
                    is_as_written: false,
                }))
            }
        }
    }

    fn follows(&self, header: &Header) -> bool {
        let next_position = self.index.head() + 1;
        if header.has(flag::KEPT) {
            return header.number >= self.number
                && header.end_position() >= header.first_position
                && header.incarnation >= self.incarnation;
        }
        let in_order = if self.after_hole || header.has(flag::LOST) {
            header.number > self.number && header.first_position >= next_position
        } else {
            header.number == self.number + 1 && header.first_position == next_position
        };
        in_order && header.incarnation >= self.incarnation
    }

    fn take_frame(
        &mut self,
        header: &Header,
        payload_at: Place,
        payload: &[u8],
    ) -> Result<(), BadPayload> {
        if header.has(flag::LOST) {
            self.index.skip_to(header.end_position());
        } else if header.has(flag::MARK) {
            self.index.skip_to(header.first_position);
        } else {
            let first = header.first_position;
            let applied = read_commit(self.tag, payload_at, payload, first)?;
            let is_kept = header.has(flag::KEPT);
            if !is_kept && applied.events.len() != header.events as usize {
                return Err(BadPayload::Malformed);
            }
            let end = header.end_position();
            self.index.apply(applied, end, self.remembered_max);
            self.commits += 1;
        }
        self.step(header);
        Ok(())
    }

    fn step(&mut self, header: &Header) {
        self.number = header.number;
        self.incarnation = header.incarnation;
        self.closed = header.has(flag::CLOSED);
        if header.has(flag::OPENED) {
            self.buffered = header.has(flag::BUFFERED);
        }
        self.frames += 1;
        self.after_hole = false;
    }

    fn take_damage(&mut self, Bad { damage, header, .. }: Bad) {
        match header {
            Some(header) => {
                self.index.take_damaged(&header, &place_of(&damage));
                self.step(&header);
            }
            None => self.after_hole = true,
        }
        self.damage.push(damage);
    }
}

fn segment_file(number: u32) -> String {
    format!("{SEGMENTS}/{}", Layout::segment_name(number))
}

fn place_of(damage: &Damage) -> String {
    match damage {
        Damage::SegmentHeader { segment } => segment_file(*segment),
        Damage::Header { segment, bytes }
        | Damage::Payload { segment, bytes, .. }
        | Damage::UnknownRecord { segment, bytes, .. } => {
            format!("{} byte {}", segment_file(*segment), bytes.start)
        }
        Damage::LostTail {
            segment, offset, ..
        } => format!("{} after byte {offset}", segment_file(*segment)),
        Damage::Attachment { file }
        | Damage::MissingAttachment { file }
        | Damage::Command { file }
        | Damage::Cache { file } => file.clone(),
    }
}

fn bad_payload(
    segment: u32,
    bytes: std::ops::Range<u64>,
    bad: BadPayload,
    header: &Header,
) -> Damage {
    match bad {
        BadPayload::Unknown { kind, schema } => Damage::UnknownRecord {
            segment,
            bytes,
            record: kind,
            schema,
        },
        // Without names it may have touched anything, as if the header were lost.
        BadPayload::Malformed if header.has(flag::ALL_NAMES) => Damage::Header { segment, bytes },
        BadPayload::Malformed => Damage::Payload {
            segment,
            bytes,
            positions: header.first_position..header.end_position(),
            names: header.names.iter().map(str::to_owned).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sealed_record;

    const TAG: StoreTag = StoreTag(*b"store-01");

    /// Takes a whole frame with one record of a kind, which no mark covers.
    fn take_unmarked(kind: u8) -> (Fold, bool) {
        let start = Place {
            segment: 1,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        let header = Header::new(0, 1, 1, 1);
        let at = Place {
            offset: start.offset + header.encoded_bytes() as u64,
            ..start
        };
        let mut payload = sealed_record(TAG, at, kind, &[7; 4]);
        payload.resize(payload.len().next_multiple_of(8), 0);
        let mut bytes = Vec::new();
        header.write(TAG, start, &payload, &mut bytes);
        let mut fold = Fold::new(TAG, 0);
        let nothing_marked = Trust {
            synced: 0,
            readable: u64::MAX,
        };
        let end = fold.take(start, scan(TAG, start, &bytes), nothing_marked);
        (fold, end == start.offset + bytes.len() as u64)
    }

    /// S4: a later version has written and acknowledged it, and was killed before a mark.
    #[test]
    fn s4_an_unknown_record_after_the_last_mark_is_no_torn_tail() {
        let (fold, counts) = take_unmarked(200);
        assert!(counts, "it is not cut");
        assert!(
            matches!(fold.damage[..], [Damage::UnknownRecord { record: 200, .. }]),
            "{:?}",
            fold.damage
        );
        assert!(fold.read_only().is_some());
    }

    #[test]
    fn s4_malformed_content_that_was_written_so_is_no_torn_tail() {
        let (fold, counts) = take_unmarked(1);
        assert!(counts, "it is not cut");
        assert!(
            matches!(fold.damage[..], [Damage::Payload { .. }]),
            "{:?}",
            fold.damage
        );
    }

    /// Frames without content, one behind the other; a payload that is damaged behind some.
    fn frames(headers: &[(Header, bool)]) -> (Place, Vec<u8>) {
        let start = Place {
            segment: 1,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        let mut bytes = Vec::new();
        for (header, is_whole) in headers {
            let at = Place {
                offset: start.offset + bytes.len() as u64,
                ..start
            };
            header.clone().write(TAG, at, &[0; 8], &mut bytes);
            if !is_whole {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
        }
        (start, bytes)
    }

    fn take(fold: &mut Fold, headers: &[(Header, bool)], synced: u64) {
        let (start, bytes) = frames(headers);
        let trust = Trust {
            synced,
            readable: u64::MAX,
        };
        fold.take(start, scan(TAG, start, &bytes), trust);
    }

    /// S4: bytes that were once discarded, or stand where others were lost, are whole frames too.
    /// Only what goes on where the log ends is a part of it.
    #[test]
    fn s4_only_a_frame_that_goes_on_is_taken() {
        const LAST: u64 = 5;
        const NEXT_POSITION: u64 = 11;
        // Flags, incarnation, number, first position; whether frames are missing before it.
        let cases = [
            ("the next", 0, (3, 6, 11), false, true),
            ("the first of an opening", 0, (4, 6, 11), false, true),
            ("of an opening before", 0, (2, 6, 11), false, false),
            ("the same number again", 0, (3, 5, 11), false, false),
            ("a frame is missing", 0, (3, 7, 11), false, false),
            ("an event is missing", 0, (3, 6, 12), false, false),
            ("an event again", 0, (3, 6, 10), false, false),
            ("any after a hole", 0, (3, 9, 15), true, true),
            ("again after a hole", 0, (3, 5, 15), true, false),
            ("one before after a hole", 0, (3, 4, 15), true, false),
            ("an event again after a hole", 0, (3, 9, 10), true, false),
            ("an opening before after a hole", 0, (2, 9, 15), true, false),
            ("given up", flag::LOST, (3, 9, 15), false, true),
            ("given up before", flag::LOST, (3, 5, 15), false, false),
            ("kept", flag::KEPT, (3, 9, 2), false, true),
            ("kept of the same frame", flag::KEPT, (3, 5, 2), false, true),
            (
                "kept of a frame before",
                flag::KEPT,
                (3, 4, 2),
                false,
                false,
            ),
            (
                "kept of an opening before",
                flag::KEPT,
                (2, 9, 2),
                false,
                false,
            ),
        ];
        for (what, flags, (incarnation, number, position), after_hole, is_taken) in cases {
            let known = || {
                let mut fold = Fold::new(TAG, 0);
                fold.begin_at(LAST + 1, NEXT_POSITION);
                fold.incarnation = 3;
                if after_hole {
                    fold.take_missing(1, 0..8);
                    fold.damage.clear();
                }
                fold
            };
            let header = Header::new(flag::MARK | flags, incarnation, number, position);
            let mut fold = known();
            take(&mut fold, &[(header.clone(), true)], 0);
            assert_eq!(fold.frames, u64::from(is_taken), "{what}");
            assert_eq!(fold.number, if is_taken { number } else { LAST }, "{what}");
            assert!(fold.damage.is_empty(), "{what}: it is a torn tail at most");

            // A damaged payload tells what it touched only if its header is a part of the log.
            let mut fold = known();
            take(&mut fold, &[(header, false)], u64::MAX);
            let says = matches!(fold.damage[..], [Damage::Payload { .. }]);
            assert_eq!(says, is_taken, "{what}: {:?}", fold.damage);
        }
    }

    /// S4: whoever may not write is told which file to put back, and where it is damaged.
    #[test]
    fn s4_damage_is_told_with_its_file_and_place() {
        let mut fold = Fold::new(TAG, 0);
        let mut header = Header::new(0, 1, 1, 1);
        header.names = ["worker/1"].into_iter().collect();
        let next = Header::new(flag::MARK, 1, 2, 1);
        take(&mut fold, &[(header, false), (next, true)], u64::MAX);
        assert_eq!(fold.frames, 2, "reading goes on behind it");
        let place = fold.index.damage_of("worker/1");
        assert_eq!(place, Some("segments/0000000001.log byte 64"));
        assert_eq!(fold.read_only(), None, "the rest can be written to");

        let mut fold = Fold::new(TAG, 0);
        fold.take_missing(2, 64..96);
        let why = fold.read_only().expect("something is lost");
        let expected = "segments/0000000002.log is damaged at bytes 64 to 96;";
        assert!(why.starts_with(expected), "{why}");
        let mut fold = Fold::new(TAG, 0);
        fold.take_bad_segment_header(3 | BASE);
        let why = fold.read_only().expect("something is lost");
        let expected = "the header of segments/0000000003.base is damaged;";
        assert!(why.starts_with(expected), "{why}");
        let file = "attachments/0a/0a".to_owned();
        assert_eq!(place_of(&Damage::Attachment { file: file.clone() }), file);
    }
}
