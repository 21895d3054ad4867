//! Bounds of the hub and of the live fan-out.

use std::time::Duration;

/// Bounds of an [`EventHub`](crate::EventHub).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventConfig {
    /// The longest page, in events; the store's own limit holds too (V6).
    pub page_events_max: usize,
    /// After so much silence a reader compares with the head of the log (V4).
    pub live_recheck: Duration,
    /// The longest text of a coalesced delta, in bytes (V3).
    pub delta_bytes_max: usize,
    /// How many appends may be under way at once; the next one waits (V8).
    pub appends_in_flight_max: usize,
    /// How long `close` waits for readers to take what is there.
    pub close_grace: Duration,
    /// Bounds of the live fan-out in memory.
    pub live: LiveConfig,
}

impl Default for EventConfig {
    fn default() -> Self {
        Self {
            page_events_max: 256,
            live_recheck: Duration::from_secs(1),
            delta_bytes_max: 16 * 1024,
            appends_in_flight_max: 64,
            close_grace: Duration::from_secs(5),
            live: LiveConfig::default(),
        }
    }
}

/// Bounds of a [`LiveAdapter`](crate::LiveAdapter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveConfig {
    /// How many messages a reader may be behind before it is told that it lags (V7).
    pub buffer_messages: usize,
    /// How many messages are buffered in all rooms together.
    pub buffered_messages_max: usize,
    /// How many readers there may be in all rooms together.
    pub readers_max: usize,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self {
            buffer_messages: 256,
            buffered_messages_max: 65_536,
            readers_max: 65_536,
        }
    }
}
