//! A store whose commits are published.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Digest, StreamKey, Timestamp};
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, CommandInbox, Commit, CommitError, Committed,
    EventPage, KeyRing, KeyRingStore, NewEvent, Page, Payload, Position, ReadError, RetentionUnit,
    Row, RowKey, RowPage, RowQuery, Store, StoreIdentity,
};

use crate::hub::{Counters, Shared, Signals};
use crate::log::placed;
use crate::sync::lock;
use crate::{LiveEvent, LiveMessage, Room};

/// Passes everything on to the store, and publishes what was committed.
#[derive(Debug)]
pub(crate) struct ObservedStore {
    shared: Arc<Shared>,
}

impl ObservedStore {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn inner(&self) -> &dyn Store {
        &*self.shared.store
    }
}

/// A commit between its start and its publication; the follower leaves the log alone meanwhile.
struct Flight<'a>(&'a Signals);

impl<'a> Flight<'a> {
    fn start(signals: &'a Signals) -> Self {
        signals.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(signals)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.settled.notify_one();
        }
    }
}

impl Shared {
    /// Publishes an event to the room of the runtime and to those of its streams.
    pub(crate) fn publish_event(&self, event: LiveEvent) {
        let event = Arc::new(event);
        self.publish(&Room::runtime(), LiveMessage::Event(Arc::clone(&event)));
        for place in &event.stored().places {
            let room = Room::stream(place.stream.clone());
            self.publish(&room, LiveMessage::Event(Arc::clone(&event)));
        }
        Counters::add(&self.counters.events_published, 1);
    }

    fn publish_committed(&self, time: Timestamp, events: Vec<NewEvent>, committed: &Committed) {
        let dense = self.store.capabilities().dense_positions;
        let first = Position(committed.positions.start);
        for stored in placed(committed, events, time) {
            // Positions of one commit follow each other in every store; what is before the
            // first of them is known only where positions are dense.
            let known = dense || stored.position > first;
            let previous = known.then(|| Position(stored.position.0 - 1));
            self.publish_event(LiveEvent::new(stored, previous));
        }
        lock(&self.progress).published(&committed.positions);
    }
}

#[async_trait]
impl Store for ObservedStore {
    fn identity(&self) -> &StoreIdentity {
        self.inner().identity()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner().capabilities()
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        if commit.events.is_empty() {
            return self.inner().commit(commit).await;
        }
        let (time, events) = (commit.time, commit.events.clone());
        let _flight = Flight::start(&self.shared.signals);
        // If this future is dropped in here, the commit may still happen; the follower, or the
        // next look of each reader at the head, finds it in the log.
        let committed = self.inner().commit(commit).await?;
        if !committed.repeated {
            self.shared.publish_committed(time, events, &committed);
        }
        Ok(committed)
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.inner().committed(id).await
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        self.inner().id_time(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        self.inner().row(key).await
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.inner().rows(query, page).await
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.inner().events(stream, page).await
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        self.inner().retention_units(page).await
    }

    async fn changed(&self, after: Position) -> Position {
        self.inner().changed(after).await
    }

    fn inbox(&self) -> Option<&dyn CommandInbox> {
        self.inner().inbox()
    }

    async fn close(&self) -> Result<(), CommitError> {
        self.inner().close().await
    }
}

#[async_trait]
impl AttachmentStore for ObservedStore {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.inner().put_attachment(bytes).await
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        self.inner().attachment(digest).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.inner().has_attachment(digest).await
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.inner().sweep_attachments(live, min_age).await
    }
}

#[async_trait]
impl KeyRingStore for ObservedStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner().key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner().rotate_key_ring().await
    }
}
