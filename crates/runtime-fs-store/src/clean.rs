//! Freeing what was removed: segments that are pruned whole become a base, in the others dead
//! bytes are written over in place (S6).

use runtime_store::Progress;
use std::io;

use serde::Serialize;

use crate::base::{BaseWriter, FramePlace, Origins};
use crate::checkpoints::Checkpoints;
use crate::frame::{Header, Place, StoreTag, flag};
use crate::fs;
use crate::layout::{ASIDE, Layout, SEGMENTS};
use crate::log::Sealed;
use crate::record::{Extent, Kept, Seen, read_commit, walk, write_over};
use crate::segment::{BASE, BaseHeader, Item, SEGMENT_HEADER_BYTES, SegmentHeader, scan};
use crate::shared::Shared;
use crate::snapshot::Survey;

/// A base grows no further than this; what comes after waits for a later one.
const BASE_BYTES_MAX: u64 = 1 << 31;
/// Streams in one frame.
const STREAMS_PER_FRAME: usize = 4_096;

/// What a cleaning may do beyond freeing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanOptions {
    /// Removes the tails and damaged files that were kept aside, whose bytes nobody can tell.
    pub drop_aside: bool,
}

/// What a cleaning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CleanReport {
    /// Segment files that were removed.
    pub segments_removed: u64,
    /// Segment files in which dead bytes were written over.
    pub segments_rewritten: u64,
    /// Bytes of the segment files before.
    pub bytes_before: u64,
    /// Bytes of the segment files afterwards.
    pub bytes_after: u64,
    /// Files that had been kept aside and were removed.
    pub aside_removed: u64,
}

/// One file of the log as it was sealed.
struct Source {
    segment: u32,
    bytes: Vec<u8>,
    /// How much of it counts.
    end: usize,
}

struct Cleaning<'a, P> {
    layout: &'a Layout,
    shared: &'a Shared,
    checkpoints: &'a Checkpoints,
    tag: StoreTag,
    survey: Survey,
    /// Some commits are not remembered any more (V1).
    has_forgotten: bool,
    sealed: Sealed,
    progress: P,
    done: Progress,
    report: CleanReport,
}

/// Cleans everything before the segment that is written to.
pub(crate) fn clean<P: FnMut(Progress)>(
    layout: &Layout,
    shared: &Shared,
    checkpoints: &Checkpoints,
    sealed: Sealed,
    options: CleanOptions,
    progress: P,
) -> io::Result<CleanReport> {
    let (snapshot, remembered, has_forgotten) = {
        let index = shared.read_index();
        let memory = index.memory();
        let remembered = memory.ids().collect();
        (index.snapshot(), remembered, memory.has_forgotten)
    };
    let survey = snapshot.survey(remembered)?;
    drop(snapshot);
    if sealed.buffered {
        // What the survey calls dead may be so because of commits that only the page cache holds.
        sync_from(layout, sealed.current, shared)?;
    }
    let mut cleaning = Cleaning {
        layout,
        shared,
        checkpoints,
        tag: shared.segments.tag,
        survey,
        has_forgotten,
        sealed,
        progress,
        done: Progress { done: 0, total: 0 },
        report: CleanReport::default(),
    };
    cleaning.run()?;
    if options.drop_aside {
        cleaning.drop_aside()?;
    }
    Ok(cleaning.report)
}

/// Syncs the segments from that one on.
fn sync_from(layout: &Layout, first: u32, shared: &Shared) -> io::Result<()> {
    let numbers = layout.segments().map_err(io::Error::other)?;
    for number in numbers.into_iter().filter(|number| *number >= first) {
        shared.written.add_sync();
        fs::sync_data(&fs::open_write(&layout.segment_path(number))?)?;
    }
    Ok(())
}

impl<P: FnMut(Progress)> Cleaning<'_, P> {
    fn run(&mut self) -> io::Result<()> {
        let mut numbers = self.layout.segments().map_err(io::Error::other)?;
        let base = self.layout.base().map_err(io::Error::other)?;
        numbers.retain(|number| *number < self.sealed.current && base.is_none_or(|b| *number > b));
        let files = numbers.iter().copied();
        for number in files.chain(base.map(|base| base | BASE)) {
            let file = fs::open_read(&self.layout.segment_path(number))?;
            self.done.total += fs::length(&file)?;
        }
        self.report.bytes_before = self.done.total;
        self.report.bytes_after = self.done.total;
        let mut pruned = Vec::new();
        for &number in &numbers {
            if self.header(number + 1)?.is_none_or(|next| {
                next.first_position == 0 || next.first_position - 1 > self.survey.pruned
            }) {
                break;
            }
            pruned.push(number);
        }
        let condensed = self.condense(base, &pruned)?;
        if let Some(base) = base.filter(|base| *base == condensed) {
            self.write_over(base | BASE)?;
        }
        for number in numbers.into_iter().filter(|number| *number > condensed) {
            self.write_over(number)?;
        }
        Ok(())
    }

    /// Tells of a file that is done with; an error if no other may be touched.
    fn step(&mut self, bytes: usize) -> io::Result<()> {
        self.done.done += bytes as u64;
        (self.progress)(self.done);
        self.checkpoints.go_on()
    }

    fn header(&self, number: u32) -> io::Result<Option<SegmentHeader>> {
        let file = fs::open_read(&self.layout.segment_path(number))?;
        let length = fs::length(&file)?.min(SEGMENT_HEADER_BYTES as u64);
        let bytes = fs::read_range(&file, 0, length)?;
        Ok(SegmentHeader::from_bytes(self.tag, number, &bytes))
    }

    /// Reads a segment up to where the next one says that it ends; none if that is not known.
    fn source(&self, number: u32) -> io::Result<Option<Source>> {
        if number & BASE != 0 {
            return self.base_source(number & !BASE);
        }
        let Some(next) = self.header(number + 1)? else {
            return Ok(None);
        };
        let bytes = fs::read_all(&self.layout.segment_path(number))?;
        let end = usize::try_from(next.previous_bytes).unwrap_or(usize::MAX);
        let is_whole = SegmentHeader::from_bytes(self.tag, number, &bytes).is_some()
            && (SEGMENT_HEADER_BYTES..=bytes.len()).contains(&end);
        Ok(is_whole.then_some(Source {
            segment: number,
            bytes,
            end,
        }))
    }

    fn base_source(&self, base: u32) -> io::Result<Option<Source>> {
        let bytes = fs::read_all(&self.layout.segment_path(base | BASE))?;
        let header = BaseHeader::from_bytes(self.tag, base, &bytes);
        let is_whole = header.is_some_and(|header| {
            header.bytes.saturating_add(SEGMENT_HEADER_BYTES as u64) == bytes.len() as u64
        });
        Ok(is_whole.then_some(Source {
            segment: base | BASE,
            end: bytes.len(),
            bytes,
        }))
    }

    /// Puts a base in the place of the pruned segments and the base before; returns the last
    /// segment that it stands for. What is damaged stays where it is.
    fn condense(&mut self, base: Option<u32>, pruned: &[u32]) -> io::Result<u32> {
        let before = base.unwrap_or_default();
        let condensable = self.condensable(base, pruned)?;
        let Some(&last) = condensable.last() else {
            return Ok(before);
        };
        let Some(next) = self.header(last + 1)? else {
            return Ok(before);
        };
        // Frames of what follows are of this incarnation or a later one.
        let mut writer = BaseWriter::new(self.tag, last, next.incarnation);
        let mut freed = 0;
        for number in base.map(|base| base | BASE).into_iter().chain(condensable) {
            // One at a time is in memory, beside what is kept of them all.
            let source = self.source(number)?;
            let kept = source.filter(|source| self.keep_alive(source, &mut writer).is_some());
            let Some(source) = kept else {
                // A base that is damaged, or a file that was sound a moment ago; all stays as it
                // is.
                return Ok(before);
            };
            freed += source.bytes.len() as u64;
            self.step(source.bytes.len())?;
        }
        self.keep_state(&next, &mut writer);
        let (bytes, moves) = writer.finish(BaseHeader {
            number: last,
            incarnation: next.incarnation,
            bytes: 0,
            last_frame: next.first_frame - 1,
            last_position: next.first_position - 1,
            pruned: next.first_position - 1,
            buffered: self.sealed.buffered,
            forgotten: self.has_forgotten,
        });
        #[cfg(feature = "simulation")]
        if fs::fault::is(fs::fault::Fault::RemovesFirst) {
            self.layout.remove_covered(last)?;
        }
        let directory = self.layout.path(SEGMENTS);
        fs::write_whole(&directory, &Layout::segment_name(last | BASE), &bytes)?;
        let lies_on_checkpoint = self.shared.read_index().below().is_some();
        if lies_on_checkpoint {
            // What the checkpoint says of the files before is not true of the base.
            self.checkpoints.write(self.sealed.current - 1)?;
        }
        // Readers look into the base from now on; nothing else names what is removed then.
        self.shared.write_index().move_to(&moves);
        self.report.segments_removed += self.layout.remove_covered(last)?;
        self.shared.segments.forget_files();
        self.report.bytes_after = self.report.bytes_after - freed + bytes.len() as u64;
        Ok(last)
    }

    /// Returns which of the pruned segments go into a base: the first ones, as long as they are
    /// sound and it does not grow too large with the base before. Each is read, and let go of.
    fn condensable(&self, base: Option<u32>, pruned: &[u32]) -> io::Result<Vec<u32>> {
        let mut size = match base {
            Some(base) => {
                let file = fs::open_read(&self.layout.segment_path(base | BASE))?;
                fs::length(&file)?
            }
            None => 0,
        };
        let mut condensable = Vec::new();
        for &number in pruned {
            let source = self.source(number)?;
            let Some(source) = source.filter(|source| self.is_sound(source)) else {
                break;
            };
            size += source.end as u64;
            if size > BASE_BYTES_MAX {
                break;
            }
            condensable.push(number);
        }
        Ok(condensable)
    }

    /// Says whether all of a segment can be read, and says itself what version its rows have.
    fn is_sound(&self, source: &Source) -> bool {
        let mut sound = true;
        for frame in Frames::of(self.tag, source) {
            let Some((header, at, payload)) = frame else {
                return false;
            };
            let seen = walk(self.tag, at, payload, header.first_position, |seen| {
                sound &= !matches!(seen, Seen::Unversioned);
            });
            let read = read_commit(self.tag, at, payload, header.first_position);
            sound &= seen.is_some() && read.is_ok();
        }
        sound
    }

    /// Keeps the rows that are as they were put here, their events, and the places of the events
    /// of commits that are remembered.
    fn keep_alive(&self, source: &Source, writer: &mut BaseWriter) -> Option<()> {
        for frame in Frames::of(self.tag, source) {
            let (header, at, payload) = frame?;
            let applied = read_commit(self.tag, at, payload, header.first_position).ok()?;
            let is_remembered =
                applied.is_remembered && self.survey.remembered.contains(&applied.id);
            let mut kept = Kept {
                id: applied.id,
                time: applied.time,
                content: applied.content,
                is_remembered,
                ..Kept::nothing()
            };
            let mut origins = Origins::default();
            walk(
                self.tag,
                at,
                payload,
                header.first_position,
                |seen| match seen {
                    Seen::Put(at, put) if self.survey.rows.contains(&at) => {
                        kept.rows.push(put);
                        origins.rows.push(at);
                    }
                    Seen::Event(at, mut event) => {
                        let holds = self.survey.events.contains(&event.position.0);
                        if !holds && !is_remembered {
                            return;
                        }
                        if !holds || self.survey.erased.has(event.position, &event.places) {
                            event.erased = true;
                            event.body = [].into();
                        }
                        kept.events.push(event);
                        origins.events.push(at);
                    }
                    Seen::Put(..) | Seen::Unversioned | Seen::Other => {}
                },
            )?;
            if kept.rows.is_empty() && kept.events.is_empty() && !is_remembered {
                continue;
            }
            let frame = FramePlace {
                number: header.number,
                first_position: header.first_position,
                events: header.events,
            };
            writer.keep(frame, &kept, &origins);
        }
        Some(())
    }

    /// Keeps where streams end that have no event in what follows, and who holds attachments.
    fn keep_state(&self, next: &SegmentHeader, writer: &mut BaseWriter) {
        let frame = FramePlace {
            number: next.first_frame - 1,
            first_position: next.first_position,
            events: 0,
        };
        let ended = |last: u64| last > 0 && last < next.first_position;
        let streams = self.survey.streams.iter();
        let streams: Vec<_> = streams.filter(|end| ended(end.last.0)).cloned().collect();
        for streams in streams.chunks(STREAMS_PER_FRAME) {
            let kept = Kept {
                streams: streams.to_vec(),
                ..Kept::nothing()
            };
            writer.keep(frame, &kept, &Origins::default());
        }
        for (attachments, scopes) in &self.survey.namings {
            if scopes.is_empty() || attachments.is_empty() {
                continue;
            }
            let kept = Kept {
                named_for: scopes.clone(),
                attachments: attachments.clone(),
                ..Kept::nothing()
            };
            writer.keep(frame, &kept, &Origins::default());
        }
    }

    /// Writes over what is dead in a segment that stays, so that every record keeps its place.
    fn write_over(&mut self, number: u32) -> io::Result<()> {
        let Some(source) = self.source(number)? else {
            return Ok(());
        };
        self.step(source.bytes.len())?;
        // What was cut is kept aside; here it only takes room.
        let mut changed = source.end < source.bytes.len();
        let mut out = source.bytes[..source.end].to_vec();
        for frame in Frames::of(self.tag, &source) {
            // What is damaged is left as it is; the rest of it is cleaned all the same.
            let Some((header, at, payload)) = frame else {
                continue;
            };
            let mut dead: Vec<Extent> = Vec::new();
            let _damaged = walk(
                self.tag,
                at,
                payload,
                header.first_position,
                |seen| match seen {
                    Seen::Put(at, _) if !self.survey.rows.contains(&at) => dead.push(at),
                    Seen::Event(at, event) if self.is_dead(&event) => dead.push(at),
                    _ => {}
                },
            );
            changed |= write_over_frame(self.tag, &header, at, payload.len(), &dead, &mut out);
        }
        if changed {
            let directory = self.layout.path(SEGMENTS);
            fs::write_whole(&directory, &Layout::segment_name(number), &out)?;
            self.shared.segments.forget_files();
            self.report.segments_rewritten += 1;
            self.report.bytes_after -= (source.bytes.len() - out.len()) as u64;
        }
        Ok(())
    }

    fn is_dead(&self, event: &runtime_store::StoredEvent) -> bool {
        let position = event.position.0;
        let is_pruned = position <= self.survey.pruned && !self.survey.events.contains(&position);
        is_pruned || self.survey.erased.has(event.position, &event.places)
    }

    fn drop_aside(&mut self) -> io::Result<()> {
        let aside = self.layout.path(ASIDE);
        for name in fs::names(&aside)? {
            let path = aside.join(name);
            // Somebody made it by hand; the store never writes into one there.
            if fs::kind(&path)? == Some(fs::Kind::Directory) {
                continue;
            }
            fs::remove_file(&path)?;
            self.report.aside_removed += 1;
        }
        fs::sync_directory(&aside)
    }
}

/// Writes over the bodies of records; the frame stays as long as it is.
fn write_over_frame(
    tag: StoreTag,
    header: &Header,
    payload_at: Place,
    payload_bytes: usize,
    dead: &[Extent],
    out: &mut [u8],
) -> bool {
    let mut changed = false;
    for at in dead {
        let from = at.offset as usize;
        changed |= write_over(tag, *at, &mut out[from..from + at.bytes as usize]);
    }
    if changed {
        let from = usize::try_from(payload_at.offset).expect("a segment fits in memory");
        let start = from - header.encoded_bytes();
        let payload = out[from..from + payload_bytes].to_vec();
        let at = Place {
            offset: start as u64,
            ..payload_at
        };
        let mut frame = Vec::with_capacity(header.encoded_bytes() + payload_bytes);
        header.clone().write(tag, at, &payload, &mut frame);
        out[start..start + frame.len()].copy_from_slice(&frame);
    }
    changed
}

/// The frames of commits in a file: header, where the payload stands, and the payload; none for
/// what is damaged.
struct Frames<'a> {
    segment: u32,
    items: std::vec::IntoIter<Item<'a>>,
}

impl<'a> Frames<'a> {
    fn of(tag: StoreTag, source: &'a Source) -> Self {
        let start = Place {
            segment: source.segment,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        let frames = &source.bytes[SEGMENT_HEADER_BYTES..source.end];
        Self {
            segment: source.segment,
            items: scan(tag, start, frames).into_iter(),
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Option<(Header, Place, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.items.next()? {
                Item::Frame { header, .. } if header.flags & (flag::MARK | flag::LOST) != 0 => {}
                Item::Frame {
                    header,
                    payload,
                    payload_at,
                    ..
                } => {
                    let at = Place {
                        segment: self.segment,
                        offset: payload_at,
                    };
                    return Some(Some((header, at, payload)));
                }
                Item::BadPayload { .. } | Item::Hole { .. } => return Some(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::sync::Arc;

    use runtime_core::StreamKey;
    use runtime_store::{Position, Seq};

    use super::*;
    use crate::config::FsLimits;
    use crate::history::History;
    use crate::index::{Erased, Index};
    use crate::record::{StreamEnd, sealed_record};
    use crate::segments::Segments;

    const TAG: StoreTag = StoreTag(*b"store-01");

    /// A cleaning of a store in which these streams are open.
    fn cleaning<T>(
        streams: Vec<StreamEnd>,
        work: impl FnOnce(&Cleaning<'_, fn(Progress)>) -> T,
    ) -> T {
        let layout = Layout::new(Path::new("nowhere"));
        let segments = Segments::new(layout.clone(), TAG, 1);
        let history = History::new(layout.clone(), TAG, 1, true);
        let shared = Arc::new(Shared::new(Index::default(), segments, history));
        let limits = FsLimits::default();
        let checkpoints = Checkpoints::new(layout.clone(), TAG, 1, limits, Arc::clone(&shared));
        work(&Cleaning {
            layout: &layout,
            shared: &shared,
            checkpoints: &checkpoints,
            tag: TAG,
            survey: Survey {
                pruned: 0,
                erased: Erased::default(),
                rows: HashSet::new(),
                events: HashSet::new(),
                remembered: HashSet::new(),
                streams,
                namings: Vec::new(),
            },
            has_forgotten: false,
            sealed: Sealed {
                current: 9,
                buffered: false,
            },
            progress: |_| (),
            done: Progress { done: 0, total: 0 },
            report: CleanReport::default(),
        })
    }

    /// A segment of one frame with these records behind that of a commit.
    fn source(kinds: &[u8]) -> Source {
        let start = Place {
            segment: 1,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        let header = Header::new(0, 1, 1, 1);
        let payload_at = start.offset + header.encoded_bytes() as u64;
        // Id, time and digest of a commit.
        let records = [(1, 56)].into_iter();
        let records = records.chain(kinds.iter().map(|kind| (*kind, 8)));
        let mut payload = Vec::new();
        for (kind, length) in records {
            let at = Place {
                offset: payload_at + payload.len() as u64,
                ..start
            };
            payload.extend(sealed_record(TAG, at, kind, &vec![0; length]));
        }
        payload.resize(payload.len().next_multiple_of(8), 0);
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        header.write(TAG, start, &payload, &mut bytes);
        Source {
            segment: 1,
            end: bytes.len(),
            bytes,
        }
    }

    /// S4, S6: what a later version has written is not taken for something that is dead, though
    /// every checksum of it holds.
    #[test]
    fn s6_a_segment_with_an_unknown_record_is_not_condensed() {
        const THROUGH: u8 = 7;
        const UNKNOWN: u8 = 200;
        cleaning(Vec::new(), |cleaning| {
            assert!(cleaning.is_sound(&source(&[])));
            assert!(cleaning.is_sound(&source(&[THROUGH])));
            assert!(!cleaning.is_sound(&source(&[UNKNOWN])));
            let mut flipped = source(&[THROUGH]);
            flipped.bytes[flipped.end - 1] ^= 1;
            assert!(!cleaning.is_sound(&flipped));
        });
    }

    /// S6: a base keeps the ends of the streams that have no event in what follows it, in frames of
    /// the segments that it stands for.
    #[test]
    fn s6_a_base_keeps_the_ends_of_streams_that_rest() {
        let end = |(name, last): (&str, u64)| StreamEnd {
            stream: StreamKey::new(name).expect("it is a name"),
            head: Seq(1),
            last: Position(last),
            closed: false,
        };
        let next = SegmentHeader {
            number: 3,
            incarnation: 2,
            previous_bytes: 0,
            first_frame: 7,
            first_position: 10,
        };
        let streams = [("never", 0), ("first", 1), ("rests", 9), ("goes-on", 10)];
        let bytes = cleaning(streams.map(end).into(), |cleaning| {
            let mut writer = BaseWriter::new(TAG, 2, 2);
            cleaning.keep_state(&next, &mut writer);
            let (bytes, _) = writer.finish(BaseHeader {
                number: 2,
                incarnation: 2,
                bytes: 0,
                last_frame: 6,
                last_position: 9,
                pruned: 9,
                buffered: false,
                forgotten: false,
            });
            bytes
        });
        let base = Source {
            segment: 2 | BASE,
            end: bytes.len(),
            bytes,
        };
        let mut kept = Vec::new();
        for frame in Frames::of(TAG, &base) {
            let (header, at, payload) = frame.expect("it is whole");
            assert_eq!(header.number, 6, "the last frame before what follows");
            let read = read_commit(TAG, at, payload, header.first_position);
            kept.extend(read.expect("it is whole").streams);
        }
        let kept: Vec<&str> = kept.iter().map(|end| end.stream.as_str()).collect();
        assert_eq!(kept, ["first", "rests"]);
    }
}
