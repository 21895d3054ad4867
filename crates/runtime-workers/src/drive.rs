//! Driving turns: start, resume, park, end. One turn of a session at a time (W6).

use std::sync::Arc;

use runtime_agent::{TurnProjector, TurnRun, drive_turn};
use runtime_core::{
    Classified, ErrorClass, EventDraft, EventKind, Message, Timestamp, WireError, WorkerId,
};
use runtime_effects::{EffectHost, Interrupt, ScopeOpening};
use runtime_store::{Commit, Epoch, Guard, Page, Row, RowChange, RowKey, RowQuery};
use runtime_turn::{TurnEnd, TurnStart};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::instance::Instance;
use crate::intake::contended;
use crate::turn::{ParkReason, TURN_SPACE, TurnRecord, TurnStatus};
use crate::worker::{worker_key, worker_scope};
use crate::{RuntimeError, WorkerRecord, WorkerStatus};

/// What a look at a session led to.
enum Step {
    /// Something was done; look again.
    Again,
    /// There is nothing to do until somebody wakes the session.
    Rest,
}

/// A turn that this instance has opened.
struct OpenTurn {
    record: TurnRecord,
    epoch: Epoch,
    start: TurnStart,
}

impl Instance {
    /// Lets a session go on: starts a task for it unless one runs.
    pub(crate) fn wake(self: &Arc<Self>, worker: &WorkerId) {
        if self.is_closing() || !self.sessions.wake(worker) {
            return;
        }
        let instance = Arc::clone(self);
        let worker = worker.clone();
        self.spawn(async move { instance.drive_session(&worker).await });
    }

    async fn drive_session(&self, worker: &WorkerId) {
        let mut driving = self.sessions.driving(worker.clone());
        loop {
            let woken = driving.take_wake();
            let step = match self.step(worker, woken).await {
                Ok(step) => step,
                // The turn stays as it is recorded; whoever waits for it hears of the failure,
                // and so does `close`.
                Err(error) => {
                    self.report_failure(Some(worker), error.to_wire());
                    Step::Rest
                }
            };
            let over = matches!(step, Step::Rest) || self.sessions.is_draining();
            if over && driving.rest() {
                return;
            }
        }
    }

    /// Looks at the first unfinished turn of a session and takes it as far as it goes.
    async fn step(&self, worker: &WorkerId, woken: bool) -> Result<Step, RuntimeError> {
        let Some((record, row)) = self.first_unfinished(worker).await? else {
            return Ok(Step::Rest);
        };
        let (state, _) = self.worker(worker).await?;
        if state.status == WorkerStatus::Cancelled {
            return self.end_cancelled(record, &row).await;
        }
        let open = match &record.status {
            TurnStatus::Queued => self.start_turn(&state, record, &row).await?,
            TurnStatus::Running => match self.sessions.take_hold(&record) {
                Some(epoch) => {
                    let start = self.start_of(&record).await?;
                    Some(OpenTurn {
                        record,
                        epoch,
                        start,
                    })
                }
                None => self.resume_turn(record, &row).await?,
            },
            TurnStatus::Parked { .. } if woken => self.resume_turn(record, &row).await?,
            TurnStatus::Parked { .. } => return Ok(Step::Rest),
        };
        match open {
            Some(open) => self.run(&state, open).await,
            // Another commit came first.
            None => Ok(Step::Again),
        }
    }

    async fn first_unfinished(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(TurnRecord, Row)>, RuntimeError> {
        let query = RowQuery::scope(TURN_SPACE, worker_scope(worker));
        let page = self.store.rows(query, Page::after(None, 1)).await?;
        let Some(row) = page.rows.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some((crate::view::decode(&row)?, row)))
    }

    /// What a turn starts from: the conversation so far, named by its digest.
    pub(crate) async fn turn_start(
        &self,
        state: &WorkerRecord,
        turn: &TurnRecord,
        input: Message,
    ) -> Result<TurnStart, RuntimeError> {
        let agent = self.agents.resolve(state).await?;
        let model = agent.model.name();
        Ok(TurnStart::new(
            state.session(),
            turn.turn.clone(),
            model,
            input,
            state.context,
        )
        .with_budgets(self.config.turn_budgets))
    }

    async fn start_turn(
        &self,
        state: &WorkerRecord,
        mut record: TurnRecord,
        row: &Row,
    ) -> Result<Option<OpenTurn>, RuntimeError> {
        let input = event_payload(row, "/message")?;
        record.status = TurnStatus::Running;
        let start = self.turn_start(state, &record, input).await?;
        let commit = self
            .new_commit(None)
            .guard(Guard::Version(record.key(), row.version));
        let commit = self.with_start(commit, &record, &start);
        let committed = self.contend(commit).await?;
        Ok(committed.map(|_| OpenTurn {
            record,
            epoch: Epoch(1),
            start,
        }))
    }

    /// Takes a turn over: bumps its epoch, so that whoever drove it before is fenced (E5).
    async fn resume_turn(
        &self,
        mut record: TurnRecord,
        row: &Row,
    ) -> Result<Option<OpenTurn>, RuntimeError> {
        let start = self.start_of(&record).await?;
        let (epoch_key, version) = self.epoch_of(&record).await?;
        let epoch = Epoch(version).next();
        let was = std::mem::replace(&mut record.status, TurnStatus::Running);
        let event = EventDraft::new(EventKind::TurnResumed)
            .in_scope(&record.scope())
            .with_payload(json!({ "epoch": epoch, "was": was }));
        let commit = self
            .new_commit(None)
            .guard(Guard::Version(record.key(), row.version))
            .guard(Guard::Version(epoch_key.clone(), version))
            .row(RowChange::put(epoch_key, Vec::new()))
            .row(RowChange::put(record.key(), record.to_body()))
            .event(self.new_event(&event));
        let committed = self.contend(commit).await?;
        Ok(committed.map(|_| OpenTurn {
            record,
            epoch,
            start,
        }))
    }

    async fn run(&self, state: &WorkerRecord, open: OpenTurn) -> Result<Step, RuntimeError> {
        let agent = self.agents.resolve(state).await?;
        let history = self.history(&open.record.worker).await?;
        let opening = ScopeOpening {
            scope: open.record.scope(),
            epoch: open.epoch,
            projector: Arc::new(TurnProjector),
            strict_replay: false,
        };
        let controller = self.host.scoped(opening).map_err(|error| error.to_wire())?;
        let live = self.live_sink();
        let driven = self
            .until_closed(drive_turn(TurnRun {
                start: open.start.clone(),
                history: history.conversation.history().to_vec(),
                agent: &agent,
                controller: &*controller,
                attachments: &*self.store,
                live: &live,
                clock: &*self.clock,
            }))
            .await;
        drop(controller);
        match driven {
            // Closing: the turn stays open and goes on in the next instance.
            None => Ok(Step::Rest),
            Some(Ok(end)) => self.end(open, &end).await,
            Some(Err(interrupt)) => self.interrupted(open, interrupt).await,
        }
    }

    async fn interrupted(
        &self,
        open: OpenTurn,
        interrupt: Interrupt,
    ) -> Result<Step, RuntimeError> {
        match interrupt {
            // Another instance drives it now.
            Interrupt::Fenced => Ok(Step::Rest),
            // The worker was cancelled: the next look ends the turn.
            Interrupt::Cancelled => Ok(Step::Again),
            Interrupt::Suspended { key, due } => {
                let reason = ParkReason::Waiting {
                    key: key.to_string(),
                };
                self.park(open, reason, due).await
            }
            Interrupt::InDoubt { key } => {
                self.park(
                    open,
                    ParkReason::InDoubt {
                        key: key.to_string(),
                    },
                    None,
                )
                .await
            }
            Interrupt::Conflict(_) => {
                let error = interrupt.to_wire();
                self.park(open, ParkReason::Conflict { error }, None).await
            }
            // The journal failed: nothing can be recorded, so the turn stays open.
            other => Err(RuntimeError::Part(other.to_wire())),
        }
    }

    /// Parks a turn: from here on it is rows, not a task (E9).
    async fn park(
        &self,
        open: OpenTurn,
        reason: ParkReason,
        due: Option<Timestamp>,
    ) -> Result<Step, RuntimeError> {
        let OpenTurn {
            mut record, epoch, ..
        } = open;
        let event = EventDraft::new(EventKind::TurnParked)
            .in_scope(&record.scope())
            .with_payload(json!({ "park": reason, "due": due }));
        record.status = TurnStatus::Parked {
            reason,
            since: self.clock.now(),
        };
        let commit = self
            .new_commit(None)
            .owned_by(record.scope().scope_id(), epoch)
            .row(RowChange::Put {
                key: record.key(),
                body: record.to_body().into(),
                event: None,
                due,
            })
            .event(self.new_event(&event));
        self.store.commit(commit).await?;
        // A promise that was resolved while the turn was being parked has left a wake.
        Ok(Step::Rest)
    }

    /// Ends a turn: its event, the conversation's new mark, and the retirement of its effects are
    /// one commit (E16, V5).
    async fn end(&self, open: OpenTurn, end: &TurnEnd) -> Result<Step, RuntimeError> {
        let scope = open.record.scope();
        let worker = open.record.worker.clone();
        let mut event = end.to_event(&scope);
        let context = self.context_after(&worker, &event).await?;
        set_member(&mut event.payload, "context", context);
        for _ in 0..self.config.contention_attempts {
            let commit = self.new_commit(None).owned_by(scope.scope_id(), open.epoch);
            if self
                .commit_end(commit, &open.record, &event)
                .await?
                .is_some()
            {
                return Ok(Step::Again);
            }
        }
        Err(contended(&worker))
    }

    /// Ends a turn of a cancelled worker that nobody drives. A turn with an effect in doubt is
    /// ended as well: what is in doubt stays told by its events.
    async fn end_cancelled(&self, record: TurnRecord, row: &Row) -> Result<Step, RuntimeError> {
        let mut event = TurnEnd::Cancelled {
            reason: "worker_cancelled".into(),
        }
        .to_event(&record.scope());
        let context = self.context_after(&record.worker, &event).await?;
        set_member(&mut event.payload, "context", context);
        let mut commit = self
            .new_commit(None)
            .guard(Guard::Version(record.key(), row.version));
        if record.status != TurnStatus::Queued {
            let (key, version) = self.epoch_of(&record).await?;
            commit = commit.guard(Guard::Version(key, version));
        }
        self.commit_end(commit, &record, &event).await?;
        Ok(Step::Again)
    }

    /// Adds what every end of a turn does, and commits; none when another commit came first.
    async fn commit_end(
        &self,
        commit: Commit,
        record: &TurnRecord,
        event: &EventDraft,
    ) -> Result<Option<()>, RuntimeError> {
        let (state, row) = self.worker(&record.worker).await?;
        let commit = commit
            .guard(Guard::Version(worker_key(&record.worker), row.version))
            .row(RowChange::Delete(record.key()))
            .row(RowChange::put(
                worker_key(&record.worker),
                state.applied(event).to_body(),
            ))
            .row(RowChange::Retire(record.scope().scope_id()))
            .event(self.new_event(event));
        Ok(self.contend(commit).await?.map(|_| ()))
    }

    async fn start_of(&self, record: &TurnRecord) -> Result<TurnStart, RuntimeError> {
        match self.store.row(&record.start_key()).await? {
            Some(row) => event_payload(&row, ""),
            None => Err(corrupt(&row_name(&record.start_key()), "is missing")),
        }
    }

    async fn epoch_of(&self, record: &TurnRecord) -> Result<(RowKey, u64), RuntimeError> {
        let key = RowKey::epoch(record.scope().scope_id());
        match self.store.row(&key).await? {
            Some(row) => Ok((key, row.version)),
            None => Err(corrupt(&row_name(&key), "is missing")),
        }
    }
}

/// Reads the payload, or what a JSON pointer finds in it, of the event that a row was put with.
fn event_payload<T: DeserializeOwned>(row: &Row, pointer: &str) -> Result<T, RuntimeError> {
    let place = || row_name(&row.key);
    let event = row
        .event
        .as_ref()
        .ok_or_else(|| corrupt(&place(), "has no event"))?;
    let draft = event.decode()?.draft;
    let value = draft.payload.pointer(pointer);
    let value = value.ok_or_else(|| corrupt(&place(), "lacks a member"))?;
    T::deserialize(value).map_err(|error| corrupt(&place(), &error.to_string()))
}

fn row_name(key: &RowKey) -> String {
    format!("row {}/{}/{}", key.space, key.scope, key.name)
}

fn corrupt(place: &str, what: &str) -> RuntimeError {
    let message = format!("{place} {what}");
    RuntimeError::Part(WireError::new(
        "row_undecodable",
        ErrorClass::Corrupt,
        message,
    ))
}

fn set_member(payload: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = payload {
        members.insert(name.to_owned(), value);
    }
}
