//! The contract of live fan-out: best effort, bounded, never waited for (V7).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use runtime_core::{RuntimeEvent, StreamKey, Topic};
use runtime_store::{Position, StoredEvent};

use crate::{Delta, ListenError, PublishError};

/// Where live messages of one topic are heard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Room(Option<StreamKey>);

impl Room {
    /// The room of the whole runtime.
    #[must_use]
    pub const fn runtime() -> Self {
        Self(None)
    }

    /// The room of a stream.
    #[must_use]
    pub const fn stream(key: StreamKey) -> Self {
        Self(Some(key))
    }

    /// Returns the stream; none is the whole runtime.
    #[must_use]
    pub const fn stream_key(&self) -> Option<&StreamKey> {
        self.0.as_ref()
    }
}

impl From<&Topic> for Room {
    fn from(topic: &Topic) -> Self {
        Self(topic.stream_key())
    }
}

/// A stored event on its way to live readers.
#[derive(Debug)]
pub struct LiveEvent {
    stored: StoredEvent,
    previous_in_log: Option<Position>,
    decoded: OnceLock<Option<Arc<RuntimeEvent>>>,
}

impl LiveEvent {
    /// Wraps an event that is stored. `previous_in_log` is the position of the event before it
    /// in the whole log, if it is known.
    #[must_use]
    pub const fn new(stored: StoredEvent, previous_in_log: Option<Position>) -> Self {
        Self {
            stored,
            previous_in_log,
            decoded: OnceLock::new(),
        }
    }

    /// Returns the event as it is stored.
    #[must_use]
    pub const fn stored(&self) -> &StoredEvent {
        &self.stored
    }

    /// Returns the position of the event before it in a room, if it is known (V4).
    #[must_use]
    pub fn previous_in(&self, room: &Room) -> Option<Position> {
        let Some(key) = room.stream_key() else {
            return self.previous_in_log;
        };
        let place = self.stored.places.iter().find(|at| at.stream == *key)?;
        Some(place.previous)
    }

    /// Returns the event, decoded once for all readers; none if it cannot be read.
    pub(crate) fn event(&self) -> Option<Arc<RuntimeEvent>> {
        let decode = || self.stored.decode().ok().map(Arc::new);
        self.decoded.get_or_init(decode).clone()
    }
}

/// A delta on its way to live readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDelta {
    /// The delta.
    pub delta: Delta,
    /// Where the log ended when it was published.
    pub at: Position,
}

/// What is heard in a room.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LiveMessage {
    /// A stored event.
    Event(Arc<LiveEvent>),
    /// An ephemeral delta.
    Delta(Arc<LiveDelta>),
}

/// Why a receiver has no next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The reader was too slow; the next call gives what is left.
    #[error("{skipped} live messages were skipped")]
    Lagged {
        /// How many messages it lost.
        skipped: u64,
    },
    /// The adapter is closed, and everything that was buffered has been given.
    #[error("the live adapter is closed")]
    Closed,
}

/// One reader in one room. Dropping it leaves the room.
pub trait LiveReceiver: fmt::Debug + Send + Sync {
    /// Gives the next message.
    ///
    /// # Errors
    /// [`LiveError`].
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<LiveMessage, LiveError>>;
}

/// Live fan-out: what was stored goes to whoever listens, as far as they keep up.
///
/// # Law
/// - A message goes to every receiver that was in the room when it was published, in the order
///   of publication for one publisher; it may be lost, delayed or repeated (readers repair it).
/// - `publish` returns at once: it never waits for a receiver, and publishing to an empty room is
///   no error.
/// - Buffers are bounded for each receiver and in total. A receiver that is behind is told
///   [`LiveError::Lagged`] and goes on.
/// - A room costs nothing once its last receiver is gone.
pub trait StreamAdapter: fmt::Debug + Send + Sync + 'static {
    /// Tells a room.
    ///
    /// # Errors
    /// [`PublishError`]; the message is stored whatever comes of this.
    fn publish(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError>;

    /// Enters a room: hears what is published from now on.
    ///
    /// # Errors
    /// [`ListenError`].
    fn listen(&self, room: &Room) -> Result<Box<dyn LiveReceiver>, ListenError>;

    /// Takes no more messages; receivers are given what is buffered, then
    /// [`LiveError::Closed`]. Closing twice does nothing.
    fn close(&self);
}
