//! Reading beside a writer, or without one: only what is published, never writing (S8).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime_store::ReadError;

use crate::error::OpenError;
use crate::frame::StoreTag;
use crate::hint;
use crate::index::Index;
use crate::layout::Layout;
use crate::replay::{Reader, Replay, replay};
use crate::segments::{Segments, is_gone};

#[derive(Debug)]
pub(crate) struct Follower {
    layout: Layout,
    tag: StoreTag,
    remembered_max: usize,
    /// What is read does not grow any more.
    frozen: AtomicBool,
    replay: Mutex<Replay>,
    pub(crate) segments: Segments,
}

impl Follower {
    pub(crate) fn new(
        layout: Layout,
        tag: StoreTag,
        replay: Replay,
        remembered_max: usize,
        open_segments_max: usize,
    ) -> Self {
        Self {
            segments: Segments::new(layout.clone(), tag, open_segments_max),
            layout,
            tag,
            remembered_max,
            frozen: AtomicBool::new(false),
            replay: Mutex::new(replay),
        }
    }

    /// Looks for growth, then reads the index.
    pub(crate) fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> Result<T, ReadError> {
        let mut replay = self.lock();
        if let Err(error) = self.refresh(&mut replay) {
            let error = read_error(error);
            drop(replay);
            if !is_gone(&error) {
                return Err(error);
            }
            self.reload()?;
            replay = self.lock();
        }
        Ok(read(&replay.fold.index))
    }

    /// Lets what is read stay as it is now.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Reads everything anew: a cleaning has moved what was known.
    pub(crate) fn reload(&self) -> Result<(), ReadError> {
        let hint = hint::read(&self.layout);
        let reader = Reader::Beside(hint);
        let fresh = replay(&self.layout, self.tag, self.remembered_max, reader, hint);
        let fresh = fresh.map_err(read_error)?;
        self.segments.forget_files();
        *self.lock() = fresh;
        Ok(())
    }

    fn refresh(&self, replay: &mut Replay) -> Result<(), OpenError> {
        if self.frozen.load(Ordering::Relaxed) {
            return Ok(());
        }
        match hint::read(&self.layout) {
            Some(hint) if hint.end > replay.end => replay.follow(&self.layout, self.tag, hint),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Replay> {
        // A fold that panicked half-way would show a part of a commit, but folding cannot panic.
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_error(error: OpenError) -> ReadError {
    match error {
        OpenError::Io { source, .. } => ReadError::Unavailable {
            reason: source.to_string(),
            source: Some(source),
        },
        other => ReadError::Corrupt {
            what: other.to_string(),
        },
    }
}
