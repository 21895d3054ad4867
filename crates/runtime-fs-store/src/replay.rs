//! Reading the log of a store, from a checkpoint or from its beginning, and going on where that
//! ended.

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Remembered};
use crate::error::OpenError;
use crate::fill;
use crate::fold::{Fold, Trust};
use crate::frame::{Place, StoreTag};
use crate::fs;
use crate::hint::Hint;
use crate::layout::{CHECKPOINTS, Layout, SEGMENTS};
use crate::record::read_commit_id;
use crate::segment::{BASE, BaseHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use runtime_store::Progress;

/// The log as far as it has been read.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) fold: Fold,
    /// The end of what counts.
    pub(crate) end: Place,
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
    fn trust(self, segment: u32) -> Trust {
        match self {
            Self::Owner => Trust::Tail,
            Self::Beside(Some(hint)) if hint.end.segment > segment => Trust::Sealed,
            Self::Beside(Some(hint)) if hint.end.segment == segment => {
                Trust::Published(hint.end.offset)
            }
            Self::Beside(_) => Trust::Published(0),
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

/// Reads the log and tells how much of it has been read.
pub(crate) fn replay_with_progress(
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
        let sealed_at = match numbers.get(index + 1) {
            Some(&next) => Some(previous_bytes(layout, tag, next)?),
            None => None,
        };
        replay.take_segment(layout, tag, number, sealed_at, reader)?;
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
        let sealed = Some(previous_bytes(layout, tag, number + 1)?);
        replay.take_segment(layout, tag, number, sealed, Reader::Owner)?;
        bytes += replay.file_bytes;
        end = number;
    }
    replay.end = Place {
        segment: end,
        offset: previous_bytes(layout, tag, end + 1)?,
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
    let sealed = Some(previous_bytes(layout, tag, segment + 1)?);
    replay.take_segment(layout, tag, segment, sealed, Reader::Owner)?;
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

/// Says where the segment before `number` ends; the greatest number if that cannot be read.
fn previous_bytes(layout: &Layout, tag: StoreTag, number: u32) -> Result<u64, OpenError> {
    let header = header(layout, tag, number)?;
    Ok(header.map_or(u64::MAX, |header| header.previous_bytes))
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

    fn take_segment(
        &mut self,
        layout: &Layout,
        tag: StoreTag,
        number: u32,
        sealed_at: Option<u64>,
        reader: Reader,
    ) -> Result<(), OpenError> {
        let path = layout.segment_path(number);
        let bytes = fs::read_all(&path).map_err(|e| OpenError::io("read", &path, e))?;
        let file_bytes = bytes.len() as u64;
        self.file_bytes = file_bytes;
        let start = Place {
            segment: number,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        if SegmentHeader::from_bytes(tag, number, &bytes).is_none() {
            self.fold.take_bad_segment_header(number);
        }
        let (end, trust) = match sealed_at {
            // The next segment's header is damaged too, or this is the last one.
            Some(u64::MAX) => (file_bytes, Trust::Sealed),
            Some(sealed) => (sealed, Trust::Sealed),
            None => (file_bytes, reader.trust(number)),
        };
        let there = end.min(file_bytes).max(start.offset.min(file_bytes));
        let from = start.offset.min(there);
        let frames = &bytes[as_index(from)..as_index(there)];
        let offset = self.fold.take(start, frames, trust);
        if end > file_bytes {
            self.fold.take_missing(number, file_bytes..end);
        }
        if sealed_at.is_none() && offset <= file_bytes {
            let rest = Place {
                segment: number,
                offset,
            };
            self.file_bytes = fill::begins(tag, rest, &bytes[as_index(offset)..]);
        }
        self.end = Place {
            segment: number,
            offset: offset.max(start.offset),
        };
        Ok(())
    }

    /// Reads on up to what is published now.
    pub(crate) fn follow(
        &mut self,
        layout: &Layout,
        tag: StoreTag,
        hint: Hint,
    ) -> Result<(), OpenError> {
        while self.end.segment < hint.end.segment {
            let next = self.end.segment + 1;
            let sealed_at = previous_bytes(layout, tag, next)?;
            self.follow_to(layout, sealed_at, Trust::Sealed)?;
            self.end = Place {
                segment: next,
                offset: SEGMENT_HEADER_BYTES as u64,
            };
        }
        self.follow_to(layout, hint.end.offset, Trust::Published(hint.end.offset))
    }

    fn follow_to(&mut self, layout: &Layout, to: u64, trust: Trust) -> Result<(), OpenError> {
        if to <= self.end.offset {
            return Ok(());
        }
        let path = layout.segment_path(self.end.segment);
        let file = fs::open_read(&path).map_err(|e| OpenError::io("read", &path, e))?;
        let bytes = fs::length(&file)
            .and_then(|length| fs::read_range(&file, self.end.offset, to.min(length)))
            .map_err(|e| OpenError::io("read", &path, e))?;
        self.end.offset = self.fold.take(self.end, &bytes, trust);
        Ok(())
    }
}

fn as_index(offset: u64) -> usize {
    usize::try_from(offset).expect("a segment fits in memory while it is read")
}
