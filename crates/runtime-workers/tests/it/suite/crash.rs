//! R4: a golden turn with an approval and a call that must not happen twice, crashed at every
//! commit.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use runtime_core::{EventDraft, EventKind};
use runtime_effects::PendingKind;
use runtime_store::Store;
use runtime_testkit::{Fault, FaultStore};
use runtime_turn::ApprovalDecision;
use runtime_workers::view::PendingItem;
use runtime_workers::{Command, CreateWorker, InDoubtRuling, Runtime, RuntimeError, WorkerRecord};
use serde_json::json;

use super::{Desk, GOLDEN, PLAIN, Place, check_context, desk, ends, events};

const FAULTS: [Fault; 4] = [
    Fault::FailBefore,
    Fault::LoseResponse,
    Fault::CrashBefore,
    Fault::CrashAfter,
];

/// The commits of the golden run, each by its first event. Another list is drift: look at what it
/// means for a crash in between, then change it here.
const GOLDEN_TRACE: [&str; 20] = [
    "runtime_opened",
    "worker_created",
    "input_accepted",
    "environment_synced",
    "message_committed",
    "tool_call_finished",
    "message_committed",
    "approval_requested",
    "turn_parked",
    "promise_resolved",
    "turn_resumed",
    "wait_ended",
    "tool_call_started",
    "tool_call_finished",
    "message_committed",
    "turn_completed",
    "input_accepted",
    "environment_synced",
    "message_committed",
    "turn_completed",
];

/// The calls that the model is asked for in both turns.
const MODEL_CALLS: usize = 4;

pub(crate) type NewPlace<'a> = &'a dyn Fn() -> Box<dyn Place>;

/// Runs every case, prints the row, and fails if one failed; then once more with a planted fault
/// that must be found.
pub(crate) fn crash_matrix(name: &str, new_place: NewPlace<'_>) {
    let started = Instant::now();
    let (cases, failures) = matrix(new_place, 1..=GOLDEN_TRACE.len(), false);
    let seconds = started.elapsed().as_secs_f64();
    println!("R4-{name} {cases} {} {seconds:.1}", failures.len());
    assert_eq!(failures, [] as [String; 0]);
    assert_eq!(cases, GOLDEN_TRACE.len() * FAULTS.len());
    // A call that is wrongly declared harmless to repeat does happen twice: around the commits of
    // its intent and its outcome.
    let (_, found) = matrix(new_place, 12..=14, true);
    assert!(
        found.iter().any(|why| why.contains("ledger")),
        "the planted fault was not found: {found:?}"
    );
}

fn matrix(
    new_place: NewPlace<'_>,
    numbers: RangeInclusive<usize>,
    planted: bool,
) -> (usize, Vec<String>) {
    let mut failures = Vec::new();
    let mut cases = 0;
    for number in numbers {
        for fault in FAULTS {
            cases += 1;
            let place = new_place();
            if let Err(why) = case(&*place, number, fault, planted) {
                failures.push(format!("{fault:?} at {number}: {why}"));
            }
        }
    }
    (cases, failures)
}

/// A process: its tasks end with its async runtime, as by a kill.
fn process<T>(life: impl Future<Output = T>) -> T {
    let executor = tokio::runtime::Builder::new_current_thread().build();
    executor.unwrap().block_on(life)
}

/// What a life saw.
#[derive(Default)]
struct Seen {
    in_doubt: usize,
    /// The most lines that were in the ledger before a person ruled.
    lines: usize,
}

fn case(place: &dyn Place, number: usize, fault: Fault, planted: bool) -> Result<(), String> {
    let mut world = Desk::new();
    world.declared_retry_safe = planted;
    let mut seen = Seen::default();
    let store = FaultStore::new(place.open());
    store.fault_at(number, fault);
    let lived = process(live(&world, store.clone(), &mut seen));
    let crashes = matches!(fault, Fault::CrashBefore | Fault::CrashAfter);
    if crashes != store.is_crashed() {
        return Err(format!("it should crash: {crashes}; it ended as {lived:?}"));
    }
    if !crashes && !planted {
        lived.map_err(|error| format!("a fault that passes was not survived: {error}"))?;
        check_trace(&store)?;
    }
    drop(store);
    let calls_before = world.model_calls();
    let recorded = process(async { recorded_messages(&*place.open()).await });
    let store = FaultStore::new(place.open());
    process(live(&world, store.clone(), &mut seen)).map_err(|error| error.to_string())?;
    drop(store);

    let calls = world.model_calls() - calls_before;
    if calls != MODEL_CALLS - recorded {
        return Err(format!(
            "{calls} model calls after {recorded} were recorded"
        ));
    }
    let lines = world.ledger().len();
    if lines != 1 || seen.lines > 1 {
        return Err(format!(
            "ledger: {lines} lines, {} before a ruling",
            seen.lines
        ));
    }
    let trace = GOLDEN_TRACE[number - 1];
    let expected = match (fault, number) {
        (Fault::CrashAfter, 13) | (Fault::CrashBefore, 14) => 1,
        _ => 0,
    };
    if seen.in_doubt != expected {
        return Err(format!("{} in doubt around {trace}", seen.in_doubt));
    }
    process(check_end(&world, place))
}

/// Does whatever is left to do, as a process that knows nothing of those before it: what it asks
/// for is named, so that repeating it is harmless.
async fn live(world: &Desk, store: Arc<FaultStore>, seen: &mut Seen) -> Result<(), RuntimeError> {
    let runtime = Runtime::open(world.parts(store)).await?;
    let worker = desk();
    runtime
        .create(CreateWorker::assistant(worker.clone()))
        .await?;
    let golden = "golden".parse().unwrap();
    runtime.submit(&worker, golden, GOLDEN).await?;
    loop {
        runtime.settled().await;
        seen.lines = seen.lines.max(world.ledger().len());
        let waiting = runtime.pending().await?;
        if waiting.is_empty() {
            break;
        }
        for item in waiting {
            seen.in_doubt += usize::from(item.kind == PendingKind::InDoubt);
            runtime.apply(answer(world, &item)).await?;
        }
    }
    runtime
        .submit(&worker, "plain".parse().unwrap(), PLAIN)
        .await?;
    runtime.settled().await;
    Ok(())
}

/// What a truthful person answers.
fn answer(world: &Desk, item: &PendingItem) -> Command {
    if let Some(token) = &item.token {
        return Command::Decide {
            target: token.clone(),
            decision: ApprovalDecision::Approve,
        };
    }
    let call = item.call.as_ref().unwrap().to_string();
    let ruling = if world.ledger().contains(&call) {
        let value = json!("appended");
        InDoubtRuling::Done { value }
    } else {
        InDoubtRuling::RunAgain
    };
    Command::RuleInDoubt { call, ruling }
}

fn check_trace(store: &FaultStore) -> Result<(), String> {
    let record = store.record();
    let happened = record
        .iter()
        .filter(|commit| matches!(commit.happened, Some(Ok(_))));
    let kinds = happened.map(|recorded| {
        let first = recorded.commit.events.first().unwrap();
        EventDraft::from_bytes(&first.body)
            .unwrap()
            .kind
            .to_string()
    });
    let kinds: Vec<_> = kinds.collect();
    if kinds != GOLDEN_TRACE {
        return Err(format!("the trace has drifted: {kinds:?}"));
    }
    Ok(())
}

async fn recorded_messages(store: &dyn Store) -> usize {
    super::count(&events(store).await, &EventKind::MessageCommitted)
}

async fn check_end(world: &Desk, place: &dyn Place) -> Result<(), String> {
    let runtime = world.open(place).await;
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    let completed = ends
        .iter()
        .filter(|(_, kind)| *kind == EventKind::TurnCompleted);
    if (ends.len(), completed.count()) != (2, 2) {
        return Err(format!("the turns ended as {ends:?}"));
    }
    check_context(&runtime).await;
    let of_worker = events.iter().filter(|event| event.draft.session.is_some());
    let folded = WorkerRecord::folded(of_worker.map(|event| &event.draft));
    let worker = runtime_workers::view::worker(runtime.store(), &desk()).await;
    if folded != worker.ok() {
        return Err("the worker's row is not the fold of its events".to_owned());
    }
    Ok(())
}
