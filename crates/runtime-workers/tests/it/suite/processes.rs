//! Processes that belong to workers (E15): their wakes, turns that are processes, sub-agents.

use runtime_core::{
    EventKind, Message, ProcessEventType, ProcessId, ProcessInput, ProcessOutcome,
    ProcessRegistration, ProcessStatus, RecoveryDisposition, RuntimeEvent, SessionId, WorkerId,
};
use runtime_effects::{Functions, Subscription};
use runtime_workers::{
    Command, CommandAnswer, CreateWorker, Runtime, RuntimeParts, WorkerStatus, view,
};
use serde_json::{Value, json};

use super::{DELEGATED, Desk, GATED, MAIL, PLAIN, Place, count, desk, ends, events};

fn process(id: &str) -> ProcessId {
    id.parse().unwrap()
}

/// A process that waits for the signal `go`, tells its owner what it was given, and ends.
fn watch(id: &str) -> ProcessRegistration {
    let mut watch = ProcessRegistration::function(process(id), "watch", json!(id));
    watch.end_wakes = true;
    watch.declaring(ProcessEventType {
        name: "told".to_owned(),
        schema: None,
        wakes: true,
    })
}

fn turn_of(id: &str, worker: &WorkerId, text: &str) -> ProcessRegistration {
    let input = ProcessInput::SessionTurn {
        session: SessionId::from(worker),
        text: text.to_owned(),
    };
    ProcessRegistration::new(process(id), input)
}

async fn status(runtime: &Runtime, id: &str) -> ProcessStatus {
    let view = runtime.processes().get(&process(id)).await.unwrap();
    view.record.status
}

/// What the desk was told, in order.
fn inputs(events: &[RuntimeEvent]) -> Vec<String> {
    let accepted = events
        .iter()
        .filter(|event| *event.kind() == EventKind::InputAccepted)
        .filter(|event| event.draft.session.as_ref().map(SessionId::as_str) == Some("desk"));
    let messages = accepted.map(|event| event.draft.payload["message"].clone());
    let messages = messages.map(|message| serde_json::from_value::<Message>(message).unwrap());
    messages.map(|message| message.plain_text()).collect()
}

fn signal(id: &str, ordinal: Option<u64>, value: Value) -> Command {
    Command::SignalProcess {
        process: process(id),
        name: "go".to_owned(),
        ordinal,
        value,
    }
}

/// E15: a process outlives the runtime that started it; its wake event and its end become one
/// input each of the worker that holds it, whatever is opened and closed in between.
pub(crate) async fn e15_a_process_wakes_its_worker_once(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let desk_id = desk();
    runtime
        .start_process(&watch("w"), Some(&desk_id))
        .await
        .unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();

    let runtime = world.open(place).await;
    runtime.settled().await;
    assert_eq!(status(&runtime, "w").await, ProcessStatus::Running);
    let answer = runtime.apply(signal("w", Some(1), json!(7))).await.unwrap();
    assert_eq!(answer, CommandAnswer::Done);
    runtime.settled().await;
    // It has ended: a late signal is refused, and changes nothing.
    let late = runtime.apply(signal("w", Some(1), json!(8))).await;
    let late = runtime_core::Classified::to_wire(&late.unwrap_err());
    assert_eq!(late.code, "process_ended");
    assert_eq!(status(&runtime, "w").await, ProcessStatus::Succeeded);
    // Once more, to see that nothing comes twice.
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.settled().await;
    let told = events(runtime.store()).await;
    let heard = inputs(&told);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].contains("told told"), "{heard:?}");
    assert!(heard[1].contains("succeeded: 7"), "{heard:?}");
    assert_eq!(ends(&told).len(), 2);
    let left = runtime.processes().wakes(None, 10).await.unwrap();
    assert_eq!(left, []);
    runtime.close().await.unwrap();
}

/// E15: wakes of a stopped worker wait until it is resumed; those of one that is gone for good are
/// let go.
pub(crate) async fn e15_a_wake_waits_for_its_worker(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let desk_id = desk();
    for id in ["first", "second"] {
        let watch = watch(id);
        runtime.start_process(&watch, Some(&desk_id)).await.unwrap();
    }
    runtime.settled().await;
    runtime.stop_worker(&desk_id, None).await.unwrap();
    runtime
        .apply(signal("first", None, json!(1)))
        .await
        .unwrap();
    runtime.settled().await;
    assert_eq!(status(&runtime, "first").await, ProcessStatus::Succeeded);
    assert_eq!(inputs(&events(runtime.store()).await), [] as [&str; 0]);
    runtime.resume(&desk_id).await.unwrap();
    runtime.settled().await;
    assert_eq!(inputs(&events(runtime.store()).await).len(), 2);
    runtime.cancel(&desk_id, None).await.unwrap();
    runtime
        .apply(signal("second", None, json!(2)))
        .await
        .unwrap();
    runtime.settled().await;
    assert_eq!(inputs(&events(runtime.store()).await).len(), 2);
    assert_eq!(runtime.processes().wakes(None, 10).await.unwrap(), []);
    runtime.close().await.unwrap();
}

/// E15: an input of a session is a process that ends with its turn; starting it again is the same
/// turn.
pub(crate) async fn e15_a_turn_of_a_session_is_a_process(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let turn = turn_of("turn", &desk(), PLAIN);
    for _ in 0..2 {
        runtime.start_process(&turn, None).await.unwrap();
        runtime.settled().await;
    }
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let run = runtime.start_process(&turn, None).await.unwrap();
    let ended = run.ended().await.unwrap();
    let ProcessOutcome::Success { value } = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(value["text"], "Hello, hello!");
    let told = events(runtime.store()).await;
    assert_eq!(ends(&told).len(), 1);
    assert_eq!(value["turn"], json!(ends(&told)[0].0));
    assert_eq!(count(&told, &EventKind::InputAccepted), 1);
    // A worker that is not there is how it fails.
    let nobody: WorkerId = "nobody".parse().unwrap();
    let lost = turn_of("lost", &nobody, PLAIN);
    let run = runtime.start_process(&lost, None).await.unwrap();
    let ended = run.ended().await.unwrap();
    let ProcessOutcome::Failure { code, .. } = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(code, "worker_unknown");
    runtime.close().await.unwrap();
}

/// E9, E15: cancelling such a process ends its turn, not its worker.
pub(crate) async fn e9_cancelling_a_process_ends_its_turn(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let turn = turn_of("turn", &desk(), GATED);
    let run = runtime.start_process(&turn, None).await.unwrap();
    world.gate.entered().await;
    let cancel = Command::CancelProcess {
        process: process("turn"),
        reason: Some("enough".to_owned()),
    };
    let answer = runtime.apply(cancel.clone()).await.unwrap();
    assert_eq!(answer, CommandAnswer::Done);
    let ended = run.ended().await.unwrap();
    let ProcessOutcome::Cancelled { message, .. } = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(message, "enough");
    runtime.settled().await;
    let ended = ends(&events(runtime.store()).await);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].1, EventKind::TurnCancelled);
    let repeated = runtime.apply(cancel).await.unwrap();
    assert_eq!(repeated, CommandAnswer::AlreadyDone);
    let worker = view::worker(runtime.store(), &desk()).await.unwrap();
    assert_eq!(worker.status, WorkerStatus::Running);
    let worker = runtime.worker("desk").await.unwrap();
    assert_eq!(worker.ask(PLAIN).await.unwrap(), "Hello, hello!");
    runtime.close().await.unwrap();
}

/// E15: a sub-agent is a process that its caller's session holds; cancelled as one, its worker is
/// cancelled, and the caller hears of it and goes on.
pub(crate) async fn e15_a_sub_agent_is_a_process(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), DELEGATED).await.unwrap();
    world.gate.entered().await;
    let session = SessionId::from(&desk());
    let held = runtime.processes().held_by(&session).await.unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0].status, ProcessStatus::Running);
    let child: WorkerId = held[0].process.as_str().parse().unwrap();
    let cancel = Command::CancelProcess {
        process: held[0].process.clone(),
        reason: None,
    };
    runtime.apply(cancel).await.unwrap();
    runtime.settled().await;
    let child = view::worker(runtime.store(), &child).await.unwrap();
    assert_eq!(child.status, WorkerStatus::Cancelled);
    let told = events(runtime.store()).await;
    let ended = ends(&told);
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert_eq!(ended[0].1, EventKind::TurnCancelled);
    assert_eq!(ended[1].1, EventKind::TurnCompleted);
    let held = runtime.processes().held_by(&session).await.unwrap();
    assert_eq!(held[0].status, ProcessStatus::Cancelled);
    runtime.close().await.unwrap();
}

/// E15: deleting a worker ends its holds, and with them what is bound to its owner; other
/// processes go on.
pub(crate) async fn e15_a_deleted_worker_lets_its_processes_go(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let other: WorkerId = "other".parse().unwrap();
    runtime
        .create(CreateWorker::assistant(other.clone()))
        .await
        .unwrap();
    let desk_id = desk();
    let bound = watch("bound").with_disposition(RecoveryDisposition::OwnerBound);
    let bound = runtime.start_process(&bound, Some(&desk_id)).await.unwrap();
    let shared = watch("shared");
    runtime
        .start_process(&shared, Some(&desk_id))
        .await
        .unwrap();
    let session = SessionId::from(&other);
    let granted = runtime.processes().grant(&shared.process, &session).await;
    assert!(granted.unwrap());
    runtime.settled().await;
    let free = ProcessRegistration::function(process("free"), "hold", json!(true));
    runtime.start_process(&free, Some(&desk_id)).await.unwrap();
    world.gate.entered().await;
    runtime.delete(&desk_id, None).await.unwrap();
    let ended = bound.ended().await.unwrap();
    assert!(
        matches!(ended, ProcessOutcome::Cancelled { .. }),
        "{ended:?}"
    );
    assert_eq!(status(&runtime, "free").await, ProcessStatus::Running);
    world.gate.pass(1);
    runtime.settled().await;
    assert_eq!(status(&runtime, "free").await, ProcessStatus::Succeeded);
    assert_eq!(status(&runtime, "shared").await, ProcessStatus::Running);
    runtime.close().await.unwrap();
}

/// E15: an instance that does not know the function of a process leaves it as it is; it can still
/// be cancelled.
pub(crate) async fn e15_an_unknown_function_is_left_alone(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    for id in ["one", "two"] {
        runtime.start_process(&watch(id), None).await.unwrap();
    }
    runtime.settled().await;
    runtime.close().await.unwrap();
    let mut parts: RuntimeParts = world.parts(place.open().await);
    parts.functions = Functions::default();
    let runtime = Runtime::open(parts).await.unwrap();
    runtime.settled().await;
    let resumed = count(&events(runtime.store()).await, &EventKind::ProcessResumed);
    assert_eq!(resumed, 0);
    let unknown = runtime.start_process(&watch("three"), None).await;
    let unknown = runtime_core::Classified::to_wire(&unknown.unwrap_err());
    assert_eq!(unknown.code, "process_function_unknown");
    let cancel = Command::CancelProcess {
        process: process("two"),
        reason: None,
    };
    runtime.apply(cancel).await.unwrap();
    runtime.apply(signal("one", None, json!(3))).await.unwrap();
    runtime.settled().await;
    assert_eq!(status(&runtime, "two").await, ProcessStatus::Cancelled);
    assert_eq!(status(&runtime, "one").await, ProcessStatus::Running);
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.settled().await;
    assert_eq!(status(&runtime, "one").await, ProcessStatus::Succeeded);
    runtime.close().await.unwrap();
}

/// E15: what a tool reports of the outside starts the subscribed processes, once for each
/// occurrence, also when it is reported again after a restart.
pub(crate) async fn e15_a_tool_starts_a_process_for_each_occurrence(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let subscription = Subscription {
        id: "sorting".parse().unwrap(),
        session: SessionId::from(&desk()),
        source_type: "mailbox".to_owned(),
        source_key: "desk".to_owned(),
        function: "sort".to_owned(),
        input: json!({}),
    };
    let subscribed = runtime.processes().subscribe(&subscription).await;
    assert!(subscribed.unwrap());
    runtime.send(&desk(), MAIL).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.send(&desk(), MAIL).await.unwrap();
    runtime.settled().await;
    let session = SessionId::from(&desk());
    let held = runtime.processes().held_by(&session).await.unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    let view = runtime.processes().get(&held[0].process).await.unwrap();
    let value = json!("somebody");
    assert_eq!(view.outcome, Some(ProcessOutcome::Success { value }));
    let told = events(runtime.store()).await;
    assert_eq!(count(&told, &EventKind::ProcessStarted), 1);
    assert_eq!(ends(&told).len(), 2);
    runtime.close().await.unwrap();
}
