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
    let pinned = pinned()?;
    if pinned.starts_with(&format!("{promised}.")) || pinned == promised.to_string() {
        println!("checking with Rust {pinned}, which this workspace is built with");
        cmd!(shell, "cargo check --workspace --all-targets --quiet").run()?;
    } else {
        let toolchain = promised.to_string();
        println!("checking with Rust {toolchain}; everything else is built with {pinned}");
        cmd!(
            shell,
            "rustup run {toolchain} cargo check --workspace --all-targets --quiet"
        )
        .run()?;
    }
    Ok(())
}

/// The Rust that everything is built with.
fn pinned() -> Result<String> {
    let text = std::fs::read_to_string(workspace::root().join("rust-toolchain.toml"))?;
    let file: toml::Table = text.parse()?;
    let channel = file.get("toolchain").and_then(|table| table.get("channel"));
    let channel = channel.and_then(toml::Value::as_str);
    Ok(channel
        .context("rust-toolchain.toml names no channel")?
        .to_owned())
}
