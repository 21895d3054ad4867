//! Work outside a turn: jobs that are completed or given up, sub-agents, inputs that join.

use std::time::Duration;

use runtime_core::{EventDraft, EventKind, Resolution, WorkerId};
use runtime_effects::PendingKind;
use runtime_store::Commit;
use runtime_testkit::{Fault, FaultStore};
use runtime_workers::{Command, CreateWorker, Runtime, TurnRecord, TurnStatus, WorkerStatus, view};
use serde_json::json;

use super::{DELEGATED, Desk, GATED, JOB, PLAIN, POOR, Place, VITAL, count, desk, ends, events};

async fn words(runtime: &Runtime) -> String {
    let events = events(runtime.store()).await;
    let of_desk = ends(&events).into_iter();
    let mut last = None;
    for (turn, kind) in of_desk {
        let belongs = events.iter().any(|event| {
            event.draft.turn.as_ref() == Some(&turn)
                && event.draft.session.as_ref().map(|session| session.as_str()) == Some("desk")
        });
        if belongs {
            assert_eq!(kind, EventKind::TurnCompleted);
            last = Some(turn);
        }
    }
    runtime.answer(&desk(), &last.unwrap()).await.unwrap()
}

pub(crate) async fn t5_a_job_is_completed_by_its_key_from_another_process(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), JOB).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let waiting = runtime.pending().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].kind, PendingKind::Wait);
    assert_eq!(waiting[0].asks.as_deref(), Some("done?"));
    assert!(waiting[0].arguments.is_some());
    let resolve = Command::Resolve {
        token: waiting[0].token.clone().unwrap(),
        resolution: Resolution::Ok {
            value: json!("painted"),
        },
    };
    runtime.apply(resolve).await.unwrap();
    runtime.settled().await;
    assert_eq!(words(&runtime).await, "done: painted");
    assert_eq!(world.cancelled.lock().unwrap().len(), 0);
    runtime.close().await.unwrap();
}

pub(crate) async fn t5_a_job_that_is_late_is_an_error_result_or_fails_the_turn(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    for input in [JOB, VITAL] {
        runtime.send(&desk(), input).await.unwrap();
        runtime.settled().await;
        world.clock.advance(Duration::from_secs(60));
        runtime.insist(&desk());
        runtime.settled().await;
    }
    let events = events(runtime.store()).await;
    let kinds: Vec<_> = ends(&events).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, [EventKind::TurnCompleted, EventKind::TurnFailed]);
    let failed = events
        .iter()
        .find(|event| *event.kind() == EventKind::TurnFailed);
    let error = &failed.unwrap().draft.payload["error"];
    assert_eq!(error["code"], "tool_completion_timed_out");
    // Both jobs were told that nobody waits for them.
    assert_eq!(world.cancelled.lock().unwrap().len(), 2);
    runtime.close().await.unwrap();
}

pub(crate) async fn t5_a_cancelled_turn_tells_the_work_outside(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), JOB).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    // Another process cancels it: what is to be told is in the record.
    let runtime = world.open(place).await;
    runtime.apply(cancel(desk())).await.unwrap();
    runtime.settled().await;
    assert_eq!(world.cancelled.lock().unwrap().len(), 1);
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCancelled);
    runtime.close().await.unwrap();
}

fn cancel(worker: WorkerId) -> Command {
    Command::CancelWorker {
        worker,
        reason: None,
    }
}

async fn sub_agent(runtime: &Runtime) -> WorkerId {
    let workers = view::workers(runtime.store()).await.unwrap();
    let mut children = workers
        .into_iter()
        .filter(|worker| worker.request.parent.is_some());
    let child = children.next().expect("a sub-agent");
    assert!(children.next().is_none(), "one sub-agent only");
    child.id().clone()
}

/// E9, T1: a sub-agent is a worker of its own with a budget of its own; its caller parks, and
/// hears of it in another process.
pub(crate) async fn t2_a_sub_agent_answers_its_caller_across_a_restart(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), DELEGATED).await.unwrap();
    world.gate.entered().await;
    let child = sub_agent(&runtime).await;
    let events_now = events(runtime.store()).await;
    let started = events_now.iter().find(|event| {
        *event.kind() == EventKind::TurnStarted
            && event.draft.session.as_ref().map(|session| session.as_str()) == Some(child.as_str())
    });
    let budgets = &started.unwrap().draft.payload["budgets"];
    assert_eq!(budgets["tokens_max"], 5_000);
    // The process ends while the sub-agent works and its caller is parked.
    let is_parked = |turn: &TurnRecord| matches!(turn.status, TurnStatus::Parked { .. });
    let turns = async || view::unfinished_turns(runtime.store(), Some(&desk())).await;
    while !turns().await.unwrap().iter().all(is_parked) {
        tokio::task::yield_now().await;
    }
    let closing = runtime.clone();
    let closed = tokio::spawn(async move { closing.close().await.unwrap() });
    while !closed.is_finished() {
        // What has parked gets to rest before the drain is over.
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.clock.advance(Desk::config().drain_timeout / 50);
    }
    assert_eq!(closed.await.unwrap().interrupted, 1);
    world.gate.pass(2);
    let runtime = world.open(place).await;
    runtime.settled().await;
    assert_eq!(words(&runtime).await, "done: there are 3");
    assert_eq!(sub_agent(&runtime).await, child);
    let events = events(runtime.store()).await;
    assert_eq!(count(&events, &EventKind::WorkerCreated), 2);
    assert_eq!(ends(&events).len(), 2);
    // What the sub-agent spent is spent by its caller too.
    let caller = view::worker(runtime.store(), &desk()).await.unwrap();
    let child = view::worker(runtime.store(), &child).await.unwrap();
    assert!(child.usage.total() > 0);
    assert!(caller.usage.total() > child.usage.total());
    runtime.close().await.unwrap();
}

pub(crate) async fn e9_cancelling_a_caller_cancels_its_sub_agent(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), DELEGATED).await.unwrap();
    world.gate.entered().await;
    let child = sub_agent(&runtime).await;
    runtime.apply(cancel(desk())).await.unwrap();
    runtime.settled().await;
    let child = view::worker(runtime.store(), &child).await.unwrap();
    assert_eq!(child.status, WorkerStatus::Cancelled);
    assert_eq!(child.unfinished, 0);
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    assert_eq!(ends.len(), 2);
    assert!(
        ends.iter()
            .all(|(_, kind)| *kind == EventKind::TurnCancelled)
    );
    runtime.close().await.unwrap();
}

/// T1: what is set aside for a sub-agent bounds it; spent, its caller reads why, and goes on.
pub(crate) async fn t1_a_sub_agent_over_its_budget_is_an_error_that_its_caller_reads(
    place: &dyn Place,
) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let turn = runtime.send(&desk(), POOR).await.unwrap().turn;
    runtime.settled().await;
    let answer = runtime.answer(&desk(), &turn).await.unwrap();
    assert!(
        answer.starts_with("done: the sub-agent failed: budget_tokens_exhausted"),
        "{answer}"
    );
    let child = view::worker(runtime.store(), &sub_agent(&runtime).await).await;
    let caller = view::worker(runtime.store(), &desk()).await.unwrap();
    // Its only answer, and the two of its caller.
    assert_eq!(child.unwrap().usage.total() * 3, caller.usage.total());
    runtime.close().await.unwrap();
}

/// E9: the caller is parked for its sub-agent and its process is gone; whoever cancels it from
/// another process ends both, and the sub-agent's work is not taken up again.
pub(crate) async fn e9_cancelling_a_parked_caller_in_another_process_cancels_its_sub_agent(
    place: &dyn Place,
) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), DELEGATED).await.unwrap();
    world.gate.entered().await;
    let child = sub_agent(&runtime).await;
    let closing = runtime.clone();
    let closed = tokio::spawn(async move { closing.close().await.unwrap() });
    while !closed.is_finished() {
        world.clock.advance(Desk::config().drain_timeout);
        tokio::task::yield_now().await;
    }
    closed.await.unwrap();

    let mut parts = world.parts(place.open().await);
    parts.resume = false;
    let runtime = Runtime::open(parts).await.unwrap();
    let calls = world.model_calls();
    runtime.apply(cancel(desk())).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.settled().await;
    let child = view::worker(runtime.store(), &child).await.unwrap();
    assert_eq!(child.status, WorkerStatus::Cancelled);
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    assert_eq!(ends.len(), 2);
    assert!(
        ends.iter()
            .all(|(_, kind)| *kind == EventKind::TurnCancelled)
    );
    assert_eq!(world.model_calls(), calls);
    runtime.close().await.unwrap();
}

/// E3: an input that came while a turn ran joins it once, whether the process dies before or after
/// the checkpoint is stored.
pub(crate) async fn e3_queued_inputs_join_once_wherever_the_process_dies(place: &dyn Place) {
    let mut world = Desk::new();
    world.inputs_join = true;
    for (number, fault) in [Fault::CrashBefore, Fault::CrashAfter]
        .into_iter()
        .enumerate()
    {
        let store = FaultStore::new(place.open().await);
        let joins = |commit: &Commit| {
            let first = commit.events.first();
            first.is_some_and(|event| {
                EventDraft::from_bytes(&event.body).unwrap().kind == EventKind::InputsJoined
            })
        };
        store.fault_when(joins, 1, fault);
        let runtime = Runtime::open(world.parts(store.clone())).await.unwrap();
        let worker: WorkerId = format!("desk-{number}").parse().unwrap();
        runtime
            .create(CreateWorker::assistant(worker.clone()))
            .await
            .unwrap();
        let first = runtime.send(&worker, GATED).await.unwrap();
        world.gate.entered().await;
        let second = runtime.send(&worker, PLAIN).await.unwrap();
        world.gate.pass(1);
        runtime.settled().await;
        assert!(store.is_crashed());
        let _ = runtime.close().await;
        drop((runtime, store));

        let runtime = world.open(place).await;
        runtime.settled().await;
        let events = events(runtime.store()).await;
        let of_worker = |event: &&runtime_core::RuntimeEvent| {
            event.draft.session.as_ref().map(|session| session.as_str()) == Some(worker.as_str())
        };
        let of_worker: Vec<_> = events.iter().filter(of_worker).cloned().collect();
        assert_eq!(count(&of_worker, &EventKind::TurnStarted), 1, "{fault:?}");
        let ended: Vec<_> = ends(&of_worker).into_iter().map(|(turn, _)| turn).collect();
        assert_eq!(
            ended,
            [first.turn.clone(), second.turn.clone()],
            "{fault:?}"
        );
        for turn in [&first.turn, &second.turn] {
            let words = runtime.answer(&worker, turn).await.unwrap();
            assert_eq!(words, "Hello, hello!");
        }
        runtime.close().await.unwrap();
    }
}

/// E3: what comes while a turn runs joins it at its checkpoint, once; both turns end.
pub(crate) async fn e3_queued_inputs_join_a_running_turn(place: &dyn Place) {
    let mut world = Desk::new();
    world.inputs_join = true;
    let runtime = world.open_worker(place).await;
    let first = runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    let second = runtime.send(&desk(), PLAIN).await.unwrap();
    world.gate.pass(1);
    runtime.settled().await;
    let events = events(runtime.store()).await;
    // Two checkpoints: one where the input joins, one where nothing does.
    assert_eq!(count(&events, &EventKind::InputsJoined), 2);
    assert_eq!(count(&events, &EventKind::TurnStarted), 1);
    let ends = ends(&events);
    assert_eq!(ends.len(), 2);
    assert_eq!((&ends[0].0, &ends[1].0), (&first.turn, &second.turn));
    let both = [&first.turn, &second.turn];
    for turn in both {
        let words = runtime.answer(&desk(), turn).await.unwrap();
        assert_eq!(words, "Hello, hello!");
    }
    super::check_context(&runtime).await;
    let worker = view::worker(runtime.store(), &desk()).await.unwrap();
    assert_eq!(worker.unfinished, 0);
    runtime.close().await.unwrap();
}
