//! Stores in temporary directories, and commits to put into them.

#![cfg_attr(
    feature = "simulation",
    expect(dead_code, reason = "the simulation makes stores of its own")
)]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use runtime_core::{CommitId, EventId, ScopeId, StreamKey, Timestamp};
use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::{
    Commit, NewEvent, Page, Position, ReadError, RowChange, RowKey, Store, StoredEvent,
};
use runtime_testkit::{SeededRandom, SimulatedClock};

/// A store inside `parent` whose clock stands still and whose randomness repeats.
pub(crate) fn options(parent: &Path, seed: u64) -> FsStoreOptions {
    FsStoreOptions::new(parent.join("store")).world(
        Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000))),
        Arc::new(SeededRandom::new(seed)),
    )
}

pub(crate) fn scope(name: &str) -> ScopeId {
    ScopeId::new(name).unwrap()
}

pub(crate) fn stream(name: &str) -> StreamKey {
    StreamKey::new(name).unwrap()
}

pub(crate) fn random(number: u64) -> [u8; 10] {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&number.to_be_bytes());
    random
}

pub(crate) fn commit_id(number: u64) -> CommitId {
    CommitId::generate(Timestamp::from_millis(number), random(number))
}

/// The commit of one row and one event that belong to worker `number % 4`.
pub(crate) fn commit(number: u64) -> Commit {
    let owner = format!("worker/{}", number % 4);
    let event = NewEvent {
        id: EventId::generate(Timestamp::from_millis(number), random(number)),
        streams: vec![stream(&owner), stream("session/all")],
        closes: false,
        body: body(number).into(),
    };
    let row = RowChange::Put {
        key: RowKey::new("state", scope(&owner), format!("{}", number % 16)),
        body: number.to_be_bytes().into(),
        event: Some(0),
        due: None,
    };
    Commit::new(commit_id(number), Timestamp::from_millis(number))
        .event(event)
        .row(row)
}

pub(crate) fn body(number: u64) -> Vec<u8> {
    let length = 16 + usize::try_from(number % 7).unwrap() * 24;
    let mut body = vec![number.to_le_bytes()[0]; length];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

/// Reads the whole log.
pub(crate) async fn all_events(store: &FsStore) -> Vec<StoredEvent> {
    read_events(store).await.unwrap()
}

/// Reads the whole log, or says what could not be read.
pub(crate) async fn read_events(store: &FsStore) -> Result<Vec<StoredEvent>, ReadError> {
    let mut events = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store.events(None, Page::after(after, 256)).await?;
        events.extend(page.events);
        after = page.next;
        if !page.has_more {
            return Ok(events);
        }
    }
}

/// Returns the numbers of the commits whose events are in the log, in order.
pub(crate) async fn numbers(store: &FsStore) -> Vec<u64> {
    all_events(store).await.iter().map(number).collect()
}

pub(crate) fn number(event: &StoredEvent) -> u64 {
    u64::from_be_bytes(event.body[..8].try_into().unwrap())
}

pub(crate) fn segment(options: &FsStoreOptions, number: u32) -> std::path::PathBuf {
    options.directory.join(format!("segments/{number:010}.log"))
}

/// How many times as many cases as in the quick run: what `FS_STORE_TIMES` says.
pub(crate) fn times() -> u32 {
    std::env::var("FS_STORE_TIMES").map_or(1, |text| text.parse().unwrap())
}

/// Which run this is, so that no two draw the same cases: what `FS_STORE_RUN` says.
pub(crate) fn number_of_run() -> u64 {
    std::env::var("FS_STORE_RUN").map_or(0, |text| text.parse().unwrap())
}

/// The seeds of this run: so many times as many as in the quick run.
pub(crate) fn seeds(quick: u64) -> Range<u64> {
    let count = quick * u64::from(times());
    let first = number_of_run() * count;
    first..first + count
}

/// A directory in memory where there is one: syncs cost nothing there, and whoever uses it does
/// not lose power.
pub(crate) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Runs every case, on as many threads as there are cores.
pub(crate) fn on_all_cores<T: Send>(cases: Range<u64>, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        let (work, cases) = (&work, &cases);
        let threads: Vec<_> = (0..cores)
            .map(|core| {
                let cases = (cases.start + core as u64..cases.end).step_by(cores);
                scope.spawn(move || cases.map(work).collect::<Vec<_>>())
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.flatten().collect()
    })
}

/// Runs async work where the caller is not async.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(work)
}

/// Prints a row of the scoreboard; a test gets here only without a failure.
pub(crate) fn print_row(name: &str, cases: usize, started: std::time::Instant) {
    println!("{name} {cases} 0 {:.1}", started.elapsed().as_secs_f64());
}
