//! The real tool servers that tests speak to, installed below `target/` by npm and pip.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::workspace;

/// One place, so that everybody tests the same servers.
const NPM: &[&str] = &[
    "node@22",
    "@modelcontextprotocol/server-everything@2026.8.31",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
    "@modelcontextprotocol/server-memory@2026.8.31",
];
const PYPI: &[&str] = &["mcp-server-time==2026.10.19", "mcp-server-git==2026.10.19"];

/// Installs the servers; does nothing if these very versions are there.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let folder = workspace::root().join("target").join("mcp-servers");
    let wanted = format!("{}\n{}\n", NPM.join(" "), PYPI.join(" "));
    if is_stamped(&folder, &wanted) {
        println!("the tool servers are in {}", folder.display());
        return Ok(());
    }
    install_npm(shell, &folder, NPM)?;
    let python = folder.join("python");
    cmd!(shell, "python3 -m pip install --quiet --disable-pip-version-check --upgrade --target {python} {PYPI...}")
        .run()
        .context("pip could not install the Python servers")?;
    stamp(&folder, &wanted)
}

/// As a step of `ci`: where it cannot be done (no npm, no network) the tests that need the servers
/// are skipped, which is reported; under `CI=true` it is a failure.
pub(crate) fn step(shell: &Shell) -> Result<()> {
    match run(shell) {
        Err(error) if std::env::var_os("CI").is_none_or(|ci| ci != "true") => {
            println!("SKIPPED: {error:#}");
            Ok(())
        }
        other => other,
    }
}

/// Installs packages of npm into a folder of their own.
pub(crate) fn install_npm(shell: &Shell, folder: &Path, packages: &[&str]) -> Result<()> {
    shell.create_dir(folder)?;
    shell.write_file(folder.join("package.json"), "{\"private\": true}\n")?;
    let _here = shell.push_dir(folder);
    cmd!(
        shell,
        "npm install --silent --no-audit --no-fund {packages...}"
    )
    .run()
    .context("npm could not install; is it there, and the registry reachable?")
}

/// Says whether exactly this was installed before.
pub(crate) fn is_stamped(folder: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(folder.join("installed")).is_ok_and(|found| found == wanted)
}

/// Notes what was installed.
pub(crate) fn stamp(folder: &Path, wanted: &str) -> Result<()> {
    std::fs::write(folder.join("installed"), wanted).context("the folder cannot be written")
}
