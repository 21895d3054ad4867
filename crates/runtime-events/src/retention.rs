//! What retention may remove: a pure decision (V9).
//!
//! The store reports its units ([`Store::retention_units`](runtime_store::Store::retention_units))
//! and removes what a commit tells it to ([`Removal::Through`](runtime_store::Removal::Through)).

use std::time::Duration;

use runtime_core::Timestamp;
use runtime_store::{Position, RetentionUnit};

/// What is kept. Without a bound everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Events older than this may go.
    pub age_max: Option<Duration>,
    /// Of more events than this the oldest may go.
    pub events_max: Option<u64>,
    /// Of more bytes than this the oldest may go.
    pub bytes_max: Option<u64>,
    /// What a consumer has not acknowledged stays, whatever the bounds say.
    pub wait_for_consumers: bool,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            age_max: None,
            events_max: None,
            bytes_max: None,
            wait_for_consumers: true,
        }
    }
}

impl RetentionPolicy {
    /// Returns the last position that may go; zero when nothing may.
    ///
    /// `units` are in the order of the log. Units are taken from the front only while a bound
    /// is broken, so the rest always is the end of the log without a hole.
    #[must_use]
    pub fn removable(
        &self,
        units: &[RetentionUnit],
        now: Timestamp,
        watermark: Option<Position>,
    ) -> Position {
        let mut events: u64 = units.iter().map(|unit| unit.events).sum();
        let mut bytes: u64 = units.iter().map(|unit| unit.bytes).sum();
        let mut removable = Position(0);
        for unit in units {
            let too_old = self.age_max.is_some_and(|max| now.since(unit.newest) > max);
            let too_many = self.events_max.is_some_and(|max| events > max);
            let too_large = self.bytes_max.is_some_and(|max| bytes > max);
            let awaited = self.wait_for_consumers && watermark.is_some_and(|at| at < unit.last);
            if awaited || !(too_old || too_many || too_large) {
                break;
            }
            removable = unit.last;
            events -= unit.events;
            bytes -= unit.bytes;
        }
        removable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units() -> Vec<RetentionUnit> {
        let unit = |at: u64| RetentionUnit {
            last: Position(at * 10),
            newest: Timestamp::from_millis(at * 1_000),
            events: 10,
            bytes: 100,
        };
        (1..=5).map(unit).collect()
    }

    fn removable(policy: RetentionPolicy, watermark: Option<u64>) -> u64 {
        let now = Timestamp::from_millis(6_000);
        policy.removable(&units(), now, watermark.map(Position)).0
    }

    #[test]
    fn v9_each_bound_removes_from_the_front() {
        let none = RetentionPolicy::default();
        assert_eq!(removable(none, None), 0);
        let age_max = Some(Duration::from_millis(3_500));
        assert_eq!(removable(RetentionPolicy { age_max, ..none }, None), 20);
        let events_max = Some(25);
        assert_eq!(removable(RetentionPolicy { events_max, ..none }, None), 30);
        let bytes_max = Some(400);
        assert_eq!(removable(RetentionPolicy { bytes_max, ..none }, None), 10);
    }

    #[test]
    fn v9_a_consumer_that_is_behind_holds_retention_back() {
        let events_max = Some(0);
        let waits = RetentionPolicy {
            events_max,
            ..RetentionPolicy::default()
        };
        assert_eq!(removable(waits, Some(29)), 20);
        assert_eq!(removable(waits, Some(0)), 0);
        let wait_for_consumers = false;
        let hard = RetentionPolicy {
            wait_for_consumers,
            ..waits
        };
        assert_eq!(removable(hard, Some(0)), 50);
    }
}
