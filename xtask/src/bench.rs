//! Benchmarks, in a workspace of their own (`benches/`): what is compared is no dependency of the
//! product.

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use xshell::{Shell, cmd};

use crate::{instructions, services, workspace};

pub(crate) const MANIFEST: &str = "benches/Cargo.toml";
/// Where it is built, apart from everything else; results lie in `results` below it.
pub(crate) const TARGET: &str = "target/benches";

/// The group that needs a server.
const POSTGRES: &str = "postgres";

/// The groups of `benches/own`.
const OWN_GROUPS: &[&str] = &[
    "append",
    "step",
    "replay",
    "open",
    "fan-out",
    "promise",
    "discovery",
    "lease",
    "turn",
    "pure",
];

/// What of this runtime alone is measured.
#[derive(Debug, Args)]
pub(crate) struct Own {
    /// All of them if none is named.
    #[arg(value_parser = PossibleValuesParser::new(OWN_GROUPS))]
    groups: Vec<String>,
    /// Stops as soon as a figure is steady; for a first look.
    #[arg(long)]
    quick: bool,
}

/// What else is measured.
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

/// Runs the benchmarks of this runtime alone.
pub(crate) fn own(shell: &Shell, asked: &Own) -> Result<()> {
    let quick = asked.quick.then_some("--quick");
    let filter = filter(&asked.groups);
    cmd!(
        shell,
        "cargo bench --locked --quiet --manifest-path {MANIFEST} --target-dir {TARGET} --package own --bench own -- {filter...} {quick...}"
    )
    .env("CRITERION_HOME", workspace::root().join(TARGET).join("criterion"))
    .run()?;
    Ok(())
}

/// What selects so many groups: criterion takes one regular expression over `GROUP/NAME`.
fn filter(groups: &[String]) -> Option<String> {
    (!groups.is_empty()).then(|| format!("^({})/", groups.join("|")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_groups_become_one_expression() {
        let named = ["step", "append"].map(str::to_owned);
        assert_eq!(filter(&named).as_deref(), Some("^(step|append)/"));
        assert_eq!(filter(&[]), None);
    }
}
