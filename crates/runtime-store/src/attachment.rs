//! Attachments: bytes by their SHA-256 (E18).

use std::time::Duration;

use async_trait::async_trait;
use runtime_core::Digest;

use crate::{AttachmentError, Payload};

/// Bytes by their SHA-256. They are at the store's tier when `put` returns, so before the commit
/// that names them.
#[async_trait]
pub trait AttachmentStore: Send + Sync {
    /// Stores bytes and returns their name. Storing the same bytes again does nothing.
    ///
    /// # Errors
    /// [`AttachmentError`].
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError>;

    /// Returns the bytes of that name; they have been checked against it.
    ///
    /// # Errors
    /// [`AttachmentError::NotFound`] when there are none.
    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError>;

    /// Says whether there are bytes of that name.
    ///
    /// # Errors
    /// [`AttachmentError`].
    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError>;

    /// Removes the bytes that nothing names any more: older than `min_age` (at least one hour in
    /// production, so that a commit in flight keeps its attachments), not named by `live`, and
    /// of each commit that named them ([`Commit::attachments`](crate::Commit::attachments)) no
    /// event is served whole and no scope that it put a row of has a row. Returns how many.
    ///
    /// # Errors
    /// [`AttachmentError`].
    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError>;
}
