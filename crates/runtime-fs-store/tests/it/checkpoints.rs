//! Checkpoints and sidecars (S6): what is told through them is what the log tells, they are never
//! believed when they are damaged or of another log, and memory does not grow with history.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_fs_store::{
    CleanOptions, Damage, FsLimits, FsStore, FsStoreOptions, export, import, verify,
};
use runtime_store::{
    AttachmentStore, Commit, CommitError, Epoch, Found, Guard, Page, Position, Removal,
    RetentionUnit, Row, RowChange, RowKey, RowQuery, Seq, Store, StoredEvent,
};

use crate::support::{all_events, commit, commit_id, in_memory, options, print_row, scope, stream};

/// Small segments, and a checkpoint for each of them.
fn small(parent: &Path, seed: u64) -> FsStoreOptions {
    FsStoreOptions {
        fs_limits: FsLimits {
            segment_bytes_first: 4 * 1024,
            segment_bytes_max: 8 * 1024,
            checkpoint_bytes: 1,
            ..FsLimits::default()
        },
        ..options(parent, seed)
    }
}

async fn fill(store: &FsStore, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mut commit = commit(number);
        if let RowChange::Put { due, .. } = &mut commit.rows[0] {
            *due = (number % 3 == 0).then(|| runtime_core::Timestamp::from_millis(number % 50));
        }
        if number % 11 == 0 {
            let key = RowKey::new("state", scope("worker/1"), format!("{}", number % 16));
            commit.rows.push(RowChange::Delete(key));
        }
        if number % 37 == 0 {
            commit.rows.push(RowChange::Retire(scope("worker/2")));
        }
        if number % 41 == 0 {
            let erase = Removal::Stream(stream("worker/3"));
            commit.removals.push(erase);
        }
        store.commit(commit).await.unwrap();
    }
}

fn removal(number: u64, removal: Removal) -> Commit {
    let time = runtime_core::Timestamp::from_millis(number);
    Commit::new(commit_id(number), time).remove(removal)
}

/// Pages of a stream, a few at a time.
async fn paged(store: &FsStore, name: &str) -> Vec<StoredEvent> {
    let key = stream(name);
    let mut events = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store
            .events(Some(&key), Page::after(after, 7))
            .await
            .unwrap();
        events.extend(page.events);
        after = page.next;
        if !page.has_more {
            return events;
        }
    }
}

/// Pages of rows, a few at a time.
async fn paged_rows(store: &FsStore, query: RowQuery) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .rows(query.clone(), Page::after(after, 3))
            .await
            .unwrap();
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}

/// Everything that anybody is told.
async fn told(
    store: &FsStore,
    known: std::ops::Range<u64>,
) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut results = Vec::new();
    for number in known {
        results.push(store.committed(&commit_id(number)).await.unwrap());
    }
    let mut streams = Vec::new();
    for name in [
        "worker/0",
        "worker/1",
        "worker/2",
        "worker/3",
        "session/all",
        "nobody",
    ] {
        streams.push(paged(store, name).await);
    }
    let state = paged_rows(store, RowQuery::space("state")).await;
    let of_one = paged_rows(store, RowQuery::scope("state", scope("worker/1"))).await;
    let due = RowQuery::Due {
        space: "state".into(),
        until: runtime_core::Timestamp::from_millis(30),
    };
    let due = paged_rows(store, due).await;
    let mut single = Vec::new();
    for row in &state {
        single.push(store.row(&row.key).await.unwrap());
    }
    let units = units(store).await;
    // A checkpoint ends the segment that is written, so only a store without any knows other
    // segments; `without_caches` compares them one by one.
    let sums = (
        units.iter().map(|unit| unit.events).sum::<u64>(),
        units.iter().map(|unit| unit.bytes).sum::<u64>(),
    );
    let scopes = store.scopes().unwrap();
    (
        (all_events(store).await, streams, results),
        (state, of_one, due, single),
        (sums, scopes),
    )
}

async fn units(store: &FsStore) -> Vec<RetentionUnit> {
    let units = store.retention_units(Page::after(Position(0), 256)).await;
    units.unwrap()
}

/// The same files without checkpoints and sidecars.
fn without_caches(options: &FsStoreOptions, copy: PathBuf) -> FsStore {
    copy_all(&options.directory, &copy);
    fs::remove_dir_all(copy.join("checkpoints")).unwrap();
    let options = FsStoreOptions {
        directory: copy,
        ..options.clone()
    };
    FsStore::open_read_only(&options).unwrap()
}

fn caches(options: &FsStoreOptions) -> Vec<PathBuf> {
    let directory = options.directory.join("checkpoints");
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn is_checkpoint(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "checkpoint")
}

/// A store whose checkpoint holds nearly all of it; closed.
async fn with_checkpoint(options: &FsStoreOptions, count: u64) {
    let store = FsStore::open(options).unwrap();
    fill(&store, 0..count).await;
    store.checkpoint().await.unwrap();
    fill(&store, count..count + 5).await;
    store.close().await.unwrap();
}

/// S6: with checkpoints written all the while, opened from them, beside them, after pruning and
/// cleaning, everything told is what a store without any tells.
#[tokio::test]
async fn s6_a_store_on_checkpoints_tells_what_the_log_tells() {
    let parent = in_memory();
    let with = small(&parent.path().join("a"), 91);
    let without = FsStoreOptions {
        fs_limits: FsLimits {
            checkpoint_bytes: u64::MAX,
            ..with.fs_limits
        },
        ..small(&parent.path().join("b"), 91)
    };
    fs::create_dir(parent.path().join("a")).unwrap();
    fs::create_dir(parent.path().join("b")).unwrap();
    let mut a = FsStore::open(&with).unwrap();
    let mut b = FsStore::open(&without).unwrap();
    let mut next = 0;
    for round in 0..5_u64 {
        for store in [&a, &b] {
            fill(store, next..next + 120).await;
        }
        next += 120;
        let beside = FsStore::open_read_only(&with).unwrap();
        a.checkpoint().await.unwrap();
        for store in [&a, &b] {
            fill(store, next..next + 30).await;
        }
        next += 30;
        let expected = told(&b, 0..next).await;
        assert_eq!(told(&a, 0..next).await, expected, "live in round {round}");
        assert_eq!(
            told(&beside, 0..next).await,
            expected,
            "beside in round {round}"
        );
        let units_live = units(&a).await;
        drop((a, b));
        let bare = without_caches(&with, parent.path().join(format!("bare-{round}")));
        assert_eq!(told(&bare, 0..next).await, expected, "bare in {round}");
        assert_eq!(units(&bare).await, units_live, "bare in round {round}");
        a = FsStore::open(&with).unwrap();
        assert_eq!(units(&a).await, units_live, "reopened in round {round}");
        b = FsStore::open(&without).unwrap();
        assert_eq!(a.report().unusable_checkpoints, [""; 0]);
        assert!(a.report().commits < 60, "it began at the checkpoint");
        assert_eq!(
            told(&a, 0..next).await,
            expected,
            "reopened in round {round}"
        );
        for store in [&a, &b] {
            let through = Removal::Through(Position(next - 40));
            store
                .commit(removal(10_000 + round, through))
                .await
                .unwrap();
            if round % 2 == 1 {
                store.clean(CleanOptions::default(), |_| ()).await.unwrap();
            }
        }
        let expected = told(&b, 0..next).await;
        assert_eq!(told(&a, 0..next).await, expected, "pruned in round {round}");
        assert_eq!(
            told(&beside, 0..next).await,
            expected,
            "beside pruned {round}"
        );
        let bare = without_caches(&with, parent.path().join(format!("pruned-{round}")));
        assert_eq!(told(&bare, 0..next).await, expected, "bare pruned {round}");
        assert_eq!(units(&bare).await, units(&a).await, "bare pruned {round}");
        assert!(a.commit(commit_again(next - 1)).await.unwrap().repeated);
    }
    a.close().await.unwrap();
    assert_eq!(verify(&with.directory).unwrap().damage, []);
}

fn commit_again(number: u64) -> Commit {
    // The last of each round has nothing but what `commit` gives it, and perhaps a time.
    let mut commit = commit(number);
    if let RowChange::Put { due, .. } = &mut commit.rows[0] {
        *due = number
            .is_multiple_of(3)
            .then(|| runtime_core::Timestamp::from_millis(number % 50));
    }
    commit
}

/// S6, R5: any checkpoint or sidecar deleted, emptied or cut changes nothing that is told, and
/// the store makes it anew.
#[tokio::test]
async fn s6_a_missing_or_cut_checkpoint_changes_nothing() {
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path(), 92);
    with_checkpoint(&options, 200).await;
    let expected = told(&FsStore::open_read_only(&options).unwrap(), 0..205).await;
    let paths = caches(&options);
    assert!(paths.iter().filter(|path| !is_checkpoint(path)).count() > 3);
    let mut cases = 0;
    for path in &paths {
        let whole = fs::read(path).unwrap();
        let cuts = [
            0,
            64,
            128,
            whole.len() / 3,
            whole.len() / 2,
            whole.len() - 1,
        ];
        for cut in cuts.map(Some).into_iter().chain([None]) {
            match cut {
                Some(length) => fs::write(path, &whole[..length]).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            let store = FsStore::open(&options).unwrap();
            assert_eq!(store.report().damage, []);
            assert_eq!(
                told(&store, 0..205).await,
                expected,
                "{path:?} cut at {cut:?}"
            );
            store.close().await.unwrap();
            drop(store);
            cases += 1;
        }
        fs::write(path, &whole).unwrap();
    }
    fs::remove_dir_all(options.directory.join("checkpoints")).unwrap();
    let store = FsStore::open(&options).unwrap();
    assert_eq!(told(&store, 0..205).await, expected);
    store.checkpoint().await.unwrap();
    assert_eq!(told(&store, 0..205).await, expected);
    assert!(caches(&options).iter().any(|path| is_checkpoint(path)));
    print_row("R5-checkpoint", cases, started);
}

/// R6: every flipped bit of a checkpoint or a sidecar is found by verifying, and none is believed:
/// the store opens and tells what it told.
#[tokio::test]
async fn r6_flipped_bits_of_checkpoints_and_sidecars_are_found() {
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path(), 93);
    with_checkpoint(&options, 64).await;
    let expected = told(&FsStore::open_read_only(&options).unwrap(), 0..69).await;
    let step = if std::env::var_os("FS_STORE_EVERY_CASE").is_some() {
        1
    } else {
        31
    };
    let mut cases = 0;
    for path in caches(&options) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let whole = fs::read(&path).unwrap();
        for bit in (0..whole.len() * 8).step_by(step) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            let found = verify(&options.directory).unwrap().damage;
            let is_it =
                |damage: &Damage| matches!(damage, Damage::Cache { file } if file.ends_with(&name));
            assert!(found.iter().any(is_it), "bit {bit} of {name} was not found");
            if bit % (step * 16) == 0 {
                let beside = FsStore::open_read_only(&options).unwrap();
                assert_eq!(told(&beside, 0..69).await, expected, "bit {bit} of {name}");
            }
            cases += 1;
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(cases > 1_000, "only {cases} cases");
    print_row("R6-checkpoint", cases, started);
}

/// S6: a whole checkpoint of another time of the same store is not believed.
#[tokio::test]
async fn s6_a_checkpoint_of_another_log_is_not_believed() {
    let parent = in_memory();
    let options = small(parent.path(), 94);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..20).await;
    store.close().await.unwrap();
    drop(store);
    let copy = parent.path().join("copy");
    copy_all(&options.directory, &copy);
    // Two logs that are equal up to here, and of equal length after it.
    let go_on = async |options: &FsStoreOptions, first: u64| {
        let store = FsStore::open(options).unwrap();
        fill(&store, first..first + 60).await;
        store.checkpoint().await.unwrap();
        fill(&store, first + 60..first + 64).await;
        store.close().await.unwrap();
    };
    go_on(&options, 28_700).await;
    let other = FsStoreOptions {
        directory: copy,
        ..options.clone()
    };
    go_on(&other, 28_700 + 16 * 3 * 11 * 37 * 41 * 7).await;
    let expected = told(&FsStore::open_read_only(&options).unwrap(), 0..100).await;
    fs::remove_dir_all(options.directory.join("checkpoints")).unwrap();
    copy_all(
        &other.directory.join("checkpoints"),
        &options.directory.join("checkpoints"),
    );
    let store = FsStore::open(&options).unwrap();
    assert!(!store.report().unusable_checkpoints.is_empty());
    assert_eq!(told(&store, 0..100).await, expected);
}

/// S6: a base that is in no checkpoint counts as log that is in none: without one every opening
/// would read all of it.
#[tokio::test]
async fn s6_a_large_base_is_soon_in_a_checkpoint() {
    const CHECKPOINT_BYTES: u64 = 64 * 1024;
    let parent = in_memory();
    let from = small(&parent.path().join("from"), 97);
    fs::create_dir(parent.path().join("from")).unwrap();
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..400).await;
    let mut lines = Vec::new();
    export(&from.directory, &mut lines, &mut |_| ()).unwrap();
    let to = small(parent.path(), 98);
    let to = FsStoreOptions {
        fs_limits: FsLimits {
            checkpoint_bytes: CHECKPOINT_BYTES,
            ..to.fs_limits
        },
        ..to
    };
    import(&mut &lines[..], &to, None, &mut |_| ()).unwrap();
    let base = to.directory.join("segments/0000000001.base");
    assert!(fs::metadata(base).unwrap().len() > CHECKPOINT_BYTES);
    let store = FsStore::open(&to).unwrap();
    assert!(store.report().commits >= 400, "all of the base was read");
    // Two segments, far less than a checkpoint is written for.
    fill(&store, 400..430).await;
    let expected = told(&store, 0..430).await;
    // A thread of its own writes it; on a busy machine it begins late.
    for _ in 0..1_000_000 {
        if caches(&to).iter().any(|path| is_checkpoint(path)) {
            break;
        }
        std::thread::yield_now();
    }
    store.close().await.unwrap();
    drop(store);
    assert!(caches(&to).iter().any(|path| is_checkpoint(path)));
    let store = FsStore::open(&to).unwrap();
    assert!(store.report().commits <= 30, "{:?}", store.report());
    assert_eq!(told(&store, 0..430).await, expected);
    // What is in a checkpoint counts no more.
    let written = caches(&to);
    fill(&store, 430..460).await;
    store.close().await.unwrap();
    assert_eq!(caches(&to), written);
}

pub(crate) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// E18, S6: what names attachments is known when only a checkpoint says so.
#[tokio::test]
async fn e18_the_sweep_knows_what_a_checkpoint_names() {
    let parent = in_memory();
    let options = small(parent.path(), 95);
    let store = FsStore::open(&options).unwrap();
    let of_event = store
        .put_attachment((*b"of an event").into())
        .await
        .unwrap();
    let of_row = store.put_attachment((*b"of a row").into()).await.unwrap();
    let mut with_event = commit(1);
    with_event.rows.clear();
    with_event.attachments = vec![of_event];
    let mut with_row = commit(2);
    with_row.events.clear();
    let key = RowKey::new("state", scope("turn/a/1"), "row");
    with_row.rows = vec![RowChange::put(key, *b"x")];
    with_row.attachments = vec![of_row];
    store.commit(with_event).await.unwrap();
    store.commit(with_row).await.unwrap();
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().commits, 0, "all of it is in the checkpoint");
    let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 0, "both are named");
    let gone = removal(10, Removal::Through(Position(1)));
    let gone = gone.row(RowChange::Retire(scope("turn/a/1")));
    store.commit(gone).await.unwrap();
    let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 2, "nothing names them any more");
}

/// V1, S6: guards, owners and heads hold by what only a checkpoint knows.
#[tokio::test]
async fn s6_guards_see_what_only_a_checkpoint_knows() {
    let parent = in_memory();
    let options = small(parent.path(), 96);
    let store = FsStore::open(&options).unwrap();
    let asking = |number| {
        Commit::new(
            commit_id(number),
            runtime_core::Timestamp::from_millis(number),
        )
    };
    let epoch = RowKey::epoch(scope("worker/1"));
    store.commit(commit(1)).await.unwrap();
    store
        .commit(asking(900).row(RowChange::put(epoch, Vec::new())))
        .await
        .unwrap();
    store.checkpoint().await.unwrap();
    let key = RowKey::new("state", scope("worker/1"), "1");
    let head = |seq| Guard::Head(stream("worker/1"), Seq(seq));
    let guards = [
        (Guard::Version(key.clone(), 1), None),
        (Guard::Version(key.clone(), 2), Some(Found::Version(1))),
        (Guard::Absent(key), Some(Found::Version(1))),
        (head(1), None),
        (head(0), Some(Found::Head(Seq(1)))),
    ];
    for (number, (guard, expected)) in (901..).zip(guards) {
        let found = match store.commit(asking(number).guard(guard.clone())).await {
            Ok(_) => None,
            Err(CommitError::Rejected { found, .. }) => Some(found),
            Err(other) => panic!("{guard:?}: {other}"),
        };
        assert_eq!(found, expected, "{guard:?}");
    }
    let owned = |number, epoch| asking(number).owned_by(scope("worker/1"), Epoch(epoch));
    store.commit(owned(910, 1)).await.unwrap();
    let fenced = store.commit(owned(911, 2)).await;
    assert!(matches!(fenced, Err(CommitError::Fenced)), "{fenced:?}");
}

/// S6: checkpoints are written by themselves once enough of the log is not in one, and only then;
/// two are kept.
#[tokio::test]
async fn s6_checkpoints_are_written_by_themselves() {
    for (checkpoint_bytes, is_written) in [(1, true), (16 * 1024, true), (u64::MAX, false)] {
        let parent = in_memory();
        let mut options = small(parent.path(), 97);
        options.fs_limits.checkpoint_bytes = checkpoint_bytes;
        let store = FsStore::open(&options).unwrap();
        let written = || {
            let caches = caches(&options);
            caches.iter().filter(|path| is_checkpoint(path)).count()
        };
        let mut commits = 300;
        fill(&store, 0..commits).await;
        // A thread of its own writes them; on a busy machine it begins late.
        while is_written && written() == 0 {
            assert!(commits < 20_000, "none is written");
            fill(&store, commits..commits + 20).await;
            commits += 20;
        }
        // Closing waits for a checkpoint that is being written.
        store.close().await.unwrap();
        drop(store);
        assert_eq!(written() > 0, is_written, "at {checkpoint_bytes} bytes");
        assert!(written() <= 2, "{} are kept", written());
        let store = FsStore::open(&options).unwrap();
        assert_eq!(
            store.report().commits < commits,
            is_written,
            "at {checkpoint_bytes} bytes"
        );
    }
}
