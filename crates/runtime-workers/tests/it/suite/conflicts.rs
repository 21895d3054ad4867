//! Turns whose record is that of another effect than is asked for (E4).

use std::sync::Arc;

use runtime_core::{
    Classified, CommitId, Digest, EffectEnvelope, EventDraft, EventId, EventKind, ExecutionScope,
    Timestamp,
};
use runtime_effects::PendingKind;
use runtime_store::{Commit, NewEvent, Page, RowChange, RowQuery, Store};
use runtime_workers::{Command, CommandAnswer, ConflictRuling, Runtime, view};
use serde_json::{Value, json};

use super::{Desk, GOLDEN, PLAIN, Place, approve_all, count, desk, ends, events};

/// The effect that an earlier version made otherwise.
const CHANGED: &str = "0.llm_call.0";

/// Rewrites the record of the desk's first turn as an earlier version would have written it: its
/// first model call named another model. The order of the record stays.
async fn as_another_version_wrote_it(store: &Arc<dyn Store>, scope: &ExecutionScope) {
    let query = RowQuery::scope("effect", scope.scope_id());
    let page = store.rows(query, Page::after(None, 100)).await.unwrap();
    let mut rows = page.rows;
    rows.sort_by_key(|row| row.event.as_ref().unwrap().position);
    let id = |number: u8| [number, 7, 7, 7, 7, 7, 7, 7, 7, 7];
    let time = Timestamp::from_millis(1);
    let mut commit = Commit::new(CommitId::generate(time, id(0)), time);
    for (row, number) in rows.into_iter().zip(1..) {
        let mut draft = EventDraft::from_bytes(&row.event.as_ref().unwrap().body).unwrap();
        // The conversation is told already.
        draft.kind = EventKind::Diagnostic;
        let mut body: Value = serde_json::from_slice(&row.body).unwrap();
        if &*row.key.name == CHANGED {
            let identity = &mut draft.payload["identity"];
            identity["command"]["model"] = json!("an-older-model");
            let digest: Digest = EffectEnvelope::identity_digest(identity);
            body["digest"] = json!(digest);
        }
        let event = EventId::generate(time, id(number));
        commit = commit
            .row(RowChange::Put {
                key: row.key,
                body: serde_json::to_vec(&body).unwrap().into(),
                event: Some(usize::from(number) - 1),
                due: row.due,
            })
            .event(NewEvent::from_draft(event, &draft));
    }
    store.commit(commit).await.unwrap();
}

/// A runtime whose golden turn is parked: its first model call is not the one recorded.
async fn parked(world: &Desk, place: &dyn Place) -> Runtime {
    let runtime = world.open_worker(place).await;
    let receipt = runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    let scope = ExecutionScope::Turn {
        session: (&desk()).into(),
        turn: receipt.turn,
    };
    let store = place.open().await;
    as_another_version_wrote_it(&store, &scope).await;
    drop(store);
    // Whoever opens it finds the conflict, however often.
    for life in 0..2 {
        let runtime = world.open(place).await;
        if life == 0 {
            // Until somebody answers it only waits, and asks for nothing.
            approve_all(&runtime).await;
        }
        runtime.settled().await;
        let waiting = runtime.pending().await.unwrap();
        let conflicts = waiting
            .iter()
            .filter(|item| item.kind == PendingKind::Conflict);
        let conflicts: Vec<_> = conflicts.collect();
        assert_eq!(conflicts.len(), 1);
        let mismatch = conflicts[0].mismatch.as_ref().unwrap();
        assert_eq!(mismatch.paths, ["/command/model"]);
        assert_eq!(conflicts[0].key.as_str(), CHANGED);
        assert!(ends(&events(runtime.store()).await).is_empty());
        runtime.close().await.unwrap();
    }
    let runtime = world.open(place).await;
    runtime.settled().await;
    runtime
}

/// Rules, lets the turn end, and sees that the conversation goes on after it, in this process and
/// the next one.
async fn ruled(world: &Desk, place: &dyn Place, ruling: ConflictRuling, end: EventKind) {
    let runtime = parked(world, place).await;
    // By its key, or where several scopes have such a key by both (E7).
    let turn = view::unfinished_turns(runtime.store(), None).await.unwrap();
    let full = format!("{}#{CHANGED}", turn[0].scope().scope_id());
    let elsewhere = Command::RuleConflict {
        effect: format!("turn/desk/elsewhere#{CHANGED}"),
        ruling,
    };
    let nothing = runtime.apply(elsewhere).await.unwrap_err();
    assert_eq!(nothing.code(), "nothing_pending");
    let effect = match ruling {
        ConflictRuling::Fork => full,
        _ => CHANGED.to_owned(),
    };
    let command = Command::RuleConflict { effect, ruling };
    let answer = runtime.apply(command).await.unwrap();
    assert_eq!(answer, CommandAnswer::Done);
    runtime.settled().await;
    approve_all(&runtime).await;
    runtime.settled().await;
    let told = events(runtime.store()).await;
    assert_eq!(count(&told, &EventKind::ConflictRuled), 1);
    assert_eq!(ends(&told)[0].1, end, "{ruling:?}");
    assert_eq!(runtime.pending().await.unwrap(), []);
    runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.settled().await;
    let ends = ends(&events(runtime.store()).await);
    let later = ends.iter().skip(1).map(|(_, kind)| kind);
    assert_eq!(later.collect::<Vec<_>>(), [&EventKind::TurnCompleted; 2]);
    runtime.close().await.unwrap();
}

pub(crate) async fn e4_an_accepted_record_lets_a_turn_go_on(place: &dyn Place) {
    let world = Desk::new();
    let accept = ConflictRuling::AcceptRecorded;
    ruled(&world, place, accept, EventKind::TurnCompleted).await;
    assert_eq!(world.ledger().len(), 1);
}

pub(crate) async fn e4_a_forked_turn_goes_on_from_the_conflict(place: &dyn Place) {
    let world = Desk::new();
    ruled(
        &world,
        place,
        ConflictRuling::Fork,
        EventKind::TurnCompleted,
    )
    .await;
    assert_eq!(world.ledger().len(), 1);
}

pub(crate) async fn e4_a_turn_whose_conflict_is_ruled_as_failed_fails(place: &dyn Place) {
    let world = Desk::new();
    ruled(&world, place, ConflictRuling::Fail, EventKind::TurnFailed).await;
    assert_eq!(world.ledger().len(), 0);
}
