//! The memory store against the law of a store (R18).

use std::sync::Arc;

use async_trait::async_trait;
use runtime_store::{MemoryStore, Store};
use runtime_testkit::store_laws::StoreFixture;

struct Memory(MemoryStore);

#[async_trait]
impl StoreFixture for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopen())
    }
}

runtime_testkit::store_laws!(Memory(MemoryStore::new(
    "laws".parse().expect("a runtime id")
)));
