//! Workers: created, listed, stopped, resumed, deleted; and the runtime as a whole.

use std::sync::Arc;

use runtime_core::{Classified, EventKind, RuntimeEvent, Tier, WorkerId, WorkerRef};
use runtime_store::Store;
use runtime_testkit::FaultStore;
use runtime_workers::{
    BundleReference, CapabilityRequest, Command, CreateWorker, ResourceReference, Runtime,
    RuntimeError, RuntimeLimits, RuntimeStatus, Severity, WhenBusy, WorkerIntent, WorkerProfile,
    WorkerReceipt, WorkerStatus, view,
};

use super::{Desk, GATED, GOLDEN, PLAIN, Place, approve_all, count, desk, ends, events};

fn request(worker: &str, request: &str) -> CreateWorker {
    let intent = WorkerIntent::Task {
        objective: "tidy up".to_owned(),
    };
    CreateWorker::new(worker.parse().unwrap(), request.parse().unwrap(), intent)
}

fn code<T: std::fmt::Debug>(answer: Result<T, runtime_workers::RuntimeError>) -> String {
    answer.unwrap_err().to_wire().code
}

/// The event that a receipt names must be where it says, and say what it says.
fn check_receipt(events: &[RuntimeEvent], receipt: &WorkerReceipt) {
    let event = &events[usize::try_from(receipt.position).unwrap() - 1];
    assert_eq!(event.id, receipt.event);
    let session = event.draft.session.as_ref().unwrap();
    assert_eq!(session.as_str(), receipt.worker.worker_id.as_str());
}

pub(crate) async fn w1_a_request_creates_one_worker(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open(place).await;
    let first = runtime.create(request("a", "r1")).await.unwrap();
    assert_eq!(first.status, WorkerStatus::Running);
    let before = events(runtime.store()).await.len();
    let again = runtime.create(request("a", "r1")).await.unwrap();
    let repeated = WorkerReceipt {
        repeated: true,
        ..first.clone()
    };
    assert_eq!(again, repeated);
    // The same request id for something else, and another request for the same worker.
    let other = runtime.create(request("b", "r1")).await;
    assert_eq!(code(other), "request_conflict");
    let other = runtime.create(request("a", "r2")).await;
    assert_eq!(code(other), "worker_exists");
    let events = events(runtime.store()).await;
    assert_eq!(events.len(), before);
    check_receipt(&events, &first);
    // A repetition long after answers with what the worker is by now.
    runtime.cancel(&"a".parse().unwrap(), None).await.unwrap();
    let late = runtime.create(request("a", "r1")).await.unwrap();
    assert_eq!(
        (late.event, late.status),
        (first.event, WorkerStatus::Cancelled)
    );
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_concurrent_requests_for_one_worker_have_one_winner(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open(place).await;
    let all = (0..8).map(|at| runtime.create(request("a", &format!("r{}", at % 4))));
    let answers = futures_util::future::join_all(all).await;
    let won: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().ok())
        .collect();
    assert!(won.iter().all(|receipt| receipt.event == won[0].event));
    assert_eq!(won.iter().filter(|receipt| !receipt.repeated).count(), 1);
    let lost = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(lost.clone().all(|error| error.code() == "worker_exists"));
    assert_eq!(won.len() + lost.count(), 8);
    let events = events(runtime.store()).await;
    assert_eq!(count(&events, &EventKind::WorkerCreated), 1);
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_workers_are_listed_in_pages(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open(place).await;
    let names: Vec<String> = (0..7).map(|at| format!("w{at}")).collect();
    for name in &names {
        runtime.create(request(name, name)).await.unwrap();
    }
    runtime
        .stop_worker(&"w3".parse().unwrap(), None)
        .await
        .unwrap();
    for limit in [1, 2, 3, 7, 100] {
        let mut listed: Vec<String> = Vec::new();
        let mut after: Option<WorkerId> = None;
        loop {
            let page = runtime.list(after.as_ref(), limit).await.unwrap();
            assert!(page.workers.len() <= limit);
            listed.extend(page.workers.iter().map(|worker| worker.id().to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, names);
    }
    assert_eq!(code(runtime.list(None, 0).await), "limit_zero");
    let summary = runtime.summary().await.unwrap();
    assert_eq!((summary.workers.running, summary.workers.stopped), (6, 1));
    assert_eq!(summary.diagnostics, 14);
    assert_eq!(summary.status, RuntimeStatus::Running);
    runtime.close().await.unwrap();
}

pub(crate) async fn w4_a_request_is_checked_before_anything_is_written(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open(place).await;
    let before = events(runtime.store()).await.len();
    let change = |change: fn(&mut CreateWorker)| {
        let mut request = request("a", "r");
        change(&mut request);
        request
    };
    let refused = [
        (
            "text_blank",
            change(|it| {
                it.intent = WorkerIntent::Task {
                    objective: " \n".into(),
                }
            }),
        ),
        (
            "text_blank",
            change(|it| {
                it.intent = WorkerIntent::Role {
                    role: String::new(),
                    purpose: None,
                }
            }),
        ),
        (
            "text_blank",
            change(|it| it.capabilities = vec![CapabilityRequest::new("\t")]),
        ),
        (
            "text_blank",
            change(|it| it.bundle = Some(BundleReference { id: " ".into() })),
        ),
        ("text_blank", change(|it| it.tenant = Some(String::new()))),
        (
            "text_blank",
            change(|it| it.profile = WorkerProfile::Named { name: " ".into() }),
        ),
        (
            "text_blank",
            change(|it| {
                it.mounts = vec![ResourceReference {
                    name: "home".into(),
                    reference: " ".into(),
                }]
            }),
        ),
        (
            "text_too_long",
            change(|it| {
                it.workspaces = vec![ResourceReference {
                    name: "home".into(),
                    reference: "x".repeat(4097),
                }]
            }),
        ),
        (
            "text_too_long",
            change(|it| {
                it.capabilities = vec![CapabilityRequest {
                    name: "files".into(),
                    reason: Some("x".repeat(101)),
                }]
            }),
        ),
        (
            "too_many",
            change(|it| it.capabilities = vec![CapabilityRequest::new("x"); 65]),
        ),
        (
            "profile_unknown",
            change(|it| {
                it.profile = WorkerProfile::Builtin {
                    name: "coder".into(),
                }
            }),
        ),
    ];
    for (wanted, request) in refused {
        let answer = runtime.create(request.clone()).await;
        assert_eq!(code(answer), wanted, "{request:?}");
    }
    assert_eq!(events(runtime.store()).await.len(), before);
    assert_eq!(runtime.list(None, 10).await.unwrap().workers, []);
    runtime.close().await.unwrap();

    let mut parts = world.parts(place.open().await);
    parts.limits = Some(RuntimeLimits {
        queue_max: 0,
        ..RuntimeLimits::default()
    });
    assert_eq!(code(Runtime::open(parts).await), "runtime_parts_unfit");
}

/// C7: parts that do not fit are refused before anything is written, all of them at once.
pub(crate) async fn c7_parts_that_do_not_fit_are_named_at_once(place: &dyn Place) {
    let world = Desk::new();
    let store = place.open().await;
    let mut parts = world.parts(std::sync::Arc::clone(&store));
    parts.tier_min = Tier::Replicated;
    parts.config.workflows.running_max = 0;
    parts.config.commit_attempts_max = 0;
    parts.limits = Some(RuntimeLimits {
        queue_max: 0,
        references_max: 0,
        ..RuntimeLimits::default()
    });
    let refused = Runtime::open(parts.clone()).await.unwrap_err();
    let RuntimeError::Parts { offending } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(offending.len(), 5, "{offending:?}");
    for part in [
        "store: ",
        "queue_max",
        "references_max",
        "running_max",
        "commit_attempts_max",
    ] {
        assert!(offending.iter().any(|text| text.contains(part)), "{part}");
    }
    assert_eq!(events(&*store).await.len(), 0);
    // Each alone is refused too.
    parts.limits = None;
    parts.config = Desk::config();
    assert_eq!(
        code(Runtime::open(parts.clone()).await),
        "runtime_parts_unfit"
    );
    parts.tier_min = store.capabilities().tier;
    let runtime = Runtime::open(parts).await.unwrap();
    runtime.close().await.unwrap();
}

pub(crate) async fn w4_a_request_without_bundle_or_capabilities_leaves_diagnostics(
    place: &dyn Place,
) {
    let world = Desk::new();
    let runtime = world.open(place).await;
    runtime.create(request("plain", "r1")).await.unwrap();
    let mut full = request("full", "r2");
    full.bundle = Some(BundleReference { id: "b".into() });
    full.capabilities = vec![
        CapabilityRequest::new("files"),
        CapabilityRequest::new("a b"),
    ];
    runtime.create(full).await.unwrap();
    let told = |worker: &'static str| {
        let runtime = &runtime;
        async move {
            let worker: WorkerId = worker.parse().unwrap();
            let told = runtime.diagnostics(Some(&worker)).await.unwrap();
            assert!(told.iter().all(|one| one.worker.as_ref() == Some(&worker)));
            told.into_iter()
                .map(|one| (one.severity, one.code))
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(
        told("plain").await,
        [
            (Severity::Info, "runtime.local_default_resources".to_owned()),
            (Severity::Info, "worker.tools_less".to_owned()),
        ]
    );
    let unavailable = (
        Severity::Warning,
        "worker.capability_unavailable".to_owned(),
    );
    assert_eq!(told("full").await, [unavailable.clone(), unavailable]);
    let events = events(runtime.store()).await;
    assert_eq!(count(&events, &EventKind::Diagnostic), 4);
    runtime.close().await.unwrap();
}

pub(crate) async fn w2_a_reference_of_another_runtime_is_refused(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let mut reference: WorkerRef = runtime.worker("desk").await.unwrap().reference().clone();
    runtime.attach(&reference).await.unwrap();
    reference.runtime_id = "another".parse().unwrap();
    assert_eq!(code(runtime.attach(&reference).await), "runtime_other");
    reference.runtime_id = runtime.id().clone();
    reference.worker_id = "nobody".parse().unwrap();
    assert_eq!(code(runtime.attach(&reference).await), "worker_unknown");
    runtime.close().await.unwrap();
}

pub(crate) async fn w2_each_change_of_status_answers_with_its_event(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    let mut receipts = Vec::new();
    for _ in 0..2 {
        let stopped = worker.stop(Some("pause".into())).await.unwrap();
        let again = worker.stop(Some("another reason".into())).await.unwrap();
        assert_eq!(
            again,
            WorkerReceipt {
                repeated: true,
                ..stopped.clone()
            }
        );
        assert_eq!(code(worker.send(PLAIN).await), "worker_not_running");
        let resumed = worker.resume().await.unwrap();
        assert_eq!(resumed.generation, stopped.generation + 1);
        assert!(worker.resume().await.unwrap().repeated);
        receipts.extend([stopped, resumed]);
    }
    let before = events(runtime.store()).await;
    assert_eq!(count(&before, &EventKind::WorkerStatusChanged), 4);
    for receipt in &receipts {
        check_receipt(&before, receipt);
    }
    assert_eq!(worker.ask(PLAIN).await.unwrap(), "Hello, hello!");
    let too_long = worker.stop(Some("x".repeat(101))).await;
    assert_eq!(code(too_long), "text_too_long");
    runtime.close().await.unwrap();
}

pub(crate) async fn w2_what_is_final_stays(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    // Of those that race, one wins; the others hear who.
    let (stop, cancel, delete) =
        tokio::join!(worker.stop(None), worker.cancel(None), worker.delete(None));
    drop((stop, cancel));
    assert_eq!(delete.unwrap().status, WorkerStatus::Deleted);
    for refused in [
        worker.stop(None).await,
        worker.resume().await,
        worker.cancel(None).await,
    ] {
        assert_eq!(code(refused), "worker_status_final");
    }
    assert!(worker.delete(None).await.unwrap().repeated);
    assert_eq!(code(worker.send(PLAIN).await), "worker_not_running");
    let made_again = runtime.create(request("desk", "again")).await;
    assert_eq!(code(made_again), "worker_exists");
    runtime.close().await.unwrap();

    let runtime = world.open(place).await;
    runtime.create(request("other", "other")).await.unwrap();
    let other = runtime.worker("other").await.unwrap();
    other.cancel(None).await.unwrap();
    assert_eq!(code(other.resume().await), "worker_status_final");
    other.delete(None).await.unwrap();
    runtime.close().await.unwrap();
}

pub(crate) async fn w6_a_stopped_worker_begins_nothing_and_goes_on_when_resumed(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.send(GATED).await.unwrap();
    world.gate.entered().await;
    worker.send(PLAIN).await.unwrap();
    worker.stop(None).await.unwrap();
    // What is under way ends and is recorded; then nothing begins.
    world.gate.pass(1);
    runtime.settled().await;
    assert_eq!(world.model_calls(), 1);
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.insist(&desk());
    runtime.settled().await;
    assert_eq!(world.model_calls(), 1);
    assert!(ends(&events(runtime.store()).await).is_empty());
    // Resumed, it goes on with what is recorded, and then with its queue.
    runtime.resume(&desk()).await.unwrap();
    runtime.settled().await;
    let events = events(runtime.store()).await;
    let ended: Vec<_> = ends(&events).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(ended, [EventKind::TurnCompleted, EventKind::TurnCompleted]);
    assert_eq!(world.model_calls(), 3);
    assert_eq!(count(&events, &EventKind::ToolCallFinished), 1);
    assert_eq!(count(&events, &EventKind::EffectInDoubt), 0);
    runtime.close().await.unwrap();
}

pub(crate) async fn w6_resuming_fences_the_turn_of_the_earlier_self(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.send(GATED).await.unwrap();
    world.gate.entered().await;
    // Stopped and resumed while the tool is at it: what that call gives is refused, and the call,
    // which is harmless, runs again.
    worker.stop(None).await.unwrap();
    worker.resume().await.unwrap();
    world.gate.pass(1);
    world.gate.entered().await;
    world.gate.pass(1);
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events).len(), 1);
    assert_eq!(count(&events, &EventKind::ToolCallFinished), 1);
    assert_eq!(world.model_calls(), 2);
    runtime.close().await.unwrap();
}

pub(crate) async fn w6_a_busy_worker_refuses_where_the_caller_chose_that(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    let id = || "mine".parse().unwrap();
    let worker = desk();
    let refuse = || runtime.submit_unless_busy(&worker, id(), PLAIN, WhenBusy::Refuse);
    assert_eq!(code(refuse().await), "worker_busy");
    approve_all(&runtime).await;
    runtime.settled().await;
    refuse().await.unwrap();
    runtime.settled().await;
    assert_eq!(ends(&events(runtime.store()).await).len(), 2);
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_a_deleted_worker_ends_its_turns_and_refuses_its_tokens(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    let token = runtime.pending().await.unwrap()[0].token.clone().unwrap();
    runtime.delete(&desk(), Some("gone".into())).await.unwrap();
    runtime.settled().await;
    assert_eq!(runtime.pending().await.unwrap(), []);
    let decision = runtime_turn::ApprovalDecision::Approve;
    let late = runtime
        .apply(Command::Decide {
            target: token,
            decision,
        })
        .await;
    assert!(late.is_err(), "{late:?}");
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCancelled);
    assert_eq!(world.ledger(), [] as [&str; 0]);
    // Its history stays.
    assert!(runtime.transcript(&desk(), 1, 10).await.unwrap().total > 0);
    runtime.close().await.unwrap();
}

pub(crate) async fn s6_a_purged_worker_leaves_places_and_no_words(place: &dyn Place) {
    const CANARY: &str = "canary-7f3a";
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let other = runtime.worker("other").await.unwrap();
    other.ask(PLAIN).await.unwrap();
    runtime.ask(&desk(), CANARY).await.unwrap();
    runtime
        .submit_system(&desk(), "s".parse().unwrap(), CANARY)
        .await
        .unwrap();
    assert_eq!(code(runtime.purge(&desk()).await), "worker_not_purgeable");
    runtime.delete(&desk(), Some(CANARY.into())).await.unwrap();
    runtime.settled().await;
    let before = events(runtime.store()).await;
    assert!(runtime.purge(&desk()).await.unwrap());
    assert!(!runtime.purge(&desk()).await.unwrap());
    runtime.close().await.unwrap();

    let runtime = world.open(place).await;
    let after = events(runtime.store()).await;
    assert!(!format!("{after:?}").contains(CANARY));
    for (was, is) in before.iter().zip(&after) {
        let erased = was
            .draft
            .session
            .as_ref()
            .is_some_and(|it| it.as_str() == "desk");
        assert_eq!((was.position, was.id), (is.position, is.id));
        assert_eq!(*is.kind() == EventKind::Erased, erased, "{was:?}");
    }
    // It is still known, so that nobody takes its place; the others are as they were.
    assert_eq!(
        code(runtime.create(request("desk", "new")).await),
        "worker_exists"
    );
    assert_eq!(runtime.transcript(&desk(), 1, 10).await.unwrap().total, 0);
    assert!(runtime.delete(&desk(), None).await.unwrap().repeated);
    assert_eq!(
        runtime.transcript(other.id(), 1, 10).await.unwrap().total,
        2
    );
    assert_eq!(
        runtime
            .worker("other")
            .await
            .unwrap()
            .ask(PLAIN)
            .await
            .unwrap(),
        "Hello, hello!"
    );
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_a_stopped_runtime_is_read_only_until_reopened(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    for name in ["a", "b", "c"] {
        runtime.create(request(name, name)).await.unwrap();
    }
    runtime.cancel(&"b".parse().unwrap(), None).await.unwrap();
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    let token = runtime.pending().await.unwrap()[0].token.clone().unwrap();
    let stopped = runtime.stop(Some("maintenance".into())).await.unwrap();
    assert_eq!((stopped.workers, stopped.repeated), (3, false));
    let again = runtime.stop(None).await.unwrap();
    assert_eq!(
        (again.event, again.workers, again.repeated),
        (stopped.event, 0, true)
    );
    let told = events(runtime.store()).await;
    // One for each worker that ran, one for the one that was cancelled before, one for the runtime.
    assert_eq!(count(&told, &EventKind::WorkerStatusChanged), 4);
    assert_eq!(count(&told, &EventKind::RuntimeStatusChanged), 1);
    runtime.close().await.unwrap();

    // It is the runtime that is stopped, not the instance.
    let runtime = world.open(place).await;
    let refused = [
        code(runtime.send(&desk(), PLAIN).await),
        code(runtime.create(request("d", "d")).await),
        code(runtime.resume(&desk()).await),
        code(runtime.cancel(&desk(), None).await),
        code(
            runtime
                .apply(Command::Resolve {
                    token,
                    resolution: runtime_core::Resolution::Cancelled,
                })
                .await,
        ),
    ];
    assert_eq!(refused, ["runtime_stopped"; 5].map(str::to_owned));
    assert_eq!(
        runtime.summary().await.unwrap().status,
        RuntimeStatus::Stopped
    );
    assert_eq!(runtime.list(None, 10).await.unwrap().workers.len(), 4);
    runtime.reopen().await.unwrap();
    assert!(runtime.reopen().await.unwrap().repeated);
    assert_eq!(
        code(runtime.send(&desk(), PLAIN).await),
        "worker_not_running"
    );
    runtime.resume(&desk()).await.unwrap();
    approve_all(&runtime).await;
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_what_is_stored_of_a_runtime_stays_unless_given(place: &dyn Place) {
    let world = Desk::new();
    let open = async |name: Option<&str>, queue: Option<u32>| {
        let mut parts = world.parts(place.open().await);
        parts.display_name = name.map(str::to_owned);
        parts.limits = queue.map(|queue_max| RuntimeLimits {
            queue_max,
            ..RuntimeLimits::default()
        });
        let runtime = Runtime::open(parts).await.unwrap();
        let summary = runtime.summary().await.unwrap();
        let told = runtime.diagnostics(None).await.unwrap();
        runtime.close().await.unwrap();
        let told: Vec<_> = told.into_iter().map(|one| one.code).collect();
        (summary.display_name, summary.limits.queue_max, told)
    };
    assert_eq!(open(None, None).await, (None, 1024, vec![]));
    let told = vec![
        "runtime.display_name_changed".to_owned(),
        "runtime.limits_changed".to_owned(),
    ];
    assert_eq!(
        open(Some("Ada"), Some(7)).await,
        (Some("Ada".into()), 7, told.clone())
    );
    assert_eq!(
        open(None, None).await,
        (Some("Ada".into()), 7, told.clone())
    );
    assert_eq!(
        open(Some("Ada"), Some(7)).await,
        (Some("Ada".into()), 7, told)
    );
}

pub(crate) async fn u3_a_runtime_that_was_not_closed_leaves_a_diagnostic(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.close().await.unwrap();
    let store: Arc<dyn Store> = FaultStore::new(place.open().await);
    let runtime = Runtime::open(world.parts(store)).await.unwrap();
    assert_eq!(runtime.diagnostics(None).await.unwrap().len(), 2);
    // Its store is let go, as by a process that ends; the runtime is never closed.
    runtime.store().close().await.unwrap();
    drop(runtime);
    let runtime = world.open(place).await;
    // At once, or on a shared store when this instance has looked at the others.
    for _ in 0..1_000 {
        let told = runtime.diagnostics(None).await.unwrap();
        if told.iter().any(|one| one.code == "runtime.not_closed") {
            break;
        }
        world.clock.advance(Desk::config().lease.look_every);
    }
    let told = runtime.diagnostics(None).await.unwrap();
    assert!(
        told.iter().any(|one| one.code == "runtime.not_closed"),
        "{told:?}"
    );
    assert_eq!(
        view::diagnostics(runtime.store(), Some(&desk()))
            .await
            .unwrap()
            .len(),
        2
    );
    runtime.close().await.unwrap();
}
