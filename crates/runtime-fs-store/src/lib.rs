//! The embedded store: one directory, no server, a segmented log that cannot lose an acknowledged
//! event.
//!
//! Start with [`FsStore::open`]; [`FsStore::open_read_only`] reads beside the writer,
//! [`submit_command`] leaves a command for it, [`verify`] checks every byte. [`FsStore::clean`] frees
//! what retention and erasure have removed; [`export`], [`import`], [`backup`] and [`repair`] care
//! for whole stores. An acknowledged
//! commit is on stable storage ([`Tier::Power`](runtime_core::Tier)) or with the operating system
//! (`Tier::Crash`). A torn tail is cut, kept aside and reported; damage before it is found, typed
//! and isolated to what it touches.
//!
//! Checkpoints bound what opening reads and what is in memory: the changes since the last one, the
//! remembered commits, and a few bytes for each block of rows and streams. They and the sidecars
//! beside them are made of the log by a thread of the store's own, are never believed when they
//! do not fit it, and can be deleted.
//!
//! Not here: what rows and events mean; several processes that write at once. Not yet: a bound on
//! the memory of [`verify`], [`repair`] and [`import`], and of opening a log that has damage: they
//! hold the index of all of it.
//! Nothing is cleaned unless [`FsStore::clean`] is called. Linux; written for macOS too, not yet
//! tried there. Limits: [`FsLimits`] and [`Limits`](runtime_store::Limits).
//!
//! ```
//! use runtime_core::{CommitId, ScopeId, Timestamp};
//! use runtime_fs_store::{FsStore, FsStoreOptions};
//! use runtime_store::{Commit, RowChange, RowKey, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if cfg!(feature = "simulation") { return Ok(()); }
//! # let parent = tempfile::tempdir()?;
//! # let directory = parent.path().join("store");
//! let store = FsStore::open(&FsStoreOptions::new(&directory))?;
//! let key = RowKey::new("note", ScopeId::new("desk")?, "first");
//! let now = Timestamp::from_millis(1);
//! let commit = Commit::new(CommitId::generate(now, [0; 10]), now)
//!     .row(RowChange::put(key.clone(), *b"hello"));
//! store.commit(commit).await?;
//! store.close().await?;
//!
//! let again = FsStore::open(&FsStoreOptions::new(&directory))?;
//! assert_eq!(&*again.row(&key).await?.expect("it was acknowledged").body, b"hello");
//! # Ok(())
//! # }
//! ```

mod attachments;
mod backup;
mod base;
mod bytes;
mod checkpoint;
mod checkpoints;
mod clean;
mod config;
mod counts;
#[cfg(test)]
mod decoders;
mod error;
mod export;
mod fill;
mod fold;
mod follower;
mod form;
mod frame;
mod fs;
mod hint;
mod history;
mod import;
mod inbox;
mod index;
mod keys;
mod layout;
mod lock;
mod log;
mod maintenance;
mod memory;
mod open;
mod overlay;
mod record;
mod repair;
mod replay;
mod report;
mod rows;
mod segment;
mod segments;
mod shared;
mod sidecar;
mod snapshot;
mod store;
mod streams;
mod table;
mod units;
mod verify;
#[cfg_attr(feature = "simulation", path = "writer_inline.rs")]
mod writer;

pub use backup::{BackupReport, backup};
pub use clean::{CleanOptions, CleanReport};
pub use config::{FsLimits, FsStoreOptions};
pub use counts::WriteCounts;
pub use error::{InboxError, OpenError};
pub use export::export;
#[cfg(feature = "simulation")]
pub use fs::fault::{Failure, Fault, Operation, has_failed, plant, plant_failure, syncs};
pub use import::import;
pub use inbox::{INBOX_COMMAND_BYTES_MAX, INBOX_COMMANDS_MAX, submit_command};
pub use layout::SCHEMA as STORE_SCHEMA;
pub use lock::{Holder, holder};
pub use maintenance::MaintenanceError;
pub use repair::{RepairAction, RepairReport, repair, repair_with_progress};
pub use report::{CutTail, Damage, OpenReport};
pub use runtime_store::{ExportError, ExportReport, ImportReport, Progress};
pub use store::FsStore;
pub use verify::{verify, verify_with_progress};
