//! Why an operation on a process was refused.

use runtime_core::{Classified, ErrorClass, ProcessId, SessionId, WireError};
use runtime_store::{CommitError, ReadError};
use serde_json::{Value, json};

use crate::{LeaseError, ResolveError};

/// Why an operation on a process was refused. Nothing has changed, unless the class is
/// Indeterminate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// There is no such process.
    #[error("there is no process {process}")]
    NotFound {
        /// The process.
        process: ProcessId,
    },
    /// The id belongs to a process of another registration.
    #[error("process {process} exists with another registration; choose another id")]
    Conflict {
        /// The process.
        process: ProcessId,
    },
    /// The id belonged to a process that is retired, and is not free yet.
    #[error("process {process} is retired; its id cannot be used again yet")]
    Retired {
        /// The process.
        process: ProcessId,
    },
    /// It has ended.
    #[error("process {process} has ended")]
    Ended {
        /// The process.
        process: ProcessId,
    },
    /// It has not ended.
    #[error("process {process} has not ended; only what has ended can be retired")]
    NotEnded {
        /// The process.
        process: ProcessId,
    },
    /// Its end is not reported from outside.
    #[error("process {process} is no external one; its end is not reported")]
    NotExternal {
        /// The process.
        process: ProcessId,
    },
    /// A name of an event type or signal is outside its grammar.
    #[error("{name:?} is no name of {what}: give 1 to 128 of the characters A-Z a-z 0-9 _ -")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name given.
        name: String,
    },
    /// Signals of one name are counted from 1.
    #[error("signals of one name are counted from 1")]
    OrdinalZero,
    /// Something is over its limit.
    #[error("the {what} has {size}; {max} are allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size, in bytes or entries.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The declared schema is none.
    #[error("the schema of event type {name} is no JSON schema: {reason}")]
    Schema {
        /// The event type.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// This build checks no schemas.
    #[error("event type {name} has a schema, and this build checks none; enable `json-schema`")]
    SchemaUnsupported {
        /// The event type.
        name: String,
    },
    /// The process has declared no such event.
    #[error("process {process} has declared no event type {name}")]
    EventUndeclared {
        /// The process.
        process: ProcessId,
        /// The event type.
        name: String,
    },
    /// The payload does not fit its schema.
    #[error("the payload does not fit the schema of {name}: {}", .reasons.join("; "))]
    EventPayload {
        /// The event type.
        name: String,
        /// Where it does not fit: JSON paths, never values.
        reasons: Vec<String>,
    },
    /// Another event was appended under the same key.
    #[error("another event of process {process} has the key {key}")]
    EventConflict {
        /// The process.
        process: ProcessId,
        /// The replay key.
        key: String,
    },
    /// The session does not hold the process.
    #[error("session {session} does not hold process {process}")]
    NotGranted {
        /// The process.
        process: ProcessId,
        /// The session.
        session: SessionId,
    },
    /// This instance knows no such function, or nothing that runs such an input.
    #[error("nothing here runs {name}; register it when the runtime opens")]
    FunctionUnknown {
        /// The function, or what the process is about.
        name: String,
    },
    /// The function does not take such an input.
    #[error("{name} does not take this input: {reason}")]
    InputInvalid {
        /// The function.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else changed the process each time that this was tried.
    #[error("process {process} is changing; try again")]
    Contended {
        /// The process.
        process: ProcessId,
    },
    /// Somebody else recorded occurrences of the source each time that this was tried.
    #[error("source {source_key} is busy; try again")]
    SourceContended {
        /// The source.
        source_key: String,
    },
    /// Waiting was cancelled; the process goes on.
    #[error("waiting for process {process} was cancelled")]
    WaitCancelled {
        /// The process.
        process: ProcessId,
    },
    /// The deadline of the wait came first; the process goes on.
    #[error("process {process} has not ended by the deadline of the wait")]
    WaitTimedOut {
        /// The process.
        process: ProcessId,
    },
    /// What is recorded of it is damaged; the error says where.
    #[error(transparent)]
    Record(#[from] WireError),
    /// A signal was not decided.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// This instance has no lease, so it drives nothing now.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The store refused or failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classified for ProcessError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "process_not_found",
            Self::Conflict { .. } => "process_conflict",
            Self::Retired { .. } => "process_retired",
            Self::Ended { .. } => "process_ended",
            Self::NotEnded { .. } => "process_not_ended",
            Self::NotExternal { .. } => "process_not_external",
            Self::Name { .. } => "process_name_invalid",
            Self::OrdinalZero => "process_signal_ordinal",
            Self::TooLarge { .. } => "process_too_large",
            Self::Schema { .. } => "process_schema_invalid",
            Self::SchemaUnsupported { .. } => "process_schema_unsupported",
            Self::EventUndeclared { .. } => "process_event_undeclared",
            Self::EventPayload { .. } => "process_event_invalid",
            Self::EventConflict { .. } => "process_event_conflict",
            Self::NotGranted { .. } => "process_not_granted",
            Self::FunctionUnknown { .. } => "process_function_unknown",
            Self::InputInvalid { .. } => "process_input_invalid",
            Self::Contended { .. } => "process_contended",
            Self::SourceContended { .. } => "process_source_contended",
            Self::WaitCancelled { .. } => "process_wait_cancelled",
            Self::WaitTimedOut { .. } => "process_wait_timed_out",
            Self::Record(_) => "process_record_corrupt",
            Self::Resolve(error) => error.code(),
            Self::Lease(error) => error.code(),
            Self::Commit(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::FunctionUnknown { .. } => ErrorClass::NotFound,
            Self::Conflict { .. }
            | Self::Retired { .. }
            | Self::Ended { .. }
            | Self::NotEnded { .. }
            | Self::EventConflict { .. } => ErrorClass::Conflict,
            Self::NotExternal { .. }
            | Self::Name { .. }
            | Self::OrdinalZero
            | Self::TooLarge { .. }
            | Self::Schema { .. }
            | Self::EventUndeclared { .. }
            | Self::EventPayload { .. }
            | Self::NotGranted { .. }
            | Self::InputInvalid { .. } => ErrorClass::Invalid,
            Self::SchemaUnsupported { .. } => ErrorClass::Unsupported,
            Self::Contended { .. } | Self::SourceContended { .. } => ErrorClass::Busy,
            Self::WaitCancelled { .. } => ErrorClass::Cancelled,
            Self::WaitTimedOut { .. } => ErrorClass::TimedOut,
            Self::Record(error) => error.class,
            Self::Resolve(error) => error.class(),
            Self::Lease(error) => error.class(),
            Self::Commit(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::EventPayload { name, reasons } => {
                Some(json!({ "event_type": name, "reasons": reasons }))
            }
            Self::TooLarge { what, size, max } => {
                Some(json!({ "what": what, "size": size, "max": max }))
            }
            Self::Record(error) => error.details.clone(),
            _ => None,
        }
    }

    fn to_wire(&self) -> WireError {
        match self {
            // What failed below keeps its own code, which says what to do.
            Self::Record(error) => error.clone(),
            _ => WireError {
                code: self.code().to_owned(),
                class: self.class(),
                message: self.to_string(),
                details: self.details(),
            },
        }
    }
}
