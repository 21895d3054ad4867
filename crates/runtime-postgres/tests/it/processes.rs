//! Several processes over one runtime: writers side by side, clients that stop or lose their
//! connection in mid-commit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_core::{ScopeId, StreamKey};
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::{CommitError, Epoch, Guard, RowChange, RowKey, Store};
use tokio::sync::watch;

use crate::load::{ChildTask, acknowledgements, commit, faults, follow, log, signal};
use crate::support::{Database, or_skip};

impl Database {
    fn url(&self) -> String {
        let server = postgres_for_tests::url_for_tests().expect("there was a server");
        let runtime = self.options.runtime.as_ref().expect("a runtime of its own");
        format!("{server}?schema={}&runtime={runtime}", self.options.schema)
    }

    async fn store(&self) -> Arc<PostgresStore> {
        let opened = PostgresStore::open(self.options.clone()).await;
        Arc::new(opened.expect("the server for tests opens"))
    }
}

/// Sixteen writers in four processes: no append fails, positions and sequences are dense, and a
/// reader beside them sees the log as it is at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_writers_of_four_processes_share_one_log() {
    let database = or_skip!(Database::new());
    let store: Arc<dyn Store> = database.store().await;
    let (end, ended) = watch::channel(0);
    let follower = tokio::spawn(follow(Arc::clone(&store), ended));
    let mut readers = Vec::new();
    let mut children = Vec::new();
    for process in 0..4 {
        let task = ChildTask {
            url: database.url(),
            name: format!("process-{process}"),
            writers: 4,
            padding: 0,
        };
        let mut child = task.start();
        let output = child.stdout.take().expect("a pipe");
        readers.push(std::thread::spawn(move || acknowledgements(output)));
        children.push(child);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut acknowledged = HashSet::new();
    for child in &mut children {
        // A writer ends by itself only when an append has failed.
        assert!(
            child.try_wait().expect("a child").is_none(),
            "an append failed"
        );
        child.kill().expect("a child");
        child.wait().expect("a child");
    }
    for reader in readers {
        acknowledged.extend(reader.join().expect("lines"));
    }
    // The calls of the killed have ended when one more is made.
    let last = store.commit(commit("last", 1, 0)).await.expect("an append");
    let log = log(&*store).await;
    end.send(last.positions.start).expect("the follower waits");
    let seen = follower.await.expect("a follower");
    let faults = faults(&log, &acknowledged);
    assert!(faults.is_empty(), "{faults:?}");
    assert!(
        seen.len() <= log.len() && seen[..] == log[..seen.len()],
        "the follower saw another log"
    );
    let writers: HashSet<String> = acknowledged
        .iter()
        .map(|(writer, _)| writer.clone())
        .collect();
    assert_eq!(writers.len(), 16, "every writer got something done");
    println!("16 writers: {} appends, 0 failed", acknowledged.len());
}

/// A client that is stopped at any moment of its commits holds nothing that others need; when it
/// goes on, nothing of its own is lost or twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stopped_in_mid_commit_stalls_nobody() {
    const STOPS: u64 = 10;
    const PATIENCE: Duration = Duration::from_secs(5);
    let database = or_skip!(Database::new());
    let store = database.store().await;
    // Large commits, so that a stop often finds one half on its way.
    let task = ChildTask {
        url: database.url(),
        name: "stopped".to_owned(),
        writers: 8,
        padding: 100_000,
    };
    let mut child = task.start();
    let output = child.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || acknowledgements(output));
    while store
        .events(
            None,
            runtime_store::Page::after(runtime_store::Position(0), 1),
        )
        .await
        .expect("a page")
        .head
        .0
        == 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut number, mut slowest) = (0, Duration::ZERO);
    for stop in 0..STOPS {
        tokio::time::sleep(Duration::from_millis(7 * stop + 3)).await;
        signal(&child, "STOP");
        for _ in 0..5 {
            number += 1;
            let asked = Instant::now();
            let made =
                tokio::time::timeout(PATIENCE, store.commit(commit("other", number, 0))).await;
            made.expect("a stopped client stalls nobody")
                .expect("an append");
            slowest = slowest.max(asked.elapsed());
        }
        signal(&child, "CONT");
    }
    child.kill().expect("a child");
    child.wait().expect("a child");
    let mut acknowledged = reader.join().expect("lines");
    acknowledged.extend((1..=number).map(|number| ("other".to_owned(), number)));
    let log = log(&*store).await;
    let faults = faults(&log, &acknowledged);
    assert!(faults.is_empty(), "{faults:?}");
    println!("{STOPS} stops: slowest commit beside them {slowest:?}");
}

/// The twin: a client that keeps its transaction open over a round trip does stall the others,
/// and the test sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_over_a_round_trip_is_noticed() {
    let database = or_skip!(Database::new());
    let store = database.store().await;
    let mut holder = std::process::Command::new("psql")
        .arg(postgres_for_tests::url_for_tests().expect("there was a server"))
        .args(["-q", "-v", "ON_ERROR_STOP=1"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("psql comes with the server");
    {
        use std::io::Write as _;
        let runtime = database.options.runtime.as_ref().expect("a runtime");
        let input = holder.stdin.as_mut().expect("a pipe");
        let schema = &database.options.schema;
        writeln!(
            input,
            "BEGIN; SELECT key FROM {schema}.runtime WHERE id = '{runtime}' FOR UPDATE;"
        )
        .expect("psql reads");
    }
    {
        use std::io::BufRead as _;
        let output = holder.stdout.as_mut().expect("a pipe");
        let mut line = String::new();
        std::io::BufReader::new(output)
            .read_line(&mut line)
            .expect("psql answers");
    }
    let stalled = tokio::time::timeout(
        Duration::from_millis(500),
        store.commit(commit("other", 1, 0)),
    );
    assert!(stalled.await.is_err(), "a held lock must stall");
    holder.kill().expect("a child");
    holder.wait().expect("a child");
    // The commit was not withdrawn; it is made once the lock is free.
    store
        .commit(commit("other", 2, 0))
        .await
        .expect("an append");
    assert_eq!(log(&*store).await.len(), 2);
}

/// Connections are cut at random while many write: each commit happens once, its own submitter
/// is told so, and no answer is left open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_happens_once() {
    const WRITERS: u64 = 16;
    const COMMITS: u64 = 100;
    let database = or_skip!(Database::new());
    let name = format!(
        "cut-{}",
        database.options.runtime.as_ref().expect("a runtime")
    );
    let url = format!("{}&application_name={name}", database.url());
    let options = PostgresOptions::new(&url).expect("a URL");
    let store = Arc::new(PostgresStore::open(options).await.expect("a store"));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let name = format!("writer-{writer}");
            for number in 1..=COMMITS {
                let made = store
                    .commit(commit(&name, number, 0))
                    .await
                    .expect("an append");
                assert!(!made.repeated, "its own commit is no repetition");
            }
        });
    }
    let server = postgres_for_tests::url_for_tests().expect("there was a server");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let cutter = std::thread::spawn(move || {
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '{name}'"
        );
        let mut cuts = 0;
        while stopped.recv_timeout(Duration::from_millis(400)).is_err() {
            let output = std::process::Command::new("psql")
                .args([server.as_str(), "-qAtc", &cut])
                .output();
            let output = output.expect("psql comes with the server");
            cuts += String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u64>()
                .unwrap_or(0);
        }
        cuts
    });
    while let Some(writer) = writers.join_next().await {
        writer.expect("no append fails");
    }
    stop.send(()).expect("the cutter waits");
    let cuts = cutter.join().expect("a cutter");
    assert!(cuts > 0, "nothing was cut");
    let every = (0..WRITERS)
        .flat_map(|writer| (1..=COMMITS).map(move |number| (format!("writer-{writer}"), number)));
    let every: HashSet<_> = every.collect();
    let log = log(&*store).await;
    assert_eq!(log.len(), every.len());
    let faults = faults(&log, &every);
    assert!(faults.is_empty(), "{faults:?}");
    println!("{cuts} connections cut, {} commits once each", every.len());
}

/// R9: an owner is stopped (SIGSTOP) beyond its lease, a successor takes the scope, the first
/// wakes: all that it tries is fenced, and its events stand before the successor's.
#[test]
fn r9_a_stopped_owner_is_fenced() {
    const ZOMBIES: u64 = 10;
    let started = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let database = or_skip!(Database::new());
    for _ in 0..ZOMBIES {
        runtime.block_on(one_zombie(&database.url()));
    }
    println!(
        "R9-postgres {ZOMBIES} 0 {:.1}",
        started.elapsed().as_secs_f64()
    );
}

async fn one_zombie(url: &str) {
    let store = PostgresStore::open(PostgresOptions::new(url).expect("a URL"))
        .await
        .expect("a store");
    let owner = format!("owner-{:?}", Instant::now()).replace([' ', '{', '}', ',', ':'], "");
    let scope = ScopeId::new(&owner).expect("a scope");
    let epoch = || RowChange::put(RowKey::epoch(scope.clone()), *b"");
    let first = commit(&owner, 0, 0)
        .guard(Guard::Absent(RowKey::epoch(scope.clone())))
        .row(epoch());
    store.commit(first).await.expect("an epoch");
    let this = std::env::current_exe().expect("the test binary");
    let mut zombie = std::process::Command::new(this)
        .args(["--exact", "processes::as_an_owner", "--nocapture"])
        .env(OWNER, format!("{url} {owner}"))
        .spawn()
        .expect("a child");
    let stream = StreamKey::new(&owner).expect("a stream");
    let events = async || {
        let page = runtime_store::Page::after(runtime_store::Position(0), 256);
        store
            .events(Some(&stream), page)
            .await
            .expect("a page")
            .events
    };
    while events().await.len() < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    signal(&zombie, "STOP");
    let take = commit("successor", 1, 0).guard(Guard::Version(RowKey::epoch(scope.clone()), 1));
    let taken = store
        .commit(take.row(epoch()))
        .await
        .expect("the scope is taken over");
    let before = events().await.len();
    signal(&zombie, "CONT");
    let status = zombie.wait().expect("a child");
    assert_eq!(status.code(), Some(0), "the zombie was fenced and said so");
    let after = events().await;
    assert_eq!(after.len(), before, "a zombie wrote");
    assert!(
        after
            .iter()
            .all(|event| event.position.0 < taken.positions.start)
    );
}

const OWNER: &str = "RUNTIME_POSTGRES_TEST_OWNER";

/// Not a test of its own: the owner of a scope that writes until it is fenced.
#[tokio::test]
async fn as_an_owner() {
    let Ok(task) = std::env::var(OWNER) else {
        return;
    };
    let (url, owner) = task.split_once(' ').expect("a task");
    let store = PostgresStore::open(PostgresOptions::new(url).expect("a URL"))
        .await
        .expect("a store");
    let scope = ScopeId::new(owner).expect("a scope");
    for number in 1..2_000 {
        match store
            .commit(commit(owner, number, 0).owned_by(scope.clone(), Epoch(1)))
            .await
        {
            Ok(_) => {}
            Err(CommitError::Fenced) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nobody fenced it");
}
