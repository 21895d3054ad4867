//! Copying a store while it moves (S7): cleaned, opened, or swept in the middle of it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use runtime_core::{Classified, Clock, Digest, Sleep, Timestamp};
use runtime_fs_store::{BackupReport, FsStore, FsStoreOptions, MaintenanceError, backup, verify};
use runtime_store::{AttachmentStore, Commit, Position, Progress, Removal, RowChange, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};

use crate::care::{clean, fill, removal, rows, segment_bytes, small};
use crate::support::{commit, commit_id, in_memory, numbers, options, run, scope, segment};

fn copied(
    from: &FsStoreOptions,
    target: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, MaintenanceError> {
    backup(&from.directory, target, &SeededRandom::new(1), progress)
}

fn at(target: &Path, from: &FsStoreOptions) -> FsStoreOptions {
    FsStoreOptions {
        directory: target.to_owned(),
        ..from.clone()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// S7: a cleaning in the middle of a backup takes away what was about to be copied. The copy begins
/// again, and nothing that the cleaning removed is left in it.
#[test]
fn s7_a_backup_begins_again_when_a_cleaning_moves_the_log() {
    let parent = in_memory();
    let from = small(parent.path(), 130);
    let store = FsStore::open(&from).unwrap();
    run(fill(&store, 0..100));
    let everything = Removal::Through(Position(u64::MAX));
    run(store.commit(removal(10_000, everything))).unwrap();
    let bytes = segment_bytes(&from);
    let target = parent.path().join("copy");
    let mut told = Vec::new();
    let report = copied(&from, &target, &mut |at| {
        if told.is_empty() {
            assert!(run(clean(&store)).segments_removed > 2);
            run(store.commit(commit(100))).unwrap();
        }
        told.push(at);
    });
    let report = report.unwrap();
    assert_eq!(told[0].total, bytes, "all of the log was to be copied");
    assert!(told[0].done < bytes);
    let segments = "segments";
    let left = names(&from.directory.join(segments));
    assert_eq!(names(&target.join(segments)), left);
    assert_eq!(report.segments, left.len() as u64);
    assert_eq!(verify(&target).unwrap().damage, []);
    let copy = FsStore::open(&at(&target, &from)).unwrap();
    assert_eq!(run(numbers(&copy)), [100]);
}

/// S7: what cannot be read is told at once; only what has moved is tried again.
#[tokio::test]
async fn s7_a_backup_of_what_cannot_be_read_is_not_tried_again() {
    let parent = in_memory();
    let from = small(parent.path(), 131);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..60).await;
    store.close().await.unwrap();
    drop(store);
    fs::remove_file(segment(&from, 2)).unwrap();
    fs::create_dir(segment(&from, 2)).unwrap();
    let mut files = 0;
    let refused = copied(&from, &parent.path().join("copy"), &mut |_| files += 1);
    assert_eq!(refused.unwrap_err().code(), "store_maintenance_io");
    assert_eq!(files, 0, "it is told before anything is copied");
}

/// S7, S8: of a log that is written to, what its writer has published is copied, not what it is
/// just writing behind it.
#[tokio::test]
async fn s7_a_backup_beside_a_writer_ends_where_the_log_is_durable() {
    let parent = in_memory();
    let from = options(parent.path(), 132);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..3).await;
    let hint = fs::read(from.directory.join("durable")).unwrap();
    let end = u64::from_le_bytes(hint[8..16].try_into().unwrap());
    let file = fs::File::options()
        .write(true)
        .open(segment(&from, 1))
        .unwrap();
    file.write_all_at(b"half a frame", end).unwrap();

    let target = parent.path().join("copy");
    copied(&from, &target, &mut |_| ()).unwrap();
    let length = fs::metadata(target.join("segments/0000000001.log")).unwrap();
    assert_eq!(length.len(), end);
    let found = verify(&target).unwrap();
    assert_eq!((found.cut, found.damage), (None, vec![]));
    store.commit(commit(3)).await.unwrap();
    assert_eq!(numbers(&store).await, [0, 1, 2, 3]);
}

/// A clock at which an opening says that it has taken the lock, and stops until it is told to go on.
#[derive(Debug)]
struct StopsOpening {
    clock: SimulatedClock,
    asked: AtomicUsize,
    locked: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Clock for StopsOpening {
    fn now(&self) -> Timestamp {
        // First it is asked for what the lock is signed with.
        if self.asked.fetch_add(1, Ordering::Relaxed) == 1 {
            self.locked.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.clock.sleep(duration)
    }
}

/// S7: a writer that is still opening the store has published nothing; a backup waits for it.
#[test]
fn s7_a_backup_waits_for_a_writer_that_is_still_opening() {
    let parent = in_memory();
    let from = options(parent.path(), 133);
    let store = FsStore::open(&from).unwrap();
    run(fill(&store, 0..10));
    run(store.close()).unwrap();
    drop(store);
    // Two openings are not always told apart by the times of files.
    let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    let hint = fs::File::options()
        .write(true)
        .open(from.directory.join("durable"))
        .unwrap();
    hint.set_modified(hour_ago).unwrap();
    let other = at(&parent.path().join("other"), &from);
    drop(FsStore::open(&other).unwrap());

    let (go_on, waits) = mpsc::channel();
    let (locked, is_locked) = mpsc::channel();
    let clock = StopsOpening {
        clock: SimulatedClock::new(Timestamp::from_millis(1_000)),
        asked: AtomicUsize::new(0),
        locked,
        go_on: Mutex::new(waits),
    };
    let slow = from
        .clone()
        .world(Arc::new(clock), Arc::new(SeededRandom::new(2)));
    let target = parent.path().join("copy");
    std::thread::scope(|scope| {
        let opening = scope.spawn(move || FsStore::open(&slow).unwrap());
        is_locked.recv().unwrap();
        let copying = scope.spawn(|| copied(&from, &target, &mut |_| ()));
        while !target.join("keys").exists() {
            std::thread::yield_now();
        }
        // By the time that others have been copied it is looking for what is published.
        for number in 0..4 {
            let target = parent.path().join(format!("other-{number}"));
            copied(&other, &target, &mut |_| ()).unwrap();
        }
        go_on.send(()).unwrap();
        let store = opening.join().unwrap();
        copying.join().unwrap().unwrap();
        drop(store);
    });
    assert_eq!(verify(&target).unwrap().damage, []);
    let copy = FsStore::open(&at(&target, &from)).unwrap();
    assert_eq!(run(numbers(&copy)), (0..10).collect::<Vec<_>>());
}

/// Two attachments that lie in the same directory.
fn neighbours() -> [(Vec<u8>, Digest); 2] {
    let of = |number: u32| {
        let bytes = number.to_be_bytes().to_vec();
        let digest = Digest::of_bytes(&bytes);
        (bytes, digest)
    };
    let first = of(0);
    let directory = first.1.to_string()[..2].to_owned();
    let mut others = (1..).map(of);
    let other = others.find(|(_, digest)| digest.to_string().starts_with(&directory));
    [first, other.expect("one of 256 is")]
}

fn attachment(directory: &Path, digest: &Digest) -> std::path::PathBuf {
    let name = digest.to_string();
    directory.join("attachments").join(&name[..2]).join(&name)
}

/// S7, E18: an attachment that a sweep has removed meanwhile is left out of a backup; one that
/// cannot be read is not.
#[tokio::test]
async fn s7_a_backup_leaves_out_only_attachments_that_are_gone() {
    let parent = in_memory();
    let from = options(parent.path(), 134);
    let store = FsStore::open(&from).unwrap();
    let both = neighbours();
    for (bytes, digest) in &both {
        let put = store.put_attachment(bytes.as_slice().into()).await.unwrap();
        assert_eq!(put, *digest);
    }
    store.close().await.unwrap();
    drop(store);
    let [swept, kept] = {
        let [(_, one), (_, other)] = &both;
        [one.max(other), one.min(other)]
    };
    let target = parent.path().join("copy");
    let report = copied(&from, &target, &mut |_| {
        if attachment(&target, kept).exists() {
            let _again = fs::remove_file(attachment(&from.directory, swept));
        }
    });
    assert_eq!(report.unwrap().attachments, 1);
    assert!(attachment(&target, kept).exists());
    assert!(!attachment(&target, swept).exists());

    fs::create_dir(attachment(&from.directory, swept)).unwrap();
    let target = parent.path().join("unreadable");
    let refused = copied(&from, &target, &mut |_| ()).unwrap_err();
    assert_eq!(refused.code(), "store_maintenance_io");
    assert!(verify(&target).is_err(), "what was copied is no store");
}

/// S7: after a cleaning that left nothing but a base the hint still says where the log ended before;
/// a backup beside the writer is a store that can be opened all the same.
#[test]
fn s7_a_backup_after_a_cleaning_of_everything_can_be_opened() {
    let parent = in_memory();
    let from = small(parent.path(), 135);
    let store = FsStore::open(&from).unwrap();
    run(fill(&store, 0..100));
    let everything = Removal::Through(Position(u64::MAX));
    run(store.commit(removal(10_000, everything))).unwrap();
    assert!(run(clean(&store)).segments_removed > 0);
    let target = parent.path().join("copy");
    copied(&from, &target, &mut |_| ()).unwrap();
    assert_eq!(verify(&target).unwrap().damage, []);
    let copy = FsStore::open(&at(&target, &from)).unwrap();
    assert_eq!(run(rows(&copy)), run(rows(&store)));
    assert_eq!(run(copy.commit(commit(100))).unwrap().positions, 101..102);
}

/// S7: a cleaning in the middle of a backup writes over rows that were put anew after what is
/// copied. The copy is of one moment all the same, and every row is whole in it.
#[test]
fn s7_a_backup_beside_a_cleaning_has_every_row() {
    let parent = in_memory();
    let from = small(parent.path(), 137);
    let store = FsStore::open(&from).unwrap();
    run(fill(&store, 0..100));
    let target = parent.path().join("copy");
    let mut is_first = true;
    let report = copied(&from, &target, &mut |_| {
        if std::mem::take(&mut is_first) {
            run(fill(&store, 100..120));
            assert!(run(clean(&store)).segments_rewritten > 2);
        }
    });
    report.unwrap();
    assert_eq!(verify(&target).unwrap().damage, []);
    let copy = FsStore::open(&at(&target, &from)).unwrap();
    let numbers = run(numbers(&copy));
    assert!(
        numbers.len() >= 100,
        "what was durable when it began: {numbers:?}"
    );
    let last = numbers.len() as u64;
    let expected = (last - 16..last).map(|number| number.to_be_bytes().to_vec());
    let mut expected: Vec<_> = expected.collect();
    let mut found: Vec<_> = run(rows(&copy))
        .iter()
        .map(|row| row.body.to_vec())
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

/// S7, E18: an attachment that the copied log names is in the copy, though what named it was pruned
/// and the attachment swept while the log was copied.
#[test]
fn s7_a_backup_has_the_attachments_that_its_log_names() {
    let parent = in_memory();
    let from = small(parent.path(), 138);
    let store = FsStore::open(&from).unwrap();
    let named = run(store.put_attachment((*b"named").into())).unwrap();
    let mut naming = commit(0);
    naming.attachments = vec![named];
    run(store.commit(naming)).unwrap();
    run(fill(&store, 1..100));
    let target = parent.path().join("copy");
    let mut swept = None;
    let report = copied(&from, &target, &mut |_| {
        if swept.is_none() && target.join("segments/0000000001.log").exists() {
            let everything = Removal::Through(Position(u64::MAX));
            run(store.commit(removal(10_000, everything))).unwrap();
            let retire = Commit::new(commit_id(10_001), Timestamp::from_millis(1));
            let retire = retire.row(RowChange::Retire(scope("worker/0")));
            run(store.commit(retire)).unwrap();
            let sweep = store.sweep_attachments(&|_| false, Duration::ZERO);
            swept = Some(run(sweep).unwrap());
        }
    });
    report.unwrap();
    assert_eq!(swept, Some(1));
    let copy = FsStore::open(&at(&target, &from)).unwrap();
    let events = run(numbers(&copy));
    let found = run(copy.attachment(&named));
    assert!(events.is_empty() || found.is_ok(), "{events:?}: {found:?}");
}
