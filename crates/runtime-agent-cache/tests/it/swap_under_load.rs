//! The worked example: agents of several tenants are in use while their configuration changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use runtime_agent_cache::AgentKey;

use crate::world::{World, settle};

const TENANTS: usize = 4;
const WORKERS: usize = 8;
const TURNS: usize = 300;
const VERSIONS: u64 = 25;

/// G1, G2: workers run turns with the agent of their tenant; an operator raises the version of
/// its configuration again and again. A turn keeps the agent it started with; a turn that starts
/// after a swap never gets an older one; everything is disposed of once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g2_configuration_is_swapped_under_load() {
    let world = World::new();
    let live: Arc<Vec<AtomicU64>> = Arc::new((0..TENANTS).map(|_| AtomicU64::new(1)).collect());
    let key = |tenant: usize| AgentKey::new(&format!("tenant-{tenant}"), "agent");

    let mut tasks = Vec::new();
    for worker in 0..WORKERS {
        let (cache, build, live) = (
            world.cache.clone(),
            Arc::clone(&world.build),
            Arc::clone(&live),
        );
        tasks.push(tokio::spawn(async move {
            let tenant = worker % TENANTS;
            let mut newest = 0;
            for _ in 0..TURNS {
                let wanted = live[tenant].load(Ordering::SeqCst);
                let lease = cache.get_or_build(&key(tenant), 1, &build).await.unwrap();
                assert!(lease.version >= wanted && lease.version >= newest);
                newest = lease.version;
                for _ in 0..5 {
                    lease.use_it();
                    tokio::task::yield_now().await;
                }
                assert_eq!(lease.version, newest, "a turn keeps its agent");
            }
        }));
    }
    for tenant in 0..TENANTS {
        let (cache, live) = (world.cache.clone(), Arc::clone(&live));
        tasks.push(tokio::spawn(async move {
            for version in 2..=VERSIONS {
                cache.invalidate(&key(tenant), version).await.unwrap();
                if cache
                    .state(&key(tenant))
                    .is_some_and(|state| state.version >= version)
                {
                    live[tenant].store(version, Ordering::SeqCst);
                }
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(world.cache.close().await.is_complete());
    settle().await;
    assert!(world.books.built() > TENANTS as u64, "nothing was swapped");
    world.assert_all_disposed_once();
}

/// The example is what it says: it runs to its end with all of its assertions.
#[path = "../../examples/swap_under_load.rs"]
mod example;

#[test]
fn g2_the_example_holds() {
    example::main();
}
