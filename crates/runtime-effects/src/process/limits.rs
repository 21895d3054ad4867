//! The bounds of processes.

use std::time::Duration;

/// What bounds processes, in bytes, entries and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    /// The largest registration, in bytes of JSON: its input and its declared event types.
    pub registration_bytes_max: usize,
    /// How many kinds of events one process may declare.
    pub event_types_max: usize,
    /// The largest payload of an event, in bytes of JSON.
    pub event_bytes_max: usize,
    /// The largest outcome, in bytes of JSON.
    pub outcome_bytes_max: usize,
    /// The longest reason of a cancellation, in bytes.
    pub reason_bytes_max: usize,
    /// How many sessions may have held one process.
    pub grants_max: usize,
    /// How many processes one occurrence of a trigger may start.
    pub subscriptions_max: usize,
    /// How often an operation is decided anew when somebody else changes the process meanwhile.
    pub contention_tries_max: u32,
    /// How long the id of a retired process cannot be used again.
    pub retention: Duration,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self {
            registration_bytes_max: 1024 * 1024,
            event_types_max: 64,
            event_bytes_max: 256 * 1024,
            outcome_bytes_max: 1024 * 1024,
            reason_bytes_max: 4 * 1024,
            grants_max: 64,
            subscriptions_max: 64,
            contention_tries_max: 16,
            retention: Duration::from_secs(24 * 60 * 60),
        }
    }
}
