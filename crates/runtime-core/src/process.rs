//! Processes (E15): background work with its own events, signals and one end.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CanonicalEncoder, Digest, ErrorClass, ProcessId, SessionId, Timestamp, WireError};

/// What a process does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessInput {
    /// Calls a tool.
    ToolCall {
        /// The public name of the tool.
        tool: String,
        /// Its arguments.
        arguments: Value,
    },
    /// Runs code.
    Code {
        /// The language, as the executor names it.
        language: String,
        /// The source text.
        source: String,
    },
    /// Sends an input to a session and ends with its turn.
    SessionTurn {
        /// The session that works on it.
        session: SessionId,
        /// What is said.
        text: String,
    },
    /// Runs a durable function that the host knows by name.
    Function {
        /// The name.
        name: String,
        /// Its argument.
        input: Value,
    },
    /// Is done by something outside, which reports its end.
    External {
        /// What does it.
        backend: String,
        /// How that names it.
        id: String,
        /// Whatever helps to find it.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        metadata: Value,
    },
}

impl ProcessInput {
    /// Returns the stable name of the variant.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ToolCall { .. } => "tool_call",
            Self::Code { .. } => "code",
            Self::SessionTurn { .. } => "session_turn",
            Self::Function { .. } => "function",
            Self::External { .. } => "external",
        }
    }

    /// Returns one line for people: the kind and what it is about.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::ToolCall { tool, .. } => format!("tool {tool}"),
            Self::Code { language, .. } => format!("code in {language}"),
            Self::SessionTurn { session, .. } => format!("turn of {session}"),
            Self::Function { name, .. } => name.clone(),
            Self::External { backend, id, .. } => format!("{backend} {id}"),
        }
    }
}

/// What becomes of a process whose driver is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecoveryDisposition {
    /// Whoever opens the runtime next drives it again, from its record.
    #[default]
    Rerunnable,
    /// It ends with whoever drove it (`process_owner_lost`), and when no session holds it.
    OwnerBound,
    /// It is driven elsewhere, so it stays as it is.
    External,
}

/// A kind of event that a process may append.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessEventType {
    /// The name: `[A-Za-z0-9_-]+`.
    pub name: String,
    /// The JSON schema of its payloads; none allows every payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Each such event becomes one input in the session of the owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wakes: bool,
}

/// Everything that a process is from its first moment on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessRegistration {
    /// Its id.
    pub process: ProcessId,
    /// What it does.
    pub input: ProcessInput,
    /// What becomes of it when its driver is gone.
    #[serde(default)]
    pub disposition: RecoveryDisposition,
    /// The events that it may append.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<ProcessEventType>,
    /// Its end becomes one input in the session of its owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end_wakes: bool,
    /// The process that spawned it; it is cancelled with that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ProcessId>,
}

impl ProcessRegistration {
    /// A process of that input that is driven again after a crash; an external one stays as it is.
    #[must_use]
    pub fn new(process: ProcessId, input: ProcessInput) -> Self {
        let disposition = match input {
            ProcessInput::External { .. } => RecoveryDisposition::External,
            _ => RecoveryDisposition::Rerunnable,
        };
        Self {
            process,
            input,
            disposition,
            event_types: Vec::new(),
            end_wakes: false,
            parent: None,
        }
    }

    /// A durable function by its name.
    #[must_use]
    pub fn function(process: ProcessId, name: impl Into<String>, input: Value) -> Self {
        let name = name.into();
        Self::new(process, ProcessInput::Function { name, input })
    }

    /// Declares a kind of event.
    #[must_use]
    pub fn declaring(mut self, event_type: ProcessEventType) -> Self {
        self.event_types.push(event_type);
        self
    }

    /// Sets what becomes of it when its driver is gone.
    #[must_use]
    pub const fn with_disposition(mut self, disposition: RecoveryDisposition) -> Self {
        self.disposition = disposition;
        self
    }

    /// Returns the digest that tells a repetition from another registration under the same id.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let value = serde_json::to_value(self).expect("a registration is plain data");
        CanonicalEncoder::new("process-registration")
            .json(&value)
            .digest()
    }

    /// Returns a declared kind of event.
    #[must_use]
    pub fn event_type(&self, name: &str) -> Option<&ProcessEventType> {
        self.event_types
            .iter()
            .find(|declared| declared.name == name)
    }
}

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessStatus {
    /// It is known; nobody has started it.
    Registered,
    /// It has started: it is driven, or waits, or is done elsewhere.
    Running,
    /// It cannot go on until somebody rules or repairs.
    Parked,
    /// It ended as it should.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl ProcessStatus {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Running,
        Self::Parked,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Says whether it is over.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for ProcessStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a process ended; there is exactly one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProcessOutcome {
    /// With a value.
    Success {
        /// The value.
        value: Value,
    },
    /// With a failure.
    Failure {
        /// What it means for the caller.
        class: ErrorClass,
        /// A code of whoever failed.
        code: String,
        /// What to read.
        message: String,
        /// The failure as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raw: Option<Value>,
    },
    /// It was cancelled.
    Cancelled {
        /// Why.
        message: String,
        /// What whoever did it had to add.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raw: Option<Value>,
    },
}

impl ProcessOutcome {
    /// Returns the status of a process that ended so.
    #[must_use]
    pub const fn status(&self) -> ProcessStatus {
        match self {
            Self::Success { .. } => ProcessStatus::Succeeded,
            Self::Failure { .. } => ProcessStatus::Failed,
            Self::Cancelled { .. } => ProcessStatus::Cancelled,
        }
    }
}

impl From<WireError> for ProcessOutcome {
    fn from(error: WireError) -> Self {
        Self::Failure {
            class: error.class,
            code: error.code,
            message: error.message,
            raw: error.details,
        }
    }
}

/// What happened outside, as a tool reports it with its outcome: every subscription of that
/// source starts a process, once for each occurrence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// What kind of source, such as `mailbox`.
    pub source_type: String,
    /// Which source of that kind.
    pub source_key: String,
    /// Which occurrence; the same one starts nothing again.
    pub occurrence: String,
    /// What happened.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// The key under which whoever reports may report it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// What became of the processes of a session that was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDeletion {
    /// The processes on which it held a grant, which is revoked.
    pub revoked: Vec<ProcessId>,
    /// Those of them that no session holds any more.
    pub orphaned: Vec<ProcessId>,
    /// Those of them that another session holds.
    pub preserved: Vec<ProcessId>,
}

/// What an effect of kind `process` does. Large values are named by digest (E3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessCommand {
    /// Registers it, grants it to a session, schedules it.
    Start {
        /// The process.
        process: ProcessId,
        /// The digest of its registration.
        registration: Digest,
        /// The session that holds it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<SessionId>,
    },
    /// Lists what a session holds.
    List {
        /// The session.
        session: SessionId,
    },
    /// Gives a session's grant to another one.
    Transfer {
        /// The process.
        process: ProcessId,
        /// The session that holds it.
        from: SessionId,
        /// The session that will.
        to: SessionId,
    },
    /// Revokes every grant of a session.
    DeleteSession {
        /// The session.
        session: SessionId,
    },
    /// Waits for its end; a wait like any other, for `wait_any`.
    Await {
        /// The process.
        process: ProcessId,
        /// When waiting ends, if ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// Asks it to end.
    Cancel {
        /// The process.
        process: ProcessId,
        /// Why.
        reason: String,
    },
    /// Resolves one of its signals.
    Signal {
        /// The process.
        process: ProcessId,
        /// The signal.
        name: String,
        /// Which of that name, from 1.
        ordinal: u64,
        /// The digest of its value.
        value: Digest,
    },
}

/// One process among those that a session holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessListing {
    /// The process.
    pub process: ProcessId,
    /// What it is about, for people.
    pub title: String,
    /// Where it stands.
    pub status: ProcessStatus,
}

/// What an effect of kind `process` gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessAnswer {
    /// It has started, now or before.
    Started {
        /// The process.
        process: ProcessId,
    },
    /// What the session holds.
    Listed {
        /// In the order of their ids.
        processes: Vec<ProcessListing>,
    },
    /// The other session holds it.
    Transferred,
    /// The grants are revoked.
    SessionDeleted {
        /// What became of its processes.
        report: SessionDeletion,
    },
    /// It ended.
    Ended {
        /// How.
        outcome: ProcessOutcome,
    },
    /// It had not ended when waiting did.
    WaitTimedOut {
        /// When that was.
        due: Timestamp,
    },
    /// It was asked to end, now or before.
    CancelRequested {
        /// The first reason given.
        reason: String,
    },
    /// It had ended before it was asked.
    AlreadyEnded {
        /// How.
        outcome: ProcessOutcome,
    },
    /// The signal is resolved.
    Signalled {
        /// By this effect, not by somebody else before it.
        accepted: bool,
    },
}
