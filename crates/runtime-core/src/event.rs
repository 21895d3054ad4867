//! Events: what is told of a runtime (V2).

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    EventId, ExecutionScope, ProcessId, SessionId, StreamKey, Timestamp, TurnId, WireError,
};

/// The version of the event form that is written.
pub const EVENT_SCHEMA: u16 = 1;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What happened. A kind that this version does not know is kept as it came.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* $name,)*
            /// A kind of a later version.
            Other(String),
        }

        impl EventKind {
            /// Every kind that this version knows.
            pub const KNOWN: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the stable name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for EventKind {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$name,)*
                    _ => Self::Other(text),
                }
            }
        }
    };
}

event_kinds! {
    /// An instance opened the runtime.
    RuntimeOpened => "runtime_opened",
    /// An instance closed the runtime in order.
    RuntimeClosed => "runtime_closed",
    /// The runtime was stopped or reopened for changes.
    RuntimeStatusChanged => "runtime_status_changed",
    /// The lease of an instance ran out: its scopes are taken over.
    InstanceExpired => "instance_expired",
    /// A worker joined the catalogue.
    WorkerCreated => "worker_created",
    /// A worker was stopped, resumed, cancelled or deleted.
    WorkerStatusChanged => "worker_status_changed",
    /// What a deleted worker had said was erased.
    WorkerPurged => "worker_purged",
    /// An input was accepted: it will be worked on whatever happens.
    InputAccepted => "input_accepted",
    /// A turn started.
    TurnStarted => "turn_started",
    /// A turn waits, with its reason, and holds no task.
    TurnParked => "turn_parked",
    /// A turn goes on, after a park or in a new process.
    TurnResumed => "turn_resumed",
    /// A turn ended as it should. Terminal.
    TurnCompleted => "turn_completed",
    /// A turn failed. Terminal.
    TurnFailed => "turn_failed",
    /// A turn was cancelled. Terminal.
    TurnCancelled => "turn_cancelled",
    /// The prompt and tool catalogue in force were recorded.
    EnvironmentSynced => "environment_synced",
    /// A tool server lists other tools than before: which were added, removed, changed (M6).
    ToolListChanged => "tool_list_changed",
    /// Which definitions of a tool server may be called changed: its first list was pinned, some
    /// wait for approval, one was approved or revoked (M7).
    ToolPinsChanged => "tool_pins_changed",
    /// A version of what agents are built from is in force: caches in every process build anew (G2).
    AgentInvalidated => "agent_invalidated",
    /// A message of the model is complete; carries the outcome of the model call.
    MessageCommitted => "message_committed",
    /// A model call failed for good.
    ModelCallFailed => "model_call_failed",
    /// A tool call that must not run twice is about to run: its durable intent.
    ToolCallStarted => "tool_call_started",
    /// A tool call ended; carries its outcome.
    ToolCallFinished => "tool_call_finished",
    /// A person is asked to approve a call.
    ApprovalRequested => "approval_requested",
    /// Another wait began.
    WaitStarted => "wait_started",
    /// A wait ended; carries what it saw.
    WaitEnded => "wait_ended",
    /// A checkpoint of a turn ended; carries which queued inputs and messages joined it.
    InputsJoined => "inputs_joined",
    /// A summary stands for the beginning of a conversation; carries it.
    ContextCompacted => "context_compacted",
    /// A promise was resolved.
    PromiseResolved => "promise_resolved",
    /// A promise's owner was revoked.
    PromiseRevoked => "promise_revoked",
    /// A sleep or step is about to run and must not run twice: its durable intent.
    EffectStarted => "effect_started",
    /// A sleep or step ended; carries its outcome.
    EffectFinished => "effect_finished",
    /// An attempt failed and will be repeated.
    EffectAttemptFailed => "effect_attempt_failed",
    /// It is unknown whether an effect happened; a person must rule.
    EffectInDoubt => "effect_in_doubt",
    /// A person ruled on an effect in doubt.
    InDoubtRuled => "in_doubt_ruled",
    /// A person ruled on an effect that is not the one recorded under its key; names the effects
    /// whose record is set aside.
    ConflictRuled => "conflict_ruled",
    /// A process is known: its registration.
    ProcessRegistered => "process_registered",
    /// A process has started.
    ProcessStarted => "process_started",
    /// A process goes on in another instance.
    ProcessResumed => "process_resumed",
    /// A process cannot go on until somebody rules or repairs.
    ProcessParked => "process_parked",
    /// What a process tells, of a kind that it declared.
    ProcessEvent => "process_event",
    /// A process was asked to end.
    ProcessCancelRequested => "process_cancel_requested",
    /// A process ended as it should. Terminal.
    ProcessSucceeded => "process_succeeded",
    /// A process failed. Terminal.
    ProcessFailed => "process_failed",
    /// A process was cancelled. Terminal.
    ProcessCancelled => "process_cancelled",
    /// What was kept of an ended process is gone, but for its events.
    ProcessRetired => "process_retired",
    /// A session holds a process.
    ProcessGranted => "process_granted",
    /// A session holds a process no more.
    ProcessGrantRevoked => "process_grant_revoked",
    /// A session's grant went to another session.
    ProcessGrantTransferred => "process_grant_transferred",
    /// A session is to be told of an event of a process that it owns.
    ProcessWoke => "process_woke",
    /// A command from another process was refused.
    CommandRefused => "command_refused",
    /// Something that a person should know.
    Diagnostic => "diagnostic",
    /// What is left of an event whose payload was erased: its place. Never stored.
    Erased => "erased",
    /// More of a streaming answer. Ephemeral: never stored.
    ModelDelta => "model_delta",
}

impl EventKind {
    /// Says whether the kind ends a turn (V5).
    #[must_use]
    pub const fn ends_turn(&self) -> bool {
        matches!(
            self,
            Self::TurnCompleted | Self::TurnFailed | Self::TurnCancelled
        )
    }

    /// Says whether the kind ends a process (E15).
    #[must_use]
    pub const fn ends_process(&self) -> bool {
        matches!(
            self,
            Self::ProcessSucceeded | Self::ProcessFailed | Self::ProcessCancelled
        )
    }

    /// Says whether nothing may come after it in its own stream.
    #[must_use]
    pub const fn closes_stream(&self) -> bool {
        self.ends_turn() || self.ends_process()
    }
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a reader subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Topic {
    /// Everything.
    Runtime,
    /// One worker's session.
    Session {
        /// The session.
        session: SessionId,
    },
    /// One turn.
    Turn {
        /// Its session.
        session: SessionId,
        /// The turn.
        turn: TurnId,
    },
    /// One process.
    Process {
        /// The process.
        process: ProcessId,
    },
    /// One model provider or tool server.
    Provider {
        /// Its name: bounded text.
        provider: StreamKey,
    },
}

impl Topic {
    /// Returns the stream behind the topic; none is the whole log.
    #[must_use]
    pub fn stream_key(&self) -> Option<StreamKey> {
        match self {
            Self::Runtime => None,
            Self::Session { session } => Some(key(format!("session/{session}"))),
            Self::Turn { session, turn } => Some(key(format!("turn/{session}/{turn}"))),
            Self::Process { process } => Some(key(format!("process/{process}"))),
            Self::Provider { provider } => Some(provider.clone()),
        }
    }
}

fn key(text: String) -> StreamKey {
    StreamKey::new(text).expect("ids and a word are within the bounds of a stream key")
}

/// An event before the log gives it a place. Its JSON is what a store keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventDraft {
    /// The version of this form.
    pub schema: u16,
    /// What happened.
    pub kind: EventKind,
    /// The session it belongs to; its worker has the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The turn it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// The process it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// The provider it tells of, as a stream: `provider/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<StreamKey>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What caused it: an event id, or the id of a command from another process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<String>,
    /// The facts, by kind.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub payload: Value,
}

impl EventDraft {
    /// Starts an event of that kind that belongs to nothing yet.
    #[must_use]
    pub const fn new(kind: EventKind) -> Self {
        Self {
            schema: EVENT_SCHEMA,
            kind,
            session: None,
            turn: None,
            process: None,
            provider: None,
            message: None,
            caused_by: None,
            payload: Value::Null,
        }
    }

    /// Lets it belong to an execution scope.
    #[must_use]
    pub fn in_scope(mut self, scope: &ExecutionScope) -> Self {
        self.session = scope.session().cloned();
        self.turn = scope.turn().cloned();
        self.process = match scope {
            ExecutionScope::Process { process } => Some(process.clone()),
            _ => None,
        };
        self
    }

    /// Lets it belong to a session.
    #[must_use]
    pub fn in_session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Sets the facts.
    #[must_use]
    pub fn with_payload(mut self, payload: Value) -> Self {
        self.payload = payload;
        self
    }

    /// Sets the line for people.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Returns the streams it belongs to. The first, if it is a turn or process, is its own: the
    /// one that its `seq` counts.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamKey> {
        let mut streams = Vec::with_capacity(3);
        if let (Some(session), Some(turn)) = (&self.session, &self.turn) {
            streams.push(key(format!("turn/{session}/{turn}")));
        }
        if let Some(process) = &self.process {
            streams.push(key(format!("process/{process}")));
        }
        if let Some(session) = &self.session {
            streams.push(key(format!("session/{session}")));
        }
        streams.extend(self.provider.clone());
        streams
    }

    /// Returns the JSON that a store keeps.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an event is plain data")
    }

    /// Reads back what [`to_bytes`](Self::to_bytes) wrote; unknown members are left out.
    ///
    /// # Errors
    /// The bytes are no event; class Corrupt.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(bytes)
            .map_err(|error| WireError::new("event_undecodable", crate::ErrorClass::Corrupt, error))
    }
}

/// An event in its place in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuntimeEvent {
    /// Its place in the log of the runtime, from 1; zero for an ephemeral event.
    pub position: u64,
    /// Its place in its own turn or process, dense from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its id.
    pub id: EventId,
    /// When it was committed.
    pub time: Timestamp,
    /// What it tells.
    #[serde(flatten)]
    pub draft: EventDraft,
}

impl RuntimeEvent {
    /// Returns what happened.
    #[must_use]
    pub const fn kind(&self) -> &EventKind {
        &self.draft.kind
    }
}
