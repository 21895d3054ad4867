//! The same commands over PostgreSQL, which processes share.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::command_line::{Home, completed};

/// The URL of a runtime of its own; none where there is no server.
fn database() -> Option<String> {
    let server = postgres_for_tests::url_for_tests()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_nanos();
    let own = format!("cli-{}-{now}", std::process::id());
    Some(format!("{server}?schema=agent_runtime_tests&runtime={own}"))
}

/// T4 over a database: killed in the middle, the turn goes on in the next process and repeats
/// nothing; other commands look at it from processes of their own.
#[test]
fn t4_a_killed_turn_goes_on_in_another_process() {
    let Some(url) = database() else {
        return;
    };
    let home = Home::new();
    let killed = home.run(&[
        "demo",
        "--yes",
        "--crash-at",
        "after-record",
        "--store",
        &url,
    ]);
    assert_eq!(killed.code, None, "it kills itself: {}", killed.stderr);
    home.run(&["demo", "--yes", "--store", &url]).expect(0);
    let told = home
        .run(&["tail", "--json", "--store", &url])
        .expect(0)
        .json();
    assert_eq!(completed(&told), 1);
    let ledger = std::fs::read_to_string(home.path().join("demo-ledger.txt"));
    assert_eq!(ledger.expect("the ledger").lines().count(), 1);
    let workers = home.run(&["workers", "--json", "--store", &url]).expect(0);
    assert_eq!(workers.json().len(), 1);
    let verify = home.run(&["verify", "--json", "--store", &url]).expect(1);
    assert_eq!(verify.json()[0]["error"]["code"], "store_not_files");
}

#[test]
fn v4_tail_follow_goes_on_over_a_database_while_a_writer_is_killed_and_restarted() {
    if let Some(url) = database() {
        crate::processes::follow_through_a_kill(&["--store", &url]);
    }
}

/// A tail on one process follows a turn that runs on another.
#[test]
fn v4_a_tail_follows_a_turn_of_another_process() {
    let Some(url) = database() else {
        return;
    };
    let home = Home::new();
    home.run(&["run", "--worker", "one", "hello", "--store", &url])
        .expect(0);
    let mut tail = home
        .command(&[
            "tail", "--follow", "--from", "now", "--json", "--store", &url,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = tail.stdout.take().expect("a pipe");
    let follower = std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        events
            .take_while(|event| event["kind"] != "turn_completed")
            .count()
    });
    // Inputs until the tail has begun to listen and has seen one end.
    for _ in 0..50 {
        home.run(&["run", "--worker", "one", "hello again", "--store", &url])
            .expect(0);
        if follower.is_finished() {
            break;
        }
    }
    let seen = follower.is_finished();
    tail.kill().expect("a child");
    tail.wait().expect("a child");
    assert!(seen, "the tail never saw the end of a turn");
    assert!(
        follower.join().expect("a follower") > 0,
        "events before the end"
    );
}

#[test]
fn what_is_wrong_with_a_database_is_said_without_its_password() {
    let home = Home::new();
    let url = "postgres://u:hunter2@127.0.0.1:1/a";
    let refused = home.run(&["workers", "--json", "--store", url]).expect(1);
    assert_eq!(refused.json()[0]["error"]["code"], "postgres_unreachable");
    assert!(!refused.stdout.contains("hunter2") && !refused.stderr.contains("hunter2"));
}

#[test]
fn the_tables_are_printed_for_whoever_may_make_them() {
    let home = Home::new();
    let printed = home
        .run(&["postgres", "schema", "--print", "--schema", "mine"])
        .expect(0);
    for part in [
        "BEGIN;",
        "CREATE SCHEMA IF NOT EXISTS mine;",
        "CREATE PROCEDURE commit_batch(",
        "COMMIT;",
    ] {
        assert!(printed.stdout.contains(part), "{part}");
    }
    home.run(&["postgres", "schema"]).expect(2);
}
