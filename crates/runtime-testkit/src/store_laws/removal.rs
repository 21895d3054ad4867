//! Retention and erasure: what a commit removes, and what stays.

use std::time::Duration;

use runtime_core::{StreamKey, Timestamp};
use runtime_store::{
    Commit, CommitError, Found, Guard, Page, Position, Removal, RetentionUnit, RowChange, RowQuery,
    Seq, Store, StoredEvent,
};

use super::producer::{Producer, first_result, key, put, read_all, scope, stream, version};
use super::{LawBroken, StoreFixture, ensure, ensure_eq, ensure_matches};

fn through(position: Position) -> Removal {
    Removal::Through(position)
}

fn erase(name: &str) -> Removal {
    Removal::Stream(stream(name))
}

/// A row that is put with the first event of its commit.
fn put_with_event(name: &str) -> RowChange {
    RowChange::Put {
        key: key(name),
        body: b"own".as_slice().into(),
        event: Some(0),
        due: None,
    }
}

/// Commits one event each, and returns their positions.
async fn append(
    store: &dyn Store,
    make: &Producer,
    events: &[(&[&str], &str)],
) -> Result<Vec<Position>, LawBroken> {
    let mut positions = Vec::new();
    for (streams, body) in events {
        let committed = store
            .commit(make.commit().event(make.event(streams, body)))
            .await?;
        positions.push(Position(committed.positions.start));
    }
    Ok(positions)
}

fn bodies(events: &[StoredEvent]) -> Vec<String> {
    let text = |event: &StoredEvent| String::from_utf8_lossy(&event.body).into_owned();
    events.iter().map(text).collect()
}

/// Reads all of a stream and returns its bodies; the stream of a removed prefix starts after it.
async fn read_bodies(
    store: &dyn Store,
    stream: Option<&StreamKey>,
) -> Result<Vec<String>, LawBroken> {
    Ok(bodies(&read_all(store, stream, 2).await?))
}

/// Pruned events are served no more, whoever asks and how; the rest stays as it is, streams go on
/// with the next place, and every page says what is missing (V6, V9). It is never undone, and
/// never goes beyond the head.
///
/// # Errors
/// The clause that broke.
pub async fn pruned_events_are_gone_and_the_rest_stays(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(80);
    let events: [(&[&str], &str); 5] = [
        (&["a"], "0"),
        (&["b", "a"], "1"),
        (&["a"], "2"),
        (&["b"], "3"),
        (&["a"], "4"),
    ];
    let at = append(&*store, &make, &events).await?;
    let first = make.commit().remove(through(at[1]));
    let result = store.commit(first.clone()).await?;
    for round in 0..2 {
        ensure_eq!(
            read_bodies(&*store, None).await?,
            ["2", "3", "4"],
            "the log in {round}"
        );
        let a = stream("a");
        ensure_eq!(
            read_bodies(&*store, Some(&a)).await?,
            ["2", "4"],
            "stream a in {round}"
        );
        ensure_eq!(
            read_bodies(&*store, Some(&stream("b"))).await?,
            ["3"],
            "stream b in {round}"
        );
        for (of, after) in [(None, Position(0)), (Some(&a), at[0]), (None, at[3])] {
            let page = store.events(of, Page::after(after, 1)).await?;
            ensure_eq!(page.pruned, at[1], "what a page says is pruned");
            ensure_eq!(page.head, at[4], "the head");
            ensure!(page.next > at[1], "a page goes on at {}", page.next);
        }
        // Less changes nothing, and the same commit again is a repetition.
        store.commit(make.commit().remove(through(at[0]))).await?;
        let again = store.commit(first.clone()).await?;
        ensure!(again.repeated, "the removal again");
        ensure_eq!(first_result(again), result, "the result of the removal");
        store = fixture.reopen(store).await;
    }
    // The streams go on.
    let committed = store
        .commit(make.commit().event(make.event(&["a", "b"], "5")))
        .await?;
    let places = committed.places[0]
        .iter()
        .map(|place| (place.seq, place.previous));
    let places: Vec<_> = places.collect();
    ensure_eq!(
        places,
        [(Seq(5), at[4]), (Seq(3), at[3])],
        "the next places"
    );
    // Beyond the head is up to the head, not what comes later.
    let beyond = through(Position(committed.positions.end + 1_000));
    let own = make.commit().event(make.event(&["a"], "own"));
    store.commit(own.remove(beyond)).await?;
    append(&*store, &make, &[(&["a"], "later")]).await?;
    ensure_eq!(
        read_bodies(&*store, None).await?,
        ["own", "later"],
        "after all is pruned"
    );
    Ok(())
}

/// What a commit removes, it removes with the rest of it: a refused one removes nothing.
///
/// # Errors
/// The clause that broke.
pub async fn a_refused_removal_removes_nothing(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(81);
    let at = append(&*store, &make, &[(&["a"], "0"), (&["a"], "1")]).await?;
    let refused = make.commit().guard(Guard::Version(key("none"), 1));
    let refused = refused.remove(through(at[0])).remove(erase("a"));
    ensure_matches!(
        store.commit(refused.clone()).await,
        Err(CommitError::Rejected { .. }),
        "a guard"
    );
    ensure_eq!(read_bodies(&*store, None).await?, ["0", "1"], "the log");
    let kept = make.commit().remove(through(at[0]));
    store.commit(kept.clone()).await?;
    let other = Commit {
        removals: vec![through(at[1])],
        ..kept
    };
    ensure_matches!(
        store.commit(other).await,
        Err(CommitError::DifferentContent { .. }),
        "another removal under the same id"
    );
    ensure_eq!(
        read_bodies(&*store, None).await?,
        ["1"],
        "the log afterwards"
    );
    Ok(())
}

/// What is remembered of a commit is remembered after its events are pruned or erased: its
/// result, its repetition, the ids of its events.
///
/// # Errors
/// The clause that broke.
pub async fn removed_events_are_still_known_by_their_commit(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(82);
    let commits: Vec<Commit> = [["a", "x"], ["b", "x"]]
        .iter()
        .map(|streams| make.commit().event(make.event(streams, "x")))
        .collect();
    let mut results = Vec::new();
    for commit in &commits {
        results.push(store.commit(commit.clone()).await?);
    }
    let removal = make
        .commit()
        .remove(through(Position(results[0].positions.start)));
    store.commit(removal.remove(erase("b"))).await?;
    for _ in 0..2 {
        for (commit, result) in commits.iter().zip(&results) {
            let known = store.committed(&commit.id).await?.map(first_result);
            ensure_eq!(known.as_ref(), Some(result), "the result");
            let again = store.commit(commit.clone()).await?;
            ensure!(again.repeated, "a repetition");
            ensure_eq!(first_result(again), *result, "the result of a repetition");
            let taken = make.commit().event(commit.events[0].clone());
            ensure_matches!(
                store.commit(taken).await,
                Err(CommitError::DifferentContent { .. }),
                "a taken event id"
            );
        }
        store = fixture.reopen(store).await;
    }
    Ok(())
}

/// A row keeps the event it was put with when that is pruned, for as long as it is not put anew
/// (S6).
///
/// # Errors
/// The clause that broke.
pub async fn a_row_keeps_its_event_when_that_is_pruned(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(83);
    for name in ["a", "b"] {
        let commit = make.commit().event(make.event(&["turn"], name));
        store.commit(commit.row(put_with_event(name))).await?;
    }
    let before = [store.row(&key("a")).await?, store.row(&key("b")).await?];
    ensure!(
        before.iter().flatten().all(|row| row.event.is_some()),
        "rows with their events"
    );
    store
        .commit(make.commit().remove(through(Position(u64::MAX))))
        .await?;
    for _ in 0..2 {
        ensure_eq!(read_bodies(&*store, None).await?, [""; 0], "the log");
        let rows = [store.row(&key("a")).await?, store.row(&key("b")).await?];
        ensure_eq!(rows, before, "the rows");
        let page = store
            .rows(RowQuery::space("law"), Page::after(None, 10))
            .await?;
        let page: Vec<_> = page.rows.into_iter().map(Some).collect();
        ensure_eq!(page[..], before[..], "the rows of a page");
        store = fixture.reopen(store).await;
    }
    store
        .commit(make.commit().row(put(key("a"), "new")))
        .await?;
    let row = store.row(&key("a")).await?;
    ensure!(row.is_some_and(|row| row.event.is_none()), "a row put anew");
    // Erasure reaches what only a row still has.
    store.commit(make.commit().remove(erase("turn"))).await?;
    let row = store.row(&key("b")).await?.and_then(|row| row.event);
    ensure!(
        row.is_some_and(|event| event.erased && event.body.is_empty()),
        "an erased event of a row"
    );
    Ok(())
}

/// A closed stream is forgotten with its last event; one that is open, or whose last event is
/// served, is not (E16).
///
/// # Errors
/// The clause that broke.
pub async fn a_closed_stream_is_forgotten_with_its_last_event(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(84);
    let commit = make.commit().event(make.event(&["turn", "open"], "0"));
    let commit = commit.event(make.closing(&["turn", "open"], "end"));
    let committed = store.commit(commit).await?;
    let first = Position(committed.positions.start);
    store.commit(make.commit().remove(through(first))).await?;
    let late = || make.commit().event(make.event(&["turn"], "again"));
    ensure_matches!(
        store.commit(late()).await,
        Err(CommitError::Rejected {
            guard: Guard::Head(_, Seq(2)),
            found: Found::Closed
        }),
        "a closed stream whose last event is served"
    );
    // In one commit the stream is still as it was.
    let last = through(first.next());
    ensure_matches!(
        store.commit(late().remove(last.clone())).await,
        Err(CommitError::Rejected {
            found: Found::Closed,
            ..
        }),
        "a closed stream in the commit that prunes it"
    );
    store.commit(make.commit().remove(last)).await?;
    store = fixture.reopen(store).await;
    let guard = Guard::Head(stream("open"), Seq(2));
    store.commit(make.commit().guard(guard)).await?;
    let fresh = late().guard(Guard::Head(stream("turn"), Seq(0)));
    let committed = store.commit(fresh).await?;
    let place = &committed.places[0][0];
    ensure_eq!(
        (place.seq, place.previous),
        (Seq(1), Position(0)),
        "its first place"
    );
    store.commit(late()).await?;
    let turn = read_bodies(&*store, Some(&stream("turn"))).await?;
    ensure_eq!(turn, ["again", "again"], "the stream that is new");
    Ok(())
}

/// Erasing a stream takes the bodies of its events, in whatever stream or row they are read, and
/// leaves their places; other events, later ones, and those of the same commit stay whole (V4).
///
/// # Errors
/// The clause that broke.
pub async fn erased_events_keep_their_places_only(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(85);
    let events: [(&[&str], &str); 3] = [(&["a", "b"], "0"), (&["b"], "1"), (&["c", "a"], "2")];
    append(&*store, &make, &events).await?;
    let closing = make.commit().event(make.closing(&["a"], "3"));
    store.commit(closing.row(put_with_event("row"))).await?;
    let before = read_all(&*store, None, 10).await?;
    let own = make.commit().event(make.event(&["b"], "own"));
    store
        .commit(own.remove(erase("a")).remove(erase("c")))
        .await?;
    append(&*store, &make, &[(&["b", "c"], "later")]).await?;
    for round in 0..2 {
        let log = read_all(&*store, None, 2).await?;
        ensure_eq!(
            bodies(&log),
            ["", "1", "", "", "own", "later"],
            "the log in {round}"
        );
        for (found, was) in log.iter().zip(&before) {
            let is_erased = was.places.iter().any(|place| place.stream == stream("a"));
            let wanted = StoredEvent {
                erased: is_erased,
                body: found.body.clone(),
                ..was.clone()
            };
            ensure_eq!(*found, wanted, "the event at {}", was.position);
        }
        let b = read_bodies(&*store, Some(&stream("b"))).await?;
        ensure_eq!(b, ["", "1", "own", "later"], "another stream of it");
        let row = store.row(&key("row")).await?.and_then(|row| row.event);
        ensure_eq!(row.as_ref(), log.get(3), "the event of a row");
        ensure_matches!(
            store
                .commit(make.commit().event(make.event(&["a"], "late")))
                .await,
            Err(CommitError::Rejected {
                found: Found::Closed,
                ..
            }),
            "an erased stream that is closed"
        );
        store = fixture.reopen(store).await;
    }
    Ok(())
}

/// The units of retention are what is served: in order, without a hole, with the newest time and
/// the bytes (V9).
///
/// # Errors
/// The clause that broke.
pub async fn retention_units_are_what_is_served(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(86);
    ensure_eq!(units(&*store).await?, [], "the units of nothing");
    let mut times = Vec::new();
    let mut at = Vec::new();
    for round in 0..60 {
        // Times need not ascend.
        let commit = make.commit_at(round * 7919 % 60);
        times.push(commit.time);
        let commit = commit.event(make.event(&["a"], "ten bytes."));
        at.push(Position(store.commit(commit).await?.positions.start));
    }
    check_units(&*store, 0, &times).await?;
    for pruned in [1_usize, 20, 60] {
        let pruning = make.commit().remove(through(at[pruned - 1]));
        store.commit(pruning).await?;
        check_units(&*store, pruned, &times[pruned..]).await?;
        store = fixture.reopen(store).await;
        check_units(&*store, pruned, &times[pruned..]).await?;
    }
    Ok(())
}

async fn units(store: &dyn Store) -> Result<Vec<RetentionUnit>, LawBroken> {
    let mut units: Vec<RetentionUnit> = Vec::new();
    loop {
        let after = units.last().map_or(Position(0), |unit| unit.last);
        let page = store.retention_units(Page::after(after, 2)).await?;
        ensure!(page.len() <= 2, "a page of 2 has {} units", page.len());
        units.extend(&page);
        if page.len() < 2 {
            return Ok(units);
        }
    }
}

async fn check_units(
    store: &dyn Store,
    pruned: usize,
    times: &[Timestamp],
) -> Result<(), LawBroken> {
    let units = units(store).await?;
    let mut events = read_all(store, None, 256).await?.into_iter().peekable();
    let mut seen = 0;
    for unit in &units {
        let mut count = 0;
        let mut newest = Timestamp::default();
        let mut bytes = 0;
        let mut last = Position(0);
        while let Some(event) = events.next_if(|event| event.position <= unit.last) {
            count += 1;
            newest = newest.max(event.time);
            bytes += event.body.len() as u64;
            last = event.position;
        }
        ensure_eq!((unit.last, unit.events), (last, count), "a unit");
        // A unit that retention has cut may know the time of what it was.
        let known = unit.newest >= newest;
        ensure!(
            known,
            "the newest of a unit is {}, not {newest}",
            unit.newest
        );
        ensure!(
            pruned > 0 || unit.newest == newest,
            "the newest of a whole unit"
        );
        ensure!(
            unit.bytes >= bytes,
            "a unit of {bytes} bytes says {}",
            unit.bytes
        );
        seen += count;
    }
    ensure_eq!(seen, times.len() as u64, "the events of all units");
    ensure!(events.next().is_none(), "an event after the last unit");
    Ok(())
}

/// The sweep spares what a commit named while an event of it is served whole or a scope it put a
/// row of has a row, and takes it afterwards (E18).
///
/// # Errors
/// The clause that broke.
pub async fn the_sweep_takes_what_nothing_names_any_more(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(87);
    let sweep = async |store: &dyn Store| store.sweep_attachments(&|_| false, Duration::ZERO).await;
    let mut digests = Vec::new();
    for bytes in ["row", "pruned", "erased", "kept"] {
        digests.push(store.put_attachment(bytes.as_bytes().into()).await?);
    }
    let naming = |commit: Commit, at: usize| Commit {
        attachments: vec![digests[at]],
        ..commit
    };
    store
        .commit(naming(make.commit().row(put(key("a"), "x")), 0))
        .await?;
    let mut at = Vec::new();
    for (index, name) in [(1, "pruned"), (2, "erased"), (3, "kept")] {
        let commit = make.commit().event(make.event(&[name], "x"));
        at.push(store.commit(naming(commit, index)).await?.positions.start);
    }
    ensure_eq!(sweep(&*store).await?, 0, "swept while all is named");
    store = fixture.reopen(store).await;
    ensure_eq!(sweep(&*store).await?, 0, "swept after reopening");
    let removal = make.commit().remove(through(Position(at[0])));
    let removal = removal.remove(erase("erased"));
    // Another row of the same scope holds it still.
    let removal = removal
        .row(put(key("b"), "x"))
        .row(RowChange::Delete(key("a")));
    store.commit(removal).await?;
    ensure_eq!(sweep(&*store).await?, 2, "swept of pruned and erased");
    ensure!(
        store.has_attachment(&digests[0]).await?,
        "that of a row is gone"
    );
    store
        .commit(make.commit().row(RowChange::Retire(scope("s"))))
        .await?;
    store = fixture.reopen(store).await;
    ensure_eq!(sweep(&*store).await?, 1, "swept of a retired scope");
    ensure!(
        store.has_attachment(&digests[3]).await?,
        "that of an event is gone"
    );
    ensure_eq!(version(&*store, &key("a")).await?, 0, "the row");
    Ok(())
}
