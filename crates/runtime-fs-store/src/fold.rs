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
        self.index.begin_after(header.pruned);
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
                self.index.skip_to(header.end_position());
                let place = place_of(&damage);
                self.index.mark_damaged(header.names.iter(), &place);
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
        Damage::Attachment { file } | Damage::Command { file } | Damage::Cache { file } => {
            file.clone()
        }
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
}
