//! Formatting, clippy, documentation, and the checks of this workspace.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{codes, docs, layers, shape, workspace};

/// Runs the cheap checks first.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    layers::run(shell)?;
    shape::run()?;
    codes::run(shell)?;
    docs::run()?;
    cmd!(shell, "cargo fmt --all --check").run()?;
    clippy(shell)?;
    documentation(shell)
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
