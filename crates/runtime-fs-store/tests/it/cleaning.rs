//! What a cleaning keeps of what it frees, what it leaves alone, and what it says of it (S6).

use std::fs;
use std::path::Path;
use std::time::Duration;

use runtime_core::Timestamp;
use runtime_fs_store::{FsStore, FsStoreOptions, verify};
use runtime_store::{AttachmentStore, Commit, Position, Removal, RowChange, RowKey, Seq, Store};

use crate::care::{clean, fill, removal, rows, segment_bytes, write};
use crate::support::{all_events, commit, commit_id, in_memory, options, scope, segment, stream};

const EVERYTHING: Removal = Removal::Through(Position(u64::MAX));

fn base(options: &FsStoreOptions, number: u32) -> std::path::PathBuf {
    options
        .directory
        .join(format!("segments/{number:010}.base"))
}

/// S6: a segment goes with its last event, not with the one after it.
#[tokio::test]
async fn s6_a_segment_is_freed_once_its_last_event_is_pruned() {
    let parent = in_memory();
    let options = options(parent.path(), 110);
    let store = FsStore::open(&options).unwrap();
    for first in [0, 10] {
        fill(&store, first..first + 10).await;
        // What comes after it stands in another segment.
        clean(&store).await;
    }
    let through = |number, last| removal(number, Removal::Through(Position(last)));
    store.commit(through(10_000, 9)).await.unwrap();
    assert_eq!(clean(&store).await.segments_removed, 0);
    store.commit(through(10_001, 10)).await.unwrap();
    assert_eq!(clean(&store).await.segments_removed, 1);
    assert!(!segment(&options, 1).exists() && base(&options, 1).exists());
    assert!(segment(&options, 2).exists());
    assert_eq!(all_events(&store).await.len(), 10);
}

/// S6, V1, E18: a row, a commit that is remembered, the end of a stream, and an attachment that is
/// named for an owner outlive the segments that they were written to.
#[tokio::test]
async fn s6_what_is_alive_outlives_its_segment() {
    let parent = in_memory();
    let mut options = options(parent.path(), 111);
    options.limits.remembered_commits = 3;
    let mut store = FsStore::open(&options).unwrap();
    let held = store.put_attachment((*b"held").into()).await.unwrap();
    // Its row stays, and it is forgotten.
    let mut early = commit(1);
    early.attachments = vec![held];
    let key = match &early.rows[0] {
        RowChange::Put { key, .. } => key.clone(),
        other => panic!("{other:?}"),
    };
    store.commit(early).await.unwrap();
    let alone = RowKey::new("state", scope("desk"), "without an event");
    let put = RowChange::put(alone.clone(), *b"row");
    let time = Timestamp::from_millis(2);
    let without_event = Commit::new(commit_id(2), time).row(put);
    store.commit(without_event).await.unwrap();
    let event_of = |number: u64, name: &str| {
        let mut event = commit(number);
        event.rows.clear();
        event.events[0].streams = vec![stream(name)];
        event
    };
    store.commit(event_of(3, "turn/a/1")).await.unwrap();
    fill(&store, 4..17).await;
    // It is remembered, and has no row.
    let last = event_of(20, "turn/b/1");
    let answered = store.commit(last.clone()).await.unwrap();
    let read = async |store: &FsStore| {
        let (with, without) = (store.row(&key).await, store.row(&alone).await);
        (
            with.unwrap().expect("a row"),
            without.unwrap().expect("a row"),
        )
    };
    let expected = read(&store).await;
    store.commit(removal(100, EVERYTHING)).await.unwrap();
    let report = clean(&store).await;
    assert_eq!(report.segments_removed, 1, "{report:?}");

    for reopened in [false, true] {
        if reopened {
            store.close().await.unwrap();
            drop(store);
            store = FsStore::open(&options).unwrap();
            assert_eq!(store.report().damage, []);
        }
        assert_eq!(read(&store).await, expected, "reopened: {reopened}");
        let again = store.commit(last.clone()).await.unwrap();
        assert!(again.repeated, "reopened: {reopened}");
        assert_eq!(
            (&again.positions, &again.places),
            (&answered.positions, &answered.places)
        );
        let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
        assert_eq!(swept.unwrap(), 0, "reopened: {reopened}");
    }
    assert_eq!(&*store.attachment(&held).await.unwrap(), b"held");
    let goes_on = store.commit(event_of(200, "turn/a/1")).await.unwrap();
    let place = &goes_on.places[0][0];
    assert_eq!((place.seq, place.previous), (Seq(2), Position(2)));
}

/// S6, R16: a row of the first format does not say its version, so it stays where it is.
#[tokio::test]
async fn s6_a_row_of_the_first_format_is_not_lost_by_a_cleaning() {
    let parent = in_memory();
    let options = options(parent.path(), 99);
    for name in ["segments", "attachments", "inbox", "aside"] {
        fs::create_dir_all(options.directory.join(name)).unwrap();
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    for name in ["format", "keys", "segments/0000000001.log"] {
        fs::copy(golden.join(name), options.directory.join(name)).unwrap();
    }
    let store = FsStore::open(&options).unwrap();
    let expected = rows(&store).await;
    assert_eq!(expected.len(), 16);
    store.commit(removal(10_000, EVERYTHING)).await.unwrap();
    let report = clean(&store).await;
    assert_eq!(report.segments_removed, 0, "{report:?}");
    assert_eq!(rows(&store).await, expected);
    store.close().await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(rows(&store).await, expected);
}

/// S4, S6: a file that has become damaged under an open store stays where it is, for a repair or a
/// copy; what comes before it is freed all the same.
#[tokio::test]
async fn s4_a_cleaning_leaves_a_damaged_file_where_it_is() {
    type Damage = fn(&mut Vec<u8>);
    let flip_header: Damage = |bytes| bytes[20] ^= 1;
    let flip_payload: Damage = |bytes| {
        let at = bytes.len() - 64;
        bytes[at] ^= 1;
    };
    let cut: Damage = |bytes| bytes.truncate(bytes.len() - 8);
    for (what, number, damage) in [
        ("a flipped header", 1, flip_header),
        ("a flipped payload", 2, flip_payload),
        ("a cut file", 2, cut),
    ] {
        let parent = in_memory();
        let options = options(parent.path(), 112);
        let store = FsStore::open(&options).unwrap();
        for first in [0, 5, 10] {
            fill(&store, first..first + 5).await;
            clean(&store).await;
        }
        store.commit(removal(10_000, EVERYTHING)).await.unwrap();
        let path = segment(&options, number);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();

        let report = clean(&store).await;
        assert_eq!(report.segments_removed, u64::from(number) - 1, "{what}");
        assert_eq!(fs::read(&path).unwrap().len(), bytes.len(), "{what}");
        assert!(segment(&options, 3).exists(), "{what}");
        store.close().await.unwrap();
        assert_ne!(verify(&options.directory).unwrap().damage, [], "{what}");
    }
}

/// S6: a tail that was cut takes no room in its segment any more, and the cleaning says so.
#[tokio::test]
async fn s6_the_room_of_a_cut_tail_is_freed_and_counted() {
    let parent = in_memory();
    let options = options(parent.path(), 113);
    write(&options, 0..5).await;
    let mut torn = fs::read(segment(&options, 1)).unwrap();
    torn.extend([7; 1_000]);
    fs::write(segment(&options, 1), torn).unwrap();
    let store = FsStore::open(&options).unwrap();
    let cut = store.report().cut.as_ref().expect("it was cut").bytes;
    assert_eq!(cut, 1_000);
    let report = clean(&store).await;
    assert_eq!(report.segments_rewritten, 1);
    assert_eq!(report.bytes_before - report.bytes_after, cut);
    // The segment that is written to has a header only.
    assert_eq!(report.bytes_after, segment_bytes(&options) - 64);
    assert_eq!(all_events(&store).await.len(), 5);
}
