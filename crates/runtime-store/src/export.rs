//! The lines by which a whole store is moved into another, of the same kind or not (S7).
//!
//! First the identity, then the commits and events by their positions, the ends of the streams,
//! the rows, the attachments, and last how many lines there were. Signing keys are never in them.

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::sync::Arc;

use runtime_core::{
    Classified, CommitId, Digest, ErrorClass, EventId, RuntimeId, ScopeId, StreamKey, Timestamp,
};
use serde::{Deserialize, Serialize};

use self::agreement::Agreement;
use crate::{EventPlace, Payload, Position, Seq, StoredEvent};

mod agreement;

/// The version of the lines.
pub const EXPORT_SCHEMA: u32 = 1;

/// What an export holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// Events that are served.
    pub events: u64,
    /// Rows.
    pub rows: u64,
    /// Attachments.
    pub attachments: u64,
    /// Lines in all.
    pub lines: u64,
}

/// What an import made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// Events that are served.
    pub events: u64,
    /// Rows.
    pub rows: u64,
    /// Attachments.
    pub attachments: u64,
}

/// How far a long work has come, in what it counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Worked through.
    pub done: u64,
    /// In all, as far as is known.
    pub total: u64,
}

/// Why lines could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The lines are no whole export.
    #[error("line {line} of the export: {reason}")]
    Bad {
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// They could not be read or written.
    #[error("cannot {action} the export: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl Classified for ExportError {
    fn code(&self) -> &'static str {
        match self {
            Self::Bad { .. } => "store_bad_export",
            Self::Io { .. } => "store_export_io",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Bad { .. } => ErrorClass::Invalid,
            Self::Io { .. } => ErrorClass::Unavailable,
        }
    }
}

fn io(action: &'static str, source: std::io::Error) -> ExportError {
    let source = Arc::new(source);
    ExportError::Io { action, source }
}

/// Reads the lines of an export, and believes none: each has to agree with those before it, in its
/// positions above all, and the last is [`ExportLine::End`].
pub struct ExportReader<'a> {
    lines: &'a mut (dyn BufRead + Send),
    number: u64,
    agreement: Option<Agreement>,
}

impl std::fmt::Debug for ExportReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportReader")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl<'a> ExportReader<'a> {
    /// Reads from the first line.
    pub fn new(lines: &'a mut (dyn BufRead + Send)) -> Self {
        Self {
            lines,
            number: 0,
            agreement: None,
        }
    }

    /// Reads the next line. The first is [`ExportLine::Store`], of this version; nobody asks for
    /// one after [`ExportLine::End`].
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn next_line(&mut self) -> Result<ExportLine, ExportError> {
        let text = self.next_text()?;
        if text.is_empty() {
            return Err(self.bad("it ends before its last line"));
        }
        let before = self.number;
        self.number += 1;
        let line = serde_json::from_slice(&text);
        let line: ExportLine = line.map_err(|error| self.bad(&error.to_string()))?;
        let agrees = match &mut self.agreement {
            Some(agreement) => agreement.take(&line, before),
            None => Agreement::begin(&line).map(|begun| self.agreement = Some(begun)),
        };
        agrees.map_err(|reason| self.bad(&reason))?;
        if matches!(line, ExportLine::End { .. }) && !self.next_text()?.trim_ascii().is_empty() {
            self.number += 1;
            return Err(self.bad("something follows the last line"));
        }
        Ok(line)
    }

    /// The bytes of the next line; none after the last one.
    fn next_text(&mut self) -> Result<Vec<u8>, ExportError> {
        let mut text = Vec::new();
        let read = self.lines.read_until(b'\n', &mut text);
        read.map_err(|error| io("read", error))?;
        Ok(text)
    }

    /// Says what is wrong with the line that was read last.
    #[must_use]
    pub fn bad(&self, reason: &str) -> ExportError {
        ExportError::Bad {
            line: self.number.max(1),
            reason: reason.to_owned(),
        }
    }
}

impl ExportLine {
    /// Writes the line.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ExportError> {
        let mut text = serde_json::to_vec(self).expect("an export is plain data");
        text.push(b'\n');
        out.write_all(&text).map_err(|error| io("write", error))
    }
}

const fn yes() -> bool {
    true
}

/// One line of an export, an object with its `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExportLine {
    /// The first line.
    Store {
        /// The version of the lines, [`EXPORT_SCHEMA`].
        schema: u32,
        /// Whose log it is.
        runtime: RuntimeId,
        /// The lineage of the store that was exported; a store made of it has another.
        lineage: String,
        /// The last position.
        head: u64,
        /// The last position that retention removed.
        pruned: u64,
        /// Whether some of its commits are not remembered any more. What does not say so may have.
        #[serde(default = "yes")]
        forgotten: bool,
    },
    /// A commit that is remembered, or named attachments; its events follow it.
    Commit {
        /// Its id.
        id: CommitId,
        /// What it is compared by when it comes again.
        content: Digest,
        /// The position of its first event, or where that would have been.
        first_position: u64,
        /// How many events it had.
        events: u32,
        /// How many of them follow at once.
        following: u32,
        /// Whether it is answered with its result when it comes again.
        remembered: bool,
        /// The attachments that it named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<Digest>,
        /// The scopes whose rows keep those.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        scopes: Vec<ScopeId>,
    },
    /// An event.
    Event(ExportedEvent),
    /// A row.
    Row {
        /// Its space.
        space: String,
        /// Its scope.
        scope: ScopeId,
        /// Its name.
        name: String,
        /// How often it was written.
        version: u64,
        /// When it is due.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        /// Its own body.
        body: ExportedBytes,
        /// The event that it was put with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<ExportedEvent>,
    },
    /// Where a stream ends.
    Stream {
        /// The stream.
        stream: StreamKey,
        /// Its last number.
        head: Seq,
        /// The position of its last event.
        last: Position,
        /// Whether it takes no more.
        closed: bool,
    },
    /// An attachment.
    Attachment {
        /// The digest of its bytes.
        digest: Digest,
        /// The bytes.
        bytes: ExportedBytes,
    },
    /// The last line: how many lines came before it.
    End {
        /// So many.
        lines: u64,
    },
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedEvent {
    /// Its position.
    pub position: Position,
    /// Its id.
    pub id: EventId,
    /// When it was committed.
    pub time: Timestamp,
    /// Whether it closed its own stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closes: bool,
    /// Whether its body was erased.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
    /// Its places, its own stream first.
    pub places: Vec<ExportedPlace>,
    /// Its body.
    pub body: ExportedBytes,
}

/// A place of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedPlace {
    /// The stream.
    pub stream: StreamKey,
    /// Its number there.
    pub seq: Seq,
    /// The position before it there.
    pub previous: Position,
}

/// Bytes, as they are if they are UTF-8, else as hexadecimal digits in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExportedBytes {
    /// UTF-8.
    Plain(String),
    /// Anything else.
    Hex {
        /// Two digits for each byte.
        hex: String,
    },
}

impl ExportedBytes {
    /// Writes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => {
                let hex = bytes.iter().fold(String::new(), |mut text, byte| {
                    write!(text, "{byte:02x}").expect("a string takes any text");
                    text
                });
                Self::Hex { hex }
            }
        }
    }

    /// Reads them; none when they are damaged.
    #[must_use]
    pub fn bytes(&self) -> Option<Payload> {
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

impl From<&StoredEvent> for ExportedEvent {
    fn from(event: &StoredEvent) -> Self {
        let place = |place: &EventPlace| ExportedPlace {
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
            body: ExportedBytes::of(&event.body),
        }
    }
}

impl ExportedEvent {
    /// Reads it; none when its body is damaged.
    #[must_use]
    pub fn event(self) -> Option<StoredEvent> {
        let place = |place: ExportedPlace| EventPlace {
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
