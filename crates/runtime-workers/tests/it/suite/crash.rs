//! R4: a golden turn with two parallel tools, an approval and a sub-agent, cut off at every store,
//! model and tool call. What may happen then is ruled by hand in `tests/golden/crash-matrix.md`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use runtime_agent::Agent;
use runtime_core::{EventDraft, EventKind, ProcessStatus, SessionId};
use runtime_effects::PendingKind;
use runtime_store::{Commit, RowChange};
use runtime_testkit::{Fault, FaultStore};
use runtime_turn::ApprovalDecision;
use runtime_workers::view::{self, PendingItem};
use runtime_workers::{
    Command, CreateWorker, InDoubtRuling, Runtime, RuntimeError, RuntimeParts, WorkerRecord,
};
use serde_json::json;

use super::{Desk, MATRIX, Moment, Place, SeamModel, SeamTool, Seams, desk, ends, events};

/// The table ruled by hand; the test fails when the turn has other points than it.
const TABLE: &str = include_str!("../../golden/crash-matrix.md");

/// The fewest points that make a matrix.
const POINTS_MIN: usize = 60;

/// What nothing repeated and nothing in doubt is called.
const NOTHING: &str = "—";

/// Makes a place of its own for each point; none where there is none.
pub(crate) type NewPlace<'a> = &'a (dyn Fn() -> Option<Box<dyn Place>> + Sync);

/// Where a life ends, or a commit goes wrong.
#[derive(Debug, Clone)]
enum Cut {
    Commit(String, Fault),
    Call(String, Moment),
}

#[derive(Debug)]
struct Point {
    cut: Cut,
    /// What the table says of it.
    ruled: String,
}

fn cells(line: &str) -> Option<Vec<String>> {
    let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(line.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// Reads the two tables: commits with four columns, calls with three.
fn table() -> Vec<Point> {
    let mut points = Vec::new();
    for line in TABLE.lines() {
        let Some(cells) = cells(line) else { continue };
        let name = cells[0].trim_matches('`').to_owned();
        if name.starts_with("---") || name == "commit" || name == "call" {
            continue;
        }
        match cells.len() {
            5 => {
                let faults = [
                    Fault::FailBefore,
                    Fault::CrashBefore,
                    Fault::LoseResponse,
                    Fault::CrashAfter,
                ];
                for (fault, ruled) in faults.into_iter().zip(&cells[1..]) {
                    points.push(Point {
                        cut: Cut::Commit(name.clone(), fault),
                        ruled: ruled.clone(),
                    });
                }
            }
            4 => {
                let moments = [Moment::Before, Moment::Inside, Moment::After];
                for (moment, ruled) in moments.into_iter().zip(&cells[1..]) {
                    points.push(Point {
                        cut: Cut::Call(name.clone(), moment),
                        ruled: ruled.clone(),
                    });
                }
            }
            columns => panic!("{columns} columns: {line}"),
        }
    }
    points
}

/// What a commit is: whose, and what its first event tells. None for what keeps the lease of an
/// instance: it is no part of the turn, and only on a shared store.
fn label(commit: &Commit) -> Option<String> {
    if keeps_lease(commit) {
        return None;
    }
    let Some(first) = commit.events.first() else {
        return Some("no event".to_owned());
    };
    let draft = EventDraft::from_bytes(&first.body).unwrap();
    let who = match draft.session.as_ref().map(SessionId::as_str) {
        None => "runtime",
        Some("desk") => "desk",
        Some(_) => "child",
    };
    Some(format!("{who} {}", draft.kind))
}

/// Whether a commit changes nothing but what belongs to an instance: its lease and what it holds.
pub(crate) fn keeps_lease(commit: &Commit) -> bool {
    commit.events.is_empty()
        && commit.rows.iter().all(|change| {
            let scope = match change {
                RowChange::Put { key, .. } | RowChange::Delete(key) => &key.scope,
                RowChange::Retire(scope) => scope,
                other => panic!("nobody knows what {other:?} belongs to"),
            };
            scope.as_str().starts_with("instance/")
        })
}

/// Splits `desk message_committed 2` into what and which.
fn occurrence(name: &str) -> (String, usize) {
    let (what, which) = name.rsplit_once(' ').expect("a name with a number");
    (what.to_owned(), which.parse().expect("a number"))
}

/// Runs every point, prints the row, and fails if one is not as ruled; then once more with a
/// planted fault that must be found.
pub(crate) fn crash_matrix(name: &str, new_place: NewPlace<'_>) {
    let Some(place) = new_place() else { return };
    let new_place = || new_place().expect("the place was there");
    let started = Instant::now();
    let points = table();
    check_drift(&*place, &points);
    let failures = check_all(&points, &new_place);
    let seconds = started.elapsed().as_secs_f64();
    println!("R4-{name} {} {} {seconds:.1}", points.len(), failures.len());
    assert_eq!(failures, [] as [String; 0]);
    assert!(points.len() >= POINTS_MIN);
    // A call that is wrongly declared harmless to repeat does happen twice: the table says so.
    let planted = points.iter().filter(|point| {
        matches!(&point.cut, Cut::Call(call, _) if call == "append")
            || matches!(&point.cut, Cut::Commit(commit, _) if commit == "desk tool_call_finished 3")
    });
    let found = planted.filter(|point| check(&*new_place(), point, true).is_err());
    assert!(found.count() >= 2, "the planted fault was not found");
}

/// Runs every point, a few side by side: most of a point's time is waiting for the disk.
fn check_all(points: &[Point], new_place: &(dyn Fn() -> Box<dyn Place> + Sync)) -> Vec<String> {
    const SIDE_BY_SIDE: usize = 4;
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failure = check(&*new_place(), point, false).err();
                    failures.lock().unwrap().extend(failure);
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// The points of an undisturbed run are those of the table.
fn check_drift(place: &dyn Place, points: &[Point]) {
    let world = World::new(place, false);
    let mut seen = Seen::default();
    let (store, lived) = process(life(&world, None, &mut seen));
    lived.unwrap();
    let mut counts = BTreeMap::<String, usize>::new();
    let mut happened = std::collections::BTreeSet::new();
    for recorded in store.record() {
        if matches!(recorded.happened, Some(Ok(_))) {
            let Some(label) = label(&recorded.commit) else {
                continue;
            };
            let count = counts.entry(label.clone()).or_default();
            *count += 1;
            happened.insert(format!("{label} {count}"));
        }
    }
    happened.extend(world.made.lock().unwrap().keys().cloned());
    let named = points.iter().map(|point| match &point.cut {
        Cut::Commit(name, _) | Cut::Call(name, _) => name.clone(),
    });
    let named: std::collections::BTreeSet<String> = named.collect();
    assert_eq!(
        happened, named,
        "the turn has drifted from its table: rule on each new point by hand"
    );
}

/// What outlives the processes.
struct World<'a> {
    desk: Desk,
    place: &'a dyn Place,
    made: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl<'a> World<'a> {
    fn new(place: &'a dyn Place, planted: bool) -> Self {
        let mut desk = Desk::new();
        desk.declared_retry_safe = planted;
        // The sub-agent's tool lets everything pass.
        desk.gate.pass(10_000);
        Self {
            desk,
            place,
            made: Arc::default(),
        }
    }

    fn parts(&self, store: Arc<FaultStore>, dies: Option<(String, Moment)>) -> RuntimeParts {
        let seams = Arc::new(Seams {
            store: Arc::clone(&store),
            dies: Mutex::new(dies),
            made: Arc::clone(&self.made),
        });
        let mut agent: Agent = self.desk.agent();
        agent.model = Arc::new(SeamModel {
            model: agent.model,
            seams: Arc::clone(&seams),
        });
        agent.tools = agent
            .tools
            .into_iter()
            .map(|tool| {
                Arc::new(SeamTool {
                    tool,
                    seams: Arc::clone(&seams),
                }) as _
            })
            .collect();
        self.desk.parts_of(agent, store)
    }
}

/// A process: its tasks end with its async runtime, as by a kill.
fn process<T>(life: impl Future<Output = T>) -> T {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    executor.unwrap().block_on(life)
}

#[derive(Debug, Default)]
struct Seen {
    in_doubt: Vec<String>,
}

fn check(place: &dyn Place, point: &Point, planted: bool) -> Result<(), String> {
    let world = World::new(place, planted);
    let mut seen = Seen::default();
    let cut = &point.cut;
    let passes = matches!(cut, Cut::Commit(_, Fault::FailBefore | Fault::LoseResponse));
    let (store, lived) = process(life(&world, Some(cut), &mut seen));
    if passes == store.is_crashed() {
        return Err(format!("{cut:?}: should die: {}; {lived:?}", !passes));
    }
    if passes {
        lived.map_err(|error| format!("{cut:?}: was not survived: {error}"))?;
    }
    drop(store);
    let (_, lived) = process(life(&world, None, &mut seen));
    lived.map_err(|error| format!("{cut:?}: {error}"))?;
    process(check_end(&world)).map_err(|why| format!("{cut:?}: {why}"))?;
    let found = told(&world, &seen);
    if found == point.ruled {
        Ok(())
    } else {
        Err(format!("{cut:?}: ruled {}, found {found}", point.ruled))
    }
}

/// What happened more than once, or is in doubt, in words.
fn told(world: &World<'_>, seen: &Seen) -> String {
    let made = world.made.lock().unwrap();
    let repeated = made
        .iter()
        .filter(|(_, times)| **times != 1)
        .map(|(call, times)| format!("{call} ×{times}"));
    let in_doubt = seen.in_doubt.iter().map(|tool| format!("{tool} in doubt"));
    let told: Vec<String> = repeated.chain(in_doubt).collect();
    match told.is_empty() {
        true => NOTHING.to_owned(),
        false => told.join(", "),
    }
}

/// Opens the store and does what is left to do, until something goes wrong as planned.
async fn life(
    world: &World<'_>,
    cut: Option<&Cut>,
    seen: &mut Seen,
) -> (Arc<FaultStore>, Result<(), RuntimeError>) {
    let store = FaultStore::new(world.place.open().await);
    let dies = match cut {
        None => None,
        Some(Cut::Call(call, moment)) => Some((call.clone(), *moment)),
        Some(Cut::Commit(name, fault)) => {
            let (what, which) = occurrence(name);
            let fits = move |commit: &Commit| label(commit).as_ref() == Some(&what);
            store.fault_when(fits, which, *fault);
            None
        }
    };
    let lived = live(world, Arc::clone(&store), dies, seen).await;
    (store, lived)
}

/// Does whatever is left to do, as a process that knows nothing of those before it: what it asks
/// for is named, so that repeating it is harmless.
async fn live(
    world: &World<'_>,
    store: Arc<FaultStore>,
    dies: Option<(String, Moment)>,
    seen: &mut Seen,
) -> Result<(), RuntimeError> {
    let runtime = Runtime::open(world.parts(store, dies)).await?;
    let worker = desk();
    runtime
        .create(CreateWorker::assistant(worker.clone()))
        .await?;
    let golden = "golden".parse().unwrap();
    runtime.submit(&worker, golden, MATRIX).await?;
    loop {
        runtime.settled().await;
        let mut waiting = runtime.pending().await?;
        waiting.retain(|item| item.kind != PendingKind::Wait);
        if waiting.is_empty() {
            return Ok(());
        }
        for item in waiting {
            if item.kind == PendingKind::InDoubt {
                seen.in_doubt.extend(item.tool.clone());
            }
            runtime.apply(answer(world, &item)).await?;
        }
    }
}

/// What a truthful person answers.
fn answer(world: &World<'_>, item: &PendingItem) -> Command {
    if let Some(token) = &item.token {
        return Command::Decide {
            target: token.clone(),
            decision: ApprovalDecision::Approve,
        };
    }
    let call = item.call.as_ref().unwrap().to_string();
    let ruling = if world.desk.ledger().contains(&call) {
        let value = json!("appended");
        InDoubtRuling::Done { value }
    } else {
        InDoubtRuling::RunAgain
    };
    Command::RuleInDoubt { call, ruling }
}

async fn check_end(world: &World<'_>) -> Result<(), String> {
    let runtime = world.desk.open(world.place).await;
    let events = events(runtime.store()).await;
    let ends = ends(&events);
    let completed = ends
        .iter()
        .filter(|(_, kind)| *kind == EventKind::TurnCompleted);
    if (ends.len(), completed.count()) != (2, 2) {
        return Err(format!("the turns ended as {ends:?}"));
    }
    if world.desk.ledger().len() != 1 {
        return Err(format!("the ledger has {:?}", world.desk.ledger()));
    }
    let workers = view::workers(runtime.store()).await.unwrap();
    for worker in workers {
        let of_worker = events
            .iter()
            .filter(|event| event.draft.session.as_ref() == Some(&worker.session()));
        let folded = WorkerRecord::folded(of_worker.map(|event| &event.draft));
        if folded.as_ref() != Some(&worker) {
            return Err(format!("{} is not the fold of its events", worker.id()));
        }
        if worker.unfinished != 0 {
            return Err(format!("{} has an unfinished turn", worker.id()));
        }
    }
    super::check_context(&runtime).await;
    let page = runtime_store::Page::after(None, 10);
    let ended = runtime.processes().list(ProcessStatus::Succeeded, page);
    let ended = ended.await.unwrap().processes.len();
    if ended != 1 {
        return Err(format!("{ended} processes have succeeded"));
    }
    let turn = &ends.iter().find(|(turn, _)| {
        events.iter().any(|event| {
            event.draft.turn.as_ref() == Some(turn)
                && event.draft.session.as_ref().map(SessionId::as_str) == Some("desk")
        })
    });
    let words = runtime.answer(&desk(), &turn.unwrap().0).await.unwrap();
    if words != "done: there are 3" {
        return Err(format!("the last words are {words:?}"));
    }
    Ok(())
}
