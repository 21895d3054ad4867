//! The laws of the event log and of live fan-out, over the store and the adapter in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use runtime_events::{LiveAdapter, LiveConfig, StreamAdapter};
use runtime_store::{MemoryStore, Store};
use runtime_testkit::adapter_laws::AdapterFixture;
use runtime_testkit::store_laws::StoreFixture;

struct Memory(MemoryStore);

impl Memory {
    fn new() -> Self {
        Self(MemoryStore::new("laws".parse().expect("a runtime id")))
    }
}

#[async_trait]
impl StoreFixture for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopen())
    }
}

runtime_testkit::event_laws!(Memory::new());

/// Remembers the adapter as what it is.
#[derive(Default)]
struct InMemory(Mutex<Option<LiveAdapter>>);

impl AdapterFixture for InMemory {
    fn open(&self, config: LiveConfig) -> Arc<dyn StreamAdapter> {
        let adapter = LiveAdapter::new(config);
        *self.0.lock().expect("no panic") = Some(adapter.clone());
        Arc::new(adapter)
    }

    fn rooms(&self, _: &Arc<dyn StreamAdapter>) -> Option<usize> {
        let adapter = self.0.lock().expect("no panic");
        adapter.as_ref().map(LiveAdapter::rooms)
    }
}

runtime_testkit::adapter_laws!(InMemory::default());
