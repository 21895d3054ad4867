//! R21: what a long turn writes does not grow with its length.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runtime_agent::{TurnProjector, TurnRun, Unwatched, drive_turn};
use runtime_core::{
    Clock, CommitId, EffectEnvelope, EffectOutcome, EventDraft, EventKind, Random, Timestamp,
};
use runtime_effects::{
    EffectHost, EffectLimits, Projection, Projector, ScopeOpening, StoreEffectHost,
};
use runtime_model::ScriptStep;
use runtime_store::{Commit, Epoch, Guard, MemoryStore, RowChange, RowKey, Store};
use runtime_testkit::{FaultStore, SeededRandom, SimulatedClock};
use runtime_turn::{History, TurnBudgets, TurnEnd};
use serde_json::json;

use crate::desk::{Desk, start};

const ITERATIONS: u32 = 200;

/// The planted fault: each outcome is told with everything that came before it.
#[derive(Debug, Default)]
struct Inlining(Mutex<Vec<EffectOutcome>>);

impl Projector for Inlining {
    fn outcome(&self, envelope: &EffectEnvelope, outcome: &EffectOutcome) -> Projection {
        let mut all = self.0.lock().unwrap();
        all.push(outcome.clone());
        let mut told = TurnProjector.outcome(envelope, outcome);
        let inlined = EventDraft::new(EventKind::Diagnostic)
            .in_scope(envelope.scope())
            .with_payload(json!({ "conversation": *all }));
        told.further.push(inlined);
        told
    }

    fn started(&self, envelope: &EffectEnvelope) -> Projection {
        TurnProjector.started(envelope)
    }
}

fn bytes(commit: &Commit) -> usize {
    let events: usize = commit.events.iter().map(|event| event.body.len()).sum();
    let rows = commit.rows.iter().map(|row| match row {
        RowChange::Put { body, .. } => body.len(),
        _ => 0,
    });
    events + rows.sum::<usize>()
}

/// The bytes that each half of the turn gives to the store, attachments left out: there are two,
/// whatever its length.
async fn halves(projector: Arc<dyn Projector>) -> (usize, usize) {
    let mut steps: Vec<ScriptStep> = (0..ITERATIONS)
        .map(|n| ScriptStep::call("c", "read", json!({ "path": format!("file-{n:04}") })))
        .collect();
    steps.push(ScriptStep::text("end"));
    let desk = Desk::new(steps);
    let agent = desk.builder().build();
    let clock = SimulatedClock::new(Timestamp::from_millis(1_000_000));
    let store = FaultStore::new(Arc::new(MemoryStore::new("growth".parse().unwrap())));
    let limits = EffectLimits {
        park_after: Duration::ZERO,
        outcome_bytes_max: 64 * 1024 * 1024,
        ..EffectLimits::default()
    };
    let host = StoreEffectHost::new(
        Arc::clone(&store) as _,
        Arc::new(clock.clone()),
        Arc::new(SeededRandom::new(7)),
        limits,
    );
    let start = start().with_budgets(TurnBudgets {
        iterations_max: ITERATIONS + 10,
        ..TurnBudgets::default()
    });
    let scope = start.scope();
    let epoch = RowKey::epoch(scope.scope_id());
    let id = CommitId::generate(clock.now(), SeededRandom::new(3).ten());
    let opened = Commit::new(id, clock.now())
        .guard(Guard::Absent(epoch.clone()))
        .row(RowChange::put(epoch, Vec::new()));
    store.commit(opened).await.unwrap();
    let opening = ScopeOpening::new(scope, Epoch(1), projector);
    let controller = host.scoped(opening).unwrap();
    let end = drive_turn(TurnRun {
        start,
        history: History::default(),
        agent: &agent,
        controller: &*controller,
        attachments: &*store,
        live: &Unwatched,
        clock: &clock,
        completions: None,
        delegates: None,
        inputs: None,
    })
    .await;
    match end.unwrap() {
        TurnEnd::Completed { iterations, .. } => assert_eq!(iterations, ITERATIONS + 1),
        other => panic!("it should complete, but {other:?}"),
    }
    let sizes: Vec<usize> = store
        .record()
        .iter()
        .map(|recorded| bytes(&recorded.commit))
        .collect();
    let (first, second) = sizes.split_at(sizes.len() / 2);
    (first.iter().sum(), second.iter().sum())
}

#[tokio::test]
async fn the_second_half_of_a_long_turn_writes_no_more_than_the_first_r21() {
    let started = Instant::now();
    let (first, second) = halves(Arc::new(TurnProjector)).await;
    let grows = second * 10 > first * 12;
    let seconds = started.elapsed().as_secs_f64();
    println!("R21 1 {} {seconds:.1}", u8::from(grows));
    assert!(first > 50_000, "the turn has written something: {first}");
    assert!(!grows, "{first} bytes, then {second}");
    let (first, second) = halves(Arc::new(Inlining::default())).await;
    assert!(
        second * 10 > first * 12,
        "the planted fault was not found: {first} bytes, then {second}"
    );
}
