//! What tool servers offer: a hit in the cache, and many callers of a key that nobody has fetched.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime::core::ToolDefinition;
use runtime::mcp_cache::{
    Authorisation, CacheConfig, CacheKey, Catalogue, CatalogueBuilder, DiscoveryCache, FetchError,
    FetchLimits, Fetched, Hints, Owner,
};
use runtime::store::{SystemClock, SystemRandom};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use harness::{Figures, Outcome, Table, repeat};

const OURS: &str = "discovery cache";
const FLOOR: &str = "floor: HashMap, SipHash, Arc clone";
const NAIVE: &str = "naive: deep clone under a mutex";
const FETCH: &str = "floor: one fetch";
const TTL: Duration = Duration::from_secs(3_600);
const FETCH_TIME: Duration = Duration::from_millis(10);
const CALLERS: usize = 1_000;
const BATCH: usize = 1_000;

type Key = (String, String, u64);

pub(super) async fn tables() -> Outcome<Vec<Table>> {
    Ok(vec![hits().await?, bursts()])
}

/// 32 tools with 39 KB of input schemas, as finely grained as those of real servers: about 19 bytes
/// for each JSON value. What a deep clone costs is the number of values, not of bytes.
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
    let tool = |number| {
        json!({
            "name": format!("tool_{number}"),
            "description": "what the tool does, in a sentence or two",
            "inputSchema": schema,
        })
    };
    (0..32).map(tool).collect()
}

fn catalogue(limits: FetchLimits) -> Result<Fetched<Catalogue>, FetchError> {
    let mut list = CatalogueBuilder::new("server", false, limits);
    list.page(tools(), Hints::default())?;
    Ok(list.finish())
}

fn key() -> CacheKey {
    let connection = json!({ "type": "http", "url": "https://tools.example.test/mcp" });
    CacheKey::new(
        Owner::Shared,
        "server",
        &connection,
        &Authorisation::Anonymous,
    )
}

fn new_cache() -> DiscoveryCache<Catalogue> {
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    DiscoveryCache::new(CacheConfig::default(), clock, random)
}

/// One mutex around all entries, and on each hit the whole list is cloned under it.
struct Naive(Mutex<HashMap<Key, (Vec<ToolDefinition>, Instant)>>);

impl Naive {
    fn get(&self, key: &Key) -> Option<Vec<ToolDefinition>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tools, cached) = entries.get(key)?;
        (cached.elapsed() < TTL).then(|| tools.clone())
    }
}

async fn hits() -> Outcome<Table> {
    let cache = new_cache();
    let fetch = Arc::new(|limits: FetchLimits| async move { catalogue(limits) });
    cache.get(&key(), &fetch).await;

    let limits = CacheConfig::default().fetch_limits();
    let shared = Arc::new(catalogue(limits).map_err(|_| "the list is small")?.value);
    let parts: Key = ("server".to_owned(), "shared".to_owned(), 7);
    let floor = Arc::new(HashMap::from([(parts.clone(), Arc::clone(&shared))]));
    let moka = moka::future::Cache::builder()
        .max_capacity(1_024)
        .time_to_live(TTL)
        .build();
    moka.insert(parts.clone(), Arc::clone(&shared)).await;
    let definitions = shared.tools().iter().map(|tool| tool.definition.clone());
    let entry = (definitions.collect(), Instant::now());
    let naive = Arc::new(Naive(Mutex::new(HashMap::from([(parts.clone(), entry)]))));

    let [for_floor, for_moka, for_naive] = std::array::from_fn(|_| parts.clone());
    Ok(Table::new("a hit: 32 tools, 39 KB of schemas")
        .contender(FLOOR, move |plan, _| {
            let (floor, key) = (Arc::clone(&floor), for_floor.clone());
            async move {
                let act = async || {
                    drop(black_box(floor.get(black_box(&key)).cloned()));
                    Ok(())
                };
                repeat(plan, BATCH, 1, act).await
            }
        })
        .contender("moka 0.12 (future), Arc clone", move |plan, _| {
            let (moka, key) = (moka.clone(), for_moka.clone());
            async move {
                let act = async || {
                    drop(black_box(moka.get(black_box(&key)).await));
                    Ok(())
                };
                repeat(plan, BATCH, 1, act).await
            }
        })
        .contender(OURS, move |plan, _| {
            let (cache, key, fetch) = (cache.clone(), key(), Arc::clone(&fetch));
            async move {
                let act = async || {
                    drop(black_box(cache.get(black_box(&key), &fetch).await));
                    Ok(())
                };
                repeat(plan, BATCH, 1, act).await
            }
        })
        .contender(NAIVE, move |plan, _| {
            let (naive, key) = (Arc::clone(&naive), for_naive.clone());
            async move {
                let act = async || {
                    drop(black_box(naive.get(black_box(&key))));
                    Ok(())
                };
                repeat(plan, 1, 1, act).await
            }
        })
        .target(OURS, 1.0 / 3.0, FLOOR)
        .target(OURS, 1_000.0, NAIVE))
}

/// Callers of a cold key whose fetch takes 10 ms; a burst is over when each has its answer.
fn bursts() -> Table {
    Table::new(format!("a cold burst: {CALLERS} callers, a fetch of 10 ms"))
        .contender(FETCH, |_, _| async {
            let started = Instant::now();
            tokio::time::sleep(FETCH_TIME).await;
            Ok(burst(started))
        })
        .contender("moka 0.12 (future)", |_, _| async {
            let cache = moka::future::Cache::new(1_024);
            let started = Instant::now();
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS {
                let cache = cache.clone();
                callers.spawn(async move {
                    let fetch = async {
                        tokio::time::sleep(FETCH_TIME).await;
                        Arc::new(tools())
                    };
                    cache.get_with("server", fetch).await;
                });
            }
            callers.join_all().await;
            Ok(burst(started))
        })
        .contender(OURS, |_, _| async {
            let cache = new_cache();
            let fetch = Arc::new(|limits: FetchLimits| async move {
                tokio::time::sleep(FETCH_TIME).await;
                catalogue(limits)
            });
            let started = Instant::now();
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS {
                let (cache, fetch) = (cache.clone(), Arc::clone(&fetch));
                callers.spawn(async move { drop(cache.get(&key(), &fetch).await) });
            }
            callers.join_all().await;
            Ok(burst(started))
        })
        .target(OURS, 0.5, FETCH)
}

fn burst(started: Instant) -> Figures {
    Figures {
        rate: 1.0 / started.elapsed().as_secs_f64(),
        per_operation: Vec::new(),
    }
}
