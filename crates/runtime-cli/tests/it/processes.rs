//! Several processes on one directory (S1, S8).

use std::process::Child;

use runtime::core::{ExecutionScope, ProcessRegistration};
use runtime::effects::{Failure, WorkflowContext};
use serde_json::Value;

use crate::command_line::{Home, completed, kinds, text};

/// Starts a demo that waits for somebody to approve, and returns once it does.
fn waiting_demo(home: &Home) -> (Child, Value) {
    let mut child = home.spawn(&["demo", "--wait"]);
    // Each look is a whole process, so this is no busy loop; the bound is generous.
    for _ in 0..2_000 {
        let looked = home.run(&["pending", "--json"]);
        if looked.code == Some(0)
            && let Some(item) = looked
                .json()
                .into_iter()
                .find(|item| item["kind"] == "approval")
        {
            return (child, item);
        }
        assert!(
            child.try_wait().expect("the child is ours").is_none(),
            "the demo still waits"
        );
    }
    panic!("the demo never asked for approval");
}

fn exit_code(child: Child) -> Option<i32> {
    child
        .wait_with_output()
        .expect("the child is ours")
        .status
        .code()
}

#[test]
fn s1_the_second_writer_says_who_holds_the_store() {
    let home = Home::new();
    let (mut child, _) = waiting_demo(&home);
    let second = home.run(&["demo", "--yes"]).expect(4);
    assert!(
        second.stderr.contains(&child.id().to_string()),
        "names the holder: {}",
        second.stderr
    );
    let second = home
        .run(&["--json", "run", "--worker", "other", "hello"])
        .expect(4);
    assert_eq!(second.json()[0]["error"]["code"], "store_busy");
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
    // The lock of a killed holder is free.
    home.run(&["demo", "--yes"]).expect(0);
    assert_eq!(completed(&home.events()), 1);
}

#[test]
fn s1_readers_work_beside_the_writer() {
    let home = Home::new();
    let (mut child, item) = waiting_demo(&home);
    for key in ["kind", "worker", "turn", "call", "token", "since"] {
        assert!(!item[key].is_null(), "{key} of {item}");
    }
    assert!(kinds(&home.events()).contains(&"approval_requested"));
    let shown = home.run(&["show", "demo", "--json"]).expect(0).json();
    assert_eq!(shown[0]["worker"], "demo");
    assert_eq!(shown[0]["pending"][0]["call"], item["call"]);
    assert_eq!(home.run(&["workers", "--json"]).expect(0).json().len(), 1);
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
}

#[test]
fn s8_an_approval_reaches_the_running_writer() {
    let home = Home::new();
    let (child, item) = waiting_demo(&home);
    home.run(&["approve", &text(&item["token"])]).expect(0);
    assert_eq!(exit_code(child), Some(0));
    assert_eq!(home.ledger().len(), 1);
    assert_eq!(completed(&home.events()), 1);
}

#[test]
fn s8_a_denial_by_call_reaches_the_running_writer() {
    let home = Home::new();
    let (child, item) = waiting_demo(&home);
    home.run(&["deny", &text(&item["call"]), "--reason", "not today"])
        .expect(0);
    assert_eq!(exit_code(child), Some(0));
    assert_eq!(home.ledger().len(), 0, "a denied call does not run");
    assert_eq!(
        completed(&home.events()),
        1,
        "a denial is an ordinary result (T3)"
    );
}

#[test]
fn s8_a_cancel_reaches_the_running_writer() {
    let home = Home::new();
    let (child, _) = waiting_demo(&home);
    home.run(&["cancel", "demo"]).expect(0);
    assert_eq!(exit_code(child), Some(1));
    let events = home.events();
    assert!(kinds(&events).contains(&"turn_cancelled"));
    assert_eq!(home.ledger().len(), 0);
    let shown = home.run(&["show", "demo", "--json"]).expect(0).json();
    assert_eq!(shown[0]["status"], "cancelled");
    // Cancelled for good (W2): it takes no inputs, and the demo goes on under another name.
    home.run(&["run", "--worker", "demo", "hello"]).expect(1);
    home.run(&["demo", "--yes"]).expect(0);
}

#[test]
fn t3_a_parked_approval_is_answered_by_another_process_after_a_restart() {
    let home = Home::new();
    let parked = home.run(&["demo"]).expect(3);
    assert!(
        parked.stdout.contains("approve"),
        "says how to go on: {}",
        parked.stdout
    );
    let item = home.pending().remove(0);
    home.run(&["approve", &text(&item["call"])]).expect(0);
    home.run(&["resume"]).expect(0);
    assert_eq!(home.ledger().len(), 1);
    assert_eq!(completed(&home.events()), 1);
    // Answers are idempotent: nothing waits any more, and nothing changes.
    home.run(&["approve", &text(&item["call"])]).expect(1);
    assert_eq!(home.ledger().len(), 1);
}

#[test]
fn a_worker_answers_and_a_repeated_submission_is_accepted_once() {
    let home = Home::new();
    let arguments = ["run", "--worker", "alice", "Bergen", "--submission", "one"];
    home.run(&arguments).expect(0);
    home.run(&arguments).expect(0);
    assert_eq!(completed(&home.events()), 1);
    let other = [
        "run",
        "--worker",
        "alice",
        "Paris",
        "--submission",
        "one",
        "--json",
    ];
    let refused = home.run(&other).expect(1).json();
    assert_eq!(refused[0]["error"]["code"], "submission_conflict");
}

#[test]
fn v4_tail_follow_goes_on_while_a_writer_is_killed_and_restarted() {
    follow_through_a_kill(&[]);
}

/// A `tail --follow` beside a writer that is killed and started again shows, byte for byte, what
/// is read later: no gap, no repetition, no other order (V4).
pub(crate) fn follow_through_a_kill(store: &[&str]) {
    use std::io::{BufRead, BufReader};
    let home = Home::new();
    let with = |arguments: &[&'static str]| -> Vec<String> {
        let arguments = arguments.iter().chain(store);
        arguments.map(|argument| (*argument).to_owned()).collect()
    };
    let run = |arguments: &[&'static str]| {
        let arguments = with(arguments);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        home.run(&arguments)
    };
    run(&["demo"]).expect(3);
    let tail = with(&["tail", "--json", "--from", "start", "--follow"]);
    let tail: Vec<&str> = tail.iter().map(String::as_str).collect();
    let mut tail = home.spawn(&tail);
    let killed = run(&["demo", "--yes", "--crash-at", "before-tool"]);
    assert_eq!(killed.code, None, "it kills itself: {}", killed.stderr);
    run(&["demo", "--yes"]).expect(0);
    let whole = run(&["tail", "--json", "--from", "start"]).expect(0).stdout;
    let followed = BufReader::new(tail.stdout.take().expect("piped"));
    let followed = followed.lines().take(whole.lines().count());
    let followed: Vec<String> = followed.map(|line| line.expect("UTF-8")).collect();
    assert_eq!(followed, whole.lines().collect::<Vec<_>>());
    tail.kill().expect("the child is ours");
    tail.wait().expect("the child is ours");
}

/// A program that knows the functions `watch` and `price`, this one in some version, over the store of the command line.
async fn program(home: &Home, version: u32) -> runtime::Runtime {
    async fn watch(context: WorkflowContext, _: Value) -> Result<Value, Failure> {
        Ok(context.signal("go").await?)
    }
    let model = runtime::model::ScriptedModel::new("scripted", Vec::new());
    let agent = runtime::agent::Agent::builder("1", std::sync::Arc::new(model)).build();
    let store = home.path().join("store");
    let opened = runtime::builder()
        .directory(store)
        .agent(agent)
        .function("watch", watch)
        .function(
            "price",
            move |context: WorkflowContext, _: Value| async move {
                let step = context.step("price", || async move { Ok::<_, Failure>(version) });
                let price = step.input(&version).await?;
                let _: Value = context.signal("go").await?;
                Ok::<_, Failure>(price)
            },
        )
        .open();
    opened.await.expect("the store is free")
}

/// E15, U4: the processes of a program are seen, told and cancelled on the command line, which
/// knows none of their functions; the program goes on with what it was told.
#[tokio::test]
async fn e15_processes_of_a_program_are_answered_from_the_command_line() {
    let home = Home::new();
    home.run(&["demo", "--yes"]).expect(0);
    let runtime = program(&home, 1).await;
    for id in ["told", "cancelled"] {
        let id = id.parse().expect("an id");
        let watch = ProcessRegistration::function(id, "watch", Value::Null);
        let started = runtime.start_process(&watch, None).await;
        started.expect("it starts");
    }
    runtime.settled().await;
    // Beside the program that drives them.
    let listed = home.run(&["processes", "--json"]).expect(0).json();
    assert_eq!(listed.len(), 2, "{listed:?}");
    runtime.close().await.expect("it closes");

    let shown = home.run(&["process", "show", "told", "--json"]).expect(0);
    let shown = &shown.json()[0];
    assert_eq!(shown["status"], "running");
    assert_eq!(shown["waits"].as_array().map(Vec::len), Some(1), "{shown}");
    let signal = [
        "process",
        "signal",
        "told",
        "go",
        "7",
        "--ordinal",
        "1",
        "--json",
    ];
    let answers = [home.run(&signal).expect(0), home.run(&signal).expect(0)];
    assert_eq!(answers[0].json()[0]["answer"], "done");
    assert_eq!(answers[1].json()[0]["answer"], "already_done");
    home.run(&["process", "cancel", "cancelled", "--reason", "enough"])
        .expect(0);
    let unknown = home.run(&["process", "signal", "nobody", "go", "--json"]);
    let unknown = &unknown.expect(1).json()[0]["error"];
    assert_eq!(unknown["code"], "process_not_found");

    let runtime = program(&home, 1).await;
    runtime.settled().await;
    runtime.close().await.expect("it closes");
    let ended = home.run(&["processes", "--all", "--json"]).expect(0).json();
    let status = |id: &str| {
        let mut of = ended.iter().filter(|process| process["process"] == id);
        of.next().map(|process| process["status"].clone())
    };
    assert_eq!(status("told"), Some("succeeded".into()), "{ended:?}");
    assert_eq!(status("cancelled"), Some("cancelled".into()), "{ended:?}");
    let shown = home.run(&["process", "show", "told", "--json"]).expect(0);
    assert_eq!(shown.json()[0]["outcome"]["value"], 7);
    let reason = home.run(&["process", "show", "cancelled", "--json"]);
    assert_eq!(reason.expect(0).json()[0]["cancel"], "enough");
}

/// E4, E7: conflicts of a changed program are ruled from the command line, each of several that
/// have one replay key by `SCOPE#KEY`; the program goes on as was ruled.
#[tokio::test]
async fn e4_conflicts_are_ruled_from_the_command_line() {
    let home = Home::new();
    home.run(&["demo", "--yes"]).expect(0);
    let runtime = program(&home, 1).await;
    let rulings = ["accept-recorded", "fork", "fail"];
    for id in rulings {
        let process = id.parse().expect("an id");
        let price = ProcessRegistration::function(process, "price", Value::Null);
        let started = runtime.start_process(&price, None).await;
        started.expect("it starts");
    }
    runtime.settled().await;
    runtime.close().await.expect("it closes");
    for id in rulings {
        home.run(&["process", "signal", id, "go"]).expect(0);
    }
    // The step is another one now.
    let runtime = program(&home, 2).await;
    runtime.settled().await;
    runtime.close().await.expect("it closes");
    let pending = home.run(&["pending", "--json"]).expect(0).json();
    let conflicts = pending.iter().filter(|item| item["kind"] == "conflict");
    let keys: Vec<String> = conflicts.map(|item| text(&item["key"])).collect();
    assert_eq!(keys.len(), 3, "{pending:?}");
    let ambiguous = home.run(&["conflict", &keys[0], "fail", "--json"]);
    let ambiguous = &ambiguous.expect(1).json()[0]["error"];
    assert_eq!(ambiguous["code"], "target_ambiguous");
    for id in rulings {
        let process = id.parse().expect("an id");
        let scope = ExecutionScope::Process { process }.scope_id();
        let effect = format!("{scope}#{}", keys[0]);
        home.run(&["conflict", &effect, id]).expect(0);
    }
    let runtime = program(&home, 2).await;
    runtime.settled().await;
    runtime.close().await.expect("it closes");
    let outcome = |id: &str| {
        let shown = home.run(&["process", "show", id, "--json"]).expect(0);
        shown.json()[0]["outcome"].clone()
    };
    assert_eq!(outcome("accept-recorded")["value"], 1);
    assert_eq!(outcome("fork")["value"], 2);
    assert_eq!(outcome("fail")["code"], "ruled_failed");
}
