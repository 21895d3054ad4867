//! How many instructions single-threaded pure paths take, held against stored counts.
//!
//! Counts do not depend on the load of the machine, nor much on the machine: the counter runs the
//! program on a processor of its own making. They do depend on architecture and compiler, so there
//! is a list for each. `benches/instructions` has the paths; one of them is slower on purpose, and
//! a guard that does not find it fails too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::bench::{MANIFEST, TARGET};
use crate::{debian, workspace};

/// A count may differ by so many percent: hash seeds, and the C library of another machine.
const TOLERANCE_PERCENT: u64 = 5;

/// What is counted, and how often it is repeated for that.
const PATHS: &[(&str, u32)] = &[
    ("identity", 200),
    ("event-encode", 200),
    ("event-decode", 200),
    ("turn", 50),
    ("store-verify", 5),
    ("token-verify", 200),
    ("cursor-decode", 500),
];

/// The planted regression, and the path whose count it must miss.
const PLANTED: (&str, &str, u32) = ("identity-slower", "identity", 200);

/// Instructions of each path, by architecture and compiler.
type Baselines = BTreeMap<String, BTreeMap<String, u64>>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ruling {
    Within,
    /// By which share.
    Slower(f64),
    Faster(f64),
}

fn rule(baseline: u64, count: u64) -> Ruling {
    let share = count as f64 / baseline as f64 - 1.0;
    if count * 100 > baseline * (100 + TOLERANCE_PERCENT) {
        Ruling::Slower(share)
    } else if count * 100 < baseline * (100 - TOLERANCE_PERCENT) {
        Ruling::Faster(-share)
    } else {
        Ruling::Within
    }
}

/// The step of continuous integration: without the counter it is skipped elsewhere.
pub(crate) fn step(shell: &Shell) -> Result<()> {
    debian::provide(shell, "valgrind", "valgrind")?;
    match debian::runs(shell, "valgrind") {
        true => run(shell, false),
        false => {
            println!("SKIPPED: instruction counts; valgrind is not installed here");
            Ok(())
        }
    }
}

/// Counts every path; stores the counts, or holds them against those that are stored.
pub(crate) fn run(shell: &Shell, update: bool) -> Result<()> {
    cmd!(
        shell,
        "cargo build --quiet --release --locked --manifest-path {MANIFEST} --target-dir {TARGET} --package instructions"
    )
    .run()?;
    let program = workspace::root().join(TARGET).join("release/instructions");
    let place = place(shell)?;
    let file = workspace::root().join("benches/instructions/baselines.json");
    let mut baselines: Baselines = serde_json::from_slice(&std::fs::read(&file)?)?;
    if update {
        let counts = PATHS
            .iter()
            .map(|(path, times)| Ok(((*path).to_owned(), count(shell, &program, path, *times)?)))
            .collect::<Result<_>>()?;
        baselines.insert(place, counts);
        std::fs::write(&file, serde_json::to_string_pretty(&baselines)? + "\n")?;
        return Ok(());
    }
    let Some(stored) = baselines.get(&place) else {
        let missing = format!("no instruction counts are stored for {place}");
        let how = "cargo xtask bench instructions --update";
        if workspace::is_ci() {
            bail!("{missing}; {how}");
        }
        println!("SKIPPED: {missing}; {how}");
        return Ok(());
    };
    hold(stored, |path, times| count(shell, &program, path, times))
}

/// Holds counts against the stored ones, and the planted regression against the path that it is
/// of.
fn hold(stored: &BTreeMap<String, u64>, count: impl Fn(&str, u32) -> Result<u64>) -> Result<()> {
    let baseline = |path: &str| {
        let found = stored.get(path).copied();
        found.with_context(|| format!("no count is stored for {path}"))
    };
    let mut slower = Vec::new();
    for (path, times) in PATHS {
        let (before, now) = (baseline(path)?, count(path, *times)?);
        let words = match rule(before, now) {
            Ruling::Within => "ok".to_owned(),
            Ruling::Slower(share) => {
                slower.push(*path);
                format!("{:.1}% MORE", share * 100.0)
            }
            Ruling::Faster(share) => format!("{:.1}% less: store it by --update", share * 100.0),
        };
        println!("{path:<16} {now:>10} instructions, stored {before:>10}  {words}");
    }
    let (planted, of, times) = PLANTED;
    let (before, now) = (baseline(of)?, count(planted, times)?);
    println!("{planted:<16} {now:>10} instructions, stored {before:>10}  planted");
    if !matches!(rule(before, now), Ruling::Slower(_)) {
        bail!("the guard does not find the planted regression {planted}");
    }
    if !slower.is_empty() {
        bail!("more instructions than stored: {}", slower.join(", "));
    }
    Ok(())
}

/// Architecture and compiler.
fn place(shell: &Shell) -> Result<String> {
    let version = cmd!(shell, "rustc --version").quiet().read()?;
    let number = version
        .split(' ')
        .nth(1)
        .context("rustc tells its version")?;
    Ok(format!("{} rustc-{number}", std::env::consts::ARCH))
}

/// The instructions of one repetition: start and preparation cancel out.
fn count(shell: &Shell, program: &Path, path: &str, times: u32) -> Result<u64> {
    let few = collected(shell, program, path, times)?;
    let many = collected(shell, program, path, times * 2)?;
    Ok(many.saturating_sub(few) / u64::from(times))
}

fn collected(shell: &Shell, program: &Path, path: &str, times: u32) -> Result<u64> {
    let times = times.to_string();
    let told = cmd!(
        shell,
        "valgrind --tool=callgrind --callgrind-out-file=/dev/null {program} {path} {times}"
    )
    .quiet()
    .read_stderr()?;
    parse(&told).with_context(|| format!("{path}: no count in\n{told}"))
}

/// Finds `Collected : N` in what the counter says at its end.
fn parse(told: &str) -> Option<u64> {
    let line = told.lines().rfind(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> BTreeMap<String, u64> {
        PATHS
            .iter()
            .map(|(path, _)| ((*path).to_owned(), 1_000))
            .collect()
    }

    #[test]
    fn the_count_is_found_in_what_the_counter_says() {
        let told = "==12== \n==12== Events    : Ir\n==12== Collected : 5241733\n==12== \n";
        assert_eq!(parse(told), Some(5_241_733));
        assert_eq!(parse("==12== killed"), None);
    }

    #[test]
    fn within_the_tolerance_nothing_is_told() {
        assert_eq!(rule(1_000, 1_050), Ruling::Within);
        assert_eq!(rule(1_000, 950), Ruling::Within);
        assert!(matches!(rule(1_000, 1_051), Ruling::Slower(_)));
        assert!(matches!(rule(1_000, 949), Ruling::Faster(_)));
    }

    #[test]
    fn a_path_that_takes_more_fails_and_is_named() {
        let count = |path: &str, _| Ok(if path == "turn" { 1_100 } else { 1_000 });
        let planted = |path: &str, times| match path == PLANTED.0 {
            true => Ok(2_000),
            false => count(path, times),
        };
        let error = hold(&stored(), planted).unwrap_err().to_string();
        assert_eq!(error, "more instructions than stored: turn");
    }

    #[test]
    fn a_guard_that_is_blind_fails() {
        let error = hold(&stored(), |_, _| Ok(1_000)).unwrap_err().to_string();
        assert!(error.contains("planted regression"), "{error}");
    }

    #[test]
    fn a_path_without_a_stored_count_fails() {
        let mut stored = stored();
        stored.remove("turn");
        let error = hold(&stored, |_, _| Ok(1_000)).unwrap_err().to_string();
        assert!(error.contains("turn"), "{error}");
    }
}
