//! The quick rows of the reliability scoreboard.
//!
//! A row is a test with `reliability` in its path that prints `NAME N FAILURES SECONDS`.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::scoreboard::{self, Row};
use crate::workspace;

/// What the path of a test that is a row contains.
pub(crate) const ROWS: &str = "reliability";

/// Runs the rows, one after another so that no two lines mix, and prints the table.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let features = workspace::ordinary_features()?;
    let mut output = rows(shell, &["--workspace", "--features", &features])?;
    for package in workspace::simulated_crates()? {
        let selection = ["--package", &package, "--features", workspace::SIMULATION];
        output.push_str(&rows(shell, &selection)?);
    }
    let rows: Vec<Row> = output.lines().filter_map(Row::parse).collect();
    scoreboard::keep(&output)?;
    scoreboard::print(&rows);
    if rows.is_empty() {
        bail!("no row was printed: zero cases run is a failure");
    }
    if rows.iter().any(Row::has_failed) {
        bail!("a row has failed");
    }
    Ok(())
}

fn rows(shell: &Shell, selection: &[&str]) -> Result<String> {
    let output = cmd!(
        shell,
        "cargo test {selection...} --lib --bins --tests -- {ROWS} --nocapture --test-threads 1"
    )
    .ignore_status()
    .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
