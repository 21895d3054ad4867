//! What a caller gets: always which state, how old, what went wrong, and when it is tried again.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Digest, Timestamp, WireError};

use crate::{CacheKey, Changes};

/// The state that an answer comes from (M1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The value is new enough; nobody was asked.
    Fresh,
    /// The value is older than it should be, within the window; it is being fetched anew.
    Stale,
    /// The value was fetched for this call.
    Cold,
    /// It could not be fetched, now or lately. Not the same as an empty list.
    Negative,
    /// The credential was refused. Nothing is asked until the entry is reloaded or unblocked.
    Blocked,
    /// It was fetched, but is not kept.
    Uncached(UncachedReason),
}

/// Why a value is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UncachedReason {
    /// It is over the limit of what is kept of one server (M5). Only those who waited for the
    /// fetch have the value; later callers get none until the next retry.
    TooLarge,
    /// The entry was invalidated while the value was on its way; only those who waited have it.
    Superseded,
}

impl State {
    /// Returns the name: `fresh`, `stale`, `cold`, `negative`, `blocked` or `uncached`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Cold => "cold",
            Self::Negative => "negative",
            Self::Blocked => "blocked",
            Self::Uncached(_) => "uncached",
        }
    }
}

/// An answer of the cache.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<V> {
    /// Which state it comes from.
    pub state: State,
    /// The value, shared; none if there is none to serve.
    pub value: Option<Arc<V>>,
    /// How old the value is; without a value, how long ago it failed.
    pub age: Duration,
    /// What went wrong last, if it is not made good yet.
    pub error: Option<Arc<WireError>>,
    /// When it is tried again, in wall time; none if the next call may try, or none ever will.
    pub next_retry: Option<Timestamp>,
}

impl<V> Clone for Answer<V> {
    fn clone(&self) -> Self {
        Self {
            state: self.state,
            value: self.value.clone(),
            age: self.age,
            error: self.error.clone(),
            next_retry: self.next_retry,
        }
    }
}

/// A refresh brought something else than there was (M6).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CatalogueChanged {
    /// Whose.
    pub key: CacheKey,
    /// The number of the fetch: two events of one key may arrive in either order.
    pub fetch: u64,
    /// The digest before.
    pub previous: Digest,
    /// The digest now.
    pub current: Digest,
    /// What changed.
    pub changes: Changes,
}

/// Who wants to know when a catalogue changes.
pub trait CacheObserver: Send + Sync + 'static {
    /// Takes the event. It is called in the task of the fetch, outside every lock, and should
    /// hand the event on rather than work on it.
    fn catalogue_changed(&self, event: CatalogueChanged);
}
