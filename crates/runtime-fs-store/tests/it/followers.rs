//! Readers beside a writer (S8): what they are told while the log moves under them.

use std::fs;
use std::io::{self, Write};

use runtime_core::{Classified, ErrorClass, Tier};
use runtime_fs_store::{FsStore, FsStoreOptions, export, repair};
use runtime_store::{Page, Position, Removal, Store};

use crate::care::{clean, fill, removal, small, told, write};
use crate::repairs::flip;
use crate::support::{all_events, body, commit, in_memory, numbers, options, run, segment};

/// S6, S8: a reader whose place in the log a cleaning has removed reads the log anew, whatever it
/// is asked first.
#[tokio::test]
async fn s8_a_reader_that_a_cleaning_has_overtaken_reads_the_log_anew() {
    let parent = in_memory();
    let options = small(parent.path(), 120);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..5).await;
    let asked_for_owners = FsStore::open_read_only(&options).unwrap();
    let asked_for_growth = FsStore::open_read_only(&options).unwrap();
    fill(&store, 5..150).await;
    let through = Removal::Through(Position(140));
    store.commit(removal(10_000, through)).await.unwrap();
    assert!(clean(&store).await.segments_removed > 0);
    assert!(!segment(&options, 1).exists());

    assert_eq!(asked_for_owners.scopes().unwrap(), store.scopes().unwrap());
    let head = asked_for_growth.changed(Position(5)).await;
    assert_eq!(head, Position(150));
    let expected = told(&store, 0..150).await;
    for beside in [asked_for_owners, asked_for_growth] {
        assert_eq!(told(&beside, 0..150).await, expected);
    }
}

fn hint(options: &FsStoreOptions) -> Vec<u8> {
    fs::read(options.directory.join("durable")).unwrap()
}

fn publish(options: &FsStoreOptions, hint: &[u8]) {
    fs::write(options.directory.join("durable"), hint).unwrap();
}

/// S8: after a loss of power the hint may be older than what a reader has found in the log. It says
/// nothing then of frames in a later segment, which nobody has called durable.
#[tokio::test]
async fn s8_a_hint_from_before_says_nothing_of_a_later_segment() {
    let parent = in_memory();
    let options = small(parent.path(), 121).tier(Tier::Crash);
    let store = FsStore::open(&options).unwrap();
    let (mut count, mut before) = (0, Vec::new());
    while !segment(&options, 2).exists() {
        before = hint(&options);
        store.commit(commit(count)).await.unwrap();
        count += 1;
    }
    let published = count - 1;
    fill(&store, count..count + 3).await;
    drop(store);
    publish(&options, &before);

    let beside = FsStore::open_read_only(&options).unwrap();
    assert_eq!(numbers(&beside).await, (0..published).collect::<Vec<_>>());
    // Whoever goes on from there finds all of it.
    let store = FsStore::open(&options).unwrap();
    assert_eq!(numbers(&store).await, (0..count + 3).collect::<Vec<_>>());
}

/// S6, S8: a checkpoint may hold more than a reader knows to be published; it tells nothing of it
/// early, and all of it later.
#[tokio::test]
async fn s8_a_reader_lies_on_no_checkpoint_beyond_what_is_published() {
    let parent = in_memory();
    let options = small(parent.path(), 122);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..3).await;
    let beside = FsStore::open_read_only(&options).unwrap();
    let mut count = 3;
    while !segment(&options, 3).exists() {
        store.commit(commit(count)).await.unwrap();
        count += 1;
    }
    let early = hint(&options);
    fill(&store, count..count + 60).await;
    store.checkpoint().await.unwrap();
    fill(&store, count + 60..count + 63).await;
    let latest = hint(&options);
    assert!(segment(&options, 5).exists());

    publish(&options, &early);
    let head = beside.changed(Position(3)).await;
    assert_eq!(head, Position(count));
    assert_eq!(numbers(&beside).await, (0..count).collect::<Vec<_>>());
    publish(&options, &latest);
    assert_eq!(numbers(&beside).await, (0..count + 63).collect::<Vec<_>>());
    assert_eq!(
        told(&beside, 0..count + 63).await,
        told(&store, 0..count + 63).await
    );
}

/// Somebody goes on committing while what they have is written elsewhere.
struct Meanwhile<'a> {
    store: &'a FsStore,
    next: u64,
    lines: Vec<u8>,
}

impl Write for Meanwhile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        run(self.store.commit(commit(self.next))).unwrap();
        self.next += 1;
        self.lines.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// S7: an export is what the store held when it began, however many commits come meanwhile.
#[test]
fn s7_an_export_tells_of_one_moment() {
    let parent = in_memory();
    let options = options(parent.path(), 123);
    let store = FsStore::open(&options).unwrap();
    run(fill(&store, 0..20));
    let mut expected = Vec::new();
    export(&options.directory, &mut expected, &mut |_| ()).unwrap();
    let mut out = Meanwhile {
        store: &store,
        next: 20,
        lines: Vec::new(),
    };
    export(&options.directory, &mut out, &mut |_| ()).unwrap();
    assert!(out.next > 40, "every line waited for a commit");
    assert_eq!(
        String::from_utf8(out.lines).unwrap(),
        String::from_utf8(expected).unwrap()
    );
}

/// V6, S8: a reader that had opened the log before it was repaired is told to open it again, and is
/// given nothing of the new lineage as if it went on from the old one.
#[tokio::test]
async fn v6_a_reader_from_before_a_repair_is_told_of_the_new_lineage() {
    let parent = in_memory();
    let options = options(parent.path(), 91);
    write(&options, 0..8).await;
    let beside = FsStore::open_read_only(&options).unwrap();
    assert_eq!(all_events(&beside).await.len(), 8);
    flip(&options, &body(7));
    repair(&options, true).unwrap();
    let store = FsStore::open(&options).unwrap();
    fill(&store, 11..12).await;
    for _ in 0..2 {
        let page = Page::after(Position(8), 100);
        let refused = beside.events(None, page).await.unwrap_err();
        assert!(!refused.class().is_retryable());
        let told = refused.to_string();
        assert!(told.contains("new lineage, as after a repair"), "{told}");
    }
    let fresh = FsStore::open_read_only(&options).unwrap();
    let page = Page::after(Position(8), 100);
    assert_eq!(fresh.events(None, page).await.unwrap().events.len(), 1);
    assert_ne!(fresh.identity(), beside.identity());
}

/// Somebody changes the store and cleans it while the first line is written.
struct CleansMeanwhile<'a> {
    store: &'a FsStore,
    pruned: u64,
    lines: Vec<u8>,
}

impl Write for CleansMeanwhile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.lines.is_empty() {
            run(fill(self.store, 100..150));
            let through = Removal::Through(Position(self.pruned));
            run(self.store.commit(removal(10_000, through))).unwrap();
            let report = run(clean(self.store));
            assert!(report.segments_rewritten > 0, "{report:?}");
            assert_eq!(report.segments_removed > 0, self.pruned > 0, "{report:?}");
        }
        self.lines.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// S7: where a cleaning takes away what is being exported, files or rows that were put anew, that is
/// no damage: whoever exports is told to do it again, and then it goes well.
#[test]
fn s7_an_export_that_a_cleaning_has_overtaken_is_to_be_made_again() {
    for pruned in [0, 120] {
        let parent = in_memory();
        let options = small(parent.path(), 124);
        let store = FsStore::open(&options).unwrap();
        run(fill(&store, 0..100));
        let mut out = CleansMeanwhile {
            store: &store,
            pruned,
            lines: Vec::new(),
        };
        let refused = export(&options.directory, &mut out, &mut |_| ()).unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Unavailable, "{refused}");
        assert!(refused.to_string().contains("export again"), "{refused}");
        let mut again = Vec::new();
        let report = export(&options.directory, &mut again, &mut |_| ()).unwrap();
        assert_eq!((report.events, report.rows), (150 - pruned, 16));
    }
}
