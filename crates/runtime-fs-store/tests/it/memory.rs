//! What a store holds in memory, counted byte by byte (S6). Each count is made in a process of its
//! own, so that no other test is counted with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_core::{EventId, Timestamp};
use runtime_fs_store::{CleanOptions, FsLimits, FsStore, FsStoreOptions};
use runtime_store::{
    Commit, Limits, NewEvent, Position, Progress, Removal, RowChange, RowKey, Store,
};

use crate::allocations::allocated_bytes;
use crate::support::{commit_id, in_memory, options, print_row, random, run, scope, stream};

const ALONE: &str = "FS_STORE_COUNT_MEMORY";

/// Runs a test of this binary once more, alone in a process; says whether this is that process.
fn is_alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(ALONE, "1")
        .status();
    assert!(status.unwrap().success(), "see above");
    false
}

fn small(parent: &std::path::Path) -> FsStoreOptions {
    FsStoreOptions {
        limits: Limits {
            // A bound of its own, the same however much there is.
            remembered_commits: 64,
            ..Limits::default()
        },
        fs_limits: FsLimits {
            segment_bytes_first: 64 * 1024,
            segment_bytes_max: 256 * 1024,
            ..FsLimits::default()
        },
        ..options(parent, 96)
    }
}

/// A turn of a conversation that is over: its event, and no row that is left.
fn turn(number: u64) -> Commit {
    let time = Timestamp::from_millis(number);
    Commit::new(commit_id(number), time).event(NewEvent {
        id: EventId::generate(time, random(number)),
        streams: vec![
            stream(&format!("turn/worker-{}/{number}", number % 50)),
            stream(&format!("session/worker-{}", number % 50)),
        ],
        closes: true,
        body: vec![7; 120].into(),
    })
}

fn idle_worker(number: u64) -> Commit {
    let time = Timestamp::from_millis(number);
    let owner = format!("worker/{number:012}");
    let commit = Commit::new(commit_id(number), time).event(NewEvent {
        id: EventId::generate(time, random(number)),
        streams: vec![stream(&owner), stream(&format!("session/{number:012}"))],
        closes: false,
        body: vec![7; 120].into(),
    });
    let rows = ["worker", "epoch", "queue"].map(|space| {
        let key = RowKey::new(space, scope(&owner), "");
        RowChange::put(key, vec![1; 80])
    });
    rows.into_iter().fold(commit, Commit::row)
}

async fn fill(store: &FsStore, numbers: std::ops::Range<u64>, commit: fn(u64) -> Commit) {
    for number in numbers {
        store.commit(commit(number)).await.unwrap();
    }
    store.checkpoint().await.unwrap();
}

/// S6: ten times the history holds as much memory, live and after opening again.
#[test]
fn s6_memory_is_flat_while_history_grows_tenfold() {
    const HISTORY: u64 = 2_000;
    if !is_alone("memory::s6_memory_is_flat_while_history_grows_tenfold") {
        return;
    }
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path());
    let before = allocated_bytes();
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..HISTORY, turn));
    let once = allocated_bytes() - before;
    run(fill(&store, HISTORY..10 * HISTORY, turn));
    let tenfold = allocated_bytes() - before;
    run(store.close()).unwrap();
    drop(store);
    let before = allocated_bytes();
    let store = FsStore::open(&options).unwrap();
    let reopened = allocated_bytes() - before;
    println!("S6-history {once} bytes at {HISTORY}, {tenfold} at 10 times, {reopened} reopened");
    // The first key of a block of finished turns is all that is left of some ninety of them.
    let grown = tenfold.saturating_sub(once) as u64;
    assert!(grown <= 4 * 9 * HISTORY, "{once} bytes, then {tenfold}");
    assert!(reopened <= tenfold + 64 * 1024, "{reopened} bytes");
    drop(store);
    print_row(
        "S6-history",
        usize::try_from(10 * HISTORY).unwrap(),
        started,
    );
}

/// S6, S8: a reader beside a writer lies on the checkpoints of the writer, so that what it follows
/// leaves its memory.
#[test]
fn s8_a_reader_that_follows_holds_no_history() {
    const HISTORY: u64 = 100;
    const ROUNDS: u64 = 10;
    if !is_alone("memory::s8_a_reader_that_follows_holds_no_history") {
        return;
    }
    let parent = in_memory();
    let options = small(parent.path());
    let store = FsStore::open(&options).unwrap();
    let beside = FsStore::open_read_only(&options).unwrap();
    let mut sizes = Vec::new();
    for round in 0..ROUNDS {
        let next = (round + 1) * HISTORY;
        run(fill(&store, round * HISTORY..next - 1, turn));
        // What comes after a checkpoint says that it is durable.
        run(store.commit(turn(next - 1))).unwrap();
        let followed = run(beside.changed(Position(next - 1)));
        assert_eq!(followed, Position(next));
        sizes.push(allocated_bytes());
    }
    println!("S8-followed {sizes:?} bytes");
    let grown = sizes[sizes.len() - 1].saturating_sub(sizes[1]);
    assert!(grown <= 32 * 1024, "{sizes:?}");
    drop((beside, store));
}

/// S6: an idle worker holds at most 128 bytes.
#[test]
fn s6_an_idle_worker_holds_at_most_128_bytes() {
    const WORKERS: u64 = 5_000;
    if !is_alone("memory::s6_an_idle_worker_holds_at_most_128_bytes") {
        return;
    }
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path());
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..WORKERS / 10, idle_worker));
    let few = allocated_bytes();
    run(fill(&store, WORKERS / 10..WORKERS, idle_worker));
    let many = allocated_bytes();
    let each = many.saturating_sub(few) as u64 / (WORKERS - WORKERS / 10);
    println!("S6-worker {each} bytes for each of {WORKERS} idle workers");
    assert!(each <= 128, "{each} bytes");
    drop(store);
    print_row("S6-worker", usize::try_from(WORKERS).unwrap(), started);
}

/// Effects of an open turn, each with a recorded outcome.
const EFFECTS: u64 = 10;

/// An open turn: its start, its lease, and the rows of its effects.
fn open_turn(number: u64) -> Commit {
    let time = Timestamp::from_millis(number);
    let owner = format!("turn/{:012}/{number:012}", number % 50);
    let commit = Commit::new(commit_id(number), time).event(NewEvent {
        id: EventId::generate(time, random(number)),
        streams: vec![stream(&owner), stream(&format!("session/{number:012}"))],
        closes: false,
        body: vec![7; 120].into(),
    });
    let rows = ["start", "lease"].map(|space| (space, String::new(), 200));
    let effects = (0..EFFECTS).map(|effect| ("effect", format!("tool-{effect}"), 600));
    rows.into_iter()
        .chain(effects)
        .fold(commit, |commit, (space, name, bytes)| {
            let key = RowKey::new(space, scope(&owner), &name);
            commit.row(RowChange::put(key, vec![1; bytes]))
        })
}

/// S6: an open turn holds at most 2 KiB, and 64 bytes for each of its effects.
#[test]
fn s6_an_open_turn_holds_at_most_2_kib() {
    const TURNS: u64 = 3_000;
    if !is_alone("memory::s6_an_open_turn_holds_at_most_2_kib") {
        return;
    }
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path());
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..TURNS / 10, open_turn));
    let few = allocated_bytes();
    run(fill(&store, TURNS / 10..TURNS, open_turn));
    let many = allocated_bytes();
    let each = many.saturating_sub(few) as u64 / (TURNS - TURNS / 10);
    println!("S6-turn {each} bytes for each of {TURNS} open turns of {EFFECTS} effects");
    assert!(each <= 2 * 1024 + 64 * EFFECTS, "{each} bytes");
    drop(store);
    print_row("S6-turn", usize::try_from(TURNS).unwrap(), started);
}

/// S6: a cleaning holds one segment at a time, and what it keeps of them, however many there are.
#[test]
fn s6_a_cleaning_holds_one_segment_at_a_time() {
    const TURNS: u64 = 20_000;
    if !is_alone("memory::s6_a_cleaning_holds_one_segment_at_a_time") {
        return;
    }
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path());
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..TURNS, turn));
    let through = Removal::Through(Position(TURNS));
    let time = Timestamp::from_millis(TURNS);
    let removal = Commit::new(commit_id(TURNS), time).remove(through);
    run(store.commit(removal)).unwrap();
    let before = allocated_bytes();
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let look = move |_: Progress| {
        seen.fetch_max(allocated_bytes(), Ordering::Relaxed);
    };
    let report = run(store.clean(CleanOptions::default(), look)).unwrap();
    let most = most.load(Ordering::Relaxed) - before;
    println!("S6-clean {most} bytes for {report:?}");
    assert!(
        report.segments_removed > 10 && report.bytes_before > 4 << 20,
        "{report:?}"
    );
    assert!(most <= 2 * 256 * 1024, "{most} bytes for {report:?}");
    drop(store);
    print_row("S6-clean", usize::try_from(TURNS).unwrap(), started);
}
