//! Reading the log of a store, from a checkpoint or from its beginning, and going on where that
//! ended.

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Remembered};
use crate::error::OpenError;
use crate::fill;
use crate::fold::{Fold, Trust};
use crate::frame::{Place, StoreTag, flag};
use crate::fs;
use crate::hint::Hint;
use crate::layout::{CHECKPOINTS, Layout, SEGMENTS};
use crate::record::read_commit_id;
use crate::segment::{
    BASE, BaseHeader, Item, SEGMENT_HEADER_BYTES, SegmentHeader, end_by_frames, last_mark, scan,
};
use runtime_store::Progress;

/// How often reading begins again because a cleaning removed what was about to be read.
const ATTEMPTS_MAX: usize = 8;

/// The log as far as it has been read.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) fold: Fold,
    /// The end of what counts.
    pub(crate) end: Place,
    /// Up to here the last segment is known to be synced.
    pub(crate) synced: u64,
    /// The length of the last segment file without what fills it ahead; beyond `end` there is a
    /// tail that does not count.
    pub(crate) file_bytes: u64,
    /// The base that the log begins with.
    pub(crate) base: Option<u32>,
    /// Checkpoints that were not believed.
    pub(crate) unusable: Vec<String>,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the first segment, or the base: every checksum is checked.
    Beginning,
    /// At the latest checkpoint that fits the log, if there is one.
    Checkpoint,
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The holder of the lock: everything that is there.
    Owner,
    /// Beside a writer, or without one: what is published.
    Beside(Option<Hint>),
}

impl Reader {
    /// How far the last segment is read if no mark reaches further.
    fn readable(self, segment: u32) -> u64 {
        match self {
            Self::Owner => u64::MAX,
            Self::Beside(Some(hint)) if hint.end.segment == segment => hint.end.offset,
            Self::Beside(_) => 0,
        }
    }
}

/// Reads the log from the latest checkpoint.
pub(crate) fn replay(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    reader: Reader,
    hint: Option<Hint>,
) -> Result<Replay, OpenError> {
    let start = Start::Checkpoint;
    replay_with_progress(
        layout,
        tag,
        remembered_max,
        (start, reader),
        hint,
        &mut |_| (),
    )
}

/// Reads the log and tells how much of it has been read. Beside a writer it begins again where a
/// cleaning has removed what it was about to read: that is not missing.
pub(crate) fn replay_with_progress(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    how: (Start, Reader),
    hint: Option<Hint>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Replay, OpenError> {
    for _ in 1..ATTEMPTS_MAX {
        let names = layout.log_names()?;
        match replay_once(layout, tag, remembered_max, how, hint, progress) {
            Err(_) if layout.log_names()? != names => {}
            result => return result,
        }
    }
    replay_once(layout, tag, remembered_max, how, hint, progress)
}

fn replay_once(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    (start, reader): (Start, Reader),
    hint: Option<Hint>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Replay, OpenError> {
    let (mut replay, numbers) = Replay::begin(layout, tag, remembered_max, start, hint)?;
    let mut told = Progress { done: 0, total: 0 };
    let mut lengths = Vec::with_capacity(numbers.len());
    for &number in &numbers {
        let path = layout.segment_path(number);
        let length = fs::open_read(&path).and_then(|file| fs::length(&file));
        lengths.push(length.map_err(|e| OpenError::io("read", &path, e))?);
    }
    told.total = lengths.iter().sum();
    for (index, (&number, length)) in numbers.iter().zip(lengths).enumerate() {
        match numbers.get(index + 1) {
            Some(_) => replay.take_sealed(layout, tag, number)?,
            None => replay.take_last(layout, tag, number, reader)?,
        }
        told.done += length;
        progress(told);
    }
    Ok(replay)
}

/// Reads segments up to one that others follow, from the latest checkpoint; fewer if they have
/// more than so many bytes. The end is that of the last segment read.
pub(crate) fn fold_sealed(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    through: u32,
    bytes_max: u64,
) -> Result<Replay, OpenError> {
    let start = Start::Checkpoint;
    let (mut replay, numbers) = Replay::begin(layout, tag, remembered_max, start, None)?;
    let mut end = replay.end.segment.saturating_sub(1);
    let mut bytes = 0;
    for number in numbers.into_iter().filter(|number| *number <= through) {
        if bytes >= bytes_max {
            break;
        }
        replay.take_sealed(layout, tag, number)?;
        bytes += replay.file_bytes;
        end = number;
    }
    replay.end = Place {
        segment: end,
        offset: sealed_end(layout, tag, end)?,
    };
    Ok(replay)
}

/// Reads one sealed segment, or a base, as if nothing were before it.
pub(crate) fn fold_alone(layout: &Layout, tag: StoreTag, segment: u32) -> Result<Fold, OpenError> {
    let mut replay = Replay::of(Fold::new(tag, 0), 1, None);
    if segment & BASE != 0 {
        replay.take_base(layout, tag, segment & !BASE)?;
        return Ok(replay.fold);
    }
    if let Some(header) = header(layout, tag, segment)? {
        replay
            .fold
            .begin_at(header.first_frame, header.first_position);
    }
    replay.take_sealed(layout, tag, segment)?;
    Ok(replay.fold)
}

/// Finds the latest checkpoint that is whole, and of this log as it is now.
fn usable_checkpoint(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    base: Option<u32>,
    numbers: &[u32],
    unusable: &mut Vec<String>,
) -> Option<(Checkpoint, Remembered)> {
    for number in layout.checkpoints().ok()? {
        let name = Layout::checkpoint_name(number);
        let read = Checkpoint::open(&layout.path(CHECKPOINTS), tag, number).and_then(|found| {
            found.check()?;
            let remembered = found.remembered(remembered_max)?;
            Ok((found, remembered))
        });
        match read {
            Ok((checkpoint, remembered)) if fits(layout, tag, &checkpoint, base, numbers) => {
                return Some((checkpoint, remembered));
            }
            Ok(_) => tracing::warn!(%name, "a checkpoint is not of this log; it is not used"),
            Err(error) => tracing::warn!(%name, %error, "a checkpoint cannot be used"),
        }
        unusable.push(format!("{CHECKPOINTS}/{name}"));
    }
    None
}

/// Says whether a checkpoint is of this log: the segments that it holds are there as long as they
/// must be, what follows goes on where it ends, and its last commit is where it says.
fn fits(
    layout: &Layout,
    tag: StoreTag,
    checkpoint: &Checkpoint,
    base: Option<u32>,
    numbers: &[u32],
) -> bool {
    let sealed = &checkpoint.sealed;
    let known = numbers.partition_point(|number| *number <= sealed.number);
    if believes_any() && known < numbers.len() {
        return true;
    }
    if sealed.base != base.unwrap_or_default() || known == numbers.len() {
        return false;
    }
    let reaches = |number: u32| {
        let next = header(layout, tag, number + 1).ok().flatten();
        let length = fs::open_read(&layout.segment_path(number)).and_then(|file| fs::length(&file));
        let is_there = header(layout, tag, number).is_ok_and(|header| header.is_some());
        let next = next.filter(|next| length.is_ok_and(|length| length >= next.previous_bytes));
        next.filter(|_| is_there)
    };
    let mut next = header(layout, tag, sealed.number + 1).ok().flatten();
    for &number in &numbers[..known] {
        next = reaches(number);
        if next.is_none() {
            return false;
        }
    }
    let goes_on = next.is_some_and(|next| {
        next.previous_bytes == sealed.bytes
            && next.first_frame == sealed.last_frame + 1
            && next.first_position == sealed.last_position + 1
            && next.incarnation >= sealed.incarnation
    });
    goes_on && has_witness(layout, tag, checkpoint)
}

/// Only under a planted fault the log is not looked at.
#[cfg(feature = "simulation")]
fn believes_any() -> bool {
    fs::fault::is(fs::fault::Fault::AnyCheckpoint)
}

#[cfg(not(feature = "simulation"))]
const fn believes_any() -> bool {
    false
}

fn has_witness(layout: &Layout, tag: StoreTag, checkpoint: &Checkpoint) -> bool {
    let Some(witness) = checkpoint.witness else {
        return true;
    };
    let from = u64::from(witness.at.offset);
    let to = from + u64::from(witness.at.bytes);
    let bytes = fs::open_read(&layout.segment_path(witness.at.segment))
        .and_then(|file| fs::read_range(&file, from, to));
    let found = bytes.ok();
    let found = found.and_then(|bytes| read_commit_id(tag, witness.at, &bytes));
    found == Some((witness.id, witness.content))
}

/// All segments from the first to the last must be there; the hint knows the last one.
fn check_complete(first: u32, numbers: &[u32], hint: Option<Hint>) -> Result<(), OpenError> {
    let last = numbers.last().copied().unwrap_or(first);
    let last = last.max(hint.map_or(first, |hint| hint.end.segment));
    let missing = (first..=last).find(|number| numbers.binary_search(number).is_err());
    match missing {
        None => Ok(()),
        Some(number) => Err(OpenError::Missing {
            file: format!("{SEGMENTS}/{}", Layout::segment_name(number)),
        }),
    }
}

/// Says where a segment that another one follows ends.
pub(crate) fn sealed_end(layout: &Layout, tag: StoreTag, number: u32) -> Result<u64, OpenError> {
    if let Some(next) = header(layout, tag, number + 1)? {
        return Ok(next.previous_bytes);
    }
    let bytes = read_segment(layout, number)?;
    let next = read_segment(layout, number + 1)?;
    let next = scan(tag, frames_of(number + 1), frames_in(&next));
    let items = scan_without_fill(tag, frames_of(number), frames_in(&bytes));
    let header = SegmentHeader::from_bytes(tag, number, &bytes);
    Ok(end_by_frames(header, &items, &next))
}

fn read_segment(layout: &Layout, number: u32) -> Result<Vec<u8>, OpenError> {
    let path = layout.segment_path(number);
    fs::read_all(&path).map_err(|e| OpenError::io("read", &path, e))
}

/// Where the frames of a segment begin.
pub(crate) const fn frames_of(segment: u32) -> Place {
    Place {
        segment,
        offset: SEGMENT_HEADER_BYTES as u64,
    }
}

/// The bytes behind the header of a segment file.
fn frames_in(bytes: &[u8]) -> &[u8] {
    bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default()
}

/// Finds the frames of a segment that nothing may follow yet: where no frame begins and the rest
/// is filled ahead, it ends.
fn scan_without_fill(tag: StoreTag, start: Place, bytes: &[u8]) -> Vec<Item<'_>> {
    let mut items = scan(tag, start, bytes);
    let _fill = items.pop_if(|item| {
        let at = Place {
            offset: item.offset(),
            ..start
        };
        item.header().is_none()
            && fill::is_all_of(tag, at, &bytes[as_index(at.offset - start.offset)..])
    });
    items
}

/// What is bad before the last mark is damage only if it was read after the mark: the pages of a
/// file are not read at one moment, and a writer beside may have filled one that was read early
/// and marked it in one that was read late.
fn must_be_read_again(items: &[Item<'_>], mark: u64) -> bool {
    let is_bad = |item: &Item<'_>| !matches!(item, Item::Frame { .. });
    items
        .iter()
        .any(|item| item.offset() < mark && is_bad(item))
}

fn header(layout: &Layout, tag: StoreTag, number: u32) -> Result<Option<SegmentHeader>, OpenError> {
    let path = layout.segment_path(number);
    let file = fs::open_read(&path).map_err(|e| OpenError::io("read", &path, e))?;
    let bytes = fs::length(&file)
        .and_then(|length| fs::read_range(&file, 0, length.min(SEGMENT_HEADER_BYTES as u64)))
        .map_err(|e| OpenError::io("read", &path, e))?;
    Ok(SegmentHeader::from_bytes(tag, number, &bytes))
}

impl Replay {
    fn of(fold: Fold, first: u32, base: Option<u32>) -> Self {
        Self {
            fold,
            end: Place {
                segment: first,
                offset: SEGMENT_HEADER_BYTES as u64,
            },
            synced: 0,
            file_bytes: 0,
            base,
            unusable: Vec::new(),
        }
    }

    /// Reads the base or a checkpoint; returns the segments that are left.
    fn begin(
        layout: &Layout,
        tag: StoreTag,
        remembered_max: usize,
        start: Start,
        hint: Option<Hint>,
    ) -> Result<(Self, Vec<u32>), OpenError> {
        let mut numbers = layout.segments()?;
        let base = layout.base()?;
        let first = base.map_or(1, |base| base + 1);
        numbers.retain(|number| *number >= first);
        check_complete(first, &numbers, hint)?;
        let mut unusable = Vec::new();
        let checkpoint = match start {
            Start::Beginning => None,
            Start::Checkpoint => {
                usable_checkpoint(layout, tag, remembered_max, base, &numbers, &mut unusable)
            }
        };
        let mut replay = match checkpoint {
            Some((checkpoint, remembered)) => {
                let number = checkpoint.sealed.number;
                numbers.retain(|left| *left > number);
                let checkpoint = Arc::new(checkpoint);
                let fold = Fold::after(tag, remembered_max, checkpoint, remembered);
                Self::of(fold, number + 1, base)
            }
            None => {
                let mut replay = Self::of(Fold::new(tag, remembered_max), first, base);
                if let Some(base) = base {
                    replay.take_base(layout, tag, base)?;
                }
                replay
            }
        };
        replay.unusable = unusable;
        Ok((replay, numbers))
    }

    fn take_base(&mut self, layout: &Layout, tag: StoreTag, base: u32) -> Result<(), OpenError> {
        let path = layout.segment_path(base | BASE);
        let bytes = fs::read_all(&path).map_err(|e| OpenError::io("read", &path, e))?;
        let Some(header) = BaseHeader::from_bytes(tag, base, &bytes) else {
            self.fold.take_bad_segment_header(base | BASE);
            return Ok(());
        };
        let end = (SEGMENT_HEADER_BYTES as u64).saturating_add(header.bytes);
        let there = end.min(bytes.len() as u64);
        let frames = &bytes[SEGMENT_HEADER_BYTES..as_index(there)];
        self.fold.take_base(&header, frames);
        if there < end {
            self.fold.take_missing(base | BASE, there..end);
        }
        Ok(())
    }

    /// Takes a segment that another one follows: all of it was synced.
    fn take_sealed(
        &mut self,
        layout: &Layout,
        tag: StoreTag,
        number: u32,
    ) -> Result<(), OpenError> {
        let end = sealed_end(layout, tag, number)?;
        let bytes = read_segment(layout, number)?;
        self.file_bytes = bytes.len() as u64;
        self.take_segment_header(tag, number, &bytes);
        let start = frames_of(number);
        let there = bytes.len().min(as_index(end));
        let items = scan(tag, start, frames_in(&bytes[..there]));
        self.fold.take(start, items, Trust::SEALED);
        if end > self.file_bytes {
            self.fold.take_missing(number, self.file_bytes..end);
        }
        Ok(())
    }

    /// Takes the last segment, which a writer may be writing to.
    fn take_last(
        &mut self,
        layout: &Layout,
        tag: StoreTag,
        number: u32,
        reader: Reader,
    ) -> Result<(), OpenError> {
        let readable = reader.readable(number);
        self.take_last_read(tag, number, readable, || read_segment(layout, number))
    }

    fn take_last_read<E>(
        &mut self,
        tag: StoreTag,
        number: u32,
        readable: u64,
        mut read: impl FnMut() -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let start = frames_of(number);
        let mut bytes = read()?;
        let mut items = scan_without_fill(tag, start, frames_in(&bytes));
        let mark = last_mark(&items);
        if must_be_read_again(&items, mark) {
            drop(items);
            bytes = read()?;
            items = scan_without_fill(tag, start, frames_in(&bytes));
        }
        self.take_segment_header(tag, number, &bytes);
        // A frame without a commit shows nothing new, but says how many events are before it.
        let says_so = |item: &&Item<'_>| {
            item.offset() == mark && item.header().is_some_and(|header| header.has(flag::MARK))
        };
        let marked = items.iter().find(says_so).map_or(mark, Item::end);
        let trust = Trust {
            synced: mark,
            readable: readable.max(marked),
        };
        self.synced = mark;
        let offset = self.fold.take(start, items, trust);
        let rest = Place { offset, ..start };
        let after = bytes.get(as_index(offset)..);
        self.file_bytes = after.map_or(bytes.len() as u64, |after| fill::begins(tag, rest, after));
        self.end = rest;
        Ok(())
    }

    fn take_segment_header(&mut self, tag: StoreTag, number: u32, bytes: &[u8]) {
        match SegmentHeader::from_bytes(tag, number, bytes) {
            // What the segment before has lost at its end is known by it.
            Some(header) => self.fold.index.skip_to(header.first_position),
            None => self.fold.take_bad_segment_header(number),
        }
    }

    /// Reads on up to what is published now.
    pub(crate) fn follow(
        &mut self,
        layout: &Layout,
        tag: StoreTag,
        hint: Hint,
    ) -> Result<(), OpenError> {
        while self.end.segment < hint.end.segment {
            let sealed_at = sealed_end(layout, tag, self.end.segment)?;
            self.follow_to(layout, tag, sealed_at, |_| u64::MAX)?;
            if self.end.offset < sealed_at {
                let missing = self.end.offset..sealed_at;
                self.fold.take_missing(self.end.segment, missing);
            }
            self.end = frames_of(self.end.segment + 1);
            if let Some(header) = header(layout, tag, self.end.segment)? {
                self.fold.index.skip_to(header.first_position);
            }
        }
        self.follow_to(layout, tag, hint.end.offset, last_mark)
    }

    /// Reads on up to an offset, which was published before; nothing there is being written.
    fn follow_to(
        &mut self,
        layout: &Layout,
        tag: StoreTag,
        to: u64,
        synced: impl Fn(&[Item<'_>]) -> u64,
    ) -> Result<(), OpenError> {
        if to <= self.end.offset {
            return Ok(());
        }
        let path = layout.segment_path(self.end.segment);
        let file = fs::open_read(&path).map_err(|e| OpenError::io("read", &path, e))?;
        let bytes = fs::length(&file)
            .and_then(|length| fs::read_range(&file, self.end.offset, to.min(length)))
            .map_err(|e| OpenError::io("read", &path, e))?;
        let items = scan(tag, self.end, &bytes);
        let trust = Trust {
            synced: synced(&items),
            readable: to,
        };
        self.end.offset = self.fold.take(self.end, items, trust);
        Ok(())
    }
}

fn as_index(offset: u64) -> usize {
    usize::try_from(offset).expect("a segment fits in memory while it is read")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::frame::Header;
    use crate::report::Damage;

    const TAG: StoreTag = StoreTag(*b"store-01");

    /// A segment whose frames have a mark each that covers those before; what is filled ahead
    /// stands at the places of some.
    fn segment_with(frames: u64, not_yet: &[u64]) -> Vec<u8> {
        let header = SegmentHeader {
            number: 1,
            incarnation: 1,
            previous_bytes: 0,
            first_frame: 1,
            first_position: 1,
        };
        let mut bytes = header.to_bytes(TAG).to_vec();
        for number in 1..=frames {
            let at = Place {
                segment: 1,
                offset: bytes.len() as u64,
            };
            if not_yet.contains(&number) {
                bytes.extend(fill::bytes(TAG, at, at.offset + 64));
                continue;
            }
            let mut header = Header::new(flag::MARK, 1, number, 1);
            header.durable_mark = at.offset;
            header.write(TAG, at, &[], &mut bytes);
        }
        let end = Place {
            segment: 1,
            offset: bytes.len() as u64,
        };
        bytes.extend(fill::bytes(TAG, end, end.offset + 4096));
        bytes
    }

    /// Takes a last segment that is read as these bytes, one after another.
    fn taken(readable: u64, reads: &[Vec<u8>]) -> (u64, Vec<Damage>) {
        let mut replay = Replay::of(Fold::new(TAG, 0), 1, None);
        let mut reads = reads.iter();
        let read = || Ok::<_, Infallible>(reads.next().expect("it is read twice at most").clone());
        let Ok(()) = replay.take_last_read(TAG, 1, readable, read);
        (replay.end.offset, replay.fold.damage)
    }

    /// S4, S8: the pages of a file are read one after another. A writer that fills one behind the
    /// reader, and marks it in one before the reader, has damaged nothing.
    #[test]
    fn s4_a_group_that_is_written_while_it_is_read_is_no_damage() {
        let at = |frame: u64| 64 * frame;
        // Without a hint, with one, and for whoever reads everything.
        for readable in [0, at(1), at(2), u64::MAX] {
            let torn = segment_with(3, &[2]);
            let later = taken(readable, &[torn.clone(), segment_with(3, &[])]);
            assert_eq!(later, (at(4), vec![]), "readable to {readable}");
            // The second reading has met the writer as well, further on.
            let again = taken(readable, &[torn.clone(), segment_with(5, &[4])]);
            assert_eq!(again, (at(4), vec![]), "readable to {readable}");
            // Nobody writes: what was marked is gone.
            let (_, damage) = taken(readable, &[torn.clone(), torn]);
            let bytes = at(2)..at(3);
            assert_eq!(damage, [Damage::Header { segment: 1, bytes }]);
        }
    }

    #[test]
    fn s4_a_whole_segment_is_read_once() {
        let (end, damage) = taken(u64::MAX, &[segment_with(3, &[])]);
        assert_eq!((end, damage), (64 * 4, vec![]));
    }

    /// S4: of a group that is torn, whose marks all say where it begins, nothing is damage, and
    /// there is nothing to read again.
    #[test]
    fn s4_a_group_torn_behind_its_own_mark_is_read_once() {
        let mut bytes = segment_with(1, &[]);
        bytes.truncate(64 * 2);
        bytes.resize(64 * 3, 7);
        let at = Place {
            segment: 1,
            offset: 64 * 3,
        };
        let mut header = Header::new(flag::MARK, 1, 3, 1);
        header.durable_mark = 64 * 2;
        header.write(TAG, at, &[], &mut bytes);
        let (end, damage) = taken(u64::MAX, &[bytes]);
        assert_eq!((end, damage), (64 * 2, vec![]));
    }

    /// S4: what is filled ahead is no part of a segment; what is anything else may be.
    #[test]
    fn s4_a_segment_ends_before_what_is_filled_ahead_and_nothing_else() {
        let items_of = |bytes: &[u8]| {
            let items = scan_without_fill(TAG, frames_of(1), frames_in(bytes));
            items.last().map(|item| (items.len(), item.end()))
        };
        let mut bytes = segment_with(3, &[]);
        assert_eq!(items_of(&bytes), Some((3, 64 * 4)));
        assert_eq!(items_of(&segment_with(0, &[])), None);
        let length = bytes.len();
        bytes[length - 1] ^= 1;
        assert_eq!(items_of(&bytes), Some((4, length as u64)));
        bytes.truncate(64 * 4);
        bytes.extend([7; 64]);
        assert_eq!(items_of(&bytes), Some((4, 64 * 5)));
    }

    #[cfg(not(feature = "simulation"))]
    mod on_files {
        use std::path::Path;

        use super::*;
        use crate::checkpoint::Sealed;
        use crate::index::Index;

        const FRAMES: u64 = 3;
        const SEGMENT_BYTES: u64 = 64 * (FRAMES + 1);

        /// A directory with so many segments of three marks each.
        fn log_of(directory: &Path, segments: u32) -> Layout {
            for name in [SEGMENTS, CHECKPOINTS] {
                std::fs::create_dir(directory.join(name)).expect("it is new");
            }
            let layout = Layout::new(directory);
            for number in 1..=segments {
                let first_frame = u64::from(number - 1) * FRAMES + 1;
                let header = SegmentHeader {
                    number,
                    incarnation: 1,
                    previous_bytes: if number == 1 { 0 } else { SEGMENT_BYTES },
                    first_frame,
                    first_position: 1,
                };
                let mut bytes = header.to_bytes(TAG).to_vec();
                for frame in first_frame..first_frame + FRAMES {
                    let at = Place {
                        segment: number,
                        offset: bytes.len() as u64,
                    };
                    let mut header = Header::new(flag::MARK, 1, frame, 1);
                    header.durable_mark = at.offset;
                    header.write(TAG, at, &[], &mut bytes);
                }
                assert_eq!(bytes.len() as u64, SEGMENT_BYTES);
                std::fs::write(layout.segment_path(number), bytes).expect("it can be written");
            }
            layout
        }

        /// S6: a long log is folded a part at a time, so that no checkpoint takes more memory than a
        /// part of the log.
        #[test]
        fn s6_a_fold_ends_with_the_segment_that_reaches_its_bound() {
            let directory = tempfile::tempdir().expect("there is room");
            let layout = log_of(directory.path(), 5);
            for (bytes_max, through, expected) in [
                (1, 4, 1),
                (SEGMENT_BYTES + 1, 4, 2),
                (u64::MAX, 3, 3),
                (u64::MAX, 4, 4),
            ] {
                let folded = fold_sealed(&layout, TAG, 0, through, bytes_max).expect("it is whole");
                let end = Place {
                    segment: expected,
                    offset: SEGMENT_BYTES,
                };
                assert_eq!(folded.end, end, "{bytes_max} bytes through {through}");
                assert_eq!(folded.fold.number, u64::from(expected) * FRAMES);
            }
        }

        /// S6: a whole checkpoint is believed only if the log goes on exactly where it ends.
        #[test]
        fn s6_a_checkpoint_that_the_log_does_not_go_on_from_is_not_believed() {
            let right = Sealed {
                number: 2,
                base: 0,
                bytes: SEGMENT_BYTES,
                last_frame: 2 * FRAMES,
                last_position: 0,
                incarnation: 1,
                buffered: false,
            };
            let wrong = [
                Sealed { base: 1, ..right },
                Sealed {
                    bytes: SEGMENT_BYTES - 64,
                    ..right
                },
                Sealed {
                    last_frame: 2 * FRAMES - 1,
                    ..right
                },
                Sealed {
                    last_position: 1,
                    ..right
                },
                Sealed {
                    incarnation: 2,
                    ..right
                },
            ];
            let cases = wrong.map(|sealed| (sealed, false));
            for (sealed, is_believed) in cases.into_iter().chain([(right, true)]) {
                let directory = tempfile::tempdir().expect("there is room");
                let layout = log_of(directory.path(), 3);
                let checkpoints = layout.path(CHECKPOINTS);
                Checkpoint::write(&checkpoints, TAG, sealed, &Index::default())
                    .expect("it can be written");
                let read = replay(&layout, TAG, 0, Reader::Owner, None).expect("it is whole");
                assert_eq!(read.unusable.is_empty(), is_believed, "{sealed:?}");
                let frames = if is_believed { FRAMES } else { 3 * FRAMES };
                assert_eq!(read.fold.frames, frames, "{sealed:?}");
                assert_eq!((read.fold.number, read.fold.damage), (9, vec![]));
            }
        }

        /// Follows a log from its beginning to its end in the second segment.
        fn followed(layout: &Layout) -> Replay {
            let mut replay = Replay::of(Fold::new(TAG, 0), 1, None);
            let end = Place {
                segment: 2,
                offset: SEGMENT_BYTES,
            };
            let hint = Hint { end, head: 0 };
            replay.follow(layout, TAG, hint).expect("it can be read");
            assert_eq!(replay.end, end, "all that was published");
            assert_eq!(replay.fold.number, 2 * FRAMES);
            replay
        }

        /// S4, S8: a reader that follows from one segment into the next has lost nothing; of one that
        /// was cut meanwhile it knows what is missing, and reads on behind it.
        #[test]
        fn s8_a_follower_knows_what_is_missing_of_a_segment_it_has_left() {
            let directory = tempfile::tempdir().expect("there is room");
            let layout = log_of(directory.path(), 2);
            assert_eq!(followed(&layout).fold.damage, []);
            let first = layout.segment_path(1);
            let whole = std::fs::read(&first).expect("it was just written");
            let cut = SEGMENT_BYTES - 64;
            std::fs::write(&first, &whole[..as_index(cut)]).expect("it can be written");
            let missing = Damage::Header {
                segment: 1,
                bytes: cut..SEGMENT_BYTES,
            };
            assert_eq!(followed(&layout).fold.damage, [missing]);
        }
    }
}
