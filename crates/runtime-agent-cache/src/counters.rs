//! What the cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What a cache has counted since it was made.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct AgentCacheCounters {
            $($(#[$doc])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
        }

        impl Counters {
            pub(crate) fn read(&self) -> AgentCacheCounters {
                AgentCacheCounters { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

/// A number that only grows; it orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

counters! {
    /// Leases of what was there.
    hits,
    /// Calls that found nothing to lease, those that joined a build included.
    misses,
    /// Calls in shadow mode that would have been hits.
    shadow_hits,
    /// Builds started.
    builds,
    /// Builds that failed, panicked or took too long.
    build_failures,
    /// Built or seeded objects that were not kept: something as new was there, or the key was
    /// evicted meanwhile.
    not_kept,
    /// Objects replaced by a newer version.
    swaps,
    /// Objects retired to make room.
    evictions,
    /// Objects retired because their time was over.
    expirations,
    /// Calls refused because of the caps.
    busy,
    /// Invalidations that were announced, by other processes or this one; of several of one key
    /// that are read at once, the newest.
    invalidations_heard,
    /// Times that announcements were removed before they were read, so that everything was retired.
    invalidations_missed,
    /// Disposals started: one for each generation.
    disposals,
    /// Disposals that failed, panicked or were aborted.
    disposal_failures,
    /// Disposals given up because they took too long.
    disposal_timeouts,
}
