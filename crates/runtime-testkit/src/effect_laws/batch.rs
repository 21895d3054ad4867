//! Batches: one intent commit, side by side, a barrier (E1).

use std::pin::pin;
use std::sync::Arc;

use runtime_core::{EffectKind, EffectOutcome, ErrorClass};
use runtime_effects::{Applied, Interrupt, LocalExecutor};
use tokio::sync::oneshot;

use super::world::{Runs, World, assert_terminal, desk, failure, patient, result, tool_call};
use crate::store_laws::StoreFixture;

fn completed(text: &str) -> Result<EffectOutcome, Interrupt> {
    Ok(EffectOutcome::Completed(result(text)))
}

/// E1: results come in the order of the input.
pub async fn e1_results_come_in_the_order_of_the_input(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let slow = runs.answers(|run| match run {
        1 => Err(failure(ErrorClass::Busy, Applied::No)),
        _ => Ok(result("slow")),
    });
    let items = vec![
        (tool_call(&scope, 0, "write").with_policy(patient(2)), slow),
        (
            tool_call(&scope, 1, "write"),
            Runs::default().succeeds("quick"),
        ),
    ];
    let results = world.drive(controller.execute_batch(items)).await;
    assert_eq!(results, [completed("slow"), completed("quick")]);
}

/// E1: effects run side by side.
pub async fn e1_effects_run_side_by_side(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    // Each ends only after the other has started.
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    let items = (0..2).map(|ordinal| {
        let barrier = Arc::clone(&barrier);
        let executor = LocalExecutor::new(EffectKind::ToolCall, move |_| {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await;
                Ok(result("met"))
            }
        });
        (tool_call(&scope, ordinal, "meet"), executor)
    });
    let results = controller.execute_batch(items.collect()).await;
    assert_eq!(results, [completed("met"), completed("met")]);
}

/// E1: each outcome is committed as it ends.
pub async fn e1_each_outcome_is_committed_as_it_ends(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let (release, released) = oneshot::channel::<()>();
    let mut released = Some(released);
    let late = LocalExecutor::new(EffectKind::ToolCall, move |_| {
        let released = released.take().expect("one attempt");
        async move {
            released.await.expect("is released");
            Ok(result("late"))
        }
    });
    let items = vec![
        (tool_call(&scope, 0, "write"), late),
        (
            tool_call(&scope, 1, "write"),
            Runs::default().succeeds("early"),
        ),
    ];
    let mut batch = pin!(controller.execute_batch(items));
    assert!(world.stands_still(batch.as_mut()).await, "it is a barrier");
    let told = ["effect_started", "effect_started", "effect_finished"];
    assert_eq!(world.kinds().await, told);
    release.send(()).expect("is waited for");
    assert_eq!(batch.await, [completed("late"), completed("early")]);
}

/// E1: a batch makes one intent commit.
pub async fn e1_a_batch_makes_one_intent_commit(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let faults = &world.store;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let before = faults.commits();
    let item = |ordinal: u32| {
        let safe = ordinal == 2;
        let envelope = tool_call(&scope, ordinal, "write").retry_safe(safe);
        (envelope, runs.succeeds("done"))
    };
    controller.execute_batch((0..3).map(item).collect()).await;
    assert_eq!(
        faults.commits() - before,
        4,
        "one of intents, three of outcomes"
    );
    let intents = &faults.record()[before].commit;
    assert_eq!((intents.rows.len(), intents.events.len()), (2, 2));
}

/// E1: one in doubt does not stop the others.
pub async fn e1_one_in_doubt_does_not_stop_the_others(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let lost = runs.answers(|_| Err(failure(ErrorClass::Unavailable, Applied::Unknown)));
    let items = vec![
        (tool_call(&scope, 0, "write"), lost),
        (tool_call(&scope, 1, "write"), runs.succeeds("done")),
        (
            tool_call(&scope, 2, "write").with_policy(patient(1)),
            runs.hangs(),
        ),
    ];
    let results = world.drive(controller.execute_batch(items)).await;
    assert!(
        matches!(&results[0], Err(Interrupt::InDoubt { key }) if key.as_str() == "1.tool_call.0")
    );
    assert_eq!(results[1], completed("done"));
    assert!(
        matches!(&results[2], Err(Interrupt::InDoubt { key }) if key.as_str() == "1.tool_call.2")
    );
    let kinds = world.kinds().await;
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!((count("effect_finished"), count("effect_in_doubt")), (1, 2));
}

/// E1: a key that is asked for twice runs once.
pub async fn e1_a_key_that_is_asked_for_twice_runs_once(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let item = |_| (tool_call(&scope, 0, "write"), runs.succeeds("done"));
    let mut results = controller.execute_batch((0..2).map(item).collect()).await;
    assert_terminal(results.remove(1), "effect_duplicate");
    assert_eq!((results.remove(0), runs.count()), (completed("done"), 1));
}

/// E4: a batch is answered from the record.
pub async fn e4_a_batch_is_answered_from_the_record(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let item = |ordinal| (tool_call(&scope, ordinal, "write"), runs.succeeds("done"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    // The first is recorded already; the batch runs only the others.
    controller.execute_batch(vec![item(0)]).await;
    controller.execute_batch((0..3).map(item).collect()).await;
    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let replayed = controller.execute_batch((0..3).map(item).collect()).await;
    assert_eq!(
        replayed,
        [completed("done"), completed("done"), completed("done")]
    );
    assert_eq!(runs.count(), 3);
}
