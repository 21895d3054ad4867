//! What the commands share: the root, a shell there, the crates and their features.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand, Package};
use xshell::{Shell, cmd};

/// A feature of this name replaces the world that a crate runs in (its files by simulated ones),
/// so it is never on in an ordinary build; its tests are a step of their own.
pub(crate) const SIMULATION: &str = "simulation";

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_path_buf()
}

/// Returns a shell that works at the root.
pub(crate) fn shell() -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root());
    Ok(shell)
}

/// Returns the crates of the workspace, without their dependencies.
pub(crate) fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")
}

/// Returns the folder that cargo builds into.
pub(crate) fn target() -> Result<PathBuf> {
    Ok(metadata()?.target_directory.into_std_path_buf())
}

/// Returns every feature of every crate but [`SIMULATION`], as `--features` takes them.
pub(crate) fn ordinary_features() -> Result<String> {
    let metadata = metadata()?;
    let features = metadata
        .workspace_packages()
        .into_iter()
        .flat_map(|package| ordinary(package).map(|name| format!("{}/{name}", package.name)));
    Ok(features.collect::<Vec<_>>().join(","))
}

/// Returns every feature of one crate but [`SIMULATION`], for a command that has only this crate.
pub(crate) fn ordinary_features_of(name: &str) -> Result<String> {
    let metadata = metadata()?;
    let mut packages = metadata.workspace_packages().into_iter();
    let package = packages.find(|package| package.name == name);
    let package = package.with_context(|| format!("there is no crate {name}"))?;
    Ok(ordinary(package).collect::<Vec<_>>().join(","))
}

fn ordinary(package: &Package) -> impl Iterator<Item = &str> {
    let names = package.features.keys().map(String::as_str);
    names.filter(|name| *name != SIMULATION && *name != "default")
}

/// Builds every program and example as the tests have them, so that after those nothing is left to
/// build; returns where they are.
pub(crate) fn programs(shell: &Shell) -> Result<PathBuf> {
    let features = ordinary_features()?;
    cmd!(
        shell,
        "cargo build --quiet --workspace --bins --examples --features {features}"
    )
    .run()?;
    Ok(target()?.join("debug"))
}

/// Returns the crates that can run in a simulated world.
pub(crate) fn simulated_crates() -> Result<Vec<String>> {
    let metadata = metadata()?;
    let packages = metadata.workspace_packages().into_iter();
    let simulated = packages.filter(|package| package.features.contains_key(SIMULATION));
    Ok(simulated.map(|package| package.name.to_string()).collect())
}

/// Says whether `cargo nextest` is installed; without it the commands use `cargo test`.
pub(crate) fn has_nextest(shell: &Shell) -> bool {
    cmd!(shell, "cargo nextest --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}

/// Says whether this is continuous integration, where what is missing is no reason to skip.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// Returns the folder of a crate.
pub(crate) fn folder(package: &Package) -> PathBuf {
    let manifest = package.manifest_path.as_std_path();
    manifest
        .parent()
        .expect("a manifest lies in a folder")
        .to_path_buf()
}

/// Returns the files below a folder whose names end so, sorted; none if there is no such folder.
pub(crate) fn files_below(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Fails with every violation, one per line, or says that all is well.
pub(crate) fn report(check: &str, violations: &[String]) -> Result<()> {
    if violations.is_empty() {
        println!("{check}: ok");
        return Ok(());
    }
    bail!("{check}:\n  {}", violations.join("\n  "))
}
