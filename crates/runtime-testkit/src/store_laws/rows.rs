//! Rows: versions, pages, due times.

use runtime_core::Timestamp;
use runtime_store::{Page, Payload, Row, RowChange, RowKey, RowQuery, Store};

use super::producer::{Producer, key, put, scope, version};
use super::{LawBroken, StoreFixture, ensure, ensure_eq};

async fn read_rows(
    store: &dyn Store,
    query: &RowQuery,
    limit: usize,
) -> Result<Vec<Row>, LawBroken> {
    let mut rows: Vec<Row> = Vec::new();
    let mut after = None;
    loop {
        let page = store.rows(query.clone(), Page::after(after, limit)).await?;
        ensure!(
            page.rows.len() <= limit,
            "a page of {limit} has {} rows",
            page.rows.len()
        );
        ensure!(
            page.next.is_none() || page.next.as_ref() == page.rows.last().map(|row| &row.key),
            "a page goes on after {:?}, which is not its last row",
            page.next
        );
        rows.extend(page.rows);
        let Some(next) = page.next else {
            return Ok(rows);
        };
        after = Some(next);
    }
}

/// The changes of a commit are applied in order; a version counts the puts since a row came to be.
///
/// # Errors
/// The clause that broke.
pub async fn row_changes_apply_in_order(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(10);
    let body = async |name: &str| -> Result<Option<Payload>, LawBroken> {
        Ok(store.row(&key(name)).await?.map(|row| row.body))
    };
    let text = |text: &str| -> Option<Payload> { Some(text.as_bytes().into()) };

    ensure!(
        store.row(&key("a")).await?.is_none(),
        "an empty store has a row"
    );
    store
        .commit(make.commit().row(RowChange::Delete(key("a"))))
        .await?;
    let commit = make
        .commit()
        .row(put(key("a"), "1"))
        .row(put(key("b"), "1"));
    let commit = commit
        .row(put(key("a"), "2"))
        .row(RowChange::Delete(key("b")));
    store.commit(commit.row(put(key(""), "no name"))).await?;
    ensure_eq!(version(&*store, &key("a")).await?, 2, "two puts");
    ensure_eq!(body("a").await?, text("2"), "the later put");
    ensure_eq!(body("b").await?, None, "put, then deleted");
    ensure_eq!(body("").await?, text("no name"), "a row with an empty name");

    let commit = make.commit().row(RowChange::Delete(key("a")));
    store.commit(commit.row(put(key("a"), "new"))).await?;
    ensure_eq!(version(&*store, &key("a")).await?, 1, "a row made anew");
    ensure_eq!(body("a").await?, text("new"), "a row made anew");
    let empty = store.row(&RowKey::new("law", scope("t"), "a")).await?;
    ensure!(empty.is_none(), "the row of another scope");
    Ok(())
}

/// Pages of any size give every row of a query, once and in key order, and no other.
///
/// # Errors
/// The clause that broke.
pub async fn row_pages_give_every_row_in_order(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(11);
    // Names and scopes where one begins another, where the order of bytes is not that of letters,
    // and that neighbour the queried ones.
    let mut keys = Vec::new();
    for space in ["la", "law", "lawn"] {
        for owner in ["S", "s", "s:1", "s1", "é"] {
            for name in ["", "a", "a/1", "a/10", "a/2", "ab", "b", "ü"] {
                keys.push(RowKey::new(space, scope(owner), name));
            }
        }
    }
    // Written in another order than they are read in.
    for (index, key) in keys.iter().rev().enumerate() {
        let commit = make.commit().row(put(key.clone(), &index.to_string()));
        store.commit(commit).await?;
    }
    keys.sort();
    let prefix = |name: &str| RowQuery::Prefix {
        space: "law".into(),
        scope: Some(scope("s")),
        name: name.into(),
    };
    let owned = |key: &RowKey| &*key.space == "law" && key.scope == scope("s");
    let queries: [(RowQuery, Vec<&RowKey>); 6] = [
        (
            RowQuery::space("law"),
            keys.iter().filter(|key| &*key.space == "law").collect(),
        ),
        (
            RowQuery::scope("law", scope("s")),
            keys.iter().filter(|key| owned(key)).collect(),
        ),
        (
            prefix("a/"),
            keys.iter()
                .filter(|key| owned(key) && key.name.starts_with("a/"))
                .collect(),
        ),
        (
            prefix("a"),
            keys.iter()
                .filter(|key| owned(key) && key.name.starts_with('a'))
                .collect(),
        ),
        (prefix("zzz"), Vec::new()),
        (RowQuery::space("nothing"), Vec::new()),
    ];
    for (query, wanted) in &queries {
        for limit in [1, 2, 3, 7, keys.len()] {
            let rows = read_rows(&*store, query, limit).await?;
            let found: Vec<&RowKey> = rows.iter().map(|row| &row.key).collect();
            ensure_eq!(found, *wanted, "rows of {query:?} in pages of {limit}");
        }
    }
    let first = store.row(&keys[0]).await?;
    let page = store
        .rows(RowQuery::space("la"), Page::after(None, 1))
        .await?;
    ensure_eq!(
        page.rows.first(),
        first.as_ref(),
        "one row and a page of rows"
    );
    Ok(())
}

/// Due rows come by time, then by key, none later than asked for, in pages of any size.
///
/// # Errors
/// The clause that broke.
pub async fn due_rows_come_in_order_of_time(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(12);
    let due = |space: &str, owner: &str, name: &str, due: Option<u64>| RowChange::Put {
        key: RowKey::new(space, scope(owner), name),
        body: name.as_bytes().into(),
        event: None,
        due: due.map(Timestamp::from_millis),
    };
    let commit = make
        .commit()
        .row(due("law", "s", "c", Some(10)))
        .row(due("law", "t", "a", Some(5)))
        .row(due("law", "s", "b", Some(5)))
        .row(due("law", "s", "never", None))
        .row(due("law", "s", "late", Some(21)))
        .row(due("law", "s", "at", Some(20)))
        .row(due("law", "r", "first", Some(0)))
        .row(due("law", "s", "moved", Some(1)))
        .row(due("law", "s", "stopped", Some(1)))
        .row(due("law", "s", "deleted", Some(1)))
        .row(due("law", "retired", "x", Some(1)))
        .row(due("other", "s", "x", Some(1)));
    store.commit(commit).await?;
    let commit = make
        .commit()
        .row(due("law", "s", "moved", Some(15)))
        .row(due("law", "s", "stopped", None))
        .row(RowChange::Delete(RowKey::new("law", scope("s"), "deleted")))
        .row(RowChange::Retire(scope("retired")));
    store.commit(commit).await?;

    let query = RowQuery::Due {
        space: "law".into(),
        until: Timestamp::from_millis(20),
    };
    let wanted = [
        ("first", 0),
        ("b", 5),
        ("a", 5),
        ("c", 10),
        ("moved", 15),
        ("at", 20),
    ]
    .map(|(name, millis)| (name.into(), Some(Timestamp::from_millis(millis))));
    for limit in [1, 2, 5, 6, 100] {
        let rows = read_rows(&*store, &query, limit).await?;
        let found: Vec<_> = rows
            .into_iter()
            .map(|row| (row.key.name, row.due))
            .collect();
        ensure_eq!(found, wanted, "due rows in pages of {limit}");
    }
    Ok(())
}

/// A row that was put with an event gives that event, whatever was committed since (a payload is
/// written once).
///
/// # Errors
/// The clause that broke.
pub async fn a_row_gives_the_event_it_was_put_with(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(13);
    let with_event = |name: &str, index| RowChange::Put {
        key: key(name),
        body: name.as_bytes().into(),
        event: Some(index),
        due: None,
    };
    store
        .commit(make.commit().event(make.event(&["other"], "before")))
        .await?;
    let events = ["zero", "one", "two"].map(|body| make.event(&["turn", "session"], body));
    let [zero, one, two] = events.clone();
    let commit = make
        .commit()
        .row(with_event("second", 1))
        .row(with_event("first", 0))
        .row(put(key("none"), "none"))
        .event(zero)
        .event(one)
        .event(two);
    let committed = store.commit(commit).await?;
    store
        .commit(make.commit().event(make.event(&["turn"], "after")))
        .await?;

    let rows = read_rows(&*store, &RowQuery::space("law"), 10).await?;
    ensure_eq!(rows.len(), 3, "rows");
    for row in &rows {
        ensure_eq!(
            store.row(&row.key).await?.as_ref(),
            Some(row),
            "one row and a page of rows"
        );
        let index = match &*row.key.name {
            "first" => 0,
            "second" => 1,
            _ => {
                ensure!(row.event.is_none(), "a row put without an event has one");
                continue;
            }
        };
        ensure!(row.event.is_some(), "{} has no event", row.key.name);
        if let Some(event) = &row.event {
            ensure_eq!(event.id, events[index].id, "the event of {}", row.key.name);
            ensure_eq!(event.body, events[index].body, "the body of the event");
            ensure_eq!(
                event.places,
                committed.places[index],
                "the places of the event"
            );
            ensure_eq!(
                event.position.0,
                committed.positions.start + index as u64,
                "the position of the event"
            );
        }
    }
    // Putting the row again without an event lets go of it.
    store
        .commit(make.commit().row(put(key("first"), "x")))
        .await?;
    let row = store.row(&key("first")).await?;
    ensure!(
        row.is_some_and(|row| row.event.is_none() && row.version == 2),
        "a row put again keeps its old event"
    );
    Ok(())
}
