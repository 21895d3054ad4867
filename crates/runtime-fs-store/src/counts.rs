//! Counts of what was written: what a commit costs can be told from them, where time cannot.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a store has written to its log since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteCounts {
    /// Commits that were written; repetitions and refusals are not.
    pub commits: u64,
    /// Groups of commits that were written at once.
    pub groups: u64,
    /// Syncs of the log, those of marks and full segments included.
    pub syncs: u64,
    /// Bytes of frames, marks included.
    pub bytes: u64,
}

/// The counters behind [`WriteCounts`]. Only the writer adds; each is read for itself.
#[derive(Debug, Default)]
pub(crate) struct WriteCounters {
    commits: AtomicU64,
    groups: AtomicU64,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl WriteCounters {
    pub(crate) fn add_group(&self, commits: usize) {
        self.commits.fetch_add(commits as u64, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> WriteCounts {
        WriteCounts {
            commits: self.commits.load(Ordering::Relaxed),
            groups: self.groups.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
