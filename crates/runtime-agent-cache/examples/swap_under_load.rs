//! Built agents per tenant, and a configuration that changes while they work:
//! `cargo run -p runtime-agent-cache --example swap_under_load`.
//!
//! A turn leases the agent of its tenant and keeps it to its end, whatever is configured
//! meanwhile. A turn that starts after a swap gets the new one. The old one is shut down when its
//! last turn is over.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example prints, and stops when it cannot go on"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use runtime_agent_cache::{AgentCache, AgentCacheConfig, AgentKey, Build, Dispose, Invalidated};
use runtime_core::{Clock, Sleep, Timestamp, WireError};
use runtime_testkit::SeededRandom;

const TENANTS: u64 = 4;
const WORKERS: u64 = 8;
const TURNS: usize = 500;
const VERSIONS: u64 = 25;

/// A built agent. A real one holds a model client, prompts, connections to tool servers.
struct Agent {
    tenant: u64,
    version: u64,
    shut_down: AtomicU64,
}

impl Agent {
    async fn run_a_turn(&self) {
        for _step in 0..5 {
            let shut_down = self.shut_down.load(Ordering::SeqCst);
            assert_eq!(shut_down, 0, "an agent was shut down in mid-turn");
            tokio::task::yield_now().await;
        }
    }
}

/// Shuts agents down, each once.
#[derive(Default)]
struct ShutDown(AtomicU64);

#[async_trait]
impl Dispose<Agent> for ShutDown {
    async fn dispose(&self, agent: Agent) -> Result<(), WireError> {
        agent.shut_down.fetch_add(1, Ordering::SeqCst);
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

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

type Cache = AgentCache<Agent>;
type Builder = Arc<dyn Build<Agent>>;

fn key(tenant: u64) -> AgentKey {
    AgentKey::new(&format!("tenant-{tenant}"), "assistant")
}

/// Builds the agent of a tenant from its configuration of that version.
fn builder(tenant: u64) -> Builder {
    Arc::new(move |version: u64| async move {
        tokio::task::yield_now().await;
        let shut_down = AtomicU64::new(0);
        Ok::<_, WireError>(Some(Agent {
            tenant,
            version,
            shut_down,
        }))
    })
}

/// Runs turns, one after another; an agent is never older than the one before.
async fn work(cache: Cache, tenant: u64, builder: Builder) {
    let mut newest = 0;
    for _ in 0..TURNS {
        let agent = cache.get_or_build(&key(tenant), 1, &builder).await;
        let agent = agent.expect("there is room for every tenant");
        assert!(agent.tenant == tenant && agent.version >= newest);
        newest = agent.version;
        agent.run_a_turn().await;
    }
}

/// Changes the configuration again and again.
async fn configure(cache: Cache, tenant: u64) {
    for version in 2..=VERSIONS {
        let swapped = cache.invalidate(&key(tenant), version).await;
        assert_eq!(swapped, Ok(Invalidated::Swapped { version }));
        let now = cache.get(&key(tenant)).expect("it was swapped just now");
        assert_eq!(
            now.version, version,
            "a turn that starts now gets the new one"
        );
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
pub(crate) async fn main() {
    let clock = Arc::new(MachineClock(Instant::now()));
    let (random, shut_down) = (
        Arc::new(SeededRandom::new(1)),
        Arc::new(ShutDown::default()),
    );
    let dispose = Arc::clone(&shut_down) as Arc<dyn Dispose<Agent>>;
    let cache = Cache::new(AgentCacheConfig::default(), clock, random, dispose);
    cache.start_sweeper();

    let builders: Vec<Builder> = (0..TENANTS).map(builder).collect();
    for (tenant, builder) in (0..).zip(&builders) {
        let warm = cache.get_or_build(&key(tenant), 1, builder).await;
        drop(warm.expect("there is room for every tenant"));
    }
    let mut tasks = Vec::new();
    for worker in 0..WORKERS {
        let tenant = worker % TENANTS;
        let builder = Arc::clone(&builders[tenant as usize]);
        tasks.push(tokio::spawn(work(cache.clone(), tenant, builder)));
    }
    for tenant in 0..TENANTS {
        tasks.push(tokio::spawn(configure(cache.clone(), tenant)));
    }
    for task in tasks {
        task.await.expect("no turn fails");
    }

    assert!(cache.close().await.is_complete(), "an agent was left over");
    let counters = cache.counters();
    let ended = shut_down.0.load(Ordering::SeqCst);
    assert_eq!(counters.builds, TENANTS * VERSIONS);
    assert_eq!(ended, counters.builds, "each agent is shut down once");
    println!(
        "{} turns of {TENANTS} tenants, {} agents built, {} swapped under load, {ended} shut down",
        WORKERS * TURNS as u64,
        counters.builds,
        counters.swaps,
    );
}
