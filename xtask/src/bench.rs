//! Benchmarks: each group prints a table of shares of its floor and leaves the same as JSON.
//!
//! Figures depend on what else the machine does, so a missed target is told and fails nothing;
//! only a run that could not be made fails.

use anyhow::Result;
use clap::ValueEnum;
use xshell::{Shell, cmd};

/// What is measured; each is a bench target of `runtime` of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Commits of guard, row and event, by the number of writers.
    Append,
    /// Opening after SIGKILL, by the length of the history.
    Open,
    /// Durable steps, by the number of turns that run at once.
    Step,
}

impl Group {
    const fn target(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Open => "open",
            Self::Step => "step",
        }
    }
}

/// Runs the groups, all of them if none is named.
pub(crate) fn run(shell: &Shell, groups: &[Group], is_quick: bool) -> Result<()> {
    let groups = if groups.is_empty() {
        Group::value_variants()
    } else {
        groups
    };
    let quick = is_quick.then_some("--quick");
    for group in groups {
        let target = group.target();
        cmd!(
            shell,
            "cargo bench --package runtime --bench {target} -- {quick...}"
        )
        .run()?;
    }
    Ok(())
}
