//! Reads: rows and events, a page at a time.

use std::sync::Arc;

use runtime_core::{EventDraft, EventId, EventKind, RuntimeEvent, ScopeId, Timestamp, WireError};

use crate::{EventPlace, Payload, Position, RowKey};

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: RowKey,
    /// 1 when first put, one more for each later put.
    pub version: u64,
    /// Its own body.
    pub body: Payload,
    /// The event whose body belongs to it, if it was put with one.
    pub event: Option<StoredEvent>,
    /// When it is due.
    pub due: Option<Timestamp>,
}

/// Which rows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowQuery {
    /// The rows of a space, in key order; of one scope if given, whose names start so.
    Prefix {
        /// The space.
        space: Arc<str>,
        /// The owner; with none, of every owner and `name` is not looked at.
        scope: Option<ScopeId>,
        /// How the name starts.
        name: Arc<str>,
    },
    /// The rows of a space that are due at or before a time, the earliest first, then by key.
    Due {
        /// The space.
        space: Arc<str>,
        /// The time.
        until: Timestamp,
    },
}

impl RowQuery {
    /// All rows of a space.
    #[must_use]
    pub fn space(space: &str) -> Self {
        Self::Prefix {
            space: Arc::from(space),
            scope: None,
            name: Arc::from(""),
        }
    }

    /// The rows of one owner in a space.
    #[must_use]
    pub fn scope(space: &str, scope: ScopeId) -> Self {
        Self::Prefix {
            space: Arc::from(space),
            scope: Some(scope),
            name: Arc::from(""),
        }
    }
}

/// How much of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<After> {
    /// Go on after this one.
    pub after: After,
    /// At most so many; the store clamps it to [`Limits::page_entries_max`](crate::Limits).
    pub limit: usize,
}

impl<After> Page<After> {
    /// At most `limit` entries after `after`.
    #[must_use]
    pub const fn after(after: After, limit: usize) -> Self {
        Self { after, limit }
    }
}

/// A page of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowPage {
    /// The rows, in the order of the query.
    pub rows: Vec<Row>,
    /// The last row's key, if more rows follow it.
    pub next: Option<RowKey>,
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the log.
    pub position: Position,
    /// Its id.
    pub id: EventId,
    /// The time of its commit.
    pub time: Timestamp,
    /// Its places in its streams, its own stream first.
    pub places: Vec<EventPlace>,
    /// It closed its own stream.
    pub closes: bool,
    /// It is a stub: its body was erased ([`Removal::Stream`](crate::Removal::Stream)) and is
    /// empty now.
    pub erased: bool,
    /// What it says.
    pub body: Payload,
}

impl StoredEvent {
    /// Reads the event; a stub is an event of the kind [`EventKind::Erased`] that belongs to
    /// nothing.
    ///
    /// # Errors
    /// The body is no event; class Corrupt.
    pub fn decode(&self) -> Result<RuntimeEvent, WireError> {
        let draft = match self.erased {
            true => EventDraft::new(EventKind::Erased),
            false => EventDraft::from_bytes(&self.body)?,
        };
        let owned = draft.turn.is_some() || draft.process.is_some();
        let seq = self
            .places
            .first()
            .filter(|_| owned)
            .map(|place| place.seq.0);
        Ok(RuntimeEvent {
            position: self.position.0,
            seq,
            id: self.id,
            time: self.time,
            draft,
        })
    }
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events of the topic, in order.
    pub events: Vec<StoredEvent>,
    /// Where the next page goes on: everything of the topic up to here has been returned.
    pub next: Position,
    /// More events of the topic are stored.
    pub has_more: bool,
    /// The last position of the whole log.
    pub head: Position,
    /// The last position that retention removed; zero when nothing was. A reader that starts
    /// before it may have missed events (V6).
    pub pruned: Position,
}

/// A run of the log that is served, as large as the store likes: a segment, a day, an event.
/// Retention decides on such runs (V9) and removes by [`Removal::Through`](crate::Removal::Through).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionUnit {
    /// The position of its last event.
    pub last: Position,
    /// The time of its newest event.
    pub newest: Timestamp,
    /// How many events it has.
    pub events: u64,
    /// How many bytes it has in the store, or about so many.
    pub bytes: u64,
}
