//! Guards, epochs, retirement: what must hold for a commit to happen.

use std::sync::Arc;

use runtime_store::{CommitError, Epoch, Found, Guard, RowChange, RowKey, Seq};

use super::producer::{Producer, key, put, scope, stream, version};
use super::{LawBroken, StoreFixture, ensure, ensure_eq, ensure_matches};

/// A guard holds for what it names and for nothing else, and says what it found (V1).
///
/// # Errors
/// The clause that broke.
pub async fn guards_hold_as_they_say(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(1);
    let events = [make.event(&["turn"], "1"), make.event(&["turn"], "2")];
    let [first, second] = events;
    let commit = make.commit().row(put(key("a"), "1")).event(first);
    store
        .commit(commit.event(second).guard(Guard::Absent(key("a"))))
        .await?;
    store.commit(make.commit().row(put(key("a"), "2"))).await?;

    let head = |seq| Guard::Head(stream("turn"), Seq(seq));
    let cases = [
        (Guard::Absent(key("b")), None),
        (Guard::Absent(key("a")), Some(Found::Version(2))),
        (Guard::Version(key("a"), 2), None),
        (Guard::Version(key("a"), 1), Some(Found::Version(2))),
        (Guard::Version(key("a"), 3), Some(Found::Version(2))),
        (Guard::Version(key("b"), 1), Some(Found::Absent)),
        (head(2), None),
        (head(0), Some(Found::Head(Seq(2)))),
        (head(1), Some(Found::Head(Seq(2)))),
        (head(3), Some(Found::Head(Seq(2)))),
        (Guard::Head(stream("other"), Seq(0)), None),
        (
            Guard::Head(stream("other"), Seq(1)),
            Some(Found::Head(Seq(0))),
        ),
    ];
    for (guard, wanted) in cases {
        let found = match store.commit(make.commit().guard(guard.clone())).await {
            Ok(_) => None,
            Err(CommitError::Rejected {
                guard: named,
                found,
            }) => {
                ensure_eq!(named, guard, "the guard that is named");
                Some(found)
            }
            Err(other) => return Err(other.into()),
        };
        ensure_eq!(found, wanted, "what {guard:?} found");
    }
    Ok(())
}

/// The first guard that does not hold is the one that is reported.
///
/// # Errors
/// The clause that broke.
pub async fn guards_are_checked_in_order(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(2);
    store.commit(make.commit().row(put(key("a"), "1"))).await?;
    let guards = [
        Guard::Version(key("a"), 1),
        Guard::Version(key("a"), 7),
        Guard::Absent(key("a")),
    ];
    let commit = guards
        .iter()
        .cloned()
        .fold(make.commit(), |commit, guard| commit.guard(guard));
    ensure_matches!(
        store.commit(commit).await,
        Err(CommitError::Rejected { guard, .. }) if *guard == guards[1],
        "the second of three guards does not hold"
    );
    // The owner comes before the guards: a fenced writer learns that it is fenced, not that
    // somebody else wrote first.
    let fenced = make.commit().owned_by(scope("s"), Epoch(1));
    ensure_matches!(
        store.commit(fenced.guard(Guard::Absent(key("a")))).await,
        Err(CommitError::Fenced),
        "neither owner nor guard hold"
    );
    Ok(())
}

/// Of many commits in flight that want the same version of a row or the same head of a stream,
/// exactly one wins: guards are checked against every earlier commit, not against a read.
///
/// # Errors
/// The clause that broke.
pub async fn guards_see_every_earlier_commit(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    const ROUNDS: u64 = 12;
    const WRITERS: usize = 12;
    let store = fixture.open().await;
    let make = Producer::new(3);
    for round in 0..ROUNDS {
        let guards = [
            match round {
                0 => Guard::Absent(key("counter")),
                version => Guard::Version(key("counter"), version),
            },
            Guard::Head(stream("turn"), Seq(round)),
        ];
        // Half of the writers compete by the row, half by the stream.
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let commit = make
                    .commit()
                    .guard(guards[writer % 2].clone())
                    .row(put(key("counter"), &writer.to_string()))
                    .event(make.event(&["turn"], &writer.to_string()));
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.commit(commit).await })
            })
            .collect();
        let mut winners = 0;
        for writer in writers {
            match writer.await? {
                Ok(_) => winners += 1,
                Err(CommitError::Rejected { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        ensure_eq!(winners, 1, "winners of round {round}");
        ensure_eq!(
            version(&*store, &key("counter")).await?,
            round + 1,
            "the version after round {round}"
        );
    }
    Ok(())
}

/// The version of the epoch row is the only fence: an absent or another epoch is refused (E5).
///
/// # Errors
/// The clause that broke.
pub async fn an_epoch_fences_earlier_owners(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(4);
    let epoch = RowKey::epoch(scope("s"));
    let write = |epoch| {
        let commit = make.commit().owned_by(scope("s"), Epoch(epoch));
        commit.row(put(key("a"), "x"))
    };
    ensure_matches!(
        store.commit(write(1)).await,
        Err(CommitError::Fenced),
        "nobody has opened the scope"
    );
    let open = make.commit().guard(Guard::Absent(epoch.clone()));
    store.commit(open.row(put(epoch.clone(), ""))).await?;
    store.commit(write(1)).await?;
    let take_over = make.commit().guard(Guard::Version(epoch.clone(), 1));
    store.commit(take_over.row(put(epoch.clone(), ""))).await?;
    ensure_matches!(
        store.commit(write(1)).await,
        Err(CommitError::Fenced),
        "the scope was taken over"
    );
    ensure_matches!(
        store.commit(write(3)).await,
        Err(CommitError::Fenced),
        "nobody has that epoch yet"
    );
    store.commit(write(2)).await?;
    ensure_eq!(version(&*store, &key("a")).await?, 2, "writes that count");
    let other = make.commit().owned_by(scope("t"), Epoch(2));
    ensure_matches!(
        store.commit(other).await,
        Err(CommitError::Fenced),
        "the epoch of another scope does not serve"
    );
    Ok(())
}

/// Retiring removes the rows of one owner in every space, its epoch included, and of nobody else.
///
/// # Errors
/// The clause that broke.
pub async fn retiring_a_scope_removes_its_rows_and_fences(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(5);
    let gone = [
        RowKey::epoch(scope("s")),
        RowKey::new("alpha", scope("s"), ""),
        RowKey::new("law", scope("s"), "x"),
        RowKey::new("law", scope("s"), "y"),
        RowKey::new("zulu", scope("s"), "z"),
    ];
    let kept = [
        RowKey::epoch(scope("s2")),
        RowKey::new("law", scope("r"), "x"),
        RowKey::new("law", scope("s2"), "x"),
        RowKey::new("zulu", scope("t"), "s"),
    ];
    let fill = gone.iter().chain(&kept).fold(make.commit(), |commit, key| {
        commit.row(put(key.clone(), "1"))
    });
    store.commit(fill).await?;
    let retire = make.commit().owned_by(scope("s"), Epoch(1));
    let retire = retire.row(put(key("late"), "gone with the rest"));
    let retire = retire.row(RowChange::Retire(scope("s")));
    store
        .commit(retire.row(put(key("after"), "put after retiring")))
        .await?;

    for key in gone.iter().chain([&key("late")]) {
        ensure!(store.row(key).await?.is_none(), "{key:?} is still there");
    }
    for key in kept.iter().chain([&key("after")]) {
        ensure_eq!(version(&*store, key).await?, 1, "the version of {key:?}");
    }
    let late = make.commit().owned_by(scope("s"), Epoch(1));
    ensure_matches!(
        store.commit(late.row(put(key("zombie"), "x"))).await,
        Err(CommitError::Fenced),
        "the scope is retired"
    );
    let again = make.commit().row(RowChange::Retire(scope("s")));
    store
        .commit(again.row(RowChange::Retire(scope("nobody"))))
        .await?;
    ensure!(store.row(&key("after")).await?.is_none(), "retired twice");
    Ok(())
}
