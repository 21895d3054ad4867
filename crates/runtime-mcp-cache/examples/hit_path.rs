//! What a hit costs, beside the floor and three other designs, in one run:
//! `cargo run --release -p runtime-mcp-cache --example hit_path`.
//!
//! Trust the ratios, not the nanoseconds. Each row is the minimum and the median of its rounds;
//! the rounds of all rows take turns, so that a noisy moment hits them alike.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example prints, and stops when it cannot go on"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use runtime_core::{Clock, ErrorClass, Sleep, Timestamp, WireError};
use runtime_mcp_cache::{
    Authorisation, CacheConfig, CacheKey, Catalogue, CatalogueBuilder, DiscoveryCache, FetchError,
    FetchLimits, Fetched, Hints, Owner,
};
use runtime_testkit::SeededRandom;
use serde_json::{Value, json};

/// Short and many, so that some are not interrupted even on a busy machine.
const ROUNDS: usize = 401;

#[derive(Debug)]
struct MachineClock(Instant);

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Timestamp::from_millis(wall.map_or(0, |since| since.as_millis() as u64))
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

fn tools() -> Vec<Value> {
    let property = |n: usize| {
        (
            format!("parameter_{n}"),
            json!({"type": "string", "description": "a description of the parameter that is about as long as they are"}),
        )
    };
    let properties: serde_json::Map<_, _> = (0..9).map(property).collect();
    (0..32)
        .map(|n| json!({"name": format!("tool_{n}"), "description": "what the tool does, in a sentence or two",
            "inputSchema": {"type": "object", "properties": properties}}))
        .collect()
}

fn catalogue(limits: FetchLimits) -> Fetched<Catalogue> {
    let mut list = CatalogueBuilder::new("server", false, limits);
    list.page(tools(), Hints::default()).expect("it is small");
    list.finish()
}

fn connection() -> Value {
    json!({"type": "http", "url": "https://tools.example.test/mcp", "headers": {"x-team": "one"}})
}

fn key() -> CacheKey {
    CacheKey::new(
        Owner::Shared,
        "server",
        &connection(),
        &Authorisation::Anonymous,
    )
}

fn new_cache<V: runtime_mcp_cache::CacheValue>() -> DiscoveryCache<V> {
    let clock = Arc::new(MachineClock(Instant::now()));
    DiscoveryCache::new(
        CacheConfig::default(),
        clock,
        Arc::new(SeededRandom::new(1)),
    )
}

struct Row {
    name: &'static str,
    iterations: u32,
    nanos: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, iterations: u32) -> Self {
        Self {
            name,
            iterations,
            nanos: Vec::new(),
        }
    }

    fn round(&mut self, mut act: impl FnMut()) {
        let start = Instant::now();
        (0..self.iterations).for_each(|_| act());
        self.nanos
            .push(start.elapsed().as_nanos() as f64 / f64::from(self.iterations));
    }

    fn min_and_median(&self) -> (f64, f64) {
        let mut sorted = self.nanos.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted[0], sorted[sorted.len() / 2])
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(hits());
    runtime.block_on(cold_bursts());
}

async fn hits() {
    let (key, limits) = (key(), CacheConfig::default().fetch_limits());
    let cache = new_cache();
    let fetch =
        Arc::new(|limits: FetchLimits| async move { Ok::<_, FetchError>(catalogue(limits)) });
    cache.get(&key, &fetch).await;

    let clock: Arc<dyn Clock> = Arc::new(MachineClock(Instant::now()));
    let shared = Arc::new(catalogue(limits).value);
    let plain: HashMap<CacheKey, Arc<Catalogue>> =
        HashMap::from([(key.clone(), Arc::clone(&shared))]);
    let parts = ("server".to_owned(), key.digest());
    let by_parts = HashMap::from([(parts.clone(), Arc::clone(&shared))]);
    let sharded: DashMap<CacheKey, Arc<Catalogue>> = DashMap::new();
    sharded.insert(key.clone(), Arc::clone(&shared));
    let seed: Mutex<HashMap<CacheKey, Vec<Value>>> =
        Mutex::new(HashMap::from([(key.clone(), tools())]));
    let client: RwLock<HashMap<CacheKey, Vec<Value>>> =
        RwLock::new(HashMap::from([(key.clone(), tools())]));

    let mut rows = [
        Row::new("floor: HashMap (SipHash) + Arc clone", 2_000),
        Row::new("DashMap + Arc clone", 2_000),
        Row::new("this cache, public get", 2_000),
        Row::new("this cache, key digested each time", 500),
        Row::new("deep clone under a mutex (the seed design)", 2),
        Row::new("write lock + deep clone (as a client's own)", 2),
        Row::new("serialise for the model request", 2),
        Row::new("rendered JSON of the entry", 2_000),
        Row::new("the floor with a plain key (name, digest)", 2_000),
        Row::new("of which: one reading of the clock", 2_000),
    ];
    for _ in 0..ROUNDS {
        rows[0].round(|| drop(black_box(plain.get(black_box(&key)).cloned())));
        rows[1].round(|| {
            drop(black_box(
                sharded.get(black_box(&key)).map(|held| Arc::clone(&held)),
            ))
        });
        let start = Instant::now();
        for _ in 0..rows[2].iterations {
            black_box(cache.get(black_box(&key), &fetch).await);
        }
        let iterations = f64::from(rows[2].iterations);
        rows[2]
            .nanos
            .push(start.elapsed().as_nanos() as f64 / iterations);
        let connection = connection();
        let start = Instant::now();
        for _ in 0..rows[3].iterations {
            let key = CacheKey::new(
                Owner::Shared,
                "server",
                &connection,
                &Authorisation::Anonymous,
            );
            black_box(cache.get(black_box(&key), &fetch).await);
        }
        let iterations = f64::from(rows[3].iterations);
        rows[3]
            .nanos
            .push(start.elapsed().as_nanos() as f64 / iterations);
        rows[4].round(|| {
            drop(black_box(
                seed.lock().expect("nobody panicked").get(&key).cloned(),
            ))
        });
        rows[5].round(|| {
            drop(black_box(
                client.write().expect("nobody panicked").get(&key).cloned(),
            ))
        });
        rows[6].round(|| {
            let definitions: Vec<_> = shared.tools().iter().map(|tool| &tool.definition).collect();
            drop(black_box(serde_json::to_vec(&definitions)));
        });
        rows[8].round(|| drop(black_box(by_parts.get(black_box(&parts)).cloned())));
        rows[9].round(|| {
            black_box(clock.monotonic());
        });
        rows[7].round(|| drop(black_box(Arc::clone(shared.rendered()))));
    }
    println!(
        "32 tools, {} bytes of definitions; ns, minimum / median, and the ratio to the floor",
        shared_bytes(&shared)
    );
    let (floor_min, floor_median) = rows[0].min_and_median();
    for row in &rows {
        let (min, median) = row.min_and_median();
        println!(
            "{:<45} {min:>10.0} / {median:<10.0} {:>9.2} / {:.2}",
            row.name,
            min / floor_min,
            median / floor_median
        );
    }
}

fn shared_bytes(catalogue: &Catalogue) -> u64 {
    runtime_mcp_cache::CacheValue::bytes(catalogue)
}

/// 1,000 callers of a cold key on a fetch of 10 ms; 100 callers of a server that fails in 10 ms.
async fn cold_bursts() {
    for (name, callers, fails) in [("cold burst", 1_000, false), ("failing server", 100, true)] {
        let (mut times, asked) = (Vec::new(), Arc::new(AtomicU64::new(0)));
        const BURSTS: u64 = 11;
        for _ in 0..BURSTS {
            let (cache, key) = (new_cache(), key());
            let asked = Arc::clone(&asked);
            let fetch = Arc::new(move |limits: FetchLimits| {
                asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if fails {
                        let down =
                            WireError::new("down", ErrorClass::Unavailable, "nobody listens");
                        return Err(FetchError::Failed(down));
                    }
                    Ok(catalogue(limits))
                }
            });
            let start = Instant::now();
            let calls: Vec<_> = (0..callers)
                .map(|_| {
                    let (cache, key, fetch) = (cache.clone(), key.clone(), Arc::clone(&fetch));
                    tokio::spawn(async move { cache.get(&key, &fetch).await })
                })
                .collect();
            for call in calls {
                call.await.expect("no caller panics");
            }
            times.push(start.elapsed());
        }
        times.sort();
        let fetches = asked.load(Ordering::Relaxed) as f64 / BURSTS as f64;
        println!(
            "{name}: {callers} callers, {fetches} fetches, median {:?}",
            times[times.len() / 2]
        );
    }
}
