//! The format on disk (R16): a store written by the first version opens and reads byte-equal, and
//! the same commits still make the same bytes.

use std::fs;
use std::path::Path;

use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::Store;

use crate::support::{all_events, body, commit, numbers, options};

const COMMITS: u64 = 20;
const FILES: [&str; 3] = ["format", "keys", "segments/0000000001.log"];

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

async fn write(options: &FsStoreOptions) {
    let store = FsStore::open(options).unwrap();
    for number in 0..COMMITS {
        store.commit(commit(number)).await.unwrap();
    }
    store.close().await.unwrap();
}

/// The store of version 1 opens, and says what was written.
#[tokio::test]
async fn r16_the_golden_store_opens_and_reads_byte_equal() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 99);
    for name in ["segments", "attachments", "inbox", "aside"] {
        fs::create_dir_all(options.directory.join(name)).unwrap();
    }
    for name in FILES {
        fs::copy(golden().join(name), options.directory.join(name)).unwrap();
    }
    let store = FsStore::open(&options).unwrap();
    assert_eq!(store.report().damage, []);
    assert!(store.report().closed_in_order);
    assert_eq!(numbers(&store).await, (0..COMMITS).collect::<Vec<_>>());
    for (number, event) in (0..).zip(all_events(&store).await) {
        assert_eq!(&*event.body, body(number));
        let row = store.committed(&commit(number).id).await.unwrap();
        assert_eq!(row.unwrap().positions, number + 1..number + 2);
    }
}

/// The same commits make the bytes of version 1; a change of the format needs a new version.
#[tokio::test]
async fn r16_the_format_has_not_changed() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 16);
    write(&options).await;
    for name in FILES {
        let written = fs::read(options.directory.join(name)).unwrap();
        if std::env::var_os("FS_STORE_WRITE_GOLDEN").is_some() {
            let target = golden().join(name);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, &written).unwrap();
        }
        assert_eq!(written, fs::read(golden().join(name)).unwrap(), "{name}");
    }
}
