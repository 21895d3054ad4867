//! Features only add: each crate compiles without any, and with each alone.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::workspace;

/// Checks every crate that has features.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    for package in workspace::metadata()?.workspace_packages() {
        let name = package.name.as_str();
        let features: Vec<&String> = package.features.keys().collect();
        if features.is_empty() {
            continue;
        }
        cmd!(shell, "cargo check --package {name} --no-default-features").run()?;
        for feature in features {
            cmd!(
                shell,
                "cargo check --package {name} --no-default-features --features {feature}"
            )
            .run()?;
        }
    }
    Ok(())
}
