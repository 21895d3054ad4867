//! The table of the last reliability run.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace;

/// One row: what a reliability test prints as `NAME N FAILURES SECONDS`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    name: String,
    cases: u64,
    failures: u64,
    seconds: f64,
}

impl Row {
    /// Reads a line; none if it is no row.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        // With one thread the first line of a test stands behind `test NAME ... `.
        let (_, line) = line.rsplit_once(" ... ").unwrap_or(("", line));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, cases, failures, seconds] = words[..] else {
            return None;
        };
        // R for reliability, X for attacks, then a number and perhaps which part.
        let number = name.strip_prefix(['R', 'X'])?;
        if !number.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            cases: cases.parse().ok()?,
            failures: failures.parse().ok()?,
            seconds: seconds.trim_end_matches('s').parse().ok()?,
        })
    }

    /// A row that ran no case proves nothing, so it counts as failed.
    pub(crate) const fn has_failed(&self) -> bool {
        self.failures > 0 || self.cases == 0
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.has_failed() { "FAILED" } else { "ok" };
        write!(
            f,
            "{:<32} {:>10} {:>10} {:>9.1} s  {verdict}",
            self.name, self.cases, self.failures, self.seconds
        )
    }
}

fn file() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| workspace::root().join("target"));
    target.join("scoreboard.txt")
}

/// Keeps the rows of a run.
pub(crate) fn keep(lines: &str) -> Result<()> {
    let file = file();
    std::fs::write(&file, lines).with_context(|| format!("cannot write {}", file.display()))
}

/// Prints rows as a table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<32} {:>10} {:>10} {:>11}",
        "row", "cases", "failures", "time"
    );
    rows.iter().for_each(|row| println!("{row}"));
}

/// Prints the table of the last run.
pub(crate) fn run() -> Result<()> {
    let lines = std::fs::read_to_string(file())
        .context("there is no table yet; run `cargo xtask reliability` first")?;
    print(&lines.lines().filter_map(Row::parse).collect::<Vec<_>>());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_told_from_other_output() {
        let row = Row::parse("R5-truncation 17000 0 3.25").unwrap();
        assert_eq!((row.cases, row.failures), (17_000, 0));
        for line in [
            "",
            "running 3 tests",
            "R5 many 0 1.0",
            "Row 1 0 1.0",
            "R5 1 0",
        ] {
            assert_eq!(Row::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_row_without_cases_has_failed() {
        assert!(Row::parse("R1 0 0 0.1").unwrap().has_failed());
        assert!(Row::parse("R1 9 1 0.1").unwrap().has_failed());
        assert!(!Row::parse("R1 9 0 0.1").unwrap().has_failed());
    }
}
