//! Appending and reading in pages.

use std::collections::HashMap;
use std::sync::Arc;

use runtime_core::{Classified as _, EventKind, Topic};
use runtime_events::{AppendError, Cursor, EventBatch, SubscribeError};
use runtime_store::{Position, Seq, StoreIdentity};

use super::EventFixture;
use super::watch::{Setting, Watch, broken, draft, positions, session, turn};
use crate::store_laws::{LawBroken, ensure, ensure_eq, ensure_matches};

/// Pages of any limit give the whole log and each topic, in order; the limit in force is told; a
/// limit of 0 is refused (V6).
///
/// # Errors
/// The clause that broke.
pub async fn v4_pages_of_any_limit_give_the_whole_log(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let setting = Setting {
        page_events_max: 16,
        ..Setting::new(1)
    };
    let watch = fixture.watch(setting).await;
    let (here, there) = (turn("desk", "1"), turn("shop", "2"));
    for round in 0..14 {
        let topics = [&here, &there, &here];
        let events = topics.into_iter().take(round % 4);
        let batch: Vec<_> = events.map(|turn| watch.event(turn)).collect();
        if !batch.is_empty() {
            watch.hub.log().append(EventBatch::new(batch)).await?;
        }
    }
    let whole = watch.read_all(&Topic::Runtime, 16).await?;
    ensure_eq!(whole.len(), 19, "the events that were appended");
    ensure!(
        whole
            .windows(2)
            .all(|two| two[0].position < two[1].position),
        "the log is not in order"
    );
    for topic in [Topic::Runtime, session("desk"), here.clone(), there.clone()] {
        let of_topic = whole.iter().filter(|event| {
            let streams = event.draft.streams();
            topic.stream_key().is_none_or(|key| streams.contains(&key))
        });
        let wanted: Vec<_> = of_topic.map(|event| event.position).collect();
        for limit in [1, 2, 3, 5, 16, 1_000] {
            let read = watch.read_all(&topic, limit).await?;
            ensure_eq!(positions(&read), wanted, "pages of {limit} of {topic:?}");
        }
    }
    let start = watch.hub.cursor_from_start();
    let page = watch.hub.read(Topic::Runtime, start, 1_000).await?;
    ensure!(
        page.limit <= 16 && page.limit >= page.events.len(),
        "the limit in force is not told"
    );
    let refused = watch.hub.read(Topic::Runtime, start, 0).await;
    ensure_matches!(
        refused.map_err(|e| e.code()),
        Err("page_limit_zero"),
        "a limit of 0"
    );
    let unknown = watch.hub.read(turn("nobody", "9"), start, 1).await;
    ensure_matches!(
        unknown,
        Err(SubscribeError::UnknownTopic),
        "a topic without an event"
    );
    Ok(())
}

/// Appending a batch again gives what is stored and changes nothing, also when both are under way
/// at once (V1).
///
/// # Errors
/// The clause that broke.
pub async fn v1_appending_again_gives_what_is_stored(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(2)).await;
    let here = turn("desk", "1");
    let log = watch.hub.log();
    let batch = EventBatch::new([watch.event(&here), watch.event(&here)]);
    let first = log.append(batch.clone()).await?;
    watch.append(&here, 3).await?;
    let again = log.append(batch).await?;
    ensure!(
        !first.repeated && again.repeated,
        "which one repeats is not told"
    );
    ensure_eq!(again.events, first.events, "the events of a repetition");

    let batch = EventBatch::new([watch.event(&here)]);
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let (log, batch) = (log.clone(), batch.clone());
            tokio::spawn(async move { log.append(batch).await })
        })
        .collect();
    let mut new = 0;
    for racer in racers {
        new += usize::from(!racer.await??.repeated);
    }
    ensure_eq!(new, 1, "a batch of eight racers was new");
    ensure_eq!(
        watch.read_all(&here, 16).await?.len(),
        6,
        "the events of the turn"
    );
    Ok(())
}

/// An event id is taken for ever by the first content (V1).
///
/// # Errors
/// The clause that broke.
pub async fn v1_other_content_under_an_id_is_a_conflict(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(3)).await;
    let here = turn("desk", "1");
    let log = watch.hub.log();
    let event = watch.event(&here);
    log.append(EventBatch::new([event.clone()])).await?;
    let mut other = event.clone();
    other.draft.message = Some("something else".to_owned());
    let taken = log.append(EventBatch::new([other])).await;
    ensure_matches!(
        taken,
        Err(AppendError::EventIdTaken),
        "other content under an id"
    );
    let taken = log
        .append(EventBatch::new([watch.event(&here), event]))
        .await;
    ensure_matches!(
        taken,
        Err(AppendError::EventIdTaken),
        "an id in the middle of another batch"
    );
    ensure_eq!(
        watch.read_all(&here, 16).await?.len(),
        1,
        "the events of the turn"
    );
    Ok(())
}

/// An append that expects another head has not happened (V1).
///
/// # Errors
/// The clause that broke.
pub async fn v1_an_unexpected_head_appends_nothing(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(4)).await;
    let here = turn("desk", "1");
    let key = here.stream_key().expect("a turn is a stream");
    let log = watch.hub.log();
    let expecting = |seq| EventBatch::new([watch.event(&here)]).expecting(key.clone(), Seq(seq));
    log.append(expecting(0)).await?;
    let late = log.append(expecting(0)).await;
    ensure_matches!(
        late,
        Err(AppendError::UnexpectedHead {
            expected: Seq(0),
            found: Seq(1)
        }),
        "a head that was passed"
    );
    log.append(expecting(1)).await?;
    ensure_eq!(
        watch.read_all(&here, 16).await?.len(),
        2,
        "the events of the turn"
    );
    Ok(())
}

/// Appends at once: positions ascend, densely where the store says so, and each turn counts
/// 1, 2, 3, … (V1).
///
/// # Errors
/// The clause that broke.
pub async fn v1_appends_at_once_are_dense(fixture: &EventFixture<'_>) -> Result<(), LawBroken> {
    const WRITERS: usize = 6;
    const ROUNDS: usize = 8;
    let watch = Arc::new(fixture.watch(Setting::new(5)).await);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let watch = Arc::clone(&watch);
            tokio::spawn(async move {
                let own = turn("desk", &format!("own-{writer}"));
                let shared = turn("desk", "shared");
                for _ in 0..ROUNDS {
                    let batch = [watch.event(&own), watch.event(&shared)];
                    watch.hub.log().append(EventBatch::new(batch)).await?;
                }
                Ok::<_, AppendError>(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    let log = watch.read_all(&Topic::Runtime, 256).await?;
    ensure_eq!(
        log.len(),
        2 * WRITERS * ROUNDS,
        "the events that were appended"
    );
    if watch.store.capabilities().dense_positions {
        let dense: Vec<_> = (1..=log.len() as u64).collect();
        ensure_eq!(positions(&log), dense, "the positions of the log");
    }
    let mut counts: HashMap<_, u64> = HashMap::new();
    for event in &log {
        let count = counts.entry(event.draft.turn.clone()).or_default();
        *count += 1;
        ensure_eq!(
            event.seq,
            Some(*count),
            "the seq in turn {:?}",
            event.draft.turn
        );
    }
    ensure_eq!(counts.len(), WRITERS + 1, "the turns");
    Ok(())
}

/// A turn has one terminal event, and nothing can be added to it (V5).
///
/// # Errors
/// The clause that broke.
pub async fn v5_nothing_follows_the_end_of_a_turn(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(6)).await;
    let (here, there) = (turn("desk", "1"), turn("desk", "2"));
    watch.append(&here, 2).await?;
    let log = watch.hub.log();
    let ends: Vec<_> = [EventKind::TurnCompleted, EventKind::TurnCancelled]
        .into_iter()
        .map(|kind| {
            let (log, event) = (log.clone(), log.event(draft(kind, &here)));
            tokio::spawn(async move { log.append(EventBatch::new([event])).await })
        })
        .collect();
    let mut ended = 0;
    for end in ends {
        match end.await? {
            Ok(_) => ended += 1,
            Err(AppendError::TurnAlreadyEnded) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure_eq!(ended, 1, "the ends of a turn that two raced for");
    let late = EventBatch::new([watch.event(&there), watch.event(&here)]);
    let late = log.append(late).await;
    ensure_matches!(
        late,
        Err(AppendError::TurnAlreadyEnded),
        "an event after the end"
    );
    watch.append(&there, 1).await?;
    let events = watch.read_all(&here, 16).await?;
    ensure_eq!(events.len(), 3, "the events of the turn");
    let last = events.last().map(|event| event.kind().ends_turn());
    ensure_eq!(last, Some(true), "whether the last event ends the turn");
    Ok(())
}

/// A cursor of another runtime, of another life of the log, or from the future is refused by its
/// own code, for those who poll and those who subscribe (V6).
///
/// # Errors
/// The clause that broke.
pub async fn v6_cursors_that_lead_nowhere_are_told_apart(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(7)).await;
    let here = turn("desk", "1");
    watch.append(&here, 2).await?;
    watch.append(&turn("shop", "2"), 1).await?;
    let identity = watch.store.identity().clone();
    let other = StoreIdentity {
        runtime: "elsewhere".parse().expect("a runtime id"),
        ..identity.clone()
    };
    let restored = StoreIdentity {
        lineage: "another-life".to_owned(),
        ..identity.clone()
    };
    let now = watch.hub.cursor_now().await?;
    let wrong = [
        ("cursor_other_runtime", Cursor::after(&other, Position(1))),
        (
            "cursor_other_lineage",
            Cursor::after(&restored, Position(1)),
        ),
        (
            "cursor_future",
            Cursor::after(&identity, now.position().next()),
        ),
    ];
    for (code, cursor) in wrong {
        let read = watch.hub.read(Topic::Runtime, cursor, 4).await;
        ensure_eq!(
            read.map_err(|error| error.code()).err(),
            Some(code),
            "what a poller is told"
        );
        let mut stream = watch.hub.subscribe(Topic::Runtime, cursor);
        match watch.item(&mut stream).await {
            Some(Some(Err(error))) => ensure_eq!(error.code(), code, "what a stream says"),
            other => return Err(broken(format!("{code}: a stream gave {other:?}"))),
        }
    }
    let end = watch.hub.read(here.clone(), now, 4).await?;
    ensure!(
        end.events.is_empty() && !end.has_more,
        "the end of the log is no error"
    );
    let Topic::Turn { session, turn } = &here else {
        return Err(broken("a turn is a turn"));
    };
    let second = watch.hub.after_seq(session, turn, 1).await?;
    let read = watch.hub.read(here, second, 4).await?;
    let seqs: Vec<_> = read.events.iter().map(|event| event.seq).collect();
    ensure_eq!(seqs, [Some(2)], "what follows the first event of a turn");
    Ok(())
}

/// A cursor, as text, leads to the same place after the storage was closed and opened (V6).
///
/// # Errors
/// The clause that broke.
pub async fn v6_cursors_survive_reopening(fixture: &EventFixture<'_>) -> Result<(), LawBroken> {
    let setting = Setting::new(8);
    let watch = fixture.watch(setting).await;
    let here = turn("desk", "1");
    watch.append(&here, 7).await?;
    let mut stream = watch.replay(&here);
    let before = watch.take(&mut stream, 3).await?;
    let text = stream.cursor().to_string();
    drop(stream);
    let watch = fixture.reopen(watch, Setting { seed: 9, ..setting }).await;
    let mut stream = watch.hub.subscribe(here.clone(), text.parse::<Cursor>()?);
    watch.append(&here, 2).await?;
    let after = watch.take(&mut stream, 6).await?;
    let whole = positions(&watch.read_all(&here, 16).await?);
    ensure_eq!(
        [before, after].concat(),
        whole,
        "what was read before and after"
    );
    Ok(())
}

/// A consumer goes on after what it acknowledged, also after the storage was closed and opened,
/// and an acknowledgement is never taken back (V9).
///
/// # Errors
/// The clause that broke.
pub async fn v9_a_consumer_goes_on_after_what_it_acknowledged(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let setting = Setting::new(10);
    let watch = fixture.watch(setting).await;
    watch.append(&turn("desk", "1"), 5).await?;
    let mut billing = acknowledging(&watch, "billing").await?;
    let seen = watch.take(&mut billing, 3).await?;
    let consumer = watch.hub.consumer("billing").expect("a name");
    let early = watch.hub.cursor_after(Position(seen[0]));
    ensure!(
        consumer.acknowledge(billing.cursor()).await?,
        "an acknowledgement moves the place"
    );
    ensure!(
        !consumer.acknowledge(early).await?,
        "an earlier one moves nothing"
    );
    drop(billing);
    let watch = fixture
        .reopen(
            watch,
            Setting {
                seed: 11,
                ..setting
            },
        )
        .await;
    let mut billing = acknowledging(&watch, "billing").await?;
    let rest = watch.take(&mut billing, 2).await?;
    let whole = positions(&watch.read_all(&Topic::Runtime, 16).await?);
    ensure_eq!(
        [seen.clone(), rest].concat(),
        whole,
        "what was read before and after"
    );
    let watermark = watch.hub.watermark().await?;
    ensure_eq!(
        watermark,
        Some(Position(seen[2])),
        "what every consumer has acknowledged"
    );
    Ok(())
}

async fn acknowledging(
    watch: &Watch,
    name: &str,
) -> Result<runtime_events::EventStream, LawBroken> {
    let consumer = watch.hub.consumer(name).expect("a name");
    Ok(consumer.subscribe(Topic::Runtime).await?)
}
