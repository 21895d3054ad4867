//! What an effect gave, and how it ended: what the journal keeps and replay answers (E3, E4).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ContentPart, Digest, EffectKind, FinishReason, Message, ProcessAnswer, ProcessOutcome,
    Resolution, Timestamp, ToolCall, ToolResult, TurnId, Usage, WireError,
};

/// What a model call gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlmResponse {
    /// The message, complete.
    pub message: Message,
    /// Why the model stopped.
    pub reason: FinishReason,
    /// The tokens spent.
    #[serde(default)]
    pub usage: Usage,
    /// Who runs the model, by the name that its adapter gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Whether text was streamed to watchers while it came.
    #[serde(default)]
    pub text_streamed: bool,
    /// When it ended; expiries count from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// How long its turn has run since the model answer before, in milliseconds: tool calls and
    /// failed attempts included, parked time excluded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub running_ms: u64,
}

/// What a model call outside a turn gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectOutput {
    /// What its tokens are booked under.
    pub label: String,
    /// The answer.
    pub response: LlmResponse,
}

/// What code gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CodeOutput {
    /// What it printed and returned, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub observations: Vec<ContentPart>,
    /// The tools that it called, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<NestedCall>,
    /// The images that it made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ContentPart>,
    /// How it failed in its own terms: it ran, and ended with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
}

/// A tool that code called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NestedCall {
    /// The call.
    pub call: ToolCall,
    /// What it gave; none if the code ended before it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ToolResult>,
}

/// What a tool call gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToolCallOutput {
    /// The result.
    Finished {
        /// As the model sees it.
        result: ToolResult,
        /// What the call spent of the budgets of its turn, such as a sub-agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
    },
    /// It will be completed from outside, through its promise.
    Pending(PendingCall),
    /// It goes on once its wait has ended, whichever way that was: the tool is then given the end
    /// of the wait and its own continuation.
    Parked {
        /// When the wait ends by itself, if ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// What the tool goes on with.
        continuation: Continuation,
    },
}

/// A call that is completed from outside, as it is recorded (T5).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PendingCall {
    /// When waiting for it ends, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What the turn does then.
    #[serde(skip_serializing_if = "is_default")]
    pub on_timeout: OnTimeout,
    /// What becomes of the outside work when nobody waits for it any more.
    #[serde(skip_serializing_if = "is_default")]
    pub on_cancel: OnCancel,
    /// What somebody outside is asked, for those who list what waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// What the tool is told again when it is cancelled, such as the id of a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<Value>,
    /// The value of the resolution is a [`CallReport`], not the result itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reports: bool,
    /// What is set aside of the turn's budgets until the call ends.
    #[serde(skip_serializing_if = "is_default")]
    pub reserve: Reserve,
}

/// How a call ended that says what it spent: such as that of a sub-agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallReport {
    /// What the model reads.
    pub text: String,
    /// It failed; the text says how.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    /// What it spent of the budgets of its turn.
    pub spent: Spent,
}

/// What was spent, or may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// Tokens.
    pub usage: Usage,
    /// In millionths of the currency of the host's price table.
    pub cost: u64,
}

impl Spent {
    /// Returns the sum of both; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            usage: self.usage.plus(other.usage),
            cost: self.cost.saturating_add(other.cost),
        }
    }
}

/// A part of a turn's budgets that is set aside for a call, such as a sub-agent, until the call
/// ends and says what it spent (T1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Reserve {
    /// Tokens; none is without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Cost, in millionths; none is without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
}

/// What a turn does when a call was not completed in time (T5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnTimeout {
    /// The model reads an error as the result.
    #[default]
    ErrorResult,
    /// The turn fails.
    FailTurn,
}

/// What becomes of outside work when its turn ends without it (T5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnCancel {
    /// The tool is told, so that it can stop the work.
    #[default]
    Signal,
    /// It goes on, unheard.
    Leave,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a parked tool call goes on with, in this process or a later one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Continuation {
    /// What is asked of whoever resolves the promise, for people: at most
    /// [`QUESTION_BYTES_MAX`] bytes of it are shown where waits are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Handed back to the tool as it is. It is recorded: no secrets.
    pub state: Value,
    /// Going on is harmless when repeated (E7); a trusted tool that is retry-safe needs no such
    /// word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_safe: bool,
}

/// The bytes of a question that a wait shows.
pub const QUESTION_BYTES_MAX: usize = 256;

/// What a wait saw first; replay sees the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitOutput {
    /// A promise was resolved.
    Resolved {
        /// The index of the source.
        source: u32,
        /// How.
        resolution: Resolution,
    },
    /// A time came.
    Elapsed {
        /// The index of the source.
        source: u32,
        /// The absolute time that was waited for.
        due: Timestamp,
    },
    /// A process ended.
    ProcessEnded {
        /// The index of the source.
        source: u32,
        /// How.
        outcome: ProcessOutcome,
    },
}

/// Why tools are missing from the catalogue of a turn, or not the newest (M1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The tool server; for `duplicate_name` the tool.
    pub source: String,
    /// `stale`, `cold`, `negative`, `blocked`, `uncached` of a server; `duplicate_name` of a
    /// name that two tools claim, so that neither is offered.
    pub state: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
    /// When it will be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry: Option<Timestamp>,
}

/// What an effect gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EffectOutput {
    /// Of a model call.
    LlmCall(LlmResponse),
    /// Of a model call outside a turn.
    Direct(DirectOutput),
    /// Of code.
    ExecCode(CodeOutput),
    /// Of a tool call.
    ToolCall(ToolCallOutput),
    /// The prompt and tool catalogue in force, both in the attachment store.
    SyncExecutionEnvironment {
        /// The attachment of the prompt, UTF-8.
        prompt: Digest,
        /// The attachment of the catalogue, a JSON array of tool definitions.
        tools: Digest,
        /// What is missing from the catalogue, or old in it, and why (M1).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reports: Vec<SourceReport>,
    },
    /// Of a wait.
    AwaitEvent(WaitOutput),
    /// Of a sleep.
    Sleep {
        /// The absolute time that was slept to.
        due: Timestamp,
    },
    /// Of a step.
    DurableStep {
        /// Its value.
        value: Value,
    },
    /// Of an operation on a process.
    Process(ProcessAnswer),
    /// Of a checkpoint.
    TurnCheckpoint {
        /// What joins the turn, in this order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        joined: Vec<JoinedMessage>,
    },
}

/// A message that joins a running turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinedMessage {
    /// The message.
    pub message: Message,
    /// The turn that a queued input would have caused; it ends with the turn that took it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
}

impl EffectOutput {
    /// Returns the kind of command that gives such an output.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        match self {
            Self::LlmCall(_) => EffectKind::LlmCall,
            Self::Direct(_) => EffectKind::Direct,
            Self::ExecCode(_) => EffectKind::ExecCode,
            Self::ToolCall(_) => EffectKind::ToolCall,
            Self::SyncExecutionEnvironment { .. } => EffectKind::SyncExecutionEnvironment,
            Self::AwaitEvent(_) => EffectKind::AwaitEvent,
            Self::Sleep { .. } => EffectKind::Sleep,
            Self::DurableStep { .. } => EffectKind::DurableStep,
            Self::Process(_) => EffectKind::Process,
            Self::TurnCheckpoint { .. } => EffectKind::TurnCheckpoint,
        }
    }

    /// Returns the attachments that it names: the commit that records it must name them too, so
    /// that they are kept (E18).
    #[must_use]
    pub fn attachments(&self) -> Vec<Digest> {
        let named = |content: &[ContentPart]| -> Vec<Digest> {
            let digests = content.iter().filter_map(|part| match part {
                ContentPart::Attachment { digest, .. } => Some(*digest),
                _ => None,
            });
            digests.collect()
        };
        match self {
            Self::SyncExecutionEnvironment { prompt, tools, .. } => vec![*prompt, *tools],
            Self::LlmCall(response) => named(&response.message.content),
            Self::Direct(output) => named(&output.response.message.content),
            Self::ExecCode(output) => {
                let mut digests: Vec<Digest> = named(&output.observations);
                digests.extend(named(&output.images));
                digests
            }
            Self::ToolCall(ToolCallOutput::Finished { result, .. }) => named(&result.content),
            _ => Vec::new(),
        }
    }
}

/// How an effect ended for good; what the journal keeps and replay answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", content = "value", rename_all = "snake_case")]
pub enum EffectOutcome {
    /// It gave something.
    Completed(EffectOutput),
    /// It failed, finally.
    Failed(WireError),
}
