//! Attachments that are missing, damaged or cannot be read, and a sweep while others put and remove
//! them (E18).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, Digest, Timestamp};
use runtime_fs_store::{Damage, FsStore, export, repair, verify};
use runtime_store::{
    AttachmentError, AttachmentStore, Commit, Payload, Position, Removal, RowChange, Store,
};
use runtime_testkit::{SeededRandom, SimulatedClock};

use crate::life::{MAKERS, make_pipe};
use crate::support::{commit, commit_id, in_memory, options, run, scope};

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

/// E18: verifying reads the attachments too, and names a damaged one.
#[tokio::test]
async fn e18_verify_names_a_damaged_attachment() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let digest = store
        .put_attachment(b"bytes".as_slice().into())
        .await
        .unwrap();
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let name = digest.to_string();
    let file = format!("attachments/{}/{name}", &name[..2]);
    fs::write(options.directory.join(&file), b"other").unwrap();
    let found = verify(&options.directory).unwrap().damage;
    assert_eq!(found, [Damage::Attachment { file }]);
}

/// S4, E18: verifying names an attachment that is not there, as long as something alive names it,
/// also when a repair has put it aside; put anew it is there again.
#[tokio::test]
async fn s4_verify_names_an_attachment_that_is_missing() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let bytes = || Payload::from(b"bytes".as_slice());
    let digest = store.put_attachment(bytes()).await.unwrap();
    let mut names_it = commit(1);
    names_it.attachments.push(digest);
    store.commit(names_it).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let name = digest.to_string();
    let file = format!("attachments/{}/{name}", &name[..2]);
    let path = options.directory.join(&file);
    let missing = [Damage::MissingAttachment { file: file.clone() }];

    fs::write(&path, b"other").unwrap();
    assert_eq!(
        verify(&options.directory).unwrap().damage,
        [Damage::Attachment { file }]
    );
    assert!(repair(&options, true).unwrap().applied);
    assert_eq!(verify(&options.directory).unwrap().damage, missing);
    assert!(
        !repair(&options, true).unwrap().applied,
        "nothing can be done"
    );

    let store = FsStore::open(&options).unwrap();
    assert!(store.report().damage.is_empty());
    store.put_attachment(bytes()).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    fs::remove_file(&path).unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, missing);

    // Nothing names it any more.
    let store = FsStore::open(&options).unwrap();
    let retired = Commit::new(commit_id(2), Timestamp::from_millis(2))
        .remove(Removal::Through(Position(1)))
        .row(RowChange::Retire(scope("worker/1")));
    store.commit(retired).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
}

/// S4, S7: an attachment that cannot be read is told by its name, beside all others; a repair puts
/// it aside, whatever it is.
#[tokio::test]
async fn s4_an_attachment_that_is_no_file_is_named_and_put_aside() {
    for make in MAKERS {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), 1);
        let store = FsStore::open(&options).unwrap();
        let lost = store.put_attachment((*b"lost").into()).await.unwrap();
        let kept = store.put_attachment((*b"kept").into()).await.unwrap();
        store.close().await.unwrap();
        let digits = lost.to_string();
        let file = format!("attachments/{}/{digits}", &digits[..2]);
        fs::remove_file(options.directory.join(&file)).unwrap();
        make(&options.directory.join(&file));
        let found = verify(&options.directory).unwrap().damage;
        assert_eq!(found, [Damage::Attachment { file }]);
        assert!(repair(&options, true).unwrap().applied);
        assert_eq!(verify(&options.directory).unwrap().damage, []);
        let store = FsStore::open(&options).unwrap();
        assert_eq!(&*store.attachment(&kept).await.unwrap(), b"kept");
        assert_eq!(store.put_attachment((*b"lost").into()).await.unwrap(), lost);
    }
}

/// S7: an export that cannot read an attachment now says so; the store is not damaged by that.
#[tokio::test]
async fn s7_an_export_tells_an_attachment_that_cannot_be_read_from_a_damaged_one() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let digest = store.put_attachment((*b"lost").into()).await.unwrap();
    store.close().await.unwrap();
    let digits = digest.to_string();
    let path = options
        .directory
        .join(format!("attachments/{}/{digits}", &digits[..2]));
    let code = || {
        let exported = export(&options.directory, &mut Vec::new(), &mut |_| ());
        exported.unwrap_err().code()
    };
    fs::write(&path, b"other").unwrap();
    assert_eq!(code(), "store_corrupt");
    fs::remove_file(&path).unwrap();
    make_pipe(&path);
    assert_eq!(code(), "store_read_unavailable");
}
