//! Processes as the store keeps them: a fold of their events. No I/O.

use runtime_core::{
    Digest, ErrorClass, EventDraft, EventKind, ExecutionScope, ProcessId, ProcessOutcome,
    ProcessRegistration, ProcessStatus, RecoveryDisposition, ReplayKey, ScopeId, SessionId,
    Timestamp, WireError,
};
use runtime_store::{Row, RowChange, RowKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::conflict_of;

/// The version of the row form that is written.
const ROW_SCHEMA: u16 = 1;

/// A process as the store keeps it: the fold of its events by [`applied`](Self::applied).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessRecord {
    schema: u16,
    /// The process.
    pub process: ProcessId,
    /// The digest of its registration.
    pub registration: Digest,
    /// What it is about, for people.
    pub title: String,
    /// The variant of its input, as [`runtime_core::ProcessInput::kind`] names it.
    pub input_kind: String,
    /// What becomes of it when its driver is gone.
    pub disposition: RecoveryDisposition,
    /// The process that spawned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ProcessId>,
    /// Where it stands.
    pub status: ProcessStatus,
    /// When it was registered.
    pub registered: Timestamp,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The first reason for which it was asked to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<String>,
    /// Why it is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<WireError>,
    /// Its end becomes an input in the session of its owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end_wakes: bool,
}

impl ProcessRecord {
    /// The record after the event that registers a process at that time.
    #[must_use]
    pub fn registered(registration: &ProcessRegistration, now: Timestamp) -> Self {
        Self {
            schema: ROW_SCHEMA,
            process: registration.process.clone(),
            registration: registration.digest(),
            title: registration.input.title(),
            input_kind: registration.input.kind().to_owned(),
            disposition: registration.disposition,
            parent: registration.parent.clone(),
            status: ProcessStatus::Registered,
            registered: now,
            started: None,
            ended: None,
            cancel: None,
            parked: None,
            end_wakes: registration.end_wakes,
        }
    }

    /// The record after one more event of the process at that time: the one place that says what
    /// its events mean.
    #[must_use]
    pub fn applied(&self, event: &EventDraft, now: Timestamp) -> Self {
        let mut next = self.clone();
        match &event.kind {
            EventKind::ProcessStarted => {
                next.status = ProcessStatus::Running;
                next.started = Some(now);
            }
            EventKind::ProcessResumed => {
                next.status = ProcessStatus::Running;
                next.parked = None;
            }
            EventKind::ProcessParked => {
                next.status = ProcessStatus::Parked;
                next.parked = serde_json::from_value(event.payload["error"].clone()).ok();
            }
            EventKind::ProcessCancelRequested if next.cancel.is_none() => {
                next.cancel = event.payload["reason"].as_str().map(str::to_owned);
            }
            EventKind::ProcessSucceeded => next.end(ProcessStatus::Succeeded, now),
            EventKind::ProcessFailed => next.end(ProcessStatus::Failed, now),
            EventKind::ProcessCancelled => next.end(ProcessStatus::Cancelled, now),
            _ => {}
        }
        next
    }

    /// Says whether something else takes it further than the code of an instance: what is outside,
    /// or a turn.
    #[must_use]
    pub fn is_driven_elsewhere(&self) -> bool {
        self.disposition == RecoveryDisposition::External || self.input_kind == "session_turn"
    }

    /// The effect for whose conflict with the record it is parked (E4).
    pub(crate) fn conflict(&self) -> Option<ReplayKey> {
        self.parked.as_ref().and_then(conflict_of)
    }

    fn end(&mut self, status: ProcessStatus, now: Timestamp) {
        self.status = status;
        self.ended = Some(now);
        self.parked = None;
    }

    pub(crate) fn decode(row: &Row) -> Result<Self, WireError> {
        let record: Self =
            serde_json::from_slice(&row.body).map_err(|error| corrupt(&row.key, error))?;
        if record.schema > ROW_SCHEMA {
            return Err(corrupt(&row.key, "its form is of a later version"));
        }
        Ok(record)
    }

    pub(crate) fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a process record is plain data")
    }

    /// The row, with the index entry of its status instead of that of the status before.
    pub(crate) fn changes(&self, before: Option<&Self>, event: Option<usize>) -> Vec<RowChange> {
        let mut changes = vec![RowChange::Put {
            key: process_key(&self.process),
            body: self.to_body().into(),
            event,
            due: None,
        }];
        let moved = before.map(|before| before.status) != Some(self.status);
        if moved {
            changes.extend(
                before.map(|before| RowChange::Delete(status_key(before.status, &self.process))),
            );
            changes.push(RowChange::Put {
                key: status_key(self.status, &self.process),
                body: Vec::new().into(),
                event: None,
                due: self.ended,
            });
        }
        changes
    }
}

/// The outcome that the row of an ended process refers to.
pub(crate) fn recorded_outcome(row: &Row) -> Result<ProcessOutcome, WireError> {
    let event = row
        .event
        .as_ref()
        .ok_or_else(|| corrupt(&row.key, "it has ended without an event"))?;
    let draft = EventDraft::from_bytes(&event.body)?;
    ProcessOutcome::deserialize(&draft.payload["outcome"]).map_err(|error| corrupt(&row.key, error))
}

/// The registration that a row of space `process_registration` refers to.
pub(crate) fn recorded_registration(row: &Row) -> Result<ProcessRegistration, WireError> {
    let event = row
        .event
        .as_ref()
        .ok_or_else(|| corrupt(&row.key, "it has no event"))?;
    let draft = EventDraft::from_bytes(&event.body)?;
    ProcessRegistration::deserialize(&draft.payload["registration"])
        .map_err(|error| corrupt(&row.key, error))
}

pub(crate) fn corrupt(key: &RowKey, reason: impl std::fmt::Display) -> WireError {
    let message = format!("the record of {} is damaged: {reason}", key.scope);
    WireError::new("process_record_corrupt", ErrorClass::Corrupt, message)
}

/// An event in the stream of the process.
pub(crate) fn told(process: &ProcessId, kind: EventKind, payload: Value) -> EventDraft {
    let scope = process_scope(process);
    EventDraft::new(kind).in_scope(&scope).with_payload(payload)
}

/// The event that ends a process.
pub(crate) fn end_event(process: &ProcessId, outcome: &ProcessOutcome) -> EventDraft {
    let kind = match outcome {
        ProcessOutcome::Success { .. } => EventKind::ProcessSucceeded,
        ProcessOutcome::Failure { .. } => EventKind::ProcessFailed,
        ProcessOutcome::Cancelled { .. } => EventKind::ProcessCancelled,
    };
    told(process, kind, json!({ "outcome": outcome }))
}

/// The scope of the effects of a process.
pub(crate) fn process_scope(process: &ProcessId) -> ExecutionScope {
    ExecutionScope::Process {
        process: process.clone(),
    }
}

fn row_key(space: &str, process: &ProcessId, name: impl AsRef<str>) -> RowKey {
    RowKey::new(space, process_scope(process).scope_id(), name)
}

pub(crate) fn process_key(process: &ProcessId) -> RowKey {
    row_key("process", process, "")
}

pub(crate) fn registration_key(process: &ProcessId) -> RowKey {
    row_key("process_registration", process, "")
}

pub(crate) fn grants_key(process: &ProcessId) -> RowKey {
    row_key("process_grants", process, "")
}

/// What a process told under a replay key.
pub(crate) fn event_key(process: &ProcessId, key: &str) -> RowKey {
    row_key("process_event", process, key)
}

/// The space of the index of the processes of one status.
pub(crate) fn status_space(status: ProcessStatus) -> String {
    format!("process_{status}")
}

pub(crate) fn status_key(status: ProcessStatus, process: &ProcessId) -> RowKey {
    row_key(&status_space(status), process, "")
}

/// The index of what a process spawned.
pub(crate) const CHILD_SPACE: &str = "process_child";

pub(crate) fn child_key(parent: &ProcessId, child: &ProcessId) -> RowKey {
    row_key(CHILD_SPACE, parent, child.as_str())
}

/// The index of what a session holds, or held.
pub(crate) const HELD_SPACE: &str = "session_process";

/// An owner of its own: what a session holds outlives each of its turns.
pub(crate) fn held_scope(session: &SessionId) -> ScopeId {
    ScopeId::new(format!("grants/{session}")).expect("an id and a word are within the bounds")
}

pub(crate) fn held_key(session: &SessionId, process: &ProcessId) -> RowKey {
    RowKey::new(HELD_SPACE, held_scope(session), process.as_str())
}

/// The space of what is left of retired processes.
pub(crate) const RETIRED_SPACE: &str = "process_tombstone";

/// What is left of a retired process, so that its id is not used again.
pub(crate) fn retired_key(process: &ProcessId) -> RowKey {
    let scope = ScopeId::new(format!("retired/{process}"));
    let scope = scope.expect("an id and a word are within the bounds");
    RowKey::new(RETIRED_SPACE, scope, "")
}

/// The process whose scope this is.
pub(crate) fn process_of(scope: &ScopeId) -> Option<ProcessId> {
    match ExecutionScope::from_scope_id(scope) {
        Ok(ExecutionScope::Process { process }) => Some(process),
        _ => None,
    }
}
