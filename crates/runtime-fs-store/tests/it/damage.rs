//! Damage where segments begin and where the log ends, and beside the log: what is named, what a
//! repair still knows, and what it refuses (S4, S7).

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use runtime_core::{Classified, Timestamp};
use runtime_fs_store::{Damage, FsStore, FsStoreOptions, RepairAction, backup, repair, verify};
use runtime_store::{Commit, CommitError, Page, Position, Removal, RowChange, RowKey, Store};
use runtime_testkit::SeededRandom;

use crate::care::{clean, fill, removal, small, told};
use crate::repairs::frames;
use crate::support::{commit, commit_id, in_memory, number, numbers, options, scope, segment};

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Damages the header of a segment.
fn flip_segment_header(path: &Path) {
    flip(path, 40);
}

/// Damages the header of a frame.
fn flip_header(path: &Path, frame: &Range<usize>) {
    flip(path, frame.start + 8);
}

/// Damages the payload of a frame.
fn flip_payload(path: &Path, frame: &Range<usize>) {
    flip(path, frame.end - 1);
}

fn frames_in(path: &Path) -> Vec<Range<usize>> {
    frames(&fs::read(path).unwrap())
}

/// The number of a frame, and the position of its first event.
fn header(path: &Path, frame: &Range<usize>) -> (u64, u64) {
    let bytes = fs::read(path).unwrap();
    let field = |at: usize| {
        let at = frame.start + at;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    (field(16), field(24))
}

/// Damages the header of a segment and that of its first frame; returns the frame and the position
/// of its event.
fn damage_beginning(options: &FsStoreOptions, number: u32) -> (Range<usize>, u64) {
    let path = segment(options, number);
    let first = frames_in(&path).swap_remove(0);
    let (_, position) = header(&path, &first);
    flip_segment_header(&path);
    flip_header(&path, &first);
    (first, position)
}

fn in_file(frame: &Range<usize>) -> Range<u64> {
    frame.start as u64..frame.end as u64
}

fn name(number: u32) -> String {
    format!("segments/{number:010}.log")
}

/// A store of several small segments, closed.
async fn closed(options: &FsStoreOptions) {
    let store = FsStore::open(options).unwrap();
    fill(&store, 0..60).await;
    store.close().await.unwrap();
    assert!(segment(options, 4).exists());
}

/// A store whose first segments a base stands for, closed; returns the base and the first segment
/// after it.
async fn with_base(options: &FsStoreOptions) -> (PathBuf, u32) {
    let store = FsStore::open(options).unwrap();
    fill(&store, 0..60).await;
    let through = Removal::Through(Position(40));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    fill(&store, 60..64).await;
    store.close().await.unwrap();
    let base = |number: u32| segment(options, number).with_extension("base");
    let number = (1..).find(|number| base(*number).exists()).unwrap();
    (base(number), number + 1)
}

/// Repairs a store, looks that it is whole then, and returns what was done.
fn repaired(options: &FsStoreOptions) -> Vec<RepairAction> {
    let done = repair(options, true).unwrap();
    assert!(done.applied, "{done:?}");
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    done.actions
}

/// S4: a damaged commit that changed nothing but rows names their scopes, and nothing of them can
/// be changed.
#[tokio::test]
async fn s4_a_damaged_commit_of_rows_alone_names_their_scopes() {
    let parent = in_memory();
    let options = options(parent.path(), 101);
    let store = FsStore::open(&options).unwrap();
    let key = |name: &str| RowKey::new("state", scope(name), "row");
    let changes = [
        RowChange::put(key("worker/put"), *b"x"),
        RowChange::Delete(key("worker/deleted")),
        RowChange::Retire(scope("turn/retired/1")),
    ];
    let of = |number: u64, change: &RowChange| {
        Commit::new(commit_id(number), Timestamp::from_millis(number)).row(change.clone())
    };
    for (number, change) in (1..).zip(&changes) {
        store.commit(of(number, change)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let path = segment(&options, 1);
    // Marks are before and after them.
    for frame in &frames_in(&path)[1..4] {
        flip_payload(&path, frame);
    }
    let store = FsStore::open(&options).unwrap();
    let damage = store.report().damage.iter();
    let named = damage.map(|damage| match damage {
        Damage::Payload { names, .. } => names.clone(),
        other => panic!("{other:?}"),
    });
    let expected = ["worker/put", "worker/deleted", "turn/retired/1"].map(str::to_owned);
    assert_eq!(named.collect::<Vec<_>>().concat(), expected);
    for (number, change) in (11..).zip(&changes) {
        let refused = store.commit(of(number, change)).await;
        assert!(
            matches!(refused, Err(CommitError::ReadOnly { .. })),
            "{change:?}: {refused:?}"
        );
    }
    let elsewhere = RowChange::put(key("worker/else"), *b"x");
    store.commit(of(20, &elsewhere)).await.unwrap();
}

/// S7: what a segment begins with is told by the one before, where its own header is lost.
#[tokio::test]
async fn s7_a_segment_without_its_beginning_goes_on_after_the_one_before() {
    let parent = in_memory();
    let options = small(parent.path(), 102);
    closed(&options).await;
    let (first, position) = damage_beginning(&options, 2);

    let given_up = RepairAction::GiveUp {
        file: name(2),
        bytes: in_file(&first),
        positions: position..position + 1,
        names: Vec::new(),
    };
    let renewed = RepairAction::RenewHeader { file: name(2) };
    assert_eq!(repaired(&options), [renewed, given_up]);
    let store = FsStore::open(&options).unwrap();
    let rest = Page::after(Position(position), 256);
    let rest = store.events(None, rest).await.unwrap().events;
    let rest: Vec<u64> = rest.iter().map(number).collect();
    assert_eq!(rest, (position..60).collect::<Vec<_>>());
    store.commit(commit(60)).await.unwrap();
}

/// S7: damage in a segment is given up and nothing behind it, also where the beginning of the next
/// one does not say where it ends.
#[tokio::test]
async fn s7_damage_on_both_sides_of_a_border_is_given_up_and_nothing_else() {
    let parent = in_memory();
    let options = small(parent.path(), 103);
    closed(&options).await;
    let [before, after] = [2, 3].map(|number| segment(&options, number));
    let middle = frames_in(&before).swap_remove(3);
    let first = frames_in(&after).swap_remove(0);
    let lost = [header(&before, &middle).1, header(&after, &first).1];
    flip_payload(&before, &middle);
    flip_segment_header(&after);
    flip_header(&after, &first);

    let actions = repaired(&options);
    let gone: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            RepairAction::GiveUp {
                file,
                bytes,
                positions,
                ..
            } => Some((file.clone(), bytes.clone(), positions.clone())),
            _ => None,
        })
        .collect();
    let expected = [
        (name(2), in_file(&middle), lost[0]..lost[0] + 1),
        (name(3), in_file(&first), lost[1]..lost[1] + 1),
    ];
    assert_eq!(gone, expected);
    let store = FsStore::open(&options).unwrap();
    let rest = Page::after(Position(lost[1]), 256);
    let rest = store.events(None, rest).await.unwrap().events;
    assert_eq!(rest.iter().map(number).next(), Some(lost[1]));
    store.commit(commit(60)).await.unwrap();
}

/// S4, S7: a damaged frame that nothing whole follows is given up, and the numbers of frames go on;
/// also where it was the only one.
#[tokio::test]
async fn s7_a_damaged_frame_before_a_torn_tail_is_given_up() {
    for commits in [5, 1] {
        let parent = in_memory();
        let options = options(parent.path(), 104);
        let store = FsStore::open(&options).unwrap();
        fill(&store, 0..commits).await;
        drop(store);
        let path = segment(&options, 1);
        let mut frames = frames_in(&path);
        let [torn, damaged] = [(); 2].map(|()| frames.pop().unwrap());
        let (frame_number, _) = header(&path, &damaged);
        // The header of the last one is whole, and says that the one before it was synced.
        flip_header(&path, &damaged);
        flip_payload(&path, &torn);

        let actions = repair(&options, true).unwrap().actions;
        assert!(
            matches!(&actions[..], [RepairAction::GiveUp { bytes, .. }]
                if *bytes == in_file(&damaged)),
            "{actions:?}"
        );
        assert_eq!(header(&path, &damaged).0, frame_number);
        let store = FsStore::open(&options).unwrap();
        assert_eq!(store.report().read_only, None);
        let left = commits.saturating_sub(2);
        assert_eq!(numbers(&store).await, (0..left).collect::<Vec<_>>());
        assert!(store.report().lineage_renewed);
        store.commit(commit(100)).await.unwrap();
    }
}

/// S7: what a base stood for cannot be told from what is left without its header.
#[tokio::test]
async fn s7_a_base_without_its_header_cannot_be_repaired() {
    let parent = in_memory();
    let options = small(parent.path(), 105);
    let (base, _) = with_base(&options).await;
    flip_segment_header(&base);
    let damaged = fs::read(&base).unwrap();
    let refused = repair(&options, true).unwrap_err();
    assert_eq!(refused.code(), "store_unrepairable");
    let file = base.file_name().unwrap().to_str().unwrap();
    assert!(refused.to_string().contains(file), "{refused}");
    assert_eq!(fs::read(&base).unwrap(), damaged);
}

/// S7: the header of the first segment after a base is made anew without those before it.
#[tokio::test]
async fn s7_the_header_of_the_segment_after_a_base_is_renewed() {
    let parent = in_memory();
    let options = small(parent.path(), 106);
    let (_, after) = with_base(&options).await;
    let before = told(&FsStore::open_read_only(&options).unwrap(), 0..64).await;
    flip_segment_header(&segment(&options, after));
    let renewed = RepairAction::RenewHeader { file: name(after) };
    assert_eq!(repaired(&options), [renewed]);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(told(&store, 0..64).await, before);
    store.commit(commit(64)).await.unwrap();
}

/// S1, S7: keys that are gone are made anew; a symlink in their place is not followed.
#[test]
fn s7_missing_keys_are_renewed_and_no_symlink_is_followed() {
    let parent = in_memory();
    let options = options(parent.path(), 107);
    drop(FsStore::open(&options).unwrap());
    let keys = options.directory.join("keys");
    fs::remove_file(&keys).unwrap();
    assert_eq!(
        verify(&options.directory).unwrap_err().code(),
        "store_missing"
    );
    assert_eq!(repaired(&options), [RepairAction::RenewKeys]);

    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&keys, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &keys).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    for apply in [false, true] {
        repair(&options, apply).unwrap_err();
    }
    assert!(keys.is_symlink());
    assert_eq!(fs::read(&elsewhere).unwrap(), before);
}

/// S7: a repaired segment holds together with a base that takes the place of those before it.
#[tokio::test]
async fn s6_a_cleaning_after_a_repair_leaves_a_whole_store() {
    let parent = in_memory();
    let options = small(parent.path(), 108);
    closed(&options).await;
    let (_, position) = damage_beginning(&options, 2);
    repaired(&options);
    let store = FsStore::open(&options).unwrap();
    let through = Removal::Through(Position(position + 2));
    store.commit(removal(10_000, through)).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    store.close().await.unwrap();
    drop(store);
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(60)).await.unwrap();
}

/// S7: what the first segment after a base begins with is told by the base.
#[tokio::test]
async fn s7_a_segment_without_its_beginning_goes_on_after_the_base() {
    let parent = in_memory();
    let options = small(parent.path(), 109);
    let (_, after) = with_base(&options).await;
    let (first, position) = damage_beginning(&options, after);
    let given_up = RepairAction::GiveUp {
        file: name(after),
        bytes: in_file(&first),
        positions: position..position + 1,
        names: Vec::new(),
    };
    let renewed = RepairAction::RenewHeader { file: name(after) };
    assert_eq!(repaired(&options), [renewed, given_up]);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(64)).await.unwrap();
}

/// V6: whoever has seen the event of a frame that is given up is told, though what was published
/// is not known any more.
#[tokio::test]
async fn v6_a_frame_that_was_given_up_at_the_end_renews_the_lineage() {
    let parent = in_memory();
    let options = options(parent.path(), 104);
    let store = FsStore::open(&options).unwrap();
    let lineage = store.identity().lineage.clone();
    fill(&store, 0..5).await;
    drop(store);
    let path = segment(&options, 1);
    let mut frames = frames_in(&path);
    let [torn, damaged] = [(); 2].map(|()| frames.pop().unwrap());
    flip_header(&path, &damaged);
    flip_payload(&path, &torn);
    fs::remove_file(options.directory.join("durable")).unwrap();
    repair(&options, true).unwrap();
    let store = FsStore::open(&options).unwrap();
    let committed = store.commit(commit(60)).await.unwrap();
    assert!(
        store.identity().lineage != lineage || committed.positions.start > 5,
        "{committed:?}"
    );
}

/// V1: a commit of which a base keeps nothing is told from a new one all the same.
#[tokio::test]
async fn v1_what_was_forgotten_is_too_old_though_a_base_keeps_nothing_of_it() {
    let parent = in_memory();
    let mut options = small(parent.path(), 121);
    options.limits.remembered_commits = 4;
    let put = |number: u64| {
        let key = RowKey::new("state", scope("worker/1"), "row");
        let time = Timestamp::from_millis(number);
        Commit::new(commit_id(number), time).row(RowChange::put(key, [7; 500]))
    };
    let store = FsStore::open(&options).unwrap();
    for number in 1..60 {
        store.commit(put(number)).await.unwrap();
    }
    assert!(clean(&store).await.segments_removed > 0);
    let refused = store.commit(put(2)).await.unwrap_err();
    assert_eq!(refused.code(), "commit_too_old");
    drop(store);
    let store = FsStore::open(&options).unwrap();
    let refused = store.commit(put(2)).await.unwrap_err();
    assert_eq!(refused.code(), "commit_too_old");
}

/// S7: what a second repair keeps aside does not take the place of what the first kept.
#[tokio::test]
async fn s7_each_repair_keeps_a_copy_of_its_own_aside() {
    let parent = in_memory();
    let options = small(parent.path(), 110);
    closed(&options).await;
    let path = segment(&options, 2);
    let mut kept = Vec::new();
    for at in [2, 4] {
        let frame = frames_in(&path).swap_remove(at);
        flip_payload(&path, &frame);
        let damaged = fs::read(&path).unwrap();
        let done = repair(&options, true).unwrap();
        kept.push((done.kept_aside[0].clone(), damaged));
    }
    for (name, damaged) in kept {
        assert!(
            fs::read(options.directory.join(&name)).unwrap() == damaged,
            "{name}"
        );
    }
}

/// S7: a segment with nothing in it yet goes on from the base before it.
#[tokio::test]
async fn s7_the_header_of_an_empty_segment_is_renewed() {
    let parent = in_memory();
    let from = small(parent.path(), 112);
    let store = FsStore::open(&from).unwrap();
    fill(&store, 0..60).await;
    let through = Removal::Through(Position(60));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    let options = FsStoreOptions {
        directory: parent.path().join("copy"),
        ..from.clone()
    };
    let random = SeededRandom::new(1);
    backup(&from.directory, &options.directory, &random, &mut |_| ()).unwrap();
    let entries = fs::read_dir(options.directory.join("segments")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let is_log = |path: &PathBuf| path.extension().unwrap() == "log";
    let empty = paths.find(is_log).expect("one comes after the base");
    assert_eq!(fs::metadata(&empty).unwrap().len(), 64, "its header alone");
    flip_segment_header(&empty);
    let file = empty.strip_prefix(&options.directory).unwrap();
    let file = file.to_str().unwrap().to_owned();
    assert_eq!(repaired(&options), [RepairAction::RenewHeader { file }]);
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.commit(commit(60)).await.unwrap().positions, 61..62);
}
