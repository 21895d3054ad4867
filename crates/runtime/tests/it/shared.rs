//! Several processes share one runtime in PostgreSQL (issue 11): under load one is killed every
//! few seconds, and the others take over what it drove.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use postgres_for_tests::url_for_tests;
use runtime::core::{Clock as _, Random as _, RuntimeId, SubmissionId, Timestamp};
use runtime::effects::PendingKind;
use runtime::events::EventHub;
use runtime::postgres::{PostgresOptions, PostgresStore};
use runtime::prelude::*;
use runtime::store::{Store, SystemClock, SystemRandom};
use runtime::workers::{InDoubtRuling, RuntimeLimits, view};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::suite::{events, running_most};

const CHILD: &str = "RUNTIME_TEST_SHARED_CHILD";
const WORKERS: u64 = 6;
/// W6: fewer than workers, so that turns of different processes wait for each other.
const RUNNING_MAX: u32 = 5;
/// E5: a lease of ten seconds, and the looks of whoever takes over.
const TAKE_OVER_MAX: Duration = Duration::from_secs(15);

/// Seconds of load; more by `AGENT_RUNTIME_SHARED_SECONDS`.
fn load_seconds() -> u64 {
    let named = std::env::var("AGENT_RUNTIME_SHARED_SECONDS").ok();
    named.map_or(20, |number| number.parse().unwrap())
}

#[derive(Deserialize, JsonSchema)]
struct Line {
    /// What to append.
    line: String,
}

/// An agent whose tool appends to a file: twice would leave two lines, so it is not declared
/// harmless.
fn agent(ledger: &str) -> Agent {
    let ledger = ledger.to_owned();
    let append = FunctionTool::new("append", "Appends a line.", move |line: Line, _context| {
        let ledger = ledger.clone();
        async move {
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(ledger);
            file.unwrap()
                .write_all(format!("{}\n", line.line).as_bytes())
                .unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok("appended")
        }
    })
    .approval(ApprovalPolicy::Never);
    let steps = vec![
        ScriptStep::text("I append it.").tool_call(
            "append",
            "append",
            json!({ "line": "{input}" }),
        ),
        ScriptStep::text("Done."),
    ];
    let model = Arc::new(ScriptedModel::new("scripted", steps));
    Agent::builder("1", model).tool(Arc::new(append)).build()
}

async fn open(url: &str, ledger: &str) -> Runtime {
    let limits = RuntimeLimits {
        turns_running_max: Some(RUNNING_MAX),
        ..RuntimeLimits::default()
    };
    let builder = runtime::builder().postgres(url).agent(agent(ledger));
    builder.limits(limits).open().await.unwrap()
}

/// Not a test of its own: a process that sends inputs to all workers and drives what comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_a_process() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let words: Vec<&str> = task.split(' ').collect();
    let runtime = open(words[0], words[1]).await;
    for number in 0.. {
        let worker = runtime
            .worker(&format!("worker-{}", number % WORKERS))
            .await;
        let worker: WorkerId = worker.unwrap().id().clone();
        let text = format!("{}-{number}", words[2]);
        let submission: SubmissionId = text.parse().unwrap();
        match runtime.submit(&worker, submission, &text).await {
            Ok(receipt) => println!("accepted {text} {}", receipt.turn),
            // A full queue, or a lease that is just being renewed: the input was refused.
            Err(error) => println!("refused {text} {error}"),
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

fn start(url: &str, ledger: &str, name: &str) -> (Child, ChildStdout) {
    let mut child = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::as_a_process", "--nocapture"])
        .env(CHILD, format!("{url} {ledger} {name}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    (child, output)
}

/// The texts that a process was told are accepted, with their turns.
fn accepted(output: ChildStdout) -> Vec<(String, String)> {
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    let read = |line: String| {
        let mut words = line
            .split("accepted ")
            .nth(1)?
            .split(' ')
            .map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    lines.filter_map(read).collect()
}

/// R3 on a shared store: three processes under load, one killed every few seconds. Every accepted
/// turn ends once, every follower sees every event once, no tool that must not run twice does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_processes_take_over_from_the_killed() {
    let Some(server) = url_for_tests() else {
        return;
    };
    let started = Instant::now();
    let id = RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten());
    let url = format!("{server}?schema=agent_runtime_tests&runtime={id}");
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger").to_str().unwrap().to_owned();

    let followers: Vec<_> = (0..2).map(|_| tokio::spawn(follow(url.clone()))).collect();
    let mut readers = Vec::new();
    let mut begin = |name: &str| {
        let (child, output) = start(&url, &ledger, name);
        readers.push(std::thread::spawn(move || accepted(output)));
        child
    };
    let mut children: Vec<Child> = (0..3).map(|n| begin(&format!("p{n}"))).collect();
    let end = Instant::now() + Duration::from_secs(load_seconds());
    let mut kills = 0;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        let victim = kills % children.len();
        children[victim].kill().unwrap();
        children[victim].wait().unwrap();
        kills += 1;
        children[victim] = begin(&format!("k{kills}"));
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let killed = SystemClock::new().now();
    // One more process finds all of them dead.
    let last = open(&url, &ledger).await;
    let took = end_everything(&last).await;
    let mut turns = HashMap::new();
    for reader in readers {
        turns.extend(reader.join().unwrap());
    }
    let log = events(last.store()).await;
    let head = log.last().unwrap().position;
    let resumed = taken_over(&log, killed);
    let slowest = resumed.iter().max().copied().unwrap_or_default();
    assert!(slowest <= TAKE_OVER_MAX, "taken over after {slowest:?}");
    last.close().await.unwrap();
    for follower in followers {
        let seen = follower.await.unwrap();
        let seen: Vec<u64> = seen
            .into_iter()
            .filter(|position| *position <= head)
            .collect();
        assert!(
            seen.iter().copied().eq(1..=head),
            "a follower saw other events"
        );
    }
    let mut faults = faults(&turns, &log);
    faults.extend(written_twice(&ledger));
    let running = running_most(&log);
    if running > RUNNING_MAX as usize {
        faults.push(format!("{running} turns ran at once"));
    }
    assert!(faults.is_empty(), "{faults:?}");
    assert!(
        turns.len() >= 20,
        "only {} inputs were accepted",
        turns.len()
    );
    println!(
        "{kills} kills, {} turns; {} were open at the last kill, taken over within {slowest:?}, \
         ended in {took:?}",
        turns.len(),
        resumed.len()
    );
    println!(
        "R3-processes {} 0 {:.1}",
        turns.len(),
        started.elapsed().as_secs_f64()
    );
}

/// How long after the kill each turn that was being driven went on, on the same machine's clock.
fn taken_over(log: &[RuntimeEvent], killed: Timestamp) -> Vec<Duration> {
    let after = log.iter().filter(|event| event.time >= killed);
    let resumed = after.filter(|event| {
        let was = &event.draft.payload["was"];
        *event.kind() == EventKind::TurnResumed && was.to_string().contains("running")
    });
    let since = |event: &RuntimeEvent| event.time.as_millis() - killed.as_millis();
    resumed
        .map(|event| Duration::from_millis(since(event)))
        .collect()
}

/// Sees every position of the log until the runtime is closed by the last process.
async fn follow(url: String) -> Vec<u64> {
    let store = PostgresStore::open(PostgresOptions::new(&url).unwrap())
        .await
        .unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let hub = EventHub::new(store, Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let mut stream = hub.subscribe(Topic::Runtime, hub.cursor_from_start());
    let mut seen = Vec::new();
    while let Some(item) = stream.next().await {
        if let StreamItem::Event(event) = item.unwrap() {
            seen.push(event.position);
            if *event.kind() == EventKind::RuntimeClosed {
                break;
            }
        }
    }
    seen
}

/// Drives what is left to its end; what is in doubt is ruled to have failed. However much is left,
/// there is always one that ends soon.
async fn end_everything(runtime: &Runtime) -> Duration {
    const PATIENCE: Duration = Duration::from_secs(60);
    let started = Instant::now();
    let mut left = (usize::MAX, started);
    loop {
        for item in runtime.pending().await.unwrap() {
            if let (PendingKind::InDoubt, Some(call)) = (item.kind, item.call) {
                let (call, ruling) = (call.to_string(), InDoubtRuling::Fail);
                // Somebody may have ended it meanwhile.
                let _ruled = runtime.apply(Command::RuleInDoubt { call, ruling }).await;
            }
        }
        let unfinished = view::unfinished_turns(runtime.store(), None).await.unwrap();
        if unfinished.is_empty() {
            return started.elapsed();
        }
        if unfinished.len() < left.0 {
            left = (unfinished.len(), Instant::now());
        }
        assert!(
            left.1.elapsed() < PATIENCE,
            "{} turns never end: {:?}",
            unfinished.len(),
            unfinished.first()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every accepted turn has exactly one end.
fn faults(turns: &HashMap<String, String>, log: &[RuntimeEvent]) -> Vec<String> {
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for event in log.iter().filter(|event| event.kind().ends_turn()) {
        let turn = event.draft.turn.as_ref().unwrap().to_string();
        *ends.entry(turn).or_default() += 1;
    }
    let mut faults = Vec::new();
    for (text, turn) in turns {
        let found = ends.get(turn).copied().unwrap_or(0);
        if found != 1 {
            faults.push(format!("{text}, turn {turn}, has {found} ends"));
        }
    }
    faults.extend(
        ends.iter()
            .filter(|(_, ends)| **ends != 1)
            .map(|(turn, ends)| format!("turn {turn} has {ends} ends")),
    );
    faults
}

/// The lines that are in the ledger twice.
fn written_twice(ledger: &str) -> Vec<String> {
    let text = std::fs::read_to_string(ledger).unwrap();
    let mut seen = HashSet::new();
    let twice = text.lines().filter(|line| !seen.insert(*line));
    twice
        .map(|line| format!("{line} was appended twice"))
        .collect()
}

/// The twin: a line that is there twice, and a turn with no end, are found.
#[test]
fn a_line_written_twice_and_a_turn_without_an_end_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger");
    std::fs::write(&ledger, "a\nb\na\n").unwrap();
    assert_eq!(written_twice(ledger.to_str().unwrap()).len(), 1);
    let turns = HashMap::from([("text".to_owned(), "turn".to_owned())]);
    assert_eq!(faults(&turns, &[]).len(), 1);
}
