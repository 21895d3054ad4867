//! What tool servers offer: a hit in the cache, and many callers of a key that nobody has fetched.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use own::discovery::{catalogue, key, new_cache, tools};
use runtime::core::ToolDefinition;
use runtime::mcp_cache::{CacheConfig, FetchLimits};
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
