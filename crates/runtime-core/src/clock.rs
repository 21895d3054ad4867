//! The clock seam and the randomness seam (C4).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wall time in milliseconds since 1970-01-01T00:00:00Z; what is persisted.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Makes a time from milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time `duration` later; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Returns the time `duration` earlier; saturates at the beginning of time.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Returns how long after `earlier` this is; zero when the wall clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A wait handed out by a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The one source of time.
///
/// Wall time (`now`) is what is persisted and may jump; timers and leases run on `monotonic`,
/// which never goes backwards. The kernel itself calls neither: it takes a [`Timestamp`].
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the wall time.
    fn now(&self) -> Timestamp;

    /// Returns the time since an arbitrary fixed point of this process.
    fn monotonic(&self) -> Duration;

    /// Returns a future that is ready once `duration` has passed on the monotonic clock.
    ///
    /// # Cancel safety
    /// Dropping it forgets the wait.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The one source of randomness; fit for keys.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// Fills the bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// Returns ten random bytes, what a generated id takes.
    fn ten(&self) -> [u8; 10] {
        let mut bytes = [0; 10];
        self.fill(&mut bytes);
        bytes
    }
}
