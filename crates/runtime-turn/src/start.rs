//! What a turn starts from: its whole configuration, recorded.

use runtime_core::{
    CanonicalEncoder, Digest, ENCODING_VERSION, ExecutionScope, Message, SessionId, TurnId,
};
use serde::{Deserialize, Serialize};

/// A place in a conversation: the chain digest over all messages before it (E3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextMark {
    /// The digest over the messages, in order ([`Message::chained`]).
    pub digest: Digest,
    /// How many messages.
    pub messages: u32,
}

impl ContextMark {
    /// Returns the mark before the first message.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            digest: CanonicalEncoder::new("context-chain").digest(),
            messages: 0,
        }
    }

    /// Returns the mark after one more message.
    #[must_use]
    pub fn after(&self, message: &Message) -> Self {
        Self {
            digest: message.chained(&self.digest),
            messages: self.messages.saturating_add(1),
        }
    }

    /// Returns the mark after these messages from the beginning.
    pub fn of<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Self {
        let start = Self::empty();
        let after = |mark: Self, message| mark.after(message);
        messages.into_iter().fold(start, after)
    }
}

/// What a turn may spend. The numbers are recorded with its start: changing a configuration
/// reaches new turns only.
///
/// Not yet: cost and wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnBudgets {
    /// Model calls; one more fails the turn with `budget_iterations_exhausted`.
    pub iterations_max: u32,
    /// Tokens over all model calls. Once more are spent, the turn runs no further tool and fails
    /// with `budget_tokens_exhausted`; an answer without tool calls still completes it.
    pub tokens_max: Option<u64>,
    /// Calls in one model message; those beyond are answered as not run.
    pub calls_max: u32,
    /// How many model messages in a row may ask for the same call with the same arguments; one
    /// more fails the turn with `loop_detected`.
    pub identical_calls_max: u32,
}

impl Default for TurnBudgets {
    fn default() -> Self {
        Self {
            iterations_max: 32,
            tokens_max: None,
            calls_max: 128,
            identical_calls_max: 3,
        }
    }
}

/// The record that starts a turn: the payload of its `turn_started` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnStart {
    /// The session.
    pub session: SessionId,
    /// The turn.
    pub turn: TurnId,
    /// The version that the identities of this turn are encoded with (C2).
    pub encoding_version: u8,
    /// The model, as its provider names it.
    pub model: String,
    /// The input that causes the turn.
    pub input: Message,
    /// The conversation before the input.
    pub history: ContextMark,
    /// What it may spend.
    #[serde(default)]
    pub budgets: TurnBudgets,
    /// The deployment that it started under, as the host names it (E17).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
}

impl TurnStart {
    /// Makes the record of a turn that starts now, with the default budgets.
    #[must_use]
    pub fn new(
        session: SessionId,
        turn: TurnId,
        model: impl Into<String>,
        input: Message,
        history: ContextMark,
    ) -> Self {
        Self {
            session,
            turn,
            encoding_version: ENCODING_VERSION,
            model: model.into(),
            input,
            history,
            budgets: TurnBudgets::default(),
            deployment: None,
        }
    }

    /// Sets what it may spend.
    #[must_use]
    pub const fn with_budgets(mut self, budgets: TurnBudgets) -> Self {
        self.budgets = budgets;
        self
    }

    /// Returns the scope of the turn's effects.
    #[must_use]
    pub fn scope(&self) -> ExecutionScope {
        ExecutionScope::Turn {
            session: self.session.clone(),
            turn: self.turn.clone(),
        }
    }
}
