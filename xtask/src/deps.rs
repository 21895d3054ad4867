//! What a user of `runtime` compiles (U1, X5).

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::workspace;

/// The most packages of others that the default features of `runtime` may pull in (X5).
const FOREIGN_PACKAGES_MAX: usize = 60;

/// Nothing of these is among the default features: no HTTP client, no tool protocol, no TLS.
const REFUSED: &[&str] = &[
    "hyper",
    "isahc",
    "native-tls",
    "openssl",
    "openssl-sys",
    "reqwest",
    "rmcp",
    "rustls",
    "ureq",
];

/// Counts packages and refuses what does not belong there.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let runtime = packages(shell, "runtime")?;
    let core = packages(shell, "runtime-core")?;
    let foreign = foreign(&runtime);
    println!(
        "runtime with default features: {} packages, {foreign} of them from elsewhere",
        runtime.len()
    );
    println!("runtime-core: {} packages", core.len());
    workspace::report("deps", &refused(&runtime))?;
    if foreign > FOREIGN_PACKAGES_MAX {
        bail!(
            "runtime pulls in {foreign} packages from elsewhere; {FOREIGN_PACKAGES_MAX} are allowed"
        );
    }
    Ok(())
}

/// The packages that are not of this workspace.
fn foreign(packages: &BTreeSet<String>) -> usize {
    let own =
        |package: &&String| package.starts_with("runtime ") || package.starts_with("runtime-");
    packages.len() - packages.iter().filter(own).count()
}

fn packages(shell: &Shell, package: &str) -> Result<BTreeSet<String>> {
    let tree = cmd!(
        shell,
        "cargo tree --quiet --package {package} --edges normal,build --prefix none --no-dedupe"
    )
    .quiet()
    .read()?;
    // A line is `name vVERSION …`; two versions of one package are two packages.
    let versions = tree.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').take(2).collect();
        words.join(" ")
    });
    Ok(versions.collect())
}

fn refused(packages: &BTreeSet<String>) -> Vec<String> {
    let name = |package: &String| package.split(' ').next().unwrap_or_default().to_owned();
    let names = packages.iter().map(name);
    names
        .filter(|name| REFUSED.contains(&name.as_str()))
        .map(|name| format!("{name} is among the default features of runtime"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_client_among_the_defaults_is_found() {
        let packages = ["serde v1.0.0", "reqwest v0.12.0", "rustls v0.23.1"];
        let packages = packages.map(str::to_owned).into_iter().collect();
        assert_eq!(refused(&packages).len(), 2);
    }

    #[test]
    fn plain_packages_pass() {
        let packages = ["serde v1.0.0", "tokio v1.45.0"].map(str::to_owned);
        assert!(refused(&packages.into_iter().collect()).is_empty());
    }
}
