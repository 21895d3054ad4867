//! One atomic step: guards, rows, events.

use std::ops::Range;
use std::sync::Arc;

use runtime_core::{
    CanonicalEncoder, Clock, CommitId, Digest, EventDraft, EventId, Random, ScopeId, StreamKey,
    Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{CommitError, Limits, Store, form};

/// Bytes that are shared, never copied.
pub type Payload = Arc<[u8]>;

macro_rules! number_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the next one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_newtype!(
    /// A place in the log of the runtime, from 1; zero is before the first event.
    Position
);
number_newtype!(
    /// A place in one stream, dense from 1; zero is before the first event.
    Seq
);
number_newtype!(
    /// The fence of a scope: the version of its epoch row ([`RowKey::epoch`]). It starts at 1
    /// and grows by one each time the scope is opened (E5).
    Epoch
);

/// The key of a row. Rows are ordered by space, then scope, then name, each by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowKey {
    /// Which crate's rows these are, such as `effect`; a short constant word.
    pub space: Arc<str>,
    /// The owner; [`RowChange::Retire`] removes all rows of one owner, in every space.
    pub scope: ScopeId,
    /// Which row of that owner: UTF-8 without NUL, at most 1,024 bytes, may be empty.
    pub name: Arc<str>,
}

impl RowKey {
    /// Makes a key.
    #[must_use]
    pub fn new(space: &str, scope: ScopeId, name: impl AsRef<str>) -> Self {
        Self {
            space: Arc::from(space),
            scope,
            name: Arc::from(name.as_ref()),
        }
    }

    /// The row whose version is the epoch of a scope (E5).
    ///
    /// Whoever opens a scope puts this row, guarded by [`Guard::Absent`] (the epoch is then 1) or
    /// by [`Guard::Version`] `v` (the epoch is then `v + 1`), in the commit that starts or
    /// resumes it.
    #[must_use]
    pub fn epoch(scope: ScopeId) -> Self {
        Self::new("epoch", scope, "")
    }
}

/// What must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guard {
    /// The row does not exist.
    Absent(RowKey),
    /// The row exists and has this version: 1 when first put, one more for each later put.
    Version(RowKey, u64),
    /// The last event of the stream has this place; zero for a stream without events.
    Head(StreamKey, Seq),
}

/// What a commit does to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowChange {
    /// Writes the row.
    Put {
        /// Which row.
        key: RowKey,
        /// Its own small body.
        body: Payload,
        /// The index of the event of this commit whose body belongs to the row too, so that a
        /// payload is written once; reading the row gives both.
        event: Option<usize>,
        /// When it is due, for [`RowQuery::Due`](crate::RowQuery::Due).
        due: Option<Timestamp>,
    },
    /// Removes the row; removing an absent row does nothing.
    Delete(RowKey),
    /// Removes every row of the scope, its epoch included: whoever still holds that epoch is
    /// fenced.
    Retire(ScopeId),
}

impl RowChange {
    /// Writes a row with a body of its own.
    #[must_use]
    pub fn put(key: RowKey, body: impl Into<Payload>) -> Self {
        Self::Put {
            key,
            body: body.into(),
            event: None,
            due: None,
        }
    }
}

/// What a commit removes from the log. It reaches only what was there before the commit: its own
/// events stay, and guards and streams are checked as they were before.
///
/// Neither is undone by anything: what is removed stays removed after reopening. Ids stay taken
/// and the results of commits stay known for as long as they are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// Retention (V9): no event up to this position is served any more, as
    /// [`EventPage::pruned`](crate::EventPage::pruned) says; never beyond the head, never back.
    ///
    /// A row keeps the event that it was put with. A stream goes on where it was, except that a
    /// closed one is forgotten with its last event: then it is as if it had never been.
    Through(Position),
    /// Erasure (V4): the bodies of all events of the stream, whatever other streams they belong
    /// to, those that rows refer to as well. Position, id, time and places stay, as
    /// [`StoredEvent::erased`](crate::StoredEvent::erased) says. Later events are not touched.
    Stream(StreamKey),
}

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id, given by its producer; unique in the log.
    pub id: EventId,
    /// The streams it belongs to, at most 8, the first being its own; every event belongs to the
    /// whole log as well.
    pub streams: Vec<StreamKey>,
    /// It is the last of its own stream: a later event there is refused with
    /// [`Found::Closed`](crate::Found::Closed) (V5). Ignored without a stream.
    pub closes: bool,
    /// What it says; not read by the store.
    pub body: Payload,
}

impl NewEvent {
    /// Encodes a draft. A draft whose kind ends a turn or a process closes its stream (V5, E15).
    #[must_use]
    pub fn from_draft(id: EventId, draft: &EventDraft) -> Self {
        Self {
            id,
            streams: draft.streams(),
            closes: draft.kind.closes_stream(),
            body: draft.to_bytes().into(),
        }
    }
}

/// One atomic step. All of it happens, or nothing.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Its identity: committing the same id and content again answers the first result.
    pub id: CommitId,
    /// When, on the wall clock; the time of its events. Not part of the content.
    pub time: Timestamp,
    /// The scope in whose name it is made and the epoch held; another epoch in force is
    /// [`CommitError::Fenced`](crate::CommitError::Fenced). Not part of the content.
    pub owner: Option<(ScopeId, Epoch)>,
    /// What must hold, checked in order against all earlier commits. Not part of the content.
    pub guards: Vec<Guard>,
    /// What changes, applied in order.
    pub rows: Vec<RowChange>,
    /// What is appended, in order.
    pub events: Vec<NewEvent>,
    /// The attachments that it names; each must exist already (E18). They live while an event of
    /// the commit is served whole, or a scope that it put a row of has any row: name every one
    /// that these rows and events refer to.
    pub attachments: Vec<Digest>,
    /// What is removed from the log as it was before this commit, in order.
    pub removals: Vec<Removal>,
}

impl Commit {
    /// Starts a commit of nothing.
    #[must_use]
    pub const fn new(id: CommitId, time: Timestamp) -> Self {
        Self {
            id,
            time,
            owner: None,
            guards: Vec::new(),
            rows: Vec::new(),
            events: Vec::new(),
            attachments: Vec::new(),
            removals: Vec::new(),
        }
    }

    /// Starts a commit of nothing under an id that no other has.
    #[must_use]
    pub fn fresh(store: &dyn Store, clock: &dyn Clock, random: &dyn Random) -> Self {
        let now = clock.now();
        let id = CommitId::generate(store.id_time(now), random.ten());
        Self::new(id, now)
    }

    /// Makes it in the name of a scope.
    #[must_use]
    pub fn owned_by(mut self, scope: ScopeId, epoch: Epoch) -> Self {
        self.owner = Some((scope, epoch));
        self
    }

    /// Adds a guard.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Adds a row change.
    #[must_use]
    pub fn row(mut self, change: RowChange) -> Self {
        self.rows.push(change);
        self
    }

    /// Adds an event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn remove(mut self, removal: Removal) -> Self {
        self.removals.push(removal);
        self
    }

    /// Returns the digest that tells a repetition from another commit under the same id: rows,
    /// events, attachments and removals. Time, owner and guards are left out, since a repetition after a
    /// take-over has others.
    #[must_use]
    pub fn content_digest(&self) -> Digest {
        let mut encoder = CanonicalEncoder::new("commit-content");
        for row in &self.rows {
            encoder = encode_row(encoder, row);
        }
        for event in &self.events {
            encoder = encoder
                .text("event")
                .bytes(event.id.as_uuid().as_bytes())
                .unsigned(u64::from(event.closes))
                .unsigned(event.streams.len() as u64);
            for stream in &event.streams {
                encoder = encoder.text(stream.as_str());
            }
            encoder = encoder.bytes(&event.body);
        }
        for attachment in &self.attachments {
            encoder = encoder.text("attachment").bytes(attachment.as_bytes());
        }
        for removal in &self.removals {
            encoder = match removal {
                Removal::Through(position) => encoder.text("through").unsigned(position.0),
                Removal::Stream(stream) => encoder.text("erase").text(stream.as_str()),
            };
        }
        encoder.digest()
    }

    /// Returns its size: the bytes of its bodies and keys, what limits are counted in.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter().map(|row| match row {
            RowChange::Put { key, body, .. } => key_bytes(key) + body.len(),
            RowChange::Delete(key) => key_bytes(key),
            RowChange::Retire(scope) => scope.as_str().len(),
        });
        let events = self.events.iter().map(|event| {
            let streams: usize = event
                .streams
                .iter()
                .map(|stream| stream.as_str().len())
                .sum();
            16 + streams + event.body.len()
        });
        let removals = self.removals.iter().map(|removal| match removal {
            Removal::Through(_) => 8,
            Removal::Stream(stream) => stream.as_str().len(),
        });
        rows.sum::<usize>()
            + events.sum::<usize>()
            + removals.sum::<usize>()
            + 32 * self.attachments.len()
    }

    /// Checks its size and form, which every store does before it looks at its state.
    ///
    /// # Errors
    /// [`CommitError::TooLarge`] and [`CommitError::Malformed`].
    pub fn check(&self, limits: &Limits) -> Result<(), CommitError> {
        form::check(self, limits)
    }
}

fn key_bytes(key: &RowKey) -> usize {
    key.space.len() + key.scope.as_str().len() + key.name.len()
}

fn encode_row(encoder: CanonicalEncoder, row: &RowChange) -> CanonicalEncoder {
    let encode_key = |encoder: CanonicalEncoder, key: &RowKey| {
        encoder
            .text(&key.space)
            .text(key.scope.as_str())
            .text(&key.name)
    };
    match row {
        RowChange::Put {
            key,
            body,
            event,
            due,
        } => encode_key(encoder.text("put"), key)
            .bytes(body)
            .unsigned(event.map_or(0, |index| index as u64 + 1))
            .unsigned(due.map_or(0, |due| due.as_millis().saturating_add(1))),
        RowChange::Delete(key) => encode_key(encoder.text("delete"), key),
        RowChange::Retire(scope) => encoder.text("retire").text(scope.as_str()),
    }
}

/// Where an event stands in one of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPlace {
    /// The stream.
    pub stream: StreamKey,
    /// Its place there, dense from 1.
    pub seq: Seq,
    /// The position of the event before it in that stream; zero for the first.
    pub previous: Position,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The positions of its events, in order; empty when it had none.
    pub positions: Range<u64>,
    /// The places of each event in its streams, in the order of [`NewEvent::streams`].
    pub places: Vec<Vec<EventPlace>>,
    /// The same commit had happened before; nothing was done now.
    pub repeated: bool,
}

impl Committed {
    /// Returns the position of its last event, if it had one.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        (!self.positions.is_empty()).then(|| Position(self.positions.end - 1))
    }
}
