//! What a row of the reliability scoreboard counts.

use std::fmt;
use std::time::Instant;

/// Cases and failures of one row. Printed, it is the line `NAME N FAILURES SECONDS` without the
/// name.
#[derive(Debug)]
pub struct Tally {
    cases: usize,
    failures: Vec<String>,
    began: Instant,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            cases: 0,
            failures: Vec::new(),
            began: Instant::now(),
        }
    }
}

impl Tally {
    /// Says how many cases ran.
    #[must_use]
    pub fn cases(&self) -> usize {
        self.cases
    }

    /// Returns what went wrong, one text for each case that failed.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(crate) fn count(&mut self, passed: bool, failure: impl FnOnce() -> String) {
        self.cases += 1;
        if !passed {
            self.failures.push(failure());
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.began.elapsed().as_secs_f64();
        write!(f, "{} {} {seconds:.1}", self.cases, self.failures.len())
    }
}
