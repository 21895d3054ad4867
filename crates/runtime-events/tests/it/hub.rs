//! One unbroken stream for every watcher.

use futures_util::StreamExt;
use runtime_core::{Classified, EventKind, Topic};
use runtime_events::{Delta, DeltaTarget, EventConfig, HubParts, StreamItem, Subscription};
use runtime_store::Position;

use crate::bench::{Bench, SECOND, assert_idle, draft, event, positions, settle, turn};

#[tokio::test]
async fn v4_replay_then_live_is_one_stream() {
    let bench = Bench::new();
    for _ in 0..600 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_eq!(
        positions(&mut stream, 300).await,
        (1..=300).collect::<Vec<_>>()
    );
    for _ in 0..400 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    assert_eq!(
        positions(&mut stream, 700).await,
        (301..=1000).collect::<Vec<_>>()
    );
    assert_idle(&mut stream).await;
    let live = bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    assert_eq!(positions(&mut stream, 1).await, [live]);
    assert_eq!(stream.cursor(), bench.hub.cursor_after(Position(1001)));
}

#[tokio::test]
async fn v4_a_hub_that_is_dropped_without_close_leaves_no_task() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let bench = Bench::new();
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    assert_eq!(tasks.num_alive_tasks(), 1, "one follows the store");
    // The store goes on: its end is not what ends the task.
    let _store = bench.store.clone();
    drop((stream, bench));
    settle().await;
    assert_eq!(tasks.num_alive_tasks(), 0);
}

#[tokio::test]
async fn v4_a_live_event_needs_no_read_of_the_log() {
    let bench = Bench::new();
    let mut stream = bench
        .hub
        .subscribe(turn("desk", "1"), bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    let pages = bench.hub.counts().pages_read;
    for _ in 0..100 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "2"))
            .await;
        let at = bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
        assert_eq!(positions(&mut stream, 1).await, [at]);
    }
    assert_eq!(bench.hub.counts().pages_read, pages);
}

#[tokio::test]
async fn v4_a_reader_that_lags_catches_up_from_the_log() {
    let bench = Bench::new();
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    for _ in 0..2_000 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    assert_eq!(
        positions(&mut stream, 2_000).await,
        (1..=2_000).collect::<Vec<_>>()
    );
    assert!(bench.hub.counts().live_skipped >= 2_000 - 256);
}

#[tokio::test]
async fn v4_what_another_process_wrote_arrives_by_the_change_hint() {
    let bench = Bench::new();
    let mut stream = bench
        .hub
        .subscribe(turn("desk", "1"), bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    bench
        .commit_past(&draft(EventKind::TurnStarted, "desk", "2"))
        .await;
    let at = bench
        .commit_past(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    settle().await;
    assert_eq!(positions(&mut stream, 1).await, [at]);
    assert_eq!(bench.hub.counts().events_repaired, 2);
}

#[tokio::test]
async fn v5_a_turn_stream_ends_after_the_terminal_event() {
    let bench = Bench::new();
    let mut live = bench
        .hub
        .subscribe(turn("desk", "1"), bench.hub.cursor_from_start());
    assert_idle(&mut live).await;
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    bench
        .commit(&draft(EventKind::TurnCompleted, "desk", "1"))
        .await;
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "2"))
        .await;
    for stream in [
        &mut live,
        &mut bench
            .hub
            .subscribe(turn("desk", "1"), bench.hub.cursor_from_start()),
    ] {
        assert_eq!(positions(stream, 2).await, [1, 2]);
        assert!(stream.next().await.is_none());
    }
    let mut late = bench
        .hub
        .subscribe(turn("desk", "1"), bench.hub.cursor_after(Position(3)));
    assert!(late.next().await.is_none(), "it ended before the cursor");
    assert_eq!(bench.hub.counts().streams_open, 0);
}

#[tokio::test]
async fn v6_each_wrong_cursor_has_its_own_answer() {
    let bench = Bench::new();
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    let future = bench.hub.cursor_after(Position(2));
    let mut stream = bench.hub.subscribe(Topic::Runtime, future);
    let error = stream
        .next()
        .await
        .expect("an answer")
        .expect_err("a refusal");
    assert_eq!(error.code(), "cursor_future");
    assert!(stream.next().await.is_none());

    let other = Bench::before(
        std::sync::Arc::new(runtime_store::MemoryStore::new(
            "other".parse().expect("an id"),
        )),
        HubParts::default(),
    );
    let foreign = other.hub.cursor_from_start();
    let read = bench.hub.read(Topic::Runtime, foreign, 1).await;
    assert_eq!(read.expect_err("a refusal").code(), "cursor_other_runtime");
    let restored = Bench::new();
    let read = bench
        .hub
        .read(Topic::Runtime, restored.hub.cursor_from_start(), 1)
        .await;
    assert_eq!(read.expect_err("a refusal").code(), "cursor_other_lineage");
}

#[tokio::test]
async fn v6_reading_in_pages_of_any_limit_gives_the_whole_topic() {
    let bench = Bench::new();
    for at in 0..700 {
        let turn = if at % 3 == 0 { "1" } else { "2" };
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", turn))
            .await;
    }
    for limit in [1, 7, 256, 10_000] {
        let (mut cursor, mut seen) = (bench.hub.cursor_from_start(), Vec::new());
        loop {
            let read = bench.hub.read(turn("desk", "1"), cursor, limit).await;
            let read = read.expect("a page");
            assert_eq!(read.limit, limit.min(256));
            seen.extend(read.events.iter().map(|event| event.position));
            cursor = read.next;
            if !read.has_more {
                break;
            }
        }
        assert_eq!(
            seen,
            (0..700).step_by(3).map(|at| at + 1).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn v6_zero_unknown_and_empty_are_three_answers() {
    let bench = Bench::new();
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    let start = bench.hub.cursor_from_start();
    let zero = bench.hub.read(Topic::Runtime, start, 0).await;
    assert_eq!(zero.expect_err("a refusal").code(), "page_limit_zero");
    let unknown = bench.hub.read(turn("desk", "9"), start, 1).await;
    assert_eq!(unknown.expect_err("a refusal").code(), "topic_unknown");
    let now = bench.hub.cursor_now().await.expect("the head");
    let empty = bench
        .hub
        .read(turn("desk", "1"), now, 1)
        .await
        .expect("a page");
    assert!(empty.events.is_empty() && !empty.has_more);
}

#[tokio::test]
async fn v6_after_seq_names_the_place_after_the_nth_event_of_a_turn() {
    let bench = Bench::new();
    for turn in ["1", "2", "1", "2", "1"] {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", turn))
            .await;
    }
    let (session, of) = ("desk".parse().expect("an id"), "1".parse().expect("an id"));
    for (seq, rest) in [(0, vec![1, 3, 5]), (1, vec![3, 5]), (3, vec![])] {
        let cursor = bench
            .hub
            .after_seq(&session, &of, seq)
            .await
            .expect("a cursor");
        let read = bench
            .hub
            .read(turn("desk", "1"), cursor, 9)
            .await
            .expect("a page");
        let positions: Vec<_> = read.events.iter().map(|event| event.position).collect();
        assert_eq!(positions, rest);
    }
    let future = bench.hub.after_seq(&session, &of, 4).await;
    assert_eq!(future.expect_err("a refusal").code(), "cursor_future");
}

#[tokio::test]
async fn a_filter_leaves_out_kinds_and_still_ends_the_turn() {
    let bench = Bench::new();
    for kind in [
        EventKind::TurnStarted,
        EventKind::MessageCommitted,
        EventKind::TurnFailed,
    ] {
        bench.commit(&draft(kind, "desk", "1")).await;
    }
    let all = Subscription::new(turn("desk", "1"), bench.hub.cursor_from_start());
    let mut stream = bench
        .hub
        .subscribe_with(all.of_kinds([EventKind::MessageCommitted]));
    assert_eq!(positions(&mut stream, 1).await, [2]);
    assert!(stream.next().await.is_none());
}

fn delta(attempt: u32, index: u64, text: &str) -> Delta {
    Delta {
        session: "desk".parse().expect("an id"),
        turn: "1".parse().expect("an id"),
        call: "0.llm_call.0".to_owned(),
        attempt,
        index,
        pieces: 1,
        target: DeltaTarget::Text,
        text: text.to_owned(),
    }
}

#[tokio::test]
async fn v3_deltas_are_live_only_and_what_waits_comes_as_one() {
    let bench = Bench::new();
    bench.hub.publish_delta(delta(1, 0, "nobody hears this"));
    let mut stream = bench
        .hub
        .subscribe(turn("desk", "1"), bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    for (index, text) in ["Hel", "lo ", "world"].into_iter().enumerate() {
        bench.hub.publish_delta(delta(1, index as u64, text));
    }
    bench.hub.publish_delta(delta(2, 0, "Hi"));
    bench.hub.publish_delta(delta(1, 3, "!"));
    let at = bench
        .commit(&draft(EventKind::MessageCommitted, "desk", "1"))
        .await;
    let mut texts = Vec::new();
    while let Some(Ok(StreamItem::Delta(delta))) = stream.next().await {
        texts.push((delta.attempt, delta.pieces, delta.text.clone()));
        if texts.len() == 2 {
            break;
        }
    }
    assert_eq!(
        texts,
        [(1, 3, "Hello world".to_owned()), (2, 1, "Hi".to_owned())]
    );
    assert_eq!(event(stream.next().await).position, at);
}

#[tokio::test]
async fn v8_close_gives_what_is_stored_and_reports() {
    let bench = Bench::new();
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    for _ in 0..1_000 {
        bench
            .commit(&draft(EventKind::TurnStarted, "desk", "1"))
            .await;
    }
    let hub = bench.hub.clone();
    let closing = tokio::spawn(async move { hub.close().await });
    settle().await;
    assert!(!closing.is_finished(), "a reader has not ended");
    assert_eq!(
        positions(&mut stream, 1_000).await,
        (1..=1_000).collect::<Vec<_>>()
    );
    assert!(stream.next().await.is_none());
    let counts = closing.await.expect("close returns");
    assert_eq!((counts.events_published, counts.streams_open), (1_000, 0));
    let mut late = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    let error = late
        .next()
        .await
        .expect("an answer")
        .expect_err("a refusal");
    assert_eq!(error.code(), "event_hub_closed");
}

/// Under a clock that stands still: whoever is not polled is not waited for.
#[tokio::test]
async fn v8_close_does_not_wait_for_a_reader_that_nobody_polls() {
    let bench = Bench::new();
    bench
        .commit(&draft(EventKind::TurnStarted, "desk", "1"))
        .await;
    let start = bench.hub.cursor_from_start();
    let untouched = bench.hub.subscribe(Topic::Runtime, start);
    let mut held = bench.hub.subscribe(Topic::Runtime, start);
    assert_eq!(positions(&mut held, 1).await, [1]);
    let hub = bench.hub.clone();
    let closing = tokio::spawn(async move { hub.close().await });
    settle().await;
    assert!(closing.is_finished(), "it waits for nobody");
    assert_eq!(closing.await.expect("no panic").streams_open, 2);
    // What is stored can still be taken.
    assert!(held.next().await.is_none());
    drop(untouched);
}

#[tokio::test]
async fn v8_close_does_not_wait_for_ever_for_a_reader_that_never_comes_back() {
    let bench = Bench::new();
    let mut stream = bench
        .hub
        .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
    assert_idle(&mut stream).await;
    let hub = bench.hub.clone();
    let closing = tokio::spawn(async move { hub.close().await });
    settle().await;
    assert!(!closing.is_finished());
    bench
        .clock
        .advance(EventConfig::default().close_grace + SECOND);
    assert_eq!(closing.await.expect("close returns").streams_open, 1);
    drop(stream);
}
