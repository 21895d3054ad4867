//! The kernel of a durable agent runtime: ids, identity encoding, error classes, the clock and
//! randomness seams, and the wire types that every other crate speaks.
//!
//! It does no I/O: no files, no clock, no randomness, no environment, no async runtime. Whatever
//! depends on the world comes in as an argument, so everything here can be tested exactly.
//!
//! Start with [`ExecutionScope`] and [`EffectEnvelope`] (what a durable effect is),
//! [`RuntimeEvent`] (what is told of it) and [`Classified`] (how errors drive behaviour).
//!
//! ```
//! use runtime_core::{CanonicalEncoder, ExecutionScope, SessionId, TurnId};
//!
//! # fn main() -> Result<(), runtime_core::IdError> {
//! let scope = ExecutionScope::Turn { session: SessionId::new("desk")?, turn: TurnId::new("1")? };
//! let digest = CanonicalEncoder::new("example").text(scope.scope_id().as_str()).digest();
//! assert_eq!(digest.to_string().len(), 64);
//! # Ok(())
//! # }
//! ```

mod clock;
mod effect;
mod encoding;
mod error;
mod event;
mod id;
mod message;
mod model;
mod outcome;
mod process;
mod schema;
mod scope;
mod secret;
mod tier;
mod tool;

pub use clock::{Clock, Random, Sleep, Timestamp};
pub use effect::{
    CodeCommand, DirectCall, ENVELOPE_BYTES_MAX, EffectCommand, EffectEnvelope, EffectKind,
    EnvelopeError, LlmCall, ReplayKey, Resolution, RetryPolicy, ToolCallCommand, WaitIdentity,
    WaitSource,
};
pub use encoding::{CanonicalEncoder, Digest, ENCODING_VERSION};
pub use error::{Classified, ErrorClass, RETRY_AFTER_MS, WireError};
pub use event::{EVENT_SCHEMA, EventDraft, EventKind, RuntimeEvent, Topic};
pub use id::{
    CallId, CommitId, EventId, IdError, InstanceId, ProcessId, RequestId, RuntimeId, ScopeId,
    SessionId, StreamKey, SubmissionId, TurnId, WorkerId, WorkerRef,
};
pub use message::{ContentPart, Message, Role};
pub use model::{FinishReason, ModelEvent, ModelRequest, Usage};
pub use outcome::{
    CallReport, CodeOutput, Continuation, DirectOutput, EffectOutcome, EffectOutput, JoinedMessage,
    LlmResponse, NestedCall, OnCancel, OnTimeout, PendingCall, QUESTION_BYTES_MAX, Reserve,
    SourceReport, Spent, ToolCallOutput, WaitOutput,
};
pub use process::{
    ProcessAnswer, ProcessCommand, ProcessEventType, ProcessInput, ProcessListing, ProcessOutcome,
    ProcessRegistration, ProcessStatus, RecoveryDisposition, SessionDeletion, Trigger,
};
pub use schema::{SchemaViolation, check_schema};
pub use scope::ExecutionScope;
pub use secret::Secret;
pub use tier::Tier;
pub use tool::{
    ApprovalNeed, ApprovalPolicy, ApprovalRule, ArgumentTest, ToolCall, ToolDefinition, ToolHints,
    ToolResult,
};
