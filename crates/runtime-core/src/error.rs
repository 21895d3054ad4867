//! Error classes and the wire form of errors (C3).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member of an error's details that says for how many milliseconds the other side asks to
/// be left alone.
pub const RETRY_AFTER_MS: &str = "retry_after_ms";

/// What an error means for the caller; behaviour follows the class, never the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// The request is wrong and stays wrong.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// It contradicts what is there already.
    Conflict,
    /// Somebody else holds it, or a limit is reached; later it may work.
    Busy,
    /// This part cannot do that at all.
    Unsupported,
    /// It was cancelled.
    Cancelled,
    /// It took too long.
    TimedOut,
    /// Something it needs cannot be reached; later it may work.
    Unavailable,
    /// Whether it happened is unknown until reopened or read again.
    Indeterminate,
    /// What was asked for has been pruned.
    Gap,
    /// What is stored is damaged.
    Corrupt,
    /// A later owner has taken over.
    Fenced,
    /// It failed for good.
    Terminal,
}

impl ErrorClass {
    /// Says whether an effect that ends so is recorded as final: replay answers it again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Invalid | Self::NotFound | Self::Unsupported | Self::Terminal
        )
    }

    /// Says whether trying again may help.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable | Self::TimedOut)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unsupported => "unsupported",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::Gap => "gap",
            Self::Corrupt => "corrupt",
            Self::Fenced => "fenced",
            Self::Terminal => "terminal",
        })
    }
}

/// An error with a stable code and a class.
///
/// Codes are unique across the workspace; each has a page under `docs/errors/`.
pub trait Classified: std::error::Error {
    /// Returns the stable snake_case code.
    fn code(&self) -> &'static str;

    /// Returns the class.
    fn class(&self) -> ErrorClass;

    /// Returns facts for programs, if there are any; never a secret.
    fn details(&self) -> Option<Value> {
        None
    }

    /// Returns the form that is recorded and sent; the source stays in memory.
    fn to_wire(&self) -> WireError {
        WireError {
            code: self.code().to_owned(),
            class: self.class(),
            message: self.to_string(),
            details: self.details(),
        }
    }
}

/// An error as it is recorded and sent: it replays with the same code and class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// The stable snake_case code.
    pub code: String,
    /// The class.
    pub class: ErrorClass,
    /// What to read.
    pub message: String,
    /// Facts for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl WireError {
    /// Makes an error without details.
    #[must_use]
    pub fn new(code: &str, class: ErrorClass, message: impl fmt::Display) -> Self {
        Self {
            code: code.to_owned(),
            class,
            message: message.to_string(),
            details: None,
        }
    }

    /// Returns how long the other side asks to be left alone, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let milliseconds = self.details.as_ref()?.get(RETRY_AFTER_MS)?.as_u64()?;
        Some(Duration::from_millis(milliseconds))
    }
}
