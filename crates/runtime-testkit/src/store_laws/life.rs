//! Closing and opening again.

use runtime_core::Timestamp;
use runtime_store::{
    Commit, CommitError, Epoch, Found, Guard, Page, RowChange, RowKey, RowQuery, Store,
};

use super::producer::{Producer, first_result, key, put, read_all, scope, version};
use super::{LawBroken, StoreFixture, ensure, ensure_eq, ensure_matches};

/// All that a store ever told: identity, log, rows by key and by time.
async fn told(store: &dyn Store) -> Result<impl PartialEq + std::fmt::Debug + use<>, LawBroken> {
    let due = RowQuery::Due {
        space: "law".into(),
        until: Timestamp::from_millis(u64::MAX),
    };
    Ok((
        store.identity().clone(),
        read_all(store, None, 7).await?,
        store
            .rows(RowQuery::space("law"), Page::after(None, 256))
            .await?,
        store
            .rows(RowQuery::space("epoch"), Page::after(None, 256))
            .await?,
        store.rows(due, Page::after(None, 256)).await?,
    ))
}

/// After closing and opening, all is as it was: rows, events, places, what is closed, what was
/// committed, epochs, attachments; and the log goes on where it ended.
///
/// # Errors
/// The clause that broke.
pub async fn everything_survives_reopening(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let mut store = fixture.open().await;
    let make = Producer::new(70);
    let attachment = store.put_attachment(b"bytes".as_slice().into()).await?;
    let epoch = put(RowKey::epoch(scope("s")), "");
    let retired = put(RowKey::new("law", scope("retired"), "x"), "x");
    store.commit(make.commit().row(epoch).row(retired)).await?;
    let mut commits = Vec::new();
    let mut events = 0;
    for round in 0..4_u64 {
        let commit = Commit {
            attachments: vec![attachment],
            ..make.commit().owned_by(scope("s"), Epoch(1))
        };
        let with_event = RowChange::Put {
            key: key(&format!("row-{round}")),
            body: b"own".as_slice().into(),
            event: Some(1),
            due: (round % 2 == 0).then(|| Timestamp::from_millis(100 - round)),
        };
        let turn = format!("turn-{round}");
        let commit = commit.row(with_event).row(put(key("counter"), &turn));
        let commit = commit.row(RowChange::Delete(key(&format!("row-{}", round / 2))));
        let commit = commit.row(RowChange::Retire(scope("retired")));
        let commit = commit.event(make.event(&[&turn, "session"], "one"));
        let commit = commit.event(make.closing(&[&turn, "session"], "end"));
        let result = store.commit(commit.clone()).await?;
        events += commit.events.len();
        commits.push((commit, result));

        let before = told(&*store).await?;
        store = fixture.reopen(store).await;
        ensure_eq!(
            told(&*store).await?,
            before,
            "what is told in round {round}"
        );
        for (commit, result) in &commits {
            let known = store.committed(&commit.id).await?.map(first_result);
            ensure_eq!(known.as_ref(), Some(result), "the result of a commit");
            let again = store.commit(commit.clone()).await?;
            ensure!(again.repeated, "a commit from before is made again");
        }
        let late = make.commit().event(make.event(&[&turn], "late"));
        ensure_matches!(
            store.commit(late).await,
            Err(CommitError::Rejected {
                found: Found::Closed,
                ..
            }),
            "a closed stream"
        );
        let taken = commits[0].0.events[0].clone();
        ensure_matches!(
            store.commit(make.commit().event(taken)).await,
            Err(CommitError::DifferentContent { .. } | CommitError::Rejected { .. }),
            "a taken event id"
        );
        let zombie = make.commit().owned_by(scope("s"), Epoch(2));
        ensure_matches!(
            store.commit(zombie).await,
            Err(CommitError::Fenced),
            "an epoch"
        );
        let guard = Guard::Version(key("counter"), round + 1);
        store.commit(make.commit().guard(guard)).await?;
        let log = read_all(&*store, None, 256).await?;
        ensure_eq!(log.len(), events, "the events of the log");
        ensure_eq!(
            &*store.attachment(&attachment).await?,
            b"bytes",
            "the bytes"
        );
    }
    ensure_eq!(version(&*store, &key("counter")).await?, 4, "the counter");
    Ok(())
}

/// A closed store takes no commit and no attachment; closing it again does nothing; what was
/// acknowledged is there when it is opened again.
///
/// # Errors
/// The clause that broke.
pub async fn a_closed_store_takes_no_writes(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(71);
    let commit = make.commit().row(put(key("a"), "x"));
    let commit = commit.event(make.event(&["turn"], "x"));
    store.commit(commit.clone()).await?;
    store.close().await?;
    store.close().await?;
    let late = make.commit().row(put(key("late"), "x"));
    for refused in [late.event(make.event(&["turn"], "late")), commit.clone()] {
        ensure_matches!(
            store.commit(refused).await,
            Err(CommitError::ReadOnly { .. }),
            "a commit after closing"
        );
    }
    let late = store.put_attachment(b"late".as_slice().into()).await;
    ensure!(late.is_err(), "an attachment after closing");

    let store = fixture.reopen(store).await;
    ensure!(
        store.row(&key("late")).await?.is_none(),
        "a row from after closing"
    );
    ensure_eq!(read_all(&*store, None, 10).await?.len(), 1, "the events");
    ensure!(
        store.commit(commit).await?.repeated,
        "the commit from before"
    );
    Ok(())
}
