//! Opening after SIGKILL: another process fills a store and is killed right after its last
//! acknowledgement. What is timed is the way of the next process to the last event, or to the next
//! step of every turn that was under way.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use runtime::core::Tier;
use runtime::effects::EffectHost as _;
use runtime::fs_store::{FsLimits, FsStore, FsStoreOptions};
use runtime::store::{Page, Position, Store};
use tokio::task::JoinSet;

use crate::engines::{self, Item, Kind};
use harness::{Figures, Outcome, Plan, Table};
use own::Appends;

/// So many workers, each with a row and a session.
const WRITERS: u64 = 10_000;
/// How many commits are under way at once while a store is filled.
const GROUP: u64 = 1_000;
const TURNS: usize = 1_000;
const STEPS_DONE: u32 = 5;
const FILL: &str = "PEERS_FILL";
const OURS: &str = "this store";
const NO_HISTORY: &str = "checkpoint read, a store of the tail opened";

/// What a store is filled with.
#[derive(Debug, Clone, Copy)]
enum Filling {
    Ours,
    /// In one segment, however many events there are.
    OneSegment,
    OurTurns,
    Peer(Kind),
    PeerTurns,
}

const FILLINGS: [(&str, Filling); 7] = [
    ("ours", Filling::Ours),
    ("one-segment", Filling::OneSegment),
    ("our-turns", Filling::OurTurns),
    ("fjall", Filling::Peer(Kind::Fjall)),
    ("sqlite", Filling::Peer(Kind::Sqlite)),
    ("redb", Filling::Peer(Kind::Redb)),
    ("sqlite-turns", Filling::PeerTurns),
];

pub(super) fn tables(plan: Plan) -> Outcome<Vec<Table>> {
    let most: u64 = if plan.is_quick { 20_000 } else { 1_000_000 };
    Ok(vec![opening(most)?, resuming()?])
}

fn opening(events: u64) -> Outcome<Table> {
    let mut table = Table::new(format!("opening after SIGKILL, {events} events"));
    let ours = Arc::new(Filled::of("ours", events)?);
    let files = ours.newest()?;
    table = table.contender("floor: its newest checkpoint and tail read", move |_, _| {
        let read = timed(|| {
            for file in &files {
                std::hint::black_box(std::fs::read(file)?);
            }
            Ok(())
        });
        async move { read }
    });
    // What must be read is the newest checkpoint and the log after it: the time of reading the one,
    // and of opening a store that has only as many events as the other.
    let tail_events = ours.events_after_checkpoint()?;
    let checkpoint = ours.newest_checkpoint()?;
    let tail = Filled::of("one-segment", tail_events)?;
    table = table.contender(NO_HISTORY, move |_, directory| {
        let opened = tail.copy_to(&directory).and_then(|()| {
            timed(|| {
                for file in checkpoint.iter() {
                    std::hint::black_box(std::fs::read(file)?);
                }
                drop(own::open(&directory, Tier::Power)?);
                Ok(())
            })
        });
        async move { opened }
    });
    for (name, filled, events) in [
        (OURS, ours, events),
        (
            "this store, a tenth of the events",
            Arc::new(Filled::of("ours", events / 10)?),
            events / 10,
        ),
    ] {
        table = table.contender(name, move |_, directory| {
            let filled = Arc::clone(&filled);
            async move {
                filled.copy_to(&directory)?;
                let started = Instant::now();
                let store = own::open(&directory, Tier::Power)?;
                let last = Page::after(Position(events - 1), 1);
                let page = store.events(None, last).await?;
                let figures = once(started);
                assert_eq!(page.events.len(), 1, "the last event is there");
                store.close().await?;
                Ok(figures)
            }
        });
    }
    for name in ["fjall", "sqlite", "redb"] {
        let filled = Filled::of(name, events)?;
        let Some((_, Filling::Peer(kind))) = FILLINGS.iter().find(|one| one.0 == name) else {
            return Err(format!("{name} is no peer").into());
        };
        table = table.contender(kind.name(), move |_, directory| {
            let opened = filled.copy_to(&directory).and_then(|()| {
                timed(|| {
                    drop(kind.open(&directory)?);
                    Ok(())
                })
            });
            async move { opened }
        });
    }
    Ok(table
        .rate_target(OURS, 1.0 / 0.5)
        .target(OURS, 0.5, NO_HISTORY))
}

fn resuming() -> Outcome<Table> {
    const OURS: &str = "this runtime";
    let ours = Filled::of("our-turns", 0)?;
    let sqlite = Filled::of("sqlite-turns", 0)?;
    let table = Table::new(format!(
        "{TURNS} turns of {STEPS_DONE} steps after SIGKILL, until the next step of each is done"
    ));
    let table = table.contender(Kind::SqliteSteps.name(), move |_, directory| {
        let resumed = sqlite.copy_to(&directory).and_then(|()| {
            timed(|| {
                let found = engines::steps_found(&directory)?;
                assert_eq!(found, TURNS * STEPS_DONE as usize, "each step is there");
                let next = turns(STEPS_DONE..STEPS_DONE + 1);
                Kind::SqliteSteps.open(&directory)?.commit(&next)
            })
        });
        async move { resumed }
    });
    let table = table.contender(OURS, move |_, directory| {
        let copied = ours.copy_to(&directory);
        async move {
            copied?;
            let started = Instant::now();
            let store = own::open(&directory, Tier::Power)?;
            run_steps(&(Arc::clone(&store) as _), STEPS_DONE + 1).await?;
            let figures = once(started);
            store.close().await?;
            Ok(figures)
        }
    });
    Ok(table.rate_target(OURS, 1.0 / 0.1))
}

/// Runs the first steps of every turn; those that are recorded are answered from their records.
async fn run_steps(store: &Arc<dyn Store>, steps: u32) -> Outcome<()> {
    let host = own::host(store);
    let mut running = JoinSet::new();
    for turn in 0..TURNS {
        let host = host.clone();
        running.spawn(async move {
            let scope = own::scope(turn)?;
            let controller = host.scoped(own::opening(&scope))?;
            for occurrence in 0..steps {
                let envelope = own::step(&scope, occurrence)?.retry_safe(true);
                controller.execute_effect(envelope, own::executor()).await?;
            }
            Outcome::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

fn turns(steps: std::ops::Range<u32>) -> Vec<Item> {
    let of_turn = |writer| {
        steps.clone().map(move |step| Item {
            writer,
            version: u64::from(step),
        })
    };
    (0..TURNS as u64).flat_map(of_turn).collect()
}

fn timed(act: impl FnOnce() -> Outcome<()>) -> Outcome<Figures> {
    let started = Instant::now();
    act()?;
    Ok(once(started))
}

fn once(started: Instant) -> Figures {
    Figures {
        rate: 1.0 / started.elapsed().as_secs_f64(),
        per_operation: Vec::new(),
    }
}

/// The directory of a process that was killed.
struct Filled(tempfile::TempDir);

impl Filled {
    fn of(name: &str, events: u64) -> Outcome<Self> {
        let directory = harness::scratch()?;
        let words = format!("{name} {events} {}", directory.path().display());
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
            "filled" => Ok(Self(directory)),
            _ => Err(format!("{name} could not be filled").into()),
        }
    }

    /// Opening changes what it opens, so each opening gets a copy.
    fn copy_to(&self, directory: &Path) -> Outcome<()> {
        copy(self.0.path(), directory)
    }

    fn newest_checkpoint(&self) -> Outcome<Option<PathBuf>> {
        let is_checkpoint =
            |path: &PathBuf| path.extension().is_some_and(|end| end == "checkpoint");
        let checkpoints = files(&self.0.path().join("store/checkpoints"))?;
        Ok(checkpoints.into_iter().rfind(is_checkpoint))
    }

    /// The newest checkpoint, if there is one, and the segments after it.
    fn newest(&self) -> Outcome<Vec<PathBuf>> {
        let checkpoint = self.newest_checkpoint()?;
        let last = checkpoint.as_deref().and_then(Path::file_stem);
        let mut segments = files(&self.0.path().join("store/segments"))?;
        segments.retain(|path| path.file_stem() > last);
        Ok(checkpoint.into_iter().chain(segments).collect())
    }

    /// What an opening reads of the log.
    fn events_after_checkpoint(&self) -> Outcome<u64> {
        let directory = harness::scratch()?;
        self.copy_to(directory.path())?;
        let store = own::open(directory.path(), Tier::Power)?;
        Ok(store.report().commits)
    }
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&place)?;
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

fn files(directory: &Path) -> Outcome<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(directory)?;
    let mut paths: Vec<_> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Outcome<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Fills a store if this process was started for that, and then waits to be killed.
pub(crate) fn fill_if_asked() -> Option<Outcome<()>> {
    let words = std::env::var(FILL).ok()?;
    Some(fill(&words))
}

fn fill(words: &str) -> Outcome<()> {
    let mut words = words.splitn(3, ' ');
    let mut word = || words.next().ok_or("three words");
    let (name, events, directory) = (word()?, word()?.parse()?, Path::new(word()?));
    let filling = FILLINGS.iter().find(|one| one.0 == name);
    let (_, filling) = filling.ok_or("nobody has that name")?;
    let tokio = tokio::runtime::Runtime::new()?;
    // Whoever holds the store must live until the kill.
    let _held: Box<dyn std::any::Any> = match filling {
        Filling::Ours => {
            let store = own::open(directory, Tier::Power)?;
            tokio.block_on(fill_ours(&store, events))?;
            Box::new(store)
        }
        Filling::OneSegment => {
            let limits = FsLimits::default();
            let store = FsStore::open(&FsStoreOptions {
                fs_limits: FsLimits {
                    segment_bytes_first: limits.segment_bytes_max,
                    ..limits
                },
                ..FsStoreOptions::new(directory.join("store"))
            })?;
            let store = Arc::new(store);
            tokio.block_on(fill_ours(&store, events))?;
            Box::new(store)
        }
        Filling::OurTurns => {
            let store = own::open(directory, Tier::Power)?;
            let shared = Arc::clone(&store) as Arc<dyn Store>;
            tokio.block_on(async {
                for turn in 0..TURNS {
                    own::start(&*shared, &own::scope(turn)?).await?;
                }
                run_steps(&shared, STEPS_DONE).await
            })?;
            Box::new(store)
        }
        Filling::Peer(kind) => {
            let mut engine = kind.open(directory)?;
            for first in (0..events).step_by(GROUP as usize) {
                let items = first..events.min(first + GROUP);
                engine.commit(&items.map(item).collect::<Vec<_>>())?;
            }
            Box::new(engine)
        }
        Filling::PeerTurns => {
            let mut engine = Kind::SqliteSteps.open(directory)?;
            engine.commit(&turns(0..STEPS_DONE))?;
            Box::new(engine)
        }
    };
    println!("filled");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn item(number: u64) -> Item {
    Item {
        writer: number % WRITERS,
        version: number / WRITERS,
    }
}

/// Appends events of [`WRITERS`] sessions.
pub(super) async fn fill_ours<S: Store>(store: &Arc<S>, events: u64) -> Outcome<()> {
    for first in (0..events).step_by(GROUP as usize) {
        let mut running = JoinSet::new();
        for number in first..events.min(first + GROUP) {
            let Item { writer, version } = item(number);
            let (store, commit) = (Arc::clone(store), Appends::of(writer)?.commit(version));
            running.spawn(async move { store.commit(commit).await });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
    }
    Ok(())
}
