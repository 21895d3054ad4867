//! SIGKILL of a real process at any moment (R3): nothing acknowledged is lost, nothing recorded
//! runs again, what must not run again is reported in doubt.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use runtime_testkit::SeededRandom;

use crate::lives::{self, Fault, Found, Place};
use crate::strace;
use crate::support::{in_memory, on_all_cores, print_row, seeds};

const SIGKILL: i32 = 9;
/// Lives in one directory, one after another.
const LIVES: u64 = 10;
const ACKNOWLEDGEMENTS_MAX: u64 = 60;
/// How long after an acknowledgement the kill comes at most.
const DELAY_MAX: Duration = Duration::from_millis(12);

/// Several lives in one directory, each killed after a random acknowledgement and a random while.
fn lives_killed(seed: u64, lives: u64, fault: Option<Fault>) -> Result<Found, String> {
    let chance = SeededRandom::new(seed);
    // On a disk a sync takes a while in which a kill finds it; in memory more lives fit.
    let directory = match seed % 2 {
        0 => tempfile::tempdir().unwrap(),
        _ => in_memory(),
    };
    let place = Place {
        directory: directory.path(),
        segment_bytes: 16 * 1024,
    };
    let mut sum = Found::default();
    for life in 0..lives {
        let after = 1 + chance.below(ACKNOWLEDGEMENTS_MAX);
        let delay = chance.below(u64::try_from(DELAY_MAX.as_micros()).unwrap() + 1);
        let mut child = lives::command(&[], THIS, place, life, fault)
            .spawn()
            .unwrap();
        let told = lives::listen(&mut child, after, |child| {
            std::thread::sleep(Duration::from_micros(delay));
            child.kill().unwrap();
        });
        let status = child.wait().unwrap();
        if status.signal() != Some(SIGKILL) || told.acknowledged() < after {
            return Err(format!(
                "life {life} was not killed in time: {status}, {told:?}"
            ));
        }
        let found = lives::look(place, life, &told, fault);
        sum.add(found.map_err(|broken| format!("seed {seed}, life {life}: {broken}"))?);
    }
    Ok(sum)
}

const THIS: &str = "kills::r3_a_killed_process_loses_nothing_acknowledged";

/// R3: at any moment after any acknowledgement.
#[test]
fn r3_a_killed_process_loses_nothing_acknowledged() {
    if lives::lives_here() {
        return;
    }
    let started = Instant::now();
    let results = on_all_cores(seeds(50), |seed| lives_killed(seed, LIVES, None));
    let kills = results.len() as u64 * LIVES;
    let mut sum = Found::default();
    for result in results {
        sum.add(result.unwrap());
    }
    // Otherwise the kills did not meet what they are for.
    println!("R3 met {sum:?}");
    assert!(
        sum.recorded > kills && sum.in_doubt > 20 && sum.again > 20,
        "{sum:?}"
    );
    print_row("R3", usize::try_from(kills).unwrap(), started);
}

/// R3, planted: each of the faults is found within a few kills.
#[test]
fn r3_each_planted_fault_is_found() {
    for fault in [Fault::TellsEarly, Fault::Forgets, Fault::RunsAgain] {
        let results = on_all_cores(0..4, |seed| lives_killed(seed, LIVES, Some(fault)));
        assert!(
            results.iter().any(Result::is_err),
            "{fault:?} was not found"
        );
    }
}

/// R3: at the n-th write, sync and rename. The call itself does not happen.
#[test]
fn r3_a_process_killed_at_any_call_loses_nothing_acknowledged() {
    if !strace::is_there() {
        return;
    }
    let started = Instant::now();
    let calls = ["pwrite64", "fdatasync", "/^rename"];
    let cases: Vec<(&str, u32)> = calls
        .into_iter()
        .flat_map(|call| (1..=200).map(move |nth| (call, nth)))
        .collect();
    let results = on_all_cores(0..cases.len() as u64, |case| {
        let (call, nth) = cases[usize::try_from(case).unwrap()];
        let place = in_memory();
        killed_at(Place::tiny(place.path()), call, nth)
            .map_err(|broken| format!("{call} {nth}: {broken}"))
    });
    let mut sum = Found::default();
    for result in results {
        sum.add(result.unwrap());
    }
    println!("R3-calls met {sum:?}");
    assert!(sum.recorded > 10_000 && sum.in_doubt > 100, "{sum:?}");
    print_row("R3-calls", cases.len(), started);
}

fn killed_at(place: Place<'_>, call: &str, nth: u32) -> Result<Found, String> {
    let tracer = strace::words(call, "signal=SIGKILL", nth, "/dev/null");
    let mut child = lives::command(&tracer, THIS, place, 0, None)
        .spawn()
        .unwrap();
    let told = lives::listen(&mut child, 0, |_| ());
    let status = child.wait().unwrap();
    // The tracer ends by the signal that has ended the process.
    if status.signal() != Some(SIGKILL) || told.ended || !told.failures.is_empty() {
        return Err(format!("it was not killed: {status}, {told:?}"));
    }
    lives::look(place, 0, &told, None)
}
