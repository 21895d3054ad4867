//! The time of the database: one clock for every process that shares it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime_core::{Clock, Sleep, Timestamp};
use runtime_store::SystemClock;

/// A clock whose wall time is the database server's, so that leases of several machines are
/// compared by one clock.
///
/// It is set by every answer of the server and goes on by itself in between; it is off by at
/// most half of the quickest round trip that was seen, and what the machine's own clock drifts
/// in a minute. Its monotonic time and its timers are the machine's.
#[derive(Debug, Clone)]
pub struct DatabaseClock {
    machine: SystemClock,
    set: Arc<Mutex<Set>>,
}

/// What the clock was set by last.
#[derive(Debug, Clone, Copy)]
struct Set {
    /// Wall time minus monotonic time, in milliseconds.
    offset: i128,
    /// By how much it may be off.
    error: Duration,
    /// When, on the monotonic clock.
    at: Duration,
}

/// After so long a setting counts as worse than any new one.
const SETTING_LIFE: Duration = Duration::from_secs(60);

impl DatabaseClock {
    pub(crate) fn new(server_millis: u64, round_trip: Duration) -> Self {
        let machine = SystemClock::new();
        let set = Set::new(&machine, server_millis, round_trip);
        Self {
            machine,
            set: Arc::new(Mutex::new(set)),
        }
    }

    /// Sets it by an answer, if that is better than what it was set by.
    pub(crate) fn learn(&self, server_millis: u64, round_trip: Duration) {
        let new = Set::new(&self.machine, server_millis, round_trip);
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if new.error <= set.error || new.at.saturating_sub(set.at) > SETTING_LIFE {
            *set = new;
        }
    }
}

impl Set {
    fn new(machine: &SystemClock, server_millis: u64, round_trip: Duration) -> Self {
        let at = machine.monotonic();
        // The server looked at its clock at the end of the call, so the answer is at most as old
        // as the whole of it.
        let error = round_trip / 2;
        let now = i128::from(server_millis) + millis(error);
        Self {
            offset: now - millis(at),
            error,
            at,
        }
    }
}

fn millis(duration: Duration) -> i128 {
    i128::try_from(duration.as_millis()).unwrap_or(i128::MAX)
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        let offset = self
            .set
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .offset;
        let now = offset + millis(self.machine.monotonic());
        Timestamp::from_millis(u64::try_from(now).unwrap_or(0))
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.machine.sleep(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_does_not_set_it_back() {
        let clock = DatabaseClock::new(1_000_000, Duration::from_millis(2));
        clock.learn(500, Duration::from_secs(20));
        assert!(clock.now().as_millis() >= 1_000_000);
        clock.learn(2_000_000, Duration::from_millis(1));
        assert!(clock.now().as_millis() >= 2_000_000);
    }
}
