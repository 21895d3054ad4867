//! Answers to operations: what won, and where it stands in the log (W1).

use runtime_core::{EventId, SubmissionId, TurnId, WorkerId, WorkerRef};
use serde::{Deserialize, Serialize};

use crate::WorkerStatus;

/// The answer to an operation on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReceipt {
    /// The worker.
    #[serde(flatten)]
    pub worker: WorkerRef,
    /// Where it stands. Of two operations at once, the winner's status.
    pub status: WorkerStatus,
    /// Its run generation.
    pub generation: u64,
    /// The event that brought it there; for a repeated creation, the one that created it.
    pub event: EventId,
    /// The place of that event in the log.
    pub position: u64,
    /// It had happened before; nothing was written now.
    #[serde(default)]
    pub repeated: bool,
}

/// The answer to an accepted input: it will be worked on whatever happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReceipt {
    /// The worker.
    pub worker: WorkerId,
    /// The input as its sender named it.
    pub submission: SubmissionId,
    /// The turn that works on it.
    pub turn: TurnId,
    /// The event that accepted it.
    pub event: EventId,
    /// The place of that event in the log; none for a repetition that comes when the store no
    /// longer remembers the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Its place in the worker's transcript, from 1.
    pub sequence: u64,
    /// It had been accepted before; nothing was written now.
    #[serde(default)]
    pub repeated: bool,
}

/// The answer to an accepted System input: it joins the conversation before the next turn, and
/// starts none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemInputReceipt {
    /// The worker.
    pub worker: WorkerId,
    /// The input as its sender named it.
    pub submission: SubmissionId,
    /// The event that accepted it.
    pub event: EventId,
    /// The place of that event in the log; as of an [`InputReceipt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Its place in the worker's transcript, from 1.
    pub sequence: u64,
    /// It had been accepted before; nothing was written now.
    #[serde(default)]
    pub repeated: bool,
}

/// The answer to an operation on the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeReceipt {
    /// Where the runtime stands.
    pub status: crate::RuntimeStatus,
    /// The event that brought it there.
    pub event: EventId,
    /// The place of that event in the log.
    pub position: u64,
    /// The workers that changed with it.
    pub workers: u64,
    /// It had happened before; nothing was written now.
    #[serde(default)]
    pub repeated: bool,
}
