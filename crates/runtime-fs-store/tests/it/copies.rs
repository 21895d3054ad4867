//! Copies of a store: export, import, backup (S7).

use std::fs;
use std::time::Duration;

use runtime_fs_store::{
    ExportError, FsStore, FsStoreOptions, MaintenanceError, backup, export, import, verify,
};
use runtime_store::{AttachmentStore, CommitError, Position, Progress, Removal, Store};
use runtime_testkit::SeededRandom;
use serde_json::Value;

use crate::care::{clean, fill, removal, rows, segment_bytes, segment_files, small, told};
use crate::support::{commit, in_memory, numbers, stream};

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
            |at| at.stream,
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
