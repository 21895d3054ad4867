//! Formatting, clippy, documentation, and the checks of this workspace.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::steps::{self, Step};
use crate::{codes, docs, layers, shape, workspace};

/// The cheap checks come first.
const STEPS: &[Step] = &[
    ("layers", layers::run),
    ("shape", shape::run),
    ("codes", codes::run),
    ("docs", docs::run),
    ("format", format),
    ("clippy", clippy),
    ("documentation", documentation),
];

/// Runs every check.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    steps::run(shell, STEPS)
}

fn format(shell: &Shell) -> Result<()> {
    cmd!(shell, "cargo fmt --all --check").run()?;
    Ok(())
}

/// Clippy sees each crate as it is used, and each simulated crate as it is tested.
fn clippy(shell: &Shell) -> Result<()> {
    let features = workspace::ordinary_features()?;
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets --features {features} -- -D warnings"
    )
    .run()?;
    cmd!(shell, "cargo clippy --package runtime -- -D warnings").run()?;
    for package in workspace::simulated_crates()? {
        let simulation = workspace::SIMULATION;
        cmd!(
            shell,
            "cargo clippy --package {package} --all-targets --features {simulation} -- -D warnings"
        )
        .run()?;
    }
    Ok(())
}

fn documentation(shell: &Shell) -> Result<()> {
    let features = workspace::ordinary_features()?;
    let _warnings = shell.push_env("RUSTDOCFLAGS", "-D warnings");
    cmd!(
        shell,
        "cargo doc --workspace --no-deps --features {features}"
    )
    .run()?;
    Ok(())
}
