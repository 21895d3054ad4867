//! Opening after SIGKILL, by the length of the history (S6).
//!
//! A process fills a store and is killed right after its last acknowledgement; what is timed is the
//! way of the next process to the last event. Beside it stand the bare reading of the files that
//! must be read, the newest checkpoint and the segments after it, and the opening of a store that
//! has no history: one whose only segment holds as many events as those segments.
#![allow(clippy::print_stdout, reason = "a program for people prints")]

#[allow(
    dead_code,
    unused_imports,
    reason = "only its plan and its places are used here"
)]
mod measure;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use measure::{Outcome, Plan, output, runtime, scratch};
use runtime::core::{Clock, EventId, Random, ScopeId, StreamKey};
use runtime::fs_store::{FsLimits, FsStore, FsStoreOptions};
use runtime::store::{
    Commit, NewEvent, Page, Payload, Position, RowChange, RowKey, Store, SystemClock, SystemRandom,
};
use serde_json::{Value, json};

const EVENT_BYTES: usize = 300;
const ROW_BYTES: usize = 16;
/// So many workers, each with a row and a session.
const WORKERS: u64 = 10_000;
const GROUP: u64 = 1_000;
const FILL: &str = "BENCH_OPEN_FILL";
const MILLIS: f64 = 1e3;

fn main() -> Outcome<()> {
    if let Ok(words) = std::env::var(FILL) {
        let mut words = words.splitn(3, ' ');
        let mut word = || words.next().ok_or("three words");
        let (events, segment_bytes) = (word()?.parse()?, word()?.parse()?);
        let options = options(Path::new(word()?), segment_bytes);
        return runtime()?.block_on(fill(&options, events));
    }
    let plan = Plan::from_arguments();
    let most: u64 = if plan.is_quick { 50_000 } else { 1_000_000 };
    println!(
        "{:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>11}",
        "events", "log", "checkpt", "segments", "bare", "no hist.", "open", "ratio", "whole log"
    );
    let mut rows = Vec::new();
    for events in [most / 10, most] {
        rows.push(measure(&plan, events)?);
    }
    println!(
        "log, checkpt and segments in KiB: all of the log, the newest checkpoint, what follows it;\n\
         the rest in ms, medians of {} rounds. bare: those files read, nothing else. no hist.:\n\
         the checkpoint read, and a store opened that holds only as many events as follow it.\n\
         ratio: open / no hist. (S6: at most 2). whole log: opened once without checkpoints.",
        plan.rounds
    );
    let path = output().join("open.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&json!({ "rows": rows }))?)?;
    Ok(())
}

fn measure(plan: &Plan, events: u64) -> Outcome<Value> {
    let limits = FsLimits::default();
    let directory = scratch()?;
    let full = directory.path().join("full");
    fill_and_kill(events, limits.segment_bytes_first, &full)?;
    let store = FsStore::open(&options(&full, limits.segment_bytes_first))?;
    let tail_events = store.report().commits;
    drop(store);
    // One segment, however many they are.
    let bare_store = directory.path().join("tail");
    fill_and_kill(tail_events, limits.segment_bytes_max, &bare_store)?;

    let (checkpoint, segments) = newest(&full)?;
    let (mut bare, mut without, mut opened) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let started = Instant::now();
        read(&checkpoint)?;
        let checkpoint_read = started.elapsed();
        read(&segments)?;
        bare.push(started.elapsed().as_secs_f64() * MILLIS);
        let alone = open(&bare_store, tail_events)?;
        without.push(checkpoint_read.as_secs_f64() * MILLIS + alone);
        opened.push(open(&full, events)?);
    }
    let sum = |paths: &[PathBuf]| -> Outcome<u64> {
        let lengths = paths.iter().map(|path| Ok(path.metadata()?.len()));
        lengths.sum::<Outcome<u64>>()
    };
    let log = sum(&files(&full.join("segments"))?)? / 1024;
    let checkpoint_kib = sum(&checkpoint)? / 1024;
    let segments_kib = sum(&segments)? / 1024;
    std::fs::remove_dir_all(full.join("checkpoints"))?;
    let whole = open(&full, events)?;
    let [bare, without, opened] = [bare, without, opened].map(median);
    let ratio = opened / without;
    println!(
        "{events:>10} {log:>10} {checkpoint_kib:>9} {segments_kib:>9} {bare:>9.1} {without:>9.1} {opened:>9.1} {ratio:>7.2} {whole:>11.1}"
    );
    Ok(json!({
        "events": events, "log_kib": log, "checkpoint_kib": checkpoint_kib,
        "segments_kib": segments_kib, "events_after_checkpoint": tail_events, "bare_ms": bare,
        "without_history_ms": without, "open_ms": opened, "ratio": ratio, "whole_log_ms": whole,
    }))
}

/// Opens a store and reads its last event; returns the milliseconds.
fn open(directory: &Path, events: u64) -> Outcome<f64> {
    let options = options(directory, FsLimits::default().segment_bytes_first);
    let runtime = runtime()?;
    let last = Page::after(Position(events - 1), 1);
    let started = Instant::now();
    let store = FsStore::open(&options)?;
    let page = runtime.block_on(store.events(None, last))?;
    let elapsed = started.elapsed();
    assert_eq!(page.events.len(), 1, "the last event is there");
    Ok(elapsed.as_secs_f64() * MILLIS)
}

fn options(directory: &Path, segment_bytes_first: u64) -> FsStoreOptions {
    FsStoreOptions {
        fs_limits: FsLimits {
            segment_bytes_first,
            ..FsLimits::default()
        },
        ..FsStoreOptions::new(directory)
    }
}

/// The newest checkpoint, if there is one, and the segments after it.
fn newest(store: &Path) -> Outcome<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut checkpoints = files(&store.join("checkpoints"))?.into_iter();
    let is_checkpoint = |path: &PathBuf| path.extension().is_some_and(|end| end == "checkpoint");
    let checkpoint = checkpoints.rfind(is_checkpoint);
    let last = checkpoint.as_deref().and_then(Path::file_stem);
    let mut segments = files(&store.join("segments"))?;
    segments.retain(|path| path.file_stem() > last);
    Ok((checkpoint.into_iter().collect(), segments))
}

fn files(directory: &Path) -> Outcome<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(directory)?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<_> = paths.collect::<Outcome<_>>()?;
    paths.sort();
    Ok(paths)
}

fn read(paths: &[PathBuf]) -> Outcome<()> {
    for path in paths {
        std::hint::black_box(std::fs::read(path)?);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Lets a process fill a store, and kills it once all is acknowledged.
fn fill_and_kill(events: u64, segment_bytes: u64, directory: &Path) -> Outcome<()> {
    let words = format!("{events} {segment_bytes} {}", directory.display());
    let mut child = Command::new(std::env::current_exe()?)
        .env(FILL, words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or("it was piped")?;
    BufReader::new(out).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    match line.trim() {
        "filled" => Ok(()),
        _ => Err("the store could not be filled".into()),
    }
}

async fn fill(options: &FsStoreOptions, events: u64) -> Outcome<()> {
    let store = Arc::new(FsStore::open(options)?);
    let body: Payload = vec![b'e'; EVENT_BYTES].into();
    let row: Payload = vec![b'r'; ROW_BYTES].into();
    for first in (0..events).step_by(usize::try_from(GROUP)?) {
        let mut tasks = Vec::new();
        for number in first..events.min(first + GROUP) {
            let (clock, random) = (SystemClock::new(), SystemRandom);
            let worker = number % WORKERS;
            let scope = ScopeId::new(format!("turn/bench/{worker}"))?;
            let event = NewEvent {
                id: EventId::generate(clock.now(), random.ten()),
                streams: vec![StreamKey::new(format!("session/bench-{worker}"))?],
                closes: false,
                body: Arc::clone(&body),
            };
            let commit = Commit::fresh(&*store, &clock, &random)
                .row(RowChange::put(
                    RowKey::new("bench", scope, "row"),
                    Arc::clone(&row),
                ))
                .event(event);
            let store = Arc::clone(&store);
            tasks.push(tokio::spawn(async move { store.commit(commit).await }));
        }
        for task in tasks {
            task.await??;
        }
    }
    println!("filled");
    // Until it is killed.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
