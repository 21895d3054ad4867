//! The example of a durable workflow, killed as a real process of the operating system.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the example prints, each line once unless it was killed there.
const STEPS: [&str; 4] = ["pay", "pack", "label", "send"];

/// The example, beside the tests.
fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests.parent().and_then(Path::parent).unwrap();
    built.join("examples/workflow")
}

/// Runs the example and kills it (SIGKILL) a while after a number of lines; gives what it printed,
/// and whether it ended by itself.
fn run(directory: &Path, kill_after: Option<(usize, Duration)>) -> (Vec<String>, bool) {
    let mut child = Command::new(example())
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    if let Some((count, pause)) = kill_after {
        while printed.len() < count {
            match lines.next() {
                Some(line) => printed.push(line.unwrap()),
                None => break,
            }
        }
        std::thread::sleep(pause);
        child.kill().unwrap();
    }
    // The last line may have been cut off in the middle.
    printed.extend(lines.map_while(Result::ok));
    (printed, child.wait().unwrap().success())
}

/// The stage of a step: what is of a later one begins after the earlier are recorded.
fn stage(line: &str) -> Option<usize> {
    let stages: [&[&str]; 3] = [&["pay"], &["pack", "label"], &["send"]];
    stages.iter().position(|stage| stage.contains(&line))
}

/// What one workflow came to in several lives of its program, of which all but the last two are
/// killed.
fn lives(pause: Duration, directories: &[PathBuf]) -> (Vec<Vec<String>>, usize) {
    let mut kills = 0;
    let mut all = Vec::new();
    // A life ends after so many lines: one, or none if it is only starting.
    for (directory, lines) in directories.iter().zip([0, 1, 0, 1, 1, 1]) {
        let (printed, ended) = run(directory, Some((lines, pause)));
        kills += usize::from(!ended);
        all.push(printed);
    }
    for directory in &directories[6..8] {
        let (printed, ended) = run(directory, None);
        assert!(ended, "{printed:?}");
        all.push(printed);
    }
    (all, kills)
}

/// Says what is wrong with the lives of a workflow, if something is.
fn wrong(lives: &[Vec<String>]) -> Option<String> {
    let mut reached = 0;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (life, printed) in lives.iter().enumerate() {
        let steps = || printed.iter().filter_map(|line| Some((line, stage(line)?)));
        if let Some((step, _)) = steps().find(|(_, stage)| *stage < reached) {
            return Some(format!("life {life} ran {step}, which was recorded"));
        }
        reached = steps()
            .map(|(_, stage)| stage)
            .max()
            .unwrap_or(reached)
            .max(reached);
        for (step, _) in steps() {
            *counts.entry(step).or_default() += 1;
        }
    }
    let missing = STEPS.into_iter().find(|step| !counts.contains_key(step));
    if let Some(step) = missing {
        return Some(format!("{step} did not happen"));
    }
    // What has ended answers from its record.
    let last = lives.last().map(Vec::as_slice);
    (last != Some(&["a book: PAY, PACK, LABEL, SEND".to_owned()][..]))
        .then(|| format!("ended with {last:?}"))
}

/// R3, E15: killed at any line, and a while after it, the example goes on: every step happens, no
/// step that is recorded runs again, and the result is the same.
#[test]
fn r3_the_example_goes_on_after_a_kill_at_any_line() {
    let began = Instant::now();
    let mut kills = 0;
    // A fast machine ends some lives before they can be killed, so there are more than are needed.
    for pause in [0, 0, 1, 3, 20].map(Duration::from_millis) {
        let directory = tempfile::tempdir().unwrap();
        let (lives, killed) = lives(pause, &vec![directory.path().join("orders"); 8]);
        kills += killed;
        assert_eq!(wrong(&lives), None, "{lives:?}");
    }
    assert!(kills >= 12, "{kills} kills");
    println!("R3-workflow {kills} 0 {:.1}", began.elapsed().as_secs_f64());
}

/// R3, planted: each life of the program finds another directory.
#[test]
fn r3_an_example_that_forgets_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let directories = (0..8).map(|life| directory.path().join(format!("orders-{life}")));
    // One life to its end, so that every step is recorded, then others.
    let directories: Vec<PathBuf> = directories.collect();
    let (printed, _) = run(&directories[6], None);
    let (lives, _) = lives(Duration::ZERO, &directories);
    let lives: Vec<Vec<String>> = std::iter::once(printed).chain(lives).collect();
    assert!(wrong(&lives).is_some(), "{lives:?}");
}
