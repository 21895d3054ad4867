//! What the person at the terminal is told: what is asked, what a restart would do, what went wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use serde_json::json;

use crate::command_line::{Home, wait_until};

const ENTRY: &str = "Oslo: snow showers";

/// T3: nobody approves blindly: the arguments stand beside the question, wherever it is asked.
#[test]
fn t3_whoever_is_asked_sees_the_arguments() {
    let home = Home::new();
    let asked = home.run(&["demo"]).expect(3);
    let shown = [
        asked.stdout,
        home.run(&["pending"]).expect(0).stdout,
        home.run(&["show", "demo"]).expect(0).stdout,
        home.run(&["watch", "--once"]).expect(0).stdout,
    ];
    for shown in shown {
        assert!(
            shown.contains(&format!("with  {{\"entry\":\"{ENTRY}"))
                || shown.contains(&format!("with {{\"entry\":\"{ENTRY}")),
            "{shown}"
        );
    }
    let pending = home.pending();
    let entry = pending[0]["arguments"]["entry"].as_str();
    assert!(
        entry.is_some_and(|entry| entry.starts_with(ENTRY)),
        "{pending:?}"
    );
    let watched = home.run(&["--json", "watch", "--once"]).expect(0).json();
    assert_eq!(watched[0]["pending"][0], pending[0], "both tell the same");
}

/// T3, U4: answered, a call is in no list any more; `show` says that the answer has come, and
/// another answer is told that the first one stands.
#[test]
fn t3_an_answer_is_shown_and_the_next_one_is_told_of_it() {
    let home = Home::new();
    home.run(&["demo"]).expect(3);
    let token = home.pending()[0]["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    home.run(&["approve", &token]).expect(0);
    let again = home.run(&["approve", &token]).expect(0);
    assert!(again.stdout.contains("done before"), "{}", again.stdout);
    let other = home.run(&["--json", "deny", &token]).expect(1).json();
    assert_eq!(other[0]["error"]["code"], "answered_otherwise");
    let told = other[0]["error"]["message"].as_str();
    assert!(
        told.is_some_and(|told| told.contains("approved")),
        "{told:?}"
    );
    assert_eq!(home.pending(), Vec::<serde_json::Value>::new());
    let shown = home.run(&["show", "demo"]).expect(0).stdout;
    assert!(shown.contains("what it waited for has come"), "{shown}");
    assert!(shown.contains("no process has the runtime open"), "{shown}");
    home.run(&["resume"]).expect(0);
    assert_eq!(home.ledger().len(), 1);
}

/// U4: after a kill in the middle of a tool, and before anything was opened again, `show` says what
/// was under way, since when, and what the next process will make of it.
#[test]
fn u4_show_says_what_a_restart_would_find() {
    let home = Home::new();
    let killed = home.run(&["demo", "--yes", "--crash-at", "during-tool"]);
    assert_eq!(killed.code, None);
    let shown = home.run(&["--json", "show", "demo"]).expect(0).json();
    let turn = &shown[0]["turns"][0];
    assert_eq!(turn["status"], "running");
    assert_eq!(turn["begun"][0]["tool"], "append_ledger");
    assert_eq!(turn["begun"][0]["next_attempt"], json!(null));
    assert!(turn["begun"][0]["since"].is_u64(), "{turn}");
    let restart = turn["on_restart"].as_str().unwrap_or_default();
    assert!(restart.contains("in doubt"), "{restart}");
    assert_eq!(shown[0]["holder"], json!(null));
    let said = home.run(&["show", "demo"]).expect(0).stdout;
    assert!(said.contains("under way since"), "{said}");
    // And so it is.
    home.run(&["resume"]).expect(3);
    let in_doubt = home.pending();
    assert_eq!(in_doubt[0]["kind"], "in_doubt");
    assert_eq!(in_doubt[0]["call"], turn["begun"][0]["call"]);
    assert!(
        in_doubt[0]["arguments"]["entry"].is_string(),
        "{in_doubt:?}"
    );
}

/// U3: a supervisor's SIGTERM closes in order: the next opening finds nothing amiss.
#[test]
fn u3_a_terminated_process_closes_in_order() {
    let home = Home::new();
    let mut child = home.spawn(&["demo", "--wait"]);
    wait_until(|| home.run(&["pending", "--json"]).code == Some(0) && !home.pending().is_empty());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the child is ours");
    let ended = child.wait().expect("the child is ours");
    assert_eq!(ended.code(), Some(1));
    home.run(&["demo", "--yes"]).expect(0);
    let told = home.run(&["diagnostics"]).expect(0).stdout;
    assert!(!told.contains("runtime.not_closed"), "{told}");
    assert_eq!(home.ledger().len(), 1);
}

/// U3: where the first run could not make its directory, `doctor` says so before.
#[test]
fn u3_doctor_says_where_no_directory_can_be_made() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).expect("ours");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_agent-runtime"));
    command
        .arg("--json")
        .arg("--dir")
        .arg(folder.path().join("new"))
        .arg("doctor");
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere.
        command.uid(65_534).gid(65_534);
    }
    let Ok(output) = command.current_dir("/").output() else {
        println!("SKIPPED: nobody may not run the program where it lies");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = said
        .lines()
        .find(|line| line.contains("\"check\":\"directory\""));
    let wrong = wrong.unwrap_or_else(|| panic!("{said}"));
    assert!(wrong.contains("cannot be made"), "{wrong}");
    assert_eq!(output.status.code(), Some(1));
}

/// U4: a turn that fails says why, not only by its code.
#[cfg(feature = "genai")]
#[test]
fn u4_a_failed_turn_says_why() {
    let home = Home::new();
    let failed = home.run(&[
        "--model",
        "openai::m",
        "--set",
        "model.base_url=http://127.0.0.1:9/v1",
        "--set",
        "limits.backoff_initial_ms=10",
        "run",
        "--worker",
        "desk",
        "hello",
    ]);
    let failed = failed.expect(1).stdout;
    assert!(
        failed.contains("attempt 1 failed, it is tried again"),
        "{failed}"
    );
    let why = failed
        .lines()
        .filter(|line| line.contains("the server cannot be reached"));
    assert_eq!(why.count(), 4, "two attempts, the call, the turn: {failed}");
    assert!(failed.contains("[effect_attempts_exhausted]"), "{failed}");
}
