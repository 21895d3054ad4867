//! Everything that continuous integration runs, with the time that each step took.

use std::time::Instant;

use anyhow::{Result, bail};
use xshell::Shell;

use crate::{deps, lint, reliability, test};

type Step = fn(&Shell) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("lint", lint::run),
    ("deps", deps::run),
    ("test", test::run),
    ("reliability", reliability::run),
];

/// Runs every step, even after one has failed, so that one run shows all there is to mend.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let mut failed = Vec::new();
    let mut durations = Vec::new();
    for (name, step) in STEPS {
        println!("\n== {name}");
        let start = Instant::now();
        let verdict = match step(shell) {
            Ok(()) => "ok",
            Err(error) => {
                eprintln!("{name}: {error:#}");
                failed.push(*name);
                "FAILED"
            }
        };
        durations.push(format!(
            "{name:<12} {:>7.1} s  {verdict}",
            start.elapsed().as_secs_f64()
        ));
    }
    println!("\n{}", durations.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
