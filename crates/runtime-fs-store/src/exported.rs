//! The lines of an export.

use std::sync::Arc;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{EventPlace, Payload, Position, Seq, StoredEvent};
use serde::{Deserialize, Serialize};

use crate::layout::hex;

pub(crate) const SCHEMA: u32 = 1;

/// One line of an export, an object with its `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line {
    /// The first line.
    Store {
        schema: u32,
        runtime: runtime_core::RuntimeId,
        lineage: String,
        /// The last position.
        head: u64,
        /// The last position that retention removed.
        pruned: u64,
    },
    /// A commit that is remembered, or named attachments; its events follow it.
    Commit {
        id: CommitId,
        content: Digest,
        first_position: u64,
        /// How many events it had.
        events: u32,
        /// How many of them follow at once.
        following: u32,
        remembered: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<Digest>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        scopes: Vec<ScopeId>,
    },
    Event(EventLine),
    Row {
        space: String,
        scope: ScopeId,
        name: String,
        version: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        body: Text,
        /// The event that it was put with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<EventLine>,
    },
    /// Where a stream ends.
    Stream {
        stream: StreamKey,
        head: Seq,
        last: Position,
        closed: bool,
    },
    Attachment {
        digest: Digest,
        bytes: Text,
    },
    /// The last line: how many lines came before it.
    End {
        lines: u64,
    },
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventLine {
    pub(crate) position: Position,
    pub(crate) id: EventId,
    pub(crate) time: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) closes: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) erased: bool,
    pub(crate) places: Vec<PlaceLine>,
    pub(crate) body: Text,
}

/// A place of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceLine {
    stream: StreamKey,
    seq: Seq,
    previous: Position,
}

/// Bytes, as they are if they are UTF-8, else as hexadecimal digits in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Plain(String),
    Hex { hex: String },
}

impl Text {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Hex { hex: hex(bytes) },
        }
    }

    pub(crate) fn bytes(&self) -> Option<Payload> {
        match self {
            Self::Plain(text) => Some(text.as_bytes().into()),
            Self::Hex { hex } => {
                let pairs = hex.as_bytes().chunks(2);
                let byte = |pair: &[u8]| {
                    let pair = std::str::from_utf8(pair).ok()?;
                    u8::from_str_radix(pair, 16).ok()
                };
                let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
                bytes.map(Arc::from)
            }
        }
    }
}

impl From<&StoredEvent> for EventLine {
    fn from(event: &StoredEvent) -> Self {
        let place = |place: &EventPlace| PlaceLine {
            stream: place.stream.clone(),
            seq: place.seq,
            previous: place.previous,
        };
        Self {
            position: event.position,
            id: event.id,
            time: event.time,
            closes: event.closes,
            erased: event.erased,
            places: event.places.iter().map(place).collect(),
            body: Text::of(&event.body),
        }
    }
}

impl EventLine {
    pub(crate) fn event(self) -> Option<StoredEvent> {
        let place = |place: PlaceLine| EventPlace {
            stream: place.stream,
            seq: place.seq,
            previous: place.previous,
        };
        Some(StoredEvent {
            position: self.position,
            id: self.id,
            time: self.time,
            closes: self.closes,
            erased: self.erased,
            body: self.body.bytes()?,
            places: self.places.into_iter().map(place).collect(),
        })
    }
}
