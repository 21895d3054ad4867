//! The laws of effects on the store in memory; those on files stand with the file store.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_store::{MemoryStore, Store};
use runtime_testkit::store_laws::StoreFixture;

/// A storage that lives as long as its fixture.
pub(crate) struct Memory(MemoryStore);

impl Memory {
    pub(crate) fn new() -> Self {
        Self(MemoryStore::new("test".parse().expect("legal")))
    }
}

#[async_trait]
impl StoreFixture for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopen())
    }
}

runtime_testkit::effect_laws!(Memory::new());
