//! One run of one contender: tasks that count until they are told to stop, or a fixed number of
//! repetitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinHandle;

use super::{Figures, Outcome, Plan, machine};

/// What the tasks of one run share.
#[derive(Debug, Default)]
pub struct Progress {
    operations: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Counts one operation; says whether to go on.
    pub fn count(&self) -> bool {
        self.operations.fetch_add(1, Ordering::Relaxed);
        !self.is_over()
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What was written to files until now, as far as somebody counts it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    pub syncs: u64,
    pub bytes: Option<u64>,
}

/// Lets tasks that were spawned run through warm-up and window, then waits for their end.
pub async fn observe(
    plan: Plan,
    progress: &Arc<Progress>,
    tasks: Vec<JoinHandle<Outcome<()>>>,
    written: impl Fn() -> Option<Written>,
) -> Outcome<Figures> {
    tokio::time::sleep(plan.warm_up).await;
    let look = || {
        let operations = progress.operations.load(Ordering::Relaxed);
        (Instant::now(), machine::cpu_time(), operations, written())
    };
    let (from, cpu_before, operations_before, before) = look();
    tokio::time::sleep(plan.window).await;
    let (to, cpu_after, operations_after, after) = look();
    progress.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    let operations = (operations_after - operations_before) as f64;
    if operations == 0.0 {
        return Err("nothing happened within the window".into());
    }
    let micros = (cpu_after - cpu_before).as_secs_f64() * 1e6;
    let mut per_operation = vec![("cpu us", micros / operations)];
    if let (Some(before), Some(after)) = (before, after) {
        let syncs = (after.syncs - before.syncs) as f64;
        per_operation.push(("syncs", syncs / operations));
        if let (Some(before), Some(after)) = (before.bytes, after.bytes) {
            per_operation.push(("bytes", (after - before) as f64 / operations));
        }
    }
    Ok(Figures {
        rate: operations / (to - from).as_secs_f64(),
        per_operation,
    })
}

/// Repeats an act until the window is over, in batches of so many between two looks at the clock.
/// Each act stands for `operations`.
pub async fn repeat(
    plan: Plan,
    batch: usize,
    operations: usize,
    mut act: impl AsyncFnMut() -> Outcome<()>,
) -> Outcome<Figures> {
    // Half of the time that tasks have: there is nothing to get into step with.
    let (warm_up, window) = (plan.warm_up / 4, plan.window / 2);
    let started = Instant::now();
    while started.elapsed() < warm_up {
        act().await?;
    }
    let (from, cpu_before) = (Instant::now(), machine::cpu_time());
    let mut acts = 0;
    while from.elapsed() < window {
        for _ in 0..batch {
            act().await?;
        }
        acts += batch;
    }
    let (seconds, cpu) = (
        from.elapsed().as_secs_f64(),
        machine::cpu_time() - cpu_before,
    );
    let operations = (acts * operations) as f64;
    Ok(Figures {
        rate: operations / seconds,
        per_operation: vec![("cpu us", cpu.as_secs_f64() * 1e6 / operations)],
    })
}
