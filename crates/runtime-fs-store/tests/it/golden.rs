//! The format on disk (R16): stores written by every version so far open and read byte-equal, and
//! the same commits still make the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use runtime_core::Timestamp;
use runtime_fs_store::{CleanOptions, FsStore, FsStoreOptions, verify};
use runtime_store::{Commit, Guard, Page, Position, Removal, RowQuery, Store};

use crate::support::{all_events, body, commit, commit_id, number, numbers, options, stream};

const COMMITS: u64 = 20;
const V1: [&str; 3] = ["format", "keys", "segments/0000000001.log"];
const V2: [&str; 5] = [
    "format",
    "keys",
    "segments/0000000001.base",
    "segments/0000000002.log",
    "segments/0000000003.log",
];

const V3: [&str; 8] = [
    "format",
    "keys",
    "segments/0000000001.base",
    "segments/0000000002.log",
    "segments/0000000003.log",
    "segments/0000000004.log",
    "checkpoints/0000000003.checkpoint",
    "checkpoints/0000000002.log.sidecar",
];

fn golden(version: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden").join(version)
}

fn copy_golden(version: &str, files: &[&str], options: &FsStoreOptions) {
    for name in ["segments", "attachments", "inbox", "aside", "checkpoints"] {
        fs::create_dir_all(options.directory.join(name)).unwrap();
    }
    for name in files {
        fs::copy(golden(version).join(name), options.directory.join(name)).unwrap();
    }
}

/// Two halves, of which the first is pruned and condensed, and one worker's events are erased.
async fn write(options: &FsStoreOptions) {
    let store = FsStore::open(options).unwrap();
    let remove = |number: u64, removal| {
        Commit::new(commit_id(number), Timestamp::from_millis(number)).remove(removal)
    };
    for number in 0..COMMITS {
        store.commit(commit(number)).await.unwrap();
    }
    let clean = CleanOptions::default();
    store.clean(clean, |_| ()).await.unwrap();
    for number in COMMITS..2 * COMMITS {
        store.commit(commit(number)).await.unwrap();
    }
    let erase = Removal::Stream(stream("worker/1"));
    store.commit(remove(1_000, erase)).await.unwrap();
    let through = Removal::Through(Position(COMMITS));
    store.commit(remove(1_001, through)).await.unwrap();
    store.clean(clean, |_| ()).await.unwrap();
    store.close().await.unwrap();
}

/// The store of version 1 opens, and says what was written.
#[tokio::test]
async fn r16_the_golden_store_opens_and_reads_byte_equal() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 99);
    copy_golden("v1", &V1, &options);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    assert!(store.report().closed_in_order);
    assert_eq!(numbers(&store).await, (0..COMMITS).collect::<Vec<_>>());
    for (number, event) in (0..).zip(all_events(&store).await) {
        assert_eq!(&*event.body, body(number));
        let row = store.committed(&commit(number).id).await.unwrap();
        assert_eq!(row.unwrap().positions, number + 1..number + 2);
    }
    let rows = store.rows(RowQuery::space("state"), Page::after(None, 100));
    for row in rows.await.unwrap().rows {
        assert_eq!(row.event.unwrap().body[..8], *row.body);
    }
    // What version 1 wrote is cleaned as far as it can be, and nothing is lost by it.
    store.commit(commit(500)).await.unwrap();
    let cleaned = store.clean(CleanOptions::default(), |_| ()).await;
    cleaned.unwrap();
    assert_eq!(numbers(&store).await.len() as u64, COMMITS + 1);
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
}

/// The store of version 2, with a base and stubs, opens and says what was written.
#[tokio::test]
async fn r16_the_golden_store_with_a_base_opens_and_reads_byte_equal() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 99);
    copy_golden("v2", &V2, &options);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    let events = all_events(&store).await;
    assert_eq!(events.len() as u64, COMMITS);
    for (at, event) in (COMMITS..).zip(&events) {
        assert_eq!(event.position, Position(at + 1));
        assert_eq!(event.erased, at % 4 == 1);
        assert!(event.erased || (number(event) == at && *event.body == body(at)));
    }
    for number in 0..2 * COMMITS {
        assert!(store.commit(commit(number)).await.unwrap().repeated);
    }
    let rows = store.rows(RowQuery::space("state"), Page::after(None, 100));
    let rows = rows.await.unwrap().rows;
    assert_eq!(rows.len(), 16);
    for row in rows {
        let event = row.event.unwrap();
        assert!(event.erased || event.body[..8] == *row.body);
    }
}

/// The same commits make the bytes of version 2; a change of the format needs a new version.
#[tokio::test]
async fn r16_the_format_has_not_changed() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 16);
    write(&options).await;
    for name in V2 {
        let written = fs::read(options.directory.join(name)).unwrap();
        let target = golden("v2").join(name);
        if std::env::var_os("FS_STORE_WRITE_GOLDEN").is_some() {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(&target, &written).unwrap();
        }
        assert_eq!(written, fs::read(target).unwrap(), "{name}");
    }
}

/// Version 2 with a checkpoint on top, and some more.
async fn write_with_checkpoint(options: &FsStoreOptions) {
    write(options).await;
    let store = FsStore::open(options).unwrap();
    store.checkpoint().await.unwrap();
    store.commit(commit(2 * COMMITS)).await.unwrap();
    store.close().await.unwrap();
}

/// The same commits make the bytes of version 3, which version 2 with a checkpoint is.
#[tokio::test]
async fn r16_the_format_of_checkpoints_has_not_changed() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 16);
    write_with_checkpoint(&options).await;
    for name in V3 {
        let written = fs::read(options.directory.join(name)).unwrap();
        let target = golden("v3").join(name);
        if std::env::var_os("FS_STORE_WRITE_GOLDEN").is_some() {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(&target, &written).unwrap();
        }
        assert_eq!(written, fs::read(target).unwrap(), "{name}");
    }
}

/// The store of version 3 opens from its checkpoint and says what was written.
#[tokio::test]
async fn r16_the_golden_store_with_a_checkpoint_opens_and_reads_byte_equal() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 99);
    copy_golden("v3", &V3, &options);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    assert_eq!(store.report().unusable_checkpoints, [""; 0]);
    assert_eq!(store.report().commits, 1, "the rest is in the checkpoint");
    let events = all_events(&store).await;
    assert_eq!(events.len() as u64, COMMITS + 1);
    for (at, event) in (COMMITS..).zip(&events) {
        assert_eq!(event.position, Position(at + 1));
        assert_eq!(event.erased, at % 4 == 1);
        assert!(event.erased || (number(event) == at && *event.body == body(at)));
    }
    let rows = store.rows(RowQuery::space("state"), Page::after(None, 100));
    assert_eq!(rows.await.unwrap().rows.len(), 16);
    assert!(store.commit(commit(3)).await.unwrap().repeated);
}

/// Rows of version 1, whose puts do not say their version, have it all the same, and a cleaning
/// keeps them whatever was pruned.
#[tokio::test]
async fn r16_the_rows_of_the_first_version_outlive_pruning_and_cleaning() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 98);
    copy_golden("v1", &V1, &options);
    let mut store = FsStore::open(&options).unwrap();
    for step in ["as it was", "cleaned", "opened again"] {
        if step == "cleaned" {
            let through = Removal::Through(Position(COMMITS));
            let time = Timestamp::from_millis(1_000);
            let prune = Commit::new(commit_id(1_000), time).remove(through);
            store.commit(prune).await.unwrap();
            let clean = store.clean(CleanOptions::default(), |_| ()).await;
            clean.unwrap();
        }
        if step == "opened again" {
            drop(store);
            store = FsStore::open(&options).unwrap();
        }
        let rows = store.rows(RowQuery::space("state"), Page::after(None, 100));
        let rows = rows.await.unwrap().rows.into_iter();
        let mut rows: Vec<_> = rows
            .map(|row| {
                let written = u64::from_be_bytes((*row.body).try_into().unwrap());
                assert_eq!(row.event.unwrap().body[..8], *row.body, "{step}");
                (written, row.version)
            })
            .collect();
        rows.sort_unstable();
        // The first four were put again by the last four commits.
        let once = (4..16).map(|number| (number, 1));
        let twice = (16..COMMITS).map(|number| (number, 2));
        assert_eq!(rows, once.chain(twice).collect::<Vec<_>>(), "{step}");
    }
}

/// V1: version 1 did not write the versions of rows. They are counted, so that a guard holds and
/// the next put goes on.
#[tokio::test]
async fn r16_rows_of_the_first_version_have_counted_versions() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 99);
    copy_golden("v1", &V1, &options);
    let store = FsStore::open(&options).unwrap();
    let rows = store.rows(RowQuery::space("state"), Page::after(None, 100));
    let rows = rows.await.unwrap().rows;
    assert_eq!(rows.len(), 16);
    for row in rows {
        // The first four were put once more after the sixteenth.
        let name: u64 = row.key.name.parse().unwrap();
        let version = if name < COMMITS - 16 { 2 } else { 1 };
        assert_eq!(row.version, version, "{name}");
        let guarded = commit(100 + 12 + name).guard(Guard::Version(row.key.clone(), version));
        store.commit(guarded).await.unwrap();
        let found = store.row(&row.key).await.unwrap();
        assert_eq!(found.unwrap().version, version + 1, "{name}");
    }
}
