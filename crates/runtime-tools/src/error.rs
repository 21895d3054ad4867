//! Why a call gave no result.

use runtime_core::{Classified, ErrorClass};
use serde_json::Value;

/// Why a call gave no result.
///
/// A tool that ran and failed in its own terms gives an ordinary result with `is_error`; this is
/// for calls that could not run, or of which nobody knows whether they ran.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The arguments do not fit the schema. It did not run.
    #[error("arguments of {tool} do not fit: {reason}")]
    InvalidArguments {
        /// The tool.
        tool: String,
        /// What does not fit.
        reason: String,
    },
    /// No such tool. It did not run.
    #[error("no tool is called {tool}")]
    NotFound {
        /// The name asked for.
        tool: String,
    },
    /// A rule of the host forbids the call. It did not run.
    #[error("a rule of the host forbids this call of {tool}")]
    Denied {
        /// The tool.
        tool: String,
    },
    /// It could not be reached. It did not run.
    #[error("{tool} is unavailable: {reason}")]
    Unavailable {
        /// The tool.
        tool: String,
        /// Why.
        reason: String,
    },
    /// It took too long; whether it ran is unknown.
    #[error("{tool} did not answer in time")]
    TimedOut {
        /// The tool.
        tool: String,
    },
    /// The connection was lost during the call; whether it ran is unknown.
    #[error("{tool} was lost during the call: {reason}")]
    Indeterminate {
        /// The tool.
        tool: String,
        /// How.
        reason: String,
    },
    /// It failed for good, in the middle or at the end; it may have changed something.
    #[error("{tool} failed: {reason}")]
    Failed {
        /// The tool.
        tool: String,
        /// How.
        reason: String,
        /// Facts for programs.
        details: Option<Value>,
    },
}

impl ToolError {
    /// Says whether the call certainly had no effect.
    #[must_use]
    pub const fn did_not_run(&self) -> bool {
        matches!(
            self,
            Self::InvalidArguments { .. }
                | Self::NotFound { .. }
                | Self::Denied { .. }
                | Self::Unavailable { .. }
        )
    }
}

impl Classified for ToolError {
    fn code(&self) -> &'static str {
        match self {
            Self::InvalidArguments { .. } => "tool_invalid_arguments",
            Self::NotFound { .. } => "tool_not_found",
            Self::Denied { .. } => "tool_denied_by_rule",
            Self::Unavailable { .. } => "tool_unavailable",
            Self::TimedOut { .. } => "tool_timed_out",
            Self::Indeterminate { .. } => "tool_indeterminate",
            Self::Failed { .. } => "tool_failed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidArguments { .. } => ErrorClass::Invalid,
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Denied { .. } => ErrorClass::Terminal,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
            Self::TimedOut { .. } => ErrorClass::TimedOut,
            Self::Indeterminate { .. } => ErrorClass::Indeterminate,
            Self::Failed { .. } => ErrorClass::Terminal,
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Failed { details, .. } => details.clone(),
            _ => None,
        }
    }
}
