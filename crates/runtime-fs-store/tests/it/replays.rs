//! Opening and following: from checkpoints, bases and hints, and what cleaning leaves behind.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use runtime_fs_store::{
    CleanOptions, FsLimits, FsStore, FsStoreOptions, export, import, verify, verify_with_progress,
};
use runtime_store::{
    AttachmentStore, Commit, Position, Progress, Removal, RowChange, RowKey, Seq, Store,
};

use crate::care::{clean, fill, removal, segment_bytes, small, told};
use crate::support::{
    all_events, commit, commit_id, in_memory, numbers, run, scope, segment, stream,
};

fn caches(options: &FsStoreOptions) -> Vec<PathBuf> {
    let entries = fs::read_dir(options.directory.join("checkpoints")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// What is made of an export.
fn imported(from: &FsStoreOptions, to: &FsStoreOptions) {
    let mut lines = Vec::new();
    export(&from.directory, &mut lines, &mut |_| ()).unwrap();
    import(&mut &lines[..], to, None, &mut |_| ()).unwrap();
}

/// S8: a hint that was published for an earlier segment says nothing of the last one: there a
/// reader sees what a mark covers, and no commit that may not be durable.
#[tokio::test]
async fn s8_a_hint_of_an_earlier_segment_says_nothing_of_the_last() {
    let parent = in_memory();
    let small = small(parent.path(), 111);
    let options = FsStoreOptions {
        fs_limits: FsLimits {
            // No mark but those of the commits themselves.
            idle_mark: Duration::from_secs(3_600),
            ..small.fs_limits
        },
        ..small
    };
    let store = FsStore::open(&options).unwrap();
    let hint = options.directory.join("durable");
    let mut earlier = Vec::new();
    let mut next = 0;
    while !segment(&options, 2).exists() {
        earlier = fs::read(&hint).unwrap();
        fill(&store, next..next + 1).await;
        next += 1;
    }
    fill(&store, next..next + 2).await;
    next += 2;
    fs::write(&hint, earlier).unwrap();
    let beside = FsStore::open_read_only(&options).unwrap();
    assert_eq!(
        numbers(&beside).await,
        (0..next - 1).collect::<Vec<_>>(),
        "each commit says of the one before that it is durable"
    );
    fill(&store, next..next + 1).await;
    assert_eq!(numbers(&beside).await, (0..=next).collect::<Vec<_>>());
}

/// S7: verifying tells how much of the log it has read, segment by segment, up to all of it.
#[tokio::test]
async fn s7_verifying_tells_how_much_of_the_log_it_has_read() {
    let parent = in_memory();
    let options = small(parent.path(), 112);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..100).await;
    store.close().await.unwrap();
    let mut steps = Vec::new();
    verify_with_progress(&options.directory, &mut |at| steps.push(at)).unwrap();
    assert!(steps.len() > 2 && steps.is_sorted_by_key(|at| at.done));
    let total = segment_bytes(&options);
    assert!(steps.iter().all(|at| at.total == total), "{steps:?}");
    let first = fs::metadata(segment(&options, 1)).unwrap().len();
    assert_eq!(steps[0], Progress { done: first, total });
    assert_eq!(steps.last().unwrap().done, total);
}

/// S6: a checkpoint when nothing has come since the last one changes nothing.
#[tokio::test]
async fn s6_a_checkpoint_of_nothing_new_changes_nothing() {
    let parent = in_memory();
    let options = small(parent.path(), 113);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..100).await;
    store.checkpoint().await.unwrap();
    let before = told(&store, 0..100).await;
    let written = caches(&options);
    store.checkpoint().await.unwrap();
    assert_eq!(caches(&options), written);
    assert_eq!(told(&store, 0..100).await, before);
    store.close().await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().unusable_checkpoints, [""; 0]);
    assert_eq!(store.report().commits, 0, "all are in the checkpoint");
    assert_eq!(told(&store, 0..100).await, before);
}

/// S6: the sidecar of an imported history, which is a base, is made anew as that of any segment.
#[tokio::test]
async fn s6_sidecars_of_an_imported_history_are_made_anew() {
    let parent = in_memory();
    let from = small(&parent.path().join("from"), 114);
    fs::create_dir(parent.path().join("from")).unwrap();
    fill(&FsStore::open(&from).unwrap(), 0..100).await;
    let to = small(parent.path(), 115);
    imported(&from, &to);
    let store = FsStore::open(&to).unwrap();
    fill(&store, 100..200).await;
    store.checkpoint().await.unwrap();
    let before = told(&store, 0..200).await;
    store.close().await.unwrap();
    drop(store);
    let written = caches(&to);
    let is_sidecar = |path: &&PathBuf| path.extension().unwrap() == "sidecar";
    let sidecars: Vec<_> = written.iter().filter(is_sidecar).collect();
    let of_base = "0000000001.base.sidecar";
    assert!(sidecars[0].ends_with(of_base) && sidecars.len() > 2);
    for sidecar in &sidecars {
        fs::remove_file(sidecar).unwrap();
    }
    // Whoever reads beside the writer makes them in memory.
    let beside = FsStore::open_read_only(&to).unwrap();
    assert_eq!(told(&beside, 0..200).await, before);
    assert!(!sidecars[0].exists());
    let store = FsStore::open(&to).unwrap();
    assert_eq!(told(&store, 0..200).await, before);
    assert_eq!(caches(&to), written);
}

/// S4, S7: whoever must put a base back from a copy is told which file it is.
#[tokio::test]
async fn s4_a_base_with_a_damaged_header_is_told_by_its_name() {
    let parent = in_memory();
    let options = small(parent.path(), 116);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..60).await;
    let prune = removal(10_000, Removal::Through(Position(50)));
    store.commit(prune).await.unwrap();
    clean(&store).await;
    store.close().await.unwrap();
    drop(store);
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let base = paths.find(|path| path.extension().unwrap() == "base");
    let base = base.expect("a base was made");
    let mut bytes = fs::read(&base).unwrap();
    bytes[20] ^= 1;
    fs::write(&base, bytes).unwrap();
    let reason = verify(&options.directory).unwrap().read_only.unwrap();
    let name = base.file_name().unwrap().to_str().unwrap();
    let expected = format!("the header of segments/{name} is damaged");
    assert!(reason.starts_with(&expected), "{reason}");
}

/// What the next event of each of four workers gets as its place in the stream.
async fn next_seqs(store: &FsStore, first: u64) -> Vec<(Seq, Position)> {
    let mut seqs = Vec::new();
    for number in first..first + 4 {
        let committed = store.commit(commit(number)).await.unwrap();
        let places = &committed.places[0];
        assert_eq!(places[1].stream, stream("session/all"));
        assert_eq!(places[1].seq, Seq(number + 1), "of all");
        seqs.push((places[0].seq, places[0].previous));
    }
    seqs
}

/// V1, S6: a stream of which no event is left goes on after its last one, wherever that is known
/// from: after a cleaning, from a checkpoint, in an import. So no reader takes a new event for one
/// it knows.
#[tokio::test]
async fn v1_streams_go_on_when_all_of_their_events_are_gone() {
    for with_checkpoint in [false, true] {
        let parent = in_memory();
        let options = small(&parent.path().join("a"), 117);
        fs::create_dir(parent.path().join("a")).unwrap();
        let store = FsStore::open(&options).unwrap();
        fill(&store, 0..79).await;
        if with_checkpoint {
            // What the first three workers did is known to the checkpoint only.
            store.checkpoint().await.unwrap();
        }
        fill(&store, 79..80).await;
        let everything = Removal::Through(Position(u64::MAX));
        store.commit(removal(10_000, everything)).await.unwrap();
        let copy = small(parent.path(), 118);
        imported(&options, &copy);
        assert!(clean(&store).await.segments_removed > 0);
        store.close().await.unwrap();
        drop(store);
        for options in [&options, &copy] {
            let store = FsStore::open(options).unwrap();
            assert_eq!(store.report().damage, []);
            assert!(all_events(&store).await.is_empty());
            let expected = [77, 78, 79, 80].map(|last| (Seq(21), Position(last)));
            let is_copy = options.directory == copy.directory;
            assert_eq!(
                next_seqs(&store, 80).await,
                expected,
                "in the copy: {is_copy}, with a checkpoint: {with_checkpoint}"
            );
        }
    }
}

/// E18, S6: a row that only a checkpoint knows holds its attachment, and is in an export, also when
/// nothing of its space has been written since the store was opened.
#[tokio::test]
async fn e18_rows_of_a_space_that_only_a_checkpoint_knows_are_not_forgotten() {
    let parent = in_memory();
    let options = small(&parent.path().join("a"), 119);
    fs::create_dir(parent.path().join("a")).unwrap();
    let store = FsStore::open(&options).unwrap();
    let held = store.put_attachment((*b"of a row").into()).await.unwrap();
    let key = RowKey::new("draft", scope("turn/a/1"), "row");
    let mut with_row = Commit::new(commit_id(0), runtime_core::Timestamp::from_millis(0));
    with_row = with_row.row(RowChange::put(key.clone(), *b"a draft"));
    with_row.attachments = vec![held];
    store.commit(with_row).await.unwrap();
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);

    let store = FsStore::open(&options).unwrap();
    fill(&store, 1..2).await;
    store.checkpoint().await.unwrap();
    let owners = [scope("turn/a/1"), scope("worker/1")];
    assert_eq!(store.scopes().unwrap(), owners);
    let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 0, "the row holds it");
    let copy = small(parent.path(), 120);
    imported(&options, &copy);
    for store in [store, FsStore::open(&copy).unwrap()] {
        let row = store.row(&key).await.unwrap().expect("it is in both");
        assert_eq!(&*row.body, b"a draft");
        assert_eq!(&*store.attachment(&held).await.unwrap(), b"of a row");
        assert_eq!(store.scopes().unwrap(), owners);
    }
}

/// S6: after a cleaning that failed half-way none follows, nor a checkpoint: a base may have its
/// name that nothing looks into. Commits go on, and opening the store again settles it.
#[tokio::test]
async fn s6_after_a_failed_cleaning_none_follows_until_the_store_is_opened_again() {
    let parent = in_memory();
    let options = small(parent.path(), 121);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..100).await;
    store.checkpoint().await.unwrap();
    let prune = removal(10_000, Removal::Through(Position(90)));
    store.commit(prune).await.unwrap();
    // The base has its name by the time that this is met.
    let checkpoints = options.directory.join("checkpoints");
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&checkpoints, &elsewhere).unwrap();
    fs::write(&checkpoints, b"no directory").unwrap();
    let failed = store.clean(CleanOptions::default(), |_| ()).await;
    assert!(failed.is_err(), "{failed:?}");
    fs::remove_file(&checkpoints).unwrap();
    fs::rename(&elsewhere, &checkpoints).unwrap();

    let cleaned = store.clean(CleanOptions::default(), |_| ()).await;
    for refused in [cleaned.map(drop), store.checkpoint().await] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("earlier cleaning failed"), "{refused}");
    }
    fill(&store, 100..110).await;
    let before = told(&store, 0..110).await;
    store.close().await.unwrap();
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    assert_eq!(told(&store, 0..110).await, before);
    clean(&store).await;
    assert_eq!(told(&store, 0..110).await, before);
}

/// The segment files that this process has open, once for each time.
#[cfg(target_os = "linux")]
fn held_open(options: &FsStoreOptions) -> Vec<String> {
    let segments = options.directory.join("segments").display().to_string();
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    // One that another test has just closed leads nowhere.
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let targets = targets.map(|target| target.display().to_string());
    targets.filter(|at| at.starts_with(&segments)).collect()
}

/// S6: as many files are held open for reading as the store may hold, and what a cleaning has
/// removed is given back to the disk at once.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn s6_few_files_are_held_open_and_none_that_a_cleaning_removed() {
    let parent = in_memory();
    let small = small(parent.path(), 122);
    let options = FsStoreOptions {
        fs_limits: FsLimits {
            open_segments_max: 3,
            ..small.fs_limits
        },
        ..small
    };
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..200).await;
    let of_writer = held_open(&options).len();
    assert_eq!(all_events(&store).await.len(), 200);
    assert_eq!(held_open(&options).len(), of_writer + 3);
    let everything = Removal::Through(Position(u64::MAX));
    store.commit(removal(10_000, everything)).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    let removed = held_open(&options).into_iter();
    let removed = removed.filter(|at| at.ends_with("(deleted)"));
    assert_eq!(removed.collect::<Vec<_>>(), [""; 0]);
}

/// S8: a reader that looks for the history of a checkpoint while a cleaning takes it away looks
/// once more, as it does for everything else that is gone, and tells what is there now. Without
/// the hint it learns of the cleaning in no other way, as when it comes in the middle of a read.
#[tokio::test]
async fn s8_a_reader_looks_again_when_a_cleaning_has_taken_a_checkpoints_history() {
    let parent = in_memory();
    let options = small(parent.path(), 123);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..100).await;
    store.checkpoint().await.unwrap();
    let beside = FsStore::open_read_only(&options).unwrap();
    fs::remove_file(options.directory.join("durable")).unwrap();
    let prune = removal(10_000, Removal::Through(Position(90)));
    store.commit(prune).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    store.checkpoint().await.unwrap();
    let told = numbers(&beside).await;
    assert_eq!(told, (90..100).collect::<Vec<_>>());
}

/// S6, S7: a cleaning beside it takes files away that verifying was about to read. They are not
/// missing.
#[test]
fn s7_verifying_beside_a_cleaning_finds_a_whole_store() {
    let parent = in_memory();
    let options = small(parent.path(), 99);
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..100));
    run(store.commit(removal(10_000, Removal::Through(Position(90))))).unwrap();
    let mut is_first = true;
    let report = verify_with_progress(&options.directory, &mut |_| {
        if std::mem::take(&mut is_first) {
            assert!(run(clean(&store)).segments_removed > 0);
        }
    });
    let report = report.unwrap();
    assert_eq!((report.damage, report.cut), (vec![], None));
}

/// S6, S7: a checkpoint that is made beside it holds more of the last segment than verifying has
/// read. That is no damage.
#[test]
fn s7_verifying_beside_a_checkpoint_finds_no_damaged_cache() {
    let parent = in_memory();
    let options = small(parent.path(), 98);
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..60));
    let report = verify_with_progress(&options.directory, &mut |at| {
        if at.done == at.total {
            run(fill(&store, 60..62));
            run(store.checkpoint()).unwrap();
        }
    });
    assert_eq!(report.unwrap().damage, []);
    assert!(!caches(&options).is_empty());
}
