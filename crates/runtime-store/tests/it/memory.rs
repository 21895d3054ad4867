//! The memory store against the law of a store (R18).

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::Timestamp;
use runtime_store::{Limits, MemoryStore, Store};
use runtime_testkit::store_laws::StoreFixture;
use runtime_testkit::{SeededRandom, SimulatedClock};

struct Memory(MemoryStore);

impl Memory {
    fn new() -> Self {
        // Smaller than the default, so that forgetting and refusing take no time.
        let limits = Limits {
            commit_bytes_max: 64 * 1024,
            remembered_commits: 1_000,
            ..Limits::default()
        };
        Self(MemoryStore::with_parts(
            "laws".parse().expect("a runtime id"),
            Arc::new(SimulatedClock::new(Timestamp::from_millis(0))),
            Arc::new(SeededRandom::new(18)),
            limits,
        ))
    }
}

#[async_trait]
impl StoreFixture for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopen())
    }
}

runtime_testkit::store_laws!(Memory::new());
