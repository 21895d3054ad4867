//! Caring for a store: cleaning, purge, export and import, backup, repair (S6, S7).

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use runtime_core::{Classified, Tier};
use runtime_fs_store::{
    CleanOptions, CleanReport, Damage, ExportError, FsLimits, FsStore, FsStoreOptions,
    MaintenanceError, RepairAction, backup, export, import, repair, verify,
};
use runtime_store::{
    AttachmentStore, Commit, CommitError, Page, Position, Progress, ReadError, Removal, Row,
    RowChange, RowQuery, Store, StoredEvent,
};
use runtime_testkit::SeededRandom;
use serde_json::Value;

use crate::support::{
    all_events, body, commit, commit_id, in_memory, numbers, options, read_events, scope, segment,
    stream,
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

pub(crate) fn removal(number: u64, removal: Removal) -> Commit {
    let time = runtime_core::Timestamp::from_millis(number);
    Commit::new(commit_id(number), time).remove(removal)
}

async fn clean(store: &FsStore) -> CleanReport {
    store.clean(CleanOptions::default(), |_| ()).await.unwrap()
}

async fn rows(store: &FsStore) -> Vec<Row> {
    let all = Page::after(None, 256);
    let page = store.rows(RowQuery::space("state"), all).await;
    page.unwrap().rows
}

/// Everything that readers are told.
async fn told(
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

fn segment_bytes(options: &FsStoreOptions) -> u64 {
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    let lengths = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    lengths.sum()
}

fn segment_files(options: &FsStoreOptions) -> usize {
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

fn exported(options: &FsStoreOptions) -> Vec<u8> {
    let mut lines = Vec::new();
    export(&options.directory, &mut lines, &mut |_| ()).unwrap();
    lines
}

/// S7: an export of a running store, imported, tells the same: events and stubs, rows and the
/// events they hold, streams, what is remembered, attachments; positions go on.
#[tokio::test]
async fn s7_an_import_tells_what_the_export_was_told() {
    let parent = in_memory();
    let from = small(parent.path(), 71);
    let store = FsStore::open(&from).unwrap();
    let attachment = store.put_attachment(vec![0xff, 0, 7].into()).await.unwrap();
    fill(&store, 0..40).await;
    let mut naming = commit(40);
    naming.attachments = vec![attachment];
    naming.events[0].body = vec![0xfe, 0xff].into();
    naming.events[0].closes = true;
    naming.events[0].streams[0] = stream("turn/a/1");
    store.commit(naming).await.unwrap();
    store
        .commit(removal(10_000, Removal::Through(Position(20))))
        .await
        .unwrap();
    let erase = Removal::Stream(stream("worker/1"));
    store.commit(removal(10_001, erase)).await.unwrap();
    let before = told(&store, 0..41).await;
    let lines = exported(&from);

    let other = tempfile::tempdir_in(parent.path()).unwrap();
    let to = small(other.path(), 72);
    let report = import(&mut &lines[..], &to, None, &mut |_| ()).unwrap();
    assert_eq!((report.events, report.attachments), (21, 1));
    let copy = FsStore::open(&to).unwrap();
    assert_eq!(copy.report().damage, []);
    assert_eq!(told(&copy, 0..41).await, before);
    assert_eq!(copy.identity().runtime, store.identity().runtime);
    assert_ne!(copy.identity().lineage, store.identity().lineage);
    assert_eq!(&*copy.attachment(&attachment).await.unwrap(), [0xff, 0, 7]);
    assert!(copy.commit(commit(5)).await.unwrap().repeated);
    let late = copy.commit(commit(41)).await.unwrap();
    assert_eq!(late.positions, 42..43);
    let swept = copy.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 0, "it is still named");
    let mut closed = commit(42);
    closed.events[0].streams[0] = stream("turn/a/1");
    let refused = copy.commit(closed).await;
    assert!(
        matches!(refused, Err(CommitError::Rejected { .. })),
        "{refused:?}"
    );
    copy.close().await.unwrap();
    assert_eq!(verify(&to.directory).unwrap().damage, []);
    // There is something now.
    let again = import(&mut &lines[..], &to, None, &mut |_| ());
    assert!(matches!(again, Err(MaintenanceError::TargetExists { .. })));
}

/// S7: half an export, or one that was changed, is refused and makes no store.
#[tokio::test]
async fn s7_a_damaged_export_makes_no_store() {
    let parent = in_memory();
    let from = small(parent.path(), 73);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..10).await;
    let lines = exported(&from);
    let text = String::from_utf8(lines).unwrap();
    let all: Vec<&str> = text.lines().collect();
    let cut = all[..all.len() - 1].join("\n");
    let mut missing = all.clone();
    missing.remove(all.len() / 2);
    let noise = text.replacen("\"position\"", "\"position", 1);
    for broken in [cut, missing.join("\n"), noise, String::new()] {
        let other = tempfile::tempdir_in(parent.path()).unwrap();
        let to = small(other.path(), 74);
        let result = import(&mut broken.as_bytes(), &to, None, &mut |_| ());
        assert!(
            matches!(
                result,
                Err(MaintenanceError::Export(ExportError::Bad { .. }))
            ),
            "{result:?}"
        );
        assert!(FsStore::open_read_only(&to).is_err());
    }
}

/// S7: a backup that is made while commits go on is a prefix of them that can be opened, with a
/// lineage of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_backup_of_a_running_store_is_a_prefix() {
    let parent = in_memory();
    let from = small(parent.path(), 75);
    let store = std::sync::Arc::new(FsStore::open(&from).unwrap());
    fill(&store, 0..50).await;
    let writer = {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            for number in 50..400 {
                store.commit(commit(number)).await.unwrap();
                if number == 200 {
                    let through = Removal::Through(Position(150));
                    store.commit(removal(10_000, through)).await.unwrap();
                    clean(&store).await;
                }
            }
        })
    };
    for round in 0..6 {
        let target = parent.path().join(format!("copy-{round}"));
        let source = from.directory.clone();
        let copied = target.clone();
        tokio::task::spawn_blocking(move || {
            backup(&source, &copied, &SeededRandom::new(round), &mut |_| ()).unwrap();
        })
        .await
        .unwrap();
        assert_eq!(verify(&target).unwrap().damage, []);
        let copy = FsStore::open(&FsStoreOptions {
            directory: target,
            ..from.clone()
        })
        .unwrap();
        let found = numbers(&copy).await;
        let first = found[0];
        assert!(first == 0 || first == 150, "it begins at {first}");
        let last = first + found.len() as u64;
        assert_eq!(found, (first..last).collect::<Vec<_>>());
        assert!(last >= 50);
        assert_ne!(copy.identity().lineage, store.identity().lineage);
        assert_eq!(
            copy.commit(commit(1_000)).await.unwrap().positions.start,
            last + 1
        );
    }
    writer.await.unwrap();
}

fn flip(options: &FsStoreOptions, text: &[u8]) {
    let path = segment(options, 1);
    let mut bytes = fs::read(&path).unwrap();
    let found = bytes.windows(text.len()).position(|found| found == text);
    bytes[found.expect("the text is there")] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// S7: a repair says what it gives up, changes nothing before it is told to, and afterwards the
/// rest is there and takes commits.
#[tokio::test]
async fn s7_a_repair_gives_up_what_is_damaged_and_nothing_else() {
    for whole_header in [true, false] {
        let parent = in_memory();
        let options = options(parent.path(), 76);
        let store = FsStore::open(&options).unwrap();
        fill(&store, 0..8).await;
        store.close().await.unwrap();
        drop(store);
        match whole_header {
            true => flip(&options, &body(3)),
            false => flip(&options, b"worker/3"),
        }
        let damaged = fs::read(segment(&options, 1)).unwrap();
        let plan = repair(&options, false).unwrap();
        assert!(!plan.applied);
        let [
            RepairAction::GiveUp {
                positions, names, ..
            },
        ] = &plan.actions[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(*positions, 4..5);
        assert_eq!(names.contains(&"worker/3".to_owned()), whole_header);
        assert_eq!(
            fs::read(segment(&options, 1)).unwrap(),
            damaged,
            "a dry run"
        );

        let done = repair(&options, true).unwrap();
        assert!(done.applied && done.lineage_renewed);
        let kept = fs::read(options.directory.join(&done.kept_aside[0])).unwrap();
        assert_eq!(kept, damaged);
        assert_eq!(verify(&options.directory).unwrap().damage, []);
        assert_eq!(repair(&options, false).unwrap().actions, []);
        let store = FsStore::open(&options).unwrap();
        let page = store
            .events(None, Page::after(Position(0), 100))
            .await
            .unwrap();
        assert_eq!(page.events.len(), 3);
        let lost = store.events(None, Page::after(Position(3), 100)).await;
        assert!(lost.is_err(), "the lost event is told of, not left out");
        let rest = store
            .events(None, Page::after(Position(4), 100))
            .await
            .unwrap();
        assert_eq!(rest.events.len(), 4);
        store.commit(commit(11)).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(verify(&options.directory).unwrap().damage, []);
    }
}

/// S7: whatever bit of a log is flipped, a repair leaves a store that is whole and takes commits.
#[tokio::test]
async fn s7_every_damage_to_a_log_can_be_repaired() {
    let started = std::time::Instant::now();
    let parent = in_memory();
    let options = small(parent.path(), 77);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..24).await;
    store.close().await.unwrap();
    drop(store);
    let path = segment(&options, 1);
    let whole = fs::read(&path).unwrap();
    let step = if std::env::var_os("FS_STORE_EVERY_CASE").is_some() {
        3
    } else {
        331
    };
    let mut cases = 0;
    for bit in (0..whole.len() * 8).step_by(step) {
        let case = tempfile::tempdir_in(parent.path()).unwrap();
        let copy = FsStoreOptions {
            directory: case.path().join("store"),
            ..options.clone()
        };
        backup(
            &options.directory,
            &copy.directory,
            &SeededRandom::new(1),
            &mut |_| (),
        )
        .unwrap();
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(segment(&copy, 1), flipped).unwrap();
        repair(&copy, true).unwrap();
        let damage = verify(&copy.directory).unwrap().damage;
        let is_repaired = damage
            .iter()
            .all(|damage| matches!(damage, Damage::LostTail { .. }));
        assert!(is_repaired, "bit {bit}: {damage:?}");
        let store = FsStore::open(&copy).unwrap();
        assert_eq!(store.report().read_only, None, "bit {bit}");
        store.commit(commit(1_000)).await.unwrap();
        store.close().await.unwrap();
        cases += 1;
    }
    crate::support::print_row("R6-repair", cases, started);
}

/// S7: damaged keys and attachments are replaced and put aside.
#[tokio::test]
async fn s7_a_repair_reaches_keys_and_attachments() {
    let parent = in_memory();
    let options = options(parent.path(), 78);
    let store = FsStore::open(&options).unwrap();
    let digest = store
        .put_attachment(b"bytes".to_vec().into())
        .await
        .unwrap();
    store.close().await.unwrap();
    drop(store);
    let name = digest.to_string();
    let attachment = options
        .directory
        .join("attachments")
        .join(&name[..2])
        .join(&name);
    fs::write(&attachment, b"other").unwrap();
    fs::write(options.directory.join("keys"), b"noise").unwrap();
    let done = repair(&options, true).unwrap();
    assert_eq!(done.actions.len(), 2, "{done:?}");
    assert!(!done.lineage_renewed);
    let store = FsStore::open(&options).unwrap();
    assert!(store.attachment(&digest).await.is_err());
    assert_eq!(verify(&options.directory).unwrap().damage, []);
}

/// The places of the frames in a file of the log, one after another.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut at = 64;
    while bytes.get(at..at + 4) == Some(b"ARFr") {
        let header = u16::from_le_bytes(bytes[at + 6..at + 8].try_into().unwrap());
        let payload = u32::from_le_bytes(bytes[at + 40..at + 44].try_into().unwrap());
        let end = at + usize::from(header) + usize::try_from(payload).unwrap();
        frames.push(at..end);
        at = end;
    }
    frames
}

/// S4, S7: what a cut has discarded stays discarded when the header that says so is damaged, and
/// what came after the cut is not given up for it.
#[tokio::test]
async fn s4_discarded_frames_stay_discarded_without_the_header_that_says_so() {
    let parent = in_memory();
    // At this tier no frame has a mark that covers the one before.
    let options = options(parent.path(), 79).tier(Tier::Crash);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..4).await;
    drop(store);
    flip(&options, b"worker/1");
    let store = FsStore::open(&options).unwrap();
    assert!(store.report().cut.is_some(), "{:?}", store.report());
    fill(&store, 10..14).await;
    let expected = [0, 10, 11, 12, 13];
    assert_eq!(numbers(&store).await, expected);
    store.close().await.unwrap();
    drop(store);
    let path = segment(&options, 2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let store = FsStore::open(&options).unwrap();
    let damage = &store.report().damage;
    assert_eq!(*damage, [Damage::SegmentHeader { segment: 2 }]);
    assert!(store.report().read_only.is_some());
    assert_eq!(numbers(&store).await, expected);
    drop(store);
    let done = repair(&options, true).unwrap();
    assert!(
        matches!(done.actions[..], [RepairAction::RenewHeader { .. }]),
        "{done:?}"
    );
    assert!(!done.lineage_renewed, "nothing is lost");
    bytes[40] ^= 1;
    assert_eq!(fs::read(&path).unwrap(), bytes, "it is as it was");
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    assert_eq!(numbers(&store).await, expected);
    store.commit(commit(14)).await.unwrap();
}

/// S4, S7: a base that ends early is damage that can be repaired, also where a frame ends.
#[tokio::test]
async fn s7_a_base_that_was_cut_between_two_frames_can_be_repaired() {
    let parent = in_memory();
    let options = small(parent.path(), 80);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..64).await;
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    store.close().await.unwrap();
    drop(store);
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let base = paths.find(|path| path.extension().unwrap() == "base");
    let base = base.expect("a base was made");
    let whole = fs::read(&base).unwrap();
    let last = frames(&whole).pop().unwrap();
    assert_eq!(last.end, whole.len());
    fs::write(&base, &whole[..last.start]).unwrap();

    assert!(
        FsStore::open(&options)
            .unwrap()
            .report()
            .read_only
            .is_some()
    );
    let plan = repair(&options, false).unwrap();
    let cut = last.start as u64..last.end as u64;
    assert!(
        matches!(&plan.actions[..], [RepairAction::GiveUp { bytes, .. }] if *bytes == cut),
        "{plan:?}"
    );
    repair(&options, true).unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().read_only, None);
    store.commit(commit(64)).await.unwrap();
}

/// S4, S7: in a segment that others follow nothing is filled ahead. Where it is still there, a
/// write was lost, and a repair gives up that and nothing else.
#[tokio::test]
async fn s4_what_fills_a_sealed_segment_is_a_lost_write() {
    let parent = in_memory();
    let options = small(parent.path(), 81);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(0)).await.unwrap();
    drop(store);
    let path = segment(&options, 1);
    let filled = fs::read(&path).unwrap();
    let store = FsStore::open(&options).unwrap();
    fill(&store, 1..60).await;
    store.close().await.unwrap();
    drop(store);
    assert!(segment(&options, 3).exists());
    let mut bytes = fs::read(&path).unwrap();
    let last = frames(&bytes).pop().unwrap();
    assert_eq!(last.end, bytes.len());
    // A word that fills is the inverted offset and something that is the same in all of a segment.
    let word = |at: usize| u64::from_le_bytes(filled[at..at + 8].try_into().unwrap());
    let at = filled.len() - 8;
    let salt = word(at) ^ !(at as u64);
    assert_eq!(word(at - 8), salt ^ !(at as u64 - 8), "it is filled");
    for at in last.clone().step_by(8) {
        bytes[at..at + 8].copy_from_slice(&(salt ^ !(at as u64)).to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();

    let lost = last.start as u64..last.end as u64;
    let found = verify(&options.directory).unwrap();
    let damage = Damage::Header {
        segment: 1,
        bytes: lost.clone(),
    };
    assert_eq!(found.damage, [damage]);
    assert!(found.read_only.is_some());
    let plan = repair(&options, false).unwrap();
    let [
        RepairAction::GiveUp {
            bytes, positions, ..
        },
    ] = &plan.actions[..]
    else {
        panic!("{plan:?}");
    };
    assert_eq!((bytes, positions.end - positions.start), (&lost, 1));
    let gone = positions.start;
    repair(&options, true).unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().read_only, None);
    let rest = Page::after(Position(gone), 256);
    let rest = store.events(None, rest).await.unwrap();
    let rest: Vec<u64> = rest.events.iter().map(crate::support::number).collect();
    assert_eq!(rest, (gone..60).collect::<Vec<_>>());
    store.commit(commit(60)).await.unwrap();
}

/// S7: a repair clears checkpoints and sidecars, and no file that is not the store's.
#[tokio::test]
async fn s7_a_repair_leaves_foreign_files_alone() {
    let parent = in_memory();
    let options = small(parent.path(), 79);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..100).await;
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let caches = options.directory.join("checkpoints");
    let own = fs::read_dir(&caches).unwrap().count();
    assert!(own > 1);
    fs::write(caches.join("0000000001.checkpoint.new"), b"cut").unwrap();
    fs::write(caches.join("0000000001.log.sidecar.new"), b"cut").unwrap();
    let foreign = ["notes", "notes.new", "1.checkpoint", "0000000001.log"];
    for name in foreign {
        fs::write(caches.join(name), b"mine").unwrap();
    }
    // A repair that has something to do.
    fs::write(options.directory.join("keys"), b"noise").unwrap();
    assert!(repair(&options, true).unwrap().applied);
    let mut left: Vec<_> = fs::read_dir(&caches)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = foreign.to_vec();
    expected.sort_unstable();
    assert_eq!(left, expected);
    // Nor does a checkpoint that is written remove them.
    let store = FsStore::open(&options).unwrap();
    store.checkpoint().await.unwrap();
    for name in foreign {
        assert!(caches.join(name).exists(), "{name}");
    }
    store.close().await.unwrap();
    drop(store);

    // Files elsewhere are not removed either.
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&caches, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &caches).unwrap();
    let there = fs::read_dir(&elsewhere).unwrap().count();
    fs::write(options.directory.join("keys"), b"noise").unwrap();
    let refused = repair(&options, true).unwrap_err();
    assert_eq!(refused.code(), "store_symlink");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), there);
}

/// S7: what the lines of an export say is not believed: a name, a place or a position that no
/// store has is refused with its line, nothing panics, and there is no store.
#[tokio::test]
async fn s7_an_import_believes_no_line() {
    type Change = fn(&mut Vec<Value>, &Lines);
    /// The line that is named, from 0.
    type Wrong = fn(&Lines) -> usize;
    let parent = in_memory();
    let from = small(parent.path(), 81);
    let store = FsStore::open(&from).unwrap();
    // Its own stream ends before what is served.
    let mut alone = commit(0);
    alone.events[0].streams[0] = stream("turn/a/1");
    store.commit(alone).await.unwrap();
    fill(&store, 1..6).await;
    let through = Removal::Through(Position(2));
    store.commit(removal(10_000, through)).await.unwrap();
    let lines = exported(&from);
    let lines: Vec<Value> = serde_json::Deserializer::from_slice(&lines)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let first = |kind: &str| lines.iter().position(|line| line["type"] == kind).unwrap();
    let served = |line: &Value| line["type"] == "event" && line["position"] == 4;
    let at = Lines {
        commit: first("commit"),
        event: lines.iter().position(served).unwrap(),
        row: first("row"),
        stream: first("stream"),
        end: lines.len() - 1,
    };
    let whole = |lines: &[Value]| {
        let lines = lines.iter().map(|line| format!("{line}\n"));
        lines.collect::<String>()
    };
    let attempt = |text: &str, seed| {
        let other = tempfile::tempdir_in(parent.path()).unwrap();
        let to = small(other.path(), seed);
        let imported = import(&mut text.as_bytes(), &to, None, &mut |_| ());
        let opened = FsStore::open_read_only(&to).is_ok();
        (imported, opened)
    };
    let (imported, opened) = attempt(&whole(&lines), 82);
    assert!(opened, "{imported:?}");
    let changes: [(&str, Wrong, Change); 20] = [
        (
            "a long name",
            |at| at.row,
            |lines, at| {
                lines[at.row]["name"] = "n".repeat(70_000).into();
            },
        ),
        (
            "a long space",
            |at| at.row,
            |lines, at| {
                lines[at.row]["space"] = "s".repeat(65).into();
            },
        ),
        (
            "a blank space",
            |at| at.row,
            |lines, at| lines[at.row]["space"] = "".into(),
        ),
        (
            "a long body",
            |at| at.row,
            |lines, at| {
                lines[at.row]["body"] = "b".repeat(5 << 20).into();
            },
        ),
        (
            "the last version",
            |at| at.row,
            |lines, at| {
                lines[at.row]["version"] = u64::MAX.into();
            },
        ),
        (
            "an event of a row after the head",
            |at| at.row,
            |lines, at| {
                lines[at.row]["event"]["position"] = (1_u64 << 60).into();
            },
        ),
        (
            "an event of a row at 0",
            |at| at.row,
            |lines, at| {
                lines[at.row]["event"]["position"] = 0.into();
            },
        ),
        (
            "many places",
            |at| at.event,
            |lines, at| {
                let place = lines[at.event]["places"][0].clone();
                let place = |number| {
                    let mut place = place.clone();
                    place["stream"] = format!("many/{number}").into();
                    place
                };
                lines[at.event]["places"] = (0..300).map(place).collect();
            },
        ),
        (
            "a large number in a stream",
            |at| at.event,
            |lines, at| {
                lines[at.event]["places"][0]["seq"] = u64::MAX.into();
            },
        ),
        (
            "an event after itself",
            |at| at.event,
            |lines, at| {
                lines[at.event]["places"][0]["previous"] = 4.into();
            },
        ),
        (
            "an event twice",
            |at| at.event,
            |lines, at| {
                lines[at.event]["position"] = 3.into();
            },
        ),
        (
            "an event that is not next",
            |at| at.event,
            |lines, at| {
                lines[at.event]["position"] = 5.into();
            },
        ),
        (
            "an event after the head",
            |at| at.event,
            |lines, at| {
                lines[at.event]["position"] = 7.into();
            },
        ),
        (
            "a head far away",
            |at| at.end,
            |lines, _| lines[0]["head"] = (1_u64 << 60).into(),
        ),
        (
            "the last head",
            |_| 0,
            |lines, _| lines[0]["head"] = u64::MAX.into(),
        ),
        (
            "more pruned than there was",
            |_| 0,
            |lines, _| lines[0]["pruned"] = 7.into(),
        ),
        (
            "a commit at 0",
            |at| at.commit,
            |lines, at| {
                lines[at.commit]["first_position"] = 0.into();
            },
        ),
        (
            "a commit far away",
            |at| at.commit,
            |lines, at| {
                lines[at.commit]["first_position"] = (1_u64 << 60).into();
            },
        ),
        (
            "a commit of many events",
            |at| at.commit + 1,
            |lines, at| {
                lines[at.commit]["events"] = u32::MAX.into();
            },
        ),
        (
            "a stream after the head",
            |at| at.stream,
            |lines, at| {
                lines[at.stream]["last"] = (1_u64 << 60).into();
            },
        ),
    ];
    for (seed, (what, wrong, change)) in (83..).zip(changes) {
        let mut changed = lines.clone();
        change(&mut changed, &at);
        let (imported, opened) = attempt(&whole(&changed), seed);
        let Err(MaintenanceError::Export(ExportError::Bad { line, .. })) = imported else {
            panic!("{what}: {imported:?}");
        };
        assert_eq!(line, wrong(&at) as u64 + 1, "{what}");
        assert!(!opened, "{what}");
    }
}

/// Where lines of an export are, from 0.
struct Lines {
    commit: usize,
    event: usize,
    row: usize,
    stream: usize,
    end: usize,
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

/// S7: an export and an import say what they wrote and how far they have come.
#[tokio::test]
async fn s7_an_export_says_what_it_wrote() {
    let parent = in_memory();
    let from = small(parent.path(), 79);
    let store = FsStore::open(&from).unwrap();
    store
        .put_attachment(b"bytes".to_vec().into())
        .await
        .unwrap();
    fill(&store, 0..40).await;
    store
        .commit(removal(10_000, Removal::Through(Position(20))))
        .await
        .unwrap();
    let (mut lines, mut last) = (Vec::new(), None);
    let report = export(&from.directory, &mut lines, &mut |at| last = Some(at)).unwrap();
    let rows = rows(&store).await.len() as u64;
    assert_eq!(
        (report.events, report.rows, report.attachments),
        (20, rows, 1)
    );
    let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(report.lines, count);
    assert_eq!(
        last,
        Some(Progress {
            done: 20,
            total: 20
        })
    );
    let other = tempfile::tempdir_in(parent.path()).unwrap();
    let to = small(other.path(), 80);
    let report = import(&mut &lines[..], &to, None, &mut |at| last = Some(at)).unwrap();
    assert_eq!((report.events, report.rows), (20, rows));
    assert_eq!(
        last,
        Some(Progress {
            done: 20,
            total: 20
        })
    );
}

/// S7: a backup copies attachments too, and says what it copied.
#[tokio::test]
async fn s7_a_backup_copies_attachments_and_says_so() {
    let parent = in_memory();
    let from = small(parent.path(), 81);
    let store = FsStore::open(&from).unwrap();
    let digest = store
        .put_attachment(b"bytes".to_vec().into())
        .await
        .unwrap();
    fill(&store, 0..40).await;
    store.close().await.unwrap();
    let target = parent.path().join("copy");
    let mut last = None;
    let report = backup(&from.directory, &target, &SeededRandom::new(1), &mut |at| {
        last = Some(at)
    });
    let report = report.unwrap();
    assert_eq!(
        (report.segments, report.attachments),
        (segment_files(&from) as u64, 1)
    );
    let keys = fs::metadata(from.directory.join("keys")).unwrap().len();
    assert_eq!(report.bytes, segment_bytes(&from) + 5 + keys);
    assert_eq!(
        last,
        Some(Progress {
            done: report.bytes,
            total: report.bytes
        })
    );
    let copy = FsStore::open(&FsStoreOptions {
        directory: target,
        ..from.clone()
    })
    .unwrap();
    assert_eq!(&*copy.attachment(&digest).await.unwrap(), b"bytes");
}

/// S4, S7: checkpoints of the log as it was go with a repair; a new one tells of the gap as the log does.
#[tokio::test]
async fn s7_a_checkpoint_after_a_repair_tells_of_the_gap() {
    let parent = in_memory();
    let options = options(parent.path(), 82);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.checkpoint().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    flip(&options, &body(3));
    repair(&options, true).unwrap();
    let caches = fs::read_dir(options.directory.join("checkpoints")).unwrap();
    assert_eq!(caches.count(), 0);
    let mut store = FsStore::open(&options).unwrap();
    store.checkpoint().await.unwrap();
    for reopened in [false, true] {
        if reopened {
            store.close().await.unwrap();
            drop(store);
            store = FsStore::open(&options).unwrap();
            assert_eq!(store.report().commits, 0, "it begins at the checkpoint");
        }
        for topic in [None, Some(stream("session/all"))] {
            let read = async |after| {
                let page = store
                    .events(topic.as_ref(), Page::after(Position(after), 100))
                    .await?;
                let found = page
                    .events
                    .iter()
                    .map(|event| event.position.0)
                    .collect::<Vec<_>>();
                Ok::<_, ReadError>((found, page.has_more))
            };
            assert_eq!(read(0).await.unwrap(), (vec![1, 2, 3], true), "{topic:?}");
            let lost = read(3).await.unwrap_err().to_string();
            assert_eq!(lost, "damaged: events at positions 4 to 4", "{topic:?}");
            assert_eq!(
                read(4).await.unwrap(),
                (vec![5, 6, 7, 8], false),
                "{topic:?}"
            );
        }
    }
}
