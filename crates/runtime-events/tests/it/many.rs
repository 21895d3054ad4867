//! Many readers of one hub (R14).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt, StreamExt};
use runtime_core::{CommitId, EventKind, Timestamp, Topic};
use runtime_events::{EventStream, HubParts};
use runtime_store::{Commit, NewEvent};
use tokio::sync::watch;

use crate::allocated_bytes;
use crate::bench::{Bench, draft, event, turn};

const READERS: usize = 10_000;
const EVENTS: u64 = 1_000;

async fn read_all(mut stream: EventStream, events: u64) {
    for position in 1..=events {
        assert_eq!(event(stream.next().await).position, position);
    }
}

/// Every 20th reader sleeps until everything is stored, every 100th leaves in the middle. Others
/// keep up only as far as the writer lets them run: once in 32 commits.
#[tokio::test]
async fn r14_ten_thousand_readers_miss_nothing() {
    let started = std::time::Instant::now();
    let mut parts = HubParts::default();
    parts.config.live.buffer_messages = 64;
    let bench = Bench::with_parts(parts);
    let (wake, asleep) = watch::channel(false);
    let done = Arc::new(AtomicUsize::new(0));
    let mut readers = Vec::with_capacity(READERS);
    for reader in 0..READERS {
        let mut stream = bench
            .hub
            .subscribe(Topic::Runtime, bench.hub.cursor_from_start());
        assert!(stream.next().now_or_never().is_none());
        let (mut asleep, done) = (asleep.clone(), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let events = if reader % 100 == 50 {
                EVENTS / 2
            } else {
                EVENTS
            };
            if reader % 20 == 0 {
                let woken = asleep.wait_for(|awake| *awake).await;
                woken.expect("the writer lives");
            }
            read_all(stream, events).await;
            done.fetch_add(1, Ordering::Relaxed);
        }));
    }
    let store = bench.hub.store();
    let mut awaited = 0;
    let time = Timestamp::from_millis(1_000_000);
    for at in 0..EVENTS {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&at.to_be_bytes());
        let event = NewEvent::from_draft(
            bench.event_id(),
            &draft(EventKind::TurnStarted, "desk", "1"),
        );
        let commit = Commit::new(CommitId::generate(time, random), time).event(event);
        // Ready at the first poll, or the writer would wait for somebody.
        match store.commit(commit.clone()).now_or_never() {
            Some(committed) => drop(committed.expect("the store commits")),
            None => {
                awaited += 1;
                let again = store.commit(commit).await;
                again.expect("the store commits");
            }
        }
        if at % 32 == 0 {
            // A turn of the scheduler runs about sixty tasks.
            for _ in 0..READERS / 50 {
                tokio::task::yield_now().await;
            }
        }
    }
    wake.send_replace(true);
    for reader in readers {
        reader
            .await
            .expect("a reader saw every event once and in order");
    }
    assert_eq!(done.load(Ordering::Relaxed), READERS);
    let counts = bench.hub.counts();
    assert!(counts.live_skipped > 0, "the slow ones lagged");
    let left = READERS as u64 / 100 * EVENTS / 2;
    let deliveries = READERS as u64 * EVENTS - left;
    let seconds = started.elapsed().as_secs_f64();
    println!("R14 {deliveries} 0 {seconds:.1}");
    println!("R14-writer {EVENTS} {awaited} {seconds:.1}");
    assert_eq!(awaited, 0, "commits that waited for a reader");
}

/// What a reader costs that has read everything and waits, each in a room of its own, which costs
/// most: by an allocator that counts every byte, nothing else running beside.
fn idle_reader_bytes() -> (usize, usize) {
    let bench = Bench::new();
    let mut streams = Vec::with_capacity(READERS);
    let before = allocated_bytes();
    for reader in 0..READERS {
        let topic = turn("desk", &reader.to_string());
        let mut stream = bench.hub.subscribe(topic, bench.hub.cursor_from_start());
        assert!(stream.next().now_or_never().is_none());
        streams.push(stream);
    }
    let idle = allocated_bytes().saturating_sub(before) / READERS;
    // The stream itself stands in the vector, which was there before.
    (idle + size_of::<EventStream>(), streams.len())
}

#[tokio::test]
async fn an_idle_reader_costs_at_most_4_kib_r14() {
    let started = std::time::Instant::now();
    let (each, readers) = idle_reader_bytes();
    let over = usize::from(each > 4096);
    let seconds = started.elapsed().as_secs_f64();
    println!("R14-idle {readers} {over} {seconds:.1}");
    println!("an idle reader costs {each} bytes");
    assert!(each <= 4096, "{each} bytes for each idle reader");
    // The count counts: a page of events that is not given back is seen.
    let before = allocated_bytes();
    let planted: Vec<Vec<u8>> = (0..READERS).map(|_| vec![0; 8192]).collect();
    assert!((allocated_bytes() - before) / planted.len() > 4096);
}
