//! Why a record does not make a turn.

use runtime_core::{Classified, Digest, ENCODING_VERSION, EnvelopeError, ErrorClass, ReplayKey};

use crate::{CompactionMark, ContextMark};

/// Why a record does not make a turn. The turn has not failed by it: what was recorded, or the
/// program that reads it, is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// The history given is not the conversation that the turn started after.
    #[error(
        "history has {} messages with digest {}; the turn started after {} with digest {}",
        .found.messages, .found.digest, .expected.messages, .expected.digest
    )]
    HistoryMismatch {
        /// What the start record names.
        expected: ContextMark,
        /// What was given.
        found: ContextMark,
    },
    /// The summary given is not the one that the turn started with.
    #[error("summary of the history is {found:?}; the turn started with {expected:?}")]
    SummaryMismatch {
        /// What the start record names.
        expected: Option<CompactionMark>,
        /// What was given.
        found: Option<CompactionMark>,
    },
    /// A later version of this library started the turn.
    #[error("turn is encoded with version {found}; this program knows up to {ENCODING_VERSION}")]
    EncodingVersion {
        /// The version recorded.
        found: u8,
    },
    /// The start record names no usable model.
    #[error("turn cannot start: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The effect is not one that the turn waits for.
    #[error("effect {key} is not one that the turn waits for")]
    UnexpectedOutcome {
        /// The effect.
        key: ReplayKey,
    },
    /// The outcome is not of the kind of its effect, or names what its effect does not have (E3).
    #[error("effect {key} has an outcome that does not fit it")]
    WrongOutcome {
        /// The effect.
        key: ReplayKey,
    },
    /// The prompt or the catalogue given is not the one recorded.
    #[error("environment has digest {found}; {expected} is recorded")]
    EnvironmentMismatch {
        /// The digest recorded.
        expected: Digest,
        /// The digest of what was given.
        found: Digest,
    },
    /// The machine did not ask for an environment.
    #[error("environment given without being asked for")]
    EnvironmentUnasked,
    /// The recorded prompt or catalogue cannot be read.
    #[error("recorded environment cannot be read: {reason}")]
    EnvironmentUndecodable {
        /// Why.
        reason: String,
    },
    /// An event of the session cannot be read.
    #[error("{kind} event cannot be read: {reason}")]
    EventUndecodable {
        /// The kind of the event.
        kind: String,
        /// Why.
        reason: String,
    },
    /// An event tells of a turn that is not the open one of its session.
    #[error("{kind} event belongs to no open turn")]
    NoOpenTurn {
        /// The kind of the event.
        kind: String,
    },
}

impl Classified for TurnError {
    fn code(&self) -> &'static str {
        match self {
            Self::HistoryMismatch { .. } => "turn_history_mismatch",
            Self::SummaryMismatch { .. } => "turn_summary_mismatch",
            Self::EncodingVersion { .. } => "turn_encoding_version",
            Self::Envelope(_) => "turn_envelope",
            Self::UnexpectedOutcome { .. } => "turn_unexpected_outcome",
            Self::WrongOutcome { .. } => "turn_wrong_outcome",
            Self::EnvironmentMismatch { .. } => "turn_environment_mismatch",
            Self::EnvironmentUnasked => "turn_environment_unasked",
            Self::EnvironmentUndecodable { .. } => "turn_environment_undecodable",
            Self::EventUndecodable { .. } => "turn_event_undecodable",
            Self::NoOpenTurn { .. } => "turn_not_open",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::EncodingVersion { .. } => ErrorClass::Unsupported,
            Self::Envelope(_) | Self::EnvironmentUnasked => ErrorClass::Invalid,
            _ => ErrorClass::Corrupt,
        }
    }
}
