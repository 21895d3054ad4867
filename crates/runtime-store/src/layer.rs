//! A store over another one that changes a part of what it does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, StreamKey, Timestamp};

use crate::{
    AttachmentError, AttachmentStore, Capabilities, CommandInbox, Commit, CommitError, Committed,
    EventPage, KeyRing, KeyRingStore, Page, Payload, Position, ReadError, RetentionUnit, Row,
    RowKey, RowPage, RowQuery, Store, StoreIdentity,
};

/// A store over another one: whatever it does not say itself, the one [`below`](Self::below) does.
///
/// Each layer is a [`Store`], an [`AttachmentStore`] and a [`KeyRingStore`] by that; the methods
/// are theirs, with the same contract. Whoever calls them brings one of the traits into scope, not
/// both, or names it: `Store::row(&layer, &key)`.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use async_trait::async_trait;
/// use runtime_store::{Commit, CommitError, Committed, MemoryStore, Store, StoreLayer};
///
/// /// Counts the commits.
/// #[derive(Debug)]
/// struct Counting(Arc<dyn Store>, AtomicU64);
///
/// #[async_trait]
/// impl StoreLayer for Counting {
///     fn below(&self) -> &dyn Store {
///         &*self.0
///     }
///
///     async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
///         self.1.fetch_add(1, Ordering::Relaxed);
///         self.below().commit(commit).await
///     }
/// }
///
/// let memory = MemoryStore::new("desk".parse()?);
/// let store: Arc<dyn Store> = Arc::new(Counting(Arc::new(memory), AtomicU64::new(0)));
/// assert_eq!(store.identity().runtime.as_str(), "desk");
/// # Ok::<(), runtime_core::IdError>(())
/// ```
#[async_trait]
pub trait StoreLayer: fmt::Debug + Send + Sync + 'static {
    /// The store that does the rest.
    fn below(&self) -> &dyn Store;

    /// [`Store::identity`].
    fn identity(&self) -> &StoreIdentity {
        self.below().identity()
    }

    /// [`Store::capabilities`].
    fn capabilities(&self) -> &Capabilities {
        self.below().capabilities()
    }

    /// [`Store::commit`].
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.below().commit(commit).await
    }

    /// [`Store::committed`].
    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.below().committed(id).await
    }

    /// [`Store::id_time`].
    fn id_time(&self, now: Timestamp) -> Timestamp {
        self.below().id_time(now)
    }

    /// [`Store::row`].
    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        self.below().row(key).await
    }

    /// [`Store::rows`].
    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.below().rows(query, page).await
    }

    /// [`Store::events`].
    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.below().events(stream, page).await
    }

    /// [`Store::retention_units`].
    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        self.below().retention_units(page).await
    }

    /// [`Store::changed`].
    async fn changed(&self, after: Position) -> Position {
        self.below().changed(after).await
    }

    /// [`Store::close`].
    async fn close(&self) -> Result<(), CommitError> {
        self.below().close().await
    }

    /// [`AttachmentStore::put_attachment`].
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.below().put_attachment(bytes).await
    }

    /// [`AttachmentStore::attachment`].
    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        self.below().attachment(digest).await
    }

    /// [`AttachmentStore::has_attachment`].
    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.below().has_attachment(digest).await
    }

    /// [`AttachmentStore::sweep_attachments`].
    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.below().sweep_attachments(live, min_age).await
    }

    /// [`KeyRingStore::key_ring`].
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.below().key_ring().await
    }

    /// [`KeyRingStore::rotate_key_ring`].
    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.below().rotate_key_ring().await
    }
}

/// What an `async fn` of a trait is made into; written out, so that a layer's own answer is handed
/// on as it is, and not put into another box.
type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<L: StoreLayer> Store for L {
    fn identity(&self) -> &StoreIdentity {
        StoreLayer::identity(self)
    }

    fn capabilities(&self) -> &Capabilities {
        StoreLayer::capabilities(self)
    }

    fn commit<'a, 'z>(&'a self, commit: Commit) -> Answer<'z, Result<Committed, CommitError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::commit(self, commit)
    }

    fn committed<'a, 'b, 'z>(
        &'a self,
        id: &'b CommitId,
    ) -> Answer<'z, Result<Option<Committed>, ReadError>>
    where
        'a: 'z,
        'b: 'z,
        Self: 'z,
    {
        StoreLayer::committed(self, id)
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        StoreLayer::id_time(self, now)
    }

    fn row<'a, 'b, 'z>(&'a self, key: &'b RowKey) -> Answer<'z, Result<Option<Row>, ReadError>>
    where
        'a: 'z,
        'b: 'z,
        Self: 'z,
    {
        StoreLayer::row(self, key)
    }

    fn rows<'a, 'z>(
        &'a self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Answer<'z, Result<RowPage, ReadError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::rows(self, query, page)
    }

    fn events<'a, 'b, 'z>(
        &'a self,
        stream: Option<&'b StreamKey>,
        page: Page<Position>,
    ) -> Answer<'z, Result<EventPage, ReadError>>
    where
        'a: 'z,
        'b: 'z,
        Self: 'z,
    {
        StoreLayer::events(self, stream, page)
    }

    fn retention_units<'a, 'z>(
        &'a self,
        page: Page<Position>,
    ) -> Answer<'z, Result<Vec<RetentionUnit>, ReadError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::retention_units(self, page)
    }

    fn changed<'a, 'z>(&'a self, after: Position) -> Answer<'z, Position>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::changed(self, after)
    }

    fn inbox(&self) -> Option<&dyn CommandInbox> {
        self.below().inbox()
    }

    fn close<'a, 'z>(&'a self) -> Answer<'z, Result<(), CommitError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::close(self)
    }
}

impl<L: StoreLayer> AttachmentStore for L {
    fn put_attachment<'a, 'z>(
        &'a self,
        bytes: Payload,
    ) -> Answer<'z, Result<Digest, AttachmentError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::put_attachment(self, bytes)
    }

    fn attachment<'a, 'b, 'z>(
        &'a self,
        digest: &'b Digest,
    ) -> Answer<'z, Result<Payload, AttachmentError>>
    where
        'a: 'z,
        'b: 'z,
        Self: 'z,
    {
        StoreLayer::attachment(self, digest)
    }

    fn has_attachment<'a, 'b, 'z>(
        &'a self,
        digest: &'b Digest,
    ) -> Answer<'z, Result<bool, AttachmentError>>
    where
        'a: 'z,
        'b: 'z,
        Self: 'z,
    {
        StoreLayer::has_attachment(self, digest)
    }

    fn sweep_attachments<'a, 'b, 'z>(
        &'a self,
        live: &'b (dyn for<'c> Fn(&'c Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Answer<'z, Result<usize, AttachmentError>>
    where
        'a: 'z,
        'b: 'z,
        Self: 'z,
    {
        StoreLayer::sweep_attachments(self, live, min_age)
    }
}

impl<L: StoreLayer> KeyRingStore for L {
    fn key_ring<'a, 'z>(&'a self) -> Answer<'z, Result<KeyRing, ReadError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::key_ring(self)
    }

    fn rotate_key_ring<'a, 'z>(&'a self) -> Answer<'z, Result<KeyRing, ReadError>>
    where
        'a: 'z,
        Self: 'z,
    {
        StoreLayer::rotate_key_ring(self)
    }
}
