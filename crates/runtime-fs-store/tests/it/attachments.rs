//! Attachments that cannot be read, and a sweep while others put and remove them (E18).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Digest, Timestamp};
use runtime_fs_store::FsStore;
use runtime_store::{AttachmentError, AttachmentStore};
use runtime_testkit::{SeededRandom, SimulatedClock};

use crate::support::{in_memory, options, run};

fn path(directory: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    directory.join("attachments").join(&name[..2]).join(&name)
}

/// E18: an attachment that the file system does not give is not said to be gone.
#[tokio::test]
async fn e18_an_attachment_that_cannot_be_read_is_not_one_that_is_missing() {
    let parent = in_memory();
    let options = options(parent.path(), 150);
    let store = FsStore::open(&options).unwrap();
    let digest = store.put_attachment((*b"bytes").into()).await.unwrap();
    let path = path(&options.directory, &digest);
    fs::remove_file(&path).unwrap();
    let missing = store.attachment(&digest).await;
    assert!(
        matches!(missing, Err(AttachmentError::NotFound { digest: found }) if found == digest),
        "{missing:?}"
    );
    fs::create_dir(&path).unwrap();
    let unreadable = store.attachment(&digest).await;
    assert!(
        matches!(unreadable, Err(AttachmentError::Unavailable { .. })),
        "{unreadable:?}"
    );
}

/// E18: what somebody puts again while a sweep looks at it stays, since the commit that names it is
/// still to come; what somebody else has removed meanwhile is no failure.
#[tokio::test]
async fn e18_a_sweep_leaves_what_is_put_again_meanwhile() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let parent = in_memory();
    let clock = SimulatedClock::new(Timestamp::from_millis(1_000));
    let random = Arc::new(SeededRandom::new(151));
    let options = options(parent.path(), 151).world(Arc::new(clock.clone()), random);
    let store = FsStore::open(&options).unwrap();
    let [again, gone, old] = [*b"again", *b"gone!", *b"older"];
    for bytes in [again, gone, old] {
        store.put_attachment(bytes.into()).await.unwrap();
    }
    clock.advance(HOUR);
    let meanwhile = |digest: &Digest| {
        if *digest == Digest::of_bytes(&again) {
            let put = || run(store.put_attachment(again.into())).unwrap();
            std::thread::scope(|scope| scope.spawn(put).join().unwrap());
        }
        if *digest == Digest::of_bytes(&gone) {
            fs::remove_file(path(&options.directory, digest)).unwrap();
        }
        false
    };
    let swept = store.sweep_attachments(&meanwhile, HOUR).await;
    assert_eq!(swept.unwrap(), 1);
    for (bytes, is_there) in [(again, true), (gone, false), (old, false)] {
        let has = store.has_attachment(&Digest::of_bytes(&bytes)).await;
        assert_eq!(has.unwrap(), is_there, "{bytes:?}");
    }
}
