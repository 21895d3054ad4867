//! The atomic step: whole or not at all, once.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use runtime_core::{Digest, StreamKey, Timestamp};
use runtime_store::{
    Commit, CommitError, Epoch, Found, Guard, NewEvent, Position, RowChange, RowKey, Seq, Store,
};

use super::producer::{Producer, first_result, head, key, put, read_all, scope, stream, version};
use super::{LawBroken, StoreFixture, ensure, ensure_eq, ensure_matches};

/// A refused commit changes nothing that can be read, and its id is still free.
///
/// # Errors
/// The clause that broke.
pub async fn a_refused_commit_leaves_no_trace(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(20);
    let base = make.commit().row(put(key("base"), "1"));
    let base = base.event(make.closing(&["closed"], "end"));
    store.commit(base).await?;
    let before = head(&*store).await?;

    let full = || {
        let commit = make.commit().row(put(key("new"), "x"));
        let commit = commit.row(put(key("base"), "changed"));
        commit.event(make.event(&["turn"], "one"))
    };
    let too_large = vec![b'x'; store.capabilities().limits.commit_bytes_max];
    let missing = Digest::of_bytes(b"nobody put this");
    let refused = [
        full().guard(Guard::Absent(key("base"))),
        full().guard(Guard::Head(stream("turn"), Seq(1))),
        full().owned_by(scope("s"), Epoch(1)),
        full().event(make.event(&["turn", "closed"], "late")),
        full().event(make.event(&["a", "a"], "malformed")),
        full().row(RowChange::put(key("large"), too_large)),
        Commit {
            attachments: vec![missing],
            ..full()
        },
    ];
    for commit in refused {
        let id = commit.id;
        let Err(error) = store.commit(commit).await else {
            let what = "a commit that must be refused was made";
            return Err(LawBroken::at(file!(), line!(), what));
        };
        ensure!(
            store.row(&key("new")).await?.is_none(),
            "a row of {error:?}"
        );
        ensure_eq!(version(&*store, &key("base")).await?, 1, "after {error:?}");
        ensure_eq!(head(&*store).await?, before, "the head after {error:?}");
        let events = read_all(&*store, Some(&stream("turn")), 10).await?;
        ensure_eq!(events.len(), 0, "events of {error:?}");
        ensure_eq!(store.committed(&id).await?, None, "the result of {error:?}");
        let retried = Commit {
            id,
            ..make.commit()
        };
        ensure!(
            !store.commit(retried).await?.repeated,
            "the id of {error:?}"
        );
    }
    // What a refused commit would have had is given to the next one.
    let committed = store.commit(full()).await?;
    ensure_eq!(committed.places[0][0].seq, Seq(1), "the first seq");
    ensure_eq!(version(&*store, &key("new")).await?, 1, "the first version");
    Ok(())
}

/// The same id and content again answers the first result and does nothing, whatever time, owner
/// and guards say now.
///
/// # Errors
/// The clause that broke.
pub async fn a_repetition_answers_the_first_result(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(21);
    let epoch = RowKey::epoch(scope("s"));
    store
        .commit(make.commit().row(put(epoch.clone(), "")))
        .await?;
    let commit = make.commit().owned_by(scope("s"), Epoch(1));
    let commit = commit
        .guard(Guard::Absent(key("a")))
        .row(put(key("a"), "1"));
    let commit = commit.event(make.event(&["turn", "session"], "one"));
    let commit = commit.event(make.closing(&["turn"], "two"));
    let first = store.commit(commit.clone()).await?;
    ensure!(!first.repeated, "the first one is no repetition");
    let after = make.commit().row(put(epoch, "taken over"));
    let after = after.row(put(key("a"), "2"));
    store
        .commit(after.event(make.event(&["session"], "three")))
        .await?;
    let before = head(&*store).await?;

    let unguarded = Commit {
        owner: None,
        guards: Vec::new(),
        ..commit.clone()
    };
    let impossible = Commit {
        time: commit.time.after(std::time::Duration::from_secs(1)),
        owner: Some((scope("nobody"), Epoch(9))),
        guards: vec![Guard::Absent(key("a"))],
        ..commit.clone()
    };
    for again in [commit, unguarded, impossible] {
        let repeated = store.commit(again).await?;
        ensure!(repeated.repeated, "a repetition is marked");
        ensure_eq!(first_result(repeated), first, "the first result");
        ensure_eq!(version(&*store, &key("a")).await?, 2, "the row");
        ensure_eq!(head(&*store).await?, before, "the head");
    }
    // Without events and rows as well.
    let empty = make.commit();
    ensure!(!store.commit(empty.clone()).await?.repeated, "first");
    ensure!(store.commit(empty).await?.repeated, "second");
    Ok(())
}

/// Of the same commit submitted many times at once, one happens.
///
/// # Errors
/// The clause that broke.
pub async fn repetitions_in_flight_happen_once(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(22);
    for round in 1..=8 {
        let commit = make.commit().row(put(key("a"), "x"));
        let commit = commit.event(make.event(&["turn"], "x"));
        let submissions: Vec<_> = (0..8)
            .map(|_| {
                let (store, commit) = (Arc::clone(&store), commit.clone());
                tokio::spawn(async move { store.commit(commit).await })
            })
            .collect();
        let mut results = Vec::new();
        for submission in submissions {
            results.push(submission.await??);
        }
        let made = results.iter().filter(|result| !result.repeated).count();
        ensure_eq!(made, 1, "first results");
        let first = first_result(results[0].clone());
        for result in results {
            ensure_eq!(first_result(result), first, "the results");
        }
        ensure_eq!(version(&*store, &key("a")).await?, round, "the puts");
    }
    ensure_eq!(read_all(&*store, None, 100).await?.len(), 8, "the events");
    Ok(())
}

/// The same id with other content is refused: another row body, due time, event or stream.
///
/// # Errors
/// The clause that broke.
pub async fn other_content_under_an_id_is_refused(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(23);
    let event = make.event(&["turn"], "x");
    let row = |body: &str| put(key("a"), body);
    let commit = make.commit().row(row("1")).event(event.clone());
    store.commit(commit.clone()).await?;
    let before = head(&*store).await?;
    let with_events = |events: Vec<NewEvent>| Commit {
        events,
        ..commit.clone()
    };
    let others = [
        commit.clone().row(row("2")),
        Commit {
            rows: vec![row("2")],
            ..commit.clone()
        },
        Commit {
            rows: Vec::new(),
            ..commit.clone()
        },
        with_events(Vec::new()),
        with_events(vec![NewEvent {
            body: b"y".as_slice().into(),
            ..event.clone()
        }]),
        with_events(vec![NewEvent {
            streams: vec![stream("other")],
            ..event.clone()
        }]),
        with_events(vec![NewEvent {
            closes: true,
            ..event
        }]),
    ];
    for other in others {
        ensure_matches!(
            store.commit(other).await,
            Err(CommitError::DifferentContent { id }) if *id == commit.id,
            "other content"
        );
        ensure_eq!(version(&*store, &key("a")).await?, 1, "the row");
        ensure_eq!(head(&*store).await?, before, "the head");
    }
    ensure!(store.commit(commit).await?.repeated, "the first content");
    Ok(())
}

/// An event id that is in the log is refused in another commit, with the same bytes too.
///
/// # Errors
/// The clause that broke.
pub async fn an_event_id_is_unique_in_the_log(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(24);
    let event = make.event(&["turn"], "x");
    store.commit(make.commit().event(event.clone())).await?;
    let other = NewEvent {
        body: b"y".as_slice().into(),
        ..event.clone()
    };
    for again in [event, other] {
        let commit = make.commit().event(make.event(&["turn"], "new"));
        let commit = commit.event(again).row(put(key("a"), "x"));
        ensure_matches!(
            store.commit(commit).await,
            Err(CommitError::DifferentContent { .. }),
            "an event id that is taken"
        );
        ensure!(store.row(&key("a")).await?.is_none(), "a row of it");
        ensure_eq!(read_all(&*store, None, 10).await?.len(), 1, "the events");
    }
    // Twice in one commit is refused as well, as malformed or as taken.
    let event = make.event(&["turn"], "twice");
    let commit = make.commit().event(event.clone()).event(event);
    ensure!(
        store.commit(commit).await.is_err(),
        "one id twice in a commit"
    );
    ensure_eq!(read_all(&*store, None, 10).await?.len(), 1, "the events");
    Ok(())
}

/// `committed` knows the result of what happened and nothing of what did not.
///
/// # Errors
/// The clause that broke.
pub async fn committed_answers_what_happened(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(25);
    let never = make.commit();
    ensure_eq!(store.committed(&never.id).await?, None, "never submitted");
    let refused = never.guard(Guard::Version(key("a"), 1));
    let id = refused.id;
    ensure!(store.commit(refused).await.is_err(), "a guard that fails");
    ensure_eq!(store.committed(&id).await?, None, "refused");
    let mut results = Vec::new();
    for index in 0..5 {
        let commit = make.commit().row(put(key("a"), "x"));
        let commit = (0..index).fold(commit, |commit, _| {
            commit.event(make.event(&["turn", "session"], "x"))
        });
        results.push((commit.id, store.commit(commit).await?));
    }
    for (id, result) in results {
        let committed = store.committed(&id).await?.map(first_result);
        ensure_eq!(committed, Some(result), "the result of a commit");
    }
    Ok(())
}

/// An id from before the commits that are remembered is refused, for it may be a repetition; a
/// remembered one is recognised (V1).
///
/// # Errors
/// The clause that broke.
pub async fn a_forgotten_commit_is_too_old(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(26);
    let remembered = store.capabilities().limits.remembered_commits;
    // Writers of one group overtake each other, so a group is narrower than what is remembered.
    let width = 512.min(remembered / 2).max(1);
    let first = make.commit_at(1);
    store.commit(first.clone()).await?;
    ensure!(store.commit(first.clone()).await?.repeated, "just made");
    // A store may remember more than it promises; twice as many and it has to forget.
    let mut last = first.clone();
    for group in 0..(2 * remembered).div_ceil(width) {
        let commits: Vec<Commit> = (0..width)
            .map(|index| make.commit_at((2 + group * width + index) as u64))
            .collect();
        last = commits[width - 1].clone();
        let writer = |commit: Commit| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(commit).await })
        };
        let writers: Vec<_> = commits.into_iter().map(writer).collect();
        for writer in writers {
            writer.await??;
        }
        if group == 0 && width < remembered {
            ensure!(store.commit(first.clone()).await?.repeated, "remembered");
        }
    }
    ensure!(store.commit(last).await?.repeated, "the last one");
    match store.commit(first.clone()).await {
        Ok(found) => ensure!(found.repeated, "a forgotten commit happened again"),
        Err(CommitError::TooOld { id }) => ensure_eq!(id, first.id, "the id that is named"),
        Err(other) => return Err(other.into()),
    }
    match store.commit(make.commit_at(0)).await {
        // Only a store that remembers all there ever was may know that it is new.
        Ok(found) => ensure!(
            !found.repeated && store.committed(&first.id).await?.is_some(),
            "an id older than what is remembered was taken as new"
        ),
        Err(CommitError::TooOld { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    // A wall clock that was set back makes no commit too old, nor does a new process (R15).
    for reopens in [false, true] {
        if reopens {
            store = fixture.reopen(store).await;
        }
        let time = store.id_time(Timestamp::from_millis(1));
        let fresh = make.commit_of(time);
        ensure!(!store.commit(fresh).await?.repeated, "it is new");
    }
    Ok(())
}

/// What no store could keep is refused by its form.
///
/// # Errors
/// The clause that broke.
pub async fn a_malformed_commit_is_refused(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(27);
    let nine: Vec<String> = (0..9).map(|index| format!("stream-{index}")).collect();
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    let no_such_event = |index, events: usize| {
        let commit = (0..events).fold(make.commit(), |commit, _| {
            commit.event(make.event(&["turn"], "x"))
        });
        commit.row(RowChange::Put {
            key: key("a"),
            body: b"x".as_slice().into(),
            event: Some(index),
            due: None,
        })
    };
    let name_of = |bytes| put(key(&"n".repeat(bytes)), "x");
    let malformed = [
        ("nine streams", make.commit().event(make.event(&nine, "x"))),
        (
            "a stream twice",
            make.commit().event(make.event(&["a", "b", "a"], "x")),
        ),
        ("no event 0", no_such_event(0, 0)),
        ("no event 2", no_such_event(2, 2)),
        ("NUL in a name", make.commit().row(put(key("a\0b"), "x"))),
        ("a name of 1,025 bytes", make.commit().row(name_of(1025))),
        (
            "no space",
            make.commit()
                .row(put(RowKey::new("", scope("s"), "a"), "x")),
        ),
        (
            "a blank space",
            make.commit()
                .row(put(RowKey::new(" ", scope("s"), "a"), "x")),
        ),
    ];
    for (what, commit) in malformed {
        ensure_matches!(
            store.commit(commit).await,
            Err(CommitError::Malformed { reason }) if !reason.is_empty(),
            "{what}"
        );
    }
    ensure_eq!(head(&*store).await?, Position(0), "the head");
    let allowed = make.commit().event(make.event(&nine[..8], "x"));
    store.commit(allowed.row(name_of(1024))).await?;
    store.commit(no_such_event(1, 2)).await?;
    store
        .commit(make.commit().event(make.event(&[], "x")))
        .await?;
    Ok(())
}

/// A commit over the limit is refused; one at the limit is made.
///
/// # Errors
/// The clause that broke.
pub async fn a_commit_too_large_is_refused(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(28);
    let limit = store.capabilities().limits.commit_bytes_max;
    let with_body = |bytes: usize| make.commit().row(RowChange::put(key("a"), vec![7; bytes]));
    let overhead = with_body(0).bytes();
    ensure_matches!(
        store.commit(with_body(limit - overhead + 1)).await,
        Err(CommitError::TooLarge { bytes, max }) if *bytes == limit + 1 && *max == limit,
        "one byte over the limit"
    );
    ensure!(store.row(&key("a")).await?.is_none(), "a row of it");
    store.commit(with_body(limit - overhead)).await?;
    let row = store.row(&key("a")).await?;
    ensure_eq!(
        row.map(|row| row.body.len()),
        Some(limit - overhead),
        "the body at the limit"
    );
    Ok(())
}

/// Dropping the future of a commit neither tears it nor lets it happen twice, and what
/// `committed` says of it stays true.
///
/// # Errors
/// The clause that broke.
pub async fn a_dropped_commit_is_whole_or_absent(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    const COMMITS: u64 = 24;
    let store = fixture.open().await;
    let make = Producer::new(29);
    let turns: Vec<StreamKey> = (0..COMMITS).map(|n| stream(&format!("turn-{n}"))).collect();
    let mut dropped = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let commit = make.commit().row(put(key(turn.as_str()), "x"));
        let commit = commit.event(make.event(&[turn.as_str()], "one"));
        let commit = commit.event(make.event(&[turn.as_str()], "two"));
        dropped.push(commit.clone());
        poll_some(store.commit(commit), index % 4).await;
    }
    // Whatever was submitted is ordered before this.
    store.commit(make.commit()).await?;
    for (commit, turn) in dropped.into_iter().zip(&turns) {
        let happened = store.committed(&commit.id).await?;
        whole_or_absent(&*store, turn, happened.is_some()).await?;
        let again = store.commit(commit).await?;
        ensure!(
            again.repeated == happened.is_some(),
            "committed said {happened:?}, the repetition {again:?}"
        );
        whole_or_absent(&*store, turn, true).await?;
    }
    let log = read_all(&*store, None, 256).await?;
    ensure_eq!(log.len(), 2 * turns.len(), "the events of the log");
    Ok(())
}

/// Polls a future so many times at most, then drops it.
async fn poll_some<F: Future>(future: F, polls: usize) {
    let mut future = pin!(future);
    for _ in 0..polls {
        let ready = poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready()));
        if ready.await {
            return;
        }
    }
}

async fn whole_or_absent(
    store: &dyn Store,
    turn: &StreamKey,
    happened: bool,
) -> Result<(), LawBroken> {
    let wanted = if happened { (1, 2) } else { (0, 0) };
    let events = read_all(store, Some(turn), 10).await?;
    let found = (version(store, &key(turn.as_str())).await?, events.len());
    ensure_eq!(found, wanted, "the row and the events of {turn}");
    let guard = Guard::Head(turn.clone(), Seq(7));
    let seq = Seq(events.len() as u64);
    let probe = Producer::new(happened.into()).commit().guard(guard);
    ensure_matches!(
        store.commit(probe).await,
        Err(CommitError::Rejected { found: Found::Head(found), .. }) if *found == seq,
        "the head of {turn}"
    );
    Ok(())
}
