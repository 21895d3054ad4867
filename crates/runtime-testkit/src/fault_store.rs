//! A store that fails when it is told to.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, StreamKey};
use runtime_store::{
    AttachmentError, Commit, CommitError, Committed, EventPage, KeyRing, Page, Payload, Position,
    ReadError, RetentionUnit, Row, RowKey, RowPage, RowQuery, Store, StoreLayer,
};

/// What goes wrong at one commit (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It does not happen and answers [`CommitError::Unavailable`]; the next one works.
    FailBefore,
    /// It happens, but answers [`CommitError::Indeterminate`]; the next one works.
    LoseResponse,
    /// The process dies before it happens.
    CrashBefore,
    /// The process dies after it happened, before anyone is told.
    CrashAfter,
}

/// A commit as it went through a [`FaultStore`].
#[derive(Debug, Clone)]
pub struct RecordedCommit {
    /// What was submitted.
    pub commit: Commit,
    /// What went wrong by plan.
    pub fault: Option<Fault>,
    /// What the store below did; none while it is at work, and when it was not asked.
    pub happened: Option<Result<Committed, CommitError>>,
}

/// A store that fails at chosen commits, counts and records.
///
/// After a crash everything is refused: what is left of the old process can do no more. What it
/// had made is read through [`reopen`](Self::reopen), as by the next process.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    script: Mutex<Script>,
    reads: AtomicUsize,
    reads_failing: AtomicUsize,
}

/// A fault at a commit that is known by what it says.
struct Planned {
    fits: Box<dyn Fn(&Commit) -> bool + Send + Sync>,
    left: usize,
    fault: Fault,
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planned")
            .field("left", &self.left)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Script {
    faults: BTreeMap<usize, Fault>,
    planned: Option<Planned>,
    record: Vec<RecordedCommit>,
    crashed: bool,
}

impl FaultStore {
    /// Wraps a store; nothing fails yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            script: Mutex::default(),
            reads: AtomicUsize::new(0),
            reads_failing: AtomicUsize::new(0),
        })
    }

    /// Lets the `number`-th commit from the wrapping on, the first being 1, go wrong.
    pub fn fault_at(&self, number: usize, fault: Fault) {
        self.script().faults.insert(number, fault);
    }

    /// Lets the `occurrence`-th commit that fits, the first being 1, go wrong.
    pub fn fault_when(
        &self,
        fits: impl Fn(&Commit) -> bool + Send + Sync + 'static,
        occurrence: usize,
        fault: Fault,
    ) {
        self.script().planned = Some(Planned {
            fits: Box::new(fits),
            left: occurrence,
            fault,
        });
    }

    /// Lets the process die now, between two commits.
    pub fn crash(&self) {
        self.script().crashed = true;
    }

    /// Says whether the process has died.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.script().crashed
    }

    /// Wraps the store below anew: without faults, counting from zero. This one stays as it is,
    /// so a crashed process stays dead.
    #[must_use]
    pub fn reopen(&self) -> Arc<Self> {
        Self::new(Arc::clone(&self.inner))
    }

    /// Returns how many commits were submitted, refused ones and repetitions included.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.script().record.len()
    }

    /// Returns how many reads there were: of rows, events, results, attachments and keys.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Returns the commits in the order they were submitted; the `n`-th is at index `n - 1`.
    #[must_use]
    pub fn record(&self) -> Vec<RecordedCommit> {
        self.script().record.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a commit and says which one it is and what is to go wrong.
    fn submit(&self, commit: &Commit) -> Result<(usize, Option<Fault>), CommitError> {
        let mut script = self.script();
        if script.crashed {
            return Err(CommitError::ReadOnly {
                reason: CRASHED.to_owned(),
            });
        }
        let index = script.record.len();
        let mut fault = script.faults.get(&(index + 1)).copied();
        if let Some(planned) = &mut script.planned
            && (planned.fits)(commit)
        {
            planned.left = planned.left.saturating_sub(1);
            if planned.left == 0 {
                fault = Some(planned.fault);
                script.planned = None;
            }
        }
        script.record.push(RecordedCommit {
            commit: commit.clone(),
            fault,
            happened: None,
        });
        Ok((index, fault))
    }

    /// Lets the next reads of rows, events and results fail, that many of them.
    pub fn fail_reads(&self, count: usize) {
        self.reads_failing.store(count, Ordering::SeqCst);
    }

    fn read(&self) -> Result<(), ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let failing = &self.reads_failing;
        let fails = failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if fails.is_ok() {
            return Err(ReadError::Unavailable {
                reason: "the connection is gone, by plan".to_owned(),
                source: None,
            });
        }
        if self.is_crashed() {
            return Err(ReadError::Unavailable {
                reason: CRASHED.to_owned(),
                source: None,
            });
        }
        Ok(())
    }

    fn attach(&self) -> Result<(), AttachmentError> {
        if self.is_crashed() {
            return Err(AttachmentError::Unavailable {
                reason: CRASHED.to_owned(),
                source: None,
            });
        }
        Ok(())
    }
}

const CRASHED: &str = "the process has crashed, by plan";

fn indeterminate(id: CommitId, reason: &str) -> CommitError {
    CommitError::Indeterminate {
        id,
        reason: reason.to_owned(),
        source: None,
    }
}

#[async_trait]
impl StoreLayer for FaultStore {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let id = commit.id;
        let (index, fault) = self.submit(&commit)?;
        match fault {
            Some(Fault::FailBefore) => {
                return Err(CommitError::Unavailable {
                    reason: "failed before the commit, by plan".to_owned(),
                });
            }
            Some(Fault::CrashBefore) => {
                self.crash();
                return Err(indeterminate(id, CRASHED));
            }
            _ => {}
        }
        let result = self.inner.commit(commit).await;
        let mut script = self.script();
        script.record[index].happened = Some(result.clone());
        script.crashed |= fault == Some(Fault::CrashAfter);
        // Another commit may have crashed the process while this one was at work.
        if script.crashed {
            return Err(indeterminate(id, CRASHED));
        }
        match fault {
            Some(Fault::LoseResponse) => Err(indeterminate(id, "response lost, by plan")),
            _ => result,
        }
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.read()?;
        self.inner.committed(id).await
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        self.read()?;
        self.inner.row(key).await
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.read()?;
        self.inner.rows(query, page).await
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.read()?;
        self.inner.events(stream, page).await
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        self.read()?;
        self.inner.retention_units(page).await
    }

    async fn changed(&self, after: Position) -> Position {
        if self.is_crashed() {
            // Nobody tells a dead process anything.
            return pending().await;
        }
        self.inner.changed(after).await
    }

    /// Closes the store below, unless the process has crashed.
    async fn close(&self) -> Result<(), CommitError> {
        if self.is_crashed() {
            return Ok(());
        }
        self.inner.close().await
    }

    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.attach()?;
        self.inner.put_attachment(bytes).await
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.attach()?;
        self.inner.attachment(digest).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.attach()?;
        self.inner.has_attachment(digest).await
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.attach()?;
        self.inner.sweep_attachments(live, min_age).await
    }

    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.read()?;
        self.inner.key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.read()?;
        self.inner.rotate_key_ring().await
    }
}
