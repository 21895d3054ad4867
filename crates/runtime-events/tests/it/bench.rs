//! What the tests share: a hub before a store in memory, on a clock that stands still.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use runtime_core::{
    CommitId, EventDraft, EventId, EventKind, ExecutionScope, Random as _, RuntimeEvent, SessionId,
    Timestamp, Topic, TurnId,
};
use runtime_events::{EventHub, EventStream, HubParts, StreamItem, SubscribeError};
use runtime_store::{Commit, MemoryStore, NewEvent, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};

pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: SimulatedClock,
    pub(crate) random: SeededRandom,
    pub(crate) hub: EventHub,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_parts(HubParts::default())
    }

    pub(crate) fn with_parts(parts: HubParts) -> Self {
        let store = MemoryStore::new("bench".parse().expect("a runtime id"));
        Self::before(Arc::new(store), parts)
    }

    pub(crate) fn before(store: Arc<dyn Store>, parts: HubParts) -> Self {
        let clock = SimulatedClock::new(Timestamp::from_millis(1_000_000));
        let random = SeededRandom::new(7);
        let hub = EventHub::with_parts(
            Arc::clone(&store),
            Arc::new(clock.clone()),
            Arc::new(random.clone()),
            parts,
        );
        Self {
            store,
            clock,
            random,
            hub,
        }
    }

    pub(crate) fn event_id(&self) -> EventId {
        EventId::generate(Timestamp::from_millis(1_000_000), self.random.ten())
    }

    /// Commits one event of that kind, past the hub or through it.
    pub(crate) async fn commit_to(&self, store: &dyn Store, draft: &EventDraft) -> u64 {
        let id = CommitId::generate(Timestamp::from_millis(1_000_000), self.random.ten());
        let commit = Commit::new(id, Timestamp::from_millis(1_000_000));
        let event = NewEvent::from_draft(self.event_id(), draft);
        let committed = store.commit(commit.event(event)).await;
        committed.expect("the store commits").positions.start
    }

    pub(crate) async fn commit(&self, draft: &EventDraft) -> u64 {
        self.commit_to(&*self.hub.store(), draft).await
    }

    pub(crate) async fn commit_past(&self, draft: &EventDraft) -> u64 {
        self.commit_to(&*self.store, draft).await
    }
}

pub(crate) fn turn(session: &str, turn: &str) -> Topic {
    Topic::Turn {
        session: SessionId::new(session).expect("a session id"),
        turn: TurnId::new(turn).expect("a turn id"),
    }
}

pub(crate) fn draft(kind: EventKind, session: &str, turn: &str) -> EventDraft {
    EventDraft::new(kind).in_scope(&ExecutionScope::Turn {
        session: SessionId::new(session).expect("a session id"),
        turn: TurnId::new(turn).expect("a turn id"),
    })
}

pub(crate) fn event(item: Option<Result<StreamItem, SubscribeError>>) -> Arc<RuntimeEvent> {
    match item {
        Some(Ok(StreamItem::Event(event))) => event,
        other => panic!("expected an event, found {other:?}"),
    }
}

pub(crate) async fn positions(stream: &mut EventStream, count: usize) -> Vec<u64> {
    let mut positions = Vec::with_capacity(count);
    for _ in 0..count {
        positions.push(event(stream.next().await).position);
    }
    positions
}

/// Asserts that nothing is there now, and lets other tasks run first.
pub(crate) async fn assert_idle(stream: &mut EventStream) {
    settle().await;
    let now = stream.next().now_or_never();
    assert!(now.is_none(), "expected nothing, found {now:?}");
}

/// Lets every other task of this thread run until it waits.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
