//! A thousand workers with ten turns each, all at once, in one directory: nothing is lost, and how
//! much memory it took. `cargo xtask examples` runs it; it fails when an event or an answer is
//! missing, or when it needed more than 256 MiB.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::sync::Arc;

use futures_util::StreamExt;
use runtime::prelude::*;
use tokio::task::JoinSet;

const WORKERS: usize = 1_000;
const TURNS: usize = 10;
const MEBIBYTES_MAX: u64 = 256;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One worker: each answer is that of its own question.
async fn work(runtime: Runtime, worker: usize) -> Outcome<()> {
    let desk = runtime.worker(&format!("worker-{worker}")).await?;
    for turn in 0..TURNS {
        let answer = desk.ask(&format!("{worker}/{turn}")).await?;
        if answer != format!("Hello, {worker}/{turn}!") {
            return Err(format!("{worker}/{turn} was answered {answer:?}").into());
        }
    }
    Ok(())
}

/// Reads every event from the first on, until all turns have ended; gives how many there were.
async fn watch(runtime: Runtime) -> Outcome<u64> {
    let mut events = runtime.subscribe(Topic::Runtime, None);
    let (mut position, mut ended) = (0, 0);
    while ended < WORKERS * TURNS {
        let item = events.next().await.ok_or("the stream ended")??;
        if let StreamItem::Event(event) = item {
            if event.position != position + 1 {
                return Err(format!("{} came after {position}", event.position).into());
            }
            position = event.position;
            ended += usize::from(*event.kind() == EventKind::TurnCompleted);
        }
    }
    Ok(position)
}

/// The most memory that this process has had, in MiB, where the system says.
fn memory_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / 1024)
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let model = ScriptedModel::new("scripted", vec![ScriptStep::text("Hello, {input}!")]);
    let agent = Agent::builder("1", Arc::new(model)).build();
    let builder = runtime::builder().directory("./.many").agent(agent);
    let runtime = builder.open().await?;
    let watching = tokio::spawn(watch(runtime.clone()));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(work(runtime.clone(), worker));
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let events = watching.await??;
    runtime.close().await?;
    let turns = WORKERS * TURNS;
    let peak = memory_peak().unwrap_or_default();
    println!("{WORKERS} workers, {turns} turns, {events} events in order, {peak} MiB at most");
    if peak > MEBIBYTES_MAX {
        return Err(format!("{peak} MiB is more than {MEBIBYTES_MAX}").into());
    }
    Ok(())
}
