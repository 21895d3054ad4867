//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Clock, Random, RuntimeId, Tier};
use runtime_store::{Limits, SystemClock, SystemRandom};

/// Bounds of a store on files beyond [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsLimits {
    /// Commits that wait for the writer; more callers wait for a place.
    pub queue_commits_max: usize,
    /// Commits that share one sync.
    pub group_commits_max: usize,
    /// Bytes written before one sync, one commit more or less.
    pub group_bytes_max: usize,
    /// The size at which the first segment is full; each later one may be twice as large.
    pub segment_bytes_first: u64,
    /// The size at which no segment grows any more.
    pub segment_bytes_max: u64,
    /// How far a segment is filled ahead of its end at tier Power: a sync is faster when the file
    /// does not grow with it. Zero fills nothing; groups of more than a sixteenth of it do not
    /// either. Closing the store gives the space back.
    pub fill_bytes: u64,
    /// How many bytes of full segments are not in a checkpoint before one is written; more once
    /// checkpoints are larger than that.
    pub checkpoint_bytes: u64,
    /// Segment files held open for reading, and as many sidecars.
    pub open_segments_max: usize,
    /// How long nothing is written before a mark is, so that a store at rest has no ambiguous
    /// tail (S4).
    pub idle_mark: Duration,
    /// How often a read-only store looks for growth while somebody waits for it.
    pub follow_interval: Duration,
}

impl Default for FsLimits {
    fn default() -> Self {
        Self {
            queue_commits_max: 1024,
            group_commits_max: 1024,
            group_bytes_max: 4 * 1024 * 1024,
            segment_bytes_first: 1024 * 1024,
            segment_bytes_max: 64 * 1024 * 1024,
            fill_bytes: 256 * 1024,
            checkpoint_bytes: 8 * 1024 * 1024,
            open_segments_max: 64,
            idle_mark: Duration::from_secs(1),
            follow_interval: Duration::from_millis(100),
        }
    }
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct FsStoreOptions {
    /// Its directory; created if it does not exist, its parent must.
    pub directory: PathBuf,
    /// The runtime it must belong to; with none, whatever it belongs to, or a fresh id for a new
    /// store.
    pub runtime: Option<RuntimeId>,
    /// What an acknowledgement survives: [`Tier::Power`] or [`Tier::Crash`].
    pub tier: Tier,
    /// The bounds that every store has.
    pub limits: Limits,
    /// The bounds of a store on files.
    pub fs_limits: FsLimits,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The randomness for identities and keys.
    pub random: Arc<dyn Random>,
}

impl FsStoreOptions {
    /// Opens `directory` at tier Power with default bounds.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            runtime: None,
            tier: Tier::Power,
            limits: Limits::default(),
            fs_limits: FsLimits::default(),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
        }
    }

    /// Demands that the store belongs to a runtime.
    #[must_use]
    pub fn runtime(mut self, runtime: RuntimeId) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Chooses the tier.
    #[must_use]
    pub const fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    /// Replaces the clock and the randomness.
    #[must_use]
    pub fn world(mut self, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        self.clock = clock;
        self.random = random;
        self
    }
}
