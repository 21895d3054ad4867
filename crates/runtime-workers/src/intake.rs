//! Accepting inputs, each in one commit (W3).

use runtime_core::{
    CanonicalEncoder, CommitId, Digest, EventDraft, EventId, EventKind, InstanceId, Message,
    ProcessRegistration, Role, SessionId, SubmissionId, TurnId, WorkerId,
};
use runtime_store::{Commit, CommitError, Committed, Guard, NewEvent, Row, RowChange, RowKey};
use runtime_turn::TurnStart;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::instance::Instance;
use crate::peers::FIRST;
use crate::session::Hold;
use crate::transcript::input_entry;
use crate::turn::{TurnRecord, TurnStatus};
use crate::worker::{worker_key, worker_scope};
use crate::{InputReceipt, RuntimeError, SystemInputReceipt, WorkerRecord, WorkerStatus};

/// What a caller wants when the worker has unfinished turns (W6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenBusy {
    /// The input waits for its turn.
    #[default]
    Queue,
    /// The input is refused with [`RuntimeError::Busy`]; nothing is written.
    Refuse,
}

/// What is kept of an accepted input, so that repeating it answers the same.
#[derive(Debug, Serialize, Deserialize)]
struct SubmissionRecord {
    fingerprint: Digest,
    /// None for a System input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turn: Option<TurnId>,
    event: EventId,
    /// Its place in the transcript.
    sequence: u64,
    /// The commit that accepted it: the store tells its position as long as it remembers.
    commit: CommitId,
}

/// An input that is accepted, whoever spoke.
pub(crate) struct Accepted {
    turn: Option<TurnId>,
    event: EventId,
    position: Option<u64>,
    sequence: u64,
    repeated: bool,
}

impl Instance {
    pub(crate) async fn accept(
        &self,
        worker: &WorkerId,
        submission: SubmissionId,
        text: &str,
        when_busy: WhenBusy,
        command: Option<CommitId>,
    ) -> Result<InputReceipt, RuntimeError> {
        let message = Message::text(Role::User, text);
        let accepted = self
            .accept_message(worker, &submission, message, when_busy, command, None)
            .await?;
        let turn = accepted
            .turn
            .ok_or_else(|| crate::drive::corrupt("the record of a submission", "has no turn"))?;
        Ok(InputReceipt {
            worker: worker.clone(),
            submission,
            turn,
            event: accepted.event,
            position: accepted.position,
            sequence: accepted.sequence,
            repeated: accepted.repeated,
        })
    }

    /// Accepts a System input: it joins the conversation before the next turn and starts none.
    pub(crate) async fn accept_system(
        &self,
        worker: &WorkerId,
        submission: SubmissionId,
        text: &str,
        command: Option<CommitId>,
    ) -> Result<SystemInputReceipt, RuntimeError> {
        let message = Message::text(Role::System, text);
        let when_busy = WhenBusy::Queue;
        let accepted = self
            .accept_message(worker, &submission, message, when_busy, command, None)
            .await?;
        Ok(SystemInputReceipt {
            worker: worker.clone(),
            submission,
            event: accepted.event,
            position: accepted.position,
            sequence: accepted.sequence,
            repeated: accepted.repeated,
        })
    }

    /// Accepts an input; one that is a process starts that in the same commit, held by a session.
    pub(crate) async fn accept_message(
        &self,
        worker: &WorkerId,
        submission: &SubmissionId,
        message: Message,
        when_busy: WhenBusy,
        command: Option<CommitId>,
        process: Option<(&ProcessRegistration, Option<&SessionId>)>,
    ) -> Result<Accepted, RuntimeError> {
        self.accepting()?;
        let limits = self.limits();
        limits.check_text("input", &message.plain_text(), limits.input_bytes_max)?;
        let value = serde_json::to_value(&message).expect("a message is plain data");
        let starts_turn = message.role != Role::System;
        let input = Input {
            submission,
            message: &message,
            fingerprint: CanonicalEncoder::new("submission").json(&value).digest(),
            turn: starts_turn.then(|| TurnId::generate(self.clock.now(), self.random.ten())),
            when_busy,
            process,
        };
        for _ in 0..self.config.contention_attempts {
            if let Some(accepted) = self.repeated(worker, &input).await? {
                return Ok(accepted);
            }
            match self.accept_once(worker, &input, command).await {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                // Declared dead by others: the input waits until there is a lease again.
                Err(RuntimeError::Commit(CommitError::Fenced)) if self.lease.is_needed() => {
                    self.fenced();
                }
                Err(error) => return Err(error),
            }
        }
        Err(contended(worker))
    }

    async fn repeated(
        &self,
        worker: &WorkerId,
        input: &Input<'_>,
    ) -> Result<Option<Accepted>, RuntimeError> {
        let key = submission_key(worker, input.submission);
        let Some(row) = self.store.row(&key).await? else {
            return Ok(None);
        };
        let known: SubmissionRecord = crate::view::decode(&row)?;
        if known.fingerprint != input.fingerprint {
            return Err(RuntimeError::SubmissionConflict {
                submission: input.submission.to_string(),
            });
        }
        let committed = self.store.committed(&known.commit).await?;
        Ok(Some(Accepted {
            turn: known.turn,
            event: known.event,
            position: committed.map(|committed| committed.positions.start),
            sequence: known.sequence,
            repeated: true,
        }))
    }

    /// One try; none when another commit came first.
    async fn accept_once(
        &self,
        worker: &WorkerId,
        input: &Input<'_>,
        command: Option<CommitId>,
    ) -> Result<Option<Accepted>, RuntimeError> {
        let commit = self.changing(self.new_commit(command)).await?;
        let (record, row) = self.worker(worker).await?;
        self.check_accepts(&record, input)?;
        let sequence = record.transcript + 1;
        let mut accepted = EventDraft::new(EventKind::InputAccepted)
            .in_session(SessionId::from(worker))
            .with_payload(json!({
                "submission": input.submission,
                "turn": input.turn,
                "number": input.turn.as_ref().map(|_| record.inputs + 1),
                "sequence": sequence,
                "message": input.message,
            }));
        accepted.caused_by = command.map(|id| id.to_string());
        let event = self.new_event(&accepted);
        let id = event.id;
        let submitted = SubmissionRecord {
            fingerprint: input.fingerprint,
            turn: input.turn.clone(),
            event: id,
            sequence,
            commit: commit.id,
        };
        let submitted = serde_json::to_vec(&submitted).expect("a record is plain data");
        let submission_key = submission_key(worker, input.submission);
        let next = record.applied(&accepted);
        let commit = commit
            .guard(Guard::Version(worker_key(worker), row.version))
            .guard(Guard::Absent(submission_key.clone()))
            .row(RowChange::put(worker_key(worker), next.to_body()))
            .row(RowChange::put(submission_key, submitted))
            .row(input_entry(worker, sequence, input.turn.as_ref()))
            .event(event);
        let commit = match input.process {
            None => commit,
            Some((registration, owner)) => {
                let started = self
                    .background
                    .processes
                    .start_in(commit, registration, owner)
                    .await;
                started.map_err(|error| RuntimeError::from_part(&error))?.0
            }
        };
        let committed = match &input.turn {
            Some(turn) => self.commit_turn(commit, &record, input, turn).await?,
            None => self.contend_change(commit).await?,
        };
        Ok(committed.map(|committed| Accepted {
            turn: input.turn.clone(),
            event: id,
            position: Some(committed.positions.start),
            sequence,
            repeated: false,
        }))
    }

    fn check_accepts(&self, record: &WorkerRecord, input: &Input<'_>) -> Result<(), RuntimeError> {
        let worker = record.id();
        if record.status != WorkerStatus::Running {
            let (worker, status) = (worker.clone(), record.status);
            return Err(RuntimeError::WorkerNotRunning { worker, status });
        }
        let reason = match input.when_busy {
            _ if input.turn.is_none() => return Ok(()),
            WhenBusy::Refuse if record.unfinished > 0 => "a turn is unfinished",
            _ if record.unfinished > self.limits().queue_max => "its queue is full",
            _ => return Ok(()),
        };
        Err(RuntimeError::Busy {
            worker: worker.clone(),
            reason,
        })
    }

    /// Commits an input with its turn: started in the same step when nothing of the session is
    /// unfinished, else queued.
    async fn commit_turn(
        &self,
        commit: Commit,
        record: &WorkerRecord,
        input: &Input<'_>,
        turn: &TurnId,
    ) -> Result<Option<Committed>, RuntimeError> {
        let worker = record.id();
        // Without a lease nothing is opened: the input waits until there is one again.
        let may_open = !self.lease.is_needed() || self.lease.instance().is_some();
        // Nor where it would wait for others: a turn that was never driven has not been cut off.
        let is_free = self.permits.available_permits() > 0 && self.places.is_empty();
        let place = match record.unfinished == 0 && may_open && is_free {
            true => self.free_place().await?,
            false => None,
        };
        let mut turn = TurnRecord {
            worker: worker.clone(),
            turn: turn.clone(),
            submission: input.submission.clone(),
            number: record.inputs + 1,
            process: input
                .process
                .map(|(registration, _)| registration.process.clone()),
            let_go: false,
            place: None,
            status: match place {
                Some(_) => TurnStatus::Running,
                None => TurnStatus::Queued,
            },
        };
        let Some(place) = place else {
            // The input's own event stays with the row: it is read again when the turn starts.
            let queued = RowChange::Put {
                key: turn.key(),
                body: turn.to_body().into(),
                event: Some(0),
                due: None,
            };
            return self.contend_change(commit.row(queued)).await;
        };
        let commit = place.taken_by(commit, &mut turn);
        let start = self
            .turn_start(record, record.context, &turn, input.message.clone())
            .await?;
        let (commit, instance) = self.with_start(commit, &turn, &start)?;
        // Before the commit: whoever looks right after it must find that the turn is open, or it
        // would take it over from nobody.
        let epoch = FIRST;
        self.sessions.hold(&turn, Hold { epoch, instance });
        let committed = self.contend_change(commit).await;
        if !matches!(committed, Ok(Some(_))) {
            self.sessions.release(worker);
        }
        committed
    }

    /// Adds to a commit what starts a turn: its epoch, its row, its event.
    pub(crate) fn with_start(
        &self,
        commit: Commit,
        turn: &TurnRecord,
        start: &TurnStart,
    ) -> Result<(Commit, Option<InstanceId>), RuntimeError> {
        let scope = turn.scope();
        let started = EventDraft::new(EventKind::TurnStarted)
            .in_scope(&scope)
            .with_payload(json!(start));
        let index = commit.events.len();
        let commit = commit.guard(Guard::Absent(RowKey::epoch(scope.scope_id())));
        let (commit, instance) = self.opens(commit, &scope, None)?;
        let commit = commit
            .row(RowChange::put(turn.key(), turn.to_body()))
            // A row of its own, never written again: the start is read whenever the turn resumes.
            .row(RowChange::Put {
                key: turn.start_key(),
                body: Vec::new().into(),
                event: Some(index),
                due: None,
            })
            .event(self.new_event(&started));
        Ok((commit, instance))
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
        match command {
            Some(id) => Commit::new(id, self.clock.now()),
            None => Commit::fresh(&*self.store, &*self.clock, &*self.random),
        }
    }

    pub(crate) fn new_event(&self, draft: &EventDraft) -> NewEvent {
        NewEvent::from_draft(
            EventId::generate(self.clock.now(), self.random.ten()),
            draft,
        )
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
    /// The turn that works on it; none for a System input.
    turn: Option<TurnId>,
    when_busy: WhenBusy,
    /// The process that it is, and the session that holds that.
    process: Option<(&'a ProcessRegistration, Option<&'a SessionId>)>,
}

fn submission_key(worker: &WorkerId, submission: &SubmissionId) -> RowKey {
    RowKey::new("submission", worker_scope(worker), submission.as_str())
}
