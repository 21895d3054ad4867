//! Workers and the runtime from the command line (W1, W2).

use serde_json::Value;

use crate::command_line::{Home, text};

fn one(home: &Home, arguments: &[&str]) -> Value {
    let mut json = home.run(arguments).expect(0).json();
    assert_eq!(json.len(), 1, "{arguments:?}: {json:?}");
    json.remove(0)
}

fn refused(home: &Home, arguments: &[&str]) -> String {
    text(&home.run(arguments).expect(1).json()[0]["error"]["code"])
}

#[test]
fn w2_a_worker_is_stopped_resumed_and_deleted() {
    let home = Home::new();
    home.run(&["run", "--worker", "ada", "hello"]).expect(0);
    let stop = ["--json", "worker", "stop", "ada", "--reason", "lunch"];
    assert_eq!(one(&home, &stop)["answer"], "done");
    assert_eq!(one(&home, &stop)["answer"], "already_done");
    let send = ["--json", "run", "--worker", "ada", "more"];
    assert_eq!(refused(&home, &send), "worker_not_running");
    assert_eq!(one(&home, &["--json", "status"])["workers"]["stopped"], 1);
    one(&home, &["--json", "worker", "resume", "ada"]);
    let inform = [
        "--json",
        "worker",
        "inform",
        "ada",
        "it is late",
        "--submission",
        "s",
    ];
    assert_eq!(one(&home, &inform)["answer"], "done");
    assert_eq!(one(&home, &inform)["answer"], "already_done");
    home.run(&["run", "--worker", "ada", "more"]).expect(0);
    one(&home, &["--json", "worker", "delete", "ada"]);
    for command in ["stop", "resume", "cancel"] {
        assert_eq!(
            refused(&home, &["--json", "worker", command, "ada"]),
            "worker_status_final"
        );
    }
    // What it said stays, in pages that fit together.
    let whole = home.run(&["--json", "transcript", "ada"]).expect(0).json();
    let sequences: Vec<u64> = whole
        .iter()
        .filter_map(|item| item["sequence"].as_u64())
        .collect();
    assert_eq!(sequences, (1..=whole.len() as u64).collect::<Vec<_>>());
    assert!(whole.iter().any(|item| item["message"]["role"] == "system"));
    let page = [
        "--json",
        "transcript",
        "ada",
        "--start",
        "2",
        "--limit",
        "2",
    ];
    assert_eq!(home.run(&page).expect(0).json(), whole[1..3]);
    let none = ["--json", "transcript", "ada", "--start", "1000"];
    assert_eq!(home.run(&none).expect(0).json(), [] as [Value; 0]);
    assert_eq!(
        refused(&home, &["--json", "transcript", "ada", "--limit", "0"]),
        "limit_zero"
    );
    assert_eq!(
        refused(&home, &["--json", "transcript", "nobody"]),
        "worker_unknown"
    );
    home.events();
}

#[test]
fn w1_a_stopped_runtime_is_read_only_until_reopened() {
    let home = Home::new();
    home.run(&["demo"]).expect(3);
    let token = text(&home.pending()[0]["token"]);
    assert_eq!(
        one(&home, &["--json", "stop", "--reason", "maintenance"])["answer"],
        "done"
    );
    assert_eq!(one(&home, &["--json", "status"])["status"], "stopped");
    assert_eq!(
        refused(&home, &["--json", "approve", &token]),
        "runtime_stopped"
    );
    assert_eq!(
        refused(&home, &["--json", "run", "--worker", "x", "hi"]),
        "runtime_stopped"
    );
    assert!(!home.pending().is_empty());
    one(&home, &["--json", "reopen"]);
    one(&home, &["--json", "worker", "resume", "demo"]);
    one(&home, &["--json", "approve", &token]);
    home.run(&["resume"]).expect(0);
    assert_eq!(home.ledger().len(), 1);
    let told = home
        .run(&["--json", "diagnostics", "demo"])
        .expect(0)
        .json();
    let codes: Vec<String> = told.iter().map(|one| text(&one["code"])).collect();
    assert_eq!(
        codes,
        ["runtime.local_default_resources", "worker.tools_less"]
    );
    home.events();
}
