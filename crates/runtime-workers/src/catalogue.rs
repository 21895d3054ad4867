//! The catalogue: creating workers and changing where they stand. Each operation is one commit.

use std::sync::Arc;

use runtime_core::{
    CommitId, Digest, EventDraft, EventKind, RequestId, SessionId, Topic, WorkerId, WorkerRef,
};
use runtime_effects::{Lease, Revocation};
use runtime_store::{Commit, Committed, Guard, Removal, Row, RowChange, RowKey};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::entity::runtime_scope;
use crate::instance::Instance;
use crate::intake::contended;
use crate::session::Wake;
use crate::turn::TurnStatus;
use crate::worker::{worker_key, worker_scope};
use crate::{
    Admission, CreateWorker, Diagnostic, RuntimeError, Severity, WorkerReceipt, WorkerRecord,
    WorkerStatus,
};

/// What is kept of a request, so that repeating it answers the same.
#[derive(Debug, Serialize, Deserialize)]
struct RequestRecord {
    worker: WorkerId,
    fingerprint: Digest,
}

impl Instance {
    pub(crate) async fn create(
        &self,
        request: CreateWorker,
    ) -> Result<WorkerReceipt, RuntimeError> {
        self.accepting()?;
        request.validate(&self.limits())?;
        for _ in 0..self.config.contention_attempts {
            if let Some(receipt) = self.created_before(&request).await? {
                return Ok(receipt);
            }
            if let Some(receipt) = self.create_once(&request).await? {
                return Ok(receipt);
            }
        }
        Err(contended(&request.worker_id))
    }

    /// The first answer to a request that is repeated.
    async fn created_before(
        &self,
        request: &CreateWorker,
    ) -> Result<Option<WorkerReceipt>, RuntimeError> {
        let row = self.store.row(&request_key(&request.request_id)).await?;
        let Some(row) = row else {
            return match self.store.row(&worker_key(&request.worker_id)).await? {
                Some(_) => Err(RuntimeError::WorkerExists {
                    worker: request.worker_id.clone(),
                }),
                None => Ok(None),
            };
        };
        let known: RequestRecord = crate::view::decode(&row)?;
        if known.fingerprint != request.fingerprint() {
            return Err(RuntimeError::RequestConflict {
                request: request.request_id.to_string(),
            });
        }
        let (record, _) = self.worker(&known.worker).await?;
        self.receipt(&record, &row).map(Some)
    }

    /// One try; none when another commit came first.
    async fn create_once(
        &self,
        request: &CreateWorker,
    ) -> Result<Option<WorkerReceipt>, RuntimeError> {
        let admission = self.admit(request).await?;
        let diagnostics = diagnostics_of(request, &admission);
        let worker = &request.worker_id;
        let (record, event) = WorkerRecord::created(request.clone(), admission.granted);
        let known = RequestRecord {
            worker: worker.clone(),
            fingerprint: request.fingerprint(),
        };
        let known = serde_json::to_vec(&known).expect("a record is plain data");
        let commit = self.changing(self.new_commit(None)).await?;
        let commit = commit
            .guard(Guard::Absent(worker_key(worker)))
            .guard(Guard::Absent(request_key(&request.request_id)))
            .row(RowChange::put(worker_key(worker), record.to_body()))
            .row(put_with_event(request_key(&request.request_id), known))
            .row(put_with_event(status_key(worker), Vec::new()))
            .event(self.new_event(&event));
        let event = commit.events[0].id;
        let commit = self.with_diagnostics(commit, &diagnostics);
        let committed = self.contend_change(commit).await?;
        Ok(committed.map(|committed| WorkerReceipt {
            worker: self.reference(worker),
            status: record.status,
            generation: record.generation,
            event,
            position: first_position(&committed),
            repeated: false,
        }))
    }

    /// Changes where a worker stands (W2): within a generation the first change wins, and a
    /// repetition answers with its event and writes nothing.
    ///
    /// `by_runtime`: the runtime is stopped, which refuses all other changes.
    pub(crate) async fn change_status(
        self: &Arc<Self>,
        worker: &WorkerId,
        to: WorkerStatus,
        reason: &Option<String>,
        command: Option<CommitId>,
        by_runtime: bool,
    ) -> Result<WorkerReceipt, RuntimeError> {
        self.accepting()?;
        if let Some(reason) = reason {
            let limits = self.limits();
            limits.check_text("reason", reason, limits.reason_bytes_max)?;
        }
        for _ in 0..self.config.contention_attempts {
            let (record, row) = self.worker(worker).await?;
            if record.status == to || (record.status.is_final() && !record.status.may_become(to)) {
                return self.status_receipt(&record).await;
            }
            let commit = self.new_commit(command);
            let commit = match by_runtime {
                true => commit,
                false => self.changing(commit).await?,
            };
            let commit = commit.guard(Guard::Version(worker_key(worker), row.version));
            let (commit, next) = self
                .with_status(commit, &record, to, reason, command)
                .await?;
            let event = commit.events[0].id;
            if let Some(committed) = self.contend_change(commit).await? {
                self.follow_status(worker, to).await?;
                return Ok(WorkerReceipt {
                    worker: self.reference(worker),
                    status: next.status,
                    generation: next.generation,
                    event,
                    position: first_position(&committed),
                    repeated: false,
                });
            }
        }
        Err(contended(worker))
    }

    /// Erases what a deleted worker and its users have said, in one commit: its rows but a
    /// tombstone, and the payloads of its session's events. The store frees the bytes when it
    /// cleans. Says whether that is new.
    pub(crate) async fn purge(
        &self,
        worker: &WorkerId,
        command: Option<CommitId>,
    ) -> Result<bool, RuntimeError> {
        for _ in 0..self.config.contention_attempts {
            let (record, row) = self.worker(worker).await?;
            if record.purged {
                return Ok(false);
            }
            if record.status != WorkerStatus::Deleted || record.unfinished > 0 {
                let (worker, status) = (worker.clone(), record.status);
                return Err(RuntimeError::NotPurgeable { worker, status });
            }
            let session = SessionId::from(worker);
            let stream = Topic::Session { session }.stream_key();
            // Without a session or a turn: an event of the session would name what was erased.
            let mut event =
                EventDraft::new(EventKind::WorkerPurged).with_payload(json!({ "worker": worker }));
            event.caused_by = command.map(|id| id.to_string());
            let mut commit = self
                .changing(self.new_commit(command))
                .await?
                .guard(Guard::Version(worker_key(worker), row.version))
                .row(RowChange::Retire(worker_scope(worker)))
                .row(RowChange::put(
                    worker_key(worker),
                    record.tombstone().to_body(),
                ))
                .row(put_with_event(status_key(worker), Vec::new()))
                .event(self.new_event(&event));
            commit.removals.extend(stream.map(Removal::Stream));
            if self.contend_change(commit).await?.is_some() {
                return Ok(true);
            }
        }
        Err(contended(worker))
    }

    /// Adds a change of status to a commit: the record, the row that remembers its event, the
    /// event. Resuming fences the turn of the worker's earlier self (W6).
    async fn with_status(
        &self,
        commit: Commit,
        record: &WorkerRecord,
        to: WorkerStatus,
        reason: &Option<String>,
        command: Option<CommitId>,
    ) -> Result<(Commit, WorkerRecord), RuntimeError> {
        let worker = record.id();
        let resumes = to == WorkerStatus::Running;
        let generation = record.generation + u64::from(resumes);
        let mut event = EventDraft::new(EventKind::WorkerStatusChanged)
            .in_session(SessionId::from(worker))
            .with_payload(json!({ "status": to, "reason": reason, "generation": generation }));
        event.caused_by = command.map(|id| id.to_string());
        let next = record.applied(&event);
        let mut commit = commit
            .row(RowChange::put(worker_key(worker), next.to_body()))
            .row(put_with_event(status_key(worker), Vec::new()))
            .event(self.new_event(&event));
        if resumes
            && let Some((mut turn, _)) = self.first_unfinished(worker).await?
            && turn.status != TurnStatus::Queued
        {
            let opened = self.epoch_of(&turn).await?;
            let holder = Lease::holder(&opened);
            // Stopped in order: going on follows no crash, and nobody holds it.
            turn.let_go = true;
            commit = commit
                .guard(Guard::Version(opened.key.clone(), opened.version))
                .row(RowChange::put(opened.key, Vec::new()))
                .row(RowChange::put(turn.key(), turn.to_body()));
            commit = Lease::lets_go(commit, holder.as_ref(), &turn.scope().scope_id());
        }
        Ok((commit, next))
    }

    /// What a change of status means for what runs now. The record came first, so that whoever
    /// drives a turn next sees it.
    async fn follow_status(
        self: &Arc<Self>,
        worker: &WorkerId,
        to: WorkerStatus,
    ) -> Result<(), RuntimeError> {
        match to {
            WorkerStatus::Stopped => self.sessions.halt(worker, true),
            WorkerStatus::Running => {
                self.sessions.halt(worker, false);
                self.sessions.release(worker);
                self.wake(worker, Wake::Insist);
            }
            WorkerStatus::Cancelled | WorkerStatus::Deleted => {
                for turn in crate::view::unfinished_turns(&*self.store, Some(worker)).await? {
                    self.host.cancel_scope(&turn.scope().scope_id());
                }
                self.wake(worker, Wake::News);
            }
        }
        if to == WorkerStatus::Deleted {
            // Before their promises are revoked: what is bound to the worker is cancelled, not
            // failed by a promise that nobody can keep.
            self.let_processes_go(worker).await?;
            let session = SessionId::from(worker);
            let revoked = self
                .promises
                .revoke(Revocation::Session(session), None)
                .await;
            revoked.map_err(|error| RuntimeError::from_part(&error))?;
        }
        if to == WorkerStatus::Running {
            self.background.sessions_changed();
        }
        Ok(())
    }

    /// The answer to a change that had happened before.
    async fn status_receipt(&self, record: &WorkerRecord) -> Result<WorkerReceipt, RuntimeError> {
        let key = status_key(record.id());
        match self.store.row(&key).await? {
            Some(row) => self.receipt(record, &row),
            None => Err(crate::drive::corrupt("row worker_status", "is missing")),
        }
    }

    /// The answer to what had happened before, whose event a row remembers.
    fn receipt(&self, record: &WorkerRecord, row: &Row) -> Result<WorkerReceipt, RuntimeError> {
        let place = row.key.space.as_ref();
        let event = row.event.as_ref();
        let event = event.ok_or_else(|| crate::drive::corrupt(place, "has no event"))?;
        Ok(WorkerReceipt {
            worker: self.reference(record.id()),
            status: record.status,
            generation: record.generation,
            event: event.id,
            position: event.position.0,
            repeated: true,
        })
    }

    pub(crate) fn reference(&self, worker: &WorkerId) -> WorkerRef {
        WorkerRef {
            runtime_id: self.runtime_id().clone(),
            worker_id: worker.clone(),
        }
    }

    /// Refuses a reference of another runtime (W2).
    pub(crate) fn check_reference(&self, reference: &WorkerRef) -> Result<(), RuntimeError> {
        if reference.runtime_id == *self.runtime_id() {
            return Ok(());
        }
        Err(RuntimeError::OtherRuntime {
            expected: self.runtime_id().clone(),
            found: reference.runtime_id.clone(),
        })
    }
}

/// What a person should know of a request that is granted.
fn diagnostics_of(request: &CreateWorker, admission: &Admission) -> Vec<Diagnostic> {
    let worker = &request.worker_id;
    let mut told = Vec::new();
    if request.bundle.is_none() {
        let message = "no configuration bundle was named: the worker uses what the runtime has";
        let code = "runtime.local_default_resources";
        told.push(Diagnostic::new(Severity::Info, code, message).of(worker));
    }
    if request.capabilities.is_empty() {
        let message = "no capability was asked for: the worker has only what its agent brings";
        told.push(Diagnostic::new(Severity::Info, "worker.tools_less", message).of(worker));
    }
    for (name, reason) in &admission.unavailable {
        let message = format!("capability {name:?} was not granted: {reason}");
        let unavailable =
            Diagnostic::new(Severity::Warning, "worker.capability_unavailable", message);
        told.push(unavailable.about(name).of(worker));
    }
    told
}

/// A row that refers to the first event of its commit.
fn put_with_event(key: RowKey, body: Vec<u8>) -> RowChange {
    RowChange::Put {
        key,
        body: body.into(),
        event: Some(0),
        due: None,
    }
}

fn first_position(committed: &Committed) -> u64 {
    committed.positions.start
}

/// The row of a request for a worker.
fn request_key(request: &RequestId) -> RowKey {
    RowKey::new("request", runtime_scope(), request.as_str())
}

/// The row that refers to the event which brought a worker to its status.
fn status_key(worker: &WorkerId) -> RowKey {
    RowKey::new("worker_status", worker_scope(worker), "")
}
