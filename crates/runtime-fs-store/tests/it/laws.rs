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
        Self::inside(tempfile::tempdir().unwrap())
    }

    fn inside(parent: tempfile::TempDir) -> Self {
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

/// R12: any sequence of commits, removals, reads and reopenings reads as the model says.
#[test]
fn r12_any_sequence_reads_as_the_model_says() {
    let cases = 2_000 * crate::support::times();
    let started = std::time::Instant::now();
    let seed = 12 + crate::support::number_of_run();
    runtime_testkit::check_against_model(
        cases,
        seed,
        || Files::inside(crate::support::in_memory()),
    );
    crate::support::print_row("R12-files", cases as usize, started);
}
