//! Reading beside a writer, or without one: only what is published, never writing (S8).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime_store::ReadError;

use crate::checkpoint::Checkpoint;
use crate::error::OpenError;
use crate::fold::Fold;
use crate::frame::StoreTag;
use crate::hint;
use crate::history::History;
use crate::index::Index;
use crate::layout::{CHECKPOINTS, Layout};
use crate::replay::{Reader, Replay, replay};
use crate::segments::{Segments, is_gone};

#[derive(Debug)]
pub(crate) struct Follower {
    layout: Layout,
    tag: StoreTag,
    remembered_max: usize,
    /// That of the log when it was opened, which its readers' cursors are of.
    lineage: String,
    /// The log has another lineage now, so nothing more is read of it (V6).
    is_outdated: AtomicBool,
    /// What is read does not grow any more.
    frozen: AtomicBool,
    replay: Mutex<Replay>,
    pub(crate) segments: Segments,
    pub(crate) history: History,
}

impl Follower {
    pub(crate) fn new(
        layout: Layout,
        (tag, lineage): (StoreTag, String),
        replay: Replay,
        remembered_max: usize,
        open_segments_max: usize,
    ) -> Self {
        Self {
            segments: Segments::new(layout.clone(), tag, open_segments_max),
            history: History::new(layout.clone(), tag, open_segments_max, false),
            layout,
            tag,
            remembered_max,
            lineage,
            is_outdated: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            replay: Mutex::new(replay),
        }
    }

    /// Looks for growth, then reads the index.
    pub(crate) fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> Result<T, ReadError> {
        let mut replay = self.lock();
        if let Err(error) = self.refresh(&mut replay) {
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
        self.check_lineage()?;
        let hint = hint::read(&self.layout);
        let reader = Reader::Beside(hint);
        let fresh = replay(&self.layout, self.tag, self.remembered_max, reader, hint);
        let fresh = fresh.map_err(read_error)?;
        self.segments.forget_files();
        self.history.forget();
        *self.lock() = fresh;
        Ok(())
    }

    fn refresh(&self, replay: &mut Replay) -> Result<(), ReadError> {
        if self.is_outdated.load(Ordering::Relaxed) {
            return Err(outdated());
        }
        if self.frozen.load(Ordering::Relaxed) {
            return Ok(());
        }
        match hint::read(&self.layout) {
            Some(hint) if hint.end > replay.end => {
                let segment = replay.end.segment;
                let known = |fold: &Fold| (fold.incarnation, fold.damage.len());
                let before = known(&replay.fold);
                let followed = replay.follow(&self.layout, self.tag, hint);
                followed.map_err(read_error)?;
                if known(&replay.fold) != before {
                    // Before this writer the log may have been repaired or cut.
                    self.check_lineage()?;
                }
                if hint.end.segment > segment {
                    self.lie_on_checkpoint(replay);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_lineage(&self) -> Result<(), ReadError> {
        let format = self.layout.open_existing().map_err(read_error)?;
        if format.identity().lineage == self.lineage {
            return Ok(());
        }
        self.is_outdated.store(true, Ordering::Relaxed);
        Err(outdated())
    }

    /// Lets what is read lie on the writer's latest checkpoint, so that it does not grow with what
    /// is followed.
    fn lie_on_checkpoint(&self, replay: &mut Replay) {
        let known = replay.fold.index.below();
        let known = known.map_or(0, |below| below.sealed.number);
        let latest = self.layout.checkpoints().unwrap_or_default();
        let latest = latest.first().copied().unwrap_or_default();
        if latest <= known || latest >= replay.end.segment {
            return;
        }
        let opened = Checkpoint::open(&self.layout.path(CHECKPOINTS), self.tag, latest);
        let checked = opened.and_then(|opened| opened.check().map(|()| opened));
        let base = replay.base.unwrap_or_default();
        // Another base is told by a file that is missing; then everything is read anew.
        if let Ok(checkpoint) = checked
            && checkpoint.sealed.base == base
            && replay.fold.damage.is_empty()
        {
            replay.fold.index.rebase(Arc::new(checkpoint));
            self.history.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Replay> {
        // A fold that panicked half-way would show a part of a commit, but folding cannot panic.
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not worth trying again: only whoever opens the store anew knows which lineage it reads.
fn outdated() -> ReadError {
    ReadError::Corrupt {
        what: "the log has a new lineage, as after a repair; open the store again".to_owned(),
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
