//! A clock that a test drives.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use runtime_core::{Clock, Sleep, Timestamp};

/// A clock that stands still until a test moves it. A clone is the same clock.
///
/// Waiters are woken earliest first. With a single-threaded runtime a run is therefore the same
/// each time.
#[derive(Debug, Clone)]
pub struct SimulatedClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    wall: Timestamp,
    monotonic: Duration,
    /// The waits by when they end, then by when they began.
    waits: BTreeMap<(Duration, u64), Waker>,
    waits_begun: u64,
}

impl SimulatedClock {
    /// Starts at a wall time; the monotonic clock starts at zero.
    #[must_use]
    pub fn new(wall: Timestamp) -> Self {
        let state = State {
            wall,
            monotonic: Duration::ZERO,
            waits: BTreeMap::new(),
            waits_begun: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Moves both clocks on and wakes the waits that end, the earliest first. A task that waits
    /// again in a loop sees one jump, not each of its periods; use
    /// [`advance_to_next`](Self::advance_to_next) for those.
    pub fn advance(&self, duration: Duration) {
        let ended = {
            let mut state = self.state();
            state.wall = state.wall.after(duration);
            state.monotonic = state.monotonic.saturating_add(duration);
            let now = state.monotonic;
            let later = state.waits.split_off(&(now, u64::MAX));
            std::mem::replace(&mut state.waits, later)
        };
        ended.into_values().for_each(Waker::wake);
    }

    /// Moves both clocks on to the end of the earliest wait and wakes it; says how far that was,
    /// or nothing when nobody waits.
    pub fn advance_to_next(&self) -> Option<Duration> {
        let duration = {
            let state = self.state();
            let (&(end, _), _) = state.waits.first_key_value()?;
            end.saturating_sub(state.monotonic)
        };
        self.advance(duration);
        Some(duration)
    }

    /// Sets the wall clock alone, forwards or backwards (R15). Waits do not notice.
    pub fn set_wall(&self, wall: Timestamp) {
        self.state().wall = wall;
    }

    /// Returns how many waits there are that have been polled and have not ended.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().waits.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.state().wall
    }

    fn monotonic(&self) -> Duration {
        self.state().monotonic
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.state();
        state.waits_begun += 1;
        Box::pin(Wait {
            key: (state.monotonic.saturating_add(duration), state.waits_begun),
            clock: self.clone(),
        })
    }
}

struct Wait {
    key: (Duration, u64),
    clock: SimulatedClock,
}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.monotonic >= self.key.0 {
            return Poll::Ready(());
        }
        let replaced = state.waits.insert(self.key, context.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // A waker may own the task that owns this wait, so it is dropped after the lock.
        let _waker = self.clock.state().waits.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_when_its_time_has_come_and_not_before() {
        let clock = SimulatedClock::new(Timestamp::from_millis(0));
        let wait = tokio::spawn(clock.sleep(Duration::from_secs(2)));
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
        assert!(!wait.is_finished());
        assert_eq!(clock.waiting(), 1);
        assert_eq!(clock.advance_to_next(), Some(Duration::from_secs(1)));
        wait.await.expect("the wait ends");
        assert_eq!(clock.advance_to_next(), None);
    }

    #[tokio::test]
    async fn a_wall_jump_neither_ends_nor_delays_a_wait_r15() {
        let clock = SimulatedClock::new(Timestamp::from_millis(1_000_000));
        let wait = tokio::spawn(clock.sleep(Duration::from_secs(2)));
        tokio::task::yield_now().await;
        clock.set_wall(Timestamp::from_millis(u64::MAX));
        tokio::task::yield_now().await;
        assert!(!wait.is_finished());
        clock.set_wall(Timestamp::from_millis(0));
        clock.advance(Duration::from_secs(2));
        wait.await.expect("the wait ends");
        assert_eq!(clock.now(), Timestamp::from_millis(2_000));
    }

    #[tokio::test]
    async fn a_dropped_wait_is_forgotten() {
        let clock = SimulatedClock::new(Timestamp::from_millis(0));
        let mut wait = clock.sleep(Duration::from_secs(1));
        let polled = std::future::poll_fn(|context| Poll::Ready(wait.as_mut().poll(context)));
        assert!(polled.await.is_pending());
        assert_eq!(clock.waiting(), 1);
        drop(wait);
        assert_eq!(clock.waiting(), 0);
    }
}
