//! The quick rows of the reliability scoreboard.
//!
//! A row is a test that prints `NAME N FAILURES SECONDS`. It is told by its name, which starts or
//! ends with that of its row (`r5_…`, `…_r5`, `x1_…`), or by a module called `reliability`.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::scoreboard::{self, Row};
use crate::{debian, workspace};

const RELIABILITY_ROWS: u32 = 21;
const ATTACK_ROWS: u32 = 6;

/// What the path of a test that is a row contains: one of these.
pub(crate) fn filters() -> Vec<String> {
    let reliability = (1..=RELIABILITY_ROWS).map(|row| format!("r{row}"));
    let rows = reliability.chain((1..=ATTACK_ROWS).map(|row| format!("x{row}")));
    let names = rows.flat_map(|row| [format!("::{row}_"), format!("_{row}")]);
    std::iter::once("reliability".to_owned())
        .chain(names)
        .collect()
}

/// Runs the rows, one after another so that no two lines mix, and prints the table.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    // Some rows trace a process; where nothing can be traced, they say so.
    debian::provide(shell, "strace", "strace")?;
    let features = workspace::ordinary_features()?;
    let everything = ["--lib", "--bins", "--tests"];
    let mut output = rows(
        shell,
        &["--workspace", "--features", &features],
        &everything,
    )?;
    for package in workspace::simulated_crates()? {
        let selection = ["--package", &package, "--features", workspace::SIMULATION];
        // The rows beside the code have run above, and touch no file.
        output.push_str(&rows(shell, &selection, &["--test", "*"])?);
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

fn rows(shell: &Shell, selection: &[&str], targets: &[&str]) -> Result<String> {
    let filters = filters();
    let output = cmd!(
        shell,
        "cargo test {selection...} --no-fail-fast {targets...} -- --nocapture --test-threads 1 {filters...}"
    )
    .ignore_status()
    .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
