//! Model requests and what a model streams (C5).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CallId, Message, ToolCall, ToolDefinition};

/// What a model is asked. It is assembled for the call and never stored: an envelope names its
/// context by digest (E3).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelRequest {
    /// The model, as its provider names it.
    pub model: String,
    /// The instructions.
    pub instructions: Arc<str>,
    /// The conversation, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// The tools on offer.
    pub tools: Arc<[ToolDefinition]>,
    /// The same for every attempt of one call: the provider may use it to pay once.
    pub idempotency_key: String,
    /// The JSON schema that the last answer must fit, if any; a provider without structured
    /// output may leave it out, the turn checks the answer itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Arc<serde_json::Value>>,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// It said what it had to say.
    Stop,
    /// It waits for the results of its tool calls.
    ToolUse,
    /// The answer reached its limit.
    OutputLimit,
    /// The conversation is too long for it.
    ContextOverflow,
    /// The provider withheld the answer.
    ContentFilter,
    /// The provider failed.
    ProviderError,
    /// The call was cancelled.
    Cancelled,
    /// The provider did not say.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Tokens spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the provider's cache; part of `input_tokens`.
    pub cached_input_tokens: u64,
}

impl Usage {
    /// Returns the sum of both; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cached_input_tokens: self
                .cached_input_tokens
                .saturating_add(other.cached_input_tokens),
        }
    }

    /// Returns all tokens; saturates.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

/// One step of a model's answer. A stream ends with exactly one [`Finished`](Self::Finished),
/// or with an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelEvent {
    /// More of the text.
    TextDelta {
        /// What is added.
        text: String,
    },
    /// More of the reasoning.
    ReasoningDelta {
        /// What is added.
        text: String,
    },
    /// More of a call's arguments; for display only, [`ToolCall`](Self::ToolCall) has them whole.
    ToolArgumentsDelta {
        /// The call.
        call: CallId,
        /// What is added.
        text: String,
    },
    /// A call, complete.
    ToolCall(ToolCall),
    /// The tokens spent so far.
    Usage(Usage),
    /// The end.
    Finished {
        /// Why it stopped.
        reason: FinishReason,
    },
}
