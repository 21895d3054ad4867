//! How a turn ends.

use std::sync::Arc;

use runtime_core::{
    Classified, ErrorClass, EventDraft, EventKind, ExecutionScope, FinishReason, Message, Usage,
    WireError,
};
use serde_json::json;

/// How a turn ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TurnEnd {
    /// The model said what it had to say.
    Completed {
        /// Why the model stopped.
        reason: FinishReason,
        /// How many model calls it took.
        iterations: u32,
        /// The tokens spent by all of them.
        usage: Usage,
        /// The last message.
        message: Arc<Message>,
    },
    /// A model call failed for good, or a budget is exhausted.
    Failed {
        /// Why.
        error: WireError,
        /// How many model calls were answered.
        iterations: u32,
        /// The tokens spent by all of them.
        usage: Usage,
    },
    /// Somebody cancelled it. A machine never ends so: whoever cancels its scope does.
    Cancelled {
        /// Why, as they said.
        reason: String,
    },
}

impl TurnEnd {
    /// Returns the terminal event of the turn (V5).
    #[must_use]
    pub fn to_event(&self, scope: &ExecutionScope) -> EventDraft {
        let (kind, payload, line) = match self {
            Self::Completed {
                reason,
                iterations,
                usage,
                ..
            } => (
                EventKind::TurnCompleted,
                json!({ "reason": reason, "iterations": iterations, "usage": usage }),
                format!("completed after {iterations} model calls"),
            ),
            Self::Failed {
                error,
                iterations,
                usage,
            } => (
                EventKind::TurnFailed,
                json!({ "error": error, "iterations": iterations, "usage": usage }),
                format!("failed: {}", error.code),
            ),
            Self::Cancelled { reason } => (
                EventKind::TurnCancelled,
                json!({ "reason": reason }),
                "cancelled".to_owned(),
            ),
        };
        EventDraft::new(kind)
            .in_scope(scope)
            .with_payload(payload)
            .with_message(line)
    }
}

/// Why the machine itself ends a turn as failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnFailure {
    /// The model still asks for tools after the last model call that is allowed.
    #[error("turn made {max} model calls without an answer; raise iterations_max to allow more")]
    IterationsExhausted {
        /// The budget.
        max: u32,
    },
    /// More tokens are spent than allowed, and the model asks for tools.
    #[error("turn spent {spent} tokens; tokens_max allows {max}")]
    TokensExhausted {
        /// The budget.
        max: u64,
        /// What was spent.
        spent: u64,
    },
    /// The model asks for the same call again and again.
    #[error("model asked {times} times in a row for the same call of {tool}")]
    LoopDetected {
        /// The tool.
        tool: String,
        /// How many messages in a row.
        times: u32,
    },
}

impl Classified for TurnFailure {
    fn code(&self) -> &'static str {
        match self {
            Self::IterationsExhausted { .. } => "budget_iterations_exhausted",
            Self::TokensExhausted { .. } => "budget_tokens_exhausted",
            Self::LoopDetected { .. } => "loop_detected",
        }
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Terminal
    }
}
