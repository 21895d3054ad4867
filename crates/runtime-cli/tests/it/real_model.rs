//! A model over HTTP: a turn through it survives the same kills as the scripted one.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use runtime_testkit::{ProviderRequest, ProviderResponse, ProviderServer, ProviderStep};
use serde_json::{Value, json};

use crate::command_line::{Ended, Home};

/// The pieces of each answer.
const PIECES: usize = 4;

struct Desk {
    home: Home,
    server: ProviderServer,
}

/// The answer to a request: first a call of the tool, then the end. Piece by piece, so that it
/// can be cut off; at `hang` it stays silent.
fn answer(request: &ProviderRequest, hang: Option<usize>) -> ProviderResponse {
    let answered = has_result(request);
    let pieces = if answered {
        ["It ", "is ", "written ", "down."]
    } else {
        ["I ", "write ", "it ", "down."]
    };
    let mut response = ProviderResponse::stream();
    for (at, piece) in pieces.into_iter().enumerate() {
        if hang == Some(at) {
            return response.step(ProviderStep::Hang);
        }
        response = response.text(piece);
    }
    if hang == Some(PIECES) {
        return response.step(ProviderStep::Hang);
    }
    if !answered {
        let arguments = json!({"text": "milk"});
        response = response
            .call(0, "call_note", "demo__note", &arguments)
            .reason("tool_calls");
    } else {
        response = response.reason("stop");
    }
    response.usage(10, 20).done()
}

fn has_result(request: &ProviderRequest) -> bool {
    let messages = request.body["messages"].as_array();
    messages.is_some_and(|messages| messages.iter().any(|message| message["role"] == "tool"))
}

impl Desk {
    fn new(answers: impl Fn(&ProviderRequest) -> ProviderResponse + Send + Sync + 'static) -> Self {
        let desk = Self {
            home: Home::new(),
            server: ProviderServer::start(answers),
        };
        fs::create_dir_all(desk.home.path()).expect("the folder can be made");
        let program = env!("CARGO_BIN_EXE_agent-runtime");
        let text = format!(
            "[model]\nname = \"openai::fake\"\nbase_url = {:?}\n\
             [approval]\ndefault = \"never\"\n\
             [limits]\nbackoff_initial_ms = 10\nbackoff_max_ms = 50\n\
             [mcp_servers.demo]\ncommand = {program:?}\nargs = [\"mcp-server\"]\n\
             env = {{ AGENT_RUNTIME_NOTES = {:?} }}\n",
            desk.server.base_url(),
            desk.notes_file(),
        );
        fs::write(desk.home.path().join("agent-runtime.toml"), text).expect("written");
        desk
    }

    fn notes_file(&self) -> PathBuf {
        self.home.path().join("notes.txt")
    }

    fn notes(&self) -> usize {
        fs::read_to_string(self.notes_file())
            .unwrap_or_default()
            .lines()
            .count()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-runtime"));
        command
            .current_dir(self.home.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let output = self
            .command(arguments)
            .output()
            .expect("the program starts");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("output is UTF-8"),
        }
    }

    fn start(&self) -> Child {
        let mut command = self.command(&["run", "--worker", "desk", "--submission", "one", "milk"]);
        command.spawn().expect("the program starts")
    }

    fn keys(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        requests
            .map(|request| request.headers["idempotency-key"].clone())
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        let events = self.run(&["--json", "tail", "desk"]).expect(0).json();
        let kind = |event: &Value| event["kind"].as_str().unwrap_or_default().to_owned();
        events.iter().map(kind).collect()
    }

    fn ended_once(&self) {
        let completed = self
            .kinds()
            .iter()
            .filter(|kind| *kind == "turn_completed")
            .count();
        assert_eq!(completed, 1, "the turn ended once");
    }
}

/// Waits for something that another process does.
fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn t6_a_turn_runs_through_a_real_protocol() {
    let desk = Desk::new(|request| answer(request, None));
    let ended = desk.run(&["run", "--worker", "desk", "milk"]).expect(0);
    assert!(
        ended.stdout.contains("It is written down."),
        "{}",
        ended.stdout
    );
    assert_eq!(desk.server.requests().len(), 2);
    assert_eq!(desk.notes(), 1);
    desk.ended_once();
    let keys = desk.keys();
    assert_ne!(keys[0], keys[1]);
}

/// Kills the process in the middle of each of the two streamed answers, after each of their
/// pieces. The call that was cut off is made again once, with the same idempotency key; the one
/// that was recorded is not; the tool runs once.
#[test]
fn t4_a_kill_in_the_middle_of_a_streamed_answer_repeats_at_most_that_call() {
    for cut_answer in [1, 2] {
        for pieces in 0..=PIECES {
            let cut = Arc::new(AtomicBool::new(false));
            let to_cut = Arc::clone(&cut);
            let desk = Desk::new(move |request| {
                let this = 1 + usize::from(has_result(request)) == cut_answer;
                let hang = this && !to_cut.swap(this, Ordering::SeqCst);
                answer(request, hang.then_some(pieces))
            });
            let mut child = desk.start();
            until("the request", || desk.server.requests().len() == cut_answer);
            if pieces > 0 {
                // The first piece of that answer has been printed: the stream is under way.
                let word: &[u8] = if cut_answer == 1 { b"I " } else { b"It " };
                let mut out = child.stdout.take().expect("piped");
                let (mut seen, mut byte) = (Vec::new(), [0]);
                while !seen.windows(word.len()).any(|window| window == word) {
                    out.read_exact(&mut byte).expect("the answer is printed");
                    seen.push(byte[0]);
                }
            }
            child.kill().expect("the child is ours");
            child.wait().expect("the child is ours");
            let at = format!("answer {cut_answer} after {pieces} pieces");
            desk.run(&["resume"]).expect(0);
            let keys = desk.keys();
            assert_eq!(
                keys.len(),
                3,
                "{at}: the cut call and no other was made again"
            );
            assert_eq!(keys[cut_answer - 1], keys[cut_answer], "{at}");
            assert_eq!(desk.notes(), 1, "{at}: the tool ran once");
            desk.ended_once();
        }
    }
}

/// Killed while the tool runs: it is not declared safe to repeat, so it is in doubt and runs no
/// second time; no call of the model is paid again.
#[test]
fn e7_a_kill_in_the_middle_of_a_tool_leaves_it_in_doubt() {
    let desk = Desk::new(|request| answer(request, None));
    let mut child = desk.start();
    until("the note", || desk.notes() == 1);
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
    let again = desk.run(&["resume"]);
    if again.code == Some(0) {
        // The outcome was recorded in the moment before the kill.
        assert_eq!((desk.notes(), desk.server.requests().len()), (1, 2));
        return;
    }
    again.expect(3);
    assert_eq!((desk.notes(), desk.server.requests().len()), (1, 1));
    let pending = desk.run(&["--json", "pending"]).expect(0);
    assert!(pending.stdout.contains("in_doubt"), "{}", pending.stdout);
    let ruled = desk.run(&["in-doubt", "call_note", "done", "\"written\""]);
    assert!(ruled.code == Some(0), "{} {}", ruled.stdout, ruled.stderr);
    desk.run(&["resume"]).expect(0);
    assert_eq!((desk.notes(), desk.server.requests().len()), (1, 2));
    desk.ended_once();
}

/// Every kind of broken answer ends in an error that names provider, model and attempt; once the
/// server is well again the turn goes on by itself.
#[test]
fn t6_a_broken_answer_is_tried_again_and_names_who() {
    let broken: [fn() -> ProviderResponse; 6] = [
        || {
            ProviderResponse::stream()
                .text("Hel")
                .step(ProviderStep::Break)
        },
        || ProviderResponse::stream().text("Hel").end(),
        || ProviderResponse::status(429, &[("retry-after", "0")], "slow down"),
        || ProviderResponse::status(500, &[], "oops"),
        || ProviderResponse::status(200, &[], "<html>"),
        || ProviderResponse::stream().event("{\"choices\": [").done(),
    ];
    for response in broken {
        let desk = Desk::new(move |request| match request.number {
            1 => response(),
            _ => answer(request, None),
        });
        desk.run(&["run", "--worker", "desk", "milk"]).expect(0);
        let keys = desk.keys();
        assert_eq!((keys.len(), desk.notes()), (3, 1));
        assert_eq!(keys[0], keys[1], "the same call");

        let never = Desk::new(move |_| response());
        let ended = never.run(&["run", "--worker", "desk", "milk"]);
        assert_ne!(ended.code, Some(0));
        assert_eq!(
            never.server.requests().len(),
            3,
            "as often as the policy says"
        );
        let said = never.run(&["--json", "tail", "desk"]).expect(0).stdout;
        assert!(said.contains("openai fake, attempt 3: "), "{said}");
    }
}

#[test]
fn a_configured_model_is_checked_before_anything_runs() {
    let folder = Home::new();
    let check = |set: &[&str]| {
        let mut arguments = Vec::new();
        for set in set {
            arguments.extend(["--set", set]);
        }
        arguments.extend(["config", "check"]);
        folder.run(&arguments)
    };
    let ended = check(&["model.name=gpt-4o"]).expect(1);
    assert!(ended.stderr.contains("model.name"), "{}", ended.stderr);
    let ended = check(&["model.name=openai::m", "model.base_url=localhost"]).expect(1);
    assert!(ended.stderr.contains("model.base_url"), "{}", ended.stderr);
    let ended = check(&["model.name=openai::m", "model.api_key_env=NO_SUCH_KEY"]).expect(1);
    assert!(ended.stderr.contains("NO_SUCH_KEY"), "{}", ended.stderr);
    check(&[
        "model.name=openai::m",
        "model.base_url=http://127.0.0.1:9/v1",
    ])
    .expect(0);
}
