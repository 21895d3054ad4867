//! The store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{Clock, CommitId, Random, StreamKey, Timestamp};
use runtime_store::{
    Capabilities, Commit, CommitError, Committed, EventPage, Guard, Page, Position, ReadError,
    Removal, RetentionUnit, Row, RowChange, RowKey, RowPage, RowQuery, Store, StoreIdentity,
    SystemRandom,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::call::Submitted;
use crate::clock::DatabaseClock;
use crate::committer::{self, Committer, Request};
use crate::connect::Connector;
use crate::head::Head;
use crate::readers::{Reader, Readers};
use crate::{OpenError, PostgresOptions, open, read};

/// Between two announcements of one process; what comes in between is told by the second.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(2);

/// A store in PostgreSQL. Several processes may open the same runtime at once.
///
/// It belongs to the tokio runtime that it was opened in.
#[derive(Debug)]
pub struct PostgresStore {
    identity: StoreIdentity,
    capabilities: Capabilities,
    key: i32,
    clock: DatabaseClock,
    requests: mpsc::Sender<Request>,
    readers: Arc<Readers>,
    head: Arc<Head>,
    /// The latest time in the id of a commit that this process knows, in milliseconds.
    latest_id: AtomicU64,
    closed: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl PostgresStore {
    /// Opens a runtime in a database; makes its tables and the runtime itself when they are not
    /// there, unless told otherwise.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let connector = Connector::new(&options)?;
        let opened = open::open(&connector, &options).await?;
        let limits = options.postgres_limits;
        let lock = i64::from_be_bytes(random());
        let session = committer::open(&connector, lock, limits.call_timeout).await;
        let session = session.map_err(|failure| OpenError::Unreachable {
            reason: failure.reason(),
        })?;
        let head = Head::new(opened.head);
        let (requests, received) = mpsc::channel(limits.queue_commits_max.max(1));
        let committer = Committer {
            connector: connector.clone(),
            limits,
            runtime: opened.key,
            remembered: options.limits.remembered_commits,
            lock,
            submissions: i64::from_be_bytes(random()),
            head: Arc::clone(&head),
            clock: opened.clock.clone(),
            requests: received,
            session: Some(session),
        };
        // The lineage makes the channel that of this runtime, whatever the schema.
        let channel = format!("agent_runtime_{}", opened.identity.lineage);
        let readers = Arc::new(Readers::new(connector, limits, channel));
        let watched = watch(
            Arc::clone(&head),
            Arc::clone(&readers),
            opened.key,
            limits.recheck_interval,
        );
        let tasks = vec![
            tokio::spawn(committer.run()),
            tokio::spawn(watched),
            tokio::spawn(announce(Arc::clone(&head), Arc::clone(&readers))),
        ];
        Ok(Self {
            identity: opened.identity,
            capabilities: Capabilities {
                tier: opened.tier,
                shared_by_processes: true,
                dense_positions: true,
                limits: options.limits,
            },
            key: opened.key,
            clock: opened.clock,
            requests,
            readers,
            head,
            latest_id: AtomicU64::new(opened.latest_id),
            closed: AtomicBool::new(false),
            tasks: Mutex::new(tasks),
        })
    }

    /// Returns the clock of the database, by which leases of several processes are kept.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(crate) fn key(&self) -> i32 {
        self.key
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whoever repeats a commit gets the first result whatever its form says now, so a malformed
    /// one is looked up before it is refused.
    async fn refuse(&self, id: CommitId, reason: CommitError) -> CommitError {
        match self.committed(&id).await {
            Ok(Some(_)) => CommitError::DifferentContent { id },
            Ok(None) | Err(_) => reason,
        }
    }

    /// Learns from what became of a commit how late the ids are, so that fresh ones are later.
    async fn learn_id_time(&self, id: CommitId, made: &Result<Committed, CommitError>) {
        let latest = match made {
            Ok(_) => id.timestamp().map_or(0, Timestamp::as_millis),
            // The other processes were at work while the clock was ahead.
            Err(CommitError::TooOld { .. }) => {
                let runtime = self.key;
                let latest = self
                    .readers
                    .read(|reader| async move { read::latest_id(&reader, runtime).await });
                latest.await.unwrap_or(0)
            }
            Err(_) => 0,
        };
        self.latest_id.fetch_max(latest, Ordering::Relaxed);
    }

    fn lost(&self, id: CommitId) -> CommitError {
        if self.is_closed() {
            return closed();
        }
        CommitError::Indeterminate {
            id,
            reason: "the store's own task has ended".to_owned(),
            source: None,
        }
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        // What was submitted is still made: the committer ends when its queue is empty.
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.iter().skip(1) {
            task.abort();
        }
    }
}

/// Re-reads the head while somebody waits for it: at once, on every notification, on every new
/// connection, and in between, since a notification may be lost.
async fn watch(head: Arc<Head>, readers: Arc<Readers>, runtime: i32, interval: Duration) {
    let mut notified = readers.notifications();
    loop {
        head.wanted().await;
        notified.mark_unchanged();
        let found =
            readers.read_listening(async |reader: Arc<Reader>| read::head(&reader, runtime).await);
        match found.await {
            Ok(position) => head.learn(position),
            Err(failure) => {
                tracing::warn!(
                    reason = failure.reason(),
                    "the head of the log cannot be read"
                );
            }
        }
        let _heard = timeout(interval, notified.changed()).await;
    }
}

async fn announce(head: Arc<Head>, readers: Arc<Readers>) {
    loop {
        head.news().await;
        if let Err(failure) = readers.announce().await {
            // Others look by themselves; this only costs them time.
            tracing::debug!(reason = failure.reason(), "an announcement was not made");
        }
        sleep(ANNOUNCE_INTERVAL).await;
    }
}

fn random() -> [u8; 8] {
    let mut bytes = [0; 8];
    SystemRandom.fill(&mut bytes);
    bytes
}

fn closed() -> CommitError {
    CommitError::ReadOnly {
        reason: "the store is closed".to_owned(),
    }
}

/// What the tables cannot hold though the contract lets it through, and what a later version of
/// the contract may bring.
fn check(commit: &Commit) -> Result<(), CommitError> {
    let malformed = |reason: &str| {
        Err(CommitError::Malformed {
            reason: reason.to_owned(),
        })
    };
    for change in &commit.rows {
        match change {
            RowChange::Put { key, .. } | RowChange::Delete(key) if key.space.contains('\0') => {
                return malformed("the space of a row holds NUL; leave it out");
            }
            RowChange::Put { .. } | RowChange::Delete(_) | RowChange::Retire(_) => {}
            _ => return malformed("this store does not know this change of a row"),
        }
    }
    for guard in &commit.guards {
        match guard {
            Guard::Absent(key) | Guard::Version(key, _)
                if key.space.contains('\0') || key.name.contains('\0') =>
            {
                return malformed("the key of a guard holds NUL; no row has it");
            }
            Guard::Absent(_) | Guard::Version(..) | Guard::Head(..) => {}
            _ => return malformed("this store does not know this guard"),
        }
    }
    let known = |removal: &Removal| matches!(removal, Removal::Through(_) | Removal::Stream(_));
    if !commit.removals.iter().all(known) {
        return malformed("this store does not know this removal");
    }
    Ok(())
}

#[async_trait]
impl Store for PostgresStore {
    fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        if self.is_closed() {
            return Err(closed());
        }
        let id = commit.id;
        let formed = commit.check(&self.capabilities.limits);
        if let Err(reason) = formed.and_then(|()| check(&commit)) {
            return Err(self.refuse(id, reason).await);
        }
        let content = commit.content_digest();
        let submitted = Submitted { commit, content };
        let (reply, answer) = oneshot::channel();
        let sent = self
            .requests
            .send(Request::Commit { submitted, reply })
            .await;
        if sent.is_err() {
            return Err(match self.is_closed() {
                true => closed(),
                false => CommitError::ReadOnly {
                    reason: "the store's own task has ended; open it again".to_owned(),
                },
            });
        }
        let made = answer.await.unwrap_or_else(|_| Err(self.lost(id)));
        self.learn_id_time(id, &made).await;
        made
    }

    /// What other processes have committed since this one opened the store is learnt when a
    /// commit of this one is too old: its next fresh id is later.
    fn id_time(&self, now: Timestamp) -> Timestamp {
        match self.latest_id.load(Ordering::Relaxed) {
            0 => now,
            latest => now.max(Timestamp::from_millis(latest.saturating_add(1))),
        }
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        let id = *id;
        let (reply, answer) = oneshot::channel();
        // The committer answers after all that was submitted before.
        let sent = self.requests.send(Request::Committed { id, reply }).await;
        if sent.is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        let key = self.key;
        let found = self.readers.read(|reader| async move {
            let statement = reader.prepared(read::COMMITTED).await?;
            read::committed(reader.client(), &statement, key, &[id]).await
        });
        let mut found = found.await.map_err(|failure| failure.read_error())?;
        Ok(found.pop().map(|(_, committed)| committed))
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        // No row has such a key, and the server takes no such text.
        if key.space.contains('\0') || key.name.contains('\0') {
            return Ok(None);
        }
        let runtime = self.key;
        let found = self
            .readers
            .read(|reader| async move { read::row(&reader, runtime, key).await });
        found.await.map_err(|failure| failure.read_error())
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        let limit = read::effective_limit(page.limit, &self.capabilities.limits)?;
        let (runtime, query, page) = (self.key, &query, &page);
        let found = self
            .readers
            .read(|reader| async move { read::rows(&reader, runtime, query, page, limit).await });
        found.await.map_err(|failure| failure.read_error())
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        let limit = read::effective_limit(page.limit, &self.capabilities.limits)?;
        let runtime = self.key;
        let found = self.readers.read(|reader| async move {
            read::events(&reader, runtime, stream, page.after, limit).await
        });
        let found = found.await.map_err(|failure| failure.read_error())?;
        self.head.learn(found.head.0);
        Ok(found)
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        let limit = read::effective_limit(page.limit, &self.capabilities.limits)?;
        let runtime = self.key;
        let found = self.readers.read(|reader| async move {
            read::retention_units(&reader, runtime, page.after, limit).await
        });
        found.await.map_err(|failure| failure.read_error())
    }

    async fn changed(&self, after: Position) -> Position {
        self.head.after(after).await
    }

    async fn close(&self) -> Result<(), CommitError> {
        self.closed.store(true, Ordering::Release);
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Close { reply }).await.is_ok() {
            // Without an answer it had ended before.
            let _ended = answer.await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            let _ended = task.await;
        }
        self.readers.close().await;
        Ok(())
    }
}
