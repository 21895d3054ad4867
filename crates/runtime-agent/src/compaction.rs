//! Making a long conversation shorter (T2).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    ContentPart, EffectOutput, ErrorClass, FinishReason, Message, ModelRequest, Role, WireError,
};
use runtime_effects::{Applied, ExecutorError};
use runtime_model::{Model, ModelError, collect};
use runtime_turn::Compacted;
use serde_json::json;

use crate::Agent;

/// The longest part of one message that the default compactor shows to its model, in bytes.
const PART_BYTES_MAX: usize = 4096;

/// What is to be made shorter.
#[derive(Debug, Clone)]
pub struct CompactionRequest {
    /// The model that the turn asks now.
    pub model: String,
    /// The beginning of the conversation, oldest first; an earlier summary comes first.
    pub messages: Vec<Arc<Message>>,
    /// How many messages of the session that is.
    pub covered: u32,
    /// The same for every attempt.
    pub idempotency_key: String,
}

/// Makes the summary that stands for the beginning of a conversation.
///
/// It is run as an effect: its answer is recorded, and from then on the conversation as a model
/// sees it begins with it, after every restart too. The conversation itself stays as it is.
#[async_trait]
pub trait Compactor: fmt::Debug + Send + Sync + 'static {
    /// Returns the summary.
    ///
    /// # Errors
    /// [`WireError`]: a class that may pass is tried again; after any other the turn goes on with
    /// the long conversation, or fails if a model has refused it.
    ///
    /// # Cancel safety
    /// Dropping the future gives the attempt up; it is made again later.
    async fn compact(&self, request: CompactionRequest) -> Result<Compacted, WireError>;
}

/// The default: asks the model of the turn for a summary.
#[derive(Debug, Clone)]
pub struct SummaryCompactor {
    model: Arc<dyn Model>,
    instructions: Arc<str>,
}

impl SummaryCompactor {
    /// Summarises with this model.
    #[must_use]
    pub fn new(model: Arc<dyn Model>) -> Self {
        let instructions = "You are given the beginning of a conversation between a person and an \
             assistant that works with tools. Write a summary that lets the assistant go on \
             without it: the task as the person put it, decisions and constraints, what was done \
             and found (names, numbers, paths, exact values), what is still to do. No preamble.";
        Self {
            model,
            instructions: Arc::from(instructions),
        }
    }

    /// Asks for the summary in other words.
    #[must_use]
    pub fn with_instructions(mut self, instructions: impl Into<Arc<str>>) -> Self {
        self.instructions = instructions.into();
        self
    }
}

#[async_trait]
impl Compactor for SummaryCompactor {
    async fn compact(&self, request: CompactionRequest) -> Result<Compacted, WireError> {
        let asked = ModelRequest {
            model: self.model.name().to_owned(),
            instructions: Arc::clone(&self.instructions),
            messages: vec![Arc::new(Message::text(Role::User, told(&request.messages)))],
            tools: Arc::from([]),
            idempotency_key: request.idempotency_key,
            output_schema: None,
        };
        let stream = self.model.stream(asked).await.map_err(WireError::from)?;
        let unfinished = || ModelError {
            provider: self.model.provider().to_owned(),
            model: self.model.name().to_owned(),
            code: "model_stream_incomplete",
            class: ErrorClass::Unavailable,
            reason: FinishReason::ProviderError,
            message: "the summary ended before its end".to_owned(),
            provider_code: None,
            retry_after: None,
        };
        let answer = collect(stream, unfinished, |_| ()).await?;
        let text = answer.message.plain_text();
        if text.trim().is_empty() {
            let message = "the model gave an empty summary";
            return Err(WireError::new(
                "compaction_empty",
                ErrorClass::Terminal,
                message,
            ));
        }
        let text = format!("[Summary of the conversation so far:]\n{text}");
        Ok(Compacted {
            covered: request.covered,
            summary: Arc::new(Message::text(Role::User, text)),
            usage: answer.usage,
            model: Some(self.model.name().to_owned()),
        })
    }
}

/// The conversation as a text: a model that is given it as messages would go on with it.
fn told(messages: &[Arc<Message>]) -> String {
    let mut text = String::new();
    for message in messages {
        let who = match message.role {
            Role::Assistant => "assistant",
            Role::Tool => "results",
            Role::System => "system",
            _ => "person",
        };
        for part in &message.content {
            let part = match part {
                ContentPart::Text { text } => text.clone(),
                ContentPart::ToolCall(call) => format!("calls {} {}", call.name, call.arguments),
                ContentPart::ToolResult(result) => {
                    let texts = result.content.iter().filter_map(|part| match part {
                        ContentPart::Text { text } => Some(text.as_str()),
                        _ => None,
                    });
                    texts.collect::<Vec<_>>().join("\n")
                }
                _ => continue,
            };
            let end = part.floor_char_boundary(PART_BYTES_MAX);
            text.push_str(&format!("{who}: {}\n", &part[..end]));
        }
    }
    text
}

pub(crate) async fn attempt(
    agent: &Agent,
    request: CompactionRequest,
) -> Result<EffectOutput, ExecutorError> {
    let covered = request.covered;
    let compacted = match &agent.compactor {
        Some(compactor) => compactor.compact(request).await,
        None => {
            let model = Arc::clone(agent.model_named(&request.model));
            SummaryCompactor::new(model).compact(request).await
        }
    };
    match compacted {
        Ok(compacted) => Ok(EffectOutput::DurableStep {
            // What is covered was decided by the turn, not by who writes the summary.
            value: json!(Compacted {
                covered,
                ..compacted
            }),
        }),
        Err(error) => Err(ExecutorError {
            error,
            applied: Applied::Unknown,
        }),
    }
}
