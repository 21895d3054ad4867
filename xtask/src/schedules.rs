//! The protocols under a schedule model checker.
//!
//! A crate whose source asks for `cfg(shuttle)` has models: its sync alias is then the checker's.
//! They are built with that flag into a target directory of their own, so that the ordinary build
//! is not thrown away.

use std::fs;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::workspace;

/// Runs the models of every crate that has some.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let target = workspace::root().join("target").join("schedules");
    let _target = shell.push_env("CARGO_TARGET_DIR", target);
    let _flag = shell.push_env("RUSTFLAGS", "--cfg shuttle");
    for package in modelled_crates()? {
        cmd!(shell, "cargo test --package {package} --lib -- --nocapture").run()?;
    }
    Ok(())
}

fn modelled_crates() -> Result<Vec<String>> {
    let metadata = workspace::metadata()?;
    let mut modelled = Vec::new();
    for package in metadata.workspace_packages() {
        let sources = workspace::files_below(&workspace::folder(package).join("src"), ".rs")?;
        let asks = |source: &std::path::PathBuf| {
            fs::read_to_string(source).is_ok_and(|text| text.contains("cfg(shuttle)"))
        };
        if package.name.as_str() != env!("CARGO_PKG_NAME") && sources.iter().any(asks) {
            modelled.push(package.name.to_string());
        }
    }
    Ok(modelled)
}
