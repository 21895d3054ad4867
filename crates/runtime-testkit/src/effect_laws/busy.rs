//! Tells whether a store is at work, so that a future that waits for real I/O is told from one
//! that stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, StreamKey};
use runtime_store::{
    AttachmentError, Commit, CommitError, Committed, EventPage, KeyRing, Page, Payload, Position,
    ReadError, Row, RowKey, RowPage, RowQuery, Store, StoreLayer,
};

/// How many requests are with a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<AtomicUsize>);

/// A request that ends when it is dropped, whether it was answered or given up.
struct Request<'a>(&'a AtomicUsize);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Busy {
    pub(super) fn is_busy(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// Counts the requests to a store. Waiting for a change is none: nobody knows when it ends.
    pub(super) fn watch(&self, store: &Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(WatchedStore {
            inner: Arc::clone(store),
            busy: self.clone(),
        })
    }

    fn request(&self) -> Request<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Request(&self.0)
    }
}

#[derive(Debug)]
struct WatchedStore {
    inner: Arc<dyn Store>,
    busy: Busy,
}

#[async_trait]
impl StoreLayer for WatchedStore {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let _request = self.busy.request();
        self.inner.commit(commit).await
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        let _request = self.busy.request();
        self.inner.committed(id).await
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        let _request = self.busy.request();
        self.inner.row(key).await
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        let _request = self.busy.request();
        self.inner.rows(query, page).await
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        let _request = self.busy.request();
        self.inner.events(stream, page).await
    }

    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        let _request = self.busy.request();
        self.inner.put_attachment(bytes).await
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        let _request = self.busy.request();
        self.inner.attachment(digest).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        let _request = self.busy.request();
        self.inner.has_attachment(digest).await
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        let _request = self.busy.request();
        self.inner.sweep_attachments(live, min_age).await
    }

    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        let _request = self.busy.request();
        self.inner.key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        let _request = self.busy.request();
        self.inner.rotate_key_ring().await
    }
}
