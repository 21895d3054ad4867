//! Waits: promises, times, parking, cancelling (E8–E11, E14).

use std::time::Duration;

use runtime_core::{
    Clock, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, ReplayKey,
    Resolution, Timestamp, WaitOutput,
};
use runtime_effects::{Interrupt, PendingKind, ResolveAnswer};
use runtime_store::Page;
use serde_json::json;

use super::world::{Runs, World, assert_terminal, custom, desk, tool_call, wait_for};
use crate::store_laws::StoreFixture;

fn approved() -> Resolution {
    Resolution::Ok {
        value: json!({ "approved": true }),
    }
}

fn saw(resolution: Resolution) -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution,
    }))
}

/// E9: a wait that is not ready parks and is listed.
pub async fn e9_a_wait_that_is_not_ready_parks_and_is_listed(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let scope = desk();
    let began = world.clock.now();
    for _ in 0..2 {
        world.restart().await;
        let host = world.host();
        let controller = world.open(&host, &scope).await;
        let wait = wait_for(&scope, &custom("approval:1"), Some(Duration::from_secs(60)));
        let parked = world.drive(controller.wait_any(wait)).await;
        let due = Some(began.after(Duration::from_secs(60)));
        assert!(matches!(parked, Err(Interrupt::Suspended { due: at, .. }) if at == due));
    }
    assert_eq!(world.clock.now(), began.after(Duration::from_secs(2)));
    let listed = world.host().pending(Page::after(None, 8)).await;
    let listed = listed.expect("reads").items;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].kind, PendingKind::Approval);
    assert_eq!(listed[0].since, began);
    assert_eq!(listed[0].promises.len(), 1);
    assert_eq!(listed[0].promises[0].identity, custom("approval:1"));
    assert_eq!(listed[0].tool.as_deref(), Some("write"));
    assert_eq!(world.kinds().await, ["effect_started"], "it began once");
}

/// E11: a wait records the resolution that it saw.
pub async fn e11_a_wait_records_the_resolution_that_it_saw(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let wait = || wait_for(&scope, &identity, None);
    let parked = controller.wait_any(wait()).await;
    assert!(matches!(
        parked,
        Err(Interrupt::Suspended { due: None, .. })
    ));
    let promises = host.await_events().await.expect("loads");
    let answer = promises
        .resolve_identity(&scope, &identity, approved(), None)
        .await
        .expect("decides");
    assert_eq!(answer, ResolveAnswer::Accepted);
    for _ in 0..2 {
        assert_eq!(controller.wait_any(wait()).await, Ok(saw(approved())));
    }
    let expected = ["effect_started", "promise_resolved", "effect_finished"];
    assert_eq!(world.kinds().await, expected);
}

/// E10: a resolution before the wait is kept.
pub async fn e10_a_resolution_before_the_wait_is_kept(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (scope, identity) = (desk(), custom("answer"));
    world.next_epoch(&scope).await;
    let promises = world.promises().await;
    promises
        .resolve_identity(&scope, &identity, approved(), None)
        .await
        .expect("decides");
    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let wait = wait_for(&scope, &identity, None);
    assert_eq!(controller.wait_any(wait).await, Ok(saw(approved())));
}

/// E11: a deadline ends the wait and settles nothing.
pub async fn e11_a_deadline_ends_the_wait_and_settles_nothing(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::from_secs(3600);
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let due = world.clock.now().after(Duration::from_secs(60));
    let wait = || wait_for(&scope, &identity, Some(Duration::from_secs(60)));
    let elapsed = Ok(EffectOutcome::Completed(EffectOutput::AwaitEvent(
        WaitOutput::Elapsed { source: 1, due },
    )));
    assert_eq!(world.drive(controller.wait_any(wait())).await, elapsed);
    let promises = host.await_events().await.expect("loads");
    let answer = promises
        .resolve_identity(&scope, &identity, approved(), None)
        .await
        .expect("decides");
    assert_eq!(
        answer,
        ResolveAnswer::Accepted,
        "the promise was still open"
    );
    // Replay sees what the wait saw, though the promise is settled by now.
    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    assert_eq!(controller.wait_any(wait()).await, elapsed);
}

/// E11: a resolution comes before a deadline that has passed too.
pub async fn e11_a_resolution_comes_before_a_deadline_that_has_passed_too(
    fixture: &dyn StoreFixture,
) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let wait = || wait_for(&scope, &identity, Some(Duration::from_secs(1)));
    let parked = controller.wait_any(wait()).await;
    assert!(matches!(parked, Err(Interrupt::Suspended { .. })));
    let promises = host.await_events().await.expect("loads");
    promises
        .resolve_identity(&scope, &identity, approved(), None)
        .await
        .expect("decides");
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(controller.wait_any(wait()).await, Ok(saw(approved())));
}

/// E8: a sleep keeps its due time across hosts.
pub async fn e8_a_sleep_keeps_its_due_time_across_hosts(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let scope = desk();
    let due = world.clock.now().after(Duration::from_secs(60));
    let sleep = || {
        let key = ReplayKey::turn(1, EffectKind::Sleep, 0);
        let command = EffectCommand::Sleep {
            duration: Duration::from_secs(60),
        };
        EffectEnvelope::new(scope.clone(), key, command).expect("consistent")
    };
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let parked = world.drive(controller.wait_any(sleep())).await;
    assert!(matches!(parked, Err(Interrupt::Suspended { due: Some(at), .. }) if at == due));
    world.clock.advance(Duration::from_secs(30));
    assert!(
        host.due(world.clock.now(), 8)
            .await
            .expect("reads")
            .is_empty()
    );

    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    world.clock.advance(Duration::from_secs(60));
    let listed = host.due(world.clock.now(), 8).await.expect("reads");
    assert_eq!((listed.len(), listed[0].due), (1, due));
    let slept = controller.wait_any(sleep()).await;
    assert_eq!(
        slept,
        Ok(EffectOutcome::Completed(EffectOutput::Sleep { due }))
    );
    assert!(
        host.due(Timestamp::from_millis(u64::MAX), 8)
            .await
            .expect("reads")
            .is_empty()
    );
}

/// E9: cancelling wakes a wait.
pub async fn e9_cancelling_wakes_a_wait(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let mut waiting =
        std::pin::pin!(controller.wait_any(wait_for(&scope, &custom("answer"), None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    assert!(host.cancel_scope(&scope.scope_id()));
    assert_eq!(waiting.await, Err(Interrupt::Cancelled));
}

/// E9: a wait wakes within its process at once.
pub async fn e9_a_wait_wakes_within_its_process_at_once(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let mut waiting = std::pin::pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    let promises = host.await_events().await.expect("loads");
    promises
        .resolve_identity(&scope, &identity, approved(), None)
        .await
        .expect("decides");
    // A wait that is not woken parks as soon as time moves.
    assert_eq!(world.drive(waiting).await, Ok(saw(approved())));
}

/// E3: a wait and a run are not confused.
pub async fn e3_a_wait_and_a_run_are_not_confused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let call = tool_call(&scope, 0, "write");
    assert_terminal(controller.wait_any(call).await, "effect_unsupported");
    let wait = wait_for(&scope, &custom("answer"), None);
    let executor = Runs::default().succeeds("done");
    assert_terminal(
        controller.execute_effect(wait, executor).await,
        "effect_unsupported",
    );
}

/// E10: the index of what waits goes with the wait.
pub async fn e10_the_index_of_what_waits_goes_with_the_wait(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let wait = || wait_for(&scope, &identity, Some(Duration::from_secs(1)));
    controller.wait_any(wait()).await.expect_err("parks");
    let scope_id = scope.scope_id();
    let page = host.pending_of(&scope_id, Page::after(None, 8)).await;
    assert_eq!(page.expect("reads").items.len(), 1);
    world.clock.advance(Duration::from_secs(1));
    controller.wait_any(wait()).await.expect("elapsed");
    let page = host.pending_of(&scope_id, Page::after(None, 8)).await;
    assert!(page.expect("reads").items.is_empty());
}
