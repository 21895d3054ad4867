//! Benchmarks, in a workspace of their own (`benches/`): what is compared is no dependency of the
//! product.

use anyhow::{Result, bail};
use clap::Subcommand;
use xshell::{Shell, cmd};

use crate::{instructions, services};

pub(crate) const MANIFEST: &str = "benches/Cargo.toml";
/// Where it is built, apart from everything else; results lie in `results` below it.
pub(crate) const TARGET: &str = "target/benches";

/// The group that needs a server.
const POSTGRES: &str = "postgres";

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Kind {
    /// This runtime beside others and beside what the machine allows; fails when a target is
    /// missed or there is no result.
    Peers {
        /// append, step, open, replay, fan-out, promise, discovery, lease, turn, scaling,
        /// postgres; all of them if none is named.
        groups: Vec<String>,
        /// A few short rounds, to see that it runs; for figures leave it out.
        #[arg(long)]
        quick: bool,
    },
    /// How many instructions pure paths take, against stored counts; a step of `ci`.
    Instructions {
        /// Store what is counted now.
        #[arg(long)]
        update: bool,
    },
}

/// Runs it.
pub(crate) fn run(shell: &Shell, kind: &Kind) -> Result<()> {
    match kind {
        Kind::Peers { groups, quick } => peers(shell, groups, *quick),
        Kind::Instructions { update } => instructions::run(shell, *update),
    }
}

fn peers(shell: &Shell, groups: &[String], is_quick: bool) -> Result<()> {
    let quick = is_quick.then_some("--quick");
    let run = |shell: &Shell| -> Result<()> {
        cmd!(
            shell,
            "cargo run --release --locked --quiet --manifest-path {MANIFEST} --target-dir {TARGET} --package peers -- {groups...} {quick...}"
        )
        .run()?;
        Ok(())
    };
    match groups.is_empty() || groups.iter().any(|group| group == POSTGRES) {
        true => services::with(shell, run),
        false => run(shell),
    }
}

/// Tests the decisions of the harness. The peers themselves are compiled by the nightly run: they
/// bring hundreds of packages that nothing else here has.
pub(crate) fn check(shell: &Shell) -> Result<()> {
    let formatted = cmd!(shell, "cargo fmt --manifest-path {MANIFEST} --all --check").run();
    if formatted.is_err() {
        bail!("cargo fmt --manifest-path {MANIFEST} --all");
    }
    cmd!(
        shell,
        "cargo test --quiet --locked --manifest-path {MANIFEST} --target-dir {TARGET} --package harness"
    )
    .run()?;
    Ok(())
}
