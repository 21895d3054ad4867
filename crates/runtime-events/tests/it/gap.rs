//! Retention, damage and refusals, over a store that forgets and fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime_core::{Classified, CommitId, Digest, EventKind, StreamKey, Timestamp, Topic};
use runtime_events::{Authorizer, HubParts, StreamItem, SubscribeError, Subscription};
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, Commit, CommitError, Committed, EventPage,
    KeyRing, KeyRingStore, MemoryStore, Page, Payload, Position, ReadError, RetentionUnit, Row,
    RowKey, RowPage, RowQuery, Store, StoreIdentity,
};

use crate::bench::{Bench, SECOND, assert_idle, draft, event, positions, settle, turn};

/// A store in memory that removes events up to a position, damages one, and may be away.
#[derive(Debug)]
struct ForgetfulStore {
    inner: MemoryStore,
    pruned: AtomicU64,
    damaged: AtomicU64,
    away: AtomicBool,
}

impl ForgetfulStore {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new("bench".parse().expect("a runtime id")),
            pruned: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            away: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl Store for ForgetfulStore {
    fn identity(&self) -> &StoreIdentity {
        self.inner.identity()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.inner.commit(commit).await
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
        if self.away.load(Ordering::SeqCst) {
            return Err(ReadError::Unavailable {
                reason: "away".to_owned(),
                source: None,
            });
        }
        let pruned = Position(self.pruned.load(Ordering::SeqCst));
        let after = page.after.max(pruned);
        let mut page = self.inner.events(stream, Page { after, ..page }).await?;
        page.pruned = pruned;
        let damaged = Position(self.damaged.load(Ordering::SeqCst));
        for event in &mut page.events {
            if event.position == damaged {
                event.body = Arc::from(&b"{"[..]);
            }
        }
        Ok(page)
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
impl AttachmentStore for ForgetfulStore {
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
impl KeyRingStore for ForgetfulStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.rotate_key_ring().await
    }
}

async fn filled(events: usize) -> (Arc<ForgetfulStore>, Bench) {
    let store = ForgetfulStore::new();
    let bench = Bench::before(store.clone(), HubParts::default());
    for _ in 0..events {
        bench
            .commit(&draft(EventKind::MessageCommitted, "desk", "1"))
            .await;
    }
    (store, bench)
}

#[tokio::test]
async fn v9_what_retention_removed_is_a_gap_for_streams_and_an_error_for_pollers() {
    let (store, bench) = filled(10).await;
    store.pruned.store(4, Ordering::SeqCst);
    let start = bench.hub.cursor_from_start();
    for topic in [Topic::Runtime, turn("desk", "1")] {
        let mut stream = bench.hub.subscribe(topic.clone(), start);
        let gap = stream.next().await.expect("an item").expect("no error");
        let oldest = Position(5);
        assert_eq!(gap, StreamItem::Gap { oldest });
        assert_eq!(stream.cursor().position(), Position(4));
        assert_eq!(positions(&mut stream, 6).await, [5, 6, 7, 8, 9, 10]);

        let pruned = bench
            .hub
            .read(topic.clone(), start, 9)
            .await
            .expect_err("a gap");
        assert_eq!(pruned.code(), "cursor_pruned");
        assert_eq!(pruned.details().expect("details")["oldest"], 5);
        let on = bench.hub.cursor_after(Position(4));
        let read = bench.hub.read(topic, on, 9).await.expect("a page");
        assert_eq!(read.events.len(), 6);
    }
}

#[tokio::test]
async fn v6_a_topic_that_began_after_the_pruned_events_has_no_gap() {
    let (store, bench) = filled(10).await;
    bench
        .commit(&draft(EventKind::TurnStarted, "shop", "2"))
        .await;
    store.pruned.store(10, Ordering::SeqCst);
    let mut stream = bench
        .hub
        .subscribe(turn("shop", "2"), bench.hub.cursor_from_start());
    assert_eq!(positions(&mut stream, 1).await, [11]);
}

#[tokio::test]
async fn v4_a_damaged_event_is_told_and_what_follows_is_whole() {
    let (store, bench) = filled(3).await;
    store.damaged.store(2, Ordering::SeqCst);
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_eq!(event(stream.next().await).position, 1);
    let (from, to) = (Position(2), Position(2));
    let item = stream.next().await.expect("an item").expect("no error");
    assert_eq!(item, StreamItem::Corrupt { from, to });
    assert_eq!(event(stream.next().await).position, 3);
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_not_the_end() {
    let (store, bench) = filled(3).await;
    store.away.store(true, Ordering::SeqCst);
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    let error = stream.next().await.expect("an item").expect_err("an error");
    assert_eq!(error.code(), "store_read_unavailable");
    store.away.store(false, Ordering::SeqCst);
    assert_idle(&mut stream).await;
    bench.clock.advance(SECOND);
    assert_eq!(positions(&mut stream, 3).await, [1, 2, 3]);
}

/// A foreign write and a follower that cannot read: each reader looks for itself after a second.
#[tokio::test]
async fn v4_a_second_of_silence_finds_what_nobody_published() {
    let (store, bench) = filled(1).await;
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_eq!(positions(&mut stream, 1).await, [1]);
    assert_idle(&mut stream).await;
    store.away.store(true, Ordering::SeqCst);
    bench
        .commit_past(&draft(EventKind::MessageCommitted, "desk", "1"))
        .await;
    settle().await;
    assert!(bench.hub.counts().follow_failures > 0);
    store.away.store(false, Ordering::SeqCst);
    assert_idle(&mut stream).await;
    bench.clock.advance(SECOND);
    assert_eq!(positions(&mut stream, 1).await, [2]);
}

#[derive(Debug)]
struct DeskOnly;

#[async_trait]
impl Authorizer for DeskOnly {
    async fn authorize(&self, topic: &Topic, subject: Option<&str>) -> Result<(), String> {
        assert_ne!(subject, Some("panic"), "a host may fail");
        match (subject, topic) {
            (Some("desk"), Topic::Session { session }) if session.as_str() == "desk" => Ok(()),
            _ => Err("only the desk may read its session".to_owned()),
        }
    }
}

#[tokio::test]
async fn v9_the_authorizer_is_asked_before_anything_is_read() {
    let mut parts = HubParts::default();
    parts.authorizer = Some(Arc::new(DeskOnly));
    let bench = Bench::with_parts(parts);
    bench
        .commit(&draft(EventKind::MessageCommitted, "desk", "1"))
        .await;
    let session = "desk".parse().expect("an id");
    let start = bench.hub.cursor_from_start();
    let desk = Subscription::new(Topic::Session { session }, start);
    let mut allowed = bench.hub.subscribe_with(desk.clone().on_behalf_of("desk"));
    assert_eq!(positions(&mut allowed, 1).await, [1]);
    let pages = bench.hub.counts().pages_read;
    for subject in ["shop", "panic"] {
        let asked = desk.clone().on_behalf_of(subject);
        let mut stream = bench.hub.subscribe_with(asked.clone());
        let refused = stream.next().await.expect("an answer");
        assert!(matches!(refused, Err(SubscribeError::Refused { .. })));
        assert!(stream.next().await.is_none());
        let read = bench.hub.read_with(asked, 9).await.expect_err("a refusal");
        assert_eq!(read.code(), "subscribe_refused");
    }
    assert_eq!(bench.hub.counts().pages_read, pages);
}
