//! What the cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What a cache has counted since it was made.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct CacheCounters {
            $($(#[$doc])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
        }

        impl Counters {
            pub(crate) fn read(&self) -> CacheCounters {
                CacheCounters { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
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
    /// Answers from a fresh value.
    fresh,
    /// Answers from a stale value.
    stale,
    /// Callers who waited for a fetch.
    waited,
    /// Answers from a failure.
    negative,
    /// Answers from a refused credential.
    blocked,
    /// Answers without a value because it is too large to keep.
    too_large,
    /// Fetches started.
    fetches,
    /// Fetches that brought a failure.
    failures,
    /// Fetches that came too late and were not stored.
    discarded,
    /// Refreshes that brought what was there.
    unchanged,
    /// Refreshes that brought something else.
    changed,
    /// Entries that made room for others.
    evicted,
    /// Entries that the archive did not take; they are written with the next landing.
    archive_failures,
}
