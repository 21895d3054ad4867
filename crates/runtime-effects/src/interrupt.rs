//! Why a driver must unwind: the machine never sees these (E1).

use runtime_core::{Classified, Digest, ErrorClass, ReplayKey, ScopeId, Timestamp, WireError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How a recorded effect differs from the one asked for (E4). Paths, never values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The key of both.
    pub key: ReplayKey,
    /// The digest that is recorded.
    pub recorded: Digest,
    /// The digest that was asked for.
    pub requested: Digest,
    /// At most 8 JSON paths that differ, such as `/command/tool`.
    pub paths: Vec<String>,
}

/// Why a driver must unwind. The turn is not failed by it, except by `Terminal`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Interrupt {
    /// The wait is not ready: the driver ends, a wake drives the turn again (E9).
    #[error("waiting in {key}")]
    Suspended {
        /// The effect that waits.
        key: ReplayKey,
        /// When to try again at the latest, if a time was waited for.
        due: Option<Timestamp>,
    },
    /// The scope was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A later owner has taken over the scope.
    #[error("a later owner has taken over")]
    Fenced,
    /// The record has another effect under this key: the turn parks (E4).
    #[error("effect {} is not the one recorded; it differs at {}", .0.key, .0.paths.join(", "))]
    Conflict(Mismatch),
    /// It is unknown whether the effect happened: the turn parks until somebody rules (E7).
    #[error("it is unknown whether effect {key} happened")]
    InDoubt {
        /// The effects in doubt; the first of them.
        key: ReplayKey,
    },
    /// The journal itself failed, or strict replay found nothing; the error says what to do.
    #[error("{0}")]
    Terminal(WireError),
}

impl Classified for Interrupt {
    fn code(&self) -> &'static str {
        match self {
            Self::Suspended { .. } => "effect_suspended",
            Self::Cancelled => "effect_cancelled",
            Self::Fenced => "effect_fenced",
            Self::Conflict(_) => "effect_conflict",
            Self::InDoubt { .. } => "effect_in_doubt",
            Self::Terminal(_) => "effect_terminal",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Suspended { .. } => ErrorClass::Busy,
            Self::Cancelled => ErrorClass::Cancelled,
            Self::Fenced => ErrorClass::Fenced,
            Self::Conflict(_) => ErrorClass::Conflict,
            Self::InDoubt { .. } => ErrorClass::Indeterminate,
            Self::Terminal(error) => error.class,
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Suspended { key, due } => Some(json!({ "key": key, "due": due })),
            Self::Conflict(mismatch) => Some(json!(mismatch)),
            Self::InDoubt { key } => Some(json!({ "key": key })),
            Self::Terminal(error) => error.details.clone(),
            Self::Cancelled | Self::Fenced => None,
        }
    }

    fn to_wire(&self) -> WireError {
        match self {
            // What failed below keeps its own code, which says what to do.
            Self::Terminal(error) => error.clone(),
            _ => WireError {
                code: self.code().to_owned(),
                class: self.class(),
                message: self.to_string(),
                details: self.details(),
            },
        }
    }
}

/// Why a scope cannot be opened, or an effect not be run at all.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EffectError {
    /// The envelope names another scope than its controller's (E2).
    #[error("envelope of {envelope} came to the controller of {controller}")]
    ScopeMismatch {
        /// The scope that the envelope names.
        envelope: ScopeId,
        /// The scope of the controller.
        controller: ScopeId,
    },
    /// The executor is of another kind than the command (E3).
    #[error("a {executor} executor cannot run a {command}")]
    WrongExecutor {
        /// The kind of the command.
        command: &'static str,
        /// The kind of the executor.
        executor: &'static str,
    },
    /// The outcome is of another kind than the command (E3); it is never used.
    #[error("effect {key} has an outcome of kind {found}, not {expected}")]
    WrongOutcome {
        /// The effect.
        key: ReplayKey,
        /// The kind expected.
        expected: &'static str,
        /// The kind found.
        found: &'static str,
    },
    /// Strict replay: the record has no such effect (E4).
    #[error("the record has no effect {key}")]
    Missing {
        /// The effect.
        key: ReplayKey,
    },
    /// The host cannot do that.
    #[error("this host cannot {what}")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// Processes died in this effect as often as it may be tried, and it has no outcome (E5).
    #[error(
        "{crashes} processes in a row ended while effect {key} ran; resume the turn by hand once the cause is gone"
    )]
    CrashLoop {
        /// The effect.
        key: ReplayKey,
        /// How many.
        crashes: u32,
    },
    /// Two effects of one batch, or one batch and a wait, share a key.
    #[error("effect {key} was asked for twice at once")]
    Duplicate {
        /// The key.
        key: ReplayKey,
    },
}

impl Classified for EffectError {
    fn code(&self) -> &'static str {
        match self {
            Self::ScopeMismatch { .. } => "scope_mismatch",
            Self::WrongExecutor { .. } => "wrong_executor",
            Self::WrongOutcome { .. } => "wrong_outcome",
            Self::Missing { .. } => "effect_missing",
            Self::Unsupported { .. } => "effect_unsupported",
            Self::Duplicate { .. } => "effect_duplicate",
            Self::CrashLoop { .. } => "crash_loop",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::ScopeMismatch { .. } | Self::WrongExecutor { .. } | Self::Duplicate { .. } => {
                ErrorClass::Invalid
            }
            Self::WrongOutcome { .. } => ErrorClass::Corrupt,
            Self::Missing { .. } => ErrorClass::NotFound,
            Self::Unsupported { .. } => ErrorClass::Unsupported,
            // Parks, as a contradiction does: neither failed for good nor tried again by itself.
            Self::CrashLoop { .. } => ErrorClass::Conflict,
        }
    }
}

impl From<EffectError> for Interrupt {
    fn from(error: EffectError) -> Self {
        Self::Terminal(error.to_wire())
    }
}
