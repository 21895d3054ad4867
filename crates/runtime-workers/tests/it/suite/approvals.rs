//! Answers of people, each after a restart (T3).

use std::time::Duration;

use runtime_core::{Classified, EventDraft, EventKind};
use runtime_effects::PendingKind;
use runtime_store::Commit;
use runtime_testkit::{Fault, FaultStore};
use runtime_turn::ApprovalDecision;
use runtime_workers::view::{self, PendingItem};
use runtime_workers::{Command, CommandAnswer, Runtime, RuntimeError};
use serde_json::json;

use super::{Desk, Place, WRITE, desk, ends, events};

/// A process that asks, and its end; another process with what waits.
async fn asked(world: &Desk, place: &dyn Place) -> (Runtime, PendingItem) {
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), WRITE).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.settled().await;
    let mut waiting = runtime.pending().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].kind, PendingKind::Approval);
    (runtime, waiting.remove(0))
}

async fn decide(
    runtime: &Runtime,
    item: &PendingItem,
    decision: ApprovalDecision,
) -> Result<CommandAnswer, RuntimeError> {
    let target = item.token.clone().unwrap();
    runtime.apply(Command::Decide { target, decision }).await
}

/// The last words of the only turn, in a process of its own.
async fn last_words(world: &Desk, place: &dyn Place, runtime: Runtime) -> String {
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.settled().await;
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].1, EventKind::TurnCompleted);
    let words = runtime.answer(&desk(), &ends[0].0).await.unwrap();
    runtime.close().await.unwrap();
    words
}

pub(crate) async fn t3_an_approval_is_listed_with_the_call_and_the_tool_as_the_model_saw_it(
    place: &dyn Place,
) {
    let world = Desk::new();
    let (runtime, item) = asked(&world, place).await;
    assert_eq!(item.arguments, Some(json!({ "line": "x" })));
    let definition = item.definition.unwrap();
    assert_eq!(definition.name, "write");
    assert_eq!(
        definition.input_schema["properties"]["line"]["maxLength"],
        5
    );
    assert!(item.due.is_some(), "it says when the question expires");
    runtime.close().await.unwrap();
}

/// T3: answered, it waits for nobody any more, though its turn has not gone on; repeating the answer
/// is harmless, and whoever gives another is told which one stands.
pub(crate) async fn t3_an_answer_is_told_once_and_waits_for_nobody(place: &dyn Place) {
    let world = Desk::new();
    let (runtime, item) = asked(&world, place).await;
    runtime.close().await.unwrap();
    let mut parts = world.parts(place.open().await);
    parts.drive = false;
    let runtime = Runtime::open(parts).await.unwrap();
    let edit = ApprovalDecision::Edit {
        arguments: json!({ "line": "y" }),
    };
    let answer = decide(&runtime, &item, edit.clone()).await.unwrap();
    assert_eq!(answer, CommandAnswer::Done);
    assert_eq!(runtime.pending().await.unwrap(), []);
    let answer = decide(&runtime, &item, edit.clone()).await.unwrap();
    assert_eq!(answer, CommandAnswer::AlreadyDone);
    for other in [
        ApprovalDecision::Approve,
        ApprovalDecision::Deny { reason: None },
    ] {
        let by_call = Command::Decide {
            target: item.call.as_ref().unwrap().to_string(),
            decision: other.clone(),
        };
        for refused in [
            decide(&runtime, &item, other.clone()).await,
            runtime.apply(by_call).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), "answered_otherwise");
            let told = refused.to_string();
            assert!(told.contains("approved with other arguments"), "{told}");
        }
    }
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let words = last_words(&world, place, runtime).await;
    assert!(words.ends_with("wrote y"), "{words}");
}

/// E7: whoever rules sees what ran: the arguments that a person put in the place of the model's.
pub(crate) async fn e7_what_is_in_doubt_is_shown_with_the_arguments_it_ran_with(place: &dyn Place) {
    let world = Desk::new();
    let (runtime, item) = asked(&world, place).await;
    runtime.close().await.unwrap();
    let store = FaultStore::new(place.open().await);
    let finished = |commit: &Commit| {
        let first = commit.events.first();
        first.is_some_and(|event| {
            EventDraft::from_bytes(&event.body).unwrap().kind == EventKind::ToolCallFinished
        })
    };
    store.fault_when(finished, 1, Fault::CrashBefore);
    let runtime = Runtime::open(world.parts(store.clone())).await.unwrap();
    let edit = ApprovalDecision::Edit {
        arguments: json!({ "line": "y" }),
    };
    decide(&runtime, &item, edit).await.unwrap();
    runtime.settled().await;
    assert!(store.is_crashed());
    assert_eq!(world.ledger(), ["y"]);
    let _ = runtime.close().await;
    drop((runtime, store));

    // Before anybody drives it, the record says what a restart will find.
    let store = place.open().await;
    let turns = view::unfinished_turns(&*store, Some(&desk()))
        .await
        .unwrap();
    let begun = view::begun(&*store, &turns[0]).await.unwrap();
    assert_eq!(begun.len(), 1);
    assert_eq!(
        (&begun[0].call, &begun[0].next_attempt),
        (&item.call, &None)
    );
    assert_eq!(begun[0].tool.as_deref(), Some("write"));
    let runtime = Runtime::open(world.parts(store)).await.unwrap();
    runtime.settled().await;
    let waiting = runtime.pending().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].kind, PendingKind::InDoubt);
    assert_eq!(waiting[0].arguments, Some(json!({ "line": "y" })));
    assert_eq!(waiting[0].definition.as_ref().unwrap().name, "write");
    // Whoever waits for the turn hears why it is parked now, not why it was at first.
    let parked = runtime.answer(&desk(), &turns[0].turn).await.unwrap_err();
    assert_eq!(parked.code(), "turn_parked");
    assert!(parked.to_string().contains("in_doubt"), "{parked}");
    runtime.close().await.unwrap();
}

pub(crate) async fn t3_a_denied_call_ends_as_an_ordinary_result_after_a_restart(place: &dyn Place) {
    let world = Desk::new();
    let (runtime, item) = asked(&world, place).await;
    let deny = ApprovalDecision::Deny {
        reason: Some("not today".to_owned()),
    };
    let answer = decide(&runtime, &item, deny.clone()).await.unwrap();
    assert_eq!(answer, CommandAnswer::Done);
    let words = last_words(&world, place, runtime).await;
    assert_eq!(words, "done: a person denied this call: not today");
    assert_eq!(world.ledger(), [] as [String; 0]);
}

pub(crate) async fn t3_an_expired_call_ends_as_an_ordinary_result_after_a_restart(
    place: &dyn Place,
) {
    let world = Desk::new();
    let (runtime, item) = asked(&world, place).await;
    world.clock.advance(Duration::from_secs(599));
    runtime.insist(&desk());
    runtime.settled().await;
    assert_eq!(runtime.pending().await.unwrap().len(), 1);
    runtime.close().await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let runtime = world.open(place).await;
    runtime.settled().await;
    // Who answers too late is told so, and nothing runs.
    let late = decide(&runtime, &item, ApprovalDecision::Approve).await;
    assert!(late.is_err(), "{late:?}");
    let words = last_words(&world, place, runtime).await;
    assert_eq!(words, "done: nobody approved this call in time");
    assert_eq!(world.ledger(), [] as [String; 0]);
}

pub(crate) async fn t3_an_edited_call_is_checked_and_runs_as_edited_after_a_restart(
    place: &dyn Place,
) {
    let world = Desk::new();
    let (runtime, item) = asked(&world, place).await;
    let edit = |line: &str| ApprovalDecision::Edit {
        arguments: json!({ "line": line }),
    };
    // What does not fit the tool decides nothing.
    let refused = decide(&runtime, &item, edit("far too long")).await;
    assert_eq!(refused.unwrap_err().code(), "approval_arguments_invalid");
    let call = item.call.as_ref().unwrap().to_string();
    let by_call = Command::Decide {
        target: call,
        decision: edit("also too long"),
    };
    assert!(runtime.apply(by_call).await.is_err());
    assert_eq!(runtime.pending().await.unwrap().len(), 1);
    let answer = decide(&runtime, &item, edit("y")).await.unwrap();
    assert_eq!(answer, CommandAnswer::Done);
    let words = last_words(&world, place, runtime).await;
    assert!(words.ends_with("wrote y"), "{words}");
    assert_eq!(world.ledger(), ["y"]);
}
