//! Appending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{FutureExt, StreamExt};
use runtime_core::{Classified, ErrorClass, EventDraft, EventKind, Topic};
use runtime_events::{
    EventBatch, HubParts, ListenError, LiveAdapter, LiveConfig, LiveMessage, LiveReceiver,
    PublishError, Room, StreamAdapter,
};
use runtime_store::{MemoryStore, Position, Seq};
use runtime_testkit::{Fault, FaultStore, ProcessStore};

use crate::bench::{Bench, SECOND, assert_idle, draft, positions, settle, turn};

#[tokio::test]
async fn v1_appending_again_gives_the_stored_events() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let batch = EventBatch::new([
        log.event(draft(EventKind::TurnStarted, "desk", "1")),
        log.event(draft(EventKind::MessageCommitted, "desk", "1")),
    ]);
    assert_eq!((batch.len(), batch.is_empty()), (2, false));
    assert!(EventBatch::new([]).is_empty());
    let first = log.append(batch.clone()).await.expect("appended");
    assert!(!first.repeated);
    let seqs: Vec<_> = first.events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [Some(1), Some(2)]);
    bench.clock.advance(SECOND);
    let again = log.append(batch).await.expect("appended");
    assert!(again.repeated);
    assert_eq!(again.events, first.events);
    assert_eq!(bench.hub.counts().events_published, 2);
}

#[tokio::test]
async fn v1_an_id_with_other_content_is_a_conflict() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let event = log.event(draft(EventKind::TurnStarted, "desk", "1"));
    log.append(EventBatch::new([event.clone()]))
        .await
        .expect("appended");
    let mut other = event.clone();
    other.draft.message = Some("other".to_owned());
    let error = log
        .append(EventBatch::new([other]))
        .await
        .expect_err("a conflict");
    assert_eq!(
        (error.code(), error.class()),
        ("event_id_taken", ErrorClass::Conflict)
    );
    let fresh = log.event(EventDraft::new(EventKind::Diagnostic));
    let error = log
        .append(EventBatch::new([fresh, event]))
        .await
        .expect_err("a conflict");
    assert_eq!(error.code(), "event_id_taken");
}

#[tokio::test]
async fn v1_an_unexpected_head_appends_nothing() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let key = turn("desk", "1").stream_key().expect("a stream");
    let event = || EventBatch::new([log.event(draft(EventKind::TurnStarted, "desk", "1"))]);
    log.append(event().expecting(key.clone(), Seq(0)))
        .await
        .expect("appended");
    let error = log
        .append(event().expecting(key, Seq(0)))
        .await
        .expect_err("a conflict");
    assert_eq!(error.code(), "append_unexpected_head");
    let head = bench.hub.cursor_now().await.expect("the head");
    assert_eq!(head.position(), Position(1));
}

#[tokio::test]
async fn v5_a_turn_has_one_terminal_event() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let one = |kind| EventBatch::new([log.event(draft(kind, "desk", "1"))]);
    log.append(one(EventKind::TurnCompleted))
        .await
        .expect("appended");
    for kind in [
        EventKind::TurnFailed,
        EventKind::TurnCompleted,
        EventKind::MessageCommitted,
    ] {
        let error = log.append(one(kind)).await.expect_err("a conflict");
        assert_eq!(error.code(), "turn_already_ended");
    }
    let read = bench
        .hub
        .read(Topic::Runtime, bench.hub.cursor_from_start(), 9)
        .await;
    assert_eq!(read.expect("a page").events.len(), 1);
}

#[tokio::test]
async fn an_empty_batch_and_a_delta_are_refused() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let delta = log.event(draft(EventKind::ModelDelta, "desk", "1"));
    for batch in [EventBatch::default(), EventBatch::new([delta])] {
        let error = log.append(batch).await.expect_err("a refusal");
        assert_eq!(error.code(), "append_invalid_batch");
    }
}

#[tokio::test]
async fn v1_concurrent_appends_are_dense() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let appends = (0..200).map(|at| {
        let log = log.clone();
        async move {
            let of = if at % 2 == 0 { "1" } else { "2" };
            let event = log.event(draft(EventKind::MessageCommitted, "desk", of));
            log.append(EventBatch::new([event]))
                .await
                .expect("appended")
        }
    });
    futures_util::future::join_all(appends).await;
    for of in ["1", "2"] {
        let read = bench
            .hub
            .read(turn("desk", of), bench.hub.cursor_from_start(), 256)
            .await;
        let seqs: Vec<_> = read.expect("a page").events.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, (1..=100).map(Some).collect::<Vec<_>>());
    }
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new("bench".parse().expect("a runtime id")))
}

/// An ordinary refusal has not happened; an unknown outcome says so, and appending the same batch
/// again settles it.
#[tokio::test]
async fn v1_an_append_that_failed_says_whether_it_happened() {
    let store = FaultStore::new(memory());
    let bench = Bench::before(Arc::clone(&store) as _, HubParts::default());
    let log = bench.hub.log();
    let batch = EventBatch::new([log.event(draft(EventKind::TurnStarted, "desk", "1"))]);
    store.fault_at(store.commits() + 1, Fault::FailBefore);
    let refused = log.append(batch.clone()).await.expect_err("a refusal");
    assert_eq!(refused.class(), ErrorClass::Unavailable);
    let head = bench.hub.cursor_now().await.expect("the head");
    assert_eq!(head.position(), Position(0), "it has not happened");
    store.fault_at(store.commits() + 1, Fault::LoseResponse);
    let unknown = log.append(batch.clone()).await.expect_err("a lost answer");
    assert_eq!(unknown.class(), ErrorClass::Indeterminate);
    let settled = log.append(batch).await.expect("settled");
    assert!(settled.repeated);
    let start = bench.hub.cursor_from_start();
    let read = bench.hub.read(turn("desk", "1"), start, 9).await;
    assert_eq!(read.expect("a page").events, settled.events);
}

/// A producer that is faster than its log waits: no more appends are under way than allowed.
#[tokio::test]
async fn v8_appends_are_held_back_by_a_log_that_is_slow() {
    let process = ProcessStore::over(memory());
    let store = FaultStore::new(Arc::clone(&process) as _);
    let mut parts = HubParts::default();
    parts.config.appends_in_flight_max = 2;
    let bench = Bench::before(Arc::clone(&store) as _, parts);
    process.stop();
    let appends: Vec<_> = (0..5)
        .map(|_| {
            let log = bench.hub.log();
            let event = log.event(draft(EventKind::TurnStarted, "desk", "1"));
            tokio::spawn(async move { log.append(EventBatch::new([event])).await })
        })
        .collect();
    settle().await;
    assert_eq!(store.commits(), 2, "appends that have reached the store");
    process.wake();
    for append in appends {
        append.await.expect("no panic").expect("appended");
    }
    assert_eq!(store.commits(), 5);
}

/// Live fan-out that is down for a while.
#[derive(Debug)]
struct Down {
    inner: LiveAdapter,
    down: Arc<AtomicBool>,
}

impl StreamAdapter for Down {
    fn publish(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        if self.down.load(Ordering::SeqCst) {
            let reason = "the network is gone".to_owned();
            return Err(PublishError::Unavailable { reason });
        }
        self.inner.publish(room, message)
    }

    fn listen(&self, room: &Room) -> Result<Box<dyn LiveReceiver>, ListenError> {
        self.inner.listen(room)
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// What cannot be published is stored all the same, counted, and repaired from the log, the last
/// event included.
#[tokio::test]
async fn v7_a_failed_publish_fails_no_append_and_is_repaired() {
    let down = Arc::new(AtomicBool::new(true));
    let mut parts = HubParts::default();
    parts.adapter = Some(Arc::new(Down {
        inner: LiveAdapter::new(LiveConfig::default()),
        down: Arc::clone(&down),
    }));
    let bench = Bench::with_parts(parts);
    let start = bench.hub.cursor_from_start();
    let mut stream = bench.hub.subscribe(Topic::Runtime, start);
    assert_idle(&mut stream).await;
    for _ in 0..3 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    assert!(bench.hub.counts().publish_failures >= 3);
    assert!(stream.next().now_or_never().is_none(), "nobody told it");
    bench.clock.advance(SECOND);
    assert_eq!(positions(&mut stream, 3).await, [1, 2, 3]);
    down.store(false, Ordering::SeqCst);
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    assert_eq!(positions(&mut stream, 1).await, [4]);
}
