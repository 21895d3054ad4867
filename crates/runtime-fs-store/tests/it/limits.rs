//! The largest that is still taken, and that no more is (S4, S6, S7).

use runtime_core::EventId;
use runtime_fs_store::{
    ExportError, FsLimits, FsStore, FsStoreOptions, MaintenanceError, export, import,
};
use runtime_store::{
    AttachmentStore, Commit, CommitError, ImportReport, Limits, Removal, RowChange, RowKey, Store,
};
use serde_json::Value;

use crate::care::small;
use crate::imports::exported;
use crate::support::{all_events, commit, in_memory, options, random, scope, stream};

const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the format takes for a commit beside its own bytes: 2 KiB for the header, 96 bytes for
/// each record and two more of them, 18 for each stream of an event.
fn fields(commit: &Commit) -> usize {
    let records = 2 + commit.events.len() + commit.rows.len() + commit.removals.len();
    let streams: usize = commit.events.iter().map(|event| event.streams.len()).sum();
    2048 + 96 * records + 18 * streams
}

/// A commit of so many bytes in a frame.
fn of_frame_bytes(number: u64, bytes: usize) -> Commit {
    let mut commit = commit(number);
    let mut second = commit.events[0].clone();
    second.id = EventId::generate(commit.time, random(number + 1_000));
    second.streams.push(stream("session/other"));
    commit.events.push(second);
    for name in ["a", "b"] {
        let key = RowKey::new("state", scope("worker/1"), name);
        commit.rows.push(RowChange::put(key, *b"body"));
    }
    for name in ["nobody/1", "nobody/2", "nobody/3"] {
        commit.removals.push(Removal::Stream(stream(name)));
    }
    commit.events[0].body = [].into();
    let rest = bytes - fields(&commit) - commit.bytes();
    commit.events[0].body = vec![b'a'; rest].into();
    commit
}

/// S4, S7: whatever a store allows, a commit that would not fit into a frame is refused before
/// anything is written; one that just fits is taken, and can be exported and imported.
#[tokio::test]
async fn s4_a_commit_that_just_fits_into_a_frame_is_taken() {
    let parent = in_memory();
    let from = FsStoreOptions {
        limits: Limits {
            commit_bytes_max: 2 * FRAME_BYTES_MAX,
            ..Limits::default()
        },
        ..options(parent.path(), 1)
    };
    let store = FsStore::open(&from).unwrap();
    let refused = store.commit(of_frame_bytes(1, FRAME_BYTES_MAX + 1)).await;
    let Err(CommitError::TooLarge { bytes, max }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((bytes, max), (FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX));
    let fits = of_frame_bytes(2, FRAME_BYTES_MAX);
    store.commit(fits.clone()).await.unwrap();
    let events = all_events(&store).await;
    assert_eq!(events.len(), 2);
    assert!(events[0].body == fits.events[0].body);

    let mut lines = Vec::new();
    export(&from.directory, &mut lines, &mut |_| ()).unwrap();
    let (imported, copy) = attempt(&lines);
    imported.unwrap();
    assert!(all_events(&copy.unwrap().1).await == events);
}

type Imported = (tempfile::TempDir, FsStore);

/// Imports lines, and opens what was made of them.
fn attempt(mut lines: &[u8]) -> (Result<ImportReport, MaintenanceError>, Option<Imported>) {
    let parent = in_memory();
    let to = options(parent.path(), 2);
    let imported = import(&mut lines, &to, None, &mut |_| ());
    let store = imported.is_ok().then(|| FsStore::open(&to).unwrap());
    (imported, store.map(|store| (parent, store)))
}

fn text(lines: &[Value]) -> Vec<u8> {
    let lines = lines.iter().map(|line| format!("{line}\n"));
    lines.collect::<String>().into_bytes()
}

/// The line that an import names, from 0.
fn bad_line(imported: Result<ImportReport, MaintenanceError>) -> u64 {
    match imported {
        Err(MaintenanceError::Export(ExportError::Bad { line, .. })) => line - 1,
        other => panic!("{other:?}"),
    }
}

/// S7: the events of one commit may have 4 MiB in an export, and not one byte more.
#[tokio::test]
async fn s7_an_import_takes_commits_of_4_mib() {
    const EVENT_BYTES: usize = 32;
    let parent = in_memory();
    let from = options(parent.path(), 1);
    let store = FsStore::open(&from).unwrap();
    let mut two = commit(1);
    two.rows.clear();
    let mut second = two.events[0].clone();
    second.id = EventId::generate(two.time, random(2));
    two.events.push(second);
    store.commit(two).await.unwrap();
    let mut lines = exported(&from);
    let first = lines.iter().position(|line| line["type"] == "event");
    let first = first.unwrap();
    let half = FRAME_BYTES_MAX / 2 - EVENT_BYTES;
    lines[first]["body"] = "a".repeat(half).into();
    lines[first + 1]["body"] = "b".repeat(half).into();
    let (imported, copy) = attempt(&text(&lines));
    assert_eq!(imported.unwrap().events, 2);
    let events = all_events(&copy.unwrap().1).await;
    assert!(events.iter().all(|event| event.body.len() == half));

    lines[first + 1]["body"] = "b".repeat(half + 1).into();
    let (imported, _) = attempt(&text(&lines));
    assert_eq!(bad_line(imported), first as u64 + 1);
}

/// S7: a commit may name attachments for as many scopes as a record of a base can count.
#[tokio::test]
async fn s7_an_import_takes_a_commit_that_names_65535_scopes() {
    let parent = in_memory();
    let from = options(parent.path(), 1);
    let store = FsStore::open(&from).unwrap();
    let mut naming = commit(1);
    naming.attachments = vec![store.put_attachment((*b"x").into()).await.unwrap()];
    store.commit(naming).await.unwrap();
    let mut lines = exported(&from);
    let commit = lines.iter().position(|line| line["type"] == "commit");
    let commit = commit.unwrap();
    let names = |count: u32| (0..count).map(|number| format!("w/{number}")).collect();
    lines[commit]["scopes"] = names(65_535);
    let (imported, copy) = attempt(&text(&lines));
    assert_eq!(imported.unwrap().attachments, 1);
    assert_eq!(all_events(&copy.unwrap().1).await.len(), 1);
    lines[commit]["scopes"] = names(65_536);
    let (imported, _) = attempt(&text(&lines));
    assert_eq!(bad_line(imported), commit as u64);
}

/// S6: no more segment files and sidecars are held open than the limits say.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn s6_as_many_files_are_held_open_as_the_limits_say() {
    let parent = in_memory();
    let options = small(parent.path(), 1);
    let options = FsStoreOptions {
        fs_limits: FsLimits {
            open_segments_max: 1,
            ..options.fs_limits
        },
        ..options
    };
    let store = FsStore::open(&options).unwrap();
    crate::care::fill(&store, 0..100).await;
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    assert!(crate::care::segment_files(&options) > 4);
    let store = FsStore::open_read_only(&options).unwrap();
    assert_eq!(all_events(&store).await.len(), 100);
    let open = |ending: &str| {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        let ours = paths.filter(|path| path.starts_with(&options.directory));
        ours.filter(|path| path.extension().is_some_and(|found| found == ending))
            .count()
    };
    assert_eq!((open("sidecar"), open("log")), (1, 1));
}
