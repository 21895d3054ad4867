//! 100,000 processes that wait are rows, not tasks (E9): what one of them costs, counted by the
//! allocator.
//!
//! `cargo run --release -p runtime-effects --example parked [COUNT]`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::alloc::System;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_core::ProcessId;
use runtime_effects::{WorkflowContext, WorkflowHost};
use runtime_store::MemoryStore;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Handle;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What was counted.
#[derive(Debug)]
struct Parked {
    /// The tasks of the whole program while all of them wait.
    tasks: usize,
    /// What the instance that holds them has allocated, in bytes for each.
    held_bytes: usize,
    /// What their rows and events take in a store in memory, in bytes for each.
    stored_bytes: usize,
    /// How often the function was driven once one of them was woken.
    driven_by_one_signal: usize,
}

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

fn id(number: usize) -> Result<ProcessId, Box<dyn Error>> {
    Ok(format!("p{number}").parse()?)
}

async fn open(
    store: &MemoryStore,
    drives: &Arc<AtomicUsize>,
) -> Result<WorkflowHost, Box<dyn Error>> {
    let drives = Arc::clone(drives);
    let host = WorkflowHost::builder(Arc::new(store.reopen()))
        .function("waits", move |context: WorkflowContext, (): ()| {
            drives.fetch_add(1, Ordering::Relaxed);
            async move { context.signal::<u32>("go").await }
        })
        .open()
        .await?;
    Ok(host)
}

async fn park(count: usize) -> Result<Parked, Box<dyn Error>> {
    let store = MemoryStore::new("parked".parse()?);
    let drives = Arc::new(AtomicUsize::new(0));
    let empty = allocated();
    let host = open(&store, &drives).await?;
    for number in 0..count {
        host.start(&id(number)?, "waits", &()).await?;
        if number % 1000 == 999 {
            host.settled().await;
        }
    }
    host.settled().await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let with_host = allocated();
    host.close().await;
    drop(host);
    let store_only = allocated();

    // The next instance finds them waiting, and drives none of them.
    drives.store(0, Ordering::Relaxed);
    let host = open(&store, &drives).await?;
    host.settled().await;
    let woken = id(count / 2)?;
    host.processes()
        .signal(&woken, "go", 1, json!(7), None)
        .await?;
    assert_eq!(host.run(&woken).value::<u32>().await?, 7);
    host.close().await;
    Ok(Parked {
        tasks,
        held_bytes: with_host.saturating_sub(store_only) / count,
        stored_bytes: store_only.saturating_sub(empty) / count,
        driven_by_one_signal: drives.load(Ordering::Relaxed),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(100_000), |text| text.parse())?;
    let parked = park(count).await?;
    println!(
        "{count} parked: {} task, {} bytes each in the instance, {} in a store in memory; \
         one signal drove {}",
        parked.tasks, parked.held_bytes, parked.stored_bytes, parked.driven_by_one_signal,
    );
    Ok(())
}

/// E9: what waits has no task, and costs the instance no more than its place on a list.
#[tokio::test]
async fn e9_what_waits_is_rows_and_no_task() {
    let parked = park(1000).await.expect("parks");
    println!("{parked:?}");
    assert_eq!((parked.tasks, parked.driven_by_one_signal), (1, 1));
    assert!(parked.held_bytes <= 1024, "{parked:?}");
}
