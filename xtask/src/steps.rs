//! Runs every step, even after one has failed, so that one run shows all there is to mend.

use std::time::Instant;

use anyhow::{Result, bail};
use xshell::Shell;

/// A named check.
pub(crate) type Step = (&'static str, fn(&Shell) -> Result<()>);

/// Runs the steps and prints how long each took.
pub(crate) fn run(shell: &Shell, steps: &[Step]) -> Result<()> {
    let mut failed = Vec::new();
    let mut durations = Vec::new();
    for (name, step) in steps {
        println!("\n== {name}");
        let start = Instant::now();
        let verdict = match step(shell) {
            Ok(()) => "ok",
            Err(error) => {
                eprintln!("{error:#}");
                failed.push(*name);
                "FAILED"
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        durations.push(format!("{name:<16} {seconds:>7.1} s  {verdict}"));
    }
    println!("\n{}", durations.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_run_and_stops_nobody() {
        let shell = Shell::new().unwrap();
        let steps: [Step; 3] = [
            ("one", |_| bail!("broken")),
            ("two", |_| Ok(())),
            ("three", |_| bail!("broken too")),
        ];
        let error = run(&shell, &steps).unwrap_err();
        assert_eq!(error.to_string(), "failed: one, three");
        assert!(run(&shell, &steps[1..2]).is_ok());
    }
}
