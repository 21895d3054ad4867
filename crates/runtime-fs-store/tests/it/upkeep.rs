//! What goes on beside commits: attachments put by many at once, cleaning while the store is
//! closed, half-written files, backups after a crash, opening after a sync that failed.

use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use runtime_core::{Classified, Digest, Tier};
use runtime_fs_store::{CleanOptions, FsStore, FsStoreOptions, backup, submit_command, verify};
use runtime_store::{AttachmentStore, Position, Removal, Store};
use runtime_testkit::SeededRandom;

use crate::care::{CANARY, fill, holds_canary, removal, small};
use crate::support::{commit, commit_id, in_memory, numbers, options, run, segment};

/// E18: whoever is told that an attachment is there can read it, however many put the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e18_an_attachment_that_many_put_at_once_is_whole_for_each() {
    let parent = in_memory();
    let store = Arc::new(FsStore::open(&options(parent.path(), 80)).unwrap());
    for round in 0..50_u8 {
        let bytes: Arc<[u8]> = vec![round; 40_000].into();
        let mut putting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (store, bytes) = (Arc::clone(&store), Arc::clone(&bytes));
            putting.spawn(async move {
                let digest = store.put_attachment(Arc::clone(&bytes)).await?;
                store.attachment(&digest).await.map(|found| found == bytes)
            });
        }
        while let Some(put) = putting.join_next().await {
            assert!(put.unwrap().unwrap());
        }
    }
    assert_eq!(half_written(parent.path()), [""; 0]);
}

/// S8: the same command, left by many processes at once, is left once and whole.
#[tokio::test]
async fn s8_a_command_that_many_leave_at_once_is_whole() {
    let parent = in_memory();
    let options = options(parent.path(), 81);
    let store = FsStore::open(&options).unwrap();
    let body = vec![7; 100_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| submit_command(&options.directory, commit_id(1), &body).unwrap());
        }
    });
    let commands = store.inbox().unwrap().commands().await.unwrap();
    assert_eq!(commands.len(), 1);
    assert_eq!(*commands[0].body, *body);
    assert_eq!(half_written(parent.path()), [""; 0]);
}

/// The names of all temporary files below a directory.
fn half_written(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(half_written(&path));
        } else if path.extension().is_some_and(|extension| extension == "new") {
            found.push(path.display().to_string());
        }
    }
    found
}

/// S6: what a process left half-written when it was killed goes with the next opening, cleaning
/// and sweep, so that no purged byte stays in it.
#[tokio::test]
async fn s6_half_written_files_of_a_killed_process_are_removed() {
    let parent = in_memory();
    let options = options(parent.path(), 82);
    drop(FsStore::open(&options).unwrap());
    let digest = Digest::of_bytes(CANARY).to_string();
    let attachments = options.directory.join("attachments").join(&digest[..2]);
    fs::create_dir_all(&attachments).unwrap();
    let planted = [
        options.directory.join("segments/0000000001.log.7-0.new"),
        options.directory.join("segments/0000000003.base.new"),
        options.directory.join("keys.7-1.new"),
        options.directory.join("format.new"),
        attachments.join(format!("{digest}.7-2.new")),
        attachments.join(format!("{digest}.new")),
    ];
    for path in &planted {
        fs::write(path, CANARY).unwrap();
    }
    // Not the store's, though it looks like it.
    let foreign = options.directory.join("segments/notes.new");
    fs::write(&foreign, "mine").unwrap();
    assert_eq!(holds_canary(&options.directory).len(), planted.len());

    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().foreign, ["segments/notes.new"]);
    let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 0);
    assert_eq!(holds_canary(&options.directory), [""; 0]);
    assert!(foreign.exists());
}

/// S8: a command that is being written is left alone; one whose sender was killed long ago goes.
#[tokio::test]
async fn s8_half_written_commands_go_after_an_hour() {
    let parent = in_memory();
    let ordinary = FsStoreOptions::new(parent.path().join("store"));
    drop(FsStore::open(&ordinary).unwrap());
    let inbox = ordinary.directory.join("inbox");
    let [old, young] = [1, 2].map(|number| inbox.join(format!("{}.7-0.new", commit_id(number))));
    for path in [&old, &young] {
        fs::write(path, "half").unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3_601);
    let file = fs::File::options().write(true).open(&old).unwrap();
    file.set_modified(hour_ago).unwrap();
    let store = FsStore::open(&ordinary).unwrap();
    assert!(!old.exists());
    assert!(young.exists());
    assert_eq!(store.inbox().unwrap().commands().await.unwrap(), []);
    assert_eq!(store.foreign_in_inbox().unwrap(), [""; 0]);
}

/// S1, S6: whoever closes gives the lock back only once nothing of it works on the files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_closing_waits_for_a_cleaning_before_another_can_open() {
    let parent = in_memory();
    let options = small(parent.path(), 83);
    let store = Arc::new(FsStore::open(&options).unwrap());
    fill(&store, 0..200).await;
    let prune = removal(10_000, Removal::Through(Position(20)));
    store.commit(prune).await.unwrap();

    let (enter, entered) = mpsc::channel();
    let (go_on, waits) = mpsc::channel::<()>();
    let cleaning = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let progress = move |_| {
                let _ = enter.send(());
                let _ended = waits.recv();
            };
            store.clean(CleanOptions::default(), progress).await
        })
    };
    tokio::task::block_in_place(|| entered.recv()).unwrap();
    let hint = options.directory.join("durable");
    let open = fs::read(&hint).unwrap();
    let closing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.close().await })
    };
    // The last mark is written, and only the cleaning is left.
    while fs::read(&hint).unwrap() == open {
        tokio::task::yield_now().await;
    }
    let busy = FsStore::open(&options).unwrap_err();
    assert_eq!(busy.code(), "store_busy");
    assert!(!closing.is_finished());
    drop(go_on);
    closing.await.unwrap().unwrap();
    // It ended with the file that it was at, or was done.
    if let Err(refused) = cleaning.await.unwrap() {
        assert!(refused.to_string().contains("closed"), "{refused}");
    }
    assert!(store.clean(CleanOptions::default(), |_| ()).await.is_err());

    let store = FsStore::open(&options).unwrap();
    assert!(store.report().damage.is_empty());
    assert_eq!(numbers(&store).await, (20..200).collect::<Vec<_>>());
}

/// S3, S6: at tier Crash a cleaning rests on nothing that only the page cache holds: it syncs what
/// it seals, and once more what has come since when it knows what is alive.
#[tokio::test]
async fn s6_a_cleaning_syncs_what_it_rests_on() {
    let parent = in_memory();
    let options = small(parent.path(), 84).tier(Tier::Crash);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..40).await;
    let before = store.written().syncs;
    store.clean(CleanOptions::default(), |_| ()).await.unwrap();
    assert_eq!(store.written().syncs, before + 2);
}

/// S7: after a loss of power the hint is older than the log; a copy has all that an opening would
/// go on from.
#[tokio::test]
async fn s7_a_backup_does_not_trust_a_hint_that_nobody_stands_for() {
    let parent = in_memory();
    let from = small(parent.path(), 85);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..20).await;
    let hint = from.directory.join("durable");
    let early = fs::read(&hint).unwrap();
    fill(&store, 20..120).await;
    drop(store);
    fs::write(&hint, early).unwrap();

    let target = parent.path().join("copy");
    backup(&from.directory, &target, &SeededRandom::new(1), &mut |_| ()).unwrap();
    let copy = FsStoreOptions {
        directory: target,
        ..from
    };
    let copy = FsStore::open(&copy).unwrap();
    assert_eq!(numbers(&copy).await, (0..120).collect::<Vec<_>>());
}

/// S7: a log with a gap makes no copy.
#[tokio::test]
async fn s7_a_backup_of_an_incomplete_log_is_refused() {
    let parent = in_memory();
    let from = small(parent.path(), 86);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..120).await;
    store.close().await.unwrap();
    fs::remove_file(segment(&from, 2)).unwrap();
    let target = parent.path().join("copy");
    let refused = backup(&from.directory, &target, &SeededRandom::new(1), &mut |_| ());
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "store_maintenance_io");
    assert!(refused.to_string().contains("not complete"), "{refused}");
    assert!(verify(&target).is_err(), "what was copied is no store");
}

/// S5: what a sync has failed on is written once more before it is synced again: the page cache
/// may take it for written.
#[tokio::test]
async fn s5_opening_writes_again_what_no_mark_covers() {
    let parent = in_memory();
    let options = options(parent.path(), 87);
    let store = FsStore::open(&options).unwrap();
    let opening = store.written().bytes;
    store.commit(commit(1)).await.unwrap();
    let before = store.written().bytes;
    store.commit(commit(2)).await.unwrap();
    let frame = store.written().bytes - before;
    drop(store);
    let store = FsStore::open(&options).unwrap();
    // The last frame, which says of the one before that it was synced, and the mark.
    assert_eq!(store.written().bytes, frame + opening);
    store.close().await.unwrap();
    let store = FsStore::open(&options).unwrap();
    assert_eq!(
        store.written().bytes,
        2 * opening,
        "the last mark and a new one"
    );
    assert_eq!(numbers(&store).await, [1, 2]);
}

/// E18: a sweep forgets what it removed and nothing else: what is named stays named.
#[tokio::test]
async fn e18_what_is_named_outlives_every_sweep() {
    let parent = in_memory();
    let store = FsStore::open(&options(parent.path(), 88)).unwrap();
    let named = store.put_attachment((*b"named").into()).await.unwrap();
    let mut naming = commit(1);
    naming.attachments = vec![named];
    store.commit(naming).await.unwrap();
    for removed in [1, 0, 1] {
        if removed == 1 {
            store.put_attachment((*b"unnamed").into()).await.unwrap();
        }
        let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
        assert_eq!(swept.unwrap(), removed);
        assert_eq!(&*store.attachment(&named).await.unwrap(), b"named");
    }
}

/// E18, S6: what a commit names while a cleaning goes on is named after it, though the cleaning
/// writes a checkpoint that does not hold the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e18_what_is_named_during_a_cleaning_stays_named() {
    let parent = in_memory();
    let options = small(parent.path(), 89);
    let store = Arc::new(FsStore::open(&options).unwrap());
    fill(&store, 0..60).await;
    store.checkpoint().await.unwrap();
    fill(&store, 60..100).await;
    let prune = removal(10_000, Removal::Through(Position(90)));
    store.commit(prune).await.unwrap();

    let (enter, entered) = mpsc::channel();
    let (go_on, waits) = mpsc::channel::<()>();
    let cleaning = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let progress = move |_| {
                let _ = enter.send(());
                let _ended = waits.recv();
            };
            store.clean(CleanOptions::default(), progress).await
        })
    };
    tokio::task::block_in_place(|| entered.recv()).unwrap();
    let named = store.put_attachment((*b"named").into()).await.unwrap();
    let mut naming = commit(100);
    naming.attachments = vec![named];
    store.commit(naming).await.unwrap();
    drop(go_on);
    let cleaned = cleaning.await.unwrap().unwrap();
    assert!(cleaned.segments_removed > 0, "{cleaned:?}");
    let swept = store.sweep_attachments(&|_| false, Duration::ZERO).await;
    assert_eq!(swept.unwrap(), 0);
    assert_eq!(&*store.attachment(&named).await.unwrap(), b"named");
    assert_eq!(numbers(&store).await, (90..101).collect::<Vec<_>>());
}

/// S1, V6: whoever holds a store says under which start of the machine, which tells the next one
/// whether what only the page cache held is still there.
#[tokio::test]
async fn v6_a_holder_names_the_start_of_the_machine() {
    let parent = in_memory();
    let options = options(parent.path(), 90);
    let _store = FsStore::open(&options).unwrap();
    let holder = runtime_fs_store::holder(&options.directory).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let boot = boot.map(|boot| boot.trim_end().to_owned());
    assert_eq!(holder.unwrap().boot, boot);
}

/// S8: whoever looks into the inbox while commands are left there and taken away sees no failure
/// and nothing foreign: a command that is gone before it can be read is not there any more.
#[test]
fn s8_a_look_into_the_inbox_beside_its_holder_goes_well() {
    const COMMANDS: u64 = 500;
    let parent = in_memory();
    let options = options(parent.path(), 91);
    let store = FsStore::open(&options).unwrap();
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            for number in 0..COMMANDS {
                let id = commit_id(number);
                submit_command(&options.directory, id, b"command").unwrap();
                run(store.inbox().unwrap().forget(&id)).unwrap();
            }
        });
        while !taking.is_finished() {
            assert_eq!(store.foreign_in_inbox().unwrap(), [""; 0]);
        }
    });
    let left = run(store.inbox().unwrap().commands()).unwrap();
    assert_eq!(left, []);
}

/// S8: commands that are left by others while a store is opened keep it from nothing: what was
/// half-written a moment ago has its name by now, and is no left-over.
#[test]
fn s8_a_store_can_be_opened_while_commands_are_left() {
    const OPENINGS: u64 = 300;
    let parent = in_memory();
    let options = options(parent.path(), 92);
    drop(FsStore::open(&options).unwrap());
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sender in 1..=4 {
            let (ends, directory) = (&ends, &options.directory);
            scope.spawn(move || {
                let mut number = 0;
                while !ends.load(Ordering::Relaxed) {
                    number += 1;
                    let id = commit_id(sender << 32 | number);
                    submit_command(directory, id, b"command").unwrap();
                    fs::remove_file(directory.join("inbox").join(id.to_string())).unwrap();
                }
            });
        }
        let opened = (0..OPENINGS).find_map(|_| FsStore::open(&options).err());
        ends.store(true, Ordering::Relaxed);
        assert!(opened.is_none(), "{opened:?}");
    });
}

/// U3: whoever closes a store need not wait for those that found no place in its queue, and whom
/// nobody may ever poll again: they are told that nothing happened.
#[tokio::test]
async fn u3_closing_waits_for_no_commit_that_is_not_taken_yet() {
    const COMMITS: u64 = 64;
    let parent = in_memory();
    let mut options = options(parent.path(), 93);
    options.fs_limits.queue_commits_max = 1;
    options.fs_limits.group_commits_max = 1;
    let store = FsStore::open(&options).unwrap();
    let mut waiting: Vec<_> = (0..COMMITS).map(|n| store.commit(commit(n))).collect();
    let mut answers = Vec::new();
    poll_fn(|context| {
        waiting.retain_mut(|commit| match commit.as_mut().poll(context) {
            Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            Poll::Pending => true,
        });
        Poll::Ready(())
    })
    .await;
    store.close().await.unwrap();
    for commit in waiting {
        answers.push(commit.await);
    }
    let mut acknowledged = 0;
    for answer in answers {
        match answer {
            Ok(_) => acknowledged += 1,
            Err(refused) => assert_eq!(refused.code(), "store_read_only", "{refused}"),
        }
    }
    assert!(acknowledged < COMMITS, "all of them had a place");
    drop(store);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(numbers(&store).await.len() as u64, acknowledged);
}

/// S7, E18: verifying and sweeping beside a sweep goes well: what was removed since it was listed is
/// neither missing nor a failure.
#[test]
fn e18_verifying_and_sweeping_beside_a_sweep_goes_well() {
    const ROUNDS: u64 = 300;
    let parent = in_memory();
    let options = options(parent.path(), 94);
    let store = FsStore::open(&options).unwrap();
    let sweep = || run(store.sweep_attachments(&|_| false, Duration::ZERO));
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..ROUNDS {
                for part in 0..16_u64 {
                    let bytes = (number << 8 | part).to_be_bytes();
                    run(store.put_attachment(bytes.into())).unwrap();
                }
                sweep().unwrap();
            }
            ends.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                sweep().unwrap();
            }
        });
        while !ends.load(Ordering::Relaxed) {
            assert_eq!(verify(&options.directory).unwrap().damage, []);
        }
    });
}

/// S1: whoever looks for a store that is just being created finds it or finds none; nothing of it is
/// missing.
#[test]
fn s1_a_store_that_is_being_created_is_there_or_not() {
    const CREATIONS: u64 = 200;
    let parent = in_memory();
    let number = AtomicU64::new(0);
    let options = |number: u64| FsStoreOptions {
        directory: parent.path().join(number.to_string()),
        ..options(parent.path(), 95)
    };
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| {
            for next in 1..=CREATIONS {
                drop(FsStore::open(&options(next - 1)).unwrap());
                number.store(next, Ordering::Relaxed);
            }
        });
        while !creating.is_finished() {
            match FsStore::open_read_only(&options(number.load(Ordering::Relaxed))) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.code(), "store_not_found", "{error}"),
            }
        }
    });
}
