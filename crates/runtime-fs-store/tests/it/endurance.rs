//! A store under mixed load for a long time, with kills and retention (R20): what it allocates, the
//! descriptors that it holds and the files that it keeps stay as they are, and nothing is lost.
//!
//! The load runs in a process of its own, in rounds: commits of several writers, attachments, a
//! reader, then retention and cleaning. After each round the process tells its size. It is killed
//! again and again, at any moment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use runtime_core::Clock;
use runtime_fs_store::{CleanOptions, FsLimits, FsStore, FsStoreOptions};
use runtime_store::{
    AttachmentStore, Commit, KeyRingStore, Limits, Page, Position, Removal, Store, SystemClock,
    SystemRandom,
};
use runtime_testkit::SeededRandom;

use crate::support::{all_events, commit, in_memory, number, print_row, run};

const THIS: &str = "endurance::r20_a_store_under_load_stays_as_it_is";
const PLACE: &str = "FS_STORE_ENDURES";
const FIRST: &str = "FS_STORE_ENDURES_FROM";
const KEEPS: &str = "FS_STORE_ENDURES_AND_KEEPS";
const MINUTES: &str = "FS_STORE_MINUTES";
const WRITERS: u64 = 8;
const COMMITS_A_ROUND: u64 = 400;
/// Events that retention leaves.
const KEPT: u64 = 1_000;
const REMEMBERED: usize = 512;
/// Lives that begin with a smaller number rotate the keys.
const ROTATES_BELOW: u64 = 100_000;
/// In the first rounds of a life the process and the log grow to their size.
const WARM_UP: usize = 16;

fn options(place: &Path) -> FsStoreOptions {
    FsStoreOptions {
        limits: Limits {
            remembered_commits: REMEMBERED,
            ..Limits::default()
        },
        fs_limits: FsLimits {
            segment_bytes_first: 32 * 1024,
            segment_bytes_max: 32 * 1024,
            open_segments_max: 8,
            ..FsLimits::default()
        },
        ..FsStoreOptions::new(place.join("store"))
    }
}

/// The size of a process and of its store.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Size {
    allocated: f64,
    descriptors: f64,
    files: f64,
    bytes: f64,
}

impl Size {
    fn now(place: &Path) -> Self {
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let (files, bytes) = files_below(&place.join("store"));
        Self {
            allocated: crate::allocations::allocated_bytes() as f64,
            descriptors: descriptors as f64,
            files,
            bytes,
        }
    }

    fn parts(self) -> [(&'static str, f64); 4] {
        [
            ("allocated bytes", self.allocated),
            ("descriptors", self.descriptors),
            ("files", self.files),
            ("bytes of files", self.bytes),
        ]
    }

    /// The median of each part.
    fn median(sizes: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| {
            let mut parts: Vec<f64> = sizes.iter().map(part).collect();
            parts.sort_by(f64::total_cmp);
            parts[parts.len() / 2]
        };
        Self {
            allocated: of(|size| size.allocated),
            descriptors: of(|size| size.descriptors),
            files: of(|size| size.files),
            bytes: of(|size| size.bytes),
        }
    }

    fn told(self) -> String {
        format!(
            "size {} {} {} {}",
            self.allocated, self.descriptors, self.files, self.bytes
        )
    }

    fn read(words: &[&str]) -> Option<Self> {
        let parts: Vec<f64> = words.iter().map_while(|word| word.parse().ok()).collect();
        let [allocated, descriptors, files, bytes] = parts[..] else {
            return None;
        };
        Some(Self {
            allocated,
            descriptors,
            files,
            bytes,
        })
    }
}

fn files_below(directory: &Path) -> (f64, f64) {
    let (mut files, mut bytes) = (0.0, 0.0);
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => {
                let below = files_below(&entry.path());
                files += below.0;
                bytes += below.1;
            }
            Ok(found) => {
                files += 1.0;
                bytes += found.len() as f64;
            }
            Err(_) => {}
        }
    }
    (files, bytes)
}

/// Tells a line; ends the process when nobody listens any more.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Rounds without an end.
async fn live(place: &Path, first: u64, keeps: bool) {
    tell("");
    let store = FsStore::open(&options(place)).unwrap();
    // The ring keeps every key: over hundreds of lives they would be what grows.
    if first < ROTATES_BELOW {
        store.rotate_key_ring().await.unwrap();
    }
    let next = AtomicU64::new(first);
    loop {
        let until = next.load(Ordering::Relaxed) + COMMITS_A_ROUND;
        let writers = (0..WRITERS).map(|_| async {
            loop {
                let mine = next.fetch_add(1, Ordering::Relaxed);
                if mine >= until {
                    return;
                }
                let commit = numbered(&store, mine).await;
                let committed = store.commit(commit).await.unwrap();
                tell(&format!("done {mine} {}", committed.positions.start));
            }
        });
        let mut writers: Vec<_> = writers.map(Box::pin).collect();
        std::future::poll_fn(|context| {
            writers.retain_mut(|writer| writer.as_mut().poll(context).is_pending());
            match writers.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        drop(writers);
        next.store(until, Ordering::Relaxed);
        if !keeps {
            retain(&store).await;
        }
        tell(&Size::now(place).told());
    }
}

/// A commit of a number; every tenth names an attachment.
async fn numbered(store: &FsStore, number: u64) -> Commit {
    let mut commit = commit(number);
    // Ids by the wall clock, as a host has them.
    let clock = SystemClock::new();
    commit.id = Commit::fresh(store, &clock, &SystemRandom).id;
    commit.time = clock.now();
    if number.is_multiple_of(10) {
        // The rows of these scopes live for ever, and an attachment lives as long as the rows
        // that it was named with.
        commit.rows.clear();
        let bytes = format!("attachment {number}").into_bytes();
        let digest = store.put_attachment(bytes.into()).await.unwrap();
        commit.attachments.push(digest);
    }
    commit
}

async fn retain(store: &FsStore) {
    let head = store.events(None, Page::after(Position(u64::MAX), 1));
    let head = head.await.unwrap().head.0;
    let through = Removal::Through(Position(head.saturating_sub(KEPT)));
    let commit = Commit::fresh(store, &SystemClock::new(), &SystemRandom).remove(through);
    store.commit(commit).await.unwrap();
    store
        .sweep_attachments(&|_| false, Duration::ZERO)
        .await
        .unwrap();
    let options = CleanOptions::default();
    store.clean(options, |_| ()).await.unwrap();
}

/// What many lives came to.
#[derive(Debug, Default)]
struct Lives {
    lives: u64,
    commits: u64,
    sizes: Vec<Size>,
}

/// Lets lives follow each other, each killed somewhere after a number of rounds.
fn lives(place: &Path, keeps: bool, goes_on: impl Fn(&Lives) -> bool) -> Result<Lives, String> {
    let chance = SeededRandom::new(20);
    let mut all = Lives::default();
    let mut first = 0;
    while goes_on(&all) {
        // So many that a few that are larger or smaller for a moment do not tell.
        let rounds = WARM_UP + 5 + usize::try_from(chance.below(8)).unwrap();
        let more = chance.below(COMMITS_A_ROUND);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", THIS, "--nocapture", "--test-threads", "1"])
            .env(PLACE, place)
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped());
        if keeps {
            command.env(KEEPS, "1");
        }
        let mut child = command.spawn().unwrap();
        let mut done = Vec::new();
        let mut sizes = Vec::new();
        let mut after = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(Ok(line)) = lines.next() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["done", number, position] => {
                    done.extend(acknowledged(number, position));
                    after += u64::from(sizes.len() >= rounds);
                }
                ["size", ref parts @ ..] => sizes.extend(Size::read(parts)),
                _ => {}
            }
            // Retention and cleaning come when the commits of a round are done, so a life is
            // killed in them as well.
            if sizes.len() >= rounds && after >= more {
                break;
            }
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let ["done", number, position] = line.split(' ').collect::<Vec<_>>()[..] {
                done.extend(acknowledged(number, position));
            }
        }
        child.wait().unwrap();
        if sizes.len() < rounds {
            return Err(format!(
                "a life ended by itself after {} rounds",
                sizes.len()
            ));
        }
        let lost = run(lost(place, &done));
        first = lost.map_err(|broken| format!("life {}: {broken}", all.lives))?;
        all.lives += 1;
        all.commits += done.len() as u64;
        all.sizes.extend(sizes.into_iter().skip(WARM_UP));
    }
    Ok(all)
}

/// The number of a commit and its position; none of a line that was cut off.
fn acknowledged(number: &str, position: &str) -> Option<(u64, u64)> {
    Some((number.parse().ok()?, position.parse().ok()?))
}

/// Opens what a life left and looks for what it acknowledged; returns the number that is next.
async fn lost(place: &Path, done: &[(u64, u64)]) -> Result<u64, String> {
    let store = FsStore::open(&options(place)).map_err(|error| error.to_string())?;
    if !store.report().damage.is_empty() {
        return Err(format!("damage: {:?}", store.report().damage));
    }
    let pruned = store.events(None, Page::after(Position(0), 1));
    let pruned = pruned.await.map_err(|error| error.to_string())?.pruned.0;
    let events = all_events(&store).await;
    let mut numbers = HashMap::new();
    for event in &events {
        let number = number(event);
        if *event.body != *crate::support::body(number) {
            return Err(format!("{number} has another body"));
        }
        if let Some(twice) = numbers.insert(number, event.position.0) {
            return Err(format!("{number} is at {twice} and {}", event.position));
        }
    }
    for (number, position) in done.iter().filter(|(_, position)| *position > pruned) {
        if numbers.get(number) != Some(position) {
            return Err(format!(
                "{number} was acknowledged at {position} and is lost"
            ));
        }
    }
    store.close().await.map_err(|error| error.to_string())?;
    let told = done.iter().map(|(number, _)| *number).max();
    let kept = numbers.into_keys().max();
    Ok(told.max(kept).map_or(0, |last| last + 1))
}

/// How much a size may differ; a few lives are sampled anywhere between two cleanings, and differ
/// by more than many do.
const DRIFT_MAX: f64 = 0.05;
const DRIFT_OF_FEW_MAX: f64 = 0.1;

/// Says what has grown or shrunk by more than that share between the first third and the last.
fn drift(sizes: &[Size], share: f64) -> Vec<String> {
    let third = sizes.len() / 3;
    let first = Size::median(&sizes[..third]).parts();
    let last = Size::median(&sizes[sizes.len() - third..]).parts();
    first
        .into_iter()
        .zip(last)
        .filter(|((_, before), (_, after))| (after - before).abs() > before * share)
        .map(|((name, before), (_, after))| format!("{name} went from {before} to {after}"))
        .collect()
}

/// R20: lives for as many minutes as `FS_STORE_MINUTES` says; without it a few, to see that the
/// load and the looking work.
#[test]
fn r20_a_store_under_load_stays_as_it_is() {
    if let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) {
        let first = std::env::var(FIRST).unwrap().parse().unwrap();
        let keeps = std::env::var_os(KEEPS).is_some();
        return run(live(&place, first, keeps));
    }
    let started = Instant::now();
    let minutes = std::env::var(MINUTES).map_or(0, |text| text.parse().unwrap());
    let until = Duration::from_secs(60 * minutes);
    let place = in_memory();
    let lives = lives(place.path(), false, |all| {
        all.lives < 4 || started.elapsed() < until
    })
    .unwrap();
    println!(
        "R20 met {} lives, {} commits, {:?}",
        lives.lives,
        lives.commits,
        Size::median(&lives.sizes)
    );
    assert!(lives.sizes.len() >= 4, "{lives:?}");
    let share = match minutes {
        0 => DRIFT_OF_FEW_MAX,
        _ => DRIFT_MAX,
    };
    assert_eq!(drift(&lives.sizes, share), [""; 0]);
    print_row("R20", usize::try_from(lives.commits).unwrap(), started);
}

/// R20, planted: without retention the files grow, and that is seen.
#[test]
fn r20_a_store_that_keeps_everything_is_found() {
    let place = in_memory();
    let lives = lives(place.path(), true, |all| all.lives < 3).unwrap();
    let found = drift(&lives.sizes, DRIFT_OF_FEW_MAX);
    assert!(
        found.iter().any(|what| what.starts_with("files")),
        "{found:?}"
    );
}
