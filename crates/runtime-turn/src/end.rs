//! How a turn ends.

use std::sync::Arc;

use runtime_core::{
    Classified, ErrorClass, EventDraft, EventKind, ExecutionScope, FinishReason, Message, TurnId,
    Usage, WireError,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::AbandonedCall;

/// What the terminal event tells of a turn besides its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Account {
    /// What it cost, in millionths of the currency of the price table.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost: u64,
    /// How long it ran, in milliseconds, as its model answers recorded it.
    #[serde(skip_serializing_if = "is_zero")]
    pub running_ms: u64,
    /// The size of the conversation, as the last model call told it; zero is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub context_tokens: u64,
    /// The turns of the inputs that joined it: they end with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<TurnId>,
    /// Calls whose work goes on outside although the turn has ended; their tools are told. Not
    /// part of the event.
    #[serde(skip)]
    pub abandoned: Vec<AbandonedCall>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

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
        /// The last message as JSON that fits the schema asked for.
        output: Option<Value>,
        /// What else is told of the turn.
        account: Account,
    },
    /// A model call failed for good, or a budget is exhausted.
    Failed {
        /// Why.
        error: WireError,
        /// How many model calls were answered.
        iterations: u32,
        /// The tokens spent by all of them.
        usage: Usage,
        /// What else is told of the turn.
        account: Account,
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
                output,
                account,
                ..
            } => (
                EventKind::TurnCompleted,
                payload(
                    json!({ "reason": reason, "iterations": iterations, "usage": usage }),
                    account,
                    output.as_ref(),
                ),
                format!("completed after {iterations} model calls"),
            ),
            Self::Failed {
                error,
                iterations,
                usage,
                account,
            } => (
                EventKind::TurnFailed,
                payload(
                    json!({ "error": error, "iterations": iterations, "usage": usage }),
                    account,
                    None,
                ),
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

fn payload(mut payload: Value, account: &Account, output: Option<&Value>) -> Value {
    let told = json!(account);
    if let (Value::Object(payload), Value::Object(told)) = (&mut payload, told) {
        payload.extend(told);
        if let Some(output) = output {
            payload.insert("output".to_owned(), output.clone());
        }
    }
    payload
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
    /// More is spent than the turn may cost, and the model asks for tools.
    #[error("turn cost {spent} millionths; cost_max allows {max}")]
    CostExhausted {
        /// The budget, in millionths of the currency.
        max: u64,
        /// What was spent.
        spent: u64,
    },
    /// There is a budget of cost, and nobody says what a model costs.
    #[error("turn has a cost_max and its model {model} has no price; add it to the prices")]
    CostUnpriced {
        /// The model.
        model: String,
    },
    /// The turn ran longer than allowed, and the model asks for tools.
    #[error("turn ran {spent_ms} ms; running_max allows {max_ms} ms")]
    RunningTimeExhausted {
        /// The budget, in milliseconds.
        max_ms: u64,
        /// How long it ran.
        spent_ms: u64,
    },
    /// The last answer does not fit its schema, nor did the one before.
    #[error("the answer does not fit its schema, also after a correction: {reason}")]
    OutputMismatch {
        /// What does not fit.
        reason: String,
    },
    /// A call that was to be completed from outside was not, and its tool says that the turn must
    /// not go on without it.
    #[error("{tool} was not completed in time, and the turn must not go on without it")]
    CompletionTimedOut {
        /// The tool.
        tool: String,
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
            Self::CostExhausted { .. } => "budget_cost_exhausted",
            Self::CostUnpriced { .. } => "budget_cost_unpriced",
            Self::RunningTimeExhausted { .. } => "budget_running_time_exhausted",
            Self::OutputMismatch { .. } => "output_schema_mismatch",
            Self::CompletionTimedOut { .. } => "tool_completion_timed_out",
            Self::LoopDetected { .. } => "loop_detected",
        }
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Terminal
    }
}
