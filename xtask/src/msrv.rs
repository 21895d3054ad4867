//! The oldest Rust that the manifests promise is the one that everything is checked with.

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::workspace;

/// Compiles the workspace with that Rust.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let metadata = workspace::metadata()?;
    let mut promised = None;
    for package in metadata.workspace_packages() {
        let version = package.rust_version.clone();
        let version = version.with_context(|| format!("{} promises no Rust", package.name))?;
        if promised.get_or_insert_with(|| version.clone()) != &version {
            bail!("{} promises Rust {version}, others another", package.name);
        }
    }
    let promised = promised.context("there is no crate")?;
    // The commands of this workspace may run with a later one; rustup has the promised one.
    let toolchain = promised.to_string();
    println!("checking with Rust {toolchain}");
    cmd!(
        shell,
        "rustup run {toolchain} cargo check --workspace --all-targets --quiet"
    )
    .run()?;
    Ok(())
}
