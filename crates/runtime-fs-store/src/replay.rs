//! Reading all segments of a store, and going on where that ended.

use crate::error::OpenError;
use crate::fold::{Fold, Trust};
use crate::frame::{Place, StoreTag};
use crate::fs;
use crate::hint::Hint;
use crate::layout::{Layout, SEGMENTS};
use crate::segment::{BASE, BaseHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use runtime_store::Progress;

/// The log as far as it has been read.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) fold: Fold,
    /// The end of what counts.
    pub(crate) end: Place,
    /// The length of the last segment file; beyond `end` there is a tail that does not count.
    pub(crate) file_bytes: u64,
    /// The base that was begun with.
    pub(crate) base: Option<u32>,
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

/// Reads everything.
pub(crate) fn replay(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    reader: Reader,
    hint: Option<Hint>,
) -> Result<Replay, OpenError> {
    replay_with_progress(layout, tag, remembered_max, reader, hint, &mut |_| ())
}

/// Reads everything and tells how much of it has been read.
pub(crate) fn replay_with_progress(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    reader: Reader,
    hint: Option<Hint>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Replay, OpenError> {
    let mut numbers = layout.segments()?;
    let base = layout.base()?;
    let first = base.map_or(1, |base| base + 1);
    numbers.retain(|number| *number >= first);
    check_complete(first, &numbers, hint)?;
    let mut replay = Replay {
        fold: Fold::new(tag, remembered_max),
        end: Place {
            segment: first,
            offset: SEGMENT_HEADER_BYTES as u64,
        },
        file_bytes: 0,
        base,
    };
    if let Some(base) = base {
        replay.take_base(layout, tag, base)?;
    }
    let mut told = Progress { done: 0, total: 0 };
    for &number in &numbers {
        let path = layout.segment_path(number);
        let length = fs::open_read(&path).and_then(|file| fs::length(&file));
        told.total += length.map_err(|e| OpenError::io("read", &path, e))?;
    }
    for (index, &number) in numbers.iter().enumerate() {
        let sealed_at = match numbers.get(index + 1) {
            Some(&next) => Some(previous_bytes(layout, tag, next)?),
            None => None,
        };
        replay.take_segment(layout, tag, number, sealed_at, reader)?;
        told.done += replay.file_bytes;
        progress(told);
    }
    Ok(replay)
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

/// Says where the segment before `number` ends; none if that cannot be read any more.
fn previous_bytes(layout: &Layout, tag: StoreTag, number: u32) -> Result<u64, OpenError> {
    let path = layout.segment_path(number);
    let file = fs::open_read(&path).map_err(|e| OpenError::io("read", &path, e))?;
    let bytes = fs::length(&file)
        .and_then(|length| fs::read_range(&file, 0, length.min(SEGMENT_HEADER_BYTES as u64)))
        .map_err(|e| OpenError::io("read", &path, e))?;
    let header = SegmentHeader::from_bytes(tag, number, &bytes);
    Ok(header.map_or(u64::MAX, |header| header.previous_bytes))
}

impl Replay {
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
