//! Turns that have not ended, as the store keeps them.

use runtime_core::{
    ExecutionScope, ProcessId, ReplayKey, SessionId, SubmissionId, Timestamp, TurnId, WireError,
    WorkerId,
};
use runtime_effects::conflict_of;
use runtime_store::RowKey;
use serde::{Deserialize, Serialize};

use crate::worker::worker_scope;

/// Why a turn waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ParkReason {
    /// For an approval, a completion, a signal or a time.
    Waiting {
        /// The effect that waits.
        key: String,
    },
    /// For a ruling: it is unknown whether an effect happened (E7).
    InDoubt {
        /// The effect.
        key: String,
    },
    /// For a ruling: the record has another effect under this key (E4).
    Conflict {
        /// What differs.
        error: WireError,
    },
    /// For somebody who looks: processes died in this effect as often as it may be tried (E5).
    CrashLoop {
        /// The effect.
        error: WireError,
    },
    /// For its own deployment: it started under another one than is here (E17).
    OtherDeployment {
        /// Which one, and which is here.
        error: WireError,
    },
    /// For a repair: what it has recorded, or an attachment, is damaged or missing, and trying
    /// again does not help.
    Stalled {
        /// What is wrong.
        error: WireError,
    },
}

/// Where an unfinished turn stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TurnStatus {
    /// Its input is accepted; an earlier turn of the session goes first.
    Queued,
    /// It has started. Without a process that drives it, the next one to open the runtime does.
    Running,
    /// It waits and holds no task.
    Parked {
        /// For what.
        #[serde(flatten)]
        reason: ParkReason,
        /// Since when.
        since: Timestamp,
    },
}

impl TurnStatus {
    /// Returns the effect for whose conflict with the record the turn is parked (E4).
    pub(crate) fn conflict(&self) -> Option<ReplayKey> {
        match self {
            Self::Parked {
                reason: ParkReason::Conflict { error },
                ..
            } => conflict_of(error),
            _ => None,
        }
    }
}

/// A turn that has not ended; the commit that ends it removes the row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// The worker.
    pub worker: WorkerId,
    /// The turn.
    pub turn: TurnId,
    /// The input that caused it.
    pub submission: SubmissionId,
    /// Which input of the worker, from 1: turns run in this order.
    pub number: u64,
    /// The process that it is, if it is one: that ends with it (E15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// It runs nowhere: whoever drove it closed in order. Resuming it follows no crash.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub let_go: bool,
    /// Which of the places it has that a runtime with a limit gives to turns that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// Where it stands.
    #[serde(flatten)]
    pub status: TurnStatus,
}

impl TurnRecord {
    /// Returns the scope of the turn's effects.
    #[must_use]
    pub fn scope(&self) -> ExecutionScope {
        ExecutionScope::Turn {
            session: SessionId::from(&self.worker),
            turn: self.turn.clone(),
        }
    }

    pub(crate) fn key(&self) -> RowKey {
        RowKey::new(
            TURN_SPACE,
            worker_scope(&self.worker),
            format!("{:020}", self.number),
        )
    }

    /// The row that refers to the `turn_started` event.
    pub(crate) fn start_key(&self) -> RowKey {
        RowKey::new("turn_start", self.scope().scope_id(), "")
    }

    pub(crate) fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a turn record is plain data")
    }
}

/// The space of the rows of unfinished turns; in key order they are in the order of their worker's
/// inputs.
pub(crate) const TURN_SPACE: &str = "turn";
