//! Errors, by operation.

use runtime_core::{Classified, ErrorClass, EventId, WireError};
use runtime_store::{CommitError, Position, ReadError, Seq};
use serde_json::{Value, json};

/// Why a cursor leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// The text is no cursor.
    #[error("this is no cursor; give the text of one as it was given out")]
    Malformed,
    /// It belongs to the log of another runtime.
    #[error("the cursor belongs to another runtime")]
    OtherRuntime,
    /// The log was created anew or restored since, so positions mean other events now.
    #[error(
        "the log was restored since the cursor was made; start again from the start or from now"
    )]
    OtherLineage,
    /// It is after the end of the log.
    #[error("the cursor is at position {position}, the log ends at {head}")]
    Future {
        /// Where it is.
        position: Position,
        /// Where the log ends.
        head: Position,
    },
    /// Retention removed events that come after it.
    #[error("events after the cursor were removed; the oldest there is has position {oldest}")]
    Pruned {
        /// The first position after the gap; go on right before it.
        oldest: Position,
    },
}

impl Classified for CursorError {
    fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "cursor_malformed",
            Self::OtherRuntime => "cursor_other_runtime",
            Self::OtherLineage => "cursor_other_lineage",
            Self::Future { .. } => "cursor_future",
            Self::Pruned { .. } => "cursor_pruned",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Malformed | Self::OtherRuntime | Self::Future { .. } => ErrorClass::Invalid,
            Self::OtherLineage | Self::Pruned { .. } => ErrorClass::Gap,
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Future { position, head } => Some(json!({ "position": position, "head": head })),
            Self::Pruned { oldest } => Some(json!({ "oldest": oldest })),
            _ => None,
        }
    }
}

/// Why a live message was not published. It never fails the append: readers repair it from the
/// log (V7).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The adapter is closed.
    #[error("the live adapter is closed")]
    Closed,
    /// The adapter could not take the message.
    #[error("the live adapter cannot publish: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl Classified for PublishError {
    fn code(&self) -> &'static str {
        match self {
            Self::Closed => "live_publish_closed",
            Self::Unavailable { .. } => "live_publish_unavailable",
        }
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Unavailable
    }
}

/// Why nobody can listen to live messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The adapter is closed.
    #[error("the live adapter is closed")]
    Closed,
    /// There are as many readers as are allowed.
    #[error("there are {max} readers, as many as are allowed")]
    TooManyReaders {
        /// The bound.
        max: usize,
    },
    /// The adapter cannot be reached.
    #[error("the live adapter cannot be listened to: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl Classified for ListenError {
    fn code(&self) -> &'static str {
        match self {
            Self::Closed => "live_listen_closed",
            Self::TooManyReaders { .. } => "live_too_many_readers",
            Self::Unavailable { .. } => "live_listen_unavailable",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::TooManyReaders { .. } => ErrorClass::Busy,
            Self::Closed | Self::Unavailable { .. } => ErrorClass::Unavailable,
        }
    }
}

/// Why a reader gets no events.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The cursor leads nowhere.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The host does not let this reader read this topic.
    #[error("reading this topic is refused: {reason}")]
    Refused {
        /// What the host said.
        reason: String,
    },
    /// No such topic: it has never had an event. Only [`read`](crate::EventHub::read) says so; a
    /// subscriber waits for the first one.
    #[error("no event has ever belonged to this topic")]
    UnknownTopic,
    /// The hub is closed.
    #[error("the event hub is closed")]
    Closed,
    /// Nobody can listen to live messages.
    #[error(transparent)]
    Live(#[from] ListenError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classified for SubscribeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Cursor(error) => error.code(),
            Self::Refused { .. } => "subscribe_refused",
            Self::UnknownTopic => "topic_unknown",
            Self::Closed => "event_hub_closed",
            Self::Live(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Cursor(error) => error.class(),
            Self::Refused { .. } => ErrorClass::Invalid,
            Self::UnknownTopic => ErrorClass::NotFound,
            Self::Closed => ErrorClass::Unavailable,
            Self::Live(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Cursor(error) => error.details(),
            Self::Read(error) => error.details(),
            _ => None,
        }
    }
}

impl From<SubscribeError> for WireError {
    fn from(error: SubscribeError) -> Self {
        error.to_wire()
    }
}

/// Why a batch was not appended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A batch without events, or with more than the log takes, or with an ephemeral event.
    #[error("{reason}")]
    InvalidBatch {
        /// What is wrong.
        reason: String,
    },
    /// The turn has had its terminal event (V5). Nothing happened.
    #[error("the turn has ended; nothing can be added to it")]
    TurnAlreadyEnded,
    /// The stream has another head than expected (V1). Nothing happened.
    #[error("the stream ends at {found}, not at {expected}")]
    UnexpectedHead {
        /// What the caller expected.
        expected: Seq,
        /// What is there.
        found: Seq,
    },
    /// An event id is taken by an event with other content (V1). Nothing happened now.
    #[error("an event id of the batch is taken by another event")]
    EventIdTaken,
    /// The commit failed; [`CommitError`] says what happened to it.
    #[error(transparent)]
    Commit(CommitError),
    /// It was appended before, and the stored events could not be read back.
    #[error("the batch is stored, but could not be read back: {0}")]
    ReadBack(ReadError),
}

impl Classified for AppendError {
    fn code(&self) -> &'static str {
        match self {
            Self::InvalidBatch { .. } => "append_invalid_batch",
            Self::TurnAlreadyEnded => "turn_already_ended",
            Self::UnexpectedHead { .. } => "append_unexpected_head",
            Self::EventIdTaken => "event_id_taken",
            Self::Commit(error) => error.code(),
            Self::ReadBack(_) => "append_read_back",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidBatch { .. } => ErrorClass::Invalid,
            Self::TurnAlreadyEnded | Self::UnexpectedHead { .. } | Self::EventIdTaken => {
                ErrorClass::Conflict
            }
            Self::Commit(error) => error.class(),
            Self::ReadBack(error) => error.class(),
        }
    }
}

/// Why a consumer could not read or acknowledge.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The cursor is not one of this log, or from the future.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// Others acknowledge for the same consumer all the time.
    #[error("others acknowledge for this consumer at the same time; try again")]
    Contended,
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Classified for ConsumerError {
    fn code(&self) -> &'static str {
        match self {
            Self::Cursor(error) => error.code(),
            Self::Contended => "consumer_contended",
            Self::Read(error) => error.code(),
            Self::Commit(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Cursor(error) => error.class(),
            Self::Contended => ErrorClass::Busy,
            Self::Read(error) => error.class(),
            Self::Commit(error) => error.class(),
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Cursor(error) => error.details(),
            Self::Read(error) => error.details(),
            _ => None,
        }
    }
}

/// How a bridge ended before its source did.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// It was aborted, or its handle dropped.
    #[error("the bridge was cancelled")]
    Cancelled,
    /// The source panicked.
    #[error("the source of the bridge panicked: {text}")]
    Panicked {
        /// What the panic said.
        text: String,
    },
    /// An event could not be appended; it and what follows is not stored.
    #[error("event {id} could not be appended: {error}")]
    Append {
        /// The event.
        id: EventId,
        /// Why.
        #[source]
        error: AppendError,
    },
}

impl Classified for BridgeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Cancelled => "bridge_cancelled",
            Self::Panicked { .. } => "bridge_panicked",
            Self::Append { .. } => "bridge_append_failed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Cancelled => ErrorClass::Cancelled,
            Self::Panicked { .. } => ErrorClass::Terminal,
            Self::Append { error, .. } => error.class(),
        }
    }
}
