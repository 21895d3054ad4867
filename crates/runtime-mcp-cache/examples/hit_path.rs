//! What a hit costs, beside the floor and three other designs, in one run:
//! `cargo run --release -p runtime-mcp-cache --example hit_path`.
//!
//! Trust the ratios, not the nanoseconds. The rounds of all rows take turns, so that a noisy
//! moment hits them alike. `rmcp` is measured behind a real client of it, whose server is the other
//! end of a pipe; the seed design is rebuilt here as it was described: definitions that are cloned
//! deeply under one mutex.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example prints, and stops when it cannot go on"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use runtime_core::{Clock, ErrorClass, Sleep, Timestamp, ToolDefinition, WireError};
use runtime_mcp_cache::{
    Authorisation, CacheConfig, CacheKey, Catalogue, CatalogueBuilder, DiscoveryCache, FetchError,
    FetchLimits, Fetched, Hints, Owner,
};
use runtime_testkit::SeededRandom;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

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

/// 32 tools with 39 KB of input schemas, as finely grained as those of real servers: 18 bytes for
/// each JSON value (the list of `server-github` has 18.8, `server-filesystem` 18.1,
/// `server-everything` 21.8). What a deep clone costs is the number of values, not of bytes.
fn tools() -> Vec<Value> {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "required": ["owner", "repository", "title"],
        "properties": {
            "owner": {"type": "string", "description": "Owner of the repository (user name or organisation)"},
            "repository": {"type": "string", "description": "Name of the repository, without the owner"},
            "title": {"type": "string", "description": "Title of the issue, on one line"},
            "body": {"type": "string", "description": "What it is about, in Markdown, as text"},
            "state": {"type": "string", "enum": ["open", "closed", "all"]},
            "sort": {"type": "string", "enum": ["created", "updated", "comments"]},
            "labels": {"type": "array", "items": {"type": "string"}},
            "assignees": {"type": "array", "items": {"type": "string"}},
            "milestone": {"type": "number", "description": "Number of the milestone to associate it"},
            "draft": {"type": "boolean", "description": "Keep it from being seen yet"},
            "files": {"type": "array", "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["path", "content"],
                "properties": {"path": {"type": "string"},
                    "content": {"type": "string", "description": "The whole new content of it"}}
            }},
            "page": {"type": "number", "description": "Page of the results (default: 1)"},
            "per_page": {"type": "number", "minimum": 1, "maximum": 100}
        }
    });
    (0..32)
        .map(|n| json!({"name": format!("tool_{n}"), "description": "what the tool does, in a sentence or two", "inputSchema": schema}))
        .collect()
}

fn values(json: &Value) -> usize {
    match json {
        Value::Object(members) => 1 + members.values().map(values).sum::<usize>(),
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        _ => 1,
    }
}

/// Returns the bytes of all input schemas, and the number of JSON values in them.
fn schema_size() -> (usize, usize) {
    let tools = tools();
    let schemas = tools.iter().map(|tool| &tool["inputSchema"]);
    schemas.fold((0, 0), |(bytes, count), schema| {
        (bytes + schema.to_string().len(), count + values(schema))
    })
}

/// The design that this cache descends from: one mutex around all entries, and on each hit the
/// whole list is cloned under it, definition by definition.
struct SeedDesign {
    entries: Mutex<HashMap<(u128, String), SeedEntry>>,
    ttl: Duration,
}

struct SeedEntry {
    tools: Vec<ToolDefinition>,
    cached_at: Instant,
    last_used: Instant,
}

impl SeedDesign {
    fn holding(key: (u128, String), tools: Vec<ToolDefinition>) -> Self {
        let now = Instant::now();
        let entry = SeedEntry {
            tools,
            cached_at: now,
            last_used: now,
        };
        Self {
            entries: Mutex::new(HashMap::from([(key, entry)])),
            ttl: Duration::from_secs(3_600),
        }
    }

    fn get(&self, key: &(u128, String)) -> Option<Vec<ToolDefinition>> {
        let now = Instant::now();
        let mut entries = self.entries.lock().expect("nobody panicked");
        let entry = entries.get_mut(key)?;
        entry.last_used = now;
        let fresh = now.duration_since(entry.cached_at) < self.ttl;
        fresh.then(|| entry.tools.clone())
    }
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
        let nanos = Vec::new();
        Self {
            name,
            iterations,
            nanos,
        }
    }

    fn round(&mut self, mut act: impl FnMut()) {
        let start = Instant::now();
        (0..self.iterations).for_each(|_| act());
        self.note(start);
    }

    async fn async_round<T>(&mut self, mut act: impl AsyncFnMut() -> T) {
        let start = Instant::now();
        for _ in 0..self.iterations {
            black_box(act().await);
        }
        self.note(start);
    }

    fn note(&mut self, start: Instant) {
        let nanos = start.elapsed().as_nanos() as f64;
        self.nanos.push(nanos / f64::from(self.iterations));
    }

    /// Returns the share of rounds that took at most so long: 0.5 is the median.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.nanos.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share) as usize]
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// A tool server at the other end of a pipe: newline-delimited JSON-RPC, its list good for an hour.
async fn serve(pipe: DuplexStream, asked: Arc<AtomicU64>) {
    let (read, mut write) = tokio::io::split(pipe);
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).expect("a client sends JSON");
        let result = match request["method"].as_str() {
            Some("initialize") => json!({"protocolVersion": request["params"]["protocolVersion"],
                "capabilities": {"tools": {}}, "serverInfo": {"name": "pipe", "version": "1"}}),
            Some("tools/list") => {
                asked.fetch_add(1, Ordering::Relaxed);
                json!({"tools": tools(), "ttlMs": 3_600_000, "cacheScope": "public"})
            }
            _ => continue,
        };
        let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
        let written = write.write_all(format!("{answer}\n").as_bytes()).await;
        written.expect("the client reads");
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
    let lean = HashMap::from([(key.clone(), Arc::clone(&shared))]);
    let parts = ("server".to_owned(), "shared".to_owned(), key.digest());
    let full = HashMap::from([(parts.clone(), Arc::clone(&shared))]);
    let sharded: DashMap<CacheKey, Arc<Catalogue>> = DashMap::new();
    sharded.insert(key.clone(), Arc::clone(&shared));
    let moka = moka::future::Cache::builder()
        .max_capacity(1_024)
        .time_to_live(Duration::from_secs(3_600))
        .build();
    moka.insert(parts.clone(), Arc::clone(&shared)).await;
    let definitions = shared.tools().iter().map(|tool| tool.definition.clone());
    let seed_key = (7, "server".to_owned());
    let seed = SeedDesign::holding(seed_key.clone(), definitions.collect());
    let asked = Arc::new(AtomicU64::new(0));
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(serve(theirs, Arc::clone(&asked)));
    let client = rmcp::serve_client((), ours).await.expect("the pipe holds");
    let list = async || {
        client
            .list_tools(None)
            .await
            .expect("it is cached")
            .tools
            .len()
    };
    assert_eq!(list().await, 32);
    let connection = connection();

    let mut rows = [
        Row::new("floor: HashMap, SipHash on the full key, Arc clone", 2_000),
        Row::new("leaner floor: SipHash on 8 bytes of the digest", 2_000),
        Row::new("this cache, public get", 2_000),
        Row::new("this cache, connection digested each time", 200),
        Row::new("moka 0.12 (future), Arc clone", 1_000),
        Row::new("rmcp 3.9: its own cached list", 20),
        Row::new("the seed design: deep clone under a mutex", 2),
        Row::new("DashMap, Arc clone", 2_000),
        Row::new("of which: one reading of the clock", 2_000),
        Row::new("serialise for the model request", 2),
        Row::new("rendered JSON of the entry", 2_000),
    ];
    for _ in 0..ROUNDS {
        rows[0].round(|| drop(black_box(full.get(black_box(&parts)).cloned())));
        rows[1].round(|| drop(black_box(lean.get(black_box(&key)).cloned())));
        rows[2]
            .async_round(async || cache.get(black_box(&key), &fetch).await)
            .await;
        let digested = async || {
            let anonymous = Authorisation::Anonymous;
            let key = CacheKey::new(Owner::Shared, "server", &connection, &anonymous);
            cache.get(black_box(&key), &fetch).await
        };
        rows[3].async_round(digested).await;
        rows[4]
            .async_round(async || moka.get(black_box(&parts)).await)
            .await;
        rows[5].async_round(list).await;
        rows[6].round(|| drop(black_box(seed.get(black_box(&seed_key)))));
        rows[7].round(|| {
            let held = sharded.get(black_box(&key));
            drop(black_box(held.map(|held| Arc::clone(&held))));
        });
        rows[8].round(|| {
            black_box(clock.monotonic());
        });
        rows[9].round(|| {
            let definitions: Vec<_> = shared.tools().iter().map(|tool| &tool.definition).collect();
            drop(black_box(serde_json::to_vec(&definitions)));
        });
        rows[10].round(|| drop(black_box(Arc::clone(shared.rendered()))));
    }
    assert_eq!(
        asked.load(Ordering::Relaxed),
        1,
        "the client's own cache was measured"
    );
    print_hits(&rows);
}

fn print_hits(rows: &[Row]) {
    let (tools, (bytes, values)) = (tools().len(), schema_size());
    let grain = bytes as f64 / values as f64;
    println!("{tools} tools, {bytes} bytes of schemas, {grain:.1} bytes a JSON value");
    println!("{ROUNDS} rounds in turn; ns a hit");
    println!(
        "{:<51} {:>9} {:>9} {:>9}  x floor",
        "", "10%", "median", "90%"
    );
    for row in rows {
        let [low, median, high] = [0.1, 0.5, 0.9].map(|share| row.quantile(share));
        let ratio = median / rows[0].median();
        println!(
            "{:<51} {low:>9.0} {median:>9.0} {high:>9.0}  {ratio:.2}",
            row.name
        );
    }
    let ours = rows[2].median();
    let to_floor = ours / rows[0].median();
    println!(
        "hit / floor: {to_floor:.2} (leaner floor: {:.2})",
        ours / rows[1].median()
    );
    target("at most 3 x the SipHash floor", to_floor <= 3.0);
    let to_seed = rows[6].median() / ours;
    println!(
        "seed design / hit: {to_seed:.0}; rmcp / hit: {:.0}; moka / hit: {:.1}",
        rows[5].median() / ours,
        rows[4].median() / ours
    );
    target("at least 1,000 x the seed design", to_seed >= 1_000.0);
    target(
        "the fixture has 39 KB of schemas, as finely grained as real ones",
        (38_500..=40_000).contains(&bytes) && (18.0..=22.0).contains(&grain),
    );
}

fn target(what: &str, met: bool) {
    println!("target {}: {what}", if met { "met" } else { "MISSED" });
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
                        let down = WireError::new(
                            "tool_unavailable",
                            ErrorClass::Unavailable,
                            "nobody listens",
                        );
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
        let median = times[times.len() / 2];
        println!(
            "{name}: {callers} callers, {fetches} fetches, {:?} to {:?}, median {median:?}",
            times[0],
            times[times.len() - 1]
        );
        target(
            "a burst takes at most 2 x its fetch",
            median <= Duration::from_millis(20),
        );
        target("one fetch for all", fetches == 1.0);
    }
}
