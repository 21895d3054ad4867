//! The laws of effects and promises (E1–E14) on files: between two processes the directory is
//! closed and opened again.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::Store;
use runtime_testkit::store_laws::StoreFixture;

use crate::support::options;

struct Files {
    parent: tempfile::TempDir,
    options: FsStoreOptions,
}

impl Files {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), 4);
        Self { parent, options }
    }
}

#[async_trait]
impl StoreFixture for Files {
    async fn open(&self) -> Arc<dyn Store> {
        assert!(self.parent.path().exists(), "the directory lives as long");
        Arc::new(FsStore::open(&self.options).unwrap())
    }
}

runtime_testkit::effect_laws!(Files::new());
