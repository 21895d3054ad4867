//! What stands in the directory of a store: which files are its own, how long they are, and what
//! a base keeps of those it has taken the place of (S1, S4, S6).

use std::fs;

use runtime_core::{Classified, Tier};
use runtime_fs_store::{FsLimits, FsStore, FsStoreOptions, export, holder, import, verify};
use runtime_store::{Commit, KeyRingStore, Position, Removal, RowChange, RowKey, Seq, Store};

use crate::care::{CANARY, clean, fill, holds_canary, removal, small, told, write};
use crate::support::{commit, in_memory, numbers, options, scope, segment, stream};

const SEGMENT_HEADER_BYTES: u64 = 64;

fn length(options: &FsStoreOptions, number: u32) -> u64 {
    fs::metadata(segment(options, number)).unwrap().len()
}

/// A commit whose frame is as long as that of any other.
fn even(number: u64) -> Commit {
    let mut commit = commit(number);
    commit.rows.clear();
    commit.events[0].body = [7; 2_000].into();
    commit
}

/// Measures what a commit takes in the log, and where the first one ends.
async fn measured() -> (u64, u64) {
    let parent = in_memory();
    let store = FsStore::open(&options(parent.path(), 1)).unwrap();
    let opened = store.written().bytes;
    store.commit(even(0)).await.unwrap();
    let written = store.written().bytes;
    (written - opened, SEGMENT_HEADER_BYTES + written)
}

fn with_limits(options: FsStoreOptions, fs_limits: FsLimits) -> FsStoreOptions {
    FsStoreOptions {
        fs_limits,
        ..options
    }
}

/// S1: a file with almost the name of a segment or a base is none: it is named, not read, and not
/// removed by a cleaning.
#[tokio::test]
async fn s1_files_that_only_look_like_the_log_are_foreign() {
    let parent = in_memory();
    let options = small(parent.path(), 111);
    write(&options, 0..60).await;
    let foreign = [
        "0000000000.base",
        "0000000000.log",
        "1.base",
        "1.log",
        "2147483648.base",
        "2147483648.log",
        "2147483649.base",
        "3.log",
    ]
    .map(|name| format!("segments/{name}"));
    for name in &foreign {
        fs::write(options.directory.join(name), b"mine").unwrap();
    }
    assert_eq!(verify(&options.directory).unwrap().foreign, foreign);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().foreign, foreign);
    assert_eq!(numbers(&store).await, (0..60).collect::<Vec<_>>());
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    drop(store);
    drop(FsStore::open(&options).unwrap());
    for name in &foreign {
        let left = fs::read(options.directory.join(name)).unwrap();
        assert_eq!(left, b"mine", "{name}");
    }
}

/// S1: a directory that has lost its identity is no place for a new store, also when all that is
/// left of the log is a base and a segment that nothing was written to yet.
#[tokio::test]
async fn s1_no_store_is_made_over_a_base_without_its_identity() {
    let parent = in_memory();
    let options = small(parent.path(), 112);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..60).await;
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    drop(store);
    let segments = options.directory.join("segments");
    let entries = fs::read_dir(&segments).unwrap();
    let logs = entries.map(Result::unwrap);
    let logs = logs.filter(|entry| entry.path().extension().unwrap() == "log");
    let logs: Vec<u64> = logs.map(|entry| entry.metadata().unwrap().len()).collect();
    assert_eq!(logs, [SEGMENT_HEADER_BYTES]);
    fs::remove_file(options.directory.join("format")).unwrap();
    let refused = FsStore::open(&options).unwrap_err();
    assert_eq!(refused.code(), "store_missing");
    let refused = FsStore::open_read_only(&options).unwrap_err();
    assert_eq!(refused.code(), "store_missing");
}

/// S1: who holds a store is not asked through a symlink.
#[test]
fn s1_nobody_is_told_to_hold_a_store_whose_lock_cannot_be_read() {
    let parent = in_memory();
    let options = options(parent.path(), 113);
    assert_eq!(holder(&options.directory).unwrap(), None, "no store");
    drop(FsStore::open(&options).unwrap());
    assert_eq!(holder(&options.directory).unwrap(), None);
    let lock = options.directory.join("lock");
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&lock, &elsewhere).unwrap();
    std::os::unix::fs::symlink(elsewhere, lock).unwrap();
    let refused = holder(&options.directory).unwrap_err();
    assert_eq!(refused.code(), "store_symlink");
}

/// S3, S4: a segment is filled ahead again when its frames have reached what filled it, by commits
/// of up to a sixteenth of that, and by no larger ones.
#[tokio::test]
async fn s4_a_segment_is_filled_ahead_again_by_what_is_small_beside_it() {
    let (frame, first_end) = measured().await;
    for (fill_bytes, ahead) in [(16 * frame, 16), (16 * frame - 1, 0)] {
        let parent = in_memory();
        let limits = FsLimits {
            fill_bytes,
            ..FsLimits::default()
        };
        let options = with_limits(options(parent.path(), 114), limits);
        let store = FsStore::open(&options).unwrap();
        for number in 0..40 {
            store.commit(even(number)).await.unwrap();
            let end = first_end + number * frame;
            let left = ahead * frame - ahead.min(number % 17) * frame;
            assert_eq!(length(&options, 1), end + left, "commit {number}");
        }
        let before = store.written().syncs;
        store.close().await.unwrap();
        assert_eq!(store.written().syncs, before + 1, "of the last mark");
    }
}

/// S4: a segment that has reached its size is full.
#[tokio::test]
async fn s4_a_segment_of_its_size_is_full() {
    let (_, first_end) = measured().await;
    for (size, is_full) in [(first_end, true), (first_end + 1, false)] {
        let parent = in_memory();
        let limits = FsLimits {
            segment_bytes_first: size,
            segment_bytes_max: size,
            ..FsLimits::default()
        };
        let options = with_limits(options(parent.path(), 115), limits);
        let store = FsStore::open(&options).unwrap();
        store.commit(even(0)).await.unwrap();
        assert!(!segment(&options, 2).exists());
        store.commit(even(1)).await.unwrap();
        assert_eq!(segment(&options, 2).exists(), is_full);
    }
}

/// V6: whatever the machine did meanwhile, positions that were synced are there, so the lineage
/// stays; also that of a store that was closed at tier Crash.
#[tokio::test]
async fn v6_the_lineage_stays_where_nothing_can_be_lost() {
    for (tier, closes) in [
        (Tier::Crash, true),
        (Tier::Power, true),
        (Tier::Power, false),
    ] {
        let parent = in_memory();
        let options = options(parent.path(), 116).tier(tier);
        let store = FsStore::open(&options).unwrap();
        let lineage = store.identity().lineage.clone();
        fill(&store, 0..3).await;
        if closes {
            store.close().await.unwrap();
        }
        drop(store);
        let lock = options.directory.join("lock");
        let signed = fs::read_to_string(&lock).unwrap();
        fs::write(&lock, signed.replace("\"boot\":\"", "\"boot\":\"other-")).unwrap();
        let store = FsStore::open(&options).unwrap();
        let report = store.report();
        assert!(!report.lineage_renewed, "{tier}, closed: {closes}");
        assert_eq!(store.identity().lineage, lineage);
        assert_eq!((report.commits, report.events), (3, 3));
        // The marks of the opening and of the closing are frames too.
        assert_eq!(report.frames, if closes { 5 } else { 4 });
    }
}

/// S6, V4: a stream goes on where it was when all of its events are pruned and cleaned.
#[tokio::test]
async fn s6_a_stream_without_events_goes_on_after_a_cleaning() {
    let parent = in_memory();
    let options = small(parent.path(), 117);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..60).await;
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(numbers(&store).await, [0_u64; 0]);
    // The last event of worker 1 was that of commit 57.
    let committed = store.commit(commit(61)).await.unwrap();
    let places = committed.places[0].iter();
    let places = places.map(|place| (place.stream.clone(), place.seq, place.previous));
    let expected = [
        (stream("worker/1"), Seq(16), Position(58)),
        (stream("session/all"), Seq(61), Position(60)),
    ];
    assert_eq!(places.collect::<Vec<_>>(), expected);
}

/// S6: an event that a base keeps for a row loses its body when its stream is erased.
#[tokio::test]
async fn s6_erasing_reaches_what_a_base_keeps() {
    let parent = in_memory();
    let options = small(parent.path(), 118);
    let store = FsStore::open(&options).unwrap();
    let key = RowKey::new("state", scope("turn/kept/1"), "row");
    let mut doomed = commit(1_000);
    doomed.events[0].streams = vec![stream("session/doomed")];
    doomed.events[0].body = CANARY.into();
    doomed.rows = vec![RowChange::Put {
        key: key.clone(),
        body: (*b"its own").into(),
        event: Some(0),
        due: None,
    }];
    store.commit(doomed).await.unwrap();
    fill(&store, 0..60).await;
    let through = Removal::Through(Position(30));
    store.commit(removal(10_000, through)).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    let holding = holds_canary(&options.directory);
    assert!(
        matches!(&holding[..], [path] if path.ends_with(".base")),
        "{holding:?}"
    );
    let erase = Removal::Stream(stream("session/doomed"));
    store.commit(removal(10_001, erase)).await.unwrap();
    assert_eq!(clean(&store).await.segments_removed, 0);
    assert_eq!(holds_canary(&options.directory), [""; 0]);
    let before = told(&store, 0..60).await;
    store.close().await.unwrap();
    drop(store);
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(told(&store, 0..60).await, before);
    let row = store.row(&key).await.unwrap().unwrap();
    assert_eq!(*row.body, *b"its own");
    assert!(row.event.unwrap().erased);
}

/// E12, S7: tokens of the exported store are valid in its copy where its keys are given too, and
/// only there.
#[tokio::test]
async fn s7_an_import_keeps_the_keys_that_it_is_given() {
    let parent = in_memory();
    let from = options(parent.path(), 119);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..3).await;
    let keys = store.rotate_key_ring().await.unwrap();
    assert_eq!(keys.keys.len(), 2);
    let mut lines = Vec::new();
    export(&from.directory, &mut lines, &mut |_| ()).unwrap();
    for given in [Some(&keys), None] {
        let other = in_memory();
        let to = options(other.path(), 120);
        import(&mut &lines[..], &to, given, &mut |_| ()).unwrap();
        let copy = FsStore::open(&to).unwrap();
        let found = copy.key_ring().await.unwrap();
        assert_eq!(found == keys, given.is_some());
        assert_eq!(numbers(&copy).await, [0, 1, 2]);
    }
}

/// V1: a commit that is not remembered any more is told from a new one, however the log is read.
#[tokio::test]
async fn v1_what_was_forgotten_is_too_old_after_a_checkpoint_and_a_cleaning() {
    for step in ["the log", "a checkpoint", "a cleaning"] {
        let parent = in_memory();
        let mut options = small(parent.path(), 121);
        options.limits.remembered_commits = 4;
        let store = FsStore::open(&options).unwrap();
        fill(&store, 1..60).await;
        match step {
            "a checkpoint" => store.checkpoint().await.unwrap(),
            "a cleaning" => {
                let through = Removal::Through(Position(59));
                store.commit(removal(10_000, through)).await.unwrap();
                assert!(clean(&store).await.segments_removed > 0);
            }
            _ => {}
        }
        drop(store);
        let store = FsStore::open(&options).unwrap();
        let refused = store.commit(commit(2)).await.unwrap_err();
        assert_eq!(refused.code(), "commit_too_old", "{step}");
        assert!(store.commit(commit(59)).await.unwrap().repeated, "{step}");
    }
}

/// S1: a base alone is something that would be lost, too; nothing is written over its store's keys.
#[tokio::test]
async fn s1_no_store_is_made_over_a_base_alone() {
    let parent = in_memory();
    let options = small(parent.path(), 122);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..60).await;
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    drop(store);
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.extension().unwrap() == "log" {
            fs::remove_file(path).unwrap();
        }
    }
    fs::remove_file(options.directory.join("format")).unwrap();
    let keys = fs::read(options.directory.join("keys")).unwrap();
    let refused = FsStore::open(&options).unwrap_err();
    assert_eq!(
        fs::read(options.directory.join("keys")).unwrap(),
        keys,
        "{refused}"
    );
    assert!(!options.directory.join("format").exists());
}
