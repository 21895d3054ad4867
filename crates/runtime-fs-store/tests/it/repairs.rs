//! Repairing a store whose log, keys or caches are damaged (S4, S7).

use std::fs;
use std::ops::Range;
use std::path::Path;

use runtime_core::{Classified, Tier};
use runtime_fs_store::{
    CleanOptions, Damage, FsStore, FsStoreOptions, RepairAction, backup, repair, submit_command,
    verify,
};
use runtime_store::{AttachmentStore, Page, Position, ReadError, Removal, RowKey, Store};
use runtime_testkit::SeededRandom;

use crate::care::{clean, fill, removal, rows, small, write, write_with_checkpoint};
use crate::support::{
    body, commit, commit_id, in_memory, numbers, options, scope, segment, stream,
};

pub(crate) fn flip(options: &FsStoreOptions, text: &[u8]) {
    flip_in(&segment(options, 1), text);
}

pub(crate) fn flip_in(path: &Path, text: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
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
        write(&options, 0..8).await;
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
    write(&options, 0..24).await;
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
pub(crate) fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
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
    write(&options, 1..60).await;
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
    write_with_checkpoint(&options, 0..100).await;
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

/// S4, S7: checkpoints of the log as it was go with a repair; a new one tells of the gap as the log does.
#[tokio::test]
async fn s7_a_checkpoint_after_a_repair_tells_of_the_gap() {
    let parent = in_memory();
    let options = options(parent.path(), 82);
    write_with_checkpoint(&options, 0..8).await;
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

/// S8: what has the name of a command and is none is put aside, whatever it is; its sender can
/// leave it again, and the commands beside it wait as before.
#[tokio::test]
async fn s8_a_repair_puts_damaged_commands_aside() {
    let parent = in_memory();
    let options = options(parent.path(), 77);
    drop(FsStore::open(&options).unwrap());
    for number in 1..=4 {
        submit_command(&options.directory, commit_id(number), b"approve").unwrap();
    }
    let inbox = options.directory.join("inbox");
    let name = |number| commit_id(number).to_string();
    fs::write(inbox.join(name(2)), b"ARCm????approve").unwrap();
    fs::remove_file(inbox.join(name(3))).unwrap();
    fs::create_dir(inbox.join(name(3))).unwrap();
    fs::remove_file(inbox.join(name(4))).unwrap();
    std::os::unix::fs::symlink(inbox.join(name(1)), inbox.join(name(4))).unwrap();

    let plan = repair(&options, false).unwrap();
    let dropped = [2, 3, 4].map(|number| RepairAction::DropCommand {
        file: format!("inbox/{}", name(number)),
    });
    assert_eq!(plan.actions, dropped);
    assert_eq!(
        verify(&options.directory).unwrap().damage.len(),
        3,
        "a dry run"
    );
    let done = repair(&options, true).unwrap();
    assert_eq!(done.actions, dropped);
    assert!(done.applied && !done.lineage_renewed, "no event is lost");
    let aside = [2, 3, 4].map(|number| format!("aside/inbox-{}.damaged", name(number)));
    assert_eq!(done.kept_aside, aside);
    let kept = fs::read(options.directory.join(&aside[0])).unwrap();
    assert_eq!(kept, b"ARCm????approve");
    assert_eq!(verify(&options.directory).unwrap().damage, []);

    submit_command(&options.directory, commit_id(2), b"approve").unwrap();
    let store = FsStore::open(&options).unwrap();
    let waiting = store.inbox().unwrap().commands().await.unwrap();
    let waiting: Vec<_> = waiting.into_iter().map(|command| command.id).collect();
    assert_eq!(waiting, [1, 2].map(commit_id));
    // Purging removes what was put aside, and leaves the directory that is not of the store.
    let purge = CleanOptions { drop_aside: true };
    let cleaned = store.clean(purge, |_| ()).await.unwrap();
    assert_eq!(cleaned.aside_removed, 2);
    let left = fs::read_dir(options.directory.join("aside")).unwrap();
    assert_eq!(left.count(), 1);
}

/// S4, S7: a row whose last put is given up, and whose puts before are cleaned, is gone; it makes no
/// other row of its space unreadable.
#[tokio::test]
async fn s7_a_row_of_which_nothing_is_left_hides_no_other() {
    let parent = in_memory();
    let options = options(parent.path(), 83);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 1..5).await;
    // Of the same row as the first.
    fill(&store, 17..18).await;
    assert_eq!(clean(&store).await.segments_rewritten, 1);
    store.close().await.unwrap();
    drop(store);
    flip(&options, &body(17));
    for is_repaired in [false, true] {
        if is_repaired {
            repair(&options, true).unwrap();
        }
        let store = FsStore::open(&options).unwrap();
        let names = rows(&store).await.into_iter().map(|row| row.key.name);
        let names: Vec<_> = names.collect();
        assert_eq!(names, ["4", "2", "3"].map(Into::into), "{is_repaired}");
        let key = RowKey::new("state", scope("worker/1"), "1");
        assert_eq!(store.row(&key).await.unwrap(), None);
    }
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(33)).await.unwrap();
    assert_eq!(rows(&store).await.len(), 4);
}

/// V6: a base says where streams end. Where that is given up, their places are given out again, so
/// the lineage is a new one.
#[tokio::test]
async fn v6_a_repair_of_the_ends_of_streams_renews_the_lineage() {
    let parent = in_memory();
    let options = small(parent.path(), 84);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..64).await;
    let mut alone = commit(64);
    alone.events[0].streams = vec![stream("turn/a/1")];
    alone.rows.clear();
    let places = store.commit(alone.clone()).await.unwrap().places;
    let through = Removal::Through(Position(65));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    let lineage = store.identity().lineage.clone();
    store.close().await.unwrap();
    drop(store);
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let base = paths.find(|path| path.extension().unwrap() == "base");
    let base = base.expect("a base was made");
    let mut bytes = fs::read(&base).unwrap();
    let last = frames(&bytes).pop().unwrap();
    bytes[last.end - 1] ^= 1;
    fs::write(&base, bytes).unwrap();

    let done = repair(&options, true).unwrap();
    let [RepairAction::GiveUp { names, .. }] = &done.actions[..] else {
        panic!("{done:?}");
    };
    assert!(names.contains(&"turn/a/1".to_owned()), "{names:?}");
    let store = FsStore::open(&options).unwrap();
    let mut again = commit(65);
    again.events[0].streams = alone.events[0].streams.clone();
    let committed = store.commit(again).await.unwrap();
    assert_eq!(committed.places[0][0].seq, places[0][0].seq);
    assert!(done.lineage_renewed);
    assert_ne!(store.identity().lineage, lineage);
}
