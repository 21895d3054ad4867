//! Caring for a store from the command line (S7).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::command_line::Home;

const CANARY: &str = "canary-77ab";

fn told(home: &Home) -> (String, String, String) {
    let read = |arguments: &[&str]| home.run(arguments).expect(0).stdout;
    (
        read(&["tail", "--json"]),
        read(&["workers", "--json"]),
        read(&["pending", "--json"]),
    )
}

fn holds(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).expect("a directory").any(|entry| {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => holds(&path, text),
            false => {
                let bytes = fs::read(&path).expect("a file");
                bytes
                    .windows(text.len())
                    .any(|found| found == text.as_bytes())
            }
        }
    })
}

/// S7: an export imported elsewhere, and a backup opened elsewhere, tell what the store tells.
#[test]
fn s7_export_import_and_backup_tell_the_same() {
    let home = Home::new();
    home.run(&["run", "--worker", "desk", "please write to the ledger"])
        .expect(3);
    let before = told(&home);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let file = elsewhere.path().join("export.jsonl");
    let file = file.to_str().expect("a path of text");
    let exported = home.run(&["export", file, "--json"]).expect(0).json();
    assert!(exported[0]["events"].as_u64() > Some(3), "{exported:?}");
    // The same lines go to standard output.
    let lines = home.run(&["export", "-"]).expect(0).stdout;
    assert_eq!(lines, fs::read_to_string(file).expect("the export"));
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(value["type"].is_string(), "{line}");
    }
    home.run(&["export", file]).expect(1);

    let other = Home::new();
    other.run(&["import", file]).expect(0);
    assert_eq!(told(&other).0, before.0);
    assert_eq!(told(&other).1, before.1);
    other.run(&["import", file]).expect(1);
    other.run(&["verify"]).expect(0);

    let copy = elsewhere.path().join("copy");
    let copy = copy.to_str().expect("a path of text");
    home.run(&["backup", copy]).expect(0);
    let copied = std::process::Command::new(env!("CARGO_BIN_EXE_agent-runtime"))
        .args(["--dir", copy, "tail", "--json"])
        .output()
        .expect("the program starts");
    assert_eq!(String::from_utf8_lossy(&copied.stdout), before.0);
    home.run(&["backup", copy]).expect(1);
}

/// S1: what cares for a store, or goes on with it, makes none in an empty directory; and what is no
/// directory at all is not told as a wrong path.
#[test]
fn s1_where_no_store_is_none_is_made() {
    let commands: [&[&str]; 4] = [
        &["retention", "--events", "1"],
        &["repair", "--apply"],
        &["export", "-"],
        &["resume"],
    ];
    let home = Home::new();
    let store = home.path().join("store");
    for command in commands {
        fs::create_dir_all(&store).expect("a directory");
        let refused = home.run(&[&["--json"], command].concat()).expect(1).json();
        assert_eq!(
            refused[0]["error"]["code"], "store_not_found",
            "{command:?}"
        );
        fs::remove_dir(&store).expect("it is empty still");
        fs::write(&store, "a file").expect("is written");
        let refused = home.run(&[&["--json"], command].concat()).expect(1).json();
        assert_eq!(refused[0]["error"]["code"], "store_io", "{command:?}");
        fs::remove_file(&store).expect("a file");
    }
}

/// S7: damage is found, a dry run says what would be given up, and after a repair the store works.
#[test]
fn s7_a_damaged_store_is_repaired() {
    let home = Home::new();
    home.run(&["demo", "--yes"]).expect(0);
    home.run(&["repair"]).expect(0);
    let whole = home.run(&["tail", "--json"]).expect(0).json();
    let segment = home.path().join("store/segments/0000000001.log");
    let mut bytes = fs::read(&segment).expect("a segment");
    let at = bytes
        .windows(14)
        .position(|found| found == b"turn_completed")
        .expect("the end of the turn");
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).expect("a segment");
    home.run(&["verify"]).expect(1);
    // Whoever reads is told where, and given the rest (V4).
    let told = home.run(&["tail", "--json"]).expect(0).json();
    let lost: Vec<&Value> = told.iter().filter_map(|line| line.get("corrupt")).collect();
    let [lost] = lost[..] else {
        panic!("{told:?}");
    };
    let lost =
        lost["from"].as_u64().expect("a position")..=lost["to"].as_u64().expect("a position");
    let positions = |lines: &[Value]| -> Vec<u64> {
        let positions = lines.iter().filter_map(|line| line["position"].as_u64());
        positions
            .filter(|position| !lost.contains(position))
            .collect()
    };
    assert_eq!(positions(&told), positions(&whole));
    assert!(positions(&whole).len() < whole.len());
    // It cannot be exported whole, and nothing is left that could be taken for an export.
    let export = home.path().join("export.jsonl");
    home.run(&["export", export.to_str().expect("a path of text")])
        .expect(1);
    assert!(!export.exists());
    let plan = home
        .run(&["repair", "--dry-run", "--json"])
        .expect(1)
        .json();
    assert_eq!(plan[0]["actions"][0]["action"], "give_up");
    assert_eq!(fs::read(&segment).expect("a segment"), bytes);
    home.run(&["repair", "--apply"]).expect(0);
    home.run(&["verify"]).expect(0);
    home.run(&["workers"]).expect(0);
}

/// W1, V9, S6: only a deleted worker is purged, and then no byte of what it said is left; retention
/// removes events and frees their bytes.
#[test]
fn v9_retention_and_purge_remove_what_they_say() {
    let home = Home::new();
    for worker in ["keep", "doomed"] {
        home.run(&["run", "--worker", worker, CANARY]).expect(0);
    }
    let store = home.path().join("store");
    assert!(holds(&store, CANARY));
    let plan = home.run(&["purge", "doomed", "--json"]).expect(0).json();
    assert_eq!(plan[0]["applied"], false);
    let refused = home.run(&["purge", "doomed", "--yes", "--json"]).expect(1);
    let refused = refused.json();
    assert_eq!(refused[0]["error"]["code"], "worker_not_purgeable");
    for worker in ["doomed", "keep"] {
        home.run(&["worker", "delete", worker]).expect(0);
        let done = home.run(&["purge", worker, "--yes", "--json"]).expect(0);
        assert_eq!(done.json()[0]["freed"], true);
        let is_left = holds(&store, CANARY);
        assert_eq!(is_left, worker == "doomed", "after the purge of {worker}");
    }
    let events = home.run(&["tail", "--json"]).expect(0).json();
    let erased = events.iter().filter(|event| event["kind"] == "erased");
    assert!(erased.count() > 3);

    let plan = home.run(&["retention", "--events", "1", "--dry-run", "--json"]);
    let plan = plan.expect(0).json();
    assert!(plan[0]["events"].as_u64() > Some(3), "{plan:?}");
    let done = home
        .run(&["retention", "--events", "1", "--json"])
        .expect(0)
        .json();
    let bytes = |name: &str| done[0]["cleaned"][name].as_u64();
    assert!(bytes("bytes_after") < bytes("bytes_before"), "{done:?}");
    home.run(&["verify"]).expect(0);
    home.run(&["run", "--worker", "new", "hello"]).expect(0);
}

/// V9: with bounds in the configuration it happens by itself while a process works, readers are
/// told, and the worker goes on.
#[test]
fn v9_retention_of_the_configuration_happens_by_itself() {
    let home = Home::new();
    let keeps = "retention.events_max=1";
    let often = "retention.interval_ms=1";
    let gone = |home: &Home| {
        let read = home.run(&["tail", "--json", "--from", "start"]).expect(0);
        read.json()[0]["gap"].is_object()
    };
    home.run(&["run", "--worker", "one", "hello"]).expect(0);
    let read = home.run(&["tail", "--json", "--cursors"]).expect(0).json();
    let early = read[0]["cursor"].as_str().expect("a cursor").to_owned();
    for run in 0..50 {
        let said = format!("hello {run}");
        home.run(&[
            "run", "--worker", "one", &said, "--set", keeps, "--set", often,
        ])
        .expect(0);
        if gone(&home) {
            break;
        }
    }
    assert!(gone(&home), "nothing was removed in 50 runs");
    // From the start what is left is read, after it is told from where; who brings a cursor from
    // before that is refused.
    let read = home.run(&["tail", "--json", "--cursors"]).expect(0).json();
    let oldest = &read[0]["gap"]["oldest"];
    assert_eq!(&read[1]["position"], oldest, "{read:?}");
    let refused = home.run(&["tail", "--json", "--from", &early]).expect(1);
    assert_eq!(refused.json()[0]["error"]["code"], "cursor_pruned");
    // The command as well: a live worker loses its events, and nothing that it said.
    home.run(&["retention", "--events", "0"]).expect(0);
    home.run(&["run", "--worker", "one", "goodbye"]).expect(0);
    let refused = home.run(&["--set", "retention.events_max=many", "workers", "--json"]);
    refused.expect(1);
}
