//! Durable consumers.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime_core::{Classified, ErrorClass, EventKind, Topic, WireError};
use runtime_events::{CarryForward, HubParts, RetentionPolicy};
use runtime_store::Position;

use crate::bench::{Bench, draft, event, positions};

#[tokio::test]
async fn v9_a_consumer_goes_on_after_what_it_acknowledged() {
    let bench = Bench::new();
    for _ in 0..5 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    let consumer = bench.hub.consumer("billing").expect("a name");
    let mut stream = consumer.subscribe(Topic::Runtime).await.expect("a stream");
    assert_eq!(positions(&mut stream, 2).await, [1, 2]);
    assert!(
        consumer
            .acknowledge(stream.cursor())
            .await
            .expect("acknowledged")
    );
    drop(stream);

    // Another process: another hub before the same store.
    let again = Bench::before(bench.store.clone(), HubParts::default());
    let consumer = again.hub.consumer("billing").expect("a name");
    let mut stream = consumer.subscribe(Topic::Runtime).await.expect("a stream");
    assert_eq!(event(stream.next().await).position, 3);
}

#[tokio::test]
async fn v9_acknowledging_never_goes_back_or_ahead() {
    let bench = Bench::new();
    for _ in 0..5 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    let consumer = bench.hub.consumer("billing").expect("a name");
    let at = |position| bench.hub.cursor_after(Position(position));
    assert_eq!(consumer.cursor().await.expect("a place"), None);
    assert!(consumer.acknowledge(at(4)).await.expect("acknowledged"));
    assert!(!consumer.acknowledge(at(2)).await.expect("nothing to do"));
    assert_eq!(consumer.cursor().await.expect("a place"), Some(at(4)));
    assert!(consumer.acknowledge(at(5)).await.expect("all there is"));
    let future = consumer.acknowledge(at(6)).await.expect_err("a refusal");
    assert_eq!(future.code(), "cursor_future");
    let details = serde_json::json!({ "position": 6, "head": 5 });
    assert_eq!(future.details(), Some(details));
    let foreign = Bench::new().hub.cursor_from_start();
    let foreign = consumer.acknowledge(foreign).await.expect_err("a refusal");
    assert_eq!(foreign.code(), "cursor_other_lineage");
}

#[tokio::test]
async fn v9_the_slowest_consumer_is_the_watermark() {
    let bench = Bench::new();
    for _ in 0..5 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    assert_eq!(bench.hub.watermark().await.expect("a watermark"), None);
    for (name, position) in [("billing", 4), ("audit", 2)] {
        let consumer = bench.hub.consumer(name).expect("a name");
        let cursor = bench.hub.cursor_after(Position(position));
        consumer.acknowledge(cursor).await.expect("acknowledged");
    }
    let names: Vec<_> = bench.hub.consumers().await.expect("the consumers");
    assert_eq!(
        names.iter().map(|state| &*state.name).collect::<Vec<_>>(),
        ["audit", "billing"]
    );
    let watermark = bench.hub.watermark().await.expect("a watermark");
    assert_eq!(watermark, Some(Position(2)));
    bench
        .hub
        .consumer("audit")
        .expect("a name")
        .forget()
        .await
        .expect("forgotten");
    let watermark = bench.hub.watermark().await.expect("a watermark");
    assert_eq!(watermark, Some(Position(4)));
}

/// Saves nothing, and says so twice: by an error, then by a panic.
#[derive(Debug, Default)]
struct Clumsy(Mutex<Vec<Position>>);

#[async_trait]
impl CarryForward for Clumsy {
    async fn carry_forward(&self, through: Position) -> Result<(), WireError> {
        let mut asked = self.0.lock().expect("no panic under it");
        asked.push(through);
        let times = asked.len();
        drop(asked);
        match times {
            1 => Err(WireError::new("full", ErrorClass::Unavailable, "no room")),
            2 => panic!("the bag tears"),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn v9_nothing_goes_that_could_not_be_carried_forward() {
    let clumsy = Arc::new(Clumsy::default());
    let mut parts = HubParts::default();
    parts.carry_forward = Some(Arc::clone(&clumsy) as _);
    let bench = Bench::with_parts(parts);
    for _ in 0..40 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    let keeps_nothing = RetentionPolicy {
        events_max: Some(0),
        ..RetentionPolicy::default()
    };
    for class in [ErrorClass::Unavailable, ErrorClass::Terminal] {
        let refused = bench.hub.retain(&keeps_nothing).await;
        let refused = refused.expect_err("it was not saved");
        assert_eq!(
            (refused.code(), refused.class()),
            ("carry_forward_failed", class)
        );
        let start = bench.hub.cursor_from_start();
        let mut whole = bench.hub.subscribe(Topic::Runtime, start);
        assert_eq!(positions(&mut whole, 40).await.len(), 40);
    }
    let told = bench.hub.removable(&keeps_nothing).await.expect("a look");
    let retained = bench.hub.retain(&keeps_nothing).await.expect("retained");
    assert_eq!((told, retained.removed_through), (retained, Position(40)));
    assert_eq!(*clumsy.0.lock().expect("no panic"), [Position(40); 3]);
}
