//! What the cache says about itself.

use std::time::Duration;

use runtime_core::Timestamp;

use crate::LeaseError;

/// How a cached object stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EntryState {
    /// Its version.
    pub version: u64,
    /// Its generation.
    pub generation: u64,
    /// How many leases there are.
    pub leases: usize,
    /// How long it may still be leased; for ever without.
    pub expires_in: Option<Duration>,
    /// The version that is being built.
    pub building: Option<u64>,
    /// A newer version is wanted but could not be built.
    pub stale: Option<StaleState>,
}

/// Why an object is older than it should be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StaleState {
    /// The version wanted.
    pub wanted: u64,
    /// Why it could not be built.
    pub error: LeaseError,
    /// The attempts so far.
    pub attempts: u32,
    /// When it is tried again.
    pub next_retry: Timestamp,
}

/// What seeding did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeded {
    /// The newcomer is the object of its key now.
    Kept,
    /// The same version was there: its time was extended, the newcomer is disposed of.
    Extended,
    /// A newer version was there; the newcomer is disposed of.
    Older,
}

/// What an invalidation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidated {
    /// Nothing was cached, or it was new enough.
    Unchanged,
    /// The object was rebuilt and swapped.
    Swapped {
        /// The version that is there now.
        version: u64,
    },
    /// There is nothing to build any more: the object was retired.
    Retired,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Objects retired because their time was over.
    pub expired: usize,
    /// Rebuilds started because their pause was over.
    pub rebuilding: usize,
}

/// What was left when `close` stopped waiting; all zero when everything ended in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Objects still leased.
    pub leased: usize,
    /// Disposals still running.
    pub disposing: usize,
    /// Builds that had not noticed yet.
    pub tasks: usize,
}

impl CloseReport {
    /// Says whether every object was disposed of.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        *self == Self::default()
    }
}
