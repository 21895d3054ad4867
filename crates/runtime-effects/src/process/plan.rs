//! What is committed of a process: each step as rows and events, derived from what is there. No I/O.

use std::sync::Arc;

use runtime_core::{
    CanonicalEncoder, CommitId, Digest, EventDraft, EventId, EventKind, ProcessId, ProcessOutcome,
    ProcessRegistration, SessionId, Timestamp,
};
use runtime_store::{Commit, Guard, NewEvent, RowChange, RowKey};
use serde_json::json;

use super::grants::Grants;
use super::record::{
    ProcessRecord, child_key, end_event, grants_key, held_key, process_key, process_scope,
    registration_key, retired_key, told,
};
use super::wake::wake_change;
use crate::{Lease, LeaseError};

/// A process as it is read to decide on a step: its record with the version of its row.
#[derive(Debug, Clone)]
pub(crate) struct Versioned {
    pub(crate) record: ProcessRecord,
    pub(crate) version: u64,
}

/// The grants of a process with the version of their row; none before the first.
#[derive(Debug, Clone, Default)]
pub(crate) struct VersionedGrants {
    pub(crate) grants: Grants,
    pub(crate) version: Option<u64>,
}

/// Adds events to a commit; their ids follow from the commit's.
pub(crate) fn with_event(commit: Commit, draft: &EventDraft) -> Commit {
    let id = EventId::derived(
        CanonicalEncoder::new("process-commit-event")
            .bytes(commit.id.as_uuid().as_bytes())
            .unsigned(commit.events.len() as u64),
    );
    commit.event(NewEvent::from_draft(id, draft))
}

fn with_rows(mut commit: Commit, rows: Vec<RowChange>) -> Commit {
    commit.rows.extend(rows);
    commit
}

/// What holds when nobody else has changed it meanwhile.
fn unchanged(key: RowKey, version: Option<u64>) -> Guard {
    match version {
        None => Guard::Absent(key),
        Some(version) => Guard::Version(key, version),
    }
}

impl VersionedGrants {
    pub(crate) fn guard(&self, process: &ProcessId) -> Guard {
        unchanged(grants_key(process), self.version)
    }
}

/// Puts the epoch of a process that starts: in the name of this instance, where it has a lease, so
/// that no other takes it for abandoned. What is driven elsewhere is held by no instance.
fn opened(commit: Commit, record: &ProcessRecord, lease: &Lease) -> Result<Commit, LeaseError> {
    let scope = process_scope(&record.process).scope_id();
    if lease.instance().is_none() || record.is_driven_elsewhere() {
        return Ok(commit.row(RowChange::put(RowKey::epoch(scope), Vec::new())));
    }
    Ok(lease.opens(commit, &scope)?.0)
}

/// Registers a process; with a lease, starts it too.
pub(crate) fn register(
    commit: Commit,
    registration: &ProcessRegistration,
    starts: Option<&Lease>,
) -> Result<Commit, LeaseError> {
    let process = &registration.process;
    let epoch = RowKey::epoch(process_scope(process).scope_id());
    let now = commit.time;
    let mut record = ProcessRecord::registered(registration, now);
    let payload = json!({ "registration": registration, "digest": record.registration });
    let index = commit.events.len();
    let mut commit = with_event(
        commit,
        &told(process, EventKind::ProcessRegistered, payload),
    );
    commit = match starts {
        None => commit.row(RowChange::put(epoch.clone(), Vec::new())),
        Some(lease) => {
            let started = started(process);
            record = record.applied(&started, now);
            opened(with_event(commit, &started), &record, lease)?
        }
    };
    commit = commit
        .guard(Guard::Absent(process_key(process)))
        .guard(Guard::Absent(retired_key(process)))
        .guard(Guard::Absent(epoch))
        // A row of its own, never written again: the registration is read when it is driven.
        .row(RowChange::Put {
            key: registration_key(process),
            body: Vec::new().into(),
            event: Some(index),
            due: None,
        });
    if let Some(parent) = &registration.parent {
        commit = commit.row(RowChange::put(child_key(parent, process), Vec::new()));
    }
    Ok(with_rows(commit, record.changes(None, None)))
}

fn started(process: &ProcessId) -> EventDraft {
    told(process, EventKind::ProcessStarted, json!({}))
}

/// Starts a process that was registered before.
pub(crate) fn schedule(
    commit: Commit,
    found: &Versioned,
    lease: &Lease,
) -> Result<Commit, LeaseError> {
    let commit = match lease.is_needed() {
        true => opened(commit, &found.record, lease)?,
        false => commit,
    };
    Ok(step(commit, found, &started(&found.record.process)))
}

/// One event of a process, with the record after it.
pub(crate) fn step(commit: Commit, found: &Versioned, event: &EventDraft) -> Commit {
    let next = found.record.applied(event, commit.time);
    let commit = commit.guard(Guard::Version(
        process_key(&found.record.process),
        found.version,
    ));
    let commit = with_event(commit, event);
    with_rows(commit, next.changes(Some(&found.record), None))
}

/// Ends a process. Its stream takes no event after this one, and nobody waits in it any more.
pub(crate) fn end(
    mut commit: Commit,
    found: &Versioned,
    grants: &VersionedGrants,
    waiting: Vec<RowKey>,
    outcome: &ProcessOutcome,
    command: Option<CommitId>,
) -> Commit {
    let record = &found.record;
    let mut event = end_event(&record.process, outcome);
    event.caused_by = command.map(|command| command.to_string());
    let next = record.applied(&event, commit.time);
    let index = commit.events.len();
    commit = commit.guard(Guard::Version(process_key(&record.process), found.version));
    commit = with_event(commit, &event);
    commit = with_rows(commit, waiting.into_iter().map(RowChange::Delete).collect());
    commit = with_rows(commit, next.changes(Some(record), Some(index)));
    if record.end_wakes {
        commit = commit.guard(grants.guard(&record.process));
        if let Some(owner) = grants.grants.owner() {
            let text = end_text(record, outcome);
            commit = with_wake(commit, owner, &record.process, "end", text);
        }
    }
    commit
}

fn end_text(record: &ProcessRecord, outcome: &ProcessOutcome) -> String {
    let told = match outcome {
        ProcessOutcome::Success { value } => format!("succeeded: {value}"),
        ProcessOutcome::Failure { code, message, .. } => format!("failed ({code}): {message}"),
        ProcessOutcome::Cancelled { message, .. } => format!("was cancelled: {message}"),
    };
    format!("process {} ({}) {told}", record.process, record.title)
}

/// The longest input that an event becomes; the whole of it is in the process's own stream.
const WAKE_BYTES_MAX: usize = 16 * 1024;

/// Adds what lets one event become one input of a session: a row until it is taken, and an event.
pub(crate) fn with_wake(
    commit: Commit,
    owner: &SessionId,
    process: &ProcessId,
    key: &str,
    mut text: String,
) -> Commit {
    let mut end = text.len().min(WAKE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    let payload = json!({ "process": process, "key": key, "text": text });
    let draft = EventDraft::new(EventKind::ProcessWoke)
        .in_session(owner.clone())
        .with_payload(payload);
    let index = commit.events.len();
    let change = wake_change(owner, process, key, commit.time, index);
    with_event(commit, &draft).row(change)
}

/// What tells of a change of grants: in the streams of the sessions, since the process's own may
/// be closed.
pub(crate) fn grant_event(
    session: &SessionId,
    kind: EventKind,
    process: &ProcessId,
    to: Option<&SessionId>,
) -> EventDraft {
    let mut payload = json!({ "process": process });
    if let Some(to) = to {
        payload["to"] = json!(to);
    }
    EventDraft::new(kind)
        .in_session(session.clone())
        .with_payload(payload)
}

/// Writes the grants of a process.
pub(crate) fn write_grants(
    commit: Commit,
    process: &ProcessId,
    before: &VersionedGrants,
    after: &Grants,
) -> Commit {
    commit
        .guard(before.guard(process))
        .row(RowChange::put(grants_key(process), after.to_body()))
}

/// Notes in the index of a session that it holds a process.
pub(crate) fn hold(commit: Commit, session: &SessionId, process: &ProcessId) -> Commit {
    commit.row(RowChange::put(held_key(session, process), Vec::new()))
}

/// Notes in the index of a session that it does not hold a process.
pub(crate) fn let_go(commit: Commit, session: &SessionId, process: &ProcessId) -> Commit {
    commit.row(RowChange::Delete(held_key(session, process)))
}

/// Lets a session hold a process.
pub(crate) fn grant(
    commit: Commit,
    process: &ProcessId,
    before: &VersionedGrants,
    session: &SessionId,
) -> Commit {
    let mut after = before.grants.clone();
    after.grant(session, commit.time);
    let event = grant_event(session, EventKind::ProcessGranted, process, None);
    let commit = with_event(commit, &event);
    let commit = write_grants(commit, process, before, &after);
    hold(commit, session, process)
}

/// What is left of a retired process.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) registration: Digest,
    pub(crate) ended: Timestamp,
}

/// Removes everything that is kept of a process but its events, for the sessions named too.
pub(crate) fn retire(
    commit: Commit,
    found: &Versioned,
    grants: &VersionedGrants,
    until: Timestamp,
) -> Commit {
    let record = &found.record;
    let process = &record.process;
    let tombstone = Tombstone {
        registration: record.registration,
        ended: record.ended.unwrap_or_default(),
    };
    let body: Arc<[u8]> = serde_json::to_vec(&tombstone)
        .expect("a tombstone is plain data")
        .into();
    let event = EventDraft::new(EventKind::ProcessRetired)
        .with_payload(json!({ "process": process, "status": record.status }));
    let mut commit = with_event(commit, &event)
        .guard(Guard::Version(process_key(process), found.version))
        .guard(grants.guard(process))
        .row(RowChange::Retire(process_scope(process).scope_id()))
        .row(RowChange::Put {
            key: retired_key(process),
            body,
            event: None,
            due: Some(until),
        });
    for grant in &grants.grants.0 {
        commit = commit.row(RowChange::Delete(held_key(&grant.session, process)));
    }
    if let Some(parent) = &record.parent {
        commit = commit.row(RowChange::Delete(child_key(parent, process)));
    }
    commit
}
