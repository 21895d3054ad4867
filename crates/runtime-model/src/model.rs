//! The streaming trait.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use runtime_core::{
    Classified, ContentPart, ErrorClass, FinishReason, LlmResponse, Message, ModelEvent,
    ModelRequest, RETRY_AFTER_MS, Role, Usage, WireError,
};

/// Why a model gave no whole answer.
///
/// The class decides whether the effect is tried again: Busy, Unavailable and TimedOut are,
/// Invalid, Unsupported and Terminal are not (C3).
#[derive(Debug, Clone, thiserror::Error)]
#[error("{provider} {model}: {message}")]
pub struct ModelError {
    /// The provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The code; `model_` and what happened, such as `model_rate_limited`.
    pub code: &'static str,
    /// The class.
    pub class: ErrorClass,
    /// Why the answer ended, as far as the provider said.
    pub reason: FinishReason,
    /// What to read.
    pub message: String,
    /// The provider's own code, such as an HTTP status.
    pub provider_code: Option<String>,
    /// How long the provider asks to be left alone. The next attempt waits at least so long, as
    /// far as the longest pause of its retry policy allows.
    pub retry_after: Option<Duration>,
}

impl Classified for ModelError {
    fn code(&self) -> &'static str {
        self.code
    }

    fn class(&self) -> ErrorClass {
        self.class
    }

    fn details(&self) -> Option<serde_json::Value> {
        let mut details = serde_json::json!({
            "provider": self.provider,
            "model": self.model,
            "provider_code": self.provider_code,
            "reason": self.reason,
        });
        if let Some(pause) = self.retry_after {
            let milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            details[RETRY_AFTER_MS] = milliseconds.into();
        }
        Some(details)
    }
}

/// An answer as it comes. It ends after [`ModelEvent::Finished`] or after an error.
pub type ModelStream<'a> = Pin<Box<dyn Stream<Item = Result<ModelEvent, ModelError>> + Send + 'a>>;

/// A model.
///
/// # Law
/// - An answer is one stream that ends with exactly one `Finished`, or with one error.
/// - The model makes no hidden retries: each call of `stream` is one attempt (T6).
/// - `request.idempotency_key` is the same for every attempt of one call.
#[async_trait]
pub trait Model: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the provider, as events and errors show it.
    fn provider(&self) -> &str;

    /// Returns the model's name at its provider.
    fn name(&self) -> &str;

    /// Starts an answer.
    ///
    /// # Errors
    /// [`ModelError`] when no answer began.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream ends the call; tokens may have been spent.
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError>;
}

/// Gathers a stream into the response that the journal keeps, showing each event on the way.
///
/// # Errors
/// The stream's own error, or `model_stream_incomplete` (Unavailable) when it ended without
/// [`ModelEvent::Finished`].
pub async fn collect(
    mut stream: ModelStream<'_>,
    unfinished: impl FnOnce() -> ModelError,
    mut show: impl FnMut(&ModelEvent),
) -> Result<LlmResponse, ModelError> {
    let mut answer = Answer::default();
    while let Some(event) = stream.next().await {
        let event = event?;
        show(&event);
        if let Some(response) = answer.take(event) {
            return Ok(response);
        }
    }
    Err(unfinished())
}

/// The answer so far: texts that follow each other are one part.
#[derive(Debug, Default)]
struct Answer {
    content: Vec<ContentPart>,
    usage: Usage,
    text_streamed: bool,
}

impl Answer {
    fn take(&mut self, event: ModelEvent) -> Option<LlmResponse> {
        match event {
            ModelEvent::TextDelta { text } => {
                self.text_streamed = true;
                match self.content.last_mut() {
                    Some(ContentPart::Text { text: before }) => before.push_str(&text),
                    _ => self.content.push(ContentPart::Text { text }),
                }
            }
            ModelEvent::ReasoningDelta { text } => match self.content.last_mut() {
                Some(ContentPart::Reasoning { text: before }) => before.push_str(&text),
                _ => self.content.push(ContentPart::Reasoning { text }),
            },
            ModelEvent::ToolCall(call) => self.content.push(ContentPart::ToolCall(call)),
            ModelEvent::Usage(usage) => self.usage = usage,
            ModelEvent::Finished { reason } => {
                return Some(LlmResponse {
                    message: Message {
                        role: Role::Assistant,
                        content: std::mem::take(&mut self.content),
                    },
                    reason,
                    usage: self.usage,
                    provider: None,
                    text_streamed: self.text_streamed,
                    ended: None,
                    running_ms: 0,
                });
            }
            // Argument deltas are for display; the whole call follows. Later kinds add nothing
            // that a response keeps.
            _ => {}
        }
        None
    }
}

impl From<ModelError> for WireError {
    fn from(error: ModelError) -> Self {
        error.to_wire()
    }
}
