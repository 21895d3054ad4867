//! The store contract.

use std::fmt;

use async_trait::async_trait;
use runtime_core::{CommitId, RuntimeId, StreamKey, Tier, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    AttachmentStore, Commit, CommitError, Committed, EventPage, KeyRingStore, Page, Payload,
    Position, ReadError, RetentionUnit, Row, RowKey, RowPage, RowQuery,
};

/// Bounds of a store, in entries and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest commit ([`Commit::bytes`]).
    pub commit_bytes_max: usize,
    /// The longest page.
    pub page_entries_max: usize,
    /// How many commits back a repetition is recognised at least (V1).
    pub remembered_commits: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            commit_bytes_max: 4 * 1024 * 1024 - 4096,
            page_entries_max: 256,
            remembered_commits: 65_536,
        }
    }
}

/// What a store can do (C7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// What an acknowledgement survives.
    pub tier: Tier,
    /// Whether several processes may write to it at once.
    pub shared_by_processes: bool,
    /// Whether positions are 1, 2, 3, …, or only increasing.
    pub dense_positions: bool,
    /// Its bounds.
    pub limits: Limits,
}

/// Whose store it is, and which life of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The runtime.
    pub runtime: RuntimeId,
    /// The lineage of the log: a random text, renewed when a log is created or restored, or when
    /// recovery dropped positions that readers may have seen (V6).
    pub lineage: String,
}

/// An ordered log of events and a table of rows with one atomic step.
///
/// # Law
/// - **Atomic.** A commit happens whole or not at all, for readers and after any crash.
/// - **Ordered.** Commits are applied one after another. Guards are checked, and rows and events
///   applied, against the effect of every earlier commit, those of the same group included; a
///   rejected commit fails alone.
/// - **Durable.** `commit` returns after its bytes are at [`Capabilities::tier`]; reads and
///   [`changed`](Store::changed) see only what is durable.
/// - **Idempotent.** The same id and content again is the first result with `repeated`, whatever
///   its guards and owner say now; the same id with other content is
///   [`CommitError::DifferentContent`]. An event id that another remembered commit
///   ([`Limits::remembered_commits`]) has appended is refused the same way.
/// - **Honest.** A commit refused with an ordinary error has not happened. After a failure of the
///   storage it is [`CommitError::Indeterminate`]: ask [`committed`](Store::committed) once the
///   store is usable again.
/// - **Prefix-stable.** Nothing ever appears at or before a position that was read.
/// - **Removed for good.** What a [`Removal`](crate::Removal) has taken is never served again; it
///   happens with its commit, durable like everything else. The bytes are freed later.
///
/// # Cancel safety
/// Dropping the future of `commit` does not withdraw the commit. Dropping a read forgets it.
#[async_trait]
pub trait Store: AttachmentStore + KeyRingStore + fmt::Debug + Send + Sync + 'static {
    /// Returns whose store it is.
    fn identity(&self) -> &StoreIdentity;

    /// Returns what it can do.
    fn capabilities(&self) -> &Capabilities;

    /// Makes one atomic step.
    ///
    /// # Errors
    /// [`CommitError`]; its variants say what happened to the commit.
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError>;

    /// Says what became of a commit: its result, or none if it has not happened and cannot any
    /// more by that submission.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError>;

    /// Returns the time that a fresh id is to be made of: `now`, or right after the latest
    /// remembered id if the wall clock is not past it. An id of an earlier time than all that are
    /// remembered is [`CommitError::TooOld`], so without this a wall clock that is set back would
    /// stop whoever commits until it has caught up, and one that stands still would hide which ids
    /// are forgotten (R15). See [`Commit::fresh`].
    ///
    /// A store in front of another one asks it. One that cannot tell answers `now`.
    fn id_time(&self, now: Timestamp) -> Timestamp {
        now
    }

    /// Reads one row.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError>;

    /// Reads rows. `page.after` is the last key of the page before.
    ///
    /// For [`RowQuery::Due`] that row must not have changed in between; a caller that changes
    /// rows as it goes starts again from the beginning.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn rows(&self, query: RowQuery, page: Page<Option<RowKey>>)
    -> Result<RowPage, ReadError>;

    /// Reads the events of a stream, or of the whole log, after a position.
    ///
    /// # Errors
    /// [`ReadError`]; a position after the head is no error and gives an empty page.
    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError>;

    /// Reports what is served, in order, in runs that retention may decide on. `page.after` is the
    /// last position of the run before; fewer than `page.limit` runs are all there are.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError>;

    /// Waits until an event after `after` is durable and returns the last position. It is a hint:
    /// it may come late, and without a change, but it is never lost.
    async fn changed(&self, after: Position) -> Position;

    /// Returns the inbox for commands from other processes, if this store has one (S8).
    fn inbox(&self) -> Option<&dyn CommandInbox> {
        None
    }

    /// Flushes, stops the store's own tasks and lets go of what it holds. Later commits answer
    /// [`CommitError::ReadOnly`]. Closing twice does nothing.
    ///
    /// # Errors
    /// What could not be flushed.
    async fn close(&self) -> Result<(), CommitError>;
}

/// A command that another process left for whoever holds the store (S8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxCommand {
    /// Its identity; the holder commits under it, so that a command is taken once.
    pub id: CommitId,
    /// What it says; not read by the store.
    pub body: Payload,
}

/// Commands from processes that cannot write to the store themselves (S8).
///
/// A sender writes by a function of the store crate, beside the holder. The holder takes the
/// commands, commits under their ids, and then forgets them; a crash in between repeats the
/// commit, which changes nothing.
#[async_trait]
pub trait CommandInbox: fmt::Debug + Send + Sync {
    /// Returns the waiting commands, oldest first, or the first of them if they are many: whoever
    /// forgets what was returned looks again.
    ///
    /// # Errors
    /// [`ReadError`]; a file that is no command is reported by name and left where it is.
    async fn commands(&self) -> Result<Vec<InboxCommand>, ReadError>;

    /// Forgets a command that has been committed or refused.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn forget(&self, id: &CommitId) -> Result<(), ReadError>;
}
