//! Reading events that a checkpoint has taken out of memory: through sidecars, a page at a time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use runtime_core::StreamKey;
use runtime_store::Position;

use crate::checkpoint::Checkpoint;
use crate::error::OpenError;
use crate::frame::StoreTag;
use crate::index::EventList;
use crate::layout::{CHECKPOINTS, Layout};
use crate::replay::fold_alone;
use crate::sidecar::Sidecar;
use crate::units::{self, Unit};

/// Sidecars, opened as they are needed.
#[derive(Debug)]
pub(crate) struct History {
    layout: Layout,
    tag: StoreTag,
    open_max: usize,
    /// Whoever reads beside a writer writes nothing.
    is_owner: bool,
    open: Mutex<BTreeMap<u32, Arc<Sidecar>>>,
}

/// Positions to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) after: u64,
    /// The last of them.
    pub(crate) through: u64,
    pub(crate) count: usize,
}

impl History {
    pub(crate) fn new(layout: Layout, tag: StoreTag, open_max: usize, is_owner: bool) -> Self {
        Self {
            layout,
            tag,
            open_max,
            is_owner,
            open: Mutex::default(),
        }
    }

    /// Lists events of a stream, or of the whole log, that the checkpoint holds.
    pub(crate) fn events(
        &self,
        checkpoint: &Checkpoint,
        stream: Option<&StreamKey>,
        wanted: Wanted,
    ) -> io::Result<EventList> {
        match stream {
            None => self.log_events(checkpoint, wanted),
            Some(key) => self.stream_events(checkpoint, key, wanted),
        }
    }

    fn log_events(&self, checkpoint: &Checkpoint, wanted: Wanted) -> io::Result<EventList> {
        let mut list = EventList::default();
        let mut next = wanted.after + 1;
        for unit in units::after(&checkpoint.units, wanted.after) {
            let left = wanted.count - list.events.len();
            if left == 0 || next > wanted.through {
                break;
            }
            if next < unit.first {
                // A repair gave up what was there.
                list.damaged = Some(next..unit.first);
                break;
            }
            let last = unit.last.min(wanted.through).min(next + left as u64 - 1);
            let found = self.with_sidecar(unit, |sidecar| sidecar.extents(next..=last))?;
            let whole = found.iter().take_while(|(_, at)| at.bytes > 0).count();
            list.events.extend(&found[..whole]);
            next = last + 1;
            if let Some((position, _)) = found.get(whole) {
                list.damaged = Some(*position..self.end_of_damage(unit, *position)?);
                break;
            }
        }
        let is_short = list.events.len() < wanted.count && list.damaged.is_none();
        if is_short && next <= wanted.through {
            list.damaged = Some(next..wanted.through + 1);
        }
        list.has_more = list.damaged.is_some() || next <= wanted.through;
        Ok(list)
    }

    fn end_of_damage(&self, unit: &Unit, position: u64) -> io::Result<u64> {
        let rest = self.with_sidecar(unit, |sidecar| sidecar.extents(position..=unit.last))?;
        let whole = rest.iter().find(|(_, at)| at.bytes > 0);
        Ok(whole.map_or(unit.last + 1, |(position, _)| *position))
    }

    fn stream_events(
        &self,
        checkpoint: &Checkpoint,
        key: &StreamKey,
        wanted: Wanted,
    ) -> io::Result<EventList> {
        let mut list = EventList::default();
        let Some((_, segments)) = checkpoint.stream(key)? else {
            return Ok(list);
        };
        for unit in units::after(&checkpoint.units, wanted.after) {
            if !segments.contains(&unit.segment) {
                continue;
            }
            let left = wanted.count - list.events.len();
            let mut positions =
                self.with_sidecar(unit, |sidecar| sidecar.stream(key, wanted.after, left + 1))?;
            list.has_more = positions.len() > left;
            positions.truncate(left);
            let found =
                self.with_sidecar(unit, |sidecar| sidecar.extents(positions.iter().copied()))?;
            let whole = found.iter().take_while(|(_, at)| at.bytes > 0).count();
            list.events.extend(&found[..whole]);
            if let Some((position, _)) = found.get(whole) {
                let reached = list.events.last().map_or(wanted.after, |(last, _)| *last);
                list.damaged = Some(reached + 1..position + 1);
            }
            if list.damaged.is_some() || list.has_more {
                list.has_more = true;
                return Ok(list);
            }
        }
        Ok(list)
    }

    /// Adds up the bytes of events of one segment.
    pub(crate) fn bytes(&self, unit: &Unit, first: u64) -> io::Result<u64> {
        let extents = self.with_sidecar(unit, |sidecar| sidecar.extents(first..=unit.last))?;
        Ok(extents.iter().map(|(_, at)| u64::from(at.bytes)).sum())
    }

    /// Lets go of the sidecars of files that were replaced or removed.
    pub(crate) fn forget(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clear();
    }

    /// Reads, and once more with a sidecar made anew if the one that is there is damaged.
    fn with_sidecar<T>(
        &self,
        unit: &Unit,
        read: impl Fn(&Sidecar) -> io::Result<T>,
    ) -> io::Result<T> {
        let found = self.sidecar(unit).and_then(|sidecar| read(&sidecar));
        match found {
            Err(error) if is_unusable(&error) => {
                tracing::warn!(segment = unit.segment, %error, "a sidecar is made anew");
                read(&*self.renew(unit)?)
            }
            found => found,
        }
    }

    fn sidecar(&self, unit: &Unit) -> io::Result<Arc<Sidecar>> {
        {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sidecar) = open.get(&unit.segment).filter(|open| open.is_of(unit)) {
                return Ok(Arc::clone(sidecar));
            }
        }
        let sidecar = Sidecar::open(&self.layout.path(CHECKPOINTS), self.tag, unit)?;
        Ok(self.keep(unit, sidecar))
    }

    fn keep(&self, unit: &Unit, sidecar: Sidecar) -> Arc<Sidecar> {
        let sidecar = Arc::new(sidecar);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.open_max {
            // Readers are mostly near the end of the log, so the oldest goes.
            open.pop_first();
        }
        open.insert(unit.segment, Arc::clone(&sidecar));
        sidecar
    }

    /// Makes a sidecar of its segment; beside a writer in memory only.
    fn renew(&self, unit: &Unit) -> io::Result<Arc<Sidecar>> {
        let fold = fold_alone(&self.layout, self.tag, unit.segment);
        let index = fold.map_err(of_its_kind)?.index;
        if self.is_owner {
            let directory = self.layout.path(CHECKPOINTS);
            let written = Sidecar::write(&directory, self.tag, unit, &index);
            if let Err(error) = written {
                tracing::warn!(segment = unit.segment, %error, "a sidecar could not be written");
            }
        }
        let sidecar = Sidecar::in_memory(self.tag, unit, &index)?;
        Ok(self.keep(unit, sidecar))
    }
}

/// Whoever asked looks once more when a file is gone.
fn of_its_kind(error: OpenError) -> io::Error {
    let kind = match &error {
        OpenError::Io { source, .. } => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// A file that a cache may be without: it is missing, or is not what was written.
pub(crate) fn is_unusable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Puts what came after the checkpoint behind what it holds.
pub(crate) fn join(mut below: EventList, above: EventList, count: usize) -> EventList {
    if below.has_more {
        return below;
    }
    let left = count - below.events.len();
    let has_rest = above.events.len() > left;
    below.events.extend(above.events.into_iter().take(left));
    EventList {
        events: below.events,
        has_more: has_rest || above.has_more,
        damaged: above.damaged.filter(|_| !has_rest),
    }
}

/// Where a reader goes on: without more, everything up to the head has been returned, and a
/// reader of a quiet stream then waits for what comes after the head instead of looking at the
/// same log again.
pub(crate) fn next(list: &EventList, after: u64, head: u64) -> Position {
    Position(match list.events.last() {
        Some((last, _)) if list.has_more => *last,
        _ => after.max(head),
    })
}
