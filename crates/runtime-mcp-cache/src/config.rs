//! The bounds of the cache, each with a name (M4, M5).

use std::time::Duration;

/// The bounds of a [`DiscoveryCache`](crate::DiscoveryCache).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// The number of keys kept, failures included.
    pub entries_max: usize,
    /// The number of tools of an entry that is kept.
    pub tools_max: usize,
    /// The bytes of an entry that is kept.
    pub entry_bytes_max: u64,
    /// The bytes of all entries together.
    pub total_bytes_max: u64,
    /// The number of tools that a server may list at all.
    pub tools_hard_max: usize,
    /// The bytes that a server may list at all.
    pub bytes_hard_max: u64,
    /// The number of pages that a list may have.
    pub pages_max: usize,
    /// How long a value stays fresh when the server of an old era says nothing.
    pub ttl: Duration,
    /// How far, in percent, that time is moved at random, so that entries do not expire together.
    pub ttl_jitter_percent: u32,
    /// The longest time that a server may ask for.
    pub ttl_max: Duration,
    /// How long a value is still served after it became stale.
    pub stale_window: Duration,
    /// The least time between two refreshes of one stale entry: what a storm of change
    /// notifications, or a time to live of zero, costs at most.
    pub refresh_interval_min: Duration,
    /// The wait after a first failure; it doubles with each further one.
    pub retry_base: Duration,
    /// The longest wait after a failure.
    pub retry_max: Duration,
    /// How long one fetch may take, waiting for its turn included.
    pub discovery_timeout: Duration,
    /// The number of fetches that run at once.
    pub discoveries_max: usize,
    /// The number of fetches that run or wait for their turn, those of invalidated keys included.
    pub flights_max: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            entries_max: 1_024,
            tools_max: 256,
            entry_bytes_max: MIB,
            total_bytes_max: 64 * MIB,
            tools_hard_max: 10_000,
            bytes_hard_max: 16 * MIB,
            pages_max: 1_000,
            ttl: Duration::from_secs(3_600),
            ttl_jitter_percent: 10,
            ttl_max: Duration::from_secs(24 * 3_600),
            stale_window: Duration::from_secs(3_600),
            refresh_interval_min: Duration::from_secs(1),
            retry_base: Duration::from_secs(1),
            retry_max: Duration::from_secs(300),
            discovery_timeout: Duration::from_secs(30),
            discoveries_max: 16,
            flights_max: 1_024,
        }
    }
}

impl CacheConfig {
    /// Says whether a value of so many bytes and tools is kept.
    pub(crate) fn is_kept(&self, bytes: u64, tools: usize) -> bool {
        bytes <= self.entry_bytes_max.min(self.total_bytes_max) && tools <= self.tools_max
    }

    /// Returns what a fetch must keep to.
    #[must_use]
    pub fn fetch_limits(&self) -> FetchLimits {
        FetchLimits {
            bytes_max: self.bytes_hard_max,
            tools_max: self.tools_hard_max,
            pages_max: self.pages_max,
            timeout: self.discovery_timeout,
        }
    }
}

/// What a fetch must keep to; beyond it, it fails with
/// [`FetchError::TooLarge`](crate::FetchError::TooLarge) as soon as it notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// The bytes of the whole list.
    pub bytes_max: u64,
    /// The number of tools.
    pub tools_max: usize,
    /// The number of pages.
    pub pages_max: usize,
    /// How long it may take; the cache drops it then.
    pub timeout: Duration,
}
