//! Caring for a store: cleaning and purge (S6).

use std::fs;
use std::path::Path;
use std::time::Duration;

use runtime_fs_store::{CleanOptions, CleanReport, FsLimits, FsStore, FsStoreOptions, verify};
use runtime_store::{
    AttachmentStore, Commit, Page, Position, Progress, Removal, Row, RowChange, RowQuery, Store,
    StoredEvent,
};

use crate::support::{
    all_events, commit, commit_id, in_memory, options, read_events, scope, segment, stream,
};

/// Segments of 4 to 8 KiB, so that there are many.
pub(crate) fn small(parent: &Path, seed: u64) -> FsStoreOptions {
    FsStoreOptions {
        fs_limits: FsLimits {
            segment_bytes_first: 4 * 1024,
            segment_bytes_max: 8 * 1024,
            ..FsLimits::default()
        },
        ..options(parent, seed)
    }
}

pub(crate) async fn fill(store: &FsStore, numbers: std::ops::Range<u64>) {
    for number in numbers {
        store.commit(commit(number)).await.unwrap();
    }
}

/// Makes a store, or goes on with it, and closes it.
pub(crate) async fn write(options: &FsStoreOptions, numbers: std::ops::Range<u64>) {
    let store = FsStore::open(options).unwrap();
    fill(&store, numbers).await;
    store.close().await.unwrap();
}

/// The same, with a checkpoint of all of it.
pub(crate) async fn write_with_checkpoint(options: &FsStoreOptions, numbers: std::ops::Range<u64>) {
    let store = FsStore::open(options).unwrap();
    fill(&store, numbers).await;
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
}

pub(crate) fn removal(number: u64, removal: Removal) -> Commit {
    let time = runtime_core::Timestamp::from_millis(number);
    Commit::new(commit_id(number), time).remove(removal)
}

pub(crate) async fn clean(store: &FsStore) -> CleanReport {
    store.clean(CleanOptions::default(), |_| ()).await.unwrap()
}

pub(crate) async fn rows(store: &FsStore) -> Vec<Row> {
    let all = Page::after(None, 256);
    let page = store.rows(RowQuery::space("state"), all).await;
    page.unwrap().rows
}

/// Everything that readers are told.
pub(crate) async fn told(
    store: &FsStore,
    known: std::ops::Range<u64>,
) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut results = Vec::new();
    for number in known {
        results.push(store.committed(&commit_id(number)).await.unwrap());
    }
    let session = stream("session/all");
    let page = store
        .events(Some(&session), Page::after(Position(0), 256))
        .await
        .unwrap();
    let head = page.head;
    let read = read_events(store).await.unwrap();
    (
        read,
        rows(store).await,
        results,
        page.events,
        head,
        page.pruned,
    )
}

pub(crate) fn segment_bytes(options: &FsStoreOptions) -> u64 {
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    let lengths = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    lengths.sum()
}

pub(crate) fn segment_files(options: &FsStoreOptions) -> usize {
    fs::read_dir(options.directory.join("segments"))
        .unwrap()
        .count()
}

/// S6: cleaning frees what was pruned, changes nothing that anybody is told, beside it and after
/// reopening, and again on top of an earlier cleaning.
#[tokio::test]
async fn s6_cleaning_frees_what_was_pruned_and_changes_nothing_else() {
    let parent = in_memory();
    let options = small(parent.path(), 61);
    let mut store = FsStore::open(&options).unwrap();
    let mut next = 0;
    for round in 0..3_u64 {
        fill(&store, next..next + 200).await;
        next += 200;
        let beside = FsStore::open_read_only(&options).unwrap();
        assert_eq!(
            all_events(&beside).await.len() as u64,
            200 + u64::from(round > 0) * 10
        );
        let through = Removal::Through(Position(next - 10));
        store
            .commit(removal(10_000 + round, through))
            .await
            .unwrap();
        let before = told(&store, 0..next).await;
        let files = segment_files(&options);
        let bytes = segment_bytes(&options);
        let report = clean(&store).await;
        assert!(report.segments_removed > 0, "{report:?}");
        assert!(segment_files(&options) < files);
        assert!(segment_bytes(&options) < bytes, "{bytes} bytes before");
        assert_eq!(
            told(&store, 0..next).await,
            before,
            "after cleaning {round}"
        );
        assert_eq!(
            told(&beside, 0..next).await,
            before,
            "beside cleaning {round}"
        );
        drop(store);
        store = FsStore::open(&options).unwrap();
        assert_eq!(store.report().damage, [], "in round {round}");
        assert_eq!(
            told(&store, 0..next).await,
            before,
            "after reopening {round}"
        );
        assert!(store.commit(commit(next - 1)).await.unwrap().repeated);
    }
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
}

/// S6: what rows no longer hold leaves the disk, however often they are written; the log does not
/// grow with what was pruned.
#[tokio::test]
async fn s6_the_log_is_bounded_by_what_is_alive() {
    let parent = in_memory();
    let options = FsStoreOptions {
        limits: runtime_store::Limits {
            remembered_commits: 50,
            ..runtime_store::Limits::default()
        },
        ..small(parent.path(), 62)
    };
    let store = FsStore::open(&options).unwrap();
    let mut sizes = Vec::new();
    for round in 0..8 {
        fill(&store, round * 300..(round + 1) * 300).await;
        let through = Removal::Through(Position(u64::MAX));
        store
            .commit(removal(10_000 + round, through))
            .await
            .unwrap();
        clean(&store).await;
        sizes.push((segment_files(&options), segment_bytes(&options)));
        assert_eq!(rows(&store).await.len(), 16);
    }
    let (files, bytes) = sizes[1];
    assert!(
        sizes[2..]
            .iter()
            .all(|(f, b)| *f <= files + 1 && *b <= bytes * 21 / 20),
        "{sizes:?}"
    );
}

/// A text that may be nowhere once it is purged.
pub(crate) const CANARY: &[u8] = b"canary-5c8e1f";

pub(crate) fn holds_canary(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds_canary(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(CANARY.len()).any(|bytes| bytes == CANARY) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// S6: after erasing, retiring and one cleaning pass no file of the store holds a payload byte,
/// wherever it was: events, rows, rows written over, attachments, a cut tail.
#[tokio::test]
async fn s6_a_purge_leaves_no_payload_byte() {
    let parent = in_memory();
    let options = small(parent.path(), 63);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..30).await;
    let canary = |text: &str| [CANARY, text.as_bytes()].concat();
    let attachment = store
        .put_attachment(canary("attachment").into())
        .await
        .unwrap();
    for number in 100..140 {
        let mut commit = commit(number);
        let event = &mut commit.events[0];
        event.streams[0] = stream("session/doomed");
        event.body = canary(&format!("event {number}")).into();
        let key = runtime_store::RowKey::new("state", scope("turn/doomed/1"), "row");
        commit.rows = vec![RowChange::Put {
            key,
            body: canary(&format!("row {number}")).into(),
            event: Some(0),
            due: None,
        }];
        commit.attachments = vec![attachment];
        store.commit(commit).await.unwrap();
    }
    fill(&store, 30..60).await;
    drop(store);
    // A crash left a half-written frame with the text in it.
    let last = (1..)
        .take_while(|n| segment(&options, *n).exists())
        .last()
        .unwrap();
    let mut torn = fs::read(segment(&options, last)).unwrap();
    torn.extend(CANARY);
    fs::write(segment(&options, last), torn).unwrap();
    let store = FsStore::open(&options).unwrap();
    assert!(
        holds_canary(&options.directory).len() > 3,
        "the canary is planted"
    );
    let whole: Vec<StoredEvent> = all_events(&store).await;

    let purge = removal(9_000, Removal::Stream(stream("session/doomed")));
    let purge = purge.row(RowChange::Retire(scope("turn/doomed/1")));
    store.commit(purge).await.unwrap();
    let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 1);
    let drop_aside = CleanOptions { drop_aside: true };
    store.clean(drop_aside, |_| ()).await.unwrap();
    assert_eq!(holds_canary(&options.directory), [""; 0]);

    for reopened in [false, true] {
        let now = match reopened {
            false => all_events(&store).await,
            true => all_events(&FsStore::open_read_only(&options).unwrap()).await,
        };
        assert_eq!(now.len(), whole.len());
        for (now, before) in now.iter().zip(&whole) {
            assert_eq!(
                (now.position, &now.places),
                (before.position, &before.places)
            );
            let is_doomed = before.places[0].stream == stream("session/doomed");
            assert_eq!(now.erased, is_doomed);
            assert!(is_doomed || now.body == before.body);
        }
    }
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
}

/// S6: a crash anywhere in a cleaning leaves a store that tells the same: every file it writes
/// comes before every one it removes.
#[tokio::test]
async fn s6_what_a_base_stands_for_may_still_be_there() {
    let parent = in_memory();
    let options = small(parent.path(), 64);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..200).await;
    let through = Removal::Through(Position(190));
    store.commit(removal(10_000, through)).await.unwrap();
    let before = told(&store, 0..200).await;
    let segments = options.directory.join("segments");
    let copies: Vec<_> = fs::read_dir(&segments)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.clone(), fs::read(path).unwrap())
        })
        .collect();
    clean(&store).await;
    store.close().await.unwrap();
    drop(store);
    for (path, bytes) in copies {
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
    }
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    assert_eq!(told(&store, 0..200).await, before);
    assert!(!segment(&options, 1).exists(), "it was removed on opening");
}

/// R6: every flipped bit of a base is found, or changes nothing that is told.
#[tokio::test]
async fn r6_flipped_bits_of_a_base_are_found() {
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path(), 65);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..64).await;
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    store.close().await.unwrap();
    drop(store);
    let segments = options.directory.join("segments");
    let base = fs::read_dir(segments)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let base = base
        .into_iter()
        .find(|path| path.extension().unwrap() == "base");
    let base = base.expect("a base was made");
    let whole = fs::read(&base).unwrap();
    let step = if std::env::var_os("FS_STORE_EVERY_CASE").is_some() {
        1
    } else {
        23
    };
    let mut cases = 0;
    for bit in (0..whole.len() * 8).step_by(step) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&base, &flipped).unwrap();
        let report = verify(&options.directory).unwrap();
        assert!(!report.damage.is_empty(), "bit {bit} was not found");
        cases += 1;
    }
    fs::write(&base, &whole[..whole.len() - 8]).unwrap();
    assert!(
        !verify(&options.directory).unwrap().damage.is_empty(),
        "a cut base"
    );
    crate::support::print_row("R6-base", cases, started);
}

/// S6: a cleaning says what it did and how far it has come; the next one finds nothing to do.
#[tokio::test]
async fn s6_a_cleaning_says_what_it_did() {
    let parent = in_memory();
    let options = small(parent.path(), 66);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..100).await;
    store
        .commit(removal(10_000, Removal::Through(Position(60))))
        .await
        .unwrap();
    fs::write(options.directory.join("aside/kept.tail"), b"x").unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let drop_aside = CleanOptions { drop_aside: true };
    let report = store
        .clean(drop_aside, move |at| tell.send(at).unwrap())
        .await
        .unwrap();
    let last: Progress = told.iter().last().unwrap();
    assert_eq!(
        (last.done, last.total),
        (report.bytes_before, report.bytes_before)
    );
    assert!(
        report.segments_rewritten > 0 && report.aside_removed == 1,
        "{report:?}"
    );
    // The segment that is written to has a header only.
    assert_eq!(report.bytes_after, segment_bytes(&options) - 64);
    assert!(report.bytes_after < report.bytes_before, "{report:?}");
    let again = clean(&store).await;
    assert_eq!((again.segments_removed, again.segments_rewritten), (0, 0));
    assert_eq!(
        (again.bytes_before, again.bytes_after),
        (report.bytes_after, report.bytes_after)
    );
}
