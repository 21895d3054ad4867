//! A published interface does not break by accident.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::workspace;

/// Compares each published crate with its last release, as far as there is one.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let tags = cmd!(shell, "git tag --list v*")
        .quiet()
        .read()
        .unwrap_or_default();
    let Some(last) = tags.lines().last() else {
        println!("semver: nothing has been released, so there is nothing to compare with");
        return Ok(());
    };
    for package in workspace::metadata()?.workspace_packages() {
        let published = package.publish.as_ref().is_none_or(|to| !to.is_empty());
        if published {
            let name = package.name.as_str();
            cmd!(
                shell,
                "cargo semver-checks --package {name} --baseline-rev {last}"
            )
            .run()?;
        }
    }
    Ok(())
}
