//! Pages of rows, of events, of retention units: they skip nothing, repeat nothing and end where
//! nothing follows, over a checkpoint and without one, and say what of them is damaged.

use std::fs;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use runtime_core::{EventId, Timestamp};
use runtime_fs_store::{Damage, FsStore, FsStoreOptions, verify};
use runtime_store::{
    Commit, Limits, NewEvent, Page, Position, ReadError, RowChange, RowKey, RowQuery, Store,
};

use crate::care::{fill, small};
use crate::support::{
    body, commit, commit_id, in_memory, number, options, random, scope, segment, stream,
};

/// What became of rows, by name: in the checkpoint (`c`), and since then deleted (`d`) or put once
/// more (`o`); or new since (`n`).
const FATES: [&str; 11] = [
    "cccccc",
    "nnnnnn",
    "dddddd",
    "dddcccnnnn",
    "ddddddcnnn",
    "nnnccc",
    "cccddd",
    "cdcdcdcn",
    "ococnono",
    "dodndcdcon",
    "ddddccccccddddnnnn",
];

fn name(index: usize) -> String {
    format!("{index:02}")
}

fn row(pattern: usize, index: usize) -> RowKey {
    RowKey::new(&format!("fate-{pattern}"), scope("worker/1"), name(index))
}

/// A row whose time is the later the earlier its name is.
fn put(pattern: usize, index: usize) -> RowChange {
    let time = u64::try_from(100 - index).unwrap();
    RowChange::Put {
        key: row(pattern, index),
        body: name(index).into_bytes().into(),
        event: None,
        due: Some(Timestamp::from_millis(time)),
    }
}

/// The names of the rows of a query, page by page.
async fn paged(store: &FsStore, query: &RowQuery, limit: usize) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = Page::after(after, limit);
        let page = store.rows(query.clone(), page).await.unwrap();
        let names = page.rows.iter().map(|row| row.key.name.to_string());
        pages.push(names.collect());
        after = page.next;
        if after.is_none() {
            return pages;
        }
    }
}

fn in_pages(names: &[String], limit: usize) -> Vec<Vec<String>> {
    match names {
        [] => vec![Vec::new()],
        names => names.chunks(limit).map(<[String]>::to_vec).collect(),
    }
}

/// S6: rows that were deleted since the checkpoint hide none that come after them, and new ones
/// come in their order: each page is full but the last.
#[tokio::test]
async fn s6_pages_of_rows_over_a_checkpoint_are_whole_whatever_changed_since() {
    let parent = in_memory();
    let store = FsStore::open(&options(parent.path(), 101)).unwrap();
    let mut before = Commit::new(commit_id(1), Timestamp::from_millis(1));
    let mut since = Commit::new(commit_id(2), Timestamp::from_millis(2));
    for (pattern, fates) in FATES.iter().enumerate() {
        for (index, fate) in fates.chars().enumerate() {
            if fate != 'n' {
                before = before.row(put(pattern, index));
            }
            since = match fate {
                'd' => since.row(RowChange::Delete(row(pattern, index))),
                'o' | 'n' => since.row(put(pattern, index)),
                _ => since,
            };
        }
    }
    store.commit(before).await.unwrap();
    store.checkpoint().await.unwrap();
    store.commit(since).await.unwrap();
    for (pattern, fates) in FATES.iter().enumerate() {
        let there = fates.char_indices().filter(|(_, fate)| *fate != 'd');
        let by_name: Vec<String> = there.map(|(index, _)| name(index)).collect();
        let by_time: Vec<String> = by_name.iter().rev().cloned().collect();
        let space = format!("fate-{pattern}");
        let due = RowQuery::Due {
            space: Arc::from(&*space),
            until: Timestamp::from_millis(100),
        };
        for limit in 1..=4 {
            for (query, names) in [(RowQuery::space(&space), &by_name), (due.clone(), &by_time)] {
                assert_eq!(
                    paged(&store, &query, limit).await,
                    in_pages(names, limit),
                    "{fates}, {limit} at a time, {query:?}"
                );
            }
        }
    }
}

/// A query finds its rows wherever the caller goes on from, be it before the first of them.
#[tokio::test]
async fn a_page_after_a_key_before_the_first_row_begins_with_the_first() {
    let parent = in_memory();
    let store = FsStore::open(&options(parent.path(), 102)).unwrap();
    fill(&store, 0..16).await;
    let query = RowQuery::scope("state", scope("worker/2"));
    for is_in_checkpoint in [false, true] {
        for before in ["worker/1", "worker/2"] {
            let after = RowKey::new("state", scope(before), "");
            let page = Page::after(Some(after), 10);
            let page = store.rows(query.clone(), page).await.unwrap();
            let names: Vec<&str> = page.rows.iter().map(|row| &*row.key.name).collect();
            assert_eq!(
                names,
                ["10", "14", "2", "6"],
                "after {before}, {is_in_checkpoint}"
            );
        }
        store.checkpoint().await.unwrap();
    }
}

/// S6: a checkpoint of many blocks is looked into at the right one.
#[tokio::test]
async fn s6_each_of_many_rows_of_a_checkpoint_is_found() {
    const ROWS: usize = 400;
    let parent = in_memory();
    let store = FsStore::open(&options(parent.path(), 103)).unwrap();
    let put_all = Commit::new(commit_id(1), Timestamp::from_millis(1));
    let put_all = (0..ROWS).fold(put_all, |commit, index| {
        let key = RowKey::new("state", scope("worker/1"), format!("{index:04}"));
        commit.row(RowChange::put(key, index.to_le_bytes()))
    });
    store.commit(put_all).await.unwrap();
    store.checkpoint().await.unwrap();
    for index in 0..ROWS {
        let key = RowKey::new("state", scope("worker/1"), format!("{index:04}"));
        let row = store.row(&key).await.unwrap().expect("it was put");
        assert_eq!(*row.body, index.to_le_bytes());
        let beside_it = RowKey::new("state", scope("worker/1"), format!("{index:04}-"));
        assert_eq!(store.row(&beside_it).await.unwrap(), None);
    }
}

/// The commit of so many events from a position on, all of one stream and some of another.
fn events(first: u64, count: u64, is_rare: impl Fn(u64) -> bool) -> Commit {
    let time = Timestamp::from_millis(first);
    (first..first + count).fold(Commit::new(commit_id(first), time), |commit, number| {
        let mut streams = vec![stream("session/all")];
        if is_rare(number) {
            streams.push(stream("session/rare"));
        }
        commit.event(NewEvent {
            id: EventId::generate(time, random(number)),
            streams,
            closes: false,
            body: body(number).into(),
        })
    })
}

/// Reads the log, or a stream, in pages of so many; returns the positions.
async fn positions(store: &FsStore, of: Option<&str>, limit: usize) -> Vec<u64> {
    let key = of.map(stream);
    let mut positions = Vec::new();
    let mut after = Position(0);
    loop {
        let page = Page::after(after, limit);
        let page = store.events(key.as_ref(), page).await.unwrap();
        for event in page.events {
            assert_eq!(number(&event), event.position.0, "its own body");
            positions.push(event.position.0);
        }
        after = page.next;
        if !page.has_more {
            return positions;
        }
    }
}

/// S6: segments with more events than one block of a sidecar: pages that cross from one into
/// another, streams that leave some out, pages longer than an entry; and damage in a later block
/// is found by verifying and changes nothing.
#[tokio::test]
async fn s6_events_are_found_through_sidecars_of_many_blocks() {
    const FIRST: u64 = 600;
    const LAST: u64 = FIRST + 1_200;
    // The same place in each block of the second segment.
    let is_rare = |position: u64| position > FIRST && (position - FIRST - 1).is_multiple_of(512);
    let parent = in_memory();
    let options = FsStoreOptions {
        limits: Limits {
            page_entries_max: 2_000,
            ..Limits::default()
        },
        ..options(parent.path(), 104)
    };
    let store = FsStore::open(&options).unwrap();
    for first in (1..=LAST).step_by(100) {
        store.commit(events(first, 100, is_rare)).await.unwrap();
        if first + 99 == FIRST {
            store.checkpoint().await.unwrap();
        }
    }
    store.checkpoint().await.unwrap();
    let all: Vec<u64> = (1..=LAST).collect();
    let rare: Vec<u64> = all.iter().copied().filter(|at| is_rare(*at)).collect();
    assert_eq!(rare, [601, 1_113, 1_625]);
    for limit in [100, 300, 1_000] {
        assert_eq!(positions(&store, None, limit).await, all, "{limit}");
        let session = positions(&store, Some("session/all"), limit).await;
        assert_eq!(session, all, "{limit}");
    }
    assert_eq!(positions(&store, Some("session/rare"), 100).await, rare);
    store.close().await.unwrap();
    drop(store);

    // Behind the header and the first block of 512 events, each with its checksum.
    let later_block = 128 + 4_096 + 4 + 100;
    let name = "checkpoints/0000000001.log.sidecar";
    let sidecar = options.directory.join(name);
    let mut bytes = fs::read(&sidecar).unwrap();
    bytes[later_block] ^= 1;
    fs::write(&sidecar, bytes).unwrap();
    let damage = verify(&options.directory).unwrap().damage;
    let file = name.to_owned();
    assert_eq!(damage, [Damage::Cache { file }]);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(positions(&store, None, 300).await, all);
}

/// S4: whoever meets damage in a stream is told which positions it may be at, from where the
/// reader is, and can read on behind it.
#[tokio::test]
async fn s4_damage_in_a_stream_is_told_by_its_positions() {
    let parent = in_memory();
    let options = options(parent.path(), 105);
    let store = FsStore::open(&options).unwrap();
    // The position of each is its number.
    fill(&store, 1..10).await;
    store.close().await.unwrap();
    drop(store);
    flip(&options, &body(5));
    let store = FsStore::open(&options).unwrap();
    for (of, after, expected) in [
        (Some("session/all"), 4, "events at positions 5 to 5"),
        (Some("worker/1"), 1, "events at positions 2 to 5"),
        (Some("worker/1"), 3, "events at positions 4 to 5"),
        (None, 4, "events at positions 5 to 5"),
    ] {
        let key = of.map(stream);
        let page = Page::after(Position(after), 10);
        let read = store.events(key.as_ref(), page).await;
        let Err(error @ ReadError::CorruptEvents { .. }) = read else {
            panic!("{of:?} after {after}: {read:?}");
        };
        let told = format!("damaged: {expected}");
        assert_eq!(error.to_string(), told, "{of:?} after {after}");
        // Whoever is behind the last event that is lost has missed none.
        for after in 5..9 {
            let page = Page::after(Position(after), 10);
            let rest = store.events(key.as_ref(), page).await.unwrap();
            assert_eq!(rest.events.last().unwrap().position, Position(9));
        }
    }
}

/// Flips a bit of something that stands once in the first segment.
fn flip(options: &FsStoreOptions, what: &[u8]) {
    let path = segment(options, 1);
    let mut bytes = fs::read(&path).unwrap();
    let found: Vec<usize> = bytes
        .windows(what.len())
        .enumerate()
        .filter_map(|(at, bytes)| (bytes == what).then_some(at))
        .collect();
    let [at] = found[..] else {
        panic!("it stands at {found:?}");
    };
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// S4: damage that came after opening is told with the file and the place that are to be put back.
#[tokio::test]
async fn s4_damage_since_opening_is_told_by_its_file() {
    let parent = in_memory();
    let options = options(parent.path(), 106);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 1..4).await;
    let of_row = RowChange::put(
        RowKey::new("state", scope("turn/a/1"), "row"),
        *b"a row's body",
    );
    let commit = Commit::new(commit_id(4), Timestamp::from_millis(4)).row(of_row);
    store.commit(commit).await.unwrap();
    flip(&options, &body(2));
    flip(&options, b"a row's body");
    let page = Page::after(Position(1), 10);
    let told = store.events(None, page).await.unwrap_err().to_string();
    let event = "damaged: events at positions 2 to 2 (0000000001.log byte ";
    assert!(told.starts_with(event), "{told}");
    let key = RowKey::new("state", scope("turn/a/1"), "row");
    let what = store.row(&key).await.unwrap_err().to_string();
    let row = "damaged: row state turn/a/1 row (0000000001.log byte ";
    assert!(what.starts_with(row), "{what}");
}

/// S4: damage that came after opening, or that a checkpoint does not know of, hides nothing that is
/// whole before it: the page ends there, the next one says where, and reading goes on behind it.
#[tokio::test]
async fn s4_damage_since_opening_hides_nothing_that_is_whole() {
    for is_in_checkpoint in [false, true] {
        let parent = in_memory();
        let options = options(parent.path(), 109);
        let store = FsStore::open(&options).unwrap();
        // The position of each is its number.
        fill(&store, 1..7).await;
        if is_in_checkpoint {
            store.checkpoint().await.unwrap();
        }
        flip(&options, &body(3));
        for of in [None, Some("session/all")] {
            let key = of.map(stream);
            let read = async |after| {
                let page = Page::after(Position(after), 100);
                let page = store.events(key.as_ref(), page).await?;
                let found = page.events.iter().map(|event| event.position.0);
                Ok::<_, ReadError>((found.collect::<Vec<_>>(), page.has_more, page.next.0))
            };
            assert_eq!(read(0).await.unwrap(), (vec![1, 2], true, 2), "{of:?}");
            let told = read(2).await.unwrap_err().to_string();
            let event = "damaged: events at positions 3 to 3 (0000000001.log byte ";
            assert!(told.starts_with(event), "{told}");
            let rest = (vec![4, 5, 6], false, 6);
            assert_eq!(read(3).await.unwrap(), rest, "{of:?}");
        }
    }
}

/// S6: retention can be paged through: each segment once, in pages within the bounds of the store.
#[tokio::test]
async fn s6_retention_units_come_once_each_in_pages() {
    let parent = in_memory();
    let options = FsStoreOptions {
        limits: Limits {
            page_entries_max: 4,
            ..Limits::default()
        },
        ..small(parent.path(), 107)
    };
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..150).await;
    for is_in_checkpoint in [false, true] {
        let mut units = Vec::new();
        let mut after = Position(0);
        loop {
            let page = store.retention_units(Page::after(after, 1)).await.unwrap();
            let Some(unit) = page.first() else {
                break;
            };
            assert!(unit.last > after, "{unit:?} after {after:?}");
            assert_eq!(unit.events, unit.last.0 - after.0, "{is_in_checkpoint}");
            after = unit.last;
            units.extend(page);
        }
        assert!(units.len() > 4 && after == Position(150), "{units:?}");
        let page = store.retention_units(Page::after(Position(0), 100)).await;
        assert_eq!(page.unwrap(), units[..4]);
        // From within a unit on only the rest of it counts.
        let within = Position(units[1].last.0 - 1);
        let page = store.retention_units(Page::after(within, 1)).await.unwrap();
        assert_eq!((page[0].last, page[0].events), (units[1].last, 1));
        let refused = store.retention_units(Page::after(Position(0), 0)).await;
        assert!(matches!(refused, Err(ReadError::LimitZero)), "{refused:?}");
        store.checkpoint().await.unwrap();
    }
}

/// S8: whoever has read everything, with the writer or beside it, is woken by what is new, and by
/// nothing else.
#[tokio::test]
async fn s8_a_reader_who_has_read_everything_waits_for_what_is_new() {
    let parent = in_memory();
    let options = options(parent.path(), 108);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 1..4).await;
    let beside = FsStore::open_read_only(&options).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    for reader in [&store, &beside] {
        let mut waiting = pin!(reader.changed(Position(3)));
        let found = waiting.as_mut().poll(&mut context);
        assert_eq!(found, Poll::Pending);
        assert_eq!(reader.changed(Position(2)).await, Position(3));
    }
    store.commit(commit(4)).await.unwrap();
    for reader in [&store, &beside] {
        assert_eq!(reader.changed(Position(3)).await, Position(4));
    }
}
