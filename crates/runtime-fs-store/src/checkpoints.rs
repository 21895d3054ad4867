//! When checkpoints are written, and by whom: a thread of its own folds the sealed segments once
//! more and lets the index lie on what it wrote. A failure costs nothing but time on opening.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::checkpoint::{Checkpoint, Sealed};
use crate::config::FsLimits;
use crate::frame::StoreTag;
use crate::fs;
use crate::layout::{CHECKPOINTS, Layout};
use crate::replay::{Replay, fold_sealed};
use crate::segment::BASE;
use crate::shared::Shared;
use crate::sidecar::Sidecar;

/// Bytes of the log that are folded in memory before a checkpoint is written on the way.
const FOLD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Work on files that commits do not touch: one at a time, and none after the lock of the
/// directory is given back.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    has_ended: bool,
    /// After a failed cleaning none follows: a base may have its name then that nothing looks
    /// into, and whether it is durable is not known.
    pub(crate) cleaning_failed: bool,
}

#[derive(Debug)]
pub(crate) struct Checkpoints {
    layout: Layout,
    tag: StoreTag,
    remembered_max: usize,
    bytes_min: u64,
    shared: Arc<Shared>,
    maintenance: Mutex<Maintenance>,
    /// Set when the store is closed, so that a long work ends early.
    ends: AtomicBool,
}

impl Checkpoints {
    pub(crate) fn new(
        layout: Layout,
        tag: StoreTag,
        remembered_max: usize,
        limits: FsLimits,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            layout,
            tag,
            remembered_max,
            bytes_min: limits.checkpoint_bytes,
            shared,
            maintenance: Mutex::default(),
            ends: AtomicBool::new(false),
        }
    }

    /// Begins a work; an error once the store is closed.
    pub(crate) fn lock(&self) -> io::Result<MutexGuard<'_, Maintenance>> {
        let lock = self.maintenance.lock();
        let maintenance = lock.unwrap_or_else(PoisonError::into_inner);
        match maintenance.has_ended {
            true => Err(closed()),
            false => Ok(maintenance),
        }
    }

    /// Says whether a long work may go on: an error once the store is being closed.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        match self.ends.load(Ordering::Acquire) {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    /// Waits for the end of the work under way; none begins any more.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Release);
        let lock = self.maintenance.lock();
        lock.unwrap_or_else(PoisonError::into_inner).has_ended = true;
    }

    /// Writes a checkpoint up to a segment that has been sealed, if enough of the log is not in
    /// one yet. What is written is never more than what was sealed meanwhile.
    pub(crate) fn sealed(&self, through: u32) {
        let Ok(maintenance) = self.lock() else {
            return;
        };
        if maintenance.cleaning_failed {
            return;
        }
        let written = self.is_due(through).and_then(|is_due| match is_due {
            true => self.write(through).map(drop),
            false => Ok(()),
        });
        if let Err(error) = written {
            tracing::warn!(%error, "no checkpoint was written; opening reads more of the log");
        }
    }

    fn is_due(&self, through: u32) -> io::Result<bool> {
        let below = self.shared.read_index().below().cloned();
        let known = below.as_ref().map_or(0, |below| below.sealed.number);
        let base = self.layout.base().map_err(io::Error::other)?;
        let covered = below.as_ref().map(|below| below.sealed.base);
        let mut bytes = match base.filter(|base| covered != Some(*base)) {
            // Without a checkpoint of it every opening reads all of it, as it does the log.
            Some(base) => self.length_of(base | BASE)?,
            None => 0,
        };
        for number in self.layout.segments().map_err(io::Error::other)? {
            if (known + 1..=through).contains(&number) {
                bytes += self.length_of(number)?;
            }
        }
        // A large checkpoint is written for as much log as it is large, so that writing them
        // costs no more than writing the log.
        Ok(bytes >= self.bytes_min.max(below.map_or(0, |below| below.bytes())))
    }

    fn length_of(&self, number: u32) -> io::Result<u64> {
        let file = fs::open_read(&self.layout.segment_path(number))?;
        fs::length(&file)
    }

    /// Writes a checkpoint, and lets the index lie on it. The caller holds the lock.
    pub(crate) fn write(&self, through: u32) -> io::Result<Arc<Checkpoint>> {
        let checkpoint = write(&self.layout, self.tag, self.remembered_max, through)?;
        let checkpoint = Arc::new(checkpoint);
        self.shared.write_index().rebase(Arc::clone(&checkpoint));
        self.shared.history.forget();
        Ok(checkpoint)
    }
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}

/// Folds sealed segments from the disk, writes their sidecars and a checkpoint, and opens it.
pub(crate) fn write(
    layout: &Layout,
    tag: StoreTag,
    remembered_max: usize,
    through: u32,
) -> io::Result<Checkpoint> {
    fs::create_directory(&layout.path(CHECKPOINTS))?;
    let mut reached = 0;
    loop {
        let replay = fold_sealed(layout, tag, remembered_max, through, FOLD_BYTES_MAX);
        let replay = replay.map_err(io::Error::other)?;
        if replay.end.segment <= reached {
            // What was written is not believed, so it would be written again for ever.
            return Err(io::Error::other(format!(
                "the log goes no further than segment {reached} of {through}"
            )));
        }
        reached = replay.end.segment;
        let checkpoint = write_one(layout, tag, &replay)?;
        if reached >= through {
            return Ok(checkpoint);
        }
    }
}

fn write_one(layout: &Layout, tag: StoreTag, replay: &Replay) -> io::Result<Checkpoint> {
    let fold = &replay.fold;
    if let Some(damage) = fold.damage.first() {
        return Err(io::Error::other(format!("the log is damaged: {damage:?}")));
    }
    let directory = layout.path(CHECKPOINTS);
    for unit in fold.index.units() {
        Sidecar::write(&directory, tag, unit, &fold.index)?;
    }
    let sealed = Sealed {
        number: replay.end.segment,
        base: replay.base.unwrap_or_default(),
        bytes: replay.end.offset,
        last_frame: fold.number,
        last_position: fold.index.head(),
        incarnation: fold.incarnation,
        buffered: fold.buffered,
    };
    Checkpoint::write(&directory, tag, sealed, &fold.index)?;
    layout.remove_stale_caches(sealed.number, sealed.base)?;
    // Read back, so that what the index lies on is what is on the disk.
    let checkpoint = Checkpoint::open(&directory, tag, sealed.number)?;
    checkpoint.check()?;
    Ok(checkpoint)
}

/// Hands sealed segments to a thread, so that no commit waits for a checkpoint.
#[cfg(not(feature = "simulation"))]
#[derive(Debug)]
pub(crate) struct Checkpointer {
    sealed: Option<std::sync::mpsc::Sender<u32>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[cfg(not(feature = "simulation"))]
impl Checkpointer {
    pub(crate) fn start(checkpoints: Arc<Checkpoints>) -> io::Result<Self> {
        let (sealed, waiting) = std::sync::mpsc::channel::<u32>();
        let thread = std::thread::Builder::new()
            .name("fs-store-checkpoints".to_owned())
            .spawn(move || {
                while let Ok(number) = waiting.recv() {
                    // Of several that wait the last stands for all.
                    let number = waiting.try_iter().last().unwrap_or(number);
                    checkpoints.sealed(number);
                }
            })?;
        Ok(Self {
            sealed: Some(sealed),
            thread: Some(thread),
        })
    }

    pub(crate) fn sealed(&self, number: u32) {
        if let Some(sealed) = &self.sealed {
            // The thread ends only after this.
            let _ = sealed.send(number);
        }
    }
}

#[cfg(not(feature = "simulation"))]
impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.sealed.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the checkpoints panicked");
        }
    }
}

/// The simulation's file system lives on one thread.
#[cfg(feature = "simulation")]
#[derive(Debug)]
pub(crate) struct Checkpointer(Arc<Checkpoints>);

#[cfg(feature = "simulation")]
impl Checkpointer {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "the same signature as the thread's"
    )]
    pub(crate) fn start(checkpoints: Arc<Checkpoints>) -> io::Result<Self> {
        Ok(Self(checkpoints))
    }

    pub(crate) fn sealed(&self, number: u32) {
        self.0.sealed(number);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::history::History;
    use crate::index::Index;
    use crate::segments::Segments;

    /// S6: once the store is being closed a long work ends where it is, and none begins.
    #[test]
    fn s6_no_work_goes_on_once_the_store_is_closed() {
        let tag = StoreTag(*b"store-01");
        let layout = Layout::new(Path::new("nowhere"));
        let segments = Segments::new(layout.clone(), tag, 1);
        let history = History::new(layout.clone(), tag, 1, true);
        let shared = Arc::new(Shared::new(Index::default(), segments, history));
        let checkpoints = Checkpoints::new(layout, tag, 1, FsLimits::default(), shared);
        assert!(checkpoints.lock().is_ok());
        assert!(checkpoints.go_on().is_ok());
        checkpoints.end();
        let refused = checkpoints.go_on().expect_err("it is being closed");
        assert_eq!(refused.to_string(), "the store is closed");
        assert!(checkpoints.lock().is_err());
    }
}
