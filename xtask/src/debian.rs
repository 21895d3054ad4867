//! Programs of the operating system that checks need, from Debian's packages.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::workspace;

/// Installs a package in continuous integration if its program is not there; elsewhere nothing.
pub(crate) fn provide(shell: &Shell, program: &str, package: &str) -> Result<()> {
    match workspace::is_ci() && !runs(shell, program) {
        true => install(shell, package),
        false => Ok(()),
    }
}

/// Says whether a program is there.
pub(crate) fn runs(shell: &Shell, program: &str) -> bool {
    cmd!(shell, "{program} --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}

/// Installs a package, as root or where `sudo` asks nothing.
pub(crate) fn install(shell: &Shell, package: &str) -> Result<()> {
    let is_root = cmd!(shell, "id -u").quiet().read()? == "0";
    if !runs(shell, "apt-get") || (!is_root && !runs(shell, "sudo")) {
        bail!("cannot install {package} here; install it by hand");
    }
    let words = [
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "--yes",
        "--quiet",
    ];
    let (program, before): (&str, &[&str]) = match is_root {
        true => ("env", &[]),
        false => ("sudo", &["--non-interactive", "env"]),
    };
    cmd!(shell, "{program} {before...} {words...} update").run()?;
    let options = "--no-install-recommends";
    cmd!(
        shell,
        "{program} {before...} {words...} install {options} {package}"
    )
    .run()?;
    Ok(())
}
