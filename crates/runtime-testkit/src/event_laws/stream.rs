//! Streams: replay, join and live as one.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use runtime_core::{Clock as _, CommitId, EventId, EventKind, Random as _, Topic};
use runtime_events::{AppendError, StreamItem};
use runtime_store::{Commit, NewEvent};

use super::watch::{Setting, Watch, broken, draft, positions, session, turn};
use super::{EventFixture, Weather};
use crate::SeededRandom;
use crate::store_laws::{LawBroken, ensure, ensure_eq};

/// What was appended before anybody listened is no error, and is replayed in pages (V4, V7).
///
/// # Errors
/// The clause that broke.
pub async fn v4_what_was_appended_before_is_replayed(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(20)).await;
    let (here, there) = (turn("desk", "1"), turn("shop", "2"));
    for _ in 0..9 {
        watch.append(&here, 1).await?;
        watch.append(&there, 1).await?;
    }
    ensure_eq!(
        watch.hub.counts().publish_failures,
        0,
        "what publishing to nobody failed"
    );
    for topic in [Topic::Runtime, session("shop"), here.clone(), there.clone()] {
        let wanted = positions(&watch.read_all(&topic, 16).await?);
        let mut stream = watch.replay(&topic);
        let replayed = watch.take(&mut stream, wanted.len()).await?;
        ensure_eq!(replayed, wanted, "the replay of {topic:?}");
        let last = watch
            .append_one(&there, EventKind::MessageCommitted)
            .await?;
        if topic != here {
            let live = watch.take(&mut stream, 1).await?;
            ensure_eq!(live, [last.events[0].position], "what follows the replay");
        }
    }
    Ok(())
}

/// Whatever is appended at whatever step of a reader's start is given once and in its place (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_an_append_during_the_join_is_given_once(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(21)).await;
    let here = turn("desk", "1");
    watch.append(&here, 6).await?;
    watch.append(&turn("shop", "2"), 1).await?;
    for steps in 0..12 {
        let mut stream = watch.replay(&here);
        let mut seen = Vec::new();
        for _ in 0..steps {
            // A step that is not over yet is cut short: the reader must not mind.
            if let Some(Some(Ok(StreamItem::Event(event)))) =
                tokio::task::unconstrained(stream.next()).now_or_never()
            {
                seen.push(event.position);
            }
            tokio::task::yield_now().await;
        }
        watch.append(&here, 2).await?;
        let whole = positions(&watch.read_all(&here, 16).await?);
        seen.extend(watch.take(&mut stream, whole.len() - seen.len()).await?);
        ensure_eq!(seen, whole, "an append after {steps} steps");
    }
    Ok(())
}

/// A reader that was far too slow for the live fan-out has everything from the log (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_a_slow_reader_misses_nothing(fixture: &EventFixture<'_>) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(22)).await;
    let here = turn("desk", "1");
    watch.append(&here, 1).await?;
    let (mut slow, mut quick) = (watch.replay(&here), watch.replay(&here));
    watch.take(&mut slow, 1).await?;
    watch.take(&mut quick, 1).await?;
    for _ in 0..40 {
        let appended = watch.append_one(&here, EventKind::MessageCommitted).await?;
        let heard = watch.take(&mut quick, 1).await?;
        ensure_eq!(
            heard,
            [appended.events[0].position],
            "what the quick reader hears"
        );
    }
    let whole = positions(&watch.read_all(&here, 16).await?);
    ensure_eq!(
        watch.take(&mut slow, 40).await?,
        whole[1..],
        "what the slow reader has"
    );
    watch.append(&here, 1).await?;
    watch.take(&mut slow, 1).await?;
    Ok(())
}

/// A live message that comes twice is given once (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_a_repeated_live_message_is_given_once(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let setting = Setting::new(23).in_weather(Weather::Twice);
    live_as_it_comes(fixture, setting).await
}

/// A live message that is lost, the last one included, arrives from the log (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_a_lost_live_message_is_repaired(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    live_as_it_comes(fixture, Setting::new(24).in_weather(Weather::Lost)).await
}

/// Readers of each topic, while events come one by one.
async fn live_as_it_comes(fixture: &EventFixture<'_>, setting: Setting) -> Result<(), LawBroken> {
    let watch = fixture.watch(setting).await;
    let (here, there) = (turn("desk", "1"), turn("shop", "2"));
    let topics = [Topic::Runtime, session("desk"), here.clone()];
    let mut readers: Vec<_> = topics.iter().map(|topic| watch.replay(topic)).collect();
    watch.append(&here, 1).await?;
    for reader in &mut readers {
        watch.take(reader, 1).await?;
    }
    let mut seen = vec![Vec::new(); topics.len()];
    for round in 0..6 {
        watch
            .append(if round % 2 == 0 { &there } else { &here }, 1)
            .await?;
        watch.append(&here, 1).await?;
        for (at, reader) in readers.iter_mut().enumerate() {
            let events = if at == 0 { 2 } else { 1 + round % 2 };
            seen[at].extend(watch.take(reader, events).await?);
        }
    }
    for (seen, topic) in seen.iter().zip(&topics) {
        let whole = positions(&watch.read_all(topic, 16).await?);
        ensure_eq!(*seen, whole[1..], "what a reader of {topic:?} has");
    }
    Ok(())
}

/// An event that was committed past the hub, as another process does, arrives (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_what_another_process_appends_arrives(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(25)).await;
    let here = turn("desk", "1");
    watch.append(&turn("shop", "2"), 1).await?;
    watch.append(&here, 1).await?;
    let mut stream = watch.replay(&here);
    let first = watch.take(&mut stream, 1).await?;
    let whole = positions(&watch.read_all(&Topic::Runtime, 16).await?);
    ensure_eq!(first, whole[1..], "the first event of the turn");
    let random = SeededRandom::new(26);
    for round in 0..6 {
        let position = if round % 3 == 1 {
            let ours = watch.append_one(&here, EventKind::MessageCommitted).await?;
            ours.events[0].position
        } else {
            let now = watch.clock.now();
            let event = EventId::generate(now, random.ten());
            let event = NewEvent::from_draft(event, &draft(EventKind::MessageCommitted, &here));
            let commit = Commit::new(CommitId::generate(now, random.ten()), now).event(event);
            watch.store.commit(commit).await?.positions.start
        };
        let arrived = watch.take(&mut stream, 1).await?;
        ensure_eq!(arrived, [position], "what arrives in round {round}");
    }
    Ok(())
}

/// Subscribing to a turn that is over replays what is left of it and ends, wherever it starts (V5).
///
/// # Errors
/// The clause that broke.
pub async fn v5_a_finished_turn_replays_and_ends(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(27)).await;
    let (here, there) = (turn("desk", "1"), turn("desk", "2"));
    let mut live = watch.replay(&here);
    watch.append(&here, 5).await?;
    let end = watch.append_one(&here, EventKind::TurnCompleted).await?;
    watch.append(&there, 3).await?;
    watch.take(&mut live, 6).await?;
    ensure!(
        watch.next(&mut live).await?.is_none(),
        "a live stream goes on after its turn"
    );
    let whole = watch.read_all(&here, 16).await?;
    ensure_eq!(
        whole.last(),
        end.events.first(),
        "the last event of the turn"
    );
    for after in 0..=whole.len() {
        let cursor = match after {
            0 => watch.hub.cursor_from_start(),
            _ => watch
                .hub
                .cursor_after(runtime_store::Position(whole[after - 1].position)),
        };
        let mut stream = watch.hub.subscribe(here.clone(), cursor);
        let rest = watch.take(&mut stream, whole.len() - after).await?;
        ensure_eq!(
            rest,
            positions(&whole[after..]),
            "the rest after event {after}"
        );
        ensure!(
            watch.next(&mut stream).await?.is_none(),
            "the stream goes on after {after}"
        );
    }
    Ok(())
}

/// A reader that leaves, at any point, disturbs neither the writer nor the others, and is gone
/// from the count (V7, V8).
///
/// # Errors
/// The clause that broke.
pub async fn v8_a_reader_that_leaves_holds_up_nobody(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(28)).await;
    let here = turn("desk", "1");
    watch.append(&here, 3).await?;
    let mut stays = watch.replay(&here);
    watch.take(&mut stays, 3).await?;
    for leaves_after in 0..5 {
        let mut leaves = watch.replay(&here);
        watch.take(&mut leaves, leaves_after.min(3)).await?;
        let before = watch.append_one(&here, EventKind::MessageCommitted).await?;
        drop(leaves);
        let after = watch.append_one(&here, EventKind::MessageCommitted).await?;
        let both = [before.events[0].position, after.events[0].position];
        ensure_eq!(
            watch.take(&mut stays, 2).await?,
            both,
            "what the other one hears"
        );
    }
    ensure_eq!(
        watch.hub.counts().streams_open,
        1,
        "the readers that are left"
    );
    let started = std::time::Instant::now();
    drop(stays);
    watch.append(&here, 20).await?;
    ensure!(
        started.elapsed().as_secs() < 60,
        "a writer waits for readers"
    );
    Ok(())
}

/// Writers and readers at once, in a storm: each reader of each topic has every event once and in
/// order, whenever it started and however slow it is (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_writers_and_readers_at_once_miss_nothing(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    const WRITERS: usize = 3;
    const EVENTS: usize = 24;
    let watch = fixture
        .watch(Setting::new(29).in_weather(Weather::Storm))
        .await;
    let watch = Arc::new(watch);
    let topics = [
        Topic::Runtime,
        session("desk"),
        turn("desk", "0"),
        turn("desk", "1"),
    ];
    let counts = [WRITERS * EVENTS, WRITERS * EVENTS, EVENTS, EVENTS];
    let readers: Vec<_> = (0..12)
        .map(|reader| {
            let (watch, topic) = (Arc::clone(&watch), topics[reader % 4].clone());
            let events = counts[reader % 4];
            tokio::spawn(read_slowly(watch, topic, events, reader as u64))
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let watch = Arc::clone(&watch);
            tokio::spawn(async move {
                let own = turn("desk", &writer.to_string());
                for _ in 0..EVENTS {
                    watch.append(&own, 1).await?;
                    tokio::task::yield_now().await;
                }
                Ok::<_, AppendError>(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    for (at, reader) in readers.into_iter().enumerate() {
        let seen = reader.await??;
        let whole = positions(&watch.read_all(&topics[at % 4], 16).await?);
        ensure_eq!(seen, whole, "what reader {at} has");
    }
    Ok(())
}

async fn read_slowly(
    watch: Arc<Watch>,
    topic: Topic,
    events: usize,
    reader: u64,
) -> Result<Vec<u64>, LawBroken> {
    let random = SeededRandom::new(reader);
    for _ in 0..random.below(40) {
        tokio::task::yield_now().await;
    }
    let mut seen = Vec::new();
    let mut stream = watch.replay(&topic);
    while seen.len() < events {
        let Some(event) = watch.next(&mut stream).await? else {
            return Err(broken("a stream ended before its time"));
        };
        seen.push(event.position);
        if random.below(16) == 0 {
            // It leaves and comes back where it was.
            stream = watch.hub.subscribe(topic.clone(), stream.cursor());
        }
        for _ in 0..random.below(6) {
            tokio::task::yield_now().await;
        }
    }
    Ok(seen)
}
