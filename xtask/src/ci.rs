//! Everything that continuous integration runs, with the time that each step took.

use anyhow::Result;
use xshell::Shell;

use crate::steps::{self, Step};
use crate::{audit, conformance, deps, lint, mcp_servers, reliability, schedules, test};

const STEPS: &[Step] = &[
    ("lint", lint::run),
    ("deps", deps::run),
    ("audit", audit::step),
    ("mcp-servers", mcp_servers::step),
    ("test", test::run),
    ("conformance", conformance::step),
    ("reliability", reliability::run),
    ("schedules", schedules::run),
];

/// Runs every step.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    steps::run(shell, STEPS)
}
