//! Opening, locking, reading beside the writer, permissions (S1, S7, S8, R8).

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, CommitId, RuntimeId, Tier, Timestamp};
use runtime_fs_store::{
    Damage, FsLimits, FsStore, FsStoreOptions, OpenError, OpenReport, backup, holder, repair,
    submit_command, verify,
};
use runtime_store::{
    AttachmentStore, Commit, CommitError, KeyRingStore, Page, Position, RowChange, RowKey, Store,
    SystemRandom,
};
use runtime_testkit::SimulatedClock;

use crate::support::{all_events, commit, commit_id, numbers, options, print_row, scope, segment};

const SEGMENT_HEADER_BYTES: u64 = 64;

/// S1: opening and closing again and again changes neither identity nor contents.
#[tokio::test]
async fn s1_opening_again_finds_the_same_store() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    assert!(store.report().created);
    let identity = store.identity().clone();
    store.commit(commit(1)).await.unwrap();
    store.close().await.unwrap();
    for _ in 0..5 {
        let store = FsStore::open(&options).unwrap();
        assert_eq!(store.identity(), &identity);
        assert!(store.report().closed_in_order && !store.report().created);
        assert_eq!(store.report().cut, None);
        assert_eq!(numbers(&store).await, [1]);
        store.close().await.unwrap();
        store.close().await.unwrap();
    }
}

/// S3: at tier Power every group is synced; a refused or repeated commit is none.
#[tokio::test]
async fn s3_what_was_written_is_counted() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let before = store.written();
    for number in [1, 2, 2] {
        store.commit(commit(number)).await.unwrap();
    }
    let after = store.written();
    assert_eq!((before.commits, after.commits), (0, 2));
    assert_eq!(after.groups, 2);
    assert_eq!(after.syncs - before.syncs, 2);
    assert!(after.bytes > before.bytes);
    let beside = FsStore::open_read_only(&options).unwrap();
    assert_eq!(beside.written(), runtime_fs_store::WriteCounts::default());
}

/// U3: dropping without closing loses nothing, and the next opening knows of it.
#[tokio::test]
async fn s1_a_store_dropped_without_close_is_reported() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(1)).await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert!(!store.report().closed_in_order);
    assert_eq!(numbers(&store).await, [1]);
}

/// S4, V6: a log that was cut below what was published is damage, not a quiet torn tail.
#[tokio::test]
async fn s4_a_log_that_ends_before_what_was_published_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let whole = {
        store.commit(commit(1)).await.unwrap();
        SEGMENT_HEADER_BYTES + store.written().bytes
    };
    store.commit(commit(2)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let file = fs::File::options().write(true).open(segment(&options, 1));
    file.unwrap().set_len(whole).unwrap();

    let told = |report: &OpenReport| {
        let lost = |damage: &Damage| matches!(damage, Damage::LostTail { published: 2, .. });
        report.damage.iter().any(lost)
    };
    assert!(told(&verify(&options.directory).unwrap()));
    let store = FsStore::open(&options).unwrap();
    assert!(told(store.report()) && store.report().lineage_renewed);
    assert_eq!(numbers(&store).await, [1]);
}

/// S1: one directory, one runtime.
#[test]
fn s1_another_runtime_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1).runtime("mine".parse().unwrap());
    drop(FsStore::open(&options).unwrap());
    let other = options.clone().runtime("other".parse().unwrap());
    let refused = FsStore::open(&other).unwrap_err();
    assert_eq!(refused.code(), "store_wrong_runtime");
    let refused = FsStore::open_read_only(&other).unwrap_err();
    assert_eq!(refused.code(), "store_wrong_runtime");
    assert_eq!(
        FsStore::open(&options).unwrap().identity().runtime.as_str(),
        "mine"
    );
}

/// R8: of two that open at once one wins, the other is told who holds it.
#[test]
fn r8_two_openers_race_and_one_wins() {
    let started = std::time::Instant::now();
    let mut races = 0;
    for seed in 0..200 {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), seed);
        let start = std::sync::Barrier::new(2);
        let results: Vec<_> = std::thread::scope(|threads| {
            let open = || {
                start.wait();
                FsStore::open(&options)
            };
            let threads = [threads.spawn(open), threads.spawn(open)];
            threads.map(|thread| thread.join().unwrap()).into()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1));
        match lost.into_iter().next().unwrap().unwrap_err() {
            OpenError::Busy {
                holder: Some(holder),
                ..
            } => assert_eq!(holder.pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(won);
        FsStore::open(&options).unwrap();
        races += 1;
    }
    assert_eq!(races, 200);
    print_row("R8", races, started);
}

/// R8: a killed holder's lock is free. The holder is another process of this test binary.
#[test]
fn r8_the_lock_of_a_killed_process_is_free() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    if let Some(directory) = std::env::var_os("FS_STORE_HOLD") {
        let options = FsStoreOptions::new(directory);
        let _store = FsStore::open(&options).unwrap();
        loop {
            std::thread::park();
        }
    }
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::r8_the_lock_of_a_killed_process_is_free"])
        .env("FS_STORE_HOLD", &options.directory)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = holder.id();
    let held = loop {
        match FsStore::open_read_only(&options) {
            Ok(_) => match FsStore::open(&options) {
                Err(busy) => break busy,
                Ok(_) => std::thread::yield_now(),
            },
            Err(_) => std::thread::yield_now(),
        }
    };
    holder.kill().unwrap();
    holder.wait().unwrap();
    match held {
        OpenError::Busy {
            holder: Some(found),
            ..
        } => assert_eq!(found.pid, pid),
        other => panic!("{other:?}"),
    }
    FsStore::open(&options).unwrap();
}

/// S8: a read-only store sees what the writer has acknowledged, follows it over segments, and
/// writes nothing.
#[tokio::test]
async fn s8_a_reader_follows_the_writer() {
    let parent = tempfile::tempdir().unwrap();
    let options = FsStoreOptions {
        fs_limits: FsLimits {
            segment_bytes_first: 4096,
            segment_bytes_max: 8192,
            ..FsLimits::default()
        },
        ..options(parent.path(), 1)
    };
    let writer = FsStore::open(&options).unwrap();
    let reader = FsStore::open_read_only(&options).unwrap();
    for number in 0..200 {
        writer.commit(commit(number)).await.unwrap();
        let page = reader
            .events(None, Page::after(Position(0), 1))
            .await
            .unwrap();
        assert_eq!(page.head, Position(number + 1));
    }
    assert!(
        segment(&options, 4).exists(),
        "it rolled over several segments"
    );
    assert_eq!(all_events(&reader).await, all_events(&writer).await);
    let late = FsStore::open_read_only(&options).unwrap();
    assert_eq!(all_events(&late).await, all_events(&writer).await);
    assert_eq!(
        reader.committed(&commit_id(150)).await.unwrap(),
        writer.committed(&commit_id(150)).await.unwrap()
    );
    let refused = reader.commit(commit(1_000)).await;
    assert!(matches!(refused, Err(CommitError::ReadOnly { .. })));
    assert!(reader.put_attachment((*b"x").into()).await.is_err());
    assert!(reader.inbox().is_none());
    // Without a writer and without its hint, everything that a mark covers is there.
    writer.close().await.unwrap();
    fs::remove_file(options.directory.join("durable")).unwrap();
    let alone = FsStore::open_read_only(&options).unwrap();
    assert_eq!(numbers(&alone).await, (0..200).collect::<Vec<_>>());
    let reopened = FsStore::open(&options).unwrap();
    assert_eq!(numbers(&reopened).await, (0..200).collect::<Vec<_>>());
}

/// S8: a reader that waits sees growth after one interval of its clock.
#[tokio::test(flavor = "multi_thread")]
async fn s8_a_waiting_reader_wakes() {
    let parent = tempfile::tempdir().unwrap();
    let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(0)));
    let options = FsStoreOptions {
        clock: Arc::clone(&clock) as _,
        ..options(parent.path(), 1)
    };
    let writer = FsStore::open(&FsStoreOptions {
        clock: Arc::new(SimulatedClock::new(Timestamp::from_millis(0))),
        ..options.clone()
    })
    .unwrap();
    let reader = Arc::new(FsStore::open_read_only(&options).unwrap());
    let waiting = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.changed(Position(0)).await }
    });
    while clock.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    writer.commit(commit(1)).await.unwrap();
    clock.advance(Duration::from_millis(100));
    assert_eq!(waiting.await.unwrap(), Position(1));
}

/// S4, S7: a segment is filled ahead while it is written to. A killed store goes on in what it has
/// filled, as if nothing were there; a closed one has given it back.
#[tokio::test]
async fn s4_what_is_filled_ahead_is_no_tail() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let length = || fs::metadata(segment(&options, 1)).unwrap().len();
    let mut written = SEGMENT_HEADER_BYTES;
    // Opening writes again what no mark covers (S5): the frame of the life before.
    let mut again = 0;
    for life in 0..3 {
        let store = FsStore::open(&options).unwrap();
        let opening = store.written().bytes;
        store.commit(commit(life)).await.unwrap();
        written += store.written().bytes - again;
        again = store.written().bytes - opening;
        drop(store);
        let bounds = written + 1..=written + options.fs_limits.fill_bytes;
        assert!(bounds.contains(&length()), "{} of {written}", length());
        let report = verify(&options.directory).unwrap();
        assert_eq!((report.cut, report.damage), (None, Vec::new()));
    }
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().cut, None);
    assert_eq!(numbers(&store).await, [0, 1, 2]);
    store.close().await.unwrap();
    assert_eq!(length(), written + store.written().bytes - again);
    assert!(!segment(&options, 2).exists(), "nothing was cut");
}

/// S4: anything else in what is filled ahead is a torn tail, a page of zeros too; it is kept aside
/// without what fills the rest.
#[tokio::test]
async fn s4_a_page_of_zeros_in_what_is_filled_ahead_is_a_tail() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(1)).await.unwrap();
    let end = SEGMENT_HEADER_BYTES + store.written().bytes;
    drop(store);
    let file = fs::File::options().write(true).open(segment(&options, 1));
    file.unwrap().write_all_at(&[0; 4096], 8192).unwrap();

    let store = FsStore::open(&options).unwrap();
    let cut = store.report().cut.clone().unwrap();
    assert_eq!((cut.offset, cut.bytes), (end, 8192 + 4096 - end));
    let kept = fs::metadata(options.directory.join(cut.kept_as.unwrap())).unwrap();
    assert_eq!(kept.len(), cut.bytes);
    assert_eq!(numbers(&store).await, [1]);
    store.commit(commit(2)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(
        numbers(&FsStore::open(&options).unwrap()).await,
        [1, 2],
        "it goes on in the next segment"
    );
}

/// S4: after a while without a commit a mark is written, so a store at rest has no ambiguous tail.
#[tokio::test(flavor = "multi_thread")]
async fn s4_an_idle_store_writes_a_mark() {
    let parent = tempfile::tempdir().unwrap();
    let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(0)));
    let options = FsStoreOptions {
        clock: Arc::clone(&clock) as _,
        ..options(parent.path(), 1)
    };
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(1)).await.unwrap();
    let before = store.written().bytes;
    while clock.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(1));
    while store.written().bytes == before {
        tokio::task::yield_now().await;
    }
    // Only one: the store is at rest.
    clock.advance(Duration::from_secs(5));
    assert_eq!(clock.waiting(), 0);
    assert_eq!(store.written().bytes, before + 64);
}

/// S3: the other tier takes commits without a sync and keeps them over a kill.
#[tokio::test]
async fn s3_the_crash_tier_is_stated_and_works() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1).tier(Tier::Crash);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.capabilities().tier, Tier::Crash);
    for number in 0..100 {
        store.commit(commit(number)).await.unwrap();
    }
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(numbers(&store).await, (0..100).collect::<Vec<_>>());
    let refused = FsStore::open(&options.clone().tier(Tier::Replicated)).unwrap_err();
    assert_eq!(refused.code(), "store_tier_unsupported");
}

/// V6: a process that ends loses nothing of the page cache, so the lineage stays; the machine may.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn v6_the_crash_tier_renews_its_lineage_only_after_the_machine_started_again() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1).tier(Tier::Crash);
    let store = FsStore::open(&options).unwrap();
    let lineage = store.identity().lineage.clone();
    store.commit(commit(1)).await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.identity().lineage, lineage);
    drop(store);
    let lock = options.directory.join("lock");
    let signed = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, signed.replace("\"boot\":\"", "\"boot\":\"other-")).unwrap();
    let store = FsStore::open(&options).unwrap();
    assert!(store.report().lineage_renewed);
    assert_ne!(store.identity().lineage, lineage);
    assert_eq!(numbers(&store).await, [1]);
}

/// V6: what the machine may have lost when it started again is not forgotten because somebody tried
/// to open the store in between, or repaired it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn v6_a_failed_opening_does_not_hide_that_the_machine_started_again() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1).tier(Tier::Crash);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(1)).await.unwrap();
    drop(store);
    let lock = options.directory.join("lock");
    let signed = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, signed.replace("\"boot\":\"", "\"boot\":\"other-")).unwrap();
    let other = options.clone().runtime(RuntimeId::new("another").unwrap());
    let refused = FsStore::open(&other).unwrap_err();
    assert_eq!(refused.code(), "store_wrong_runtime");
    repair(&options, true).unwrap();
    let store = FsStore::open(&options).unwrap();
    assert!(store.report().lineage_renewed);
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert!(!store.report().lineage_renewed, "once is enough");
}

/// V1: the ids of events are remembered with the commits they came with, and no longer; opening
/// again remembers the same.
#[tokio::test]
async fn v1_event_ids_are_forgotten_with_their_commits() {
    let parent = tempfile::tempdir().unwrap();
    let mut options = options(parent.path(), 1);
    options.limits.remembered_commits = 4;
    let again = |number, event| {
        let mut again = commit(number);
        again.events[0].id = commit(event).events[0].id;
        again
    };
    let store = FsStore::open(&options).unwrap();
    for number in 1..10 {
        store.commit(commit(number)).await.unwrap();
    }
    let refused = store.commit(again(20, 6)).await.unwrap_err();
    assert_eq!(refused.code(), "commit_different_content");
    drop(store);
    let store = FsStore::open(&options).unwrap();
    let refused = store.commit(again(20, 6)).await.unwrap_err();
    assert_eq!(refused.code(), "commit_different_content");
    store.commit(again(21, 5)).await.unwrap();
}

/// V1: a clock that stands still gives every commit one time; none is taken for a forgotten one.
#[tokio::test]
async fn v1_a_clock_that_stands_still_makes_no_commit_too_old() {
    let parent = tempfile::tempdir().unwrap();
    let mut options = options(parent.path(), 1);
    options.limits.remembered_commits = 4;
    let store = FsStore::open(&options).unwrap();
    for number in 1..20_u8 {
        let mut commit = commit(number.into());
        commit.id = CommitId::generate(Timestamp::from_millis(7), [number; 10]);
        store.commit(commit).await.unwrap();
    }
}

/// S7: directories 0700, files 0600.
#[tokio::test]
async fn s7_nobody_else_can_read_it() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(1)).await.unwrap();
    store.put_attachment((*b"attached").into()).await.unwrap();
    store.rotate_key_ring().await.unwrap();
    submit_command(&options.directory, commit_id(2), b"x").unwrap();
    let mut seen = 0;
    let mut waiting = vec![options.directory.clone()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.permissions().mode() & 0o777, expected, "{path:?}");
        if metadata.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        seen += 1;
    }
    assert!(seen >= 12, "only {seen} files were looked at");
}

/// S7: a symlink anywhere in the store is refused.
#[test]
fn s7_symlinks_are_refused() {
    for name in [
        "format",
        "lock",
        "segments",
        "inbox",
        "checkpoints",
        "segments/0000000001.log",
        "keys",
    ] {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), 1);
        drop(FsStore::open(&options).unwrap());
        if name == "checkpoints" {
            fs::create_dir(options.directory.join(name)).unwrap();
        }
        let path = options.directory.join(name);
        let moved = parent.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        let refused = FsStore::open(&options).unwrap_err();
        assert_eq!(refused.code(), "store_symlink", "{name}");
    }
    let parent = tempfile::tempdir().unwrap();
    let store = options(parent.path(), 1);
    drop(FsStore::open(&store).unwrap());
    let link = parent.path().join("link");
    symlink(&store.directory, &link).unwrap();
    // Whoever only reads or copies it is told what the next one who writes is told.
    let through = FsStoreOptions::new(&link);
    let copy = parent.path().join("copy");
    let backed_up = backup(&link, &copy, &SystemRandom, &mut |_| ());
    for refused in [
        FsStore::open(&through).unwrap_err().code(),
        FsStore::open_read_only(&through).unwrap_err().code(),
        verify(&link).unwrap_err().code(),
        repair(&through, true).unwrap_err().code(),
        backed_up.unwrap_err().code(),
    ] {
        assert_eq!(refused, "store_symlink");
    }
}

/// What makes something else than a file.
pub(crate) const MAKERS: [fn(&Path); 3] = [make_pipe, make_socket, make_directory];

pub(crate) fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

fn make_socket(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}

fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap();
}

/// S4, S7: a pipe, a socket or a directory where a file of the store belongs is told by its name;
/// nothing waits for the other end of the pipe.
#[test]
fn s4_what_is_no_file_is_told_and_not_waited_for() {
    let names = [
        "format",
        "keys",
        "lock",
        "durable",
        "segments/0000000001.log",
    ];
    for (name, make) in names
        .iter()
        .flat_map(|name| MAKERS.map(|make| (name, make)))
    {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), 1);
        drop(FsStore::open(&options).unwrap());
        let path = options.directory.join(name);
        fs::remove_file(&path).unwrap();
        make(&path);
        let _ = verify(&options.directory);
        let _ = holder(&options.directory);
        let refused = FsStore::open(&options).unwrap_err();
        let told = refused.to_string();
        assert!(told.contains(name), "{told}");
        let kinds = ["misplaced", "it is not a regular file", "directory"];
        assert!(kinds.iter().any(|kind| told.contains(kind)), "{told}");
    }
}

/// S4: a missing file of the store is named, nothing is created in its place.
#[tokio::test]
async fn s4_a_missing_file_is_named() {
    for name in [
        "format",
        "keys",
        "segments",
        "attachments",
        "inbox",
        "segments/0000000001.log",
    ] {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), 1);
        let store = FsStore::open(&options).unwrap();
        store.commit(commit(1)).await.unwrap();
        store.close().await.unwrap();
        let path = options.directory.join(name);
        fs::rename(&path, options.directory.join("renamed")).unwrap();
        let refused = FsStore::open(&options).unwrap_err();
        assert_eq!(refused.code(), "store_missing", "{name}: {refused}");
        assert!(refused.to_string().contains(name), "{refused}");
        assert!(!path.exists(), "{name} was created anew");
        fs::rename(options.directory.join("renamed"), &path).unwrap();
        let store = FsStore::open(&options).unwrap();
        assert_eq!(numbers(&store).await, [1]);
    }
}

/// S4: a bad identity refuses opening, and nothing is deleted. Every flipped bit is seen.
#[test]
fn s4_every_flipped_bit_of_the_identity_and_the_keys_is_seen() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    drop(FsStore::open(&options).unwrap());
    for name in ["format", "keys"] {
        let path = options.directory.join(name);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            let refused = verify(&options.directory).unwrap_err();
            assert_eq!(refused.code(), "store_file_damaged", "bit {bit} of {name}");
            assert!(refused.to_string().contains(name));
        }
        fs::write(&path, b"garbage").unwrap();
        assert_eq!(
            verify(&options.directory).unwrap_err().code(),
            "store_file_damaged"
        );
        assert_eq!(fs::read(&path).unwrap(), b"garbage");
        fs::write(&path, &whole).unwrap();
    }
    verify(&options.directory).unwrap();
}

/// S1: a later schema is refused.
#[test]
fn s1_a_newer_schema_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    drop(FsStore::open(&options).unwrap());
    let path = options.directory.join("format");
    let text = fs::read_to_string(&path).unwrap();
    let json = text
        .lines()
        .next()
        .unwrap()
        .replace("\"schema\":1", "\"schema\":2");
    let checksum = crc32c::crc32c(json.as_bytes());
    fs::write(&path, format!("{json}\n{checksum:08x}\n")).unwrap();
    assert_eq!(
        FsStore::open(&options).unwrap_err().code(),
        "store_newer_schema"
    );
}

/// S4: foreign files are left alone and reported.
#[test]
fn s4_foreign_files_are_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    drop(FsStore::open(&options).unwrap());
    for name in ["notes.txt", "segments/1.log", ".DS_Store"] {
        fs::write(options.directory.join(name), b"mine").unwrap();
    }
    let store = FsStore::open(&options).unwrap();
    let mut foreign = store.report().foreign.clone();
    foreign.sort();
    assert_eq!(foreign, [".DS_Store", "notes.txt", "segments/1.log"]);
    assert_eq!(
        fs::read(options.directory.join("notes.txt")).unwrap(),
        b"mine"
    );
}

/// S1: a directory without a store is not one for readers, and they create nothing.
#[test]
fn s1_a_reader_creates_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    assert_eq!(
        FsStore::open_read_only(&options).unwrap_err().code(),
        "store_not_found"
    );
    assert_eq!(
        verify(&options.directory).unwrap_err().code(),
        "store_not_found"
    );
    assert!(!Path::new(&options.directory).exists());
}

/// S2: many writers share syncs, and each of their commits is there.
#[tokio::test(flavor = "multi_thread")]
async fn s2_many_writers_share_one_log() {
    let parent = tempfile::tempdir().unwrap();
    let options = FsStoreOptions {
        random: Arc::new(SystemRandom),
        ..options(parent.path(), 1)
    };
    let store = Arc::new(FsStore::open(&options).unwrap());
    let writers: Vec<_> = (0..32)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for number in 0..16 {
                    store.commit(commit(writer * 100 + number)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut found = numbers(&store).await;
    assert_eq!(found.len(), 512);
    let written = found.clone();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(numbers(&store).await, written);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 512);
}

/// S1: whoever looks is told who holds a store, and nothing of a process that has ended.
#[test]
fn s1_the_holder_of_a_store_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    assert_eq!(
        holder(&options.directory).unwrap(),
        None,
        "there is no store"
    );
    let store = FsStore::open(&options).unwrap();
    let found = holder(&options.directory).unwrap().expect("it is open");
    assert_eq!(found.to_string(), format!("process {}", std::process::id()));
    let busy = FsStore::open(&options).unwrap_err();
    assert!(busy.to_string().contains(&format!("({found})")), "{busy}");
    // As between taking the lock and signing it: the file names an earlier holder.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let lock = options.directory.join("lock");
    let signed = fs::read_to_string(&lock).unwrap();
    let mine = format!("\"pid\":{}", found.pid);
    fs::write(
        &lock,
        signed.replace(&mine, &format!("\"pid\":{}", ended.id())),
    )
    .unwrap();
    assert_eq!(holder(&options.directory).unwrap(), None);
    fs::write(&lock, signed).unwrap();
    drop(store);
    assert_eq!(holder(&options.directory).unwrap(), None, "it is closed");
}

/// S4: many small rows take more room in a frame than their bytes; what fits no frame is refused.
#[tokio::test]
async fn s4_a_commit_that_fits_no_frame_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let store = FsStore::open(&options(parent.path(), 1)).unwrap();
    let of = |number, rows: u32| {
        let empty = Commit::new(commit_id(number), Timestamp::from_millis(number));
        (0..rows).fold(empty, |commit, row| {
            commit.row(RowChange::Delete(RowKey::new(
                "s",
                scope("a"),
                row.to_string(),
            )))
        })
    };
    let refused = store.commit(of(1, 50_000)).await;
    let is_it = matches!(refused, Err(CommitError::TooLarge { max, .. }) if max == 4 * 1024 * 1024);
    assert!(is_it, "{refused:?}");
    store.commit(of(2, 20_000)).await.unwrap();
}
