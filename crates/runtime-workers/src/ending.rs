//! How a turn ends: one commit has its last event, the conversation's new mark, and the retirement
//! of its effects (E16, V5).

use std::collections::BTreeMap;
use std::sync::Arc;

use runtime_agent::{Farewell, cancel_calls};
use runtime_core::{EventDraft, EventId, EventKind, ExecutionScope, WorkerId};
use runtime_effects::Lease;
use runtime_store::{Commit, Guard, NewEvent, Position, Row, RowChange};
use runtime_turn::{AbandonedCall, TurnEnd};
use serde_json::{Value, json};

use crate::carried::Said;
use crate::drive::{OpenTurn, Step};
use crate::instance::Instance;
use crate::intake::contended;
use crate::session::Hold;
use crate::transcript::turn_entries;
use crate::turn::{TurnRecord, TurnStatus};
use crate::worker::worker_key;
use crate::{RuntimeError, WorkerRecord};

impl Instance {
    /// Ends a turn: its event, the conversation's new mark, and the retirement of its effects are
    /// one commit (E16, V5).
    pub(crate) async fn end(
        &self,
        state: &WorkerRecord,
        open: OpenTurn,
        end: &TurnEnd,
    ) -> Result<Step, RuntimeError> {
        let scope = open.record.scope();
        let worker = open.record.worker.clone();
        let mut event = end.to_event(&scope);
        if let TurnEnd::Completed { account, .. } | TurnEnd::Failed { account, .. } = end {
            let calls = account.abandoned.clone();
            self.tell_abandoned(state, &scope, calls, &mut event)
                .await?;
        }
        let joined = self.joined_turns(&worker, end).await?;
        for _ in 0..self.config.contention_attempts {
            let Hold { epoch, instance } = &open.hold;
            let id = scope.scope_id();
            let commit = self.new_commit(None).owned_by(id.clone(), *epoch);
            let commit = Lease::lets_go(commit, instance.as_ref(), &id);
            if self
                .commit_end(commit, &open.record, event.clone(), &joined, end)
                .await?
                .is_some()
            {
                return Ok(Step::Again);
            }
        }
        Err(contended(&worker))
    }

    /// Ends a turn of a cancelled worker that nobody drives. It ends although an effect may be in
    /// doubt: no ruling could change what the worker does any more, and a turn that waits for one
    /// would keep a cancelled worker busy for ever. Its last event names what is in doubt, so that
    /// it is never told as plainly cancelled (E6).
    pub(crate) async fn end_cancelled(
        &self,
        state: &WorkerRecord,
        record: TurnRecord,
        row: &Row,
        reason: String,
    ) -> Result<Step, RuntimeError> {
        let end = TurnEnd::Cancelled { reason };
        let mut event = end.to_event(&record.scope());
        if record.status != TurnStatus::Queued {
            // The end is not committed yet, so the fold still knows what goes on outside.
            let history = self.history(&record.worker).await?;
            let calls = history.conversation.calls_outside();
            self.tell_abandoned(state, &record.scope(), calls, &mut event)
                .await?;
        }
        if record.status != TurnStatus::Queued {
            let in_doubt = self.in_doubt_of(&record).await?;
            if !in_doubt.is_empty() {
                set_member(&mut event.payload, "in_doubt", Value::Array(in_doubt));
            }
        }
        let mut commit = self
            .new_commit(None)
            .guard(Guard::Version(record.key(), row.version));
        if record.status != TurnStatus::Queued {
            let opened = self.epoch_of(&record).await?;
            let holder = Lease::holder(&opened);
            commit = commit.guard(Guard::Version(opened.key, opened.version));
            commit = Lease::lets_go(commit, holder.as_ref(), &record.scope().scope_id());
        }
        self.commit_end(commit, &record, event, &[], &end).await?;
        Ok(Step::Again)
    }

    /// Names the effects of a turn that began, must not happen twice, and have no known end.
    async fn in_doubt_of(&self, record: &TurnRecord) -> Result<Vec<Value>, RuntimeError> {
        let said = Said {
            worker: &record.worker,
            turn: Some(&record.turn),
        };
        let mut open: BTreeMap<String, Value> = BTreeMap::new();
        said.each(&*self.store, Position(0), |_, event| {
            note_doubt(&mut open, event);
            Ok(())
        })
        .await?;
        Ok(open.into_values().collect())
    }

    /// Tells tools that nobody waits for their work any more; the end of the turn says which could
    /// not be told (E9).
    async fn tell_abandoned(
        &self,
        state: &WorkerRecord,
        scope: &ExecutionScope,
        calls: Vec<AbandonedCall>,
        event: &mut EventDraft,
    ) -> Result<(), RuntimeError> {
        if calls.is_empty() {
            return Ok(());
        }
        let agent = self.agent(state).await?;
        let completions = Arc::clone(&self.completions) as _;
        let farewell = Farewell {
            agent: &agent,
            scope,
            clock: &*self.clock,
            completions: Some(&completions),
            delegates: self.delegates(),
        };
        // Boxed: rare, and large beside a turn's other steps.
        let untold = Box::pin(cancel_calls(farewell, calls)).await;
        let untold: Vec<Value> = untold
            .into_iter()
            .map(|(call, error)| json!({ "call": call, "error": error }))
            .collect();
        if !untold.is_empty() {
            set_member(&mut event.payload, "not_cancelled", Value::Array(untold));
        }
        Ok(())
    }

    /// Returns the turns of the inputs that joined a turn: they end with it.
    async fn joined_turns(
        &self,
        worker: &WorkerId,
        end: &TurnEnd,
    ) -> Result<Vec<TurnRecord>, RuntimeError> {
        let joined = match end {
            TurnEnd::Completed { account, .. } | TurnEnd::Failed { account, .. } => &account.joined,
            _ => return Ok(Vec::new()),
        };
        if joined.is_empty() {
            return Ok(Vec::new());
        }
        let mut turns = crate::view::unfinished_turns(&*self.store, Some(worker)).await?;
        turns.retain(|turn| turn.status == TurnStatus::Queued && joined.contains(&turn.turn));
        Ok(turns)
    }

    /// Adds what every end of a turn does, and commits; none when another commit came first.
    async fn commit_end(
        &self,
        commit: Commit,
        record: &TurnRecord,
        mut event: EventDraft,
        joined: &[TurnRecord],
        end: &TurnEnd,
    ) -> Result<Option<()>, RuntimeError> {
        let (state, row) = self.worker(&record.worker).await?;
        let id = EventId::generate(self.clock.now(), self.random.ten());
        // Read at each try: a System input that came meanwhile is a part of it, and the worker's
        // version guards it.
        let history = self.history_after(&record.worker, id, &event).await?;
        set_member(
            &mut event.payload,
            "context",
            json!(history.conversation.mark()),
        );
        if let Some(compacted) = history.conversation.compacted() {
            set_member(&mut event.payload, "compacted", json!(compacted.mark()));
        }
        set_member(&mut event.payload, "entries", history.sources.len().into());
        let mut commit = record
            .clone()
            .gives_place_back(commit)
            .guard(Guard::Version(worker_key(&record.worker), row.version))
            .row(RowChange::Delete(record.key()))
            .row(RowChange::Retire(record.scope().scope_id()));
        commit.rows.extend(turn_entries(
            &state,
            &record.turn,
            &history.sources,
            commit.time,
        ));
        let mut next = state.applied(&event);
        commit = commit.event(NewEvent::from_draft(id, &event));
        for joined in joined {
            let ended = EventDraft::new(event.kind.clone())
                .in_scope(&joined.scope())
                .with_message("ended with the turn that it joined")
                .with_payload(joined_payload(&event, record));
            next = next.applied(&ended);
            commit = commit
                .row(RowChange::Delete(joined.key()))
                .event(self.new_event(&ended));
        }
        let commit = commit.row(RowChange::put(worker_key(&record.worker), next.to_body()));
        let turns = std::iter::once(record).chain(joined);
        let (commit, ended) = self.with_process_ends(commit, &state, turns, end).await?;
        let committed = self.contend(commit).await?;
        if committed.is_some() {
            self.places.look_again();
            self.sessions.drives_no_more(&record.worker);
            self.tell_ended(ended);
        }
        Ok(committed.map(drop))
    }
}

/// What the end of a joined turn tells: where its answer is, and why it failed if it did.
fn joined_payload(event: &EventDraft, into: &TurnRecord) -> Value {
    let mut payload = json!({ "joined_into": into.turn });
    for name in ["reason", "error"] {
        if let Some(value) = event.payload.get(name) {
            set_member(&mut payload, name, value.clone());
        }
    }
    payload
}

/// Keeps account of the effects whose end is not known.
fn note_doubt(open: &mut BTreeMap<String, Value>, event: &EventDraft) {
    let set_aside = event.payload["set_aside"].as_array();
    for effect in set_aside.into_iter().flatten() {
        if let Some(key) = effect["key"].as_str() {
            open.remove(key);
        }
    }
    let identity = &event.payload["identity"];
    let Some(key) = identity["key"].as_str() else {
        return;
    };
    match event.kind {
        EventKind::ToolCallStarted | EventKind::EffectStarted | EventKind::EffectInDoubt => {
            let command = &identity["command"];
            let named = json!({ "key": key, "call": command["call"], "tool": command["tool"] });
            open.insert(key.to_owned(), named);
        }
        EventKind::ToolCallFinished
        | EventKind::EffectFinished
        | EventKind::EffectAttemptFailed
        | EventKind::InDoubtRuled => {
            open.remove(key);
        }
        _ => {}
    }
}

fn set_member(payload: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = payload {
        members.insert(name.to_owned(), value);
    }
}
