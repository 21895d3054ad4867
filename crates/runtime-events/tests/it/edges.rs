//! What readers and writers meet at the edges: stores with holes between positions, readers that
//! join before they read, owners that were taken over, producers whose store stays away.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use runtime_core::{
    Classified, Clock as _, CommitId, EventDraft, EventKind, ExecutionScope, ProcessId,
    Random as _, SessionId, Topic,
};
use runtime_events::{
    BridgeConfig, BridgeError, BridgeInput, Delta, DeltaTarget, EventBatch, HubParts, ListenError,
    LogEvent, PublishError, RetentionPolicy, StreamItem,
};
use runtime_store::{
    Capabilities, Commit, Epoch, MemoryStore, NewEvent, Position, RowChange, RowKey, Store,
    StoreLayer,
};
use runtime_testkit::{Fault, FaultStore};

use crate::bench::{Bench, SECOND, assert_idle, draft, event, positions, settle, turn};

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new("bench".parse().expect("a runtime id")))
}

fn process(name: &str) -> ProcessId {
    name.parse().expect("a process id")
}

fn of_process(kind: EventKind, name: &str) -> EventDraft {
    EventDraft::new(kind).in_scope(&ExecutionScope::Process {
        process: process(name),
    })
}

fn delta(text: &str) -> Delta {
    Delta {
        session: "desk".parse().expect("an id"),
        turn: "1".parse().expect("an id"),
        call: "0.llm_call.0".to_owned(),
        attempt: 1,
        index: 0,
        pieces: 1,
        target: DeltaTarget::Text,
        text: text.to_owned(),
    }
}

/// Says of a store that its positions have holes, as those of a database sequence do.
#[derive(Debug)]
struct Sparse {
    below: MemoryStore,
    capabilities: Capabilities,
}

impl Sparse {
    fn new() -> Arc<Self> {
        let below = MemoryStore::new("bench".parse().expect("a runtime id"));
        let capabilities = Capabilities {
            dense_positions: false,
            ..below.capabilities().clone()
        };
        Arc::new(Self {
            below,
            capabilities,
        })
    }
}

#[async_trait]
impl StoreLayer for Sparse {
    fn below(&self) -> &dyn Store {
        &self.below
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

async fn commit_three(bench: &Bench) {
    let id = CommitId::generate(bench.clock.now(), bench.random.ten());
    let mut commit = Commit::new(id, bench.clock.now());
    for _ in 0..3 {
        let draft = draft(EventKind::MessageCommitted, "desk", "1");
        commit = commit.event(NewEvent::from_draft(bench.event_id(), &draft));
    }
    bench.hub.store().commit(commit).await.expect("committed");
}

/// Where nothing can be between two positions, the live message is enough.
#[tokio::test]
async fn v4_events_of_one_commit_need_no_read_where_positions_are_dense() {
    let bench = Bench::new();
    let start = bench.hub.cursor_from_start();
    let mut all = bench.hub.subscribe(Topic::Runtime, start);
    assert_idle(&mut all).await;
    let pages = bench.hub.counts().pages_read;
    commit_three(&bench).await;
    assert_eq!(positions(&mut all, 3).await, [1, 2, 3]);
    assert_eq!(bench.hub.counts().pages_read, pages);
}

/// What is before the first event of a commit is read; the events of the commit follow each other.
#[tokio::test]
async fn v4_where_positions_have_holes_a_commit_costs_its_reader_one_read() {
    let bench = Bench::before(Sparse::new(), HubParts::default());
    let start = bench.hub.cursor_from_start();
    let mut all = bench.hub.subscribe(Topic::Runtime, start);
    assert_idle(&mut all).await;
    let pages = bench.hub.counts().pages_read;
    // Another wrote something in between, of which no message tells.
    let past = draft(EventKind::TurnStarted, "desk", "1");
    let id = CommitId::generate(bench.clock.now(), bench.random.ten());
    let unheard =
        Commit::new(id, bench.clock.now()).event(NewEvent::from_draft(bench.event_id(), &past));
    bench.store.commit(unheard).await.expect("committed");
    commit_three(&bench).await;
    assert_eq!(positions(&mut all, 4).await, [1, 2, 3, 4]);
    commit_three(&bench).await;
    assert_eq!(positions(&mut all, 3).await, [5, 6, 7]);
    let read = bench.hub.counts().pages_read - pages;
    assert!((1..=4).contains(&read), "{read} pages");
}

/// Nothing to read is known from the head that the hub follows, however long nothing happens.
#[tokio::test]
async fn v4_a_reader_to_whom_nothing_happens_reads_nothing() {
    let bench = Bench::new();
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    let start = bench.hub.cursor_from_start();
    let mut idle = bench.hub.subscribe(turn("desk", "1"), start);
    assert_eq!(positions(&mut idle, 1).await, [1]);
    assert_idle(&mut idle).await;
    let pages = bench.hub.counts().pages_read;
    for _ in 0..5 {
        bench.clock.advance(SECOND);
        assert_idle(&mut idle).await;
    }
    assert_eq!(bench.hub.counts().pages_read, pages);
    // And it is awake.
    let at = bench
        .commit_past(&draft(EventKind::MessageCommitted, "desk", "1"))
        .await;
    settle().await;
    assert_eq!(positions(&mut idle, 1).await, [at]);
}

#[tokio::test]
async fn v5_e15_the_stream_of_a_process_ends_with_it() {
    let bench = Bench::new();
    let topic = |name: &str| Topic::Process {
        process: process(name),
    };
    let start = bench.hub.cursor_from_start();
    let mut live = bench.hub.subscribe(topic("a"), start);
    assert_idle(&mut live).await;
    bench
        .commit(&of_process(EventKind::ProcessStarted, "a"))
        .await;
    let ended = of_process(EventKind::ProcessSucceeded, "a");
    bench.commit(&ended).await;
    let later = of_process(EventKind::ProcessStarted, "b");
    bench.commit(&later).await;
    let replayed = &mut bench.hub.subscribe(topic("a"), start);
    for stream in [&mut live, replayed] {
        assert_eq!(positions(stream, 2).await, [1, 2]);
        assert!(stream.next().await.is_none(), "nothing can follow");
    }
    let mut other = bench.hub.subscribe(topic("b"), start);
    assert_eq!(positions(&mut other, 1).await, [3]);
    assert_idle(&mut other).await;
}

/// From `join` on no delta is missed, however late the first poll comes.
#[tokio::test]
async fn v3_a_stream_that_has_joined_hears_what_comes_before_its_first_poll() {
    let bench = Bench::new();
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    let start = bench.hub.cursor_from_start();
    let mut stream = bench.hub.subscribe(turn("desk", "1"), start);
    bench.hub.publish_delta(delta("nobody hears this"));
    let printed = format!("{stream:?}");
    assert!(printed.contains("desk"), "it tells its topic: {printed}");
    stream.join().await.expect("joined");
    stream.join().await.expect("joining again changes nothing");
    bench.hub.publish_delta(delta("heard"));
    assert_eq!(event(stream.next().await).position, 1);
    match stream.next().await {
        Some(Ok(StreamItem::Delta(delta))) => assert_eq!(delta.text, "heard"),
        other => panic!("expected a delta, found {other:?}"),
    }
}

#[tokio::test]
async fn v6_joining_says_what_the_first_poll_would_and_ends_the_stream() {
    let bench = Bench::new();
    let other = Bench::before(
        Arc::new(MemoryStore::new("other".parse().expect("an id"))),
        HubParts::default(),
    );
    let foreign = other.hub.cursor_from_start();
    let mut stream = bench.hub.subscribe(Topic::Runtime, foreign);
    let refused = stream.join().await.expect_err("a refusal");
    assert_eq!(refused.code(), "cursor_other_runtime");
    assert!(stream.next().await.is_none());
}

/// Who was taken over appends nothing more.
#[tokio::test]
async fn v1_a_batch_of_an_owner_that_was_taken_over_is_refused() {
    let bench = Bench::new();
    let scope = ExecutionScope::Turn {
        session: SessionId::new("desk").expect("an id"),
        turn: "1".parse().expect("an id"),
    };
    let scope = scope.scope_id();
    let id = CommitId::generate(bench.clock.now(), bench.random.ten());
    let claim = Commit::new(id, bench.clock.now())
        .row(RowChange::put(RowKey::epoch(scope.clone()), *b"owner"));
    bench.store.commit(claim).await.expect("claimed");
    let log = bench.hub.log();
    let batch = |epoch| {
        let event = log.event(draft(EventKind::MessageCommitted, "desk", "1"));
        EventBatch::new([event]).owned_by(scope.clone(), Epoch(epoch))
    };
    log.append(batch(1)).await.expect("it owns the turn");
    let late = log.append(batch(0)).await.expect_err("an earlier owner");
    assert_eq!(late.class(), runtime_core::ErrorClass::Fenced, "{late}");
}

/// A store that stays away ends the bridge after as many attempts as it was told.
#[tokio::test]
async fn v10_a_store_that_stays_away_ends_the_bridge_with_its_error() {
    let store = FaultStore::new(memory());
    let bench = Bench::before(Arc::clone(&store) as _, HubParts::default());
    for attempt in 1..=20 {
        store.fault_at(store.commits() + attempt, Fault::FailBefore);
    }
    let config = BridgeConfig {
        attempts_max: 3,
        retry_pause: std::time::Duration::ZERO,
        ..BridgeConfig::default()
    };
    let draft = draft(EventKind::MessageCommitted, "desk", "1");
    let id = bench.event_id();
    let source = stream::iter([BridgeInput::Event(LogEvent { id, draft })]);
    let bridge = bench.hub.bridge(source, config);
    match bridge.join().await {
        Err(BridgeError::Append { id: failed, error }) => {
            assert_eq!(failed, id);
            assert_eq!(error.class(), runtime_core::ErrorClass::Unavailable);
        }
        other => panic!("expected the error of the store, found {other:?}"),
    }
    assert_eq!(store.commits(), 3);
}

#[test]
fn c3_each_refusal_of_the_live_side_has_its_code() {
    let reason = || "away".to_owned();
    let codes = [
        PublishError::Closed.code(),
        PublishError::Unavailable { reason: reason() }.code(),
        ListenError::Closed.code(),
        ListenError::TooManyReaders { max: 1 }.code(),
        ListenError::Unavailable { reason: reason() }.code(),
    ];
    assert_eq!(
        codes,
        [
            "live_publish_closed",
            "live_publish_unavailable",
            "live_listen_closed",
            "live_too_many_readers",
            "live_listen_unavailable",
        ]
    );
}

#[tokio::test]
async fn v9_what_may_be_removed_is_counted_as_it_would_be() {
    let bench = Bench::new();
    for _ in 0..40 {
        bench
            .commit(&draft(EventKind::MessageCommitted, "desk", "1"))
            .await;
    }
    let policy = RetentionPolicy {
        events_max: Some(20),
        ..RetentionPolicy::default()
    };
    let would = bench.hub.removable(&policy).await.expect("counted");
    let did = bench.hub.retain(&policy).await.expect("removed");
    // The store in memory removes in units of 16 events.
    assert_eq!((would.removed_through, would.events), (Position(32), 32));
    assert_eq!(would, did);
    assert!(would.bytes > 0);
}
