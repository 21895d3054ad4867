//! The law of a store (R18).

use std::sync::Arc;

use async_trait::async_trait;
use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::{Limits, Store};
use runtime_testkit::store_laws::StoreFixture;

use crate::support::options;

struct Files {
    parent: tempfile::TempDir,
    options: FsStoreOptions,
}

impl Files {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        // Smaller than the default, so that forgetting and refusing take no time.
        let limits = Limits {
            commit_bytes_max: 64 * 1024,
            remembered_commits: 1_000,
            ..Limits::default()
        };
        let options = FsStoreOptions {
            limits,
            ..options(parent.path(), 18)
        };
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

runtime_testkit::store_laws!(Files::new());
