//! The bridge for programs with their own broadcast.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use runtime_core::{Classified, EventKind, Topic};
use runtime_events::{BridgeConfig, BridgeError, BridgeInput, HubParts, LogEvent};
use runtime_store::MemoryStore;
use runtime_testkit::{Fault, FaultStore, ProcessStore};
use serde_json::json;

use crate::bench::{Bench, assert_idle, draft, positions, settle};

fn input(bench: &Bench) -> BridgeInput {
    let draft = draft(EventKind::MessageCommitted, "desk", "1");
    BridgeInput::Event(LogEvent {
        id: bench.event_id(),
        draft,
    })
}

async fn stored(bench: &Bench) -> Vec<String> {
    let start = bench.hub.cursor_from_start();
    let read = bench
        .hub
        .read(Topic::Runtime, start, 256)
        .await
        .expect("a page");
    read.events
        .iter()
        .map(|event| event.kind().to_string())
        .collect()
}

#[tokio::test]
async fn v10_closing_drains_what_was_handed_over() {
    let bench = Bench::new();
    let (sender, bridge) = bench.hub.bridge_channel(BridgeConfig::default());
    for _ in 0..200 {
        sender.send(input(&bench)).await.expect("the bridge runs");
    }
    let counts = bridge.close().await.expect("drained");
    assert_eq!((counts.appended, counts.gaps), (200, 0));
    assert_eq!(stored(&bench).await.len(), 200);
    let late = sender.send(input(&bench)).await.expect_err("it has ended");
    assert_eq!(late.code(), "bridge_cancelled");
}

/// V10: a source that always has more does not keep `close` from ending.
#[tokio::test]
async fn v10_closing_takes_no_more_than_its_bound_of_a_source_without_end() {
    let bench = Bench::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let (counted, one) = (Arc::clone(&taken), input(&bench));
    let source = stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        one.clone()
    });
    let config = BridgeConfig {
        drain_events_max: 7,
        ..BridgeConfig::default()
    };
    let bridge = bench.hub.bridge(source, config);
    while taken.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Nothing else runs between the two lines: the bridge is told before it takes another.
    let before = taken.load(Ordering::SeqCst);
    let counts = bridge.close().await.expect("it ends");
    let drained = taken.load(Ordering::SeqCst) - before;
    assert!((1..=7).contains(&drained), "{drained}");
    assert_eq!(
        counts.appended + counts.repeated,
        taken.load(Ordering::SeqCst) as u64
    );
}

#[tokio::test]
async fn v10_a_producer_waits_for_the_log() {
    let bench = Bench::new();
    let config = BridgeConfig {
        input_events_max: 4,
        ..BridgeConfig::default()
    };
    let (sender, bridge) = bench.hub.bridge_channel(config);
    for _ in 0..1_000 {
        sender.send(input(&bench)).await.expect("the bridge runs");
    }
    drop(sender);
    assert_eq!(bridge.join().await.expect("drained").appended, 1_000);
}

#[tokio::test]
async fn v10_a_gap_of_the_source_is_an_event_and_a_repeated_event_is_one() {
    let bench = Bench::new();
    let event = input(&bench);
    let source = [
        event.clone(),
        event,
        BridgeInput::Lagged { skipped: 9 },
        input(&bench),
    ];
    let bridge = bench
        .hub
        .bridge(stream::iter(source), BridgeConfig::default());
    let counts = bridge.join().await.expect("the source ended");
    assert_eq!((counts.appended, counts.repeated, counts.gaps), (3, 1, 1));
    assert_eq!(
        stored(&bench).await,
        ["message_committed", "diagnostic", "message_committed"]
    );
    let start = bench.hub.cursor_from_start();
    let read = bench
        .hub
        .read(Topic::Runtime, start, 256)
        .await
        .expect("a page");
    assert_eq!(read.events[1].draft.payload["skipped"], json!(9));
}

#[tokio::test]
async fn v10_an_append_that_cannot_succeed_ends_the_bridge() {
    let bench = Bench::new();
    let end = LogEvent {
        id: bench.event_id(),
        draft: draft(EventKind::TurnCompleted, "desk", "1"),
    };
    let source = [BridgeInput::Event(end), input(&bench), input(&bench)];
    let bridge = bench
        .hub
        .bridge(stream::iter(source), BridgeConfig::default());
    let error = bridge.join().await.expect_err("the turn has ended");
    let BridgeError::Append { error, .. } = error else {
        panic!("expected an append error, found {error}");
    };
    assert_eq!(error.code(), "turn_already_ended");
    assert_eq!(stored(&bench).await, ["turn_completed"]);
}

#[tokio::test]
async fn v10_abort_ends_it_and_a_panic_keeps_its_text() {
    let bench = Bench::new();
    let bridge = bench.hub.bridge(stream::pending(), BridgeConfig::default());
    settle().await;
    assert!(!bridge.is_finished());
    bridge.abort();
    bridge.abort();
    settle().await;
    assert!(bridge.is_finished());
    assert!(matches!(bridge.join().await, Err(BridgeError::Cancelled)));

    let panics = stream::once(async { panic!("broken source") }).boxed();
    let bridge = bench.hub.bridge(panics, BridgeConfig::default());
    match bridge.join().await {
        Err(BridgeError::Panicked { text }) => assert_eq!(text, "broken source"),
        other => panic!("expected a panic, found {other:?}"),
    }
}

/// Aborted in the middle of an append: that one is stored and published, none after it.
#[tokio::test]
async fn v10_abort_comes_after_the_append_and_publication_under_way() {
    let memory = MemoryStore::new("bench".parse().expect("a runtime id"));
    let process = ProcessStore::over(Arc::new(memory));
    let bench = Bench::before(Arc::clone(&process) as _, HubParts::default());
    let start = bench.hub.cursor_from_start();
    let mut watching = bench.hub.subscribe(Topic::Runtime, start);
    assert_idle(&mut watching).await;
    process.stop();
    let source = stream::iter([input(&bench), input(&bench)]);
    let bridge = bench.hub.bridge(source, BridgeConfig::default());
    settle().await;
    bridge.abort();
    settle().await;
    assert!(!bridge.is_finished(), "an append is under way");
    process.wake();
    assert!(matches!(bridge.join().await, Err(BridgeError::Cancelled)));
    assert_eq!(positions(&mut watching, 1).await, [1]);
    assert_eq!(stored(&bench).await, ["message_committed"]);
}

/// What may succeed later is tried again, the lost answer included, and nothing is there twice.
#[tokio::test]
async fn v10_a_store_that_is_away_for_a_moment_loses_nothing() {
    let memory = MemoryStore::new("bench".parse().expect("a runtime id"));
    let store = FaultStore::new(Arc::new(memory));
    let bench = Bench::before(Arc::clone(&store) as _, HubParts::default());
    store.fault_at(store.commits() + 1, Fault::FailBefore);
    store.fault_at(store.commits() + 2, Fault::LoseResponse);
    let config = BridgeConfig {
        retry_pause: std::time::Duration::ZERO,
        ..BridgeConfig::default()
    };
    let source = stream::iter([input(&bench), input(&bench)]);
    let bridge = bench.hub.bridge(source, config);
    let counts = bridge.join().await.expect("the source ended");
    assert_eq!((counts.retries, counts.appended + counts.repeated), (2, 2));
    assert_eq!(stored(&bench).await.len(), 2);
}
