//! What retention removes (V9), and erasure (V4): a pure decision, and one commit.
//!
//! The store reports its units ([`Store::retention_units`](runtime_store::Store::retention_units))
//! and removes what a commit tells it to ([`Removal::Through`](runtime_store::Removal::Through)).

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use runtime_core::{Classified, ErrorClass, Timestamp, Topic, WireError};
use runtime_store::{Commit, CommitError, Page, Position, ReadError, Removal, RetentionUnit};

use crate::EventHub;

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
        let mut sieve = Sieve::new(*self, now, watermark, units.iter().collect());
        let taken = units.iter().take_while(|unit| sieve.takes(unit));
        taken.last().map_or(Position(0), |unit| unit.last)
    }
}

/// What is left of a log while its oldest units go.
#[derive(Debug, Clone, Copy)]
struct Sieve {
    policy: RetentionPolicy,
    now: Timestamp,
    watermark: Option<Position>,
    left: Extent,
    /// A bound is broken, but a consumer has not come so far.
    held_back: bool,
}

/// So much of a log.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    events: u64,
    bytes: u64,
}

impl<'unit> FromIterator<&'unit RetentionUnit> for Extent {
    fn from_iter<I: IntoIterator<Item = &'unit RetentionUnit>>(units: I) -> Self {
        units.into_iter().fold(Self::default(), Self::and)
    }
}

impl Extent {
    fn and(self, unit: &RetentionUnit) -> Self {
        Self {
            events: self.events.saturating_add(unit.events),
            bytes: self.bytes.saturating_add(unit.bytes),
        }
    }
}

impl Sieve {
    const fn new(
        policy: RetentionPolicy,
        now: Timestamp,
        watermark: Option<Position>,
        left: Extent,
    ) -> Self {
        Self {
            policy,
            now,
            watermark,
            left,
            held_back: false,
        }
    }

    /// Takes the oldest unit that is left, if it may go.
    fn takes(&mut self, unit: &RetentionUnit) -> bool {
        let (policy, left) = (&self.policy, self.left);
        let too_old = policy
            .age_max
            .is_some_and(|max| self.now.since(unit.newest) > max);
        let too_many = policy.events_max.is_some_and(|max| left.events > max);
        let too_large = policy.bytes_max.is_some_and(|max| left.bytes > max);
        if !(too_old || too_many || too_large) {
            return false;
        }
        if policy.wait_for_consumers && self.watermark.is_some_and(|at| at < unit.last) {
            self.held_back = true;
            return false;
        }
        self.left.events = left.events.saturating_sub(unit.events);
        self.left.bytes = left.bytes.saturating_sub(unit.bytes);
        true
    }
}

/// What a pass of retention did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retained {
    /// Nothing up to here is served any more because of this pass; zero if nothing went.
    pub removed_through: Position,
    /// How many events went.
    pub events: u64,
    /// How many bytes, or about so many; the store frees them later.
    pub bytes: u64,
    /// More would have gone, but a consumer has not acknowledged it.
    pub held_back: bool,
}

/// Saves what a host goes on needing of events before retention removes them.
///
/// [`EventHub::retain`] asks it each time, so that no bound and no consumer makes a host forget
/// what it still works with.
#[async_trait]
pub trait CarryForward: fmt::Debug + Send + Sync + 'static {
    /// Copies what is still needed of the events up to a position to where retention does not
    /// reach, durably. It may be called again for the same events, also after it failed or was
    /// dropped in the middle, and by several processes at once.
    ///
    /// # Errors
    /// Why it could not: then nothing is removed. A panic counts as such.
    async fn carry_forward(&self, through: Position) -> Result<(), WireError>;
}

/// Why retention or erasure did nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// The topic is the whole runtime, which cannot be erased.
    #[error("the log of the whole runtime cannot be erased; erase sessions, turns or processes")]
    NotErasable,
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What is still needed could not be carried forward.
    #[error("what is still needed of old events could not be saved: {0}")]
    CarryForward(WireError),
}

impl Classified for RetentionError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotErasable => "topic_not_erasable",
            Self::Read(error) => error.code(),
            Self::Commit(error) => error.code(),
            Self::CarryForward(_) => "carry_forward_failed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotErasable => ErrorClass::Invalid,
            Self::Read(error) => error.class(),
            Self::Commit(error) => error.class(),
            Self::CarryForward(error) => error.class,
        }
    }
}

impl EventHub {
    /// Removes what the policy lets go, oldest first, in one commit. Readers whose place is before
    /// it are told by a gap, consumers that have acknowledged it miss nothing, and what the host
    /// still needs is carried forward first ([`HubParts::carry_forward`](crate::HubParts)).
    ///
    /// # Errors
    /// [`RetentionError`]; after class Indeterminate it may have happened.
    ///
    /// # Cancel safety
    /// Dropping the future removes all of it or nothing.
    pub async fn retain(&self, policy: &RetentionPolicy) -> Result<Retained, RetentionError> {
        let retained = self.removable(policy).await?;
        let through = retained.removed_through;
        if through == Position(0) {
            return Ok(retained);
        }
        if let Some(carry) = &self.shared.carry_forward {
            let carried = AssertUnwindSafe(async { carry.carry_forward(through).await });
            let carried = carried.catch_unwind().await.unwrap_or_else(|_panic| {
                let message = "whoever carries forward panicked";
                Err(WireError::new(
                    "task_panicked",
                    ErrorClass::Terminal,
                    message,
                ))
            });
            carried.map_err(RetentionError::CarryForward)?;
        }
        self.remove(Removal::Through(through)).await?;
        Ok(retained)
    }

    /// Tells what [`retain`](Self::retain) would remove now.
    ///
    /// # Errors
    /// [`RetentionError::Read`].
    pub async fn removable(&self, policy: &RetentionPolicy) -> Result<Retained, RetentionError> {
        let watermark = match policy.wait_for_consumers {
            true => self.watermark().await?,
            false => None,
        };
        let mut whole = Extent::default();
        self.each_unit(|unit| {
            whole = whole.and(unit);
            true
        })
        .await?;
        let mut sieve = Sieve::new(*policy, self.shared.clock.now(), watermark, whole);
        let mut last = Position(0);
        self.each_unit(|unit| {
            let taken = sieve.takes(unit);
            if taken {
                last = unit.last;
            }
            taken
        })
        .await?;
        Ok(Retained {
            removed_through: last,
            events: whole.events - sieve.left.events,
            bytes: whole.bytes - sieve.left.bytes,
            held_back: sieve.held_back,
        })
    }

    /// Erases what the events of a topic say, for good; their places stay, as stubs of the kind
    /// [`EventKind::Erased`](runtime_core::EventKind::Erased), so that nobody sees a gap (V4).
    ///
    /// # Errors
    /// [`RetentionError`]; after class Indeterminate it may have happened.
    ///
    /// # Cancel safety
    /// Dropping the future erases all of it or nothing.
    pub async fn erase(&self, topic: &Topic) -> Result<(), RetentionError> {
        let stream = topic.stream_key().ok_or(RetentionError::NotErasable)?;
        self.remove(Removal::Stream(stream)).await
    }

    async fn remove(&self, removal: Removal) -> Result<(), RetentionError> {
        let shared = &self.shared;
        let commit = Commit::fresh(&*shared.store, &*shared.clock, &*shared.random);
        shared.store.commit(commit.remove(removal)).await?;
        Ok(())
    }

    /// Shows the units of the log in order, until `more` says that it is enough.
    async fn each_unit(
        &self,
        mut more: impl FnMut(&RetentionUnit) -> bool + Send,
    ) -> Result<(), ReadError> {
        let limit = self.shared.store.capabilities().limits.page_entries_max;
        let mut after = Position(0);
        loop {
            let page = Page::after(after, limit);
            let units = self.shared.store.retention_units(page).await?;
            for unit in &units {
                if !more(unit) {
                    return Ok(());
                }
                after = unit.last;
            }
            if units.len() < limit {
                return Ok(());
            }
        }
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

    /// A bound is what may be there: what reaches it stays.
    #[test]
    fn v9_what_is_exactly_at_a_bound_stays() {
        let none = RetentionPolicy::default();
        let age_max = Some(Duration::from_millis(4_000));
        assert_eq!(removable(RetentionPolicy { age_max, ..none }, None), 10);
        let events_max = Some(30);
        assert_eq!(removable(RetentionPolicy { events_max, ..none }, None), 20);
        let bytes_max = Some(300);
        assert_eq!(removable(RetentionPolicy { bytes_max, ..none }, None), 20);
    }
}
