//! Creating workers, accepting inputs, cancelling: one commit each (W3).

use runtime_core::{
    CanonicalEncoder, CommitId, Digest, EventDraft, EventId, EventKind, Message, Role, SessionId,
    SubmissionId, TurnId, WorkerId, WorkerRef,
};
use runtime_store::{
    Commit, CommitError, Committed, Epoch, Guard, NewEvent, Row, RowChange, RowKey,
};
use runtime_turn::TurnStart;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::instance::Instance;
use crate::turn::{TurnRecord, TurnStatus};
use crate::worker::{worker_key, worker_scope};
use crate::{CreateWorker, RuntimeError, WorkerRecord, WorkerStatus};

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
    /// It had been accepted before; nothing was written now.
    #[serde(default)]
    pub repeated: bool,
}

/// What is kept of an accepted input, so that repeating it answers the same.
#[derive(Debug, Serialize, Deserialize)]
struct SubmissionRecord {
    fingerprint: Digest,
    turn: TurnId,
    event: EventId,
}

impl Instance {
    pub(crate) async fn create(&self, request: CreateWorker) -> Result<WorkerRef, RuntimeError> {
        self.accepting()?;
        request.validate()?;
        let worker = request.worker_id.clone();
        let reference = WorkerRef {
            runtime_id: self.runtime_id().clone(),
            worker_id: worker.clone(),
        };
        let fingerprint = request.fingerprint();
        let (record, event) = WorkerRecord::created(request);
        let commit = self
            .new_commit(None)
            .guard(Guard::Absent(worker_key(&worker)))
            .row(RowChange::put(worker_key(&worker), record.to_body()))
            .event(self.new_event(&event));
        match self.commit(commit).await {
            Ok(_) => Ok(reference),
            Err(CommitError::Rejected { .. }) => {
                let (existing, _) = self.worker(&worker).await?;
                if existing.request.fingerprint() == fingerprint {
                    Ok(reference)
                } else {
                    Err(RuntimeError::WorkerExists { worker })
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn accept(
        &self,
        worker: &WorkerId,
        submission: SubmissionId,
        text: &str,
        command: Option<CommitId>,
    ) -> Result<InputReceipt, RuntimeError> {
        self.accepting()?;
        self.check_text("input", text, self.config.input_bytes_max)?;
        let message = Message::text(Role::User, text);
        let value = serde_json::to_value(&message).expect("a message is plain data");
        let fingerprint = CanonicalEncoder::new("submission").json(&value).digest();
        let turn = TurnId::generate(self.clock.now(), self.random.ten());
        let input = Input {
            submission: &submission,
            message: &message,
            fingerprint,
            turn: &turn,
        };
        for _ in 0..self.config.contention_attempts {
            if let Some(receipt) = self.repeated(worker, &submission, &fingerprint).await? {
                return Ok(receipt);
            }
            if let Some(receipt) = self.accept_once(worker, &input, command).await? {
                return Ok(receipt);
            }
        }
        Err(contended(worker))
    }

    async fn repeated(
        &self,
        worker: &WorkerId,
        submission: &SubmissionId,
        fingerprint: &Digest,
    ) -> Result<Option<InputReceipt>, RuntimeError> {
        let Some(row) = self.store.row(&submission_key(worker, submission)).await? else {
            return Ok(None);
        };
        let known: SubmissionRecord = crate::view::decode(&row)?;
        if known.fingerprint != *fingerprint {
            return Err(RuntimeError::SubmissionConflict {
                submission: submission.to_string(),
            });
        }
        Ok(Some(InputReceipt {
            worker: worker.clone(),
            submission: submission.clone(),
            turn: known.turn,
            event: known.event,
            repeated: true,
        }))
    }

    /// One try; none when another commit came first.
    async fn accept_once(
        &self,
        worker: &WorkerId,
        input: &Input<'_>,
        command: Option<CommitId>,
    ) -> Result<Option<InputReceipt>, RuntimeError> {
        let (record, row) = self.worker(worker).await?;
        if record.status != WorkerStatus::Running {
            let (worker, status) = (worker.clone(), record.status);
            return Err(RuntimeError::WorkerNotRunning { worker, status });
        }
        if record.unfinished > self.config.queue_max {
            let reason = "its queue is full";
            return Err(RuntimeError::Busy {
                worker: worker.clone(),
                reason,
            });
        }
        let mut accepted = EventDraft::new(EventKind::InputAccepted)
            .in_session(SessionId::from(worker))
            .with_payload(json!({
                "submission": input.submission,
                "turn": input.turn,
                "number": record.inputs + 1,
                "message": input.message,
            }));
        accepted.caused_by = command.map(|id| id.to_string());
        let accepted_event = self.new_event(&accepted);
        let event = accepted_event.id;
        let starts_now = record.unfinished == 0;
        let turn = TurnRecord {
            worker: worker.clone(),
            turn: input.turn.clone(),
            submission: input.submission.clone(),
            number: record.inputs + 1,
            status: if starts_now {
                TurnStatus::Running
            } else {
                TurnStatus::Queued
            },
        };
        let submitted = SubmissionRecord {
            fingerprint: input.fingerprint,
            turn: input.turn.clone(),
            event,
        };
        let submitted = serde_json::to_vec(&submitted).expect("a record is plain data");
        let submission_key = submission_key(worker, input.submission);
        let next = record.applied(&accepted);
        let mut commit = self
            .new_commit(command)
            .guard(Guard::Version(worker_key(worker), row.version))
            .guard(Guard::Absent(submission_key.clone()))
            .row(RowChange::put(worker_key(worker), next.to_body()))
            .row(RowChange::put(submission_key, submitted))
            .event(accepted_event);
        commit = if starts_now {
            // Nothing of the session is unfinished, so the turn starts in the same step.
            let start = self
                .turn_start(&record, &turn, input.message.clone())
                .await?;
            self.with_start(commit, &turn, &start)
        } else {
            // The input's own event stays with the row: it is read again when the turn starts.
            commit.row(RowChange::Put {
                key: turn.key(),
                body: turn.to_body().into(),
                event: Some(0),
                due: None,
            })
        };
        if starts_now {
            // Before the commit: whoever looks right after it must find that the turn is open, or
            // it would take it over from nobody.
            self.sessions.hold(&turn, Epoch(1));
        }
        let committed = self.contend(commit).await;
        if starts_now && !matches!(committed, Ok(Some(_))) {
            self.sessions.release(worker);
        }
        if committed?.is_none() {
            return Ok(None);
        }
        Ok(Some(InputReceipt {
            worker: worker.clone(),
            submission: input.submission.clone(),
            turn: input.turn.clone(),
            event,
            repeated: false,
        }))
    }

    /// Adds to a commit what starts a turn: its epoch, its row, its event.
    pub(crate) fn with_start(
        &self,
        commit: Commit,
        turn: &TurnRecord,
        start: &TurnStart,
    ) -> Commit {
        let scope = turn.scope();
        let started = EventDraft::new(EventKind::TurnStarted)
            .in_scope(&scope)
            .with_payload(json!(start));
        let index = commit.events.len();
        let epoch = RowKey::epoch(scope.scope_id());
        commit
            .guard(Guard::Absent(epoch.clone()))
            .row(RowChange::put(epoch, Vec::new()))
            .row(RowChange::put(turn.key(), turn.to_body()))
            // A row of its own, never written again: the start is read whenever the turn resumes.
            .row(RowChange::Put {
                key: turn.start_key(),
                body: Vec::new().into(),
                event: Some(index),
                due: None,
            })
            .event(self.new_event(&started))
    }

    pub(crate) async fn cancel_worker(
        &self,
        worker: &WorkerId,
        reason: Option<String>,
        command: Option<CommitId>,
    ) -> Result<bool, RuntimeError> {
        self.accepting()?;
        if let Some(reason) = &reason {
            self.check_text("reason", reason, self.config.reason_bytes_max)?;
        }
        for _ in 0..self.config.contention_attempts {
            let (record, row) = self.worker(worker).await?;
            if matches!(
                record.status,
                WorkerStatus::Cancelled | WorkerStatus::Deleted
            ) {
                return Ok(false);
            }
            let mut event = EventDraft::new(EventKind::WorkerStatusChanged)
                .in_session(SessionId::from(worker))
                .with_payload(json!({ "status": WorkerStatus::Cancelled, "reason": reason }));
            event.caused_by = command.map(|id| id.to_string());
            let commit = self
                .new_commit(command)
                .guard(Guard::Version(worker_key(worker), row.version))
                .row(RowChange::put(
                    worker_key(worker),
                    record.applied(&event).to_body(),
                ))
                .event(self.new_event(&event));
            if self.contend(commit).await?.is_some() {
                return Ok(true);
            }
        }
        Err(contended(worker))
    }

    /// Commits; none when a guard found that another commit came first.
    pub(crate) async fn contend(&self, commit: Commit) -> Result<Option<Committed>, RuntimeError> {
        match self.commit(commit).await {
            Ok(committed) => Ok(Some(committed)),
            Err(CommitError::Rejected { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a commit; under the id of the command that asks for it, so that the command is
    /// carried out once.
    pub(crate) fn new_commit(&self, command: Option<CommitId>) -> Commit {
        let now = self.clock.now();
        let id = command.unwrap_or_else(|| CommitId::generate(now, self.random.ten()));
        Commit::new(id, now)
    }

    pub(crate) fn new_event(&self, draft: &EventDraft) -> NewEvent {
        NewEvent::from_draft(
            EventId::generate(self.clock.now(), self.random.ten()),
            draft,
        )
    }

    fn check_text(&self, what: &'static str, text: &str, max: usize) -> Result<(), RuntimeError> {
        if text.trim().is_empty() {
            return Err(RuntimeError::Blank { what });
        }
        if text.len() > max {
            return Err(RuntimeError::TooLong {
                what,
                bytes: text.len(),
                max,
            });
        }
        Ok(())
    }

    pub(crate) async fn worker(
        &self,
        worker: &WorkerId,
    ) -> Result<(WorkerRecord, Row), RuntimeError> {
        match self.store.row(&worker_key(worker)).await? {
            Some(row) => Ok((crate::view::decode(&row)?, row)),
            None => Err(RuntimeError::UnknownWorker {
                worker: worker.clone(),
            }),
        }
    }
}

/// Other commits came first each time.
pub(crate) fn contended(worker: &WorkerId) -> RuntimeError {
    RuntimeError::Busy {
        worker: worker.clone(),
        reason: "other commits keep coming first",
    }
}

struct Input<'a> {
    submission: &'a SubmissionId,
    message: &'a Message,
    fingerprint: Digest,
    turn: &'a TurnId,
}

fn submission_key(worker: &WorkerId, submission: &SubmissionId) -> RowKey {
    RowKey::new("submission", worker_scope(worker), submission.as_str())
}
