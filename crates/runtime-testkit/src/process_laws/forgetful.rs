//! A store that forgets what was recorded of effects, as a planted fault.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, StreamKey, Timestamp};
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, CommandInbox, Commit, CommitError, Committed,
    EventPage, KeyRing, KeyRingStore, Page, Payload, Position, ReadError, RetentionUnit, Row,
    RowKey, RowPage, RowQuery, Store, StoreIdentity,
};

use crate::FaultStore;

/// Reads of rows of space `effect` find nothing.
#[derive(Debug)]
pub(super) struct Forgetful(pub(super) Arc<FaultStore>);

#[async_trait]
impl Store for Forgetful {
    fn identity(&self) -> &StoreIdentity {
        self.0.identity()
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.0.commit(commit).await
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.0.committed(id).await
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        self.0.id_time(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        match &*key.space {
            "effect" => Ok(None),
            _ => self.0.row(key).await,
        }
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.0.rows(query, page).await
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.0.events(stream, page).await
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        self.0.retention_units(page).await
    }

    async fn changed(&self, after: Position) -> Position {
        self.0.changed(after).await
    }

    fn inbox(&self) -> Option<&dyn CommandInbox> {
        self.0.inbox()
    }

    async fn close(&self) -> Result<(), CommitError> {
        self.0.close().await
    }
}

#[async_trait]
impl AttachmentStore for Forgetful {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.0.put_attachment(bytes).await
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        self.0.attachment(digest).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.0.has_attachment(digest).await
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.0.sweep_attachments(live, min_age).await
    }
}

#[async_trait]
impl KeyRingStore for Forgetful {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.0.key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.0.rotate_key_ring().await
    }
}
