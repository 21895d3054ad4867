//! Opening and closing.

use runtime_core::{Classified, EventKind};
use runtime_store::Store;
use runtime_testkit::FaultStore;
use runtime_turn::Conversation;
use runtime_workers::{CloseReport, OtherDeployment, ParkReason, Runtime, TurnStatus, view};

use super::{
    Desk, GATED, GOLDEN, PLAIN, Place, approve_all, count, desk, ends, events, keeps_lease,
};

pub(crate) async fn u3_closing_drains_reports_and_can_be_repeated(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    let closing = runtime.clone();
    let first = tokio::spawn(async move { closing.close().await.unwrap() });
    let closing = runtime.clone();
    let second = tokio::spawn(async move { closing.close().await.unwrap() });
    loop {
        let refused = runtime.send(&desk(), PLAIN).await;
        if refused.is_err_and(|error| error.code() == "runtime_closed") {
            break;
        }
        tokio::task::yield_now().await;
    }
    // The tool does not end, so its turn is interrupted once the patience is over.
    while !first.is_finished() {
        world.clock.advance(Desk::config().drain_timeout);
        tokio::task::yield_now().await;
    }
    let report = first.await.unwrap();
    assert_eq!((report.interrupted, report.failures.len()), (1, 0));
    assert_eq!(second.await.unwrap(), report);
    assert_eq!(runtime.close().await.unwrap(), report);

    // What was interrupted goes on.
    world.gate.pass(1);
    let runtime = world.open(place).await;
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCompleted);
    assert_eq!(count(&events, &EventKind::RuntimeClosed), 1);
    assert_eq!(runtime.close().await.unwrap().interrupted, 0);
}

pub(crate) async fn e9_opening_writes_nothing_for_a_turn_that_only_waits(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
    for _ in 0..3 {
        let store = FaultStore::new(place.open().await);
        let runtime = Runtime::open(world.parts(store.clone())).await.unwrap();
        runtime.insist(&desk());
        runtime.settled().await;
        let commits = store.record();
        let told = commits.iter().filter(|one| !keeps_lease(&one.commit));
        assert_eq!(told.count(), 1);
        runtime.close().await.unwrap();
    }
    // What was answered while nobody looked goes on at the next opening.
    let mut parts = world.parts(place.open().await);
    parts.resume = false;
    let runtime = Runtime::open(parts).await.unwrap();
    let waiting = runtime.pending().await.unwrap();
    let scope = runtime_core::ExecutionScope::Turn {
        session: runtime_core::SessionId::from(&desk()),
        turn: waiting[0].turn.clone().unwrap(),
    };
    let store = runtime.store();
    let turns = view::unfinished_turns(store, None).await.unwrap();
    assert_eq!(turns[0].scope(), scope);
    runtime.close().await.unwrap();
    let store = place.open().await;
    resolve_beside(&world, &store, waiting[0].token.as_ref().unwrap()).await;
    store.close().await.unwrap();
    drop(store);
    let runtime = world.open(place).await;
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_an_instance_that_drives_nothing_takes_answers_for_the_next(
    place: &dyn Place,
) {
    let world = Desk::new();
    parked_at_its_question(&world, place).await;
    let calls = world.model_calls();
    let mut parts = world.parts(place.open().await);
    parts.drive = false;
    let runtime = Runtime::open(parts).await.unwrap();
    approve_all(&runtime).await;
    runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.insist(&desk());
    runtime.settled().await;
    assert_eq!((world.ledger().len(), world.model_calls()), (0, calls));
    assert_eq!(runtime.close().await.unwrap(), CloseReport::default());

    let runtime = world.open(place).await;
    runtime.settled().await;
    assert_eq!(world.ledger().len(), 1);
    assert_eq!(ends(&events(runtime.store()).await).len(), 2);
    runtime.close().await.unwrap();
}

/// Resolves a token without any runtime.
async fn resolve_beside(world: &Desk, store: &std::sync::Arc<dyn Store>, token: &str) {
    let host = runtime_effects::StoreEffectHost::new(
        std::sync::Arc::clone(store),
        std::sync::Arc::new(world.clock.clone()),
        std::sync::Arc::new(runtime_testkit::SeededRandom::new(9)),
        runtime_effects::EffectLimits::default(),
    );
    let promises = host.await_events().await.unwrap();
    let yes = runtime_turn::ApprovalDecision::Approve.to_resolution();
    promises.resolve(token, yes, None).await.unwrap();
}

pub(crate) async fn e17_a_turn_records_the_deployment_it_started_under(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.settled().await;
    let events = events(runtime.store()).await;
    let started = events
        .iter()
        .find(|event| *event.kind() == EventKind::TurnStarted);
    assert_eq!(started.unwrap().draft.payload["deployment"], "deployment-7");
    runtime.close().await.unwrap();
}

/// Opens the store under another deployment, with that policy, and approves what waits.
async fn under_another(world: &Desk, place: &dyn Place, policy: OtherDeployment) -> Runtime {
    let mut agent = world.agent();
    agent.version = "deployment-8".to_owned();
    let mut parts = world.parts_of(agent, place.open().await);
    parts.config.other_deployment = policy;
    let runtime = Runtime::open(parts).await.unwrap();
    runtime.settled().await;
    approve_all(&runtime).await;
    runtime.settled().await;
    runtime
}

async fn parked_at_its_question(world: &Desk, place: &dyn Place) {
    let runtime = world.open_worker(place).await;
    runtime.send(&desk(), GOLDEN).await.unwrap();
    runtime.settled().await;
    runtime.close().await.unwrap();
}

pub(crate) async fn e17_a_turn_of_another_deployment_parks_where_the_host_says_so(
    place: &dyn Place,
) {
    let world = Desk::new();
    parked_at_its_question(&world, place).await;
    let mut told = 0;
    for life in 0..2 {
        let runtime = under_another(&world, place, OtherDeployment::Park).await;
        let turns = view::unfinished_turns(runtime.store(), Some(&desk())).await;
        let turns = turns.unwrap();
        let TurnStatus::Parked {
            reason: ParkReason::OtherDeployment { error },
            ..
        } = &turns[0].status
        else {
            panic!("{turns:?}");
        };
        assert_eq!(error.code, "turn_other_deployment");
        let details = error.details.as_ref().unwrap();
        assert_eq!(details["started"], "deployment-7");
        assert_eq!(details["here"], "deployment-8");
        let events = events(runtime.store()).await;
        let parked = count(&events, &EventKind::TurnParked);
        assert!(life == 0 || parked == told, "it is told once");
        told = parked;
        runtime.close().await.unwrap();
    }
    assert!(world.ledger().is_empty());
    // Its own deployment takes it on, with the answer that came meanwhile.
    let runtime = world.open(place).await;
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCompleted);
    assert_eq!(world.ledger().len(), 1);
    runtime.close().await.unwrap();
}

pub(crate) async fn e17_a_turn_of_another_deployment_is_refused_where_the_host_says_so(
    place: &dyn Place,
) {
    let world = Desk::new();
    parked_at_its_question(&world, place).await;
    let runtime = under_another(&world, place, OtherDeployment::Refuse).await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnFailed);
    let failed = events.iter().find(|event| event.kind().ends_turn());
    let error = &failed.unwrap().draft.payload["error"];
    assert_eq!(error["code"], "turn_other_deployment");
    assert!(world.ledger().is_empty());
    runtime.close().await.unwrap();
}

pub(crate) async fn e17_a_turn_of_another_deployment_goes_on_by_default(place: &dyn Place) {
    let world = Desk::new();
    parked_at_its_question(&world, place).await;
    let runtime = under_another(&world, place, OtherDeployment::default()).await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events)[0].1, EventKind::TurnCompleted);
    assert_eq!(world.ledger().len(), 1);
    runtime.close().await.unwrap();
}

pub(crate) async fn t4_the_next_turn_starts_from_the_fold_of_the_session(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    for input in [PLAIN, GOLDEN, PLAIN] {
        runtime.send(&desk(), input).await.unwrap();
    }
    runtime.settled().await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    approve_all(&runtime).await;
    runtime.settled().await;
    runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.settled().await;
    let events = events(runtime.store()).await;
    assert_eq!(ends(&events).len(), 4);
    check_context(&runtime).await;
    runtime.close().await.unwrap();
}

/// Folds the session from its first event: each turn must have started where the fold was (the
/// fold itself refuses anything else), and the worker's row must name where it ends.
pub(crate) async fn check_context(runtime: &Runtime) {
    let mut conversation = Conversation::new();
    for event in events(runtime.store()).await {
        let session = event.draft.session.as_ref();
        if session.is_some_and(|session| session.as_str() == desk().as_str()) {
            conversation.apply(&event.draft).unwrap();
        }
    }
    let worker = view::worker(runtime.store(), &desk()).await.unwrap();
    assert_eq!(worker.context, conversation.mark());
    assert!(conversation.open_turn().is_none());
}
