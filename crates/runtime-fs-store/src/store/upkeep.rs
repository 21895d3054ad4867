//! What is done beside reading and writing: cleaning and checkpoints.

use std::io;
use std::sync::Arc;

use runtime_store::{Progress, ReadError};

use super::{FsStore, View, blocking, refused};
use crate::checkpoints::Checkpoints;
use crate::clean::{CleanOptions, CleanReport, clean};
#[cfg(feature = "simulation")]
use crate::fs;
use crate::segments::unavailable;
use crate::shared::Shared;
use crate::writer::Writer;

/// What cleaning and checkpoints work on.
type Maintained<'a> = (&'a Arc<Shared>, &'a Arc<Checkpoints>, &'a Writer);

impl FsStore {
    /// Frees what was removed, and what rows no longer hold, in one pass: segments that are pruned
    /// whole become one base that keeps only what is alive, and in the others dead bytes are
    /// written over. Commits and reads go on meanwhile. It blocks no async task, and takes about as
    /// long as reading the log.
    ///
    /// A loss of power at any moment leaves all of the old files or a whole base in their place
    /// (R1). Nothing cleans unless it is called.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when the store was opened read-only or the disk fails. After a
    /// failure nothing is cleaned before the store is opened again; commits go on.
    pub async fn clean(
        &self,
        options: CleanOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<CleanReport, ReadError> {
        let (shared, checkpoints, writer) = self.maintained()?;
        let sealed = writer.seal().await.map_err(|reason| refused(&reason))?;
        let (layout, shared) = (self.layout.clone(), Arc::clone(shared));
        let checkpoints = Arc::clone(checkpoints);
        blocking(move || {
            let mut maintenance = checkpoints.lock()?;
            if maintenance.cleaning_failed && !cleans_on() {
                return Err(io::Error::other(
                    "an earlier cleaning failed; reopen the store",
                ));
            }
            let cleaned = clean(&layout, &shared, &checkpoints, sealed, options, progress);
            maintenance.cleaning_failed = cleaned.is_err();
            cleaned
        })
        .await
        .map_err(|error| unavailable("clean the store", error))
    }

    /// Writes a checkpoint of all that was committed so far, so that opening reads no more of the
    /// log than what comes after it, and memory holds no more. It happens by itself once enough
    /// was written, see [`FsLimits::checkpoint_bytes`](crate::FsLimits); commits and reads go on
    /// meanwhile. It takes about as long as reading the log since the last one.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when the store was opened read-only, its log is damaged, or the
    /// disk fails; nothing is lost then.
    pub async fn checkpoint(&self) -> Result<(), ReadError> {
        let (_, checkpoints, writer) = self.maintained()?;
        let sealed = writer.seal().await.map_err(|reason| refused(&reason))?;
        let checkpoints = Arc::clone(checkpoints);
        blocking(move || {
            let maintenance = checkpoints.lock()?;
            if maintenance.cleaning_failed {
                return Err(io::Error::other(
                    "an earlier cleaning failed; reopen the store",
                ));
            }
            match sealed.current {
                0 | 1 => Ok(()),
                current => checkpoints.write(current - 1).map(drop),
            }
        })
        .await
        .map_err(|error| unavailable("write a checkpoint", error))
    }

    /// Returns what maintenance works on, if this instance may write.
    fn maintained(&self) -> Result<Maintained<'_>, ReadError> {
        if let Some(reason) = self.refuses_writes() {
            return Err(refused(reason));
        }
        match &self.view {
            View::Owner {
                shared,
                checkpoints,
                writer,
            } => Ok((shared, checkpoints, writer)),
            View::Beside(_) => Err(refused("the store was opened read-only")),
        }
    }
}

/// Only under a planted fault a cleaning follows one that failed.
#[cfg(feature = "simulation")]
fn cleans_on() -> bool {
    fs::fault::is(fs::fault::Fault::CleansOn)
}

#[cfg(not(feature = "simulation"))]
const fn cleans_on() -> bool {
    false
}
