//! The inbox: what other processes leave for whoever holds the store (S8).

use std::fs;

use runtime_core::{Classified, CommitId};
use runtime_fs_store::{Damage, FsStore, submit_command, verify};
use runtime_store::Store;

use crate::life::MAKERS;
use crate::support::{commit, commit_id, in_memory, options};

/// S8: commands wait in order, once each, for whoever opens the store.
#[tokio::test]
async fn s8_commands_wait_for_the_holder() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let missing = submit_command(&options.directory, commit_id(1), b"x").unwrap_err();
    assert_eq!(missing.code(), "inbox_store_not_found");
    let store = FsStore::open(&options).unwrap();
    for number in [3, 1, 2, 1] {
        submit_command(&options.directory, commit_id(number), &[7]).unwrap();
    }
    fs::write(options.directory.join("inbox/garbage"), b"?").unwrap();
    let torn = commit_id(9).to_string();
    fs::write(options.directory.join("inbox").join(&torn), b"ARCm????").unwrap();
    let inbox = store.inbox().unwrap();
    let waiting: Vec<CommitId> = inbox
        .commands()
        .await
        .unwrap()
        .iter()
        .map(|c| c.id)
        .collect();
    assert_eq!(waiting, [1, 2, 3].map(commit_id));
    let mut foreign = store.foreign_in_inbox().unwrap();
    foreign.sort();
    assert_eq!(foreign, [torn, "garbage".to_owned()]);
    inbox.forget(&commit_id(1)).await.unwrap();
    inbox.forget(&commit_id(1)).await.unwrap();
    assert_eq!(inbox.commands().await.unwrap().len(), 2);
}

/// S8: one look takes so many bytes, in the order made; whoever forgets what it took gets the
/// rest by looking again, also behind damaged commands.
#[tokio::test]
async fn s8_a_look_into_the_inbox_is_bounded_and_nothing_starves() {
    const COUNT: u64 = 12;
    let parent = in_memory();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let body = vec![7; runtime_fs_store::INBOX_COMMAND_BYTES_MAX];
    for number in (0..COUNT).rev() {
        submit_command(&options.directory, commit_id(number), &body).unwrap();
    }
    for number in [0, 5] {
        let path = options.directory.join("inbox");
        fs::write(path.join(commit_id(number).to_string()), b"ARCm????").unwrap();
    }
    let inbox = store.inbox().unwrap();
    let mut taken = Vec::new();
    loop {
        let page = inbox.commands().await.unwrap();
        if page.is_empty() {
            break;
        }
        let bytes: usize = page.iter().map(|command| command.body.len()).sum();
        assert!(bytes <= 8 * 1024 * 1024, "{bytes} bytes at once");
        for command in page {
            inbox.forget(&command.id).await.unwrap();
            taken.push(command.id);
        }
    }
    let whole = (0..COUNT).filter(|number| ![0, 5].contains(number));
    assert_eq!(taken, whole.map(commit_id).collect::<Vec<_>>());
}

/// S8: a command that was acknowledged and is damaged now is named by verifying and by opening.
#[tokio::test]
async fn s8_a_damaged_command_is_reported() {
    let parent = in_memory();
    let options = options(parent.path(), 1);
    drop(FsStore::open(&options).unwrap());
    for number in [1, 2] {
        submit_command(&options.directory, commit_id(number), b"approve").unwrap();
    }
    let inbox = options.directory.join("inbox");
    fs::write(inbox.join("note.txt"), b"?").unwrap();
    assert_eq!(verify(&options.directory).unwrap().damage, []);
    let path = inbox.join(commit_id(2).to_string());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
    let damage = Damage::Command {
        file: format!("inbox/{}", commit_id(2)),
    };
    let verified = verify(&options.directory).unwrap();
    let beside = FsStore::open_read_only(&options).unwrap();
    let store = FsStore::open(&options).unwrap();
    for report in [&verified, beside.report(), store.report()] {
        assert_eq!(report.damage, std::slice::from_ref(&damage));
        assert_eq!(report.foreign, ["inbox/note.txt"]);
    }
    // Nothing of the log is damaged.
    store.commit(commit(1)).await.unwrap();
}

/// S8: the inbox is bounded.
#[test]
fn s8_the_inbox_is_bounded() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    drop(FsStore::open(&options).unwrap());
    for number in 0..runtime_fs_store::INBOX_COMMANDS_MAX as u64 {
        fs::write(
            options
                .directory
                .join(format!("inbox/{}", commit_id(number))),
            b"",
        )
        .unwrap();
    }
    let full = submit_command(&options.directory, commit_id(5_000), b"x").unwrap_err();
    assert_eq!(full.code(), "inbox_full");
}

/// S8: a pipe, a socket or a directory with the name of a command is told as damaged, and keeps
/// no command from being taken.
#[tokio::test]
async fn s8_what_is_no_file_keeps_no_command_from_being_taken() {
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    for (number, make) in (1..).zip(MAKERS) {
        make(
            &options
                .directory
                .join(format!("inbox/{}", commit_id(number))),
        );
    }
    submit_command(&options.directory, commit_id(9), b"x").unwrap();
    let taken = store.inbox().unwrap().commands().await.unwrap();
    let taken: Vec<CommitId> = taken.iter().map(|command| command.id).collect();
    assert_eq!(taken, [commit_id(9)]);
    assert_eq!(verify(&options.directory).unwrap().damage.len(), 3);
}

/// S8: a command of the longest body is taken whole; a longer one is refused, and is foreign if it
/// is there all the same.
#[tokio::test]
async fn s8_a_command_of_the_longest_body_is_taken() {
    const LONGEST: usize = 2_097_152;
    let parent = tempfile::tempdir().unwrap();
    let options = options(parent.path(), 1);
    let store = FsStore::open(&options).unwrap();
    let inbox = store.inbox().unwrap();
    let body = vec![7; LONGEST + 1];
    submit_command(&options.directory, commit_id(1), &body[1..]).unwrap();
    let refused = submit_command(&options.directory, commit_id(2), &body).unwrap_err();
    assert_eq!(refused.code(), "inbox_command_too_large");
    // Sealed as a sender without that bound would seal it.
    let id = commit_id(3);
    let sum = crc32c::crc32c_append(crc32c::crc32c(id.as_uuid().as_bytes()), &body);
    let sealed = [&b"ARCm"[..], &sum.to_le_bytes(), &body].concat();
    fs::write(options.directory.join("inbox").join(id.to_string()), sealed).unwrap();
    let waiting = inbox.commands().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].body.len(), LONGEST);
    assert_eq!(store.foreign_in_inbox().unwrap(), [id.to_string()]);
    // What is no file cannot be forgotten, and that is told.
    fs::create_dir(
        options
            .directory
            .join("inbox")
            .join(commit_id(4).to_string()),
    )
    .unwrap();
    assert!(inbox.forget(&commit_id(4)).await.is_err());
    fs::remove_file(options.directory.join("format")).unwrap();
    let refused = submit_command(&options.directory, commit_id(5), b"x").unwrap_err();
    assert_eq!(refused.code(), "inbox_store_not_found");
}
