//! What is told once only a checkpoint knows it (S6), and when one is written.

use std::fs;
use std::time::Duration;

use runtime_core::{Tier, Timestamp};
use runtime_fs_store::{FsStore, FsStoreOptions, verify};
use runtime_store::{
    AttachmentStore, Commit, CommitError, Guard, Page, Position, RowChange, RowKey, RowQuery, Seq,
    Store,
};

use crate::care::{clean, fill, small};
use crate::support::{commit, commit_id, in_memory, options, scope, stream};

fn at(number: u64) -> Commit {
    Commit::new(commit_id(number), Timestamp::from_millis(number))
}

/// Writes a checkpoint of everything and opens the store from it.
async fn from_checkpoint(store: FsStore, options: &FsStoreOptions) -> FsStore {
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = FsStore::open(options).unwrap();
    assert_eq!(store.report().commits, 0, "all of it is in the checkpoint");
    store
}

/// The names of the rows that a query finds after a row, walked with pages of some length.
async fn found(
    store: &FsStore,
    query: &RowQuery,
    after: Option<&RowKey>,
    limit: usize,
) -> Vec<String> {
    let mut names = Vec::new();
    let mut after = after.cloned();
    loop {
        let page = store
            .rows(query.clone(), Page::after(after, limit))
            .await
            .unwrap();
        let rows = page.rows.iter();
        names.extend(rows.map(|row| format!("{}/{}", row.key.scope, row.key.name)));
        after = page.next;
        if after.is_none() {
            return names;
        }
    }
}

/// S6: a page over a checkpoint begins at the first row that is asked for, whatever lies before it
/// and however it was named, and ends at the last.
#[tokio::test]
async fn s6_pages_over_a_checkpoint_begin_and_end_as_they_do_over_the_log() {
    let parent = in_memory();
    let options = options(parent.path(), 140);
    let store = FsStore::open(&options).unwrap();
    let key = |space: &str, owner: &str, name: &str| RowKey::new(space, scope(owner), name);
    let rows = [
        (key("alpha", "worker/1", "a"), Some(5)),
        // The least of all keys, due at the beginning of time.
        (key("state", " ", ""), Some(0)),
        (key("state", "worker/1", "a"), Some(10)),
        (key("state", "worker/1", "ab"), Some(10)),
        (key("state", "worker/1", "b"), None),
        (key("state", "worker/2", "a"), Some(11)),
        (key("state", "worker/3", "a"), Some(99)),
        (key("zeta", "worker/1", "a"), Some(5)),
    ];
    let mut all = at(1);
    for (key, due) in rows {
        all = all.row(RowChange::Put {
            key,
            body: (*b"row").into(),
            event: None,
            due: due.map(Timestamp::from_millis),
        });
    }
    store.commit(all).await.unwrap();
    let due = |space: &str| RowQuery::Due {
        space: space.into(),
        until: Timestamp::from_millis(20),
    };
    let starting = |name: &str| RowQuery::Prefix {
        space: "state".into(),
        scope: Some(scope("worker/1")),
        name: name.into(),
    };
    let second = || RowQuery::scope("state", scope("worker/2"));
    let first_of_all = key("alpha", "worker/1", "a");
    let earlier_owner = key("state", "worker/1", "a");
    let asked: [(RowQuery, Option<&RowKey>, &[&str]); 10] = [
        (due("alpha"), None, &["worker/1/a"]),
        (
            due("state"),
            None,
            &[" /", "worker/1/a", "worker/1/ab", "worker/2/a"],
        ),
        (
            due("state"),
            Some(&earlier_owner),
            &["worker/1/ab", "worker/2/a"],
        ),
        (due("zeta"), None, &["worker/1/a"]),
        (due("nothing"), None, &[]),
        (starting("a"), None, &["worker/1/a", "worker/1/ab"]),
        (starting("a"), Some(&earlier_owner), &["worker/1/ab"]),
        (second(), Some(&earlier_owner), &["worker/2/a"]),
        (second(), Some(&first_of_all), &["worker/2/a"]),
        (
            RowQuery::space("state"),
            Some(&first_of_all),
            &[
                " /",
                "worker/1/a",
                "worker/1/ab",
                "worker/1/b",
                "worker/2/a",
                "worker/3/a",
            ],
        ),
    ];
    let mut store = store;
    for over_checkpoint in [false, true] {
        if over_checkpoint {
            store = from_checkpoint(store, &options).await;
        }
        for (query, after, expected) in &asked {
            for limit in [1, 2, 100] {
                assert_eq!(
                    found(&store, query, *after, limit).await,
                    *expected,
                    "{query:?} after {after:?}, over a checkpoint: {over_checkpoint}"
                );
            }
        }
    }
}

/// E18, S6: an owner holds what was named for it as long as it has any of its rows, not only the
/// first that a checkpoint has of it.
#[tokio::test]
async fn e18_an_owner_holds_its_attachments_while_it_has_any_row() {
    let parent = in_memory();
    let options = options(parent.path(), 141);
    let store = FsStore::open(&options).unwrap();
    let held = store.put_attachment((*b"held").into()).await.unwrap();
    let key = |name: &str| RowKey::new("state", scope("turn/a/1"), name);
    let mut both = at(1);
    for name in ["first", "second"] {
        both = both.row(RowChange::put(key(name), *b"row"));
    }
    both.attachments = vec![held];
    store.commit(both).await.unwrap();
    let store = from_checkpoint(store, &options).await;
    for (number, name, expected) in [(2, "first", 0), (3, "second", 1)] {
        let delete = at(number).row(RowChange::Delete(key(name)));
        store.commit(delete).await.unwrap();
        let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
        assert_eq!(swept.unwrap(), expected, "without the {name}");
    }
}

/// V1, S6: a commit that was forgotten before a checkpoint is refused after it, and one that never
/// happened is taken.
#[tokio::test]
async fn v1_a_checkpoint_knows_whether_anything_was_forgotten() {
    for (remembered, forgets) in [(3, true), (100, false)] {
        let parent = in_memory();
        let mut options = options(parent.path(), 142);
        options.limits.remembered_commits = remembered;
        let store = FsStore::open(&options).unwrap();
        fill(&store, 10..20).await;
        let store = from_checkpoint(store, &options).await;
        let old = store.commit(commit(9)).await;
        match forgets {
            true => assert!(matches!(old, Err(CommitError::TooOld { .. })), "{old:?}"),
            false => assert_eq!(old.unwrap().positions, 11..12),
        }
    }
}

/// S6: streams that begin between two checkpoints, before and after the others by name, are in the
/// later one where they belong.
#[tokio::test]
async fn s6_streams_that_begin_after_a_checkpoint_are_in_the_next() {
    let parent = in_memory();
    let options = options(parent.path(), 143);
    let store = FsStore::open(&options).unwrap();
    let event_of = |number: u64, name: &str| {
        let mut event = commit(number);
        event.events[0].streams = vec![stream(name)];
        event
    };
    for (number, name) in [(1, "turn/e"), (2, "turn/m")] {
        store.commit(event_of(number, name)).await.unwrap();
    }
    store.checkpoint().await.unwrap();
    let later = ["turn/a", "turn/f", "turn/m", "turn/z"];
    for (number, name) in (3..).zip(later) {
        store.commit(event_of(number, name)).await.unwrap();
    }
    let store = from_checkpoint(store, &options).await;
    for (number, (name, events)) in (100..).zip([
        ("turn/a", &[3][..]),
        ("turn/e", &[1]),
        ("turn/f", &[4]),
        ("turn/m", &[2, 5]),
        ("turn/z", &[6]),
    ]) {
        let key = stream(name);
        let page = Page::after(Position(0), 10);
        let page = store.events(Some(&key), page).await.unwrap();
        let found: Vec<u64> = page.events.iter().map(|event| event.position.0).collect();
        assert_eq!(found, events, "{name}");
        let head = Guard::Head(key, Seq(events.len() as u64));
        store.commit(at(number).guard(head)).await.unwrap();
    }
}

/// V6, S6: where the opening that acknowledged without a sync is only in a checkpoint, it is known
/// all the same that a loss of power may have taken something; at tier Power it has not.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn v6_a_checkpoint_knows_what_its_tier_may_have_lost() {
    for (tier, may_have_lost) in [(Tier::Crash, true), (Tier::Power, false)] {
        let parent = in_memory();
        let options = options(parent.path(), 144).tier(tier);
        let store = FsStore::open(&options).unwrap();
        store.commit(commit(1)).await.unwrap();
        store.checkpoint().await.unwrap();
        drop(store);
        let lock = options.directory.join("lock");
        let signed = fs::read_to_string(&lock).unwrap();
        fs::write(&lock, signed.replace("\"boot\":\"", "\"boot\":\"other-")).unwrap();
        let store = FsStore::open(&options).unwrap();
        let report = store.report();
        assert_eq!((report.frames, report.commits), (0, 0), "{tier:?}");
        assert!(!report.closed_in_order, "{tier:?}");
        assert_eq!(report.lineage_renewed, may_have_lost, "{tier:?}");
    }
}

/// S4, S6: an instance that begins at a checkpoint counts its incarnation on from there, so that
/// whoever reads the log without it finds every frame.
#[tokio::test]
async fn s4_incarnations_go_on_after_a_checkpoint() {
    let parent = in_memory();
    let options = options(parent.path(), 145);
    for number in 1..4 {
        let store = FsStore::open(&options).unwrap();
        store.commit(commit(number)).await.unwrap();
        store.close().await.unwrap();
    }
    let store = FsStore::open(&options).unwrap();
    store.checkpoint().await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().frames, 0, "it begins at the checkpoint");
    store.commit(commit(4)).await.unwrap();
    store.close().await.unwrap();
    let read = verify(&options.directory).unwrap();
    assert_eq!((read.damage, read.commits), (vec![], 4));
    // Five openings, four ends in order, four commits.
    assert_eq!(read.frames, 13);
}

/// The number of the latest checkpoint.
fn latest(options: &FsStoreOptions) -> Option<u32> {
    let entries = fs::read_dir(options.directory.join("checkpoints")).ok()?;
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbers = names.filter_map(|name| name.strip_suffix(".checkpoint")?.parse().ok());
    numbers.max()
}

/// S6: a large checkpoint is written only for as much log as it is large, however little was asked
/// for, so that writing them costs no more than writing the log.
#[tokio::test]
async fn s6_a_large_checkpoint_is_not_written_for_a_small_log() {
    let parent = in_memory();
    let mut options = small(parent.path(), 146);
    options.fs_limits.checkpoint_bytes = 1;
    let store = FsStore::open(&options).unwrap();
    // With an event, so that its segment is not free.
    let mut large = commit(1);
    for number in 0..300 {
        let name = format!("{number:0>300}");
        let key = RowKey::new("state", scope("worker/1"), name);
        large = large.row(RowChange::put(key, *b"row"));
    }
    store.commit(large).await.unwrap();
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let written = latest(&options).expect("it was asked for");
    for round in 1..5 {
        let store = FsStore::open(&options).unwrap();
        fill(&store, round * 30..(round + 1) * 30).await;
        // Nothing is to be cleaned, but segments are sealed.
        clean(&store).await;
        store.close().await.unwrap();
        drop(store);
        assert_eq!(latest(&options), Some(written), "in round {round}");
    }
}

/// S6: what is in a checkpoint does not count for the next one.
#[tokio::test]
async fn s6_what_a_checkpoint_holds_is_not_counted_for_the_next() {
    let parent = in_memory();
    let mut options = options(parent.path(), 147);
    options.fs_limits.checkpoint_bytes = 12 * 1024;
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..60).await;
    let length = fs::metadata(crate::support::segment(&options, 1)).unwrap();
    assert!(length.len() > 12 * 1024);
    store.checkpoint().await.unwrap();
    assert_eq!(latest(&options), Some(1));
    for number in 60..66 {
        store.commit(commit(number)).await.unwrap();
        // It begins a new segment.
        clean(&store).await;
    }
    store.close().await.unwrap();
    assert_eq!(latest(&options), Some(1));
}
