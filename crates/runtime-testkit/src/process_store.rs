//! A store as one of several processes sees it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, StreamKey, Timestamp};
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, Commit, CommitError, Committed, EventPage,
    KeyRing, KeyRingStore, Page, Payload, Position, ReadError, RetentionUnit, Row, RowKey, RowPage,
    RowQuery, Store, StoreIdentity,
};
use tokio::sync::watch;

/// What becomes of a commit on its way to the store; none swallows it, and it is answered as if
/// it had happened.
type Alter = dyn Fn(Commit) -> Option<Commit> + Send + Sync;
/// What becomes of a page of events on its way from the store.
type Distort = dyn Fn(EventPage) -> Result<EventPage, ReadError> + Send + Sync;

/// A store as one process sees it: it says that others write to it too, and the process can stand
/// still. Several of them over one store are several processes.
pub struct ProcessStore {
    inner: Arc<dyn Store>,
    capabilities: Capabilities,
    stopped: watch::Sender<bool>,
    alter: Box<Alter>,
    distort: Box<Distort>,
}

impl fmt::Debug for ProcessStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl ProcessStore {
    /// Looks at a store as one of several processes.
    #[must_use]
    pub fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Self::altering(inner, Some)
    }

    /// Looks at a store as a process with a planted fault: its commits arrive altered, or are
    /// swallowed and answered as if they had happened.
    #[must_use]
    pub fn altering(
        inner: Arc<dyn Store>,
        alter: impl Fn(Commit) -> Option<Commit> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with(inner, Box::new(alter), Box::new(Ok))
    }

    /// Looks at a store as a process whose reads of the log arrive distorted, or fail.
    #[must_use]
    pub fn distorting(
        inner: Arc<dyn Store>,
        distort: impl Fn(EventPage) -> Result<EventPage, ReadError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with(inner, Box::new(Some), Box::new(distort))
    }

    fn with(inner: Arc<dyn Store>, alter: Box<Alter>, distort: Box<Distort>) -> Arc<Self> {
        Arc::new(Self {
            capabilities: Capabilities {
                shared_by_processes: true,
                ..inner.capabilities().clone()
            },
            inner,
            stopped: watch::Sender::new(false),
            alter,
            distort,
        })
    }

    /// Lets the process stand still before its next commit, as SIGSTOP does.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Lets the process go on.
    pub fn wake(&self) {
        self.stopped.send_replace(false);
    }
}

#[async_trait]
impl Store for ProcessStore {
    fn identity(&self) -> &StoreIdentity {
        self.inner.identity()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        // Others get between a look and the commit that follows from it.
        tokio::task::yield_now().await;
        let mut stopped = self.stopped.subscribe();
        // The sender lives in this store, so the wait cannot fail.
        let _ = stopped.wait_for(|stopped| !stopped).await;
        match (self.alter)(commit) {
            Some(commit) => self.inner.commit(commit).await,
            None => Ok(Committed {
                positions: Range::default(),
                places: Vec::new(),
                repeated: false,
            }),
        }
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.inner.committed(id).await
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        self.inner.id_time(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        self.inner.row(key).await
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.inner.rows(query, page).await
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        (self.distort)(self.inner.events(stream, page).await?)
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        self.inner.retention_units(page).await
    }

    async fn changed(&self, after: Position) -> Position {
        self.inner.changed(after).await
    }

    async fn close(&self) -> Result<(), CommitError> {
        self.inner.close().await
    }
}

#[async_trait]
impl AttachmentStore for ProcessStore {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.inner.put_attachment(bytes).await
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        self.inner.attachment(digest).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.inner.has_attachment(digest).await
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.inner.sweep_attachments(live, min_age).await
    }
}

#[async_trait]
impl KeyRingStore for ProcessStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.rotate_key_ring().await
    }
}
