//! Effects: their kinds, keys, commands and envelopes (E2, E3, E4).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    CallId, CanonicalEncoder, Classified, Digest, ErrorClass, ExecutionScope, ProcessCommand,
    ProcessId, Timestamp,
};

/// The largest envelope, in bytes of JSON; larger values enter by digest (E3).
pub const ENVELOPE_BYTES_MAX: usize = 4096;

const REPLAY_KEY_BYTES_MAX: usize = 1024;

/// The kinds of non-deterministic acts (E3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EffectKind {
    /// A model call inside a turn.
    LlmCall,
    /// A model call outside a turn.
    Direct,
    /// A tool call.
    ToolCall,
    /// Recording the prompt and the tool catalogue in force.
    SyncExecutionEnvironment,
    /// Waiting for a promise, a time or a process.
    AwaitEvent,
    /// A durable sleep.
    Sleep,
    /// A named step of a workflow.
    DurableStep,
    /// An operation on a process: start, list, transfer, delete-session, await, cancel, signal.
    Process,
    /// Running code.
    ExecCode,
    /// Looking for queued inputs that join a running turn before it completes.
    TurnCheckpoint,
}

impl EffectKind {
    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlmCall => "llm_call",
            Self::Direct => "direct",
            Self::ToolCall => "tool_call",
            Self::SyncExecutionEnvironment => "sync_execution_environment",
            Self::AwaitEvent => "await_event",
            Self::Sleep => "sleep",
            Self::DurableStep => "durable_step",
            Self::Process => "process",
            Self::ExecCode => "exec_code",
            Self::TurnCheckpoint => "turn_checkpoint",
        }
    }
}

impl fmt::Display for EffectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The address of an effect inside its scope. It is built, never typed (E4).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplayKey(String);

impl ReplayKey {
    /// The key of an effect of a turn.
    ///
    /// `ordinal` is the index of the call in the recorded model message, never a count of the
    /// effects that ran.
    #[must_use]
    pub fn turn(iteration: u32, kind: EffectKind, ordinal: u32) -> Self {
        Self(format!("{iteration}.{kind}.{ordinal}"))
    }

    /// The key of the `occurrence`-th step (from 0) of that name in a process.
    ///
    /// # Errors
    /// The name is not bounded text.
    pub fn step(name: &str, occurrence: u32) -> Result<Self, EnvelopeError> {
        Self::process(EffectKind::DurableStep, name, occurrence)
    }

    /// The key of the `occurrence`-th effect (from 0) of that kind and name in a process.
    ///
    /// # Errors
    /// The name is not bounded text.
    pub fn process(kind: EffectKind, name: &str, occurrence: u32) -> Result<Self, EnvelopeError> {
        Self::checked(format!("step.{kind}.{occurrence}.{name}"))
    }

    /// The key of a child of this effect.
    ///
    /// # Errors
    /// The suffix is not bounded text.
    pub fn child(&self, suffix: &str) -> Result<Self, EnvelopeError> {
        Self::checked(format!("{}/{suffix}", self.0))
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn checked(text: String) -> Result<Self, EnvelopeError> {
        let bounded = !text.is_empty() && text.len() <= REPLAY_KEY_BYTES_MAX;
        if bounded && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(EnvelopeError::ReplayKey { len: text.len() })
        }
    }

    fn names(&self, kind: EffectKind) -> bool {
        self.0.split(['.', '/']).nth(1) == Some(kind.as_str())
    }
}

impl fmt::Display for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReplayKey {
    type Err = EnvelopeError;

    fn from_str(text: &str) -> Result<Self, EnvelopeError> {
        Self::checked(text.to_owned())
    }
}

impl TryFrom<String> for ReplayKey {
    type Error = EnvelopeError;

    fn try_from(text: String) -> Result<Self, EnvelopeError> {
        Self::checked(text)
    }
}

impl From<ReplayKey> for String {
    fn from(key: ReplayKey) -> Self {
        key.0
    }
}

/// What a promise stands for (E10).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitIdentity {
    /// A tool call that is completed from outside.
    ToolCompletion {
        /// The call.
        call: CallId,
    },
    /// A signal to a process.
    ProcessSignal {
        /// The process.
        process: ProcessId,
        /// The signal: `[A-Za-z0-9_-]+`.
        name: String,
        /// Which of that name, from 1.
        ordinal: u64,
    },
    /// Anything else.
    Custom {
        /// Bounded text.
        key: String,
    },
}

impl WaitIdentity {
    /// The approval of one call with exactly these arguments (T3).
    #[must_use]
    pub fn approval(call: &CallId, arguments: &Digest) -> Self {
        let bound = CanonicalEncoder::new("approval")
            .text(call.as_str())
            .bytes(arguments.as_bytes())
            .digest();
        Self::Custom {
            key: format!("approval:{bound}"),
        }
    }
}

/// One thing that a wait may end with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitSource {
    /// A promise of the same scope.
    Promise {
        /// Which promise.
        identity: WaitIdentity,
        /// The tool call that hangs on it, for those who list what is waited for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<CallId>,
        /// The name of the tool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tool: Option<String>,
        /// What the tool asks, for those who answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asks: Option<String>,
    },
    /// A time, counted from when the wait began; what is stored is the absolute time.
    After {
        /// How long.
        duration: Duration,
    },
    /// An absolute time: a deadline that was recorded before this wait began.
    Until {
        /// When.
        due: Timestamp,
    },
    /// The end of a process, of whatever scope.
    Process {
        /// The process.
        process: ProcessId,
    },
}

/// How a promise ended (E10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Resolution {
    /// With a value.
    Ok {
        /// The value.
        value: Value,
    },
    /// With an error.
    Err {
        /// A code of whoever resolves.
        code: String,
        /// What to read.
        message: String,
        /// The error as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raw: Option<Value>,
    },
    /// Its own deadline passed.
    Timeout,
    /// It was cancelled.
    Cancelled,
}

/// A model call of a turn; its context is named by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlmCall {
    /// The model, as its provider names it.
    pub model: String,
    /// The chain digest over the conversation ([`Message::chained`](crate::Message::chained)).
    pub context: Digest,
    /// How many messages the chain names.
    pub messages: u32,
    /// The prompt in force.
    pub prompt: Digest,
    /// The tool catalogue in force.
    pub tools: Digest,
}

/// A model call outside a turn: a title, a summary, a classification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectCall {
    /// The model, as its provider names it.
    pub model: String,
    /// The digest of the whole request.
    pub request: Digest,
    /// What its tokens are booked under.
    pub label: String,
}

/// Code to run; the text is named by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeCommand {
    /// The language, as the executor names it.
    pub language: String,
    /// The digest of the source text.
    pub source: Digest,
    /// The size of the source text.
    pub bytes: u64,
}

/// A tool call; large arguments are named by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallCommand {
    /// The call as the provider names it.
    pub call: CallId,
    /// The public name of the tool.
    pub tool: String,
    /// The digest of the arguments that run ([`crate::ToolCall::arguments_digest`]).
    pub arguments: Digest,
}

/// One non-deterministic act, fully serialisable (E3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EffectCommand {
    /// Call a model.
    LlmCall(LlmCall),
    /// Call a model outside a turn.
    Direct(DirectCall),
    /// Call a tool.
    ToolCall(ToolCallCommand),
    /// Record the prompt and tool catalogue in force; names neither, so that editing them
    /// changes no open turn.
    SyncExecutionEnvironment {
        /// The model that the turn speaks to.
        model: String,
    },
    /// Wait for the first of these.
    AwaitEvent {
        /// What may end the wait, at least one.
        sources: Vec<WaitSource>,
    },
    /// Sleep; what is stored is the absolute due time (E8).
    Sleep {
        /// How long.
        duration: Duration,
    },
    /// Run a named step.
    DurableStep {
        /// The name.
        name: String,
        /// The digest of its input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Digest>,
    },
    /// Do something about a process.
    Process {
        /// What.
        command: ProcessCommand,
    },
    /// Run code.
    ExecCode(CodeCommand),
    /// Look for queued inputs and injected messages that join the turn.
    TurnCheckpoint,
}

impl EffectCommand {
    /// Returns the kind.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        match self {
            Self::LlmCall(_) => EffectKind::LlmCall,
            Self::Direct(_) => EffectKind::Direct,
            Self::ExecCode(_) => EffectKind::ExecCode,
            Self::ToolCall(_) => EffectKind::ToolCall,
            Self::SyncExecutionEnvironment { .. } => EffectKind::SyncExecutionEnvironment,
            Self::AwaitEvent { .. } => EffectKind::AwaitEvent,
            Self::Sleep { .. } => EffectKind::Sleep,
            Self::DurableStep { .. } => EffectKind::DurableStep,
            Self::Process { .. } => EffectKind::Process,
            Self::TurnCheckpoint => EffectKind::TurnCheckpoint,
        }
    }

    fn subject_is_blank(&self) -> bool {
        match self {
            Self::LlmCall(call) => call.model.trim().is_empty(),
            Self::Direct(call) => call.model.trim().is_empty() || call.label.trim().is_empty(),
            Self::ExecCode(code) => code.language.trim().is_empty(),
            Self::ToolCall(call) => call.tool.trim().is_empty(),
            Self::SyncExecutionEnvironment { model } => model.trim().is_empty(),
            Self::AwaitEvent { sources } => sources.is_empty(),
            Self::Sleep { .. } | Self::Process { .. } | Self::TurnCheckpoint => false,
            Self::DurableStep { name, .. } => name.trim().is_empty(),
        }
    }
}

/// How often and how long an effect is tried (E6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub max_attempts: u32,
    /// The pause after the first failed attempt; it doubles each time.
    pub backoff_initial: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(300),
        }
    }
}

/// Why an envelope cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// A command of that kind needs a subject.
    #[error("{kind} has a blank subject")]
    BlankSubject {
        /// The kind of the command.
        kind: EffectKind,
    },
    /// The replay key was built for another kind of effect.
    #[error("replay key {key} is not that of a {kind}")]
    KeyMismatch {
        /// The key given.
        key: String,
        /// The kind of the command.
        kind: EffectKind,
    },
    /// The replay key is empty, too long, or has control characters.
    #[error(
        "replay key has {len} bytes; give 1 to {REPLAY_KEY_BYTES_MAX} without control characters"
    )]
    ReplayKey {
        /// Its length in bytes.
        len: usize,
    },
    /// The envelope is over its limit; name large values by digest.
    #[error(
        "envelope has {bytes} bytes; {ENVELOPE_BYTES_MAX} are allowed, name large values by digest"
    )]
    TooLarge {
        /// Its size as JSON.
        bytes: usize,
    },
}

impl Classified for EnvelopeError {
    fn code(&self) -> &'static str {
        match self {
            Self::BlankSubject { .. } => "envelope_blank_subject",
            Self::KeyMismatch { .. } => "envelope_key_mismatch",
            Self::ReplayKey { .. } => "replay_key_invalid",
            Self::TooLarge { .. } => "envelope_too_large",
        }
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

/// An effect as it goes down to its controller: whose, which, what, and how often it may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct EffectEnvelope {
    scope: ExecutionScope,
    key: ReplayKey,
    command: EffectCommand,
    retry_safe: bool,
    policy: RetryPolicy,
}

/// An envelope from the wire, before it has been checked like any other.
#[derive(Deserialize)]
struct Unchecked {
    scope: ExecutionScope,
    key: ReplayKey,
    command: EffectCommand,
    retry_safe: bool,
    policy: RetryPolicy,
}

impl TryFrom<Unchecked> for EffectEnvelope {
    type Error = EnvelopeError;

    fn try_from(unchecked: Unchecked) -> Result<Self, EnvelopeError> {
        let envelope = Self::new(unchecked.scope, unchecked.key, unchecked.command)?;
        Ok(envelope
            .retry_safe(unchecked.retry_safe)
            .with_policy(unchecked.policy))
    }
}

/// What identifies an envelope: the part that is hashed. How often it may run is not of it, so
/// that changing a timeout parks no open turn.
#[derive(Serialize)]
struct Identity<'a> {
    scope: &'a ExecutionScope,
    key: &'a ReplayKey,
    command: &'a EffectCommand,
}

impl EffectEnvelope {
    /// Makes an envelope of an effect that must not run again by itself.
    ///
    /// # Errors
    /// [`EnvelopeError`]: blank subject, a key of another kind, or too large.
    pub fn new(
        scope: ExecutionScope,
        key: ReplayKey,
        command: EffectCommand,
    ) -> Result<Self, EnvelopeError> {
        let kind = command.kind();
        if command.subject_is_blank() {
            return Err(EnvelopeError::BlankSubject { kind });
        }
        if !key.names(kind) {
            return Err(EnvelopeError::KeyMismatch { key: key.0, kind });
        }
        let policy = RetryPolicy::default();
        let envelope = Self {
            scope,
            key,
            command,
            retry_safe: false,
            policy,
        };
        let identity = serde_json::to_vec(&envelope.identity_fields());
        let bytes = identity.expect("an envelope is plain data").len();
        if bytes > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes });
        }
        Ok(envelope)
    }

    /// Declares that it may run again (E7).
    #[must_use]
    pub const fn retry_safe(mut self, retry_safe: bool) -> Self {
        self.retry_safe = retry_safe;
        self
    }

    /// Sets how often and how long it is tried.
    #[must_use]
    pub const fn with_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Returns whose effect it is.
    #[must_use]
    pub const fn scope(&self) -> &ExecutionScope {
        &self.scope
    }

    /// Returns its address inside the scope.
    #[must_use]
    pub const fn key(&self) -> &ReplayKey {
        &self.key
    }

    /// Returns what is to be done.
    #[must_use]
    pub const fn command(&self) -> &EffectCommand {
        &self.command
    }

    /// Returns the kind of the command.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        self.command.kind()
    }

    /// Says whether it may run again.
    #[must_use]
    pub const fn is_retry_safe(&self) -> bool {
        self.retry_safe
    }

    /// Returns how often and how long it is tried.
    #[must_use]
    pub const fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Returns what identifies the effect, as JSON: scope, key, command.
    #[must_use]
    pub fn identity(&self) -> Value {
        serde_json::to_value(self.identity_fields()).expect("an envelope is plain data")
    }

    /// Returns the SHA-256 of the canonical identity: what replay compares.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Self::identity_digest(&self.identity())
    }

    /// Returns the digest of an identity as it was recorded, to compare it with
    /// [`digest`](Self::digest).
    #[must_use]
    pub fn identity_digest(identity: &Value) -> Digest {
        CanonicalEncoder::new("effect-envelope")
            .json(identity)
            .digest()
    }

    const fn identity_fields(&self) -> Identity<'_> {
        Identity {
            scope: &self.scope,
            key: &self.key,
            command: &self.command,
        }
    }

    /// Returns the key that every attempt hands to the model or tool; unique across runtimes
    /// as far as its scope is.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        CanonicalEncoder::new("idempotency-key")
            .text(self.scope.scope_id().as_str())
            .text(self.key.as_str())
            .digest()
            .to_string()
    }
}
