//! Reading beside a writer, or without one: only what is published, never writing (S8).

use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime_store::ReadError;

use crate::error::OpenError;
use crate::frame::StoreTag;
use crate::hint;
use crate::index::Index;
use crate::layout::Layout;
use crate::replay::Replay;
use crate::segments::Segments;

#[derive(Debug)]
pub(crate) struct Follower {
    layout: Layout,
    tag: StoreTag,
    replay: Mutex<Replay>,
    pub(crate) segments: Segments,
}

impl Follower {
    pub(crate) fn new(
        layout: Layout,
        tag: StoreTag,
        replay: Replay,
        open_segments_max: usize,
    ) -> Self {
        Self {
            segments: Segments::new(layout.clone(), tag, open_segments_max),
            layout,
            tag,
            replay: Mutex::new(replay),
        }
    }

    /// Looks for growth, then reads the index.
    pub(crate) fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> Result<T, ReadError> {
        let mut replay = self.lock();
        self.refresh(&mut replay).map_err(read_error)?;
        Ok(read(&replay.fold.index))
    }

    fn refresh(&self, replay: &mut Replay) -> Result<(), OpenError> {
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
