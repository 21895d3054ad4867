//! Compaction: a summary stands for the beginning of a conversation that grew too long (T2).
//!
//! The conversation itself stays as it is; only what a model is shown begins with the summary.

use std::sync::Arc;

use runtime_core::{Digest, Message, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ContextMark;

/// When a conversation is compacted; recorded with the start of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompactionPolicy {
    /// Tokens of the conversation, as the model told them; beyond, it is compacted before the
    /// next model call. It is too when a model refuses it as too long.
    pub context_tokens_max: u64,
    /// Messages at the end that stay as they are, at least 1.
    pub messages_kept: u32,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        Self {
            context_tokens_max: 100_000,
            messages_kept: 8,
        }
    }
}

/// A summary, and how many messages from the beginning of the session it stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compacted {
    /// Messages of the session.
    pub covered: u32,
    /// What stands for them.
    pub summary: Arc<Message>,
    /// The tokens that making it took.
    #[serde(default)]
    pub usage: Usage,
    /// The model that made it, for its price; none is the turn's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A summary by its digest: what a turn start and a worker's record name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionMark {
    /// Messages of the session.
    pub covered: u32,
    /// The chain digest over the summary alone.
    pub summary: Digest,
}

impl Compacted {
    /// The name of the durable step that makes a summary.
    pub const STEP: &'static str = "compact_context";

    /// Returns what names it.
    #[must_use]
    pub fn mark(&self) -> CompactionMark {
        CompactionMark {
            covered: self.covered,
            summary: ContextMark::of([self.summary.as_ref()]).digest,
        }
    }

    pub(crate) fn from_value(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }
}
