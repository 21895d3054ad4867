//! Messages of a conversation (C5).

use serde::{Deserialize, Serialize};

use crate::{CanonicalEncoder, Digest, ToolCall, ToolResult};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Instructions and notices of the host.
    System,
    /// The person or program that sends inputs.
    User,
    /// The model.
    Assistant,
    /// The results of tool calls.
    Tool,
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// What the model thought before it spoke.
    Reasoning {
        /// The text.
        text: String,
    },
    /// A call that the model asks for.
    ToolCall(ToolCall),
    /// What a call gave.
    ToolResult(ToolResult),
    /// Bytes kept in the attachment store.
    Attachment {
        /// The SHA-256 of the bytes.
        digest: Digest,
        /// What they are, such as `image/png`.
        media_type: String,
        /// How many bytes.
        bytes: u64,
    },
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<ContentPart>,
}

impl Message {
    /// Makes a message of one text.
    #[must_use]
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![ContentPart::Text { text: text.into() }],
        }
    }

    /// Returns the texts of the message, joined.
    #[must_use]
    pub fn plain_text(&self) -> String {
        let texts = self.content.iter().filter_map(|part| match part {
            ContentPart::Text { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// Returns the tool calls of the message, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.content.iter().filter_map(|part| match part {
            ContentPart::ToolCall(call) => Some(call),
            _ => None,
        })
    }

    /// Extends a chain digest by this message: `digest' = H(digest, message)`.
    ///
    /// A model request names its context by such a chain, so that naming it costs O(1) per
    /// message however long the conversation is (E3).
    #[must_use]
    pub fn chained(&self, before: &Digest) -> Digest {
        let value = serde_json::to_value(self).expect("a message is plain data");
        CanonicalEncoder::new("context-chain")
            .bytes(before.as_bytes())
            .json(&value)
            .digest()
    }
}
