//! What is recorded of effects and promises where a step is repeated, fails, or is cut.

use std::pin::pin;
use std::time::Duration;

use runtime_core::{
    CallId, Digest, EffectKind, EffectOutcome, ErrorClass, ReplayKey, Resolution, Timestamp,
    Trigger, WaitIdentity,
};
use runtime_effects::{
    Applied, ConflictRuling, Interrupt, LocalExecutor, PendingKind, ProcessLimits, Revocation,
    Ruling, RulingAnswer, TokenError, TokenRights,
};
use runtime_store::{Commit, Page, Store};
use runtime_testkit::Fault;
use runtime_testkit::effect_laws::{
    Runs, World, custom, desk, failure, fresh_id, result, tool_call, turn, wait_for,
};
use serde_json::json;

use crate::edges::{id, order, processes, success};
use crate::laws::Memory;
use crate::process_edges::{arrived, session, subscription};

/// A tool that reports what happened outside.
pub(crate) fn reports<'run>(trigger: Trigger) -> LocalExecutor<'run> {
    LocalExecutor::new(EffectKind::ToolCall, move |attempt| {
        attempt.triggers.report(trigger.clone());
        async { Ok(result("done")) }
    })
}

/// E7: a command that brings a ruling is carried out once, also when the effect is in doubt again
/// by then.
#[tokio::test]
async fn e7_a_repeated_command_rules_no_later_doubt() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, host, runs) = (desk(), world.host(), Runs::default());
    let controller = world.open(&host, &scope).await;
    let call = || tool_call(&scope, 0, "pay");
    let unknown = || runs.answers(|_| Err(failure(ErrorClass::Unavailable, Applied::Unknown)));
    let (scope_id, command) = (scope.scope_id(), fresh_id());
    for answer in [RulingAnswer::Ruled, RulingAnswer::AlreadyRuled] {
        let doubt = controller.execute_effect(call(), unknown()).await;
        assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
        let ruled = host
            .rule_in_doubt(&scope_id, call().key(), Ruling::RunAgain, Some(command))
            .await;
        assert_eq!(ruled.expect("answers"), answer);
    }
    let doubt = controller.execute_effect(call(), unknown()).await;
    assert!(matches!(doubt, Err(Interrupt::InDoubt { .. })), "{doubt:?}");
    assert_eq!(runs.count(), 2, "the one ruling let it run once more");
}

/// E1: when the intents of a batch cannot be recorded, what needs none runs all the same.
#[tokio::test]
async fn e1_a_batch_without_its_intents_runs_what_needs_none() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.commit_tries_max = 1;
    let (scope, host, writes) = (desk(), world.host(), Runs::default());
    let controller = world.open(&host, &scope).await;
    world
        .store
        .fault_at(world.store.commits() + 1, Fault::FailBefore);
    let batch = vec![
        (tool_call(&scope, 0, "write"), writes.succeeds("written")),
        (
            tool_call(&scope, 1, "read").retry_safe(true),
            Runs::default().succeeds("read"),
        ),
    ];
    let ended = controller.execute_batch(batch).await;
    let Err(Interrupt::Terminal(error)) = &ended[0] else {
        panic!("{ended:?}");
    };
    assert_eq!((error.class, writes.count()), (ErrorClass::Unavailable, 0));
    assert_eq!(ended[1], Ok(EffectOutcome::Completed(result("read"))));
}

/// E15: an outcome with what it triggers is decided anew when somebody else was first, not when
/// the store fails.
#[tokio::test]
async fn e15_an_outcome_that_cannot_be_stored_is_not_decided_anew() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.commit_tries_max = 1;
    let (scope, host) = (desk(), world.host());
    let table = processes(&world, ProcessLimits::default()).await;
    table
        .subscribe(&subscription("s"))
        .await
        .expect("subscribes");
    let controller = world.open(&host, &scope).await;
    world
        .store
        .fault_at(world.store.commits() + 1, Fault::FailBefore);
    let call = || tool_call(&scope, 0, "fetch").retry_safe(true);
    let failed = controller
        .execute_effect(call(), reports(arrived("m1")))
        .await;
    let Err(Interrupt::Terminal(error)) = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.class, ErrorClass::Unavailable);
    let again = controller
        .execute_effect(call(), reports(arrived("m1")))
        .await;
    assert_eq!(again, Ok(EffectOutcome::Completed(result("done"))));
}

/// E15, E16: a tool that reports what has too long a name has happened, and is recorded as failed.
#[tokio::test]
async fn e15_an_outcome_that_reports_too_long_a_name_is_recorded_as_failed() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, host) = (desk(), world.host());
    let controller = world.open(&host, &scope).await;
    let call = || tool_call(&scope, 0, "fetch");
    for _ in 0..2 {
        let long = arrived(&"m".repeat(513));
        let ended = controller.execute_effect(call(), reports(long)).await;
        let Ok(EffectOutcome::Failed(error)) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(error.code, "process_too_large");
    }
}

/// E16: an outcome over its limit says its size and the limit.
#[tokio::test]
async fn e16_an_outcome_over_its_limit_says_both_sizes() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.outcome_bytes_max = 64;
    let host = world.host();
    let controller = world.open(&host, &desk()).await;
    let long = EffectOutcome::Completed(result("a result that is longer than it may be"));
    let bytes = serde_json::to_vec(&long).expect("is plain data").len();
    let ended = controller
        .execute_effect(
            tool_call(&desk(), 0, "read"),
            Runs::default().succeeds("a result that is longer than it may be"),
        )
        .await;
    let Ok(EffectOutcome::Failed(error)) = ended else {
        panic!("{ended:?}");
    };
    let sizes = json!({ "bytes": bytes, "max": 64 });
    assert_eq!(
        (error.code.as_str(), error.details),
        ("effect_outcome_too_large", Some(sizes))
    );
}

/// E9: the text of a panic is cut at its limit, between two characters.
#[tokio::test]
async fn e9_the_text_of_a_panic_is_cut_between_two_characters() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.panic_text_bytes_max = 5;
    let (scope, host) = (desk(), world.host());
    let controller = world.open(&host, &scope).await;
    let panics = Runs::default().answers(|_| panic!("äöüß"));
    let doubt = controller.execute_effect(tool_call(&scope, 0, "write"), panics);
    doubt.await.expect_err("is in doubt");
    let page = host
        .pending_of(&scope.scope_id(), Page::after(None, 8))
        .await;
    let reason = page.expect("reads").items[0].reason.clone();
    assert_eq!(
        reason.expect("says why").message,
        "the executor panicked: äö"
    );
}

/// E4, E5: a batch that is set aside again and again runs anew each time: its intents are another
/// commit each time.
#[tokio::test]
async fn e4_a_batch_that_is_set_aside_twice_runs_anew_twice() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, host) = (desk(), world.host());
    let key = ReplayKey::turn(1, EffectKind::ToolCall, 0);
    let batch = async |tool: &str| {
        let controller = world.open(&host, &scope).await;
        let item = |ordinal| {
            let runs = Runs::default();
            (tool_call(&scope, ordinal, tool), runs.succeeds("ran"))
        };
        controller.execute_batch((0..2).map(item).collect()).await
    };
    let ran = || Ok(EffectOutcome::Completed(result("ran")));
    assert_eq!(batch("write").await, [ran(), ran()]);
    for tool in ["erase", "write"] {
        let conflicts = batch(tool).await;
        assert!(
            matches!(conflicts[..], [Err(Interrupt::Conflict(_)), _]),
            "{conflicts:?}"
        );
        let ruled = host
            .rule_conflict(&scope.scope_id(), &key, ConflictRuling::Fork, None)
            .await;
        assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
        assert_eq!(batch(tool).await, [ran(), ran()]);
    }
}

/// E9, T3: what waits for a person's approval is told from any other wait.
#[tokio::test]
async fn e9_an_approval_is_told_from_another_wait() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::ZERO;
    let call = CallId::new("call-0").expect("legal");
    let approval = WaitIdentity::approval(&call, &Digest::of_bytes(b"{}"));
    for (number, identity, kind) in [
        ("1", approval, PendingKind::Approval),
        ("2", custom("answer"), PendingKind::Wait),
    ] {
        let (scope, host) = (turn("desk", number), world.host());
        let controller = world.open(&host, &scope).await;
        let parked = controller.wait_any(wait_for(&scope, &identity, None)).await;
        parked.expect_err("parks");
        let page = host
            .pending_of(&scope.scope_id(), Page::after(None, 8))
            .await;
        let pending = page.expect("reads").items.remove(0);
        assert_eq!((pending.kind, pending.promises[0].kind), (kind, kind));
    }
}

/// E10, E14: whoever settles a promise with a commit of its own tells the waiters, at once.
#[tokio::test]
async fn e10_a_waiter_is_told_at_once_of_a_promise_that_another_commit_settled() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, identity, host) = (desk(), custom("answer"), world.host());
    let promises = host.await_events().await.expect("loads");
    let controller = world.open(&host, &scope).await;
    let mut waiting = pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(2));
    let yes = Resolution::Ok {
        value: json!("yes"),
    };
    let settles = promises.resolve_in(commit, &scope, &identity, &yes).await;
    let (commit, _) = settles.expect("decides");
    world.store.commit(commit).await.expect("commits");
    let before = world.now();
    promises.announce_resolved(&scope, &identity);
    world.drive(waiting).await.expect("is resolved");
    assert_eq!(world.now(), before, "it was woken; no time had to pass");
}

/// E13: of a process that nobody holds any more, one revoked session among those that did is
/// enough.
#[tokio::test]
async fn e13_a_process_that_nobody_holds_is_revoked_with_any_of_its_holders() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    let (p, first, second) = (id("p"), session("first"), session("second"));
    table
        .start(&order("p"), Some(&first))
        .await
        .expect("starts");
    table.grant(&p, &second).await.expect("grants");
    for holder in [&first, &second] {
        assert!(table.revoke(&p, holder).await.expect("revokes"));
    }
    let scope = runtime_core::ExecutionScope::Process { process: p };
    let promises = world.promises().await;
    let mints = async || {
        promises
            .mint(&scope, &custom("answer"), TokenRights::ALL, None)
            .await
    };
    mints().await.expect("nobody is revoked");
    let revoked = promises.revoke(Revocation::Session(second), None).await;
    assert!(revoked.expect("revokes"));
    let refused = mints().await;
    assert!(
        matches!(refused, Err(TokenError::OwnerRevoked)),
        "{refused:?}"
    );
}

/// E3: an executor prints what it runs.
#[test]
fn e3_an_executor_prints_the_kind_of_effect_that_it_runs() {
    let executor = Runs::default().succeeds("done");
    assert_eq!(
        format!("{executor:?}"),
        "LocalExecutor { kind: ToolCall, .. }"
    );
}

/// E15: what a tool reports once more after the process that it started is retired and forgotten
/// starts nothing, and the outcome of the tool is recorded all the same.
#[tokio::test]
async fn e15_a_tool_that_reports_what_ended_long_ago_has_an_outcome() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.occurrence_retention = Duration::from_secs(60);
    let table = processes(&world, ProcessLimits::default()).await;
    let subscribed = table.subscribe(&subscription("s")).await;
    subscribed.expect("subscribes");
    let started = table.occurred(&arrived("m1")).await.expect("occurs");
    let claim = table.claim(&started[0]).await.expect("is there");
    table.end(&claim, &success(1)).await.expect("ends");
    table.retire(&started[0]).await.expect("retires");
    world.clock.advance(ProcessLimits::default().retention);
    let forgotten = table.retire_ended(Timestamp::from_millis(0), 8).await;
    assert_eq!(forgotten.expect("forgets"), 0);

    let (scope, host) = (desk(), world.host());
    let controller = world.open(&host, &scope).await;
    let call = tool_call(&scope, 0, "fetch");
    let ended = controller
        .execute_effect(call, reports(arrived("m1")))
        .await;
    assert_eq!(ended, Ok(EffectOutcome::Completed(result("done"))));
}
