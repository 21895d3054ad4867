//! The memory store against the law of a store (R18).

use std::sync::Arc;
use std::time::Instant;

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

/// R12: any sequence of commits, reads and reopenings reads as a plain list of commits does.
#[test]
fn r12_any_sequence_reads_as_the_model_says() {
    const CASES: u32 = 2_000;
    let started = Instant::now();
    runtime_testkit::check_against_model(CASES, 12, Memory::new);
    println!("R12 {CASES} 0 {:.1}", started.elapsed().as_secs_f64());
}
