//! What this runtime takes for what it does, alone: for whoever changes it and wants to know by how
//! much. Run by `cargo xtask bench`; a run is compared with the one before.
//!
//! What it takes beside others is measured by the package `peers`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use futures_util::StreamExt as _;
use own::lease::Leases;
use own::turn::{Turns, agent};
use own::{Appends, Outcome};
use runtime::core::{Tier, Topic};
use runtime::effects::EffectHost as _;
use runtime::events::{EventHub, StreamItem};
use runtime::mcp_cache::FetchLimits;
use runtime::store::{MemoryStore, Page, Position, Store, SystemClock, SystemRandom};
use tempfile::TempDir;
use tokio::runtime::Runtime as Tokio;
use tokio::task::JoinSet;

/// How many of something run at once.
const TOGETHER: u64 = 64;
const HISTORY: u64 = 10_000;
const PAGE: usize = 100;
const SUBSCRIBERS: usize = 100;

type Group = fn(&mut Bench<'_>) -> Outcome<()>;

const GROUPS: &[(&str, Group)] = &[
    ("append", append),
    ("step", step),
    ("replay", replay),
    ("open", open),
    ("fan-out", fan_out),
    ("promise", promise),
    ("discovery", discovery),
    ("lease", lease),
    ("turn", turn),
    ("pure", pure),
];

fn main() -> Outcome<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let tokio = Tokio::new()?;
    let _entered = tokio.enter();
    for (name, measure) in GROUPS {
        let mut bench = Bench {
            group: criterion.benchmark_group(*name),
            tokio: &tokio,
        };
        bench.group.throughput(Throughput::Elements(1));
        measure(&mut bench)?;
        bench.group.finish();
    }
    criterion.final_summary();
    Ok(())
}

struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    tokio: &'a Tokio,
}

impl Bench<'_> {
    /// Measures an act that is repeated, one after another.
    fn each(&mut self, name: &str, mut act: impl AsyncFnMut() -> Outcome<()>) {
        self.timed(name, async |times| {
            let started = Instant::now();
            for _ in 0..times {
                act().await?;
            }
            Ok(started.elapsed())
        });
    }

    /// Measures what is repeated by [`TOGETHER`] tasks at once, each as often as it is told.
    fn together<Acting>(&mut self, name: &str, mut act: impl FnMut(u64) -> Acting)
    where
        Acting: Future<Output = Outcome<()>> + Send + 'static,
    {
        self.timed(&format!("{name}, {TOGETHER} at once"), async |times| {
            let mut tasks = JoinSet::new();
            let started = Instant::now();
            for task in 0..TOGETHER {
                tasks.spawn(act(times / TOGETHER + u64::from(task < times % TOGETHER)));
            }
            while let Some(done) = tasks.join_next().await {
                done??;
            }
            Ok(started.elapsed())
        });
    }

    /// Measures what says itself how long so many repetitions took.
    fn timed(&mut self, name: &str, mut run: impl AsyncFnMut(u64) -> Outcome<Duration>) {
        let tokio = self.tokio;
        self.group
            .bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|times| {
                    let ran = tokio.block_on(run(times));
                    ran.unwrap_or_else(|error| panic!("{name}: {error}"))
                });
            });
    }
}

/// A directory below that of the target, so on the disk that is meant.
fn scratch() -> Outcome<TempDir> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

const PLACES: &[(&str, Option<Tier>)] = &[
    ("memory", None),
    ("files, Crash", Some(Tier::Crash)),
    ("files, Power", Some(Tier::Power)),
];

/// A store, and the directory that goes with it.
fn place(tier: Option<Tier>) -> Outcome<(Arc<dyn Store>, Option<TempDir>)> {
    Ok(match tier {
        None => (Arc::new(MemoryStore::new("bench".parse()?)), None),
        Some(tier) => {
            let directory = scratch()?;
            (own::open(directory.path(), tier)?, Some(directory))
        }
    })
}

/// A durable commit of a guard, a row, and an event of 300 bytes.
fn append(bench: &mut Bench<'_>) -> Outcome<()> {
    for (name, tier) in PLACES {
        let (store, _directory) = place(*tier)?;
        let mut writers = 0;
        let mut appends = || {
            writers += 1;
            Appends::of(writers)
        };
        let (first, mut version) = (appends()?, 0);
        bench.each(name, async || {
            store.commit(first.commit(version)).await?;
            version += 1;
            Ok(())
        });
        bench.together(name, |times| {
            let (store, appends) = (Arc::clone(&store), appends());
            async move {
                let appends = appends?;
                for version in 0..times {
                    store.commit(appends.commit(version)).await?;
                }
                Ok(())
            }
        });
    }
    Ok(())
}

/// A durable effect with an outcome of 200 bytes: executed, and found to be recorded.
fn step(bench: &mut Bench<'_>) -> Outcome<()> {
    for (name, tier) in PLACES {
        let (store, _directory) = place(*tier)?;
        let host = own::host(&store);
        let mut turns = 0;
        let mut turn = || {
            turns += 1;
            own::scope(turns)
        };
        let run = {
            let (store, host) = (Arc::clone(&store), host.clone());
            move |scope: Outcome<_>, times: u64, retry_safe: bool| {
                let (store, host) = (Arc::clone(&store), host.clone());
                async move {
                    let scope = scope?;
                    own::start(&*store, &scope).await?;
                    let controller = host.scoped(own::opening(&scope))?;
                    for occurrence in 0..times {
                        let step = own::step(&scope, occurrence as u32)?.retry_safe(retry_safe);
                        controller.execute_effect(step, own::executor()).await?;
                    }
                    Outcome::Ok(())
                }
            }
        };
        for (writes, retry_safe) in [("1 write", true), ("2 writes", false)] {
            let name = format!("{name}, {writes}");
            bench.timed(&name, async |times| {
                let started = Instant::now();
                run(turn(), times, retry_safe).await?;
                Ok(started.elapsed())
            });
            bench.together(&name, |times| run(turn(), times, retry_safe));
        }
        let scope = own::scope(0)?;
        bench.tokio.block_on(run(Ok(scope.clone()), 1, true))?;
        bench.each(&format!("{name}, recorded before"), async || {
            let controller = host.scoped(own::opening(&scope))?;
            let step = own::step(&scope, 0)?.retry_safe(true);
            controller.execute_effect(step, own::executor()).await?;
            Ok(())
        });
    }
    Ok(())
}

/// Fills a store with the events of one session.
async fn fill(store: &Arc<dyn Store>) -> Outcome<()> {
    let draft = Arc::new(own::draft("long")?);
    for _ in 0..HISTORY / TOGETHER {
        let mut telling = JoinSet::new();
        for _ in 0..TOGETHER {
            let (store, draft) = (Arc::clone(store), Arc::clone(&draft));
            telling.spawn(async move { own::tell(&*store, &draft).await });
        }
        while let Some(told) = telling.join_next().await {
            told??;
        }
    }
    Ok(())
}

/// A page anywhere in 10,000 events, as it is stored and as events.
fn replay(bench: &mut Bench<'_>) -> Outcome<()> {
    let (store, _directory) = place(Some(Tier::Crash))?;
    bench.tokio.block_on(fill(&store))?;
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let hub = EventHub::new(Arc::clone(&store), clock, random);
    let mut place = 0;
    let mut anywhere = || {
        place = (place + 7_919) % (HISTORY - HISTORY % TOGETHER - PAGE as u64);
        Position(place)
    };
    bench.each("stored", async || {
        let page = store.events(None, Page::after(anywhere(), PAGE)).await?;
        assert_eq!(page.events.len(), PAGE);
        Ok(())
    });
    bench.each("decoded", async || {
        let cursor = hub.cursor_after(anywhere());
        let page = hub.read(Topic::Runtime, cursor, PAGE).await?;
        assert_eq!(page.events.len(), PAGE);
        Ok(())
    });
    Ok(())
}

/// Opening a store with 10,000 events that was closed.
fn open(bench: &mut Bench<'_>) -> Outcome<()> {
    let directory = scratch()?;
    let store: Arc<dyn Store> = own::open(directory.path(), Tier::Crash)?;
    bench.tokio.block_on(async {
        fill(&store).await?;
        Outcome::Ok(store.close().await?)
    })?;
    drop(store);
    bench.timed("closed before", async |times| {
        let mut opening = Duration::ZERO;
        for _ in 0..times {
            let started = Instant::now();
            let store = own::open(directory.path(), Tier::Crash)?;
            opening += started.elapsed();
            store.close().await?;
        }
        Ok(opening)
    });
    Ok(())
}

/// From the commit of an event until each subscriber has it.
fn fan_out(bench: &mut Bench<'_>) -> Outcome<()> {
    let (store, _) = place(None)?;
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let hub = EventHub::new(store, clock, random);
    let mut streams = Vec::new();
    bench.tokio.block_on(async {
        for _ in 0..SUBSCRIBERS {
            let mut stream = hub.subscribe(Topic::Runtime, hub.cursor_from_start());
            stream.join().await?;
            streams.push(stream);
        }
        Outcome::Ok(())
    })?;
    let draft = own::draft("bench")?;
    bench.each(&format!("{SUBSCRIBERS} subscribers"), async || {
        own::tell(&*hub.store(), &draft).await?;
        for stream in &mut streams {
            while !matches!(stream.next().await, Some(Ok(StreamItem::Event(_)))) {}
        }
        Ok(())
    });
    bench.tokio.block_on(hub.close());
    Ok(())
}

/// From the resolution of a promise until whoever waits for it runs.
fn promise(bench: &mut Bench<'_>) -> Outcome<()> {
    for (name, tier) in PLACES {
        let (store, _directory) = place(*tier)?;
        let host = own::host(&store);
        let mut turn = 0;
        bench.timed(name, async |times| {
            let mut waking = Duration::ZERO;
            for _ in 0..times {
                turn += 1;
                own::start(&*store, &own::scope(turn)?).await?;
                let waiting = host.clone();
                let woken = tokio::spawn(async move { own::promise::wait(&waiting, turn).await });
                tokio::task::yield_now().await;
                let started = Instant::now();
                own::promise::resolve(&host, turn).await?;
                waking += woken.await??.duration_since(started);
            }
            Ok(waking)
        });
    }
    Ok(())
}

/// What tool servers offer, known already: 32 tools, 39 KB of schemas.
fn discovery(bench: &mut Bench<'_>) -> Outcome<()> {
    let cache = own::discovery::new_cache();
    let key = own::discovery::key();
    let fetch = Arc::new(|limits: FetchLimits| async move { own::discovery::catalogue(limits) });
    bench.each("a hit", async || {
        drop(black_box(cache.get(black_box(&key), &fetch).await));
        Ok(())
    });
    Ok(())
}

/// Acquiring and releasing a live agent.
fn lease(bench: &mut Bench<'_>) -> Outcome<()> {
    let leases = Leases::new();
    bench.each("acquire and release", async || {
        drop(black_box(leases.acquire().await?));
        Ok(())
    });
    Ok(())
}

/// A whole scripted turn with two tools.
fn turn(bench: &mut Bench<'_>) -> Outcome<()> {
    for (name, tier) in PLACES {
        let (store, _directory) = place(*tier)?;
        let opened = runtime::builder().agent(agent()).store(store).open();
        let runtime = bench.tokio.block_on(opened)?;
        let mut turns = bench.tokio.block_on(Turns::of(&runtime))?;
        bench.each(name, async || turns.take().await);
        drop(turns);
        bench.tokio.block_on(runtime.close())?;
    }
    Ok(())
}

/// The paths whose instructions are counted as well.
fn pure(bench: &mut Bench<'_>) -> Outcome<()> {
    for (name, prepare) in instructions::PATHS {
        let mut act = prepare()?;
        // Not within a future: some have a runtime of their own.
        bench.group.bench_function(*name, |bencher| {
            bencher.iter(|| act().unwrap_or_else(|error| panic!("{name}: {error}")));
        });
    }
    Ok(())
}
