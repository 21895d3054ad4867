//! When a server that failed may be started again: pure, given the time and a fraction.

use std::time::Duration;

/// The failures of a server that follow each other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BackOff {
    failures: u32,
    /// On the monotonic clock.
    not_before: Duration,
}

/// How the pauses grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
}

impl BackOff {
    /// Returns how long to wait still.
    pub(crate) fn wait(self, now: Duration) -> Option<Duration> {
        let wait = self.not_before.checked_sub(now)?;
        (!wait.is_zero()).then_some(wait)
    }

    /// Notes a start that failed. `fraction` in 0..=1 spreads the pause over its upper half.
    pub(crate) fn start_failed(&mut self, now: Duration, pauses: Pauses, fraction: f64) {
        self.failures = self.failures.saturating_add(1);
        self.pause(self.failures, now, pauses, fraction);
    }

    /// Notes that a running server ended. The first time it is started again at once: most ends
    /// are accidents, and a turn may be waiting. One that ran for longer than the longest pause
    /// starts with a clean record.
    pub(crate) fn ended(&mut self, ran: Duration, now: Duration, pauses: Pauses, fraction: f64) {
        if ran > pauses.max {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.pause(self.failures - 1, now, pauses, fraction);
    }

    fn pause(&mut self, failures: u32, now: Duration, pauses: Pauses, fraction: f64) {
        let Some(doublings) = failures.checked_sub(1) else {
            self.not_before = now;
            return;
        };
        let factor = 2_u32.saturating_pow(doublings);
        let longest = pauses.initial.saturating_mul(factor).min(pauses.max);
        self.not_before = now + longest.mul_f64(0.5 + 0.5 * fraction.clamp(0.0, 1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses {
        initial: Duration::from_millis(500),
        max: Duration::from_secs(30),
    };

    #[test]
    fn m9_pauses_double_up_to_the_longest() {
        let mut backoff = BackOff::default();
        let now = Duration::from_secs(100);
        assert_eq!(backoff.wait(now), None);
        let mut waits = Vec::new();
        for _ in 0..9 {
            backoff.start_failed(now, PAUSES, 1.0);
            waits.push(backoff.wait(now).expect("a pause").as_millis());
        }
        let expected = [
            500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000,
        ];
        assert_eq!(waits, expected);
        assert_eq!(backoff.wait(now + PAUSES.max), None);
        backoff.start_failed(now, PAUSES, 0.0);
        assert_eq!(backoff.wait(now), Some(PAUSES.max / 2));
    }

    #[test]
    fn m9_a_server_that_dies_is_started_at_once_but_not_again_and_again() {
        let mut backoff = BackOff::default();
        let now = Duration::from_secs(100);
        let second = Duration::from_secs(1);
        backoff.ended(second, now, PAUSES, 1.0);
        assert_eq!(backoff.wait(now), None);
        backoff.ended(second, now, PAUSES, 1.0);
        assert_eq!(backoff.wait(now), Some(PAUSES.initial));
        backoff.ended(PAUSES.max * 2, now, PAUSES, 1.0);
        assert_eq!(backoff.wait(now), None, "it ran long enough");
    }
}
