//! The suite of the runtime entity over files and over PostgreSQL: what holds in memory holds
//! there (U1).

#![cfg(feature = "fs-store")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails has found what its test looks for; rows of the scoreboard are printed"
)]

// Written once, beside the crate that it tests; that crate may not name the store on files.
mod limits;
#[cfg(feature = "otel")]
mod spans;
mod streaming;
#[path = "../../../runtime-workers/tests/it/suite/mod.rs"]
mod suite;
#[cfg(all(feature = "genai", feature = "mcp-oauth", feature = "postgres"))]
mod upstream;
mod watching;
mod workflow;

#[cfg(feature = "postgres")]
mod database;
#[cfg(feature = "postgres")]
mod shared;

use std::sync::Arc;

use async_trait::async_trait;
use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::Store;
use tempfile::TempDir;

use crate::suite::Place;

/// A directory that one process after another opens.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait]
impl Place for Files {
    async fn open(&self) -> Arc<dyn Store> {
        let options = FsStoreOptions::new(self.0.path().join("store"));
        Arc::new(FsStore::open(&options).unwrap())
    }
}

suite_over!("files", Some(Files::new()));
