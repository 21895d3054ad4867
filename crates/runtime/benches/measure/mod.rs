//! Measures contenders against a floor: interleaved rounds, so that a ratio is always of two runs
//! that stood next to each other under the same load.

pub(crate) mod floor;
mod machine;
mod report;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) use report::{Contender, Group, Table};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) is_quick: bool,
    pub(crate) rounds: usize,
    warm_up: Duration,
    window: Duration,
}

impl Plan {
    /// Reads `--quick` from the command line; anything else is for somebody else.
    pub(crate) fn from_arguments() -> Self {
        let is_quick = std::env::args().any(|argument| argument == "--quick");
        let [rounds, warm_up, window] = if is_quick {
            [3, 50, 250]
        } else {
            [9, 100, 700]
        };
        Self {
            is_quick,
            rounds: usize::try_from(rounds).expect("a small number"),
            warm_up: Duration::from_millis(warm_up),
            window: Duration::from_millis(window),
        }
    }
}

/// What one contender did in one window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Operations a second.
    pub(crate) rate: f64,
    /// Processor time of all threads for each operation, in microseconds: what other load on the
    /// machine changes least.
    pub(crate) cpu_micros: f64,
    /// Syncs of a file for each operation.
    pub(crate) flushes: f64,
    /// Bytes written for each operation.
    pub(crate) bytes: f64,
}

/// Syncs and bytes so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) syncs: u64,
    pub(crate) bytes: u64,
}

/// What the writers of one run share: they count, and stop when they are told to.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    operations: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Counts one operation; says whether to go on.
    pub(crate) fn count(&self) -> bool {
        self.operations.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Lets writers that were spawned run through warm-up and window, then waits for their end.
pub(crate) async fn observe(
    plan: &Plan,
    progress: &Arc<Progress>,
    writers: Vec<tokio::task::JoinHandle<Outcome<()>>>,
    written: impl Fn() -> Written,
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
    for writer in writers {
        writer.await??;
    }
    let operations = (operations_after - operations_before) as f64;
    if operations == 0.0 {
        return Err("nothing happened within the window; give it a longer one".into());
    }
    Ok(Figures {
        rate: operations / (to - from).as_secs_f64(),
        cpu_micros: (cpu_after - cpu_before).as_secs_f64() * 1e6 / operations,
        flushes: (after.syncs - before.syncs) as f64 / operations,
        bytes: (after.bytes - before.bytes) as f64 / operations,
    })
}

/// A fresh directory on the disk of the target directory, since `/tmp` may be memory.
pub(crate) fn scratch() -> Outcome<tempfile::TempDir> {
    let parent = output();
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new()
        .prefix("data-")
        .tempdir_in(parent)?)
}

/// Where results go.
pub(crate) fn output() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target
        .expect("cargo puts it below the target directory")
        .join("bench")
}

/// The runtime under every contender, the floor included.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()?)
}
