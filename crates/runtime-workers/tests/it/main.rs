//! The runtime entity: its suite over a store in memory, and what needs a clock or a fault.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails has found what its test looks for; rows of the scoreboard are printed"
)]

mod fold;
mod peers;
mod suite;
mod time;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use runtime_store::{MemoryStore, Store};

use crate::suite::Place;

/// A store in memory that one process after another opens.
struct Memory(Mutex<MemoryStore>);

impl Memory {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let id = format!("memory-{}", MADE.fetch_add(1, Ordering::Relaxed));
        Self(Mutex::new(MemoryStore::new(id.parse().unwrap())))
    }
}

#[async_trait]
impl Place for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        let mut store = self.0.lock().unwrap();
        *store = store.reopen();
        Arc::new(store.clone())
    }
}

suite_over!("memory", Some(Memory::new()));
