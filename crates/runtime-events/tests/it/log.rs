//! Appending.

use runtime_core::{Classified, ErrorClass, EventDraft, EventKind, Topic};
use runtime_events::EventBatch;
use runtime_store::{Position, Seq};

use crate::bench::{Bench, SECOND, draft, turn};

#[tokio::test]
async fn v1_appending_again_gives_the_stored_events() {
    let bench = Bench::new();
    let log = bench.hub.log();
    let batch = EventBatch::new([
        log.event(draft(EventKind::TurnStarted, "desk", "1")),
        log.event(draft(EventKind::MessageCommitted, "desk", "1")),
    ]);
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
