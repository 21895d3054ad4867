//! Truncation and flips (R5, R6): exactly a prefix, and damage is never taken for a torn tail.

use std::fs;
use std::path::Path;

use runtime_fs_store::{Damage, FsStore, FsStoreOptions, OpenError, verify};
use runtime_store::{CommitError, Page, Position, ReadError, RowQuery, Store};

use crate::care::write;
use crate::support::{
    all_events, commit, in_memory, numbers, on_all_cores, options, print_row, run, scope, segment,
    stream,
};

const RECORDS: u64 = 64;

/// Every case with `FS_STORE_EVERY_CASE` set, else one of `quick`: prime, so that over the whole
/// log each bit of a byte and each place in a frame is met.
fn step(quick: usize) -> usize {
    match std::env::var_os("FS_STORE_EVERY_CASE") {
        Some(_) => 1,
        None => quick,
    }
}

/// Writes commits one by one, so each has a sync and a mark of its own, and closes.
/// Copies a store file by file.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// R5: cut anywhere in the log, opening gives exactly a prefix, appending goes on, and what was
/// cut does not come back.
#[test]
fn r5_truncation_anywhere_leaves_a_prefix() {
    let started = std::time::Instant::now();
    let parent = in_memory();
    let template = options(parent.path(), 5);
    run(write(&template, 0..RECORDS));
    let whole = fs::read(segment(&template, 1)).unwrap();
    // Without the hint each cut is a crash that lost everything after it.
    fs::remove_file(template.directory.join("durable")).unwrap();
    let step = step(3);
    let lengths = (64..whole.len()).step_by(step);
    let lengths: Vec<usize> = lengths.chain([whole.len()]).collect();
    let parts: Vec<&[usize]> = lengths.chunks(1_000 / step).collect();
    let events: Vec<Vec<u64>> = on_all_cores(0..parts.len() as u64, |part| {
        let work = in_memory();
        let opened = options(work.path(), 6);
        copy(&template.directory, &opened.directory);
        let lengths = parts[usize::try_from(part).unwrap()].iter();
        lengths
            .map(|&length| {
                restore(&opened.directory, &whole[..length]);
                run(cut_and_go_on(&opened, length))
            })
            .collect()
    });
    // The cases come back by thread, so the last of all is the largest.
    let known = events.iter().flatten().max();
    assert_eq!(known, Some(&RECORDS));
    for part in &events {
        // A prefix that never shrinks, and grows one by one.
        let grows = |pair: &[u64]| pair[1] == pair[0] || pair[1] == pair[0] + 1;
        assert!(part.windows(2).all(grows));
    }
    let cases = lengths.len();
    assert!(cases >= 10_000 / step, "only {cases} cases");
    print_row("R5", cases, started);
}

/// Opens, appends, opens again; returns how many events were there first.
async fn cut_and_go_on(options: &FsStoreOptions, length: usize) -> u64 {
    let store = FsStore::open(options).unwrap();
    assert_eq!(store.report().damage, [], "cut at {length}");
    let events = store.report().events;
    store.commit(commit(1_000)).await.unwrap();
    drop(store);
    let expected: Vec<u64> = (0..events).chain([1_000]).collect();
    let store = FsStore::open(options).unwrap();
    assert_eq!(numbers(&store).await, expected, "cut at {length}");
    events
}

/// Puts a log of one segment in place of what is there.
fn restore(directory: &Path, segment: &[u8]) {
    let _ = fs::remove_file(directory.join("durable"));
    for name in ["segments", "aside"] {
        for entry in fs::read_dir(directory.join(name)).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    fs::write(directory.join("segments/0000000001.log"), segment).unwrap();
}

/// R6: every flipped bit of a log is found; before the last mark it is damage and never a torn
/// tail. A flipped bit of the identity or the keys is found as well.
#[test]
fn r6_flipped_bits_are_found() {
    let started = std::time::Instant::now();
    let parent = in_memory();
    let template = options(parent.path(), 5);
    run(write(&template, 0..RECORDS));
    let whole = fs::read(segment(&template, 1)).unwrap();
    let step = step(7);
    let parts = (whole.len() * 8).div_ceil(5_000) as u64;
    let torn: usize = on_all_cores(0..parts, |part| {
        let work = in_memory();
        let opened = options(work.path(), 6);
        copy(&template.directory, &opened.directory);
        let first = usize::try_from(part).unwrap() * 5_000;
        let bits = first..(first + 5_000).min(whole.len() * 8);
        bits.filter(|bit| bit % step == 0 && is_torn_by_flip(&opened, &whole, *bit))
            .count()
    })
    .into_iter()
    .sum();
    // The mark written on closing is the last frame; flipping it loses nothing.
    assert!(torn >= 64 * 8 / step, "only {torn} flips of the last mark");
    let mut cases = whole.len() * 8 / step;
    for name in ["format", "keys"] {
        cases += flip_whole_file(&template, name);
    }
    assert!(cases >= 100_000 / step, "only {cases} cases");
    print_row("R6", cases, started);
}

/// Flips a bit of the log and verifies; says whether it was taken for a torn tail, which only one
/// of the last mark may be.
fn is_torn_by_flip(options: &FsStoreOptions, whole: &[u8], bit: usize) -> bool {
    let mut flipped = whole.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    fs::write(segment(options, 1), &flipped).unwrap();
    let report = verify(&options.directory).unwrap();
    if bit / 8 < whole.len() - 64 {
        assert!(!report.damage.is_empty(), "bit {bit} was not found");
        assert_eq!(report.cut, None, "bit {bit} was taken for a torn tail");
        return false;
    }
    assert!(report.cut.is_some(), "bit {bit} of the mark was not found");
    assert_eq!(report.events, RECORDS);
    true
}

/// Flips each bit of a file that must be whole; returns how many there are.
fn flip_whole_file(options: &FsStoreOptions, name: &str) -> usize {
    let path = options.directory.join(name);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        let found = verify(&options.directory);
        assert!(
            matches!(&found, Err(OpenError::Damaged { file }) if file == name),
            "bit {bit} of {name}: {found:?}"
        );
    }
    fs::write(&path, &whole).unwrap();
    whole.len() * 8
}

/// S4: a damaged payload makes what its header names read-only and its events unreadable; the rest
/// is not touched.
#[tokio::test]
async fn s4_a_damaged_payload_is_isolated() {
    let parent = in_memory();
    let options = options(parent.path(), 5);
    write(&options, 0..8).await;
    flip_first(&options, &crate::support::body(3));
    let store = FsStore::open(&options).unwrap();
    let report = store.report();
    assert!(
        matches!(&report.damage[..], [Damage::Payload { positions, names, .. }]
            if *positions == (4..5) && names.contains(&"worker/3".to_owned())),
        "{report:?}"
    );
    assert_eq!(report.read_only, None);

    let page = store
        .events(None, Page::after(Position(0), 100))
        .await
        .unwrap();
    assert_eq!(
        (page.events.len(), page.next, page.has_more),
        (3, Position(3), true)
    );
    let damaged = store.events(None, Page::after(Position(3), 100)).await;
    assert!(
        matches!(damaged, Err(ReadError::CorruptEvents { .. })),
        "{damaged:?}"
    );
    let rest = store
        .events(None, Page::after(Position(4), 100))
        .await
        .unwrap();
    assert_eq!(rest.events.len(), 4);
    // The stream that lost an event says so where it is, not before and not after.
    let session = stream("session/all");
    let page = store
        .events(Some(&session), Page::after(Position(0), 100))
        .await
        .unwrap();
    assert_eq!((page.events.len(), page.has_more), (3, true));
    let damaged = store
        .events(Some(&session), Page::after(Position(3), 100))
        .await;
    assert!(
        matches!(damaged, Err(ReadError::CorruptEvents { .. })),
        "{damaged:?}"
    );
    let rest = store
        .events(Some(&session), Page::after(Position(4), 100))
        .await
        .unwrap();
    assert_eq!(rest.events.len(), 4);

    let refused = store.commit(commit(11)).await;
    assert!(
        matches!(refused, Err(CommitError::ReadOnly { .. })),
        "{refused:?}"
    );
    let mut healthy = commit(12);
    healthy.events.clear();
    healthy.rows = vec![runtime_store::RowChange::put(
        runtime_store::RowKey::new("state", scope("worker/0"), "x"),
        *b"x",
    )];
    store.commit(healthy).await.unwrap();
}

/// S4: a damaged header stops all writing, and everything else can still be read.
#[tokio::test]
async fn s4_a_damaged_header_makes_the_store_read_only() {
    let parent = in_memory();
    let options = options(parent.path(), 5);
    write(&options, 0..8).await;
    let whole = fs::read(segment(&options, 1)).unwrap();
    flip_first(&options, b"worker/3");
    let store = FsStore::open(&options).unwrap();
    assert!(store.report().read_only.is_some());
    assert!(matches!(store.report().damage[..], [Damage::Header { .. }]));
    let refused = store.commit(commit(100)).await;
    assert!(
        matches!(refused, Err(CommitError::ReadOnly { .. })),
        "{refused:?}"
    );
    let rest = store
        .events(None, Page::after(Position(4), 100))
        .await
        .unwrap();
    assert_eq!(rest.events.len(), 4);
    let rows = store
        .rows(RowQuery::space("state"), Page::after(None, 100))
        .await
        .unwrap();
    assert_eq!(rows.rows.len(), 7);
    drop(store);
    // Nothing was cut, moved or appended.
    assert_eq!(fs::read(segment(&options, 1)).unwrap().len(), whole.len());
}

/// Flips a bit where the text first stands.
fn flip_first(options: &FsStoreOptions, text: &[u8]) {
    let path = segment(options, 1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(text.len())
        .position(|found| found == text)
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
}

/// S4: damage that comes while the store is open is not served either.
#[tokio::test]
async fn s4_damage_under_an_open_store_is_not_served() {
    let parent = in_memory();
    let options = options(parent.path(), 5);
    let store = FsStore::open(&options).unwrap();
    store.commit(commit(3)).await.unwrap();
    assert_eq!(all_events(&store).await.len(), 1);
    flip_first(&options, &crate::support::body(3));
    let read = store.events(None, Page::after(Position(0), 1)).await;
    assert!(
        matches!(read, Err(ReadError::CorruptEvents { .. })),
        "{read:?}"
    );
}

/// S4, V6: the cut tail is kept aside, and the lineage is a new one if readers may have seen it.
#[tokio::test]
async fn s4_a_cut_tail_is_kept_aside_and_reported() {
    let parent = in_memory();
    let options = options(parent.path(), 5);
    write(&options, 0..8).await;
    let lineage = FsStore::open(&options).unwrap().identity().lineage.clone();
    let path = segment(&options, 1);
    let whole = fs::read(&path).unwrap();
    // In the middle of the last commit: closing and opening wrote marks of 64 bytes after it.
    let cut_at = whole.len() - 3 * 64 - 5;
    fs::write(&path, &whole[..cut_at]).unwrap();
    let store = FsStore::open(&options).unwrap();
    let report = store.report().clone();
    let cut = report.cut.expect("the last commit is torn");
    assert!(cut.possibly_acknowledged);
    let kept = fs::read(options.directory.join(cut.kept_as.unwrap())).unwrap();
    let offset = usize::try_from(cut.offset).unwrap();
    assert_eq!(kept, &whole[offset..cut_at]);
    assert_eq!(numbers(&store).await, (0..7).collect::<Vec<_>>());
    assert!(
        report.lineage_renewed,
        "the hint says that it was published"
    );
    assert_ne!(store.identity().lineage, lineage);
    assert!(segment(&options, 2).exists());
}

/// R6: zeroed blocks, duplicated and misplaced blocks are found.
#[tokio::test(flavor = "multi_thread")]
async fn r6_zeroed_duplicated_and_misplaced_blocks_are_found() {
    let parent = in_memory();
    let template = options(parent.path(), 5);
    write(&template, 0..RECORDS).await;
    let path = segment(&template, 1);
    let whole = fs::read(&path).unwrap();
    let block = 512;
    let blocks = whole.len() / block - 1;
    for at in 0..blocks {
        let target = at * block..(at + 1) * block;
        let mut zeroed = whole.clone();
        zeroed[target.clone()].fill(0);
        let from = (at + 7) % blocks * block;
        let mut misplaced = whole.clone();
        misplaced.copy_within(from..from + block, target.start);
        for damaged in [zeroed, misplaced] {
            fs::write(&path, &damaged).unwrap();
            let report = verify(&template.directory).unwrap();
            assert!(!report.damage.is_empty(), "block {at} was not found");
            assert_eq!(report.cut, None, "block {at} was taken for a torn tail");
        }
    }
}

/// S4: names that do not fit into a header are left out; damage may have touched anything then.
#[tokio::test]
async fn s4_names_that_do_not_fit_are_left_out() {
    // Four of 496 bytes with their lengths fill a header to its end.
    for (count, is_isolated) in [(4, true), (5, false)] {
        let parent = in_memory();
        let options = options(parent.path(), 5);
        let store = FsStore::open(&options).unwrap();
        let mut commit = commit(3);
        commit.rows.clear();
        let names = (0..count).map(|at| format!("{at}{}", "x".repeat(493)));
        commit.events[0].streams = names.map(|name| stream(&name)).collect();
        store.commit(commit).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        assert_eq!(
            numbers(&FsStore::open_read_only(&options).unwrap()).await,
            [3]
        );
        flip_first(&options, &crate::support::body(3));
        let damage = verify(&options.directory).unwrap().damage;
        let isolated = matches!(damage[..], [Damage::Payload { .. }]);
        assert_eq!(isolated, is_isolated, "{count} names: {damage:?}");
    }
}
