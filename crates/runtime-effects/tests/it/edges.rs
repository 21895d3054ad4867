//! What the laws leave out, on the store in memory: bounds, drops and errors.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Classified, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, ErrorClass,
    EventDraft, EventKind, ProcessAnswer, ProcessId, ProcessOutcome, ProcessRegistration,
    ReplayKey, Resolution, RetryPolicy, Timestamp, WaitIdentity, WaitOutput, WaitSource, WireError,
};
use runtime_effects::{
    Applied, Beat, ConflictRuling, EffectHost, Interrupt, LeaseConfig, LeaseError, LeaseKeeper,
    ProcessError, ProcessLimits, ProcessOperation, Processes, Projection, Projector,
    PromiseDeadline, ResolveAnswer, Revocation, RulingAnswer, ScopeOpening, TokenRights,
    UnfinishedEffect,
};
use runtime_store::{Commit, Guard, Page, RowChange, RowKey, RowQuery, Store};
use runtime_testkit::SeededRandom;
use runtime_testkit::effect_laws::{
    Runs, World, custom, desk, failure, fresh_id, patient, result, tool_call, turn, wait_for,
};
use serde_json::json;

use crate::laws::Memory;

pub(crate) fn keeper(world: &World<'_>, seed: u64, config: LeaseConfig) -> LeaseKeeper {
    let (clock, random) = (world.clock.clone(), SeededRandom::new(seed));
    let store = Arc::clone(&world.store) as _;
    let keeper = LeaseKeeper::new(store, Arc::new(clock), Arc::new(random), config);
    keeper.expect("the terms fit")
}

pub(crate) fn id(name: &str) -> ProcessId {
    name.parse().expect("legal")
}

pub(crate) fn order(name: &str) -> ProcessRegistration {
    ProcessRegistration::function(id(name), "order", json!(1))
}

pub(crate) fn success(value: u32) -> ProcessOutcome {
    ProcessOutcome::Success {
        value: json!(value),
    }
}

pub(crate) async fn processes(world: &World<'_>, limits: ProcessLimits) -> Processes {
    world.host().processes(limits).await.expect("opens")
}

/// C3, E15: an error of a process says its facts, and what failed below keeps its own code.
#[test]
fn e15_an_error_of_a_process_says_its_facts() {
    let large = ProcessError::TooLarge {
        what: "event",
        size: 9,
        max: 8,
    };
    let facts = json!({ "what": "event", "size": 9, "max": 8 });
    assert_eq!(large.to_wire().details, Some(facts));
    let (name, reasons) = ("progress".to_owned(), vec!["at /a".to_owned()]);
    let payload = ProcessError::EventPayload { name, reasons };
    let facts = json!({ "event_type": "progress", "reasons": ["at /a"] });
    assert_eq!(payload.details(), Some(facts));
    let below = WireError {
        details: Some(json!(7)),
        ..WireError::new("effect_in_doubt", ErrorClass::Conflict, "parked")
    };
    let error = ProcessError::from(below.clone());
    assert_eq!((error.details(), error.to_wire()), (Some(json!(7)), below));
    assert_eq!(ProcessError::OrdinalZero.details(), None);
}

/// E5, E7: what was begun and has not ended is listed, by key; what has ended has its outcome.
#[tokio::test]
async fn e7_what_was_begun_and_has_not_ended_is_listed() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::from_millis(50);
    let (scope, host) = (desk(), world.host());
    let controller = world.open(&host, &scope).await;
    let done = tool_call(&scope, 0, "read");
    let ended = controller.execute_effect(done.clone(), Runs::default().succeeds("done"));
    ended.await.expect("runs");
    let busy = Runs::default().answers(|_| Err(failure(ErrorClass::Busy, Applied::No)));
    let paused = tool_call(&scope, 1, "write").with_policy(patient(3));
    controller
        .execute_effect(paused, busy)
        .await
        .expect_err("parks");
    let hangs = tool_call(&scope, 2, "pay");
    {
        let running = controller.execute_effect(hangs.clone(), Runs::default().hangs());
        assert!(world.stands_still(pin!(running)).await);
    }
    let listed = UnfinishedEffect::all_of(&*world.store, &scope.scope_id()).await;
    let listed = listed.expect("reads");
    let told = listed.iter().map(|effect| {
        let tool = effect.tool.as_deref().expect("is a call");
        (
            tool,
            effect.attempts,
            effect.next_attempt.is_some(),
            effect.error.is_some(),
        )
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [("write", 1, true, true), ("pay", 1, false, false)]
    );
    for (key, ended) in [(done.key(), true), (hangs.key(), false)] {
        let outcome = host.recorded_outcome(&scope.scope_id(), key).await;
        assert_eq!(outcome.expect("reads").is_some(), ended, "{key}");
    }
}

/// E10: a promise is settled with the commit of somebody else, once, and its waiter is told.
#[tokio::test]
async fn e10_a_promise_is_settled_with_the_commit_of_somebody_else() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, identity, host) = (desk(), custom("answer"), world.host());
    let promises = host.await_events().await.expect("loads");
    let controller = world.open(&host, &scope).await;
    let mut waiting = pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    assert!(
        !promises
            .is_resolved(&scope, &identity)
            .await
            .expect("reads")
    );
    let resolution = Resolution::Ok {
        value: json!("yes"),
    };
    let empty = || Commit::new(fresh_id(), Timestamp::from_millis(2));
    let is_early = |commit: &Commit| {
        let rows = commit.rows.iter();
        rows.filter(
            |row| matches!(row, RowChange::Put { key, .. } if &*key.space == "promise_early"),
        )
        .count()
    };
    let settles = promises
        .resolve_in(empty(), &scope, &identity, &resolution)
        .await;
    let (commit, settles) = settles.expect("decides");
    assert_eq!((settles, is_early(&commit)), (true, 0), "it is waited for");
    world.store.commit(commit).await.expect("commits");
    promises.announce_resolved(&scope, &identity);
    // Without the bell it parks as soon as time moves.
    let seen = EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution: resolution.clone(),
    });
    assert_eq!(
        world.drive(waiting).await,
        Ok(EffectOutcome::Completed(seen))
    );
    assert!(
        promises
            .is_resolved(&scope, &identity)
            .await
            .expect("reads")
    );
    let again = promises
        .resolve_in(empty(), &scope, &identity, &resolution)
        .await;
    let (commit, settles) = again.expect("decides");
    assert!(!settles && commit.rows.is_empty(), "{commit:?}");
    let early = promises
        .resolve_in(empty(), &scope, &custom("other"), &resolution)
        .await;
    let (commit, settles) = early.expect("decides");
    assert_eq!(
        (settles, is_early(&commit)),
        (true, 1),
        "nobody waits for it"
    );
}

/// E9: an opening that is over is not cancelled any more, and takes no other one with it.
#[tokio::test]
async fn e9_an_opening_that_is_over_leaves_the_others() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, host) = (desk(), world.host());
    {
        let earlier = world.open(&host, &scope).await;
        let later = world.open(&host, &scope).await;
        drop(earlier);
        let mut waiting = pin!(later.wait_any(wait_for(&scope, &custom("answer"), None)));
        assert!(world.stands_still(waiting.as_mut()).await);
        assert!(host.cancel_scope(&scope.scope_id()));
        assert_eq!(world.drive(waiting).await, Err(Interrupt::Cancelled));
    }
    assert!(!host.cancel_scope(&scope.scope_id()), "none is open");
}

/// E14: who stops waiting takes no other waiter with it.
#[tokio::test]
async fn e14_a_dropped_wait_leaves_the_others() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    table.start(&order("p"), None).await.expect("starts");
    let (p, never) = (id("p"), std::future::pending::<()>);
    let mut first = Box::pin(table.ended(&p, None, never()));
    let mut second = Box::pin(table.ended(&p, None, never()));
    assert!(world.stands_still(first.as_mut()).await && world.stands_still(second.as_mut()).await);
    drop(first);
    let claim = table.claim(&p).await.expect("is there");
    table.end(&claim, &success(7)).await.expect("ends");
    assert_eq!(world.drive(second).await.expect("ended"), success(7));
}

/// E6: pauses are spread by a tenth either way.
#[tokio::test]
async fn e6_pauses_are_spread_by_a_tenth_either_way() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::ZERO;
    let mut pauses = Vec::new();
    for number in 0..32 {
        // Each has a seed of its own.
        let (scope, host) = (turn("desk", &number.to_string()), world.host());
        let controller = world.open(&host, &scope).await;
        let busy = Runs::default().answers(|_| Err(failure(ErrorClass::Busy, Applied::No)));
        let envelope = tool_call(&scope, 0, "write").with_policy(patient(3));
        let parked = controller.execute_effect(envelope, busy).await;
        let Err(Interrupt::Suspended { due: Some(due), .. }) = parked else {
            panic!("{parked:?}");
        };
        pauses.push(due.since(world.now()).as_millis());
    }
    pauses.sort_unstable();
    let (shortest, longest) = (pauses[0], pauses[31]);
    assert!(
        (90..100).contains(&shortest) && (101..=110).contains(&longest),
        "{pauses:?}"
    );
}

/// E6, E9: without a pause nothing parks.
#[tokio::test]
async fn e6_an_attempt_that_need_not_pause_does_not_park() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (scope, host, runs) = (desk(), world.host(), Runs::default());
    let controller = world.open(&host, &scope).await;
    let at_once = RetryPolicy {
        backoff_initial: Duration::ZERO,
        backoff_max: Duration::ZERO,
        ..patient(2)
    };
    let executor = runs.answers(|run| match run {
        1 => Err(failure(ErrorClass::Busy, Applied::No)),
        _ => Ok(result("done")),
    });
    let envelope = tool_call(&scope, 0, "write").with_policy(at_once);
    let ended = world
        .drive(controller.execute_effect(envelope, executor))
        .await;
    assert_eq!(ended, Ok(EffectOutcome::Completed(result("done"))));
}

/// E10, E16: what has the longest size is taken, one byte more is not.
#[tokio::test]
async fn e16_what_has_the_longest_size_is_taken() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.next_epoch(&desk()).await;
    let resolution = Resolution::Ok {
        value: json!("yes"),
    };
    let registration = order("p");
    let bytes = serde_json::to_vec(&resolution)
        .expect("is plain data")
        .len();
    let registered = serde_json::to_vec(&registration)
        .expect("is plain data")
        .len();
    for (less, is_taken) in [(1, false), (0, true)] {
        world.limits.resolution_bytes_max = bytes - less;
        let promises = world.promises().await;
        let resolved = promises
            .resolve_identity(&desk(), &custom("a"), resolution.clone(), None)
            .await;
        assert_eq!(resolved.is_ok(), is_taken, "{resolved:?}");
        let limits = ProcessLimits {
            registration_bytes_max: registered - less,
            ..ProcessLimits::default()
        };
        let started = processes(&world, limits)
            .await
            .start(&registration, None)
            .await;
        assert_eq!(started.is_ok(), is_taken, "{started:?}");
    }
}

/// E1, E10: a legal signal has a token; a store that cannot be read is told, not taken for a
/// forged token.
#[tokio::test]
async fn e10_a_store_that_cannot_be_read_is_no_forged_token() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    world.next_epoch(&desk()).await;
    let promises = world.promises().await;
    let signal = WaitIdentity::ProcessSignal {
        process: id("p"),
        name: "go_on-1".into(),
        ordinal: 1,
    };
    promises
        .mint(&desk(), &signal, TokenRights::ALL, None)
        .await
        .expect("is legal");
    let token = promises
        .mint(&desk(), &custom("a"), TokenRights::ALL, None)
        .await
        .expect("mints");
    let yes = || Resolution::Ok {
        value: json!("yes"),
    };
    world.store.fail_reads(1);
    let unread = promises.resolve(token.expose(), yes(), None).await;
    assert_eq!(
        unread.expect_err("cannot be read").code(),
        "store_read_unavailable"
    );
    let answer = promises.resolve(token.expose(), yes(), None).await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::Accepted);
}

/// E5: what is given back is free at once and not told as expired; who is silent expires; nobody
/// declares itself dead.
#[tokio::test]
async fn e5_a_lease_that_is_given_back_frees_what_it_held() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let [leaving, idle, silent, other] =
        [1, 2, 3, 4].map(|seed| keeper(&world, seed, LeaseConfig::default()));
    for keeper in [&leaving, &idle, &silent, &other] {
        assert_eq!(keeper.beat().await.expect("registers"), Beat::Registered);
    }
    let name = |keeper: &LeaseKeeper| keeper.lease().instance().expect("holds a lease");
    let (left, expired) = (name(&leaving), name(&silent));
    let scope = desk().scope_id();
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(1));
    let commit = commit.guard(Guard::Absent(RowKey::epoch(scope.clone())));
    let (commit, _) = leaving
        .lease()
        .opens(commit, &scope)
        .expect("holds a lease");
    world.store.commit(commit).await.expect("commits");
    assert_eq!(other.living().await.expect("reads").len(), 3);
    assert!(other.is_alive(Some(&left)).await.expect("reads"));
    leaving.give_back().await.expect("gives back");
    idle.give_back().await.expect("gives back");
    let living = other.living().await.expect("reads");
    assert_eq!(living, std::slice::from_ref(&expired));
    assert_eq!(
        other.look().await.expect("looks"),
        std::slice::from_ref(&left),
        "nothing is left of who held nothing"
    );
    assert_eq!(
        other.held_by(&left, None).await.expect("reads").scopes,
        [scope]
    );
    assert!(!other.has_expired(&left).await.expect("reads"));
    assert!(!other.is_alive(Some(&left)).await.expect("reads"));
    assert!(!other.bury(&left).await.expect("reads"), "a scope is left");
    // It does not beat either, but it does not take itself for dead.
    world.clock.advance(Duration::from_secs(10));
    let dead = other.look().await.expect("looks");
    assert!(
        dead.contains(&expired) && dead.contains(&left) && dead.len() == 2,
        "{dead:?}"
    );
    assert!(other.has_expired(&expired).await.expect("reads"));
}

/// E5: a keeper waits its terms between two beats, and a sixth after one that failed.
#[tokio::test]
async fn e5_a_failed_beat_is_tried_again_sooner() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let config = LeaseConfig {
        renew_every: Duration::from_millis(600),
        ..LeaseConfig::default()
    };
    let keeper = keeper(&world, 1, config);
    assert_eq!(keeper.config(), &config);
    assert_eq!(keeper.pause(&Ok(Beat::Renewed)), Duration::from_millis(600));
    assert_eq!(
        keeper.pause(&Err(LeaseError::Lost)),
        Duration::from_millis(100)
    );
}

/// Three events for each outcome.
#[derive(Debug)]
struct Chatty;

impl Projector for Chatty {
    fn outcome(&self, effect: &EffectEnvelope, _: &EffectOutcome) -> Projection {
        let told = |kind| EventDraft::new(kind).in_scope(effect.scope());
        Projection {
            carrier: told(EventKind::EffectFinished),
            further: vec![told(EventKind::WaitStarted), told(EventKind::WaitEnded)],
        }
    }

    fn started(&self, effect: &EffectEnvelope) -> Projection {
        let carrier = EventDraft::new(EventKind::EffectStarted).in_scope(effect.scope());
        Projection {
            carrier,
            further: Vec::new(),
        }
    }
}

/// E1: an outcome is told by several events of one commit, each with an id of its own.
#[tokio::test]
async fn e1_an_outcome_is_told_by_several_events() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, host) = (desk(), world.host());
    let opening = ScopeOpening::new(
        scope.clone(),
        world.next_epoch(&scope).await,
        Arc::new(Chatty),
    );
    let controller = host.scoped(opening).expect("opens");
    let envelope = tool_call(&scope, 0, "read").retry_safe(true);
    let ended = controller.execute_effect(envelope, Runs::default().succeeds("done"));
    ended.await.expect("runs");
    assert_eq!(
        world.kinds().await,
        ["effect_finished", "wait_started", "wait_ended"]
    );
}

/// E4: a batch whose record was set aside runs anew, also what must not run twice.
#[tokio::test]
async fn e4_a_batch_that_was_set_aside_runs_anew() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (scope, host) = (desk(), world.host());
    let batch = async |tool: &str| {
        let controller = world.open(&host, &scope).await;
        let item = |ordinal| {
            (
                tool_call(&scope, ordinal, tool),
                Runs::default().succeeds("ran"),
            )
        };
        controller.execute_batch((0..2).map(item).collect()).await
    };
    let ran = || Ok(EffectOutcome::Completed(result("ran")));
    assert_eq!(batch("write").await, [ran(), ran()]);
    assert!(
        batch("erase")
            .await
            .iter()
            .all(|found| matches!(found, Err(Interrupt::Conflict(_))))
    );
    let key = ReplayKey::turn(1, EffectKind::ToolCall, 0);
    let ruled = host
        .rule_conflict(&scope.scope_id(), &key, ConflictRuling::Fork, None)
        .await;
    assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
    assert_eq!(batch("erase").await, [ran(), ran()]);
}

/// E8: an absolute time ends a wait, and the wait for a process.
#[tokio::test]
async fn e8_an_absolute_time_ends_a_wait() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::from_secs(3_600);
    let (scope, host) = (desk(), world.host());
    let controller = world.open(&host, &scope).await;
    let due = world.now().after(Duration::from_secs(60));
    let key = ReplayKey::turn(1, EffectKind::AwaitEvent, 0);
    let command = EffectCommand::AwaitEvent {
        sources: vec![WaitSource::Until { due }],
    };
    let wait = EffectEnvelope::new(scope.clone(), key, command).expect("consistent");
    let elapsed = EffectOutput::AwaitEvent(WaitOutput::Elapsed { source: 0, due });
    assert_eq!(
        world.drive(controller.wait_any(wait)).await,
        Ok(EffectOutcome::Completed(elapsed))
    );
    assert_eq!(world.now(), due);
    let table = host
        .processes(ProcessLimits::default())
        .await
        .expect("opens");
    table.start(&order("p"), None).await.expect("starts");
    let due = due.after(Duration::from_secs(60));
    let operation = ProcessOperation::Await {
        process: id("p"),
        until: Some(due),
    };
    let key = ReplayKey::turn(1, EffectKind::Process, 0);
    let late = world
        .drive(table.execute(&*controller, &scope, key, operation))
        .await;
    let answer = EffectOutput::Process(ProcessAnswer::WaitTimedOut { due });
    assert_eq!(late, Ok(EffectOutcome::Completed(answer)));
}

/// E11: a wait parks until its promise settles by itself; a deadline that settles nothing any more
/// is forgotten.
#[tokio::test]
async fn e11_a_wait_parks_until_the_deadline_of_its_promise() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (scope, identity, host) = (desk(), custom("answer"), world.host());
    let promises = host.await_events().await.expect("loads");
    let controller = world.open(&host, &scope).await;
    let at = world.now().after(Duration::from_secs(60));
    let deadline = PromiseDeadline {
        at,
        resolution: Resolution::Timeout,
    };
    promises
        .settle_at(&scope, &identity, &deadline)
        .await
        .expect("sets");
    let parked = controller.wait_any(wait_for(&scope, &identity, None)).await;
    assert!(
        matches!(parked, Err(Interrupt::Suspended { due: Some(due), .. }) if due == at),
        "{parked:?}"
    );
    let revoked = promises.revoke(Revocation::Scope(scope), None).await;
    assert!(revoked.expect("revokes"));
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(
        promises.settle_due(world.now(), 8).await.expect("sweeps"),
        0
    );
    let left = world
        .store
        .rows(RowQuery::space("promise_deadline"), Page::after(None, 8))
        .await;
    assert_eq!(left.expect("reads").rows, []);
}
