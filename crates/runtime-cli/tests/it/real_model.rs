//! A model over HTTP: a turn through it survives the same kills as the scripted one.

use std::fs;
use std::io::{BufRead, Read};
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
        Self::with("", answers)
    }

    /// With further settings of the model.
    fn with(
        model: &str,
        answers: impl Fn(&ProviderRequest) -> ProviderResponse + Send + Sync + 'static,
    ) -> Self {
        let desk = Self {
            home: Home::new(),
            server: ProviderServer::start(answers),
        };
        fs::create_dir_all(desk.home.path()).expect("the folder can be made");
        let program = env!("CARGO_BIN_EXE_agent-runtime");
        let text = format!(
            "[model]\nname = \"openai::fake\"\nbase_url = {:?}\n{model}\n\
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

/// The same kills as the scripted turn survives: after any line that the program prints. What is
/// in doubt is ruled by what the tool wrote. Each call of the model is made at most twice, and the
/// tool runs once.
#[test]
fn t4_a_turn_over_http_survives_a_kill_after_any_line() {
    let mut kills = 0;
    for lines in 1.. {
        let desk = Desk::new(|request| answer(request, None));
        let words = [
            "--json",
            "run",
            "--worker",
            "desk",
            "--submission",
            "one",
            "milk",
        ];
        let mut child = desk.command(&words).spawn().expect("the program starts");
        let out = child.stdout.take().expect("piped");
        let printed = std::io::BufReader::new(out).lines().take(lines).count();
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
        if printed < lines {
            break;
        }
        kills += 1;
        let at = format!("killed after line {lines}");
        let again = desk.run(&["resume"]);
        if again.code == Some(3) {
            let written = ["in-doubt", "call_note", "done", "\"written\""];
            let not = ["in-doubt", "call_note", "run-again"];
            let ruling = if desk.notes() == 1 {
                &written[..]
            } else {
                &not
            };
            desk.run(ruling).expect(0);
            desk.run(&["resume"]).expect(0);
        } else {
            again.expect(0);
        }
        let keys = desk.keys();
        let calls: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(calls.len(), 2, "{at}: two calls of the model");
        assert!(keys.len() <= 3, "{at}: at most the cut one was made again");
        assert_eq!(desk.notes(), 1, "{at}: the tool ran once");
        desk.ended_once();
    }
    assert!(kills >= 8, "only {kills} kills");
}

/// Starts a turn and waits until a piece of its answer has been printed; the answer never ends.
fn in_mid_turn() -> (Desk, Arc<AtomicBool>, Child, std::process::ChildStdout) {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let desk = Desk::new(move |request| {
        let hang = (!is_well.load(Ordering::SeqCst)).then_some(1);
        answer(request, hang)
    });
    let mut child = desk.start();
    let mut out = child.stdout.take().expect("piped");
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"I ") {
        out.read_exact(&mut byte).expect("the answer is printed");
        seen.push(byte[0]);
    }
    (desk, well, child, out)
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("the child is ours");
}

/// Ctrl-C in mid-turn, then start: it goes on; the call that was cut off is made again once.
#[test]
fn u3_an_interrupted_turn_goes_on_when_it_is_started_again() {
    let (desk, well, mut child, _out) = in_mid_turn();
    interrupt(&child);
    let ended = child.wait().expect("the child is ours");
    assert_eq!(ended.code(), Some(1));
    well.store(true, Ordering::SeqCst);
    desk.run(&["resume"]).expect(0);
    assert_eq!((desk.keys().len(), desk.notes()), (3, 1));
    assert_eq!(desk.keys()[0], desk.keys()[1], "the same call");
    desk.ended_once();
}

/// A second Ctrl-C does not wait for what is under way, and loses nothing either.
#[test]
fn u3_a_second_interrupt_aborts_at_once() {
    let (desk, well, mut child, mut out) = in_mid_turn();
    interrupt(&child);
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"interrupted") {
        out.read_exact(&mut byte).expect("it says so");
        seen.push(byte[0]);
    }
    let started = Instant::now();
    // The first one closes, which takes its time since the answer never ends.
    while child.try_wait().expect("the child is ours").is_none() {
        interrupt(&child);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "it did not drain"
    );
    assert_eq!(child.wait().expect("the child is ours").code(), Some(130));
    well.store(true, Ordering::SeqCst);
    desk.run(&["resume"]).expect(0);
    assert_eq!((desk.keys().len(), desk.notes()), (3, 1));
    desk.ended_once();
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

/// An answer that is none, what it is called, and how often it is tried.
type Broken = (fn() -> ProviderResponse, &'static str, usize);

/// What real servers, and what stands before them, send instead of an answer.
const BROKEN: &[Broken] = &[
    (
        || started().step(ProviderStep::Break),
        "model_connection_lost",
        3,
    ),
    (ProviderResponse::silence, "model_connection_lost", 3),
    (|| started().end(), "model_stream_incomplete", 3),
    (|| status(429, "slow down"), "model_rate_limited", 3),
    (|| status(500, "oops"), "model_unavailable", 3),
    (|| status(503, "<html>"), "model_unavailable", 3),
    (|| status(200, "<html>"), "model_response_malformed", 3),
    (|| status(200, ""), "model_response_malformed", 3),
    (
        || started().event("{\"choices\": [").done(),
        "model_response_malformed",
        3,
    ),
    (
        || started().raw(b"data: \xff\xfe\n\n").done(),
        "model_connection_lost",
        3,
    ),
    (
        || started().event("{\"error\": \"overloaded\"}").done(),
        "model_unavailable",
        3,
    ),
    (half_a_call, "model_tool_call_malformed", 3),
    (
        || started().reason("tool_calls").done(),
        "model_tool_call_malformed",
        3,
    ),
    (
        || ProviderResponse::silence().step(ProviderStep::Hang),
        "model_timed_out",
        3,
    ),
    (|| started().step(ProviderStep::Hang), "model_timed_out", 3),
    (alive_for_ever, "model_timed_out", 3),
    (flood, "model_answer_too_large", 1),
    (|| status(400, "{}"), "model_request_refused", 1),
    (|| status(401, "{}"), "model_unauthorised", 1),
    (|| status(404, "{}"), "model_not_found", 1),
];

fn started() -> ProviderResponse {
    ProviderResponse::stream().text("Hel")
}

fn status(status: u16, body: &str) -> ProviderResponse {
    ProviderResponse::status(status, &[("retry-after", "0")], body)
}

fn half_a_call() -> ProviderResponse {
    let function = json!({"name": "demo__note", "arguments": "{\"text\": \"mi"});
    let call = json!({"tool_calls": [{"index": 0, "id": "call_a", "function": function}]});
    ProviderResponse::stream()
        .delta(&call)
        .reason("tool_calls")
        .done()
}

fn alive_for_ever() -> ProviderResponse {
    let beat = ProviderStep::Repeat(b": alive\n\n".to_vec(), Duration::from_millis(10));
    started().step(beat)
}

fn flood() -> ProviderResponse {
    let text = "x".repeat(1_000);
    let chunk = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let flood = ProviderStep::Repeat(chunk.into_bytes(), Duration::ZERO);
    ProviderResponse::stream().step(flood)
}

/// Bounds that a test can wait for.
const SHORT: &str = "timeout_first_byte_ms = 300\ntimeout_idle_ms = 300\n\
                     timeout_total_ms = 900\nanswer_bytes_max = 100000";

/// The errors of the attempts of the model's calls, in order.
fn attempts_of(events: &[Value]) -> Vec<Value> {
    let failed = events
        .iter()
        .filter_map(|event| match event["kind"].as_str()? {
            "effect_attempt_failed" => Some(&event["payload"]["error"]),
            "model_call_failed" => {
                let error = &event["payload"]["outcome"]["value"];
                // The end of several attempts has the last of them.
                Some(error.pointer("/details/last").unwrap_or(error))
            }
            _ => None,
        });
    failed.cloned().collect()
}

/// Each answer that is none ends in an error of its own code that names provider, model and
/// attempt; the call was made as often as its class allows, always with one key, and no tool ran.
#[test]
fn t6_every_broken_answer_names_provider_model_and_attempt() {
    for (number, (response, code, attempts)) in BROKEN.iter().enumerate() {
        let (code, attempts) = (*code, *attempts);
        let at = format!("{number}: {code}");
        let desk = Desk::with(SHORT, move |_| response());
        let ended = desk.run(&["run", "--worker", "desk", "milk"]).expect(1);
        let events = desk.run(&["--json", "tail", "desk"]).expect(0).json();
        let told = attempts_of(&events);
        assert_eq!(told.len(), attempts, "{at}: {told:?}");
        for (index, told) in told.iter().enumerate() {
            assert_eq!(told["code"], code, "{at}");
            let message = told["message"].as_str().unwrap_or_default();
            let who = format!("openai fake, attempt {}: ", index + 1);
            assert!(message.starts_with(&who), "{at}: {message}");
            let details = &told["details"];
            assert_eq!(
                (&details["provider"], &details["model"]),
                (&json!("openai"), &json!("fake"))
            );
            assert_eq!(details["attempt"], index + 1, "{at}");
        }
        let keys = desk.keys();
        assert_eq!(keys.len(), attempts, "{at}\n{}", ended.stdout);
        assert!(
            keys.iter().all(|key| *key == keys[0]),
            "{at}: one call, one key"
        );
        assert_eq!(desk.notes(), 0, "{at}");
        let kinds = desk.kinds();
        let ends = kinds.iter().filter(|kind| *kind == "turn_failed").count();
        assert_eq!(ends, 1, "{at}: the turn ended once");
    }
}

/// Once the server is well again the turn goes on by itself.
#[test]
fn t6_a_turn_goes_on_once_the_server_answers() {
    for (response, _, attempts) in BROKEN {
        if *attempts == 1 {
            continue;
        }
        let desk = Desk::with(SHORT, move |request| match request.number {
            1 => response(),
            _ => answer(request, None),
        });
        desk.run(&["run", "--worker", "desk", "milk"]).expect(0);
        let keys = desk.keys();
        assert_eq!((keys.len(), desk.notes()), (3, 1));
        assert_eq!(keys[0], keys[1], "the same call");
    }
}

/// T6, U4: a provider that asks for patience for longer than a turn is kept in memory parks it;
/// `run` stays, `show` says what is waited for and until when, and it goes on by itself.
#[test]
fn t6_a_turn_whose_model_asks_for_patience_is_waited_for() {
    let desk = Desk::new(move |request| match request.number {
        1 => ProviderResponse::status(429, &[("retry-after", "6")], "{}"),
        _ => answer(request, None),
    });
    let mut patient = desk.command(&["--set", "limits.backoff_max_ms=20000", "run"]);
    patient.args(["--worker", "desk", "milk"]);
    let child = patient.spawn().expect("the program starts");
    let shown = || {
        let shown = desk.run(&["--json", "show", "desk"]);
        let turn = (shown.code == Some(0)).then(|| shown.json()[0]["turns"][0].clone());
        turn.filter(|turn| turn["status"] == "parked")
    };
    until("the turn is parked", || shown().is_some());
    let turn = shown().expect("it still waits");
    assert_eq!(turn["begun"][0]["error"]["code"], "model_rate_limited");
    let again = turn["on_restart"].as_str().unwrap_or_default();
    assert!(again.contains("again at"), "{again}");
    let ended = child.wait_with_output().expect("the child is ours");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert_eq!((desk.keys().len(), desk.notes()), (3, 1));
    desk.ended_once();
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

/// Every row of the guide works as it says: the provider is known, its key comes from the
/// variable that is named, and without it the message names that variable.
#[test]
fn t6_each_provider_of_the_guide_takes_two_variables() {
    const GUIDE: &str = include_str!("../../../../docs/guides/real-model.md");
    let folder = Home::new();
    let check = |model: &str, key: Option<&str>| {
        let mut command = folder.command(&["config", "check"]);
        command.env_clear().env("AGENT_RUNTIME_MODEL", model);
        if let Some(variable) = key {
            command.env(variable, "canary");
        }
        let output = command.output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let mut providers = 0;
    for row in GUIDE
        .lines()
        .filter(|line| line.contains("::") && line.starts_with("| "))
    {
        let mut quoted = row.split('`').skip(1).step_by(2);
        let model = quoted.next().expect("a model");
        let key = quoted.next();
        assert_eq!(check(model, key), (Some(0), String::new()), "{row}");
        if let Some(variable) = key {
            let (code, said) = check(model, None);
            assert_eq!(code, Some(1), "{row}");
            assert!(said.contains(variable), "{row}: {said}");
        }
        providers += 1;
    }
    assert!(providers >= 8, "the guide lists {providers}");
    let (_, said) = check("nobody::model", None);
    assert!(
        said.contains("openai") && said.contains("anthropic"),
        "{said}"
    );
}
