//! Events: places, pages, closed streams, the hint of a change.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use runtime_core::{EventId, StreamKey};
use runtime_store::{
    Commit, CommitError, Committed, EventPlace, Found, Guard, NewEvent, Page, Position, ReadError,
    RowQuery, Seq, Store, StoredEvent,
};

use super::producer::{Producer, head, key, put, read_all, stream};
use super::{LawBroken, StoreFixture, ensure, ensure_eq, ensure_matches};

type Submitted = Vec<(Commit, Committed)>;

/// Eight writers at once, with none to three events per commit in streams of their own and one
/// they share.
async fn race(store: &Arc<dyn Store>, seed: u64) -> Result<Submitted, LawBroken> {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = Arc::clone(store);
            let make = Producer::new(seed + writer);
            tokio::spawn(async move {
                let mut submitted = Vec::new();
                let own = format!("turn-{writer}");
                for round in 0..16 {
                    let events: Vec<NewEvent> = (0..round % 4)
                        .map(|event| {
                            let streams: &[&str] = match event {
                                0 => &[&own, "session"],
                                1 => &[&own],
                                _ => &[],
                            };
                            make.event(streams, &format!("{writer} {round} {event}"))
                        })
                        .collect();
                    let commit = Commit {
                        events,
                        ..make.commit_at(round)
                    };
                    submitted.push((commit.clone(), store.commit(commit).await?));
                }
                Ok::<_, CommitError>(submitted)
            })
        })
        .collect();
    let mut submitted = Vec::new();
    for writer in writers {
        submitted.extend(writer.await??);
    }
    Ok(submitted)
}

/// Under concurrent writers positions ascend (densely where the store says so), the seqs of each
/// stream are dense, each event names its predecessor, and the log holds what was acknowledged.
///
/// # Errors
/// The clause that broke.
pub async fn positions_and_seqs_are_dense_under_concurrent_writers(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let submitted = race(&store, 30).await?;
    let log = read_all(&*store, None, 50).await?;
    check_places(&log, store.capabilities().dense_positions)?;

    let by_id: HashMap<EventId, &StoredEvent> = log.iter().map(|event| (event.id, event)).collect();
    let mut acknowledged = 0;
    for (commit, committed) in &submitted {
        let events = &commit.events;
        acknowledged += events.len();
        ensure_eq!(
            committed.places.len(),
            events.len(),
            "the places of a commit"
        );
        ensure_eq!(
            committed.positions.end - committed.positions.start,
            events.len() as u64,
            "the positions of a commit"
        );
        let places = committed.positions.clone().zip(&committed.places);
        for (event, (position, places)) in events.iter().zip(places) {
            let Some(stored) = by_id.get(&event.id) else {
                let what = format!("event {} is acknowledged but not in the log", event.id);
                return Err(LawBroken::at(file!(), line!(), what));
            };
            ensure_eq!(stored.position, Position(position), "the position");
            ensure_eq!(stored.places, *places, "the places");
            ensure_eq!(stored.body, event.body, "the body");
            ensure_eq!(stored.time, commit.time, "the time");
            let streams: Vec<&StreamKey> = places.iter().map(|place| &place.stream).collect();
            let wanted: Vec<&StreamKey> = event.streams.iter().collect();
            ensure_eq!(streams, wanted, "the streams");
        }
    }
    ensure_eq!(log.len(), acknowledged, "the events of the log");
    Ok(())
}

fn check_places(log: &[StoredEvent], dense: bool) -> Result<(), LawBroken> {
    let mut last = Position(0);
    let mut ends: HashMap<&StreamKey, (Seq, Position)> = HashMap::new();
    for event in log {
        ensure!(
            event.position > last && (!dense || event.position == last.next()),
            "position {} follows {last}",
            event.position
        );
        last = event.position;
        for place in &event.places {
            let (seq, previous) = ends.get(&place.stream).copied().unwrap_or_default();
            let wanted = EventPlace {
                stream: place.stream.clone(),
                seq: seq.next(),
                previous,
            };
            ensure_eq!(*place, wanted, "the place of {}", event.position);
            ends.insert(&place.stream, (place.seq, event.position));
        }
    }
    Ok(())
}

/// After its last event a stream takes no other, in the same commit or later; other streams of
/// that event go on (V5).
///
/// # Errors
/// The clause that broke.
pub async fn a_closed_stream_takes_no_event(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(31);
    let commit = make.commit().event(make.event(&["turn", "session"], "one"));
    let commit = commit.event(make.closing(&["turn", "session"], "end"));
    store.commit(commit).await?;
    let late = [
        make.event(&["turn"], "late"),
        make.event(&["session", "turn"], "late"),
        make.closing(&["turn"], "a second end"),
    ];
    for event in late {
        ensure_matches!(
            store.commit(make.commit().event(event)).await,
            Err(CommitError::Rejected {
                guard: Guard::Head(closed, Seq(2)),
                found: Found::Closed
            }) if *closed == stream("turn"),
            "an event after the last one"
        );
    }
    let both = make.commit().event(make.closing(&["other"], "end"));
    ensure_matches!(
        store
            .commit(both.event(make.event(&["other"], "late")))
            .await,
        Err(CommitError::Rejected {
            found: Found::Closed,
            ..
        }),
        "an event after the last one of the same commit"
    );
    // A guard on the head of a closed stream still says what it is.
    let guard = Guard::Head(stream("turn"), Seq(2));
    store.commit(make.commit().guard(guard)).await?;
    store
        .commit(make.commit().event(make.event(&["session"], "three")))
        .await?;
    store
        .commit(make.commit().event(make.event(&["other"], "open")))
        .await?;
    // Without a stream there is nothing to close.
    store
        .commit(make.commit().event(make.closing(&[], "x")))
        .await?;
    store
        .commit(make.commit().event(make.event(&[], "y")))
        .await?;
    let turn = read_all(&*store, Some(&stream("turn")), 10).await?;
    ensure_eq!(turn.len(), 2, "the events of the closed stream");
    Ok(())
}

/// Pages of any size, begun anywhere, give every event of a topic once and in order.
///
/// # Errors
/// The clause that broke.
pub async fn event_pages_give_the_whole_log_and_each_stream(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let submitted = race(&store, 40).await?;
    let log = read_all(&*store, None, 256).await?;
    let wanted: usize = submitted
        .iter()
        .map(|(commit, _)| commit.events.len())
        .sum();
    ensure_eq!(log.len(), wanted, "the events of the log");
    let last = log.last().map(|event| event.position).unwrap_or_default();
    ensure_eq!(head(&*store).await?, last, "the head");

    let session = stream("session");
    let turn = stream("turn-3");
    let unknown = stream("unknown");
    for topic in [None, Some(&session), Some(&turn), Some(&unknown)] {
        let belongs = |event: &&StoredEvent| {
            topic.is_none_or(|topic| event.places.iter().any(|place| place.stream == *topic))
        };
        let wanted: Vec<&StoredEvent> = log.iter().filter(belongs).collect();
        for limit in [1, 2, 3, 7, 64, 256] {
            let found = read_all(&*store, topic, limit).await?;
            let found: Vec<&StoredEvent> = found.iter().collect();
            ensure_eq!(found, wanted, "{topic:?} in pages of {limit}");
        }
        for after in (0..=last.0 + 2).map(Position) {
            let page = store.events(topic, Page::after(after, 256)).await?;
            let found: Vec<&StoredEvent> = page.events.iter().collect();
            let rest = wanted.iter().filter(|event| event.position > after);
            let rest: Vec<&StoredEvent> = rest.copied().collect();
            ensure_eq!(found, rest, "{topic:?} after {after}");
            ensure!(
                !page.has_more && page.head == last && page.pruned == Position(0),
                "{topic:?} after {after} answers {page:?}"
            );
            let end = found.last().map_or(after, |event| event.position);
            ensure!(
                page.next >= end,
                "{topic:?} after {after} goes back to {}",
                page.next
            );
        }
    }
    Ok(())
}

/// A page of nothing is refused; a page too large is cut to the limit and says that more follows
/// (V6).
///
/// # Errors
/// The clause that broke.
pub async fn page_limits_are_kept(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(32);
    let max = store.capabilities().limits.page_entries_max;
    let nothing = store.events(None, Page::after(Position(0), 0)).await;
    ensure_matches!(nothing, Err(ReadError::LimitZero), "no events");
    let nothing = store
        .rows(RowQuery::space("law"), Page::after(None, 0))
        .await;
    ensure_matches!(nothing, Err(ReadError::LimitZero), "no rows");

    for index in 0..=max {
        let commit = make.commit().row(put(key(&format!("{index:06}")), "x"));
        store
            .commit(commit.event(make.event(&["turn"], "x")))
            .await?;
    }
    for topic in [None, Some(&stream("turn"))] {
        let page = store
            .events(topic, Page::after(Position(0), usize::MAX))
            .await?;
        ensure_eq!(page.events.len(), max, "events of the largest page");
        ensure!(page.has_more, "one event more follows");
        let page = store
            .events(topic, Page::after(page.next, usize::MAX))
            .await?;
        ensure_eq!((page.events.len(), page.has_more), (1, false), "the rest");
    }
    let query = RowQuery::space("law");
    let page = store
        .rows(query.clone(), Page::after(None, usize::MAX))
        .await?;
    ensure_eq!(page.rows.len(), max, "rows of the largest page");
    ensure!(page.next.is_some(), "one row more follows");
    let page = store
        .rows(query, Page::after(page.next, usize::MAX))
        .await?;
    ensure_eq!((page.rows.len(), page.next), (1, None), "the rest");
    Ok(())
}

/// A change is told to whoever asks for it, whether it was made before, while or after they began
/// to wait.
///
/// # Errors
/// The clause that broke.
pub async fn a_change_is_never_lost(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    const ROUNDS: u64 = 64;
    let store = fixture.open().await;
    let make = Producer::new(33);
    store
        .commit(make.commit().event(make.event(&[], "0")))
        .await?;
    let lost = |what: &str| LawBroken::at(file!(), line!(), format!("{what} was never told"));

    // Before.
    let changed = tokio::time::timeout(fixture.patience(), store.changed(Position(0)));
    let found = changed
        .await
        .map_err(|_| lost("a change before the wait"))?;
    ensure!(found >= Position(1), "a change that is not there: {found}");
    // After, by a commit with rows first, which is no event and need not be told.
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { wait_for(&*store, Position(2)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.commit(make.commit().row(put(key("a"), "x"))).await?;
    store
        .commit(make.commit().event(make.event(&[], "1")))
        .await?;
    for waiter in waiters {
        let told = tokio::time::timeout(fixture.patience(), waiter).await;
        told.map_err(|_| lost("a change after the wait"))???;
    }
    // While: the wait has come so and so far when the commit is made.
    for polls in 0..4 {
        let before = head(&*store).await?;
        let mut changed = store.changed(before);
        for _ in 0..polls {
            let poll = poll_fn(|context| Poll::Ready(changed.as_mut().poll(context)));
            if poll.await.is_ready() {
                // A hint without a change is allowed.
                changed = store.changed(before);
            }
        }
        let commit = make.commit().event(make.event(&[], "x"));
        store.commit(commit).await?;
        let told = tokio::time::timeout(fixture.patience(), async {
            while changed.await <= before {
                changed = store.changed(before);
            }
        });
        told.await
            .map_err(|_| lost("a change while the wait began"))?;
    }
    // The same in a race: the follower is now waiting, now reading, when the writer comes.
    let end = Position(head(&*store).await?.0 + ROUNDS);
    let follower = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { wait_for(&*store, end).await })
    };
    for round in 0..ROUNDS {
        store
            .commit(make.commit().event(make.event(&[], "x")))
            .await?;
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let told = tokio::time::timeout(fixture.patience(), follower).await;
    told.map_err(|_| lost("a change beside the wait"))???;
    Ok(())
}

/// Waits until the head is there; a hint may come without a change, but what it names is readable.
async fn wait_for(store: &dyn Store, wanted: Position) -> Result<(), LawBroken> {
    let mut seen = Position(0);
    while seen < wanted {
        let told = store.changed(seen).await;
        let found = head(store).await?;
        ensure!(found >= told, "told of {told} when the log ends at {found}");
        seen = seen.max(told);
    }
    Ok(())
}

/// What a reader follows page by page while others write is the log as it stands at the end:
/// nothing appears at or before a position that was read.
///
/// # Errors
/// The clause that broke.
pub async fn a_reader_beside_writers_misses_nothing(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let reader = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (mut read, mut after) = (Vec::new(), Position(0));
            loop {
                let page = store.events(None, Page::after(after, 3)).await?;
                let ended = page.events.iter().any(|event| *event.body == *b"end");
                read.extend(page.events);
                if ended {
                    return Ok::<_, LawBroken>(read);
                }
                if !page.has_more {
                    store.changed(page.next).await;
                }
                after = page.next;
            }
        })
    };
    race(&store, 50).await?;
    let make = Producer::new(34);
    store
        .commit(make.commit().event(make.event(&[], "end")))
        .await?;
    let read = tokio::time::timeout(fixture.patience(), reader).await;
    let lost = |_| LawBroken::at(file!(), line!(), "the reader never saw the end");
    let read = read.map_err(lost)???;
    let log = read_all(&*store, None, 256).await?;
    ensure_eq!(read, log, "what was read beside the writers");
    Ok(())
}
