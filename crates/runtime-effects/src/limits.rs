//! The bounds of a host.

use std::time::Duration;

/// What bounds effects and promises, in bytes, entries and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectLimits {
    /// How long a wait, or a pause between attempts, holds its driver before it answers
    /// [`Interrupt::Suspended`](crate::Interrupt::Suspended); zero parks at once (E9).
    pub park_after: Duration,
    /// The largest outcome, in bytes of JSON; a larger one is recorded as a failure (E16).
    pub outcome_bytes_max: usize,
    /// The largest resolution of a promise, in bytes of JSON.
    pub resolution_bytes_max: usize,
    /// How many promises of one scope may be resolved before anybody waits for them (E10).
    pub early_resolutions_max: usize,
    /// How often a commit is submitted while the store says that it is unavailable.
    pub commit_tries_max: u32,
    /// The pause after the first such try; it doubles each time.
    pub commit_pause: Duration,
    /// The longest text kept of a panic.
    pub panic_text_bytes_max: usize,
    /// How long an occurrence that a tool reported is remembered, so that it starts nothing again.
    pub occurrence_retention: Duration,
}

impl Default for EffectLimits {
    fn default() -> Self {
        Self {
            park_after: Duration::from_secs(1),
            outcome_bytes_max: 1024 * 1024,
            resolution_bytes_max: 256 * 1024,
            early_resolutions_max: 64,
            commit_tries_max: 5,
            commit_pause: Duration::from_millis(20),
            panic_text_bytes_max: 2048,
            occurrence_retention: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}
