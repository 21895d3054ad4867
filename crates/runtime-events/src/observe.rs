//! A store whose commits are published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use runtime_core::Timestamp;
use runtime_store::{Commit, CommitError, Committed, NewEvent, Position, Store, StoreLayer};

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
impl StoreLayer for ObservedStore {
    fn below(&self) -> &dyn Store {
        &*self.shared.store
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        if commit.events.is_empty() {
            return self.below().commit(commit).await;
        }
        let (time, events) = (commit.time, commit.events.clone());
        let _flight = Flight::start(&self.shared.signals);
        // If this future is dropped in here, the commit may still happen; the follower, or the
        // next look of each reader at the head, finds it in the log.
        let committed = self.below().commit(commit).await?;
        if !committed.repeated {
            self.shared.publish_committed(time, events, &committed);
        }
        Ok(committed)
    }
}
