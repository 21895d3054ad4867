//! One effect: the replay contract (E4), attempts (E6), doubt (E7).

use std::time::Duration;

use runtime_core::{Classified, EffectKind, EffectOutcome, ErrorClass};
use runtime_effects::{Applied, EffectHost, Interrupt, LocalExecutor, PendingKind};
use runtime_store::Page;
use serde_json::json;

use super::world::{
    Runs, World, assert_terminal, desk, failure, opening, patient, result, tool_call, turn,
};
use crate::store_laws::StoreFixture;

/// E4: a recorded outcome is answered without running.
pub async fn e4_a_recorded_outcome_is_answered_without_running(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    for _ in 0..3 {
        world.restart().await;
        let host = world.host();
        let controller = world.open(&host, &scope).await;
        let envelope = tool_call(&scope, 0, "write");
        let outcome = controller
            .execute_effect(envelope, runs.succeeds("done"))
            .await;
        assert_eq!(outcome, Ok(EffectOutcome::Completed(result("done"))));
    }
    assert_eq!(runs.count(), 1);
}

/// E4: another envelope under the same key is a conflict.
pub async fn e4_another_envelope_under_the_same_key_is_a_conflict(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let first = tool_call(&scope, 0, "write");
    controller
        .execute_effect(first, runs.succeeds("done"))
        .await
        .expect("runs");
    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let before = world.events().await.len();
    let other = tool_call(&scope, 0, "erase");
    let conflict = controller
        .execute_effect(other, runs.succeeds("done"))
        .await
        .expect_err("is another effect");
    let Interrupt::Conflict(mismatch) = &conflict else {
        panic!("{conflict:?}");
    };
    assert_eq!(mismatch.paths, ["/command/tool"]);
    assert!(
        !conflict
            .to_wire()
            .details
            .expect("has")
            .to_string()
            .contains("erase")
    );
    assert_eq!((runs.count(), world.events().await.len()), (1, before));
}

/// E4: strict replay runs nothing new.
pub async fn e4_strict_replay_runs_nothing_new(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let mut strict = opening(&scope, world.next_epoch(&scope).await);
    strict.strict_replay = true;
    let controller = host.scoped(strict).expect("opens");
    let missing = controller
        .execute_effect(tool_call(&scope, 0, "write"), runs.succeeds("done"))
        .await
        .expect_err("is not recorded");
    let Interrupt::Terminal(error) = missing else {
        panic!("{missing:?}");
    };
    assert_eq!((error.code.as_str(), runs.count()), ("effect_missing", 0));
}

/// E2: an envelope of another scope is refused.
pub async fn e2_an_envelope_of_another_scope_is_refused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let foreign = tool_call(&turn("desk", "2"), 0, "write");
    assert_terminal(
        controller
            .execute_effect(foreign, runs.succeeds("done"))
            .await,
        "scope_mismatch",
    );
    assert_eq!(runs.count(), 0);
}

/// E3: an executor of another kind is refused.
pub async fn e3_an_executor_of_another_kind_is_refused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let wrong = LocalExecutor::new(EffectKind::LlmCall, |_| async { Ok(result("done")) });
    assert_terminal(
        controller
            .execute_effect(tool_call(&scope, 0, "write"), wrong)
            .await,
        "wrong_executor",
    );
}

/// E3: an outcome of another kind is never used.
pub async fn e3_an_outcome_of_another_kind_is_never_used(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let wrong = LocalExecutor::new(EffectKind::ToolCall, |_| async {
        Ok(runtime_core::EffectOutput::DurableStep { value: json!(1) })
    });
    let envelope = tool_call(&scope, 0, "write").retry_safe(true);
    assert_terminal(
        controller.execute_effect(envelope, wrong).await,
        "wrong_outcome",
    );
    assert!(world.events().await.is_empty());
}

/// E5: a retry safe effect costs one commit and any other two.
pub async fn e5_a_retry_safe_effect_costs_one_commit_and_any_other_two(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let safe = tool_call(&scope, 0, "read").retry_safe(true);
    controller
        .execute_effect(safe, runs.succeeds("done"))
        .await
        .expect("runs");
    assert_eq!(world.kinds().await, ["effect_finished"]);
    controller
        .execute_effect(tool_call(&scope, 1, "write"), runs.succeeds("done"))
        .await
        .expect("runs");
    let kinds = world.kinds().await;
    assert_eq!(kinds[1..], ["effect_started", "effect_finished"]);
    let payload = &world.events().await[2].draft.payload;
    assert_eq!(payload["identity"]["command"]["tool"], "write");
    assert_eq!(payload["outcome"]["status"], "completed");
}

/// E5: a later owner fences the earlier.
pub async fn e5_a_later_owner_fences_the_earlier(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let zombie = world.open(&host, &scope).await;
    let successor = world.host();
    let owner = world.open(&successor, &scope).await;
    for retry_safe in [true, false] {
        let envelope = tool_call(&scope, 0, "write").retry_safe(retry_safe);
        let refused = zombie
            .execute_effect(envelope, runs.succeeds("stale"))
            .await;
        assert_eq!(refused, Err(Interrupt::Fenced), "{retry_safe}");
    }
    assert_eq!(runs.count(), 1, "only what may run twice was run");
    let envelope = tool_call(&scope, 0, "write").retry_safe(true);
    let outcome = owner.execute_effect(envelope, runs.succeeds("fresh")).await;
    assert_eq!(outcome, Ok(EffectOutcome::Completed(result("fresh"))));
}

/// E6: a final error is recorded.
pub async fn e6_a_final_error_is_recorded(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let failing = || runs.answers(|_| Err(failure(ErrorClass::NotFound, Applied::Unknown)));
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let envelope = tool_call(&scope, 0, "write");
        outcomes.push(controller.execute_effect(envelope, failing()).await);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    let Ok(EffectOutcome::Failed(error)) = &outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert_eq!((error.class, runs.count()), (ErrorClass::NotFound, 1));
}

/// E6: a retryable error that had no effect is tried again.
pub async fn e6_a_retryable_error_that_had_no_effect_is_tried_again(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let envelope = tool_call(&scope, 0, "write").with_policy(patient(3));
    let executor = runs.answers(|run| match run {
        1 | 2 => Err(failure(ErrorClass::Unavailable, Applied::No)),
        _ => Ok(result("done")),
    });
    let outcome = world
        .drive(controller.execute_effect(envelope, executor))
        .await;
    assert_eq!(outcome, Ok(EffectOutcome::Completed(result("done"))));
    // Each attempt of what must not run twice has its own intent.
    let expected = [
        "effect_started",
        "effect_attempt_failed",
        "effect_started",
        "effect_attempt_failed",
        "effect_started",
        "effect_finished",
    ];
    assert_eq!(
        (world.kinds().await, runs.count()),
        (expected.map(str::to_owned).to_vec(), 3)
    );
}

/// E6: attempts come to an end.
pub async fn e6_attempts_come_to_an_end(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let envelope = tool_call(&scope, 0, "read")
        .retry_safe(true)
        .with_policy(patient(3));
    let executor = runs.answers(|_| Err(failure(ErrorClass::TimedOut, Applied::Unknown)));
    let outcome = world
        .drive(controller.execute_effect(envelope, executor))
        .await;
    let Ok(EffectOutcome::Failed(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.code, "effect_attempts_exhausted");
    assert_eq!(error.class, ErrorClass::Terminal);
    assert_eq!(error.details.expect("has")["last"]["code"], "test_failure");
    assert_eq!(runs.count(), 3);
}

/// E6: a long pause parks and is kept across hosts.
pub async fn e6_a_long_pause_parks_and_is_kept_across_hosts(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::from_millis(50);
    let (scope, runs) = (desk(), Runs::default());
    let executor = || {
        runs.answers(|run| match run {
            1 => Err(failure(ErrorClass::Busy, Applied::No)),
            _ => Ok(result("done")),
        })
    };
    let envelope = || tool_call(&scope, 0, "write").with_policy(patient(3));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let parked = controller.execute_effect(envelope(), executor()).await;
    let Err(Interrupt::Suspended { due: Some(due), .. }) = parked else {
        panic!("{parked:?}");
    };
    let early = host.due(runtime_core::Clock::now(&world.clock), 8).await;
    assert!(early.expect("reads").is_empty());

    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let again = controller.execute_effect(envelope(), executor()).await;
    assert!(matches!(again, Err(Interrupt::Suspended { due: Some(at), .. }) if at == due));
    assert_eq!(runs.count(), 1);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(host.due(due, 8).await.expect("reads").len(), 1);
    let outcome = controller.execute_effect(envelope(), executor()).await;
    assert_eq!(outcome, Ok(EffectOutcome::Completed(result("done"))));
    assert!(host.due(due, 8).await.expect("reads").is_empty());
}

/// E7: an unknown failure is in doubt.
pub async fn e7_an_unknown_failure_is_in_doubt(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    for _ in 0..3 {
        world.restart().await;
        let host = world.host();
        let controller = world.open(&host, &scope).await;
        let executor = runs.answers(|_| Err(failure(ErrorClass::Unavailable, Applied::Unknown)));
        let doubt = controller
            .execute_effect(tool_call(&scope, 0, "write"), executor)
            .await;
        assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
    }
    assert_eq!(runs.count(), 1);
    assert_eq!(world.kinds().await, ["effect_started", "effect_in_doubt"]);
    let page = world.host().pending(Page::after(None, 8)).await;
    let pending = &page.expect("reads").items[0];
    assert_eq!(pending.kind, PendingKind::InDoubt);
    assert_eq!(pending.tool.as_deref(), Some("write"));
    assert_eq!(pending.reason.as_ref().expect("has").code, "test_failure");
}

/// E7: a timed out attempt is in doubt.
pub async fn e7_a_timed_out_attempt_is_in_doubt(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let envelope = tool_call(&scope, 0, "write").with_policy(patient(3));
    let doubt = world
        .drive(controller.execute_effect(envelope, runs.hangs()))
        .await;
    assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
    assert_eq!(runs.count(), 1);
    let reason = &world.events().await[1].draft.payload["reason"]["code"];
    assert_eq!(reason, "effect_attempt_timed_out");
}

/// E9: a panic is caught and keeps its text.
pub async fn e9_a_panic_is_caught_and_keeps_its_text(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let panicking = || runs.answers(|run| panic!("run {run} went wrong"));
    let safe = tool_call(&scope, 0, "read")
        .retry_safe(true)
        .with_policy(patient(2));
    let outcome = world
        .drive(controller.execute_effect(safe, panicking()))
        .await;
    let Ok(EffectOutcome::Failed(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.message.contains("run 2 went wrong"), "{error}");
    let unsafe_to_repeat = tool_call(&scope, 1, "write");
    let doubt = controller
        .execute_effect(unsafe_to_repeat, panicking())
        .await;
    assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
    // The panic at the start of an attempt, before there is a future, is caught as well.
    let starting = LocalExecutor::new(EffectKind::ToolCall, |_| {
        assert!(std::hint::black_box(false), "before the future");
        async { Ok(result("done")) }
    });
    let doubt = controller
        .execute_effect(tool_call(&scope, 2, "write"), starting)
        .await;
    assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
}

/// E7: a dropped driver leaves its effect in doubt.
pub async fn e7_a_dropped_driver_leaves_its_effect_in_doubt(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    {
        let running = controller.execute_effect(tool_call(&scope, 0, "write"), runs.hangs());
        let mut running = std::pin::pin!(running);
        assert!(world.stands_still(running.as_mut()).await);
    }
    assert_eq!(runs.count(), 1);
    // Even in the same process and epoch.
    let doubt = controller
        .execute_effect(tool_call(&scope, 0, "write"), runs.succeeds("again"))
        .await;
    assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
    assert_eq!(runs.count(), 1);
}

/// E6: cancelling what must not run twice is doubt.
pub async fn e6_cancelling_what_must_not_run_twice_is_doubt(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let running = controller.execute_effect(tool_call(&scope, 0, "write"), runs.hangs());
    let mut running = std::pin::pin!(running);
    assert!(world.stands_still(running.as_mut()).await);
    assert!(host.cancel_scope(&scope.scope_id()));
    let doubt = running.await;
    assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
    assert_eq!(world.kinds().await, ["effect_started", "effect_in_doubt"]);
}

/// E9: cancelling what may run twice is cancelled.
pub async fn e9_cancelling_what_may_run_twice_is_cancelled(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    assert!(!host.cancel_scope(&scope.scope_id()), "it is not open");
    let controller = world.open(&host, &scope).await;
    let envelope = tool_call(&scope, 0, "read").retry_safe(true);
    let running = controller.execute_effect(envelope, runs.hangs());
    let mut running = std::pin::pin!(running);
    assert!(world.stands_still(running.as_mut()).await);
    assert!(host.cancel_scope(&scope.scope_id()));
    assert_eq!(running.await, Err(Interrupt::Cancelled));
    // Nothing new starts in a cancelled opening; what is recorded is still answered.
    let refused = controller
        .execute_effect(tool_call(&scope, 1, "write"), runs.succeeds("done"))
        .await;
    assert_eq!(refused, Err(Interrupt::Cancelled));
    assert!(world.events().await.is_empty());
}

/// E5: one effect is not run twice at once.
pub async fn e5_one_effect_is_not_run_twice_at_once(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let envelope = || tool_call(&scope, 0, "read").retry_safe(true);
    let running = controller.execute_effect(envelope(), runs.hangs());
    let mut running = std::pin::pin!(running);
    assert!(world.stands_still(running.as_mut()).await);
    assert_terminal(
        controller
            .execute_effect(envelope(), runs.succeeds("second"))
            .await,
        "effect_duplicate",
    );
    assert_eq!(runs.count(), 1);
}

/// E16: an outcome over the limit is recorded as such.
pub async fn e16_an_outcome_over_the_limit_is_recorded_as_such(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.outcome_bytes_max = 64;
    let (scope, runs) = (desk(), Runs::default());
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    for _ in 0..2 {
        let executor = runs.answers(|_| Ok(result(&"long".repeat(64))));
        let outcome = controller
            .execute_effect(tool_call(&scope, 0, "write"), executor)
            .await;
        let Ok(EffectOutcome::Failed(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.code, "effect_outcome_too_large");
    }
    assert_eq!(runs.count(), 1);
}
