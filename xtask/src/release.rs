//! A release, up to the point where it would leave this machine.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata, Package};
use xshell::{Shell, cmd};

use crate::workspace;

/// Checks and packages every crate that is published, in the order in which they must be.
pub(crate) fn run(shell: &Shell, dry_run: bool) -> Result<()> {
    if !dry_run {
        bail!("only --dry-run is there: publishing needs a token and a person's decision");
    }
    let metadata = workspace::metadata()?;
    let packages = metadata.workspace_packages();
    let order = order(&packages)?;
    workspace::report("release", &violations(&metadata, &order)?)?;
    for package in &order {
        let name = package.name.as_str();
        let files = cmd!(shell, "cargo package --list --allow-dirty --package {name}")
            .quiet()
            .read()?;
        let count = files.lines().count();
        if !files.lines().any(|file| file == "src/lib.rs") {
            bail!("{name} would be published without src/lib.rs");
        }
        println!("{name} {}: {count} files", package.version);
    }
    let names = order
        .iter()
        .flat_map(|package| ["--package", package.name.as_str()]);
    let names: Vec<&str> = names.collect();
    // Together, so that each finds the others where they would be once published.
    cmd!(
        shell,
        "cargo package --no-verify --allow-dirty --quiet {names...}"
    )
    .run()?;
    println!(
        "{} crates are packaged below target/package; nothing was published",
        order.len()
    );
    Ok(())
}

/// As a step of `ci`: everything but the leaving.
pub(crate) fn step(shell: &Shell) -> Result<()> {
    run(shell, true)
}

fn is_published(package: &Package) -> bool {
    package
        .publish
        .as_ref()
        .is_none_or(|registries| !registries.is_empty())
}

/// The crates that are published, each after those it needs.
fn order<'a>(packages: &[&'a Package]) -> Result<Vec<&'a Package>> {
    let mut waiting: BTreeMap<&str, &Package> = packages
        .iter()
        .filter(|package| is_published(package))
        .map(|package| (package.name.as_str(), *package))
        .collect();
    let mut order = Vec::new();
    while !waiting.is_empty() {
        let ready = waiting
            .values()
            .find(|package| needed(package).all(|dependency| !waiting.contains_key(dependency)));
        let Some(ready) = ready.copied() else {
            bail!("these need each other: {:?}", waiting.keys());
        };
        waiting.remove(ready.name.as_str());
        order.push(ready);
    }
    Ok(order)
}

fn needed(package: &Package) -> impl Iterator<Item = &str> {
    let dependencies = package.dependencies.iter();
    let needed = dependencies.filter(|dependency| dependency.kind != DependencyKind::Development);
    needed.map(|dependency| dependency.name.as_str())
}

fn violations(metadata: &Metadata, order: &[&Package]) -> Result<Vec<String>> {
    let root = workspace::root();
    let mut violations = Vec::new();
    let changes = std::fs::read_to_string(root.join("CHANGELOG.md")).unwrap_or_default();
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
        if !root.join(file).is_file() {
            violations.push(format!("{file} is missing"));
        }
    }
    let all = metadata.workspace_packages();
    for package in order {
        violations.extend(package_violations(package, &all));
        if !package.readme().is_some_and(|readme| readme.is_file()) {
            violations.push(format!("{} has no readme", package.name));
        }
        let version = format!("## {}", package.version);
        if !changes.contains(&version) && !changes.contains("## Unreleased") {
            violations.push(format!("CHANGELOG.md says nothing of {}", package.version));
        }
    }
    Ok(violations)
}

fn package_violations(package: &Package, all: &[&Package]) -> Vec<String> {
    let name = &package.name;
    let mut violations = Vec::new();
    if package.license.as_deref() != Some("MIT OR Apache-2.0") {
        violations.push(format!("{name} is not licensed as MIT OR Apache-2.0"));
    }
    if package
        .description
        .as_deref()
        .is_none_or(|text| text.trim().is_empty())
    {
        violations.push(format!("{name} has no description"));
    }
    if package.rust_version.is_none() {
        violations.push(format!("{name} does not say which Rust it needs"));
    }
    for dependency in &package.dependencies {
        let own = all.iter().find(|own| own.name == dependency.name);
        let (Some(own), true) = (own, dependency.kind != DependencyKind::Development) else {
            continue;
        };
        if !is_published(own) {
            violations.push(format!("{name} needs {}, which is not published", own.name));
        }
        if !dependency.req.matches(&own.version) || dependency.req.to_string() == "*" {
            let (wanted, version) = (&dependency.req, &own.version);
            violations.push(format!(
                "{name} wants {} {wanted}, which is {version}",
                own.name
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_comes_after_those_it_needs() {
        let metadata = workspace::metadata().unwrap();
        let order = order(&metadata.workspace_packages()).unwrap();
        assert!(order.len() >= 10);
        for (at, package) in order.iter().enumerate() {
            let later: Vec<&str> = order[at..]
                .iter()
                .map(|later| later.name.as_str())
                .collect();
            assert!(needed(package).all(|dependency| !later.contains(&dependency)));
        }
    }

    #[test]
    fn a_planted_fault_is_found() {
        let metadata = workspace::metadata().unwrap();
        let all = metadata.workspace_packages();
        let good = all
            .iter()
            .find(|package| package.name == "runtime-turn")
            .unwrap();
        assert_eq!(package_violations(good, &all), [""; 0]);
        let mut bad = (*good).clone();
        bad.license = Some("GPL-3.0-only".to_owned());
        bad.description = None;
        bad.dependencies
            .iter_mut()
            .for_each(|dependency| dependency.req = "9.9".parse().unwrap());
        assert!(package_violations(&bad, &all).len() >= 3);
    }
}
