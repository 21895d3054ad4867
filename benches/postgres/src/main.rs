//! Durable steps per second on one PostgreSQL server: this runtime beside DBOS for Rust.
//!
//! A step returns at once with 200 bytes of JSON; so many workflows run steps one after another.
//! Rounds are interleaved, and a ratio is of two runs that stood next to each other. Both sides
//! keep their default settings but where a row says otherwise, and no step is batched by its
//! caller.

mod dbos_steps;
mod own_steps;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    warm_up: Duration,
    window: Duration,
}

/// What the workflows of one run share: they count, and stop when they are told to.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    steps: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Counts one step; says whether to go on.
    pub(crate) fn count(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }

    /// Lets the workflows run through warm-up and window; returns steps per second.
    pub(crate) async fn observe(&self, plan: &Plan) -> f64 {
        tokio::time::sleep(plan.warm_up).await;
        let (from, before) = (Instant::now(), self.steps.load(Ordering::Relaxed));
        tokio::time::sleep(plan.window).await;
        let steps = self.steps.load(Ordering::Relaxed) - before;
        let rate = steps as f64 / from.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        rate
    }
}

/// A step's outcome: 200 bytes of JSON.
pub(crate) fn outcome() -> serde_json::Value {
    serde_json::json!({ "text": "o".repeat(200 - r#"{"text":""}"#.len()) })
}

fn main() -> Outcome<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let plan = Plan {
        rounds: if quick { 2 } else { 7 },
        warm_up: Duration::from_millis(if quick { 200 } else { 500 }),
        window: Duration::from_millis(if quick { 500 } else { 2_000 }),
    };
    let url = postgres_for_tests::url_for_tests();
    let url: Arc<str> = url
        .ok_or("no server; run this by `cargo xtask bench postgres`")?
        .into();
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    tokio.block_on(table::run(&plan, &url))
}
