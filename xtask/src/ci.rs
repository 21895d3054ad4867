//! Everything that continuous integration runs, with the time that each step took.

use anyhow::Result;
use xshell::Shell;

use crate::steps::{self, Step};
use crate::{
    audit, bench, conformance, deps, examples, instructions, lint, mcp_servers, picture, release,
    reliability, schedules, semver, test,
};

const STEPS: &[Step] = &[
    ("lint", lint::run),
    ("deps", deps::run),
    ("audit", audit::step),
    ("release", release::step),
    ("semver", semver::run),
    ("mcp-servers", mcp_servers::step),
    ("test", test::run),
    ("examples", examples::run),
    ("picture", picture::check),
    ("conformance", conformance::step),
    ("reliability", reliability::run),
    ("schedules", schedules::run),
    ("benches", bench::check),
    ("instructions", instructions::step),
];

/// Runs every step.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    steps::run(shell, STEPS)
}
