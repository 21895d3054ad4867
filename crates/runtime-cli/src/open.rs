//! Opening the store of a directory.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use runtime::OpenError;
use runtime::core::{CommitId, ErrorClass};
use runtime::fs_store::{self, FsStore, FsStoreOptions};
use runtime::store::Store;
use runtime::workers::RuntimeError;

use crate::args::Common;
use crate::database;
use crate::output::wire;

pub(crate) fn options(common: &Common) -> FsStoreOptions {
    FsStoreOptions::new(common.store_dir())
}

/// Opens the store for writing; makes it when there is none.
pub(crate) async fn exclusive(common: &Common) -> anyhow::Result<Arc<dyn Store>> {
    // Beside the store, the directory holds what the demo's tools write.
    create_private(&common.dir)
        .with_context(|| format!("cannot make directory {}", common.dir.display()))?;
    if let Some(url) = common.database() {
        return database::open(&url, true).await;
    }
    let options = options(common);
    let store = tokio::task::spawn_blocking(move || FsStore::open(&options)).await?;
    Ok(Arc::new(store.map_err(OpenError::from)?))
}

/// Makes the directory, for its owner's eyes only, when there is none.
pub(crate) fn create_private(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Opens the store for reading, also beside the process that has it open.
pub(crate) async fn read_only(common: &Common) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(url) = common.database() {
        return database::open(&url, false).await;
    }
    let options = options(common);
    let store = tokio::task::spawn_blocking(move || FsStore::open_read_only(&options)).await?;
    Ok(Arc::new(store.map_err(OpenError::from)?))
}

/// Refuses when there is no store, where the command would otherwise make an empty one.
pub(crate) fn existing(common: &Common) -> anyhow::Result<()> {
    let directory = common.store_dir();
    let is_empty = std::fs::read_dir(&directory).map(|mut names| names.next().is_none());
    let is_there = match is_empty {
        Ok(is_empty) => !is_empty,
        // What else is wrong with it, opening it says.
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    // In a database, opening it says so.
    if common.database().is_some() || is_there {
        return Ok(());
    }
    Err(OpenError::from(fs_store::OpenError::NoStore { directory }).into())
}

/// Leaves a command for the process that has the store open (S8).
pub(crate) fn submit(common: &Common, id: CommitId, body: &[u8]) -> anyhow::Result<()> {
    let submitted = fs_store::submit_command(&common.store_dir(), id, body);
    Ok(submitted.map_err(|error| RuntimeError::from_part(&error))?)
}

/// Whether another process has the store open.
pub(crate) fn is_busy(error: &anyhow::Error) -> bool {
    let wire = wire(error);
    wire.class == ErrorClass::Busy && wire.code == "store_busy"
}
