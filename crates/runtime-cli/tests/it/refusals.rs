//! Bad input: a clear error, and nothing changed.

use std::fs;

use serde_json::Value;

use crate::command_line::{Home, text};

fn error_code(home: &Home, arguments: &[&str]) -> String {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let ended = home.run(&all).expect(1);
    text(&ended.json()[0]["error"]["code"])
}

#[test]
fn e12_a_forged_cut_or_foreign_token_is_refused_and_changes_nothing() {
    let home = Home::new();
    home.run(&["demo"]).expect(3);
    let token = text(&home.pending()[0]["token"]);
    let foreign = Home::new();
    foreign.run(&["demo"]).expect(3);
    let foreign = text(&foreign.pending()[0]["token"]);
    let before = home.run(&["tail", "--json"]).expect(0).stdout;

    let mut bad = vec![
        foreign,
        token[..token.len() - 1].to_owned(),
        token[1..].to_owned(),
    ];
    for at in [0, token.len() / 2, token.len() - 2] {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        bad.push(String::from_utf8(forged).expect("ASCII"));
    }
    for token in &bad {
        for command in [
            ["approve", token, ""],
            ["deny", token, ""],
            ["resolve", token, "1"],
        ] {
            let arguments: Vec<&str> = command
                .into_iter()
                .filter(|word| !word.is_empty())
                .collect();
            assert_eq!(
                error_code(&home, &arguments),
                "token_refused",
                "{arguments:?}"
            );
        }
    }
    assert_eq!(
        error_code(&home, &["approve", "no-such-call"]),
        "nothing_pending"
    );
    assert_eq!(
        error_code(&home, &["in-doubt", "no-such-call", "run-again"]),
        "nothing_pending"
    );
    assert_eq!(
        home.run(&["tail", "--json"]).expect(0).stdout,
        before,
        "nothing was written"
    );
    assert_eq!(home.pending().len(), 1);
    assert!(home.ledger().is_empty());
}

#[test]
fn s4_garbage_in_the_directory_is_named_and_nothing_is_deleted() {
    for file in ["format", "keys"] {
        let home = Home::new();
        home.run(&["demo"]).expect(3);
        let path = home.path().join("store").join(file);
        fs::write(&path, b"garbage").expect("the file is ours");
        let ended = home.run(&["demo", "--yes"]).expect(1);
        assert!(
            ended.stderr.contains(file),
            "names {file}: {}",
            ended.stderr
        );
        assert_eq!(fs::read(&path).expect("still there"), b"garbage");
    }
}

#[test]
fn s1_a_foreign_file_is_left_alone() {
    let home = Home::new();
    home.run(&["demo"]).expect(3);
    let path = home.path().join("store").join("notes.txt");
    fs::write(&path, b"mine").expect("the directory is ours");
    home.run(&["demo", "--yes"]).expect(0);
    assert_eq!(fs::read(&path).expect("still there"), b"mine");
    let report: Vec<Value> = home.run(&["verify", "--json"]).expect(0).json();
    assert!(
        report[0]["foreign"].to_string().contains("notes.txt"),
        "{report:?}"
    );
}

#[test]
fn reading_where_there_is_nothing_is_an_error_and_makes_nothing() {
    let home = Home::new();
    for arguments in [
        &["workers"][..],
        &["tail"],
        &["pending"],
        &["show", "a"],
        &["resume"],
        &["verify"],
    ] {
        assert_eq!(
            error_code(&home, arguments),
            "store_not_found",
            "{arguments:?}"
        );
    }
    assert!(!home.path().exists());
}

#[test]
fn wrong_usage_exits_with_2() {
    let home = Home::new();
    home.run(&["demo", "--crash-at", "nowhere"]).expect(2);
    home.run(&["no-such-command"]).expect(2);
}

#[test]
fn wrong_arguments_are_named() {
    let home = Home::new();
    home.run(&["demo"]).expect(3);
    assert_eq!(error_code(&home, &["show", "nobody"]), "worker_unknown");
    assert_eq!(error_code(&home, &["show", "../../etc"]), "id_character");
    assert_eq!(error_code(&home, &["cancel", "nobody"]), "worker_unknown");
    assert_eq!(
        error_code(&home, &["run", "--worker", "a", "  "]),
        "text_blank"
    );
    assert_eq!(
        error_code(&home, &["tail", "--from", "nonsense"]),
        "cursor_malformed"
    );
}

#[test]
fn usage_errors_are_json_where_json_is_asked_for() {
    let home = Home::new();
    for arguments in [
        vec!["--json", "nonsense"],
        vec!["demo", "--crash-at", "nowhere", "--json"],
        vec!["run", "--json", "without a worker"],
        vec!["--json"],
    ] {
        let ended = home.run(&arguments).expect(2);
        let code = text(&ended.json()[0]["error"]["code"]);
        assert_eq!(code, "command_usage", "{arguments:?}");
        assert_eq!(ended.stderr, "", "{arguments:?}");
    }
    assert!(
        home.run(&["nonsense"])
            .expect(2)
            .stderr
            .contains("nonsense")
    );
    assert!(
        home.run(&["--json", "--help"])
            .expect(0)
            .stdout
            .contains("Usage")
    );
    assert!(!home.path().exists(), "nothing was made");
}

#[test]
fn v6_tail_goes_on_from_a_cursor_that_it_printed() {
    let home = Home::new();
    home.run(&["demo", "--yes"]).expect(0);
    let plain = home.run(&["tail", "--json"]).expect(0).json();
    let with = home.run(&["tail", "--json", "--cursors"]).expect(0).json();
    assert_eq!(with.len(), plain.len());
    for (at, event) in with.iter().enumerate() {
        let cursor = text(&event["cursor"]);
        let rest = home.run(&["tail", "--json", "--from", &cursor]).expect(0);
        assert_eq!(rest.json(), plain[at + 1..]);
    }
    let line = home.run(&["tail", "--cursors"]).expect(0).stdout;
    assert!(line.contains(&text(&with[0]["cursor"])), "{line}");
}

#[test]
fn an_argument_that_is_not_json_is_told_so() {
    let home = Home::new();
    home.run(&["demo"]).expect(3);
    let call = text(&home.pending()[0]["call"]);
    let code = error_code(&home, &["approve", &call, "--arguments", "x"]);
    assert_eq!(code, "argument_not_json");
}
