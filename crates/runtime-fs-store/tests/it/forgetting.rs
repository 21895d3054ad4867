//! What was forgotten is told from what never was (V1), also when nothing is left of it.

use runtime_fs_store::{FsStore, FsStoreOptions, export, import};
use runtime_store::{Commit, CommitError, Limits, Position, Removal, Store};

use crate::care::{clean, removal, small};
use crate::support::{commit, in_memory};

fn forgetful(parent: &std::path::Path) -> FsStoreOptions {
    FsStoreOptions {
        limits: Limits {
            remembered_commits: 5,
            ..Limits::default()
        },
        ..small(parent, 1)
    }
}

fn event_only(number: u64) -> Commit {
    let mut commit = commit(number);
    commit.rows.clear();
    commit
}

/// V1: what was forgotten stays forgotten when a cleaning has removed the last trace of it.
/// Today: TooOld before the reopening, committed a second time (101..102, not repeated) after it.
#[tokio::test]
async fn v1_a_forgotten_commit_is_too_old_after_a_cleaning_and_reopening() {
    let parent = in_memory();
    let options = forgetful(parent.path());
    let mut store = FsStore::open(&options).unwrap();
    for number in 0..100 {
        store.commit(event_only(number)).await.unwrap();
    }
    let through = Removal::Through(Position(100));
    store.commit(removal(10_000, through)).await.unwrap();
    clean(&store).await;
    for reopened in [false, true] {
        if reopened {
            store.close().await.unwrap();
            drop(store);
            store = FsStore::open(&options).unwrap();
        }
        let again = store.commit(event_only(3)).await;
        assert!(
            matches!(again, Err(CommitError::TooOld { .. })),
            "{reopened}: {again:?}"
        );
    }
}

/// V1, S7: the same for an export and an import. Today: committed a second time in the copy.
#[tokio::test]
async fn v1_a_forgotten_commit_is_too_old_in_an_import() {
    let parent = in_memory();
    let options = forgetful(parent.path());
    let store = FsStore::open(&options).unwrap();
    for number in 0..100 {
        store.commit(event_only(number)).await.unwrap();
    }
    let through = Removal::Through(Position(100));
    store.commit(removal(10_000, through)).await.unwrap();
    for number in 100..103 {
        store.commit(event_only(number)).await.unwrap();
    }
    clean(&store).await;
    let again = store.commit(event_only(3)).await;
    assert!(
        matches!(again, Err(CommitError::TooOld { .. })),
        "{again:?}"
    );
    store.close().await.unwrap();
    let mut lines = Vec::new();
    export(&options.directory, &mut lines, &mut |_| ()).unwrap();
    let to = FsStoreOptions {
        directory: parent.path().join("copy"),
        limits: Limits::default(),
        ..options.clone()
    };
    import(&mut &lines[..], &to, None, &mut |_| ()).unwrap();
    let copy = FsStore::open(&to).unwrap();
    let again = copy.commit(event_only(3)).await;
    assert!(
        matches!(again, Err(CommitError::TooOld { .. })),
        "{again:?}"
    );
}
