//! Why an operation of the runtime failed.

use runtime_core::{
    Classified, ErrorClass, IdError, RuntimeId, SchemaViolation, TurnId, WireError, WorkerId,
};
use runtime_store::{CommitError, ReadError};
use serde_json::{Value, json};

use crate::WorkerStatus;

/// Why an operation of the runtime failed. Unless it is Indeterminate, nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// There is no such worker.
    #[error("no worker {worker}; create it first")]
    UnknownWorker {
        /// The id asked for.
        worker: WorkerId,
    },
    /// The worker takes no inputs in its status.
    #[error("worker {worker} is {}; it takes no inputs", status.as_str())]
    WorkerNotRunning {
        /// The worker.
        worker: WorkerId,
        /// Its status.
        status: WorkerStatus,
    },
    /// The worker cannot be what was asked for any more: another change has won for good.
    #[error("worker {worker} is {} for good; create another", status.as_str())]
    WorkerStatus {
        /// The worker.
        worker: WorkerId,
        /// Its status.
        status: WorkerStatus,
    },
    /// Only a deleted worker whose turns have ended can be purged.
    #[error("worker {worker} is {}; delete it and let its turns end first", status.as_str())]
    NotPurgeable {
        /// The worker.
        worker: WorkerId,
        /// Its status.
        status: WorkerStatus,
    },
    /// Events that the worker's conversation is made of were removed, and not by retention as the
    /// runtime does it, which saves them.
    #[error("what worker {worker} has said was removed from the log; create another worker")]
    ConversationPruned {
        /// The worker.
        worker: WorkerId,
    },
    /// Retention removed entries of the transcript of a worker that says nothing any more.
    #[error("entries of the transcript were removed; the oldest that follow are from {oldest} on")]
    TranscriptPruned {
        /// The sequence from which on it is whole; past its end if nothing is left.
        oldest: u64,
    },
    /// Retention removed what the turn has answered.
    #[error("the events of turn {turn} were removed by retention; ask again")]
    TurnPruned {
        /// The turn.
        turn: TurnId,
    },
    /// The request id is taken by another request.
    #[error("request {request} was made with other content; use a new id")]
    RequestConflict {
        /// The request.
        request: String,
    },
    /// The worker exists, made by another request.
    #[error("worker {worker} exists already, made by another request")]
    WorkerExists {
        /// The worker.
        worker: WorkerId,
    },
    /// The reference or cursor is that of another runtime.
    #[error("that belongs to runtime {found}, this is {expected}")]
    OtherRuntime {
        /// This runtime.
        expected: RuntimeId,
        /// The other.
        found: RuntimeId,
    },
    /// The submission id is taken by another input.
    #[error("submission {submission} was accepted with other content; use a new id")]
    SubmissionConflict {
        /// The submission.
        submission: String,
    },
    /// A sub-agent asks for a sub-agent, too many times over.
    #[error("sub-agents may be {max} deep; do the work here")]
    TooDeep {
        /// How deep.
        max: u32,
    },
    /// Nobody is asked to approve that call any more: the time to do so has passed.
    #[error("nobody is asked about this call any more; the turn went on without the answer")]
    ApprovalNotPending,
    /// The edited arguments do not fit the tool.
    #[error("the edited arguments do not fit the tool: {violation}; nothing was decided")]
    ApprovalArguments {
        /// What does not fit.
        violation: SchemaViolation,
    },
    /// A text that must say something is blank.
    #[error("{what} is blank")]
    Blank {
        /// Which text.
        what: &'static str,
    },
    /// A text is over its limit.
    #[error("{what} has {bytes} bytes; {max} are allowed")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// There are more of something than are allowed.
    #[error("{count} {what} were named; {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A limit of zero would allow nothing.
    #[error("the limit {limit} is 0; give at least 1")]
    LimitZero {
        /// Which limit.
        limit: &'static str,
    },
    /// Other commits keep coming first; later it may work.
    #[error("{what} kept changing meanwhile; try again")]
    Contended {
        /// What was to be changed.
        what: &'static str,
    },
    /// The runtime is stopped: it can be read, and takes no changes.
    #[error("the runtime is stopped and takes no changes; reopen it first")]
    Stopped,
    /// The worker's queue is full, or other commits keep coming first; later it may work.
    #[error("worker {worker} is busy: {reason}")]
    Busy {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: &'static str,
    },
    /// Nothing waits under that name.
    #[error("nothing that waits is called {target:?}; `pending` lists what does")]
    NothingPending {
        /// The call or token asked for.
        target: String,
    },
    /// It was answered before, and otherwise: the first answer stands (E10).
    #[error("it was {how} before; that stands, and nothing has changed")]
    AnsweredOtherwise {
        /// How.
        how: &'static str,
    },
    /// Several things wait under that name.
    #[error("{count} things that wait are called {target:?}; use the token")]
    Ambiguous {
        /// The call asked for.
        target: String,
        /// How many.
        count: usize,
    },
    /// The turn did not complete.
    #[error("turn ended without an answer: {0}")]
    TurnNotCompleted(WireError),
    /// The turn is parked: it waits for a person or for an outside event.
    #[error("turn is parked: {reason}")]
    TurnParked {
        /// For what.
        reason: String,
    },
    /// The parts of a runtime do not fit together.
    #[error("the runtime cannot be opened: {}", .offending.join("; "))]
    Parts {
        /// Everything that does not fit.
        offending: Vec<String>,
    },
    /// The runtime is closed, or closing.
    #[error("the runtime is closed")]
    Closed,
    /// An identifier is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The store refused a commit, or failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A part below failed; its code and class are kept.
    #[error("{0}")]
    Part(#[from] WireError),
}

impl RuntimeError {
    /// Wraps the error of a part, with its code and class.
    #[must_use]
    pub fn from_part(error: &dyn Classified) -> Self {
        Self::Part(error.to_wire())
    }
}

impl Classified for RuntimeError {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownWorker { .. } => "worker_unknown",
            Self::WorkerNotRunning { .. } => "worker_not_running",
            Self::WorkerStatus { .. } => "worker_status_final",
            Self::NotPurgeable { .. } => "worker_not_purgeable",
            Self::ConversationPruned { .. } => "conversation_pruned",
            Self::TranscriptPruned { .. } => "transcript_pruned",
            Self::TurnPruned { .. } => "turn_pruned",
            Self::RequestConflict { .. } => "request_conflict",
            Self::WorkerExists { .. } => "worker_exists",
            Self::OtherRuntime { .. } => "runtime_other",
            Self::SubmissionConflict { .. } => "submission_conflict",
            Self::TooDeep { .. } => "sub_agent_too_deep",
            Self::ApprovalNotPending => "approval_not_pending",
            Self::ApprovalArguments { .. } => "approval_arguments_invalid",
            Self::Blank { .. } => "text_blank",
            Self::TooLong { .. } => "text_too_long",
            Self::TooMany { .. } => "too_many",
            Self::LimitZero { .. } => "limit_zero",
            Self::Contended { .. } => "runtime_contended",
            Self::Stopped => "runtime_stopped",
            Self::Busy { .. } => "worker_busy",
            Self::NothingPending { .. } => "nothing_pending",
            Self::AnsweredOtherwise { .. } => "answered_otherwise",
            Self::Ambiguous { .. } => "target_ambiguous",
            Self::TurnNotCompleted(_) => "turn_not_completed",
            Self::TurnParked { .. } => "turn_parked",
            Self::Parts { .. } => "runtime_parts_unfit",
            Self::Closed => "runtime_closed",
            Self::Id(error) => error.code(),
            Self::Commit(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Part(_) => "part_failed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::UnknownWorker { .. } | Self::NothingPending { .. } | Self::ApprovalNotPending => {
                ErrorClass::NotFound
            }
            Self::WorkerNotRunning { .. }
            | Self::WorkerStatus { .. }
            | Self::NotPurgeable { .. }
            | Self::RequestConflict { .. }
            | Self::Stopped
            | Self::WorkerExists { .. }
            | Self::AnsweredOtherwise { .. }
            | Self::SubmissionConflict { .. } => ErrorClass::Conflict,
            Self::OtherRuntime { .. }
            | Self::TooDeep { .. }
            | Self::ApprovalArguments { .. }
            | Self::Blank { .. }
            | Self::TooLong { .. }
            | Self::TooMany { .. }
            | Self::LimitZero { .. }
            | Self::Parts { .. }
            | Self::Ambiguous { .. } => ErrorClass::Invalid,
            Self::Busy { .. } | Self::Contended { .. } | Self::TurnParked { .. } => {
                ErrorClass::Busy
            }
            Self::ConversationPruned { .. }
            | Self::TranscriptPruned { .. }
            | Self::TurnPruned { .. } => ErrorClass::Gap,
            Self::TurnNotCompleted(_) => ErrorClass::Terminal,
            Self::Closed => ErrorClass::Unavailable,
            Self::Id(error) => error.class(),
            Self::Commit(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::Part(error) => error.class,
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Part(error) | Self::TurnNotCompleted(error) => error.details.clone(),
            Self::Parts { offending } => Some(json!({ "offending": offending })),
            Self::TranscriptPruned { oldest } => Some(json!({ "oldest": oldest })),
            _ => None,
        }
    }

    fn to_wire(&self) -> WireError {
        match self {
            // A part's error keeps its own code.
            Self::Part(error) => error.clone(),
            _ => WireError {
                code: self.code().to_owned(),
                class: self.class(),
                message: self.to_string(),
                details: self.details(),
            },
        }
    }
}
