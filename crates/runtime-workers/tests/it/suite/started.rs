//! An open turn goes on with what it started with, however far it has come and whatever was changed
//! meanwhile; what it has recorded is not run again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use runtime_core::{
    ContentPart, EffectOutcome, EffectOutput, EventDraft, EventKind, Random as _, ToolCallOutput,
};
use runtime_store::Commit;
use runtime_testkit::{Fault, FaultStore, SeededRandom};
use runtime_turn::{RecordedEffect, TurnBudgets};
use runtime_workers::{CreateWorker, Runtime};
use serde_json::json;

use super::{
    Desk, GOLDEN, LONG, NUMBER, PLAIN, Place, STEPS, TALK, TALKED, approve_all, check_context,
    desk, ends, events,
};

/// E3, T4: instructions, tools and budgets that are changed while a turn waits reach the next turn;
/// the open one is asked with the old ones in another process.
pub(crate) async fn e3_what_is_edited_reaches_new_turns_only(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let turn = runtime.send(&desk(), GOLDEN).await.unwrap().turn;
    runtime.settled().await;
    let before = world.last_request();
    runtime.close().await.unwrap();

    let mut agent = world.agent();
    agent.instructions = "be verbose".into();
    agent.tools.retain(|tool| tool.definition().name != "talk");
    agent.budgets = Some(TurnBudgets {
        iterations_max: 1,
        ..TurnBudgets::default()
    });
    let parts = world.parts_of(agent, place.open().await);
    let runtime = Runtime::open(parts).await.unwrap();
    approve_all(&runtime).await;
    runtime.settled().await;
    let words = runtime.answer(&desk(), &turn).await.unwrap();
    // The third call of its model: the budget is still the old one.
    assert_eq!(words, "done: appended");
    let after = world.last_request();
    assert_eq!(&*after.instructions, "be brief");
    assert_eq!(
        (&after.instructions, &after.tools),
        (&before.instructions, &before.tools)
    );
    runtime.ask(&desk(), PLAIN).await.unwrap();
    let next = world.last_request();
    assert_eq!(&*next.instructions, "be verbose");
    assert_eq!(next.tools.len() + 1, before.tools.len());
    runtime.close().await.unwrap();
}

/// The kind of the first event of a commit.
fn kind(commit: &Commit) -> Option<EventKind> {
    let first = commit.events.first()?;
    Some(EventDraft::from_bytes(&first.body).unwrap().kind)
}

/// T4: a turn of 200 iterations whose process dies again and again, at random commits, before or
/// after they happened, asks no model and runs no tool a second time of which the outcome is stored.
pub(crate) async fn t4_a_turn_of_200_iterations_goes_on_wherever_it_was_cut_off(place: &dyn Place) {
    let world = Desk::new();
    let random = SeededRandom::new(200);
    let mut agent = world.agent();
    agent.budgets = Some(TurnBudgets {
        iterations_max: 300,
        ..TurnBudgets::default()
    });
    let (mut lives, mut lost) = (0, 0);
    loop {
        lives += 1;
        let store = FaultStore::new(place.open().await);
        let drawn = random.ten();
        // A life comes 40 to 103 commits far; the last of about 410 goes through.
        let at = 40 + usize::from(drawn[0] % 64);
        let fault = match drawn[1] % 2 {
            0 => Fault::CrashBefore,
            _ => Fault::CrashAfter,
        };
        store.fault_at(at, fault);
        let parts = world.parts_of(agent.clone(), Arc::clone(&store) as _);
        let runtime = Runtime::open(parts).await.unwrap();
        runtime
            .create(CreateWorker::assistant(desk()))
            .await
            .unwrap();
        let long = "long".parse().unwrap();
        let turn = runtime.submit(&desk(), long, LONG).await.unwrap().turn;
        runtime.settled().await;
        if !store.is_crashed() {
            let words = runtime.answer(&desk(), &turn).await.unwrap();
            assert_eq!(words, "there");
            runtime.close().await.unwrap();
            break;
        }
        // What is left of a dead process ends here; it can write nothing any more.
        let _ = runtime.close().await;
        // What was made and not stored is made again, and that is all.
        let cut = store.record().into_iter().find(|one| one.fault.is_some());
        let cut = kind(&cut.unwrap().commit);
        let of_outcome = [EventKind::MessageCommitted, EventKind::ToolCallFinished];
        if fault == Fault::CrashBefore && cut.is_some_and(|kind| of_outcome.contains(&kind)) {
            lost += 1;
        }
        assert!(lives < 20, "it comes no further");
    }
    assert!(lives > 4, "it was cut off {lives} times");
    let made = world.model_calls() + world.steps.load(Ordering::SeqCst);
    assert_eq!(made, STEPS + 1 + STEPS + lost);
    let runtime = world.open(place).await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events).len(), 1);
    let outcomes = events.iter().filter(|event| {
        matches!(
            event.kind(),
            EventKind::MessageCommitted | EventKind::ToolCallFinished
        )
    });
    assert_eq!(outcomes.count(), STEPS + 1 + STEPS);
    check_context(&runtime).await;
    runtime.close().await.unwrap();
}

/// T2: a turn that has spent its budget fails once, with its open calls closed, and the
/// conversation goes on in another process.
pub(crate) async fn t2_a_turn_over_its_budget_fails_and_the_next_goes_on(place: &dyn Place) {
    let world = Desk::new();
    let mut agent = world.agent();
    agent.budgets = Some(TurnBudgets {
        iterations_max: 3,
        ..TurnBudgets::default()
    });
    let runtime = Runtime::open(world.parts_of(agent, place.open().await));
    let runtime = runtime.await.unwrap();
    runtime
        .create(CreateWorker::assistant(desk()))
        .await
        .unwrap();
    let turn = runtime.send(&desk(), LONG).await.unwrap().turn;
    runtime.settled().await;
    runtime.close().await.unwrap();

    let runtime = world.open(place).await;
    runtime.resume_unfinished().await.unwrap();
    let answer = runtime.ask(&desk(), PLAIN).await.unwrap();
    assert_eq!(answer, "Hello, hello!");
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0], (turn, EventKind::TurnFailed));
    let failed = events
        .iter()
        .find(|event| *event.kind() == EventKind::TurnFailed);
    let error = &failed.unwrap().draft.payload["error"];
    assert_eq!(error["code"], "budget_iterations_exhausted");
    assert_eq!(world.steps.load(Ordering::SeqCst), 3);
    check_context(&runtime).await;
    runtime.close().await.unwrap();
}

/// T2: an answer that does not fit its schema is corrected once, also when the process dies before
/// the correction; one that still does not fit fails the turn.
pub(crate) async fn t2_a_structured_answer_is_corrected_once_across_a_crash(place: &dyn Place) {
    let world = Desk::new();
    for (minimum, input) in [(1, NUMBER), (10, "again: give a number")] {
        let mut agent = world.agent();
        agent.output_schema = Some(json!({
            "type": "object",
            "properties": { "number": { "type": "integer", "minimum": minimum } },
            "required": ["number"],
        }));
        let store = FaultStore::new(place.open().await);
        let first_answer = |commit: &Commit| kind(commit) == Some(EventKind::MessageCommitted);
        store.fault_when(first_answer, 1, Fault::CrashAfter);
        let runtime = Runtime::open(world.parts_of(agent.clone(), Arc::clone(&store) as _));
        let runtime = runtime.await.unwrap();
        runtime
            .create(CreateWorker::assistant(desk()))
            .await
            .unwrap();
        let turn = runtime.send(&desk(), input).await.unwrap().turn;
        runtime.settled().await;
        assert!(store.is_crashed());
        let _ = runtime.close().await;
        drop((runtime, store));

        let calls = world.model_calls();
        let runtime = Runtime::open(world.parts_of(agent, place.open().await));
        let runtime = runtime.await.unwrap();
        runtime.settled().await;
        assert_eq!(world.model_calls(), calls + 1, "one correction");
        let events = events(runtime.store()).await;
        let end = events
            .iter()
            .find(|event| event.kind().ends_turn() && event.draft.turn.as_ref() == Some(&turn));
        let end = &end.unwrap().draft;
        if minimum == 1 {
            assert_eq!(end.kind, EventKind::TurnCompleted);
            assert_eq!(end.payload["output"], json!({ "number": 3 }));
        } else {
            assert_eq!(end.kind, EventKind::TurnFailed);
            assert_eq!(end.payload["error"]["code"], "output_schema_mismatch");
        }
        check_context(&runtime).await;
        runtime.close().await.unwrap();
    }
}

/// T2: of a long output the model is shown a part; the whole is in the store, also for the next
/// process.
pub(crate) async fn t2_a_long_output_is_cut_and_kept_whole(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.ask(&desk(), TALK).await.unwrap();
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let events = events(runtime.store()).await;
    let recorded = events
        .iter()
        .filter_map(|event| RecordedEffect::from_event(&event.draft).unwrap());
    let content = recorded.filter_map(|recorded| match recorded.outcome {
        EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Finished {
            result,
            ..
        })) => Some(result.content),
        _ => None,
    });
    let content: Vec<ContentPart> = content.flatten().collect();
    let shown: usize = content
        .iter()
        .map(|part| match part {
            ContentPart::Text { text } => text.len(),
            _ => 0,
        })
        .sum();
    assert!(shown < TALKED, "{shown}");
    let whole = content.iter().find_map(|part| match part {
        ContentPart::Attachment { digest, .. } => Some(*digest),
        _ => None,
    });
    let whole = runtime.store().attachment(&whole.unwrap()).await.unwrap();
    assert_eq!(&whole[..], "word ".repeat(TALKED / 5).as_bytes());
    runtime.close().await.unwrap();
}
