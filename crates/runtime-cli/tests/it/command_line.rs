//! Running the program, and what must hold of a directory whatever happened to it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A directory of its own, removed at the end.
pub(crate) struct Home {
    directory: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; none after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory for the test"),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-runtime"));
        command
            .arg("--dir")
            .arg(self.path())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let output = self
            .command(arguments)
            .output()
            .expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }

    pub(crate) fn ledger(&self) -> Vec<String> {
        lines(&self.path().join("demo-ledger.txt"))
    }

    pub(crate) fn model_calls(&self) -> Vec<String> {
        lines(&self.path().join("demo-model-calls.txt"))
    }

    /// The events of the runtime, after checking what must hold of them at any time (V1, V4, V5).
    pub(crate) fn events(&self) -> Vec<Value> {
        let first = self.run(&["tail", "--json", "--from", "start"]).expect(0);
        let second = self.run(&["tail", "--json", "--from", "start"]).expect(0);
        assert_eq!(first.stdout, second.stdout, "two reads give the same bytes");
        let events = first.json();
        check_events(&events);
        events
    }

    pub(crate) fn pending(&self) -> Vec<Value> {
        self.run(&["pending", "--json"]).expect(0).json()
    }

    /// The calls that are in doubt.
    pub(crate) fn in_doubt(&self) -> Vec<String> {
        let pending = self
            .pending()
            .into_iter()
            .filter(|item| item["kind"] == "in_doubt");
        pending.map(|item| text(&item["call"])).collect()
    }

    /// Answers each question in doubt by what the ledger says, until the turn has ended.
    pub(crate) fn rule_truthfully(&self) -> usize {
        let mut rulings = 0;
        for call in self.in_doubt() {
            let written = self.ledger().iter().any(|line| line.contains(&call));
            let ruling: &[&str] = if written {
                &["in-doubt", &call, "done", "\"appended\""]
            } else {
                &["in-doubt", &call, "run-again"]
            };
            self.run(ruling).expect(0);
            rulings += 1;
        }
        rulings
    }
}

/// How long real processes may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until it is so. What is looked at is another process, so there is no clock to move.
pub(crate) fn wait_until(so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "it never came about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect()
}

/// Positions 1, 2, 3, …; sequences of each turn 1, 2, 3, …; at most one end per turn.
fn check_events(events: &[Value]) {
    let mut sequences: HashMap<String, u64> = HashMap::new();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(
            event["position"],
            index as u64 + 1,
            "positions are dense: {event}"
        );
        let Some(turn) = event["turn"].as_str() else {
            continue;
        };
        let expected = sequences.entry(turn.to_owned()).or_insert(0);
        *expected += 1;
        assert_eq!(event["seq"], *expected, "sequences are dense: {event}");
        assert!(
            !ends.contains_key(turn),
            "nothing follows the end of a turn: {event}"
        );
        let kind = event["kind"].as_str().unwrap_or_default();
        if matches!(kind, "turn_completed" | "turn_failed" | "turn_cancelled") {
            ends.insert(turn.to_owned(), index);
        }
    }
}

/// The turns that have completed.
pub(crate) fn completed(events: &[Value]) -> usize {
    kinds(events)
        .iter()
        .filter(|kind| **kind == "turn_completed")
        .count()
}

fn lines(path: &Path) -> Vec<String> {
    match fs::read_to_string(path) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}
