//! What a turn starts from: its whole configuration, recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime_core::{
    CanonicalEncoder, Digest, ENCODING_VERSION, ExecutionScope, Message, SessionId, TurnId, Usage,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CompactionMark, CompactionPolicy};

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
    /// What all model calls may cost, in millionths of the currency of the price table. Once more
    /// is spent, the turn runs no further tool and fails with `budget_cost_exhausted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_max: Option<u64>,
    /// How long the turn may run, as its model answers record it: parked time does not count.
    /// Looked at when the model asks for tools; beyond, the turn fails with
    /// `budget_running_time_exhausted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_max: Option<Duration>,
    /// How long a person may take to approve a call, from the answer that asks for it; beyond, the
    /// call is answered as denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_expiry: Option<Duration>,
}

impl Default for TurnBudgets {
    fn default() -> Self {
        Self {
            iterations_max: 32,
            tokens_max: None,
            calls_max: 128,
            identical_calls_max: 3,
            cost_max: None,
            running_max: None,
            approval_expiry: None,
        }
    }
}

/// What a model costs, in millionths of a currency for a million tokens: 3 dollars for a million
/// input tokens are 3,000,000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelPrice {
    /// Of tokens read.
    pub input: u64,
    /// Of tokens written.
    pub output: u64,
    /// Of tokens read from the provider's cache.
    pub cached_input: u64,
}

impl ModelPrice {
    /// Returns what so many tokens cost, in millionths of the currency, rounded up.
    #[must_use]
    pub fn cost(&self, usage: Usage) -> u64 {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let parts = [
            (usage.input_tokens - cached, self.input),
            (cached, self.cached_input),
            (usage.output_tokens, self.output),
        ];
        let total: u128 = parts
            .iter()
            .map(|&(tokens, price)| u128::from(tokens) * u128::from(price))
            .fold(0, u128::saturating_add);
        u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX)
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
    /// The models that are asked, in this order, once those before have failed for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
    /// What the models cost; needed for a budget of cost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, ModelPrice>,
    /// The JSON schema that the last answer must fit. An answer that does not is corrected once;
    /// then the turn fails with `output_schema_mismatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// When the conversation is compacted, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactionPolicy>,
    /// The summary that stands for the beginning of the history, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted: Option<CompactionMark>,
    /// How many tokens the history has, as the last turn told; zero is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub context_tokens: u64,
    /// Whether queued inputs join the turn before it completes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inputs_join: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
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
            fallbacks: Vec::new(),
            prices: BTreeMap::new(),
            output_schema: None,
            compaction: None,
            compacted: None,
            context_tokens: 0,
            inputs_join: false,
        }
    }

    /// Returns a model without a price, if there is a budget of cost.
    pub(crate) fn unpriced(&self) -> Option<&str> {
        self.budgets.cost_max?;
        let mut models = std::iter::once(&self.model).chain(&self.fallbacks);
        models
            .find(|&model| !self.prices.contains_key(model))
            .map(String::as_str)
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
