//! What an import keeps beside events and rows, and what it says of commits that were forgotten
//! (S7).

use std::path::Path;
use std::time::Duration;

use runtime_core::Timestamp;
use runtime_fs_store::{FsStore, FsStoreOptions, export, import};
use runtime_store::{
    AttachmentStore, CommitError, Page, Position, Removal, RetentionUnit, RowChange, RowKey, Seq,
    Store,
};
use serde_json::Value;

use crate::care::{fill, removal, rows, small};
use crate::support::{all_events, commit, in_memory, options, scope, stream};

/// The lines of an export.
pub(crate) fn exported(options: &FsStoreOptions) -> Vec<Value> {
    let mut lines = Vec::new();
    export(&options.directory, &mut lines, &mut |_| ()).unwrap();
    let lines = serde_json::Deserializer::from_slice(&lines).into_iter();
    lines.map(Result::unwrap).collect()
}

/// A store that is made of lines, in a new directory inside of `parent`.
fn imported(parent: &Path, name: &str, lines: &[Value]) -> FsStore {
    let directory = parent.join(name);
    std::fs::create_dir(&directory).unwrap();
    let to = options(&directory, 2);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    import(&mut text.as_bytes(), &to, None, &mut |_| ()).unwrap();
    let store = FsStore::open(&to).unwrap();
    assert_eq!(store.report().damage, []);
    store
}

async fn newest(store: &FsStore) -> Option<Timestamp> {
    let units = store.retention_units(Page::after(Position(0), 256)).await;
    let units: Vec<RetentionUnit> = units.unwrap();
    units.into_iter().map(|unit| unit.newest).max()
}

/// S7, V1, V9: whether its commits are remembered or not, an event is as old in the copy as it was,
/// so that retention by age removes no young one; and a commit that was forgotten is not taken a
/// second time.
#[tokio::test]
async fn s7_an_import_knows_the_age_of_events_and_what_was_forgotten() {
    let parent = in_memory();
    let from = options(parent.path(), 1);
    let store = FsStore::open(&from).unwrap();
    let young = |number: u64| Timestamp::from_millis(1_000_000 - number);
    for number in 10..20 {
        let mut commit = commit(number);
        commit.rows.clear();
        // The first ones are the youngest.
        commit.time = young(number);
        store.commit(commit).await.unwrap();
    }
    let again = || {
        let mut again = commit(12);
        again.rows.clear();
        again
    };
    let mut lines = exported(&from);
    for (name, forgotten) in [("all", 0), ("some", 5)] {
        for _ in 0..forgotten {
            let first = lines.iter().position(|line| line["type"] == "commit");
            lines.remove(first.unwrap());
        }
        let end = lines.len() - 1;
        lines[end]["lines"] = end.into();
        let copy = imported(parent.path(), name, &lines);
        assert_eq!(all_events(&copy).await, all_events(&store).await, "{name}");
        assert_eq!(newest(&copy).await, Some(young(10)), "{name}");
        match (forgotten, copy.commit(again()).await) {
            (0, Ok(committed)) => assert!(committed.repeated && committed.positions == (3..4)),
            (5, Err(CommitError::TooOld { id })) => assert_eq!(id, again().id),
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
}

/// S7, E18, V1: streams without an event go on with their numbers, attachments that rows hold stay,
/// and a commit that nobody has made yet is not called forgotten for either.
#[tokio::test]
async fn s7_an_import_keeps_what_no_event_tells() {
    let parent = in_memory();
    let from = small(parent.path(), 1);
    let store = FsStore::open(&from).unwrap();
    let held = store.put_attachment((*b"held").into()).await.unwrap();
    let mut of_row = commit(10);
    of_row.events[0].streams = vec![stream("turn/a/1")];
    let key = RowKey::new("state", scope("turn/b/1"), "row");
    of_row.rows = vec![RowChange::put(key, *b"body")];
    of_row.attachments = vec![held];
    store.commit(of_row).await.unwrap();
    for number in 11..15 {
        let mut commit = commit(number);
        commit.rows.clear();
        store.commit(commit).await.unwrap();
    }
    let through = Removal::Through(Position(2));
    store.commit(removal(20, through)).await.unwrap();

    let copy = imported(parent.path(), "copy", &exported(&from));
    assert_eq!(rows(&copy).await, rows(&store).await);
    for store in [&store, &copy] {
        let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
        assert_eq!(swept.unwrap(), 0, "its row is there");
        assert_eq!(&*store.attachment(&held).await.unwrap(), b"held");
        // Older than all that is remembered.
        let mut next = commit(3);
        next.events[0].streams = vec![stream("turn/a/1")];
        let next = store.commit(next).await.unwrap();
        assert!(!next.repeated);
        assert_eq!(next.positions, 6..7);
        assert_eq!(next.places[0][0].seq, Seq(2));
        assert_eq!(next.places[0][0].previous, Position(1));
    }
}

/// S7: a store that has rows and no event can be copied too.
#[tokio::test]
async fn s7_a_store_of_rows_alone_can_be_imported() {
    let parent = in_memory();
    let from = options(parent.path(), 1);
    let store = FsStore::open(&from).unwrap();
    for number in 0..4 {
        let mut commit = commit(number);
        commit.events.clear();
        let key = RowKey::new("state", scope("worker/1"), format!("{number}"));
        commit.rows = vec![RowChange::put(key, *b"body")];
        store.commit(commit).await.unwrap();
    }
    let copy = imported(parent.path(), "copy", &exported(&from));
    assert_eq!(rows(&copy).await, rows(&store).await);
    assert_eq!(rows(&copy).await.len(), 4);
    fill(&copy, 10..12).await;
    assert_eq!(all_events(&copy).await[0].position, Position(1));
}
