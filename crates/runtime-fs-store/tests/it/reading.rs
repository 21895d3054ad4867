//! Reading events where a checkpoint, a sidecar or damage is in between: pages, and what is told
//! of what is lost (S4, S6).

use std::fs;
use std::path::PathBuf;

use runtime_fs_store::{FsStore, FsStoreOptions, backup, repair};
use runtime_store::{EventPage, Page, Position, ReadError, Store};
use runtime_testkit::SeededRandom;

use crate::care::{fill, told, write, write_with_checkpoint};
use crate::checkpoints::copy_all;
use crate::repairs::{flip, flip_in, frames};
use crate::support::{body, in_memory, options, segment, stream};

async fn page(
    store: &FsStore,
    topic: Option<&str>,
    after: u64,
    limit: usize,
) -> Result<EventPage, ReadError> {
    let topic = topic.map(stream);
    let page = Page::after(Position(after), limit);
    store.events(topic.as_ref(), page).await
}

fn positions(page: &EventPage) -> Vec<u64> {
    let positions = page.events.iter().map(|event| event.position.0);
    positions.collect()
}

/// The message of what is lost after a position.
async fn lost_after(store: &FsStore, topic: Option<&str>, after: u64, limit: usize) -> String {
    let lost = page(store, topic, after, limit).await;
    lost.unwrap_err().to_string()
}

fn sidecar(options: &FsStoreOptions) -> PathBuf {
    let name = "checkpoints/0000000001.log.sidecar";
    options.directory.join(name)
}

/// V6, S6: pages that lie on both sides of a checkpoint hold as many events as were asked for, say
/// exactly whether more follow, and the last one goes on after the head, of a quiet stream too.
#[tokio::test]
async fn s6_pages_over_a_checkpoint_are_exact() {
    let parent = in_memory();
    let store = FsStore::open(&options(parent.path(), 1)).unwrap();
    fill(&store, 0..12).await;
    store.checkpoint().await.unwrap();
    for (head, above) in [(12, 12..12), (18, 12..18)] {
        fill(&store, above).await;
        let of_worker: Vec<u64> = (1..=head).filter(|at| at % 4 == 2).collect();
        for (topic, expected) in [
            (None, (1..=head).collect()),
            (Some("session/all"), (1..=head).collect()),
            (Some("worker/1"), of_worker),
        ] {
            for limit in 1..=expected.len() + 1 {
                let mut after = 0;
                for (number, wanted) in (1..).zip(expected.chunks(limit)) {
                    let what = format!("page {number} of {limit} of {topic:?} up to {head}");
                    let found = page(&store, topic, after, limit).await.unwrap();
                    assert_eq!(positions(&found), wanted, "{what}");
                    let has_more = wanted.last() != expected.last();
                    assert_eq!(found.has_more, has_more, "{what}");
                    after = found.next.0;
                    let next = if has_more { wanted.last() } else { Some(&head) };
                    assert_eq!(Some(&after), next, "{what}");
                }
            }
        }
    }
}

/// S4: the error names the positions that are lost, no fewer and no more, however few are asked
/// for: in the log as it is, after a repair, on a checkpoint, and after opening from it.
#[tokio::test]
async fn s4_what_is_lost_is_told_exactly() {
    for (lost, rest, message) in [
        (vec![4, 5], vec![6, 7, 8], "events at positions 4 to 5"),
        (vec![8], vec![], "events at positions 8 to 8"),
    ] {
        let parent = in_memory();
        let options = options(parent.path(), 1);
        write(&options, 0..8).await;
        for position in &lost {
            flip(&options, &body(position - 1));
        }
        // The end of a stream is not known where it is lost.
        let topics = if rest.is_empty() {
            &[None][..]
        } else {
            &[None, Some("session/all")]
        };
        let before: Vec<u64> = (1..lost[0]).collect();
        for state in ["as it is", "repaired", "on a checkpoint", "reopened"] {
            if state == "repaired" {
                repair(&options, true).unwrap();
            }
            let store = FsStore::open(&options).unwrap();
            if state == "on a checkpoint" {
                store.checkpoint().await.unwrap();
            }
            for &topic in topics {
                let whole = page(&store, topic, 0, 100).await.unwrap();
                assert_eq!(positions(&whole), before, "{state}, {topic:?}");
                assert!(whole.has_more, "{state}, {topic:?}");
                assert_eq!(whole.next, Position(lost[0] - 1), "{state}, {topic:?}");
                for limit in [1, 100] {
                    let told = lost_after(&store, topic, lost[0] - 1, limit).await;
                    assert_eq!(told, format!("damaged: {message}"), "{state}, {topic:?}");
                }
                let end = lost[lost.len() - 1];
                let after = page(&store, topic, end, 100).await.unwrap();
                assert_eq!(positions(&after), rest, "{state}, {topic:?}");
                assert!(!after.has_more, "{state}, {topic:?}");
            }
            store.close().await.unwrap();
        }
    }
}

/// S4, S6: where the first events of a stream after the checkpoint are lost, they are told of, and
/// a reader does not go on behind those that follow.
#[tokio::test]
async fn s4_what_is_lost_right_after_a_checkpoint_is_told() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.checkpoint().await.unwrap();
    fill(&store, 8..20).await;
    store.close().await.unwrap();
    drop(store);
    flip_in(&segment(&options, 2), &body(8));
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage.len(), 1);
    // Its events in the checkpoint end before that does.
    let whole = page(&store, Some("worker/0"), 0, 2).await.unwrap();
    assert_eq!((positions(&whole), whole.has_more), (vec![1, 5], true));
    let told = lost_after(&store, Some("worker/0"), 5, 100).await;
    assert_eq!(told, "damaged: events at positions 6 to 9");
    let rest = page(&store, Some("worker/0"), 9, 100).await.unwrap();
    assert_eq!((positions(&rest), rest.has_more), (vec![13, 17], false));
}

/// S4, S6: a sidecar that is made anew of a segment that has been damaged since says what is lost.
#[tokio::test]
async fn s4_a_sidecar_made_anew_tells_of_damage() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    write_with_checkpoint(&options, 0..8).await;
    fs::remove_file(sidecar(&options)).unwrap();
    for number in [6, 7] {
        flip(&options, &body(number));
    }
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().commits, 0, "it begins at the checkpoint");
    let whole = page(&store, None, 0, 100).await.unwrap();
    assert_eq!(positions(&whole), [1, 2, 3, 4, 5, 6]);
    assert!(whole.has_more);
    let told = lost_after(&store, None, 6, 1).await;
    assert_eq!(told, "damaged: events at positions 7 to 8");
}

/// S4, S6: what is lost at the end of one segment is told from the next, by sidecars that are made
/// anew of each segment alone too.
#[tokio::test]
async fn s4_sidecars_made_anew_tell_of_a_loss_between_two_segments() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.checkpoint().await.unwrap();
    fill(&store, 8..12).await;
    store.close().await.unwrap();
    drop(store);
    flip(&options, &body(7));
    repair(&options, true).unwrap();
    for is_made_anew in [false, true] {
        let store = FsStore::open(&options).unwrap();
        if is_made_anew {
            for name in fs::read_dir(options.directory.join("checkpoints")).unwrap() {
                let path = name.unwrap().path();
                if path.to_string_lossy().ends_with(".sidecar") {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        store.checkpoint().await.unwrap();
        let whole = page(&store, Some("session/all"), 5, 100).await.unwrap();
        assert_eq!((positions(&whole), whole.has_more), (vec![6, 7], true));
        let told = lost_after(&store, Some("session/all"), 7, 100).await;
        assert_eq!(told, "damaged: events at positions 8 to 8");
        let rest = page(&store, Some("session/all"), 8, 100).await.unwrap();
        assert_eq!(positions(&rest), [9, 10, 11, 12]);
        store.close().await.unwrap();
    }
}

/// S6, S7: only a sidecar that is missing or not whole is made anew. Another failure is told, and a
/// symlink in its place is neither followed nor replaced.
#[tokio::test]
async fn s7_a_symlink_in_place_of_a_sidecar_is_left_alone() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.checkpoint().await.unwrap();
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(sidecar(&options), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, sidecar(&options)).unwrap();
    let refused = page(&store, None, 0, 100).await;
    assert!(
        matches!(refused, Err(ReadError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(sidecar(&options).is_symlink());
    fs::remove_file(sidecar(&options)).unwrap();
    let found = page(&store, None, 0, 100).await.unwrap();
    assert_eq!(found.events.len(), 8);
    assert!(sidecar(&options).is_file(), "it was made anew");
}

/// S6: a checkpoint that was written without a commit since the one before is not believed in
/// another log either.
#[tokio::test]
async fn s6_a_checkpoint_without_new_commits_is_of_its_log() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    write(&options, 0..4).await;
    let other = FsStoreOptions {
        directory: parent.path().join("other"),
        ..options.clone()
    };
    copy_all(&options.directory, &other.directory);
    // Two logs that are equal up to here, and of equal length after it.
    for (options, first) in [(&options, 100), (&other, 100 + 16 * 7 * 10)] {
        let store = FsStore::open(options).unwrap();
        fill(&store, first..first + 8).await;
        store.checkpoint().await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let store = FsStore::open(options).unwrap();
        assert_eq!(store.report().commits, 0);
        store.checkpoint().await.unwrap();
        fill(&store, first + 8..first + 10).await;
        store.close().await.unwrap();
    }
    let expected = told(&FsStore::open_read_only(&options).unwrap(), 0..110).await;
    let caches = |options: &FsStoreOptions| options.directory.join("checkpoints");
    fs::remove_dir_all(caches(&options)).unwrap();
    copy_all(&caches(&other), &caches(&options));
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().unusable_checkpoints.len(), 2);
    assert_eq!(told(&store, 0..110).await, expected);
}

/// S4: where the last event of a stream is lost, its readers are told, and do not go on behind it.
#[tokio::test]
async fn s4_a_lost_end_of_a_stream_is_told() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    write(&options, 0..8).await;
    flip(&options, &body(7));
    let store = FsStore::open(&options).unwrap();
    for name in ["session/all", "worker/3"] {
        let topic = stream(name);
        let page = store
            .events(Some(&topic), Page::after(Position(0), 100))
            .await
            .unwrap();
        assert!(page.has_more, "{name}");
        let lost = store
            .events(Some(&topic), Page::after(Position(7), 100))
            .await;
        assert!(lost.is_err(), "{name}");
    }
}

/// The same on a checkpoint, where the segment is damaged and its sidecar is made anew.
#[tokio::test]
async fn s4_a_sidecar_made_anew_tells_of_a_lost_end_of_a_stream() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.checkpoint().await.unwrap();
    fill(&store, 8..12).await;
    store.close().await.unwrap();
    drop(store);
    flip(&options, &body(7));
    let sidecar = "checkpoints/0000000001.log.sidecar";
    fs::remove_file(options.directory.join(sidecar)).unwrap();
    let store = FsStore::open(&options).unwrap();
    let topic = stream("worker/3");
    let lost = store
        .events(Some(&topic), Page::after(Position(4), 100))
        .await;
    assert!(lost.is_err(), "{lost:?}");
}

/// S4: an event that cannot be read any more does not tell what is lost of its stream before it, so
/// its readers are told of that range.
#[tokio::test]
async fn s4_damage_since_opening_hides_no_loss_before_it() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    write(&options, 0..16).await;
    flip(&options, &body(7));
    repair(&options, true).unwrap();
    let store = FsStore::open(&options).unwrap();
    flip(&options, &body(11));
    let told = lost_after(&store, Some("worker/3"), 4, 100).await;
    let range = "damaged: events at positions 5 to 12 (0000000001.log byte ";
    assert!(told.starts_with(range), "{told}");
    let rest = page(&store, Some("worker/3"), 12, 100).await.unwrap();
    assert_eq!(positions(&rest), [16]);
}

/// S4: a reader of a stream is told of all that is lost of it at the end of a segment, be it more
/// than the last event.
#[tokio::test]
async fn s4_a_sidecar_made_anew_tells_of_all_that_a_stream_has_lost_at_its_end() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..12).await;
    store.checkpoint().await.unwrap();
    fill(&store, 12..16).await;
    store.close().await.unwrap();
    drop(store);
    for number in [7, 11] {
        flip(&options, &body(number));
    }
    fs::remove_file(sidecar(&options)).unwrap();
    let store = FsStore::open(&options).unwrap();
    let told = lost_after(&store, Some("worker/3"), 4, 100).await;
    assert_eq!(told, "damaged: events at positions 5 to 12");
    let rest = page(&store, Some("worker/3"), 12, 100).await.unwrap();
    assert_eq!(positions(&rest), [16]);
}

/// Damages the header of the last commit in the first segment, behind which so many frames are.
fn flip_last_header(path: &std::path::Path, behind: usize) {
    let mut bytes = fs::read(path).unwrap();
    let frames = frames(&bytes);
    bytes[frames[frames.len() - 1 - behind].start + 8] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// S4, S7: in a copy that nobody has written to yet the last event is told to be lost, though no
/// writer has published how far its log goes.
#[tokio::test]
async fn s4_a_lost_end_of_a_copy_is_told() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.close().await.unwrap();
    let copy = FsStoreOptions {
        directory: parent.path().join("copy"),
        ..options.clone()
    };
    let random = SeededRandom::new(1);
    backup(&options.directory, &copy.directory, &random, &mut |_| ()).unwrap();
    flip_last_header(&segment(&copy, 1), 1);
    let store = FsStore::open_read_only(&copy).unwrap();
    let whole = page(&store, None, 0, 100).await.unwrap();
    assert_eq!((positions(&whole).len(), whole.has_more), (7, true));
    let told = lost_after(&store, None, 7, 100).await;
    assert_eq!(told, "damaged: events at positions 8 to 8");
}

/// S4: what is lost at the end of a segment is told by the header of the next one, before anything
/// is written there.
#[tokio::test]
async fn s4_a_lost_end_before_an_empty_segment_is_told() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    fill(&store, 0..8).await;
    store.checkpoint().await.unwrap();
    drop(store);
    fs::remove_dir_all(options.directory.join("checkpoints")).unwrap();
    flip_last_header(&segment(&options, 1), 0);
    let beside = FsStore::open_read_only(&options).unwrap();
    let store = FsStore::open(&options).unwrap();
    assert!(store.report().read_only.is_some());
    for store in [&beside, &store] {
        let whole = page(store, None, 0, 100).await.unwrap();
        assert_eq!((positions(&whole).len(), whole.has_more), (7, true));
        let told = lost_after(store, None, 7, 100).await;
        assert_eq!(told, "damaged: events at positions 8 to 8");
    }
}
