//! `demo --crash-at POINT`: killed there, the turn goes on when run again (T4).

use std::os::unix::process::ExitStatusExt;

use crate::command_line::{Home, completed};

/// Crashes a demo at a point, runs it again, and checks what the point promises.
fn crash_and_go_on(point: &str, in_doubt: bool) {
    let home = Home::new();
    let crashed = home
        .command(&["demo", "--yes", "--crash-at", point])
        .output()
        .expect("starts");
    assert_eq!(
        crashed.status.signal(),
        Some(9),
        "killed at {point}: {crashed:?}"
    );
    let recorded = home
        .events()
        .iter()
        .filter(|e| e["kind"] == "message_committed")
        .count();
    let calls_before = home.model_calls();

    let again = home.run(&["demo", "--yes", "--json"]);
    assert!(
        home.ledger().len() <= 1,
        "the ledger call ran at most once before any ruling"
    );
    if in_doubt {
        again.expect(3);
        assert_eq!(
            home.in_doubt().len(),
            1,
            "the ledger call is listed in doubt"
        );
        assert_eq!(home.rule_truthfully(), 1);
        home.run(&["resume", "--json"]).expect(0);
    } else {
        again.expect(0);
    }
    let events = home.events();
    assert_eq!(completed(&events), 1, "one turn, ended once");
    assert_eq!(
        home.ledger().len(),
        1,
        "the ledger call happened exactly once"
    );
    assert_eq!(home.pending(), Vec::<serde_json::Value>::new());
    recorded_calls_were_not_repeated(&calls_before, recorded, &home.model_calls());
    home.run(&["verify"]).expect(0);
}

/// The first `recorded` model calls had their answers recorded: their lines in the model's own
/// log are as many as before.
pub(crate) fn recorded_calls_were_not_repeated(
    before: &[String],
    recorded: usize,
    after: &[String],
) {
    let mut distinct: Vec<&String> = Vec::new();
    for call in before {
        if !distinct.contains(&call) {
            distinct.push(call);
        }
    }
    for call in &distinct[..recorded] {
        let count = |calls: &[String]| calls.iter().filter(|line| line == call).count();
        assert_eq!(
            count(before),
            count(after),
            "a recorded model call was made again"
        );
    }
}

macro_rules! crash_points {
    ($($name:ident: $point:literal, $in_doubt:literal;)*) => {
        $(#[test]
        fn $name() {
            crash_and_go_on($point, $in_doubt);
        })*
    };
}

crash_points! {
    t4_after_input: "after-input", false;
    t4_during_model: "during-model", false;
    t4_after_model: "after-model", false;
    t4_before_tool: "before-tool", false;
    t4_during_tool: "during-tool", true;
    t4_after_tool_before_record: "after-tool-before-record", true;
    t4_after_record: "after-record", false;
    t4_before_terminal: "before-terminal", false;
}

/// What is in doubt and did not happen runs again on request, once.
#[test]
fn e7_a_call_that_did_not_happen_runs_again_when_ruled_so() {
    let home = Home::new();
    home.command(&["demo", "--yes", "--crash-at", "during-tool"])
        .output()
        .expect("starts");
    // As if the crash had come before the append.
    std::fs::remove_file(home.path().join("demo-ledger.txt")).expect("the line was written");
    home.run(&["demo", "--yes"]).expect(3);
    assert_eq!(home.rule_truthfully(), 1);
    home.run(&["resume"]).expect(0);
    assert_eq!(home.ledger().len(), 1);
    assert_eq!(completed(&home.events()), 1);
}

/// After a finished turn, the demo starts a new one.
#[test]
fn a_finished_turn_is_followed_by_a_new_one() {
    let home = Home::new();
    home.run(&["demo", "--yes"]).expect(0);
    home.run(&["demo", "--yes"]).expect(0);
    assert_eq!(completed(&home.events()), 2);
    assert_eq!(home.ledger().len(), 2);
}
