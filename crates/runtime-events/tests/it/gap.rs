//! Retention, damage and refusals, over a store that forgets and fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime_core::{Classified, Clock as _, CommitId, EventKind, Random as _, Topic};
use runtime_events::{Authorizer, HubParts, StreamItem, SubscribeError, Subscription};
use runtime_store::{Commit, EventPage, MemoryStore, NewEvent, Position, ReadError, Removal};
use runtime_testkit::ProcessStore;

use crate::bench::{Bench, SECOND, assert_idle, draft, event, positions, settle, turn};

/// What the store of a bench does to its readers.
#[derive(Debug, Default)]
struct Weather {
    damaged: AtomicU64,
    /// Up to here, from position 4 on, the store has lost what it had.
    lost_to: AtomicU64,
    away: AtomicBool,
}

/// The first position of what a store has lost.
const LOST_FROM: Position = Position(4);

impl Weather {
    fn distort(&self, mut page: EventPage) -> Result<EventPage, ReadError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(ReadError::Unavailable {
                reason: "away".to_owned(),
                source: None,
            });
        }
        let damaged = Position(self.damaged.load(Ordering::SeqCst));
        for event in &mut page.events {
            if event.position == damaged {
                event.body = Arc::from(&b"{"[..]);
            }
        }
        let to = Position(self.lost_to.load(Ordering::SeqCst));
        let is_lost = |position: Position| LOST_FROM <= position && position <= to;
        let mut events = page.events.iter();
        if let Some(whole) = events.position(|event| is_lost(event.position)) {
            // As the store of files does: what is whole before it, then the error.
            if whole == 0 {
                let from = page.events[0].position;
                let place = None;
                return Err(ReadError::CorruptEvents { from, to, place });
            }
            page.events.truncate(whole);
            page.next = page.events[whole - 1].position;
            page.has_more = true;
        }
        Ok(page)
    }
}

async fn filled(events: usize) -> (Arc<Weather>, Bench) {
    let weather = Arc::new(Weather::default());
    let memory = MemoryStore::new("bench".parse().expect("a runtime id"));
    let distorts = Arc::clone(&weather);
    let store = ProcessStore::distorting(Arc::new(memory), move |page| distorts.distort(page));
    let bench = Bench::before(store, HubParts::default());
    for _ in 0..events {
        bench
            .commit(&draft(EventKind::MessageCommitted, "desk", "1"))
            .await;
    }
    (weather, bench)
}

async fn prune(bench: &Bench, through: u64) {
    let now = bench.clock.now();
    let commit = Commit::new(CommitId::generate(now, bench.random.ten()), now);
    let removal = Removal::Through(Position(through));
    let pruned = bench.store.commit(commit.remove(removal)).await;
    pruned.expect("the store prunes");
}

#[tokio::test]
async fn v9_what_retention_removed_is_a_gap_for_streams_and_an_error_for_pollers() {
    let (_, bench) = filled(10).await;
    prune(&bench, 4).await;
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
    let (_, bench) = filled(10).await;
    bench
        .commit(&draft(EventKind::TurnStarted, "shop", "2"))
        .await;
    prune(&bench, 10).await;
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

/// V4, S4: events that the store has lost are told by their positions, to whoever watches and to
/// whoever polls, and what follows them is given.
#[tokio::test]
async fn v4_events_that_a_store_has_lost_are_told_and_what_follows_is_given() {
    let (store, bench) = filled(8).await;
    store.lost_to.store(6, Ordering::SeqCst);
    let lost = StreamItem::Corrupt {
        from: LOST_FROM,
        to: Position(6),
    };
    for topic in [Topic::Runtime, turn("desk", "1")] {
        let start = bench.hub.cursor_from_start();
        let mut stream = bench.hub.subscribe(topic.clone(), start);
        assert_eq!(positions(&mut stream, 3).await, [1, 2, 3], "{topic:?}");
        let item = stream.next().await.expect("an item").expect("no error");
        assert_eq!(item, lost, "{topic:?}");
        assert_eq!(stream.cursor().position(), Position(6));
        assert_eq!(positions(&mut stream, 2).await, [7, 8], "{topic:?}");
        assert_idle(&mut stream).await;

        // In the middle of it: only what is behind the cursor.
        let within = bench.hub.cursor_after(Position(5));
        let mut stream = bench.hub.subscribe(topic.clone(), within);
        let item = stream.next().await.expect("an item").expect("no error");
        let (from, to) = (Position(6), Position(6));
        assert_eq!(item, StreamItem::Corrupt { from, to }, "{topic:?}");

        let read = bench.hub.read(topic.clone(), start, 9).await;
        let read = read.expect("what is whole before it");
        assert_eq!((read.events.len(), read.has_more), (3, true));
        let told = bench.hub.read(topic.clone(), read.next, 9).await;
        let told = told.expect_err("a hole").details().expect("details");
        assert_eq!(told, serde_json::json!({ "from": 4, "to": 6 }));
        let on = bench.hub.cursor_after(Position(6));
        let read = bench.hub.read(topic, on, 9).await.expect("a page");
        assert_eq!(read.events.len(), 2);
    }
}

/// V4: a follower goes on behind what a store has lost, so readers hear what comes after it.
#[tokio::test]
async fn v4_a_hub_follows_on_behind_what_a_store_has_lost() {
    let (store, bench) = filled(3).await;
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_eq!(positions(&mut stream, 3).await, [1, 2, 3]);
    // Another process wrote four events, of which one can be read.
    store.lost_to.store(6, Ordering::SeqCst);
    for _ in 0..4 {
        let event = draft(EventKind::MessageCommitted, "desk", "1");
        let id = CommitId::generate(bench.clock.now(), bench.random.ten());
        let commit = Commit::new(id, bench.clock.now());
        let event = NewEvent::from_draft(bench.event_id(), &event);
        let committed = bench.store.commit(commit.event(event)).await;
        committed.expect("the store writes");
    }
    settle().await;
    bench.clock.advance(SECOND);
    let item = stream.next().await.expect("an item").expect("no error");
    let (from, to) = (LOST_FROM, Position(6));
    assert_eq!(item, StreamItem::Corrupt { from, to });
    assert_eq!(positions(&mut stream, 1).await, [7]);
    assert_eq!(bench.hub.counts().follow_failures, 0);
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
