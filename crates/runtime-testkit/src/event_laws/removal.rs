//! Retention and erasure, as readers see them.

use std::time::Duration;

use runtime_core::{Classified as _, EventKind, RuntimeEvent, SessionId, Topic};
use runtime_events::{RetentionPolicy, StreamItem};
use runtime_store::{Page, Position};

use super::EventFixture;
use super::watch::{Setting, Watch, broken, positions, session, turn};
use crate::store_laws::{LawBroken, ensure, ensure_eq};

/// Nothing is kept but what consumers wait for.
const NOTHING: RetentionPolicy = RetentionPolicy {
    age_max: None,
    events_max: Some(0),
    bytes_max: None,
    wait_for_consumers: true,
};

/// What retention removed is a gap that names the oldest event, for those who subscribe and for
/// those who poll, on the whole log and on a topic that lost events; what follows is whole (V9).
///
/// # Errors
/// The clause that broke.
pub async fn v9_what_retention_removed_is_a_visible_gap(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(40)).await;
    let (here, later) = (turn("desk", "1"), turn("shop", "2"));
    watch.append(&here, 80).await?;
    let mut reading = watch.replay(&here);
    let seen = watch.take(&mut reading, 2).await?;
    // A consumer holds back all but the first unit, whatever the units of the store are.
    let units = watch
        .store
        .retention_units(Page::after(Position(0), 256))
        .await?;
    let Some(first) = units.first() else {
        return Err(broken("a log of 80 events has no unit"));
    };
    acknowledge(&watch, "behind", first.last.0).await?;
    let retained = watch.hub.retain(&NOTHING).await?;
    let through = retained.removed_through;
    ensure_eq!(
        through,
        first.last,
        "what went of what every consumer has seen"
    );
    ensure_eq!(retained.events, first.events, "how many events went");
    ensure_eq!(
        retained.held_back,
        units.len() > 1,
        "whether a consumer holds back more"
    );
    watch.append(&here, 2).await?;
    let kept = rest(&watch).await?;
    let oldest = Position(kept[0]);
    ensure!(
        oldest > through,
        "{oldest:?} is served although {through:?} went"
    );
    watch.append(&later, 1).await?;
    for topic in [Topic::Runtime, session("desk"), here.clone()] {
        let mut stream = watch.replay(&topic);
        gap(&watch, &mut stream, oldest).await?;
        let rest = watch.take(&mut stream, kept.len()).await?;
        ensure_eq!(rest, kept, "what follows the gap in {topic:?}");
        let start = watch.hub.cursor_from_start();
        let told = watch.hub.read(topic.clone(), start, 16).await;
        let told = told.map_err(|error| (error.code(), error.details()));
        let wanted = serde_json::json!({ "oldest": oldest });
        ensure_eq!(
            told,
            Err(("cursor_pruned", Some(wanted))),
            "what a poller is told"
        );
    }
    // Whoever was in the middle of it is told as well, and whoever comes after it is not.
    if seen[1] < through.0 {
        let cursor = watch.hub.cursor_after(Position(seen[1]));
        gap(
            &watch,
            &mut watch.hub.subscribe(here.clone(), cursor),
            oldest,
        )
        .await?;
    }
    let mut young = watch.replay(&later);
    watch.take(&mut young, 1).await?;
    // Closing waits for readers that are left, on a clock that stands still.
    drop((reading, young));
    let watch = fixture.reopen(watch, Setting::new(41)).await;
    gap(&watch, &mut watch.replay(&here), oldest).await
}

async fn gap(
    watch: &Watch,
    stream: &mut runtime_events::EventStream,
    oldest: Position,
) -> Result<(), LawBroken> {
    match watch.item(stream).await {
        Some(Some(Ok(StreamItem::Gap { oldest: told }))) => {
            ensure_eq!(told, oldest, "the oldest event that a gap names");
            Ok(())
        }
        other => Err(broken(format!(
            "{other:?} instead of a gap up to {oldest:?}"
        ))),
    }
}

async fn acknowledge(watch: &Watch, name: &str, position: u64) -> Result<(), LawBroken> {
    let consumer = watch.hub.consumer(name).expect("a name");
    let cursor = watch.hub.cursor_after(Position(position));
    consumer.acknowledge(cursor).await?;
    Ok(())
}

/// Retention removes no more than a bound asks for, nothing that a consumer has not acknowledged,
/// and nothing at all without a bound (V9).
///
/// # Errors
/// The clause that broke.
pub async fn v9_retention_keeps_to_its_bounds_and_waits_for_consumers(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(42)).await;
    let here = turn("desk", "1");
    watch.append(&here, 60).await?;
    watch.clock.advance(Duration::from_secs(3_600));
    watch.append(&here, 60).await?;
    let count = async || Ok::<_, LawBroken>(rest(&watch).await?.len());
    let unbounded = watch.hub.retain(&RetentionPolicy::default()).await?;
    ensure_eq!(
        unbounded.removed_through,
        Position(0),
        "what goes without a bound"
    );

    // Young events stay: at least the second half.
    let by_age = RetentionPolicy {
        age_max: Some(Duration::from_secs(60)),
        ..RetentionPolicy::default()
    };
    watch.hub.retain(&by_age).await?;
    ensure!(
        count().await? >= 60,
        "{} events are left by age",
        count().await?
    );

    let by_count = RetentionPolicy {
        events_max: Some(40),
        ..RetentionPolicy::default()
    };
    acknowledge(&watch, "slow", rest(&watch).await?[4]).await?;
    let held = watch.hub.retain(&by_count).await?;
    ensure!(
        held.held_back,
        "a consumer that is behind holds nothing back"
    );
    ensure!(count().await? > 40, "what a consumer awaits went");
    watch.hub.consumer("slow").expect("a name").forget().await?;
    watch.hub.retain(&by_count).await?;
    let left = count().await?;
    ensure!(left <= 40, "{left} events are left, 40 are allowed");

    watch.append(&here, 5).await?;
    let by_bytes = RetentionPolicy {
        bytes_max: Some(0),
        ..RetentionPolicy::default()
    };
    watch.hub.retain(&by_bytes).await?;
    ensure_eq!(
        count().await?,
        0,
        "what is left of a log that may have no byte"
    );
    let next = watch.append_one(&here, EventKind::MessageCommitted).await?;
    ensure_eq!(
        rest(&watch).await?,
        [next.events[0].position],
        "what is appended after it"
    );
    Ok(())
}

/// The positions of what is left.
async fn rest(watch: &Watch) -> Result<Vec<u64>, LawBroken> {
    let page = Page::after(Position(0), 256);
    let page = watch.store.events(None, page).await?;
    Ok(page.events.iter().map(|event| event.position.0).collect())
}

fn session_of(event: &RuntimeEvent) -> Option<&str> {
    event.draft.session.as_ref().map(SessionId::as_str)
}

/// What is erased says nothing any more and keeps its place: no gap, no repetition, for old
/// cursors too, and a turn that was over is over (V4).
///
/// # Errors
/// The clause that broke.
pub async fn v4_an_erased_topic_keeps_its_places(
    fixture: &EventFixture<'_>,
) -> Result<(), LawBroken> {
    let watch = fixture.watch(Setting::new(43)).await;
    let (gone, stays) = (turn("desk", "1"), turn("shop", "2"));
    for _ in 0..5 {
        watch.append(&gone, 1).await?;
        watch.append(&stays, 1).await?;
    }
    watch.append_one(&gone, EventKind::TurnCompleted).await?;
    let before = watch.read_all(&Topic::Runtime, 16).await?;
    let whole = watch.hub.erase(&Topic::Runtime).await;
    ensure_eq!(
        whole.map_err(|e| e.code()),
        Err("topic_not_erasable"),
        "erasing everything"
    );
    watch.hub.erase(&session("desk")).await?;
    let watch = fixture.reopen(watch, Setting::new(44)).await;
    let after = watch.read_all(&Topic::Runtime, 16).await?;
    ensure_eq!(
        positions(&after),
        positions(&before),
        "the places in the log"
    );
    for (old, new) in before.iter().zip(&after) {
        // By the event as it was: one that was not erased has its session still.
        if session_of(old) != Some("desk") {
            ensure_eq!(new, old, "an event of another session");
        } else {
            ensure_eq!(new.kind(), &EventKind::Erased, "the kind of a stub");
            ensure_eq!((new.id, new.time), (old.id, old.time), "what a stub keeps");
            ensure!(
                new.draft.payload.is_null(),
                "a stub says {:?}",
                new.draft.payload
            );
        }
    }
    for start in [0, 4, 6, 99] {
        let cursor = match start {
            99 => watch.hub.cursor_now().await?,
            _ => watch.hub.cursor_after(Position(before[start].position)),
        };
        let mut stream = watch.hub.subscribe(gone.clone(), cursor);
        let left = watch.read_all(&gone, 16).await?;
        let left: Vec<_> = positions(&left)
            .into_iter()
            .filter(|at| *at > cursor.position().0)
            .collect();
        ensure_eq!(
            watch.take(&mut stream, left.len()).await?,
            left,
            "an erased turn"
        );
        ensure!(
            watch.next(&mut stream).await?.is_none(),
            "an erased turn goes on"
        );
    }
    Ok(())
}
