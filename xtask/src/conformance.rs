//! The conformance suite that the protocol's own project publishes, against our client.
//!
//! A scenario counts only if checks ran in it: a client that does nothing "passes" some. So the
//! number of checks is recorded too, and a run with fewer fails like one with a failure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::mcp_servers::{install_npm, is_stamped, stamp};
use crate::workspace;

/// Its `latest` is older, and wants another node.
const PACKAGES: &[&str] = &[
    "node@22",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
];

/// The revisions of the protocol, the scenarios that each requires, and the checks that ran in
/// those when this was written.
const REVISIONS: &[(&str, usize, u64)] = &[("2026-07-28", 32, 403), ("2025-11-25", 18, 216)];

/// Failures that are known: `REVISION SCENARIO: REASON`, one a line.
const EXPECTED: &str = "xtask/conformance-expected-failures.txt";

/// What is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The client for tool servers.
    Mcp,
}

/// Runs a suite.
pub(crate) fn run(shell: &Shell, suite: Suite) -> Result<()> {
    match suite {
        Suite::Mcp => mcp(shell),
    }
}

/// As a step of `ci`: where the suite cannot be installed it is skipped, which is reported; under
/// `CI=true` that is a failure.
pub(crate) fn step(shell: &Shell) -> Result<()> {
    match install(shell) {
        Ok(_) => mcp(shell),
        Err(error) if std::env::var_os("CI").is_none_or(|ci| ci != "true") => {
            println!("SKIPPED: conformance mcp: {error:#}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn install(shell: &Shell) -> Result<PathBuf> {
    let folder = workspace::root().join("target").join("mcp-conformance");
    let wanted = PACKAGES.join("\n");
    if !is_stamped(&folder, &wanted) {
        install_npm(shell, &folder, PACKAGES)?;
        stamp(&folder, &wanted)?;
    }
    Ok(folder)
}

fn mcp(shell: &Shell) -> Result<()> {
    let folder = install(shell)?;
    cmd!(shell, "cargo build --quiet --package runtime-mcp --features stdio,auth --example conformance_client").run()?;
    let expected = expected_failures()?;
    let mut wrong = Vec::new();
    for (revision, required, checks_min) in REVISIONS {
        let run = Run::of(shell, &folder, revision)?;
        let known = expected.get(*revision).cloned().unwrap_or_default();
        wrong.extend(run.judge(revision, *required, *checks_min, &known));
    }
    if !wrong.is_empty() {
        bail!("conformance mcp:\n{}", wrong.join("\n"));
    }
    Ok(())
}

fn expected_failures() -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut expected: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let text = std::fs::read_to_string(workspace::root().join(EXPECTED))?;
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
    {
        let parts = line.split_once(": ").and_then(|(place, reason)| {
            let (revision, scenario) = place.split_once(' ')?;
            Some((revision, scenario, reason))
        });
        let (revision, scenario, reason) = parts
            .with_context(|| format!("{EXPECTED}: REVISION SCENARIO: REASON, not {line:?}"))?;
        let known = expected.entry(revision.to_owned()).or_default();
        known.insert(scenario.to_owned(), reason.to_owned());
    }
    Ok(expected)
}

/// What a run of the suite said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    required: Vec<String>,
    /// By scenario: checks passed, checks failed.
    scenarios: BTreeMap<String, (u64, u64)>,
}

impl Run {
    fn of(shell: &Shell, folder: &Path, revision: &str) -> Result<Self> {
        let package = folder.join("node_modules/@modelcontextprotocol/conformance");
        let requirements = package
            .join("requirements")
            .join(format!("{revision}.yaml"));
        let requirements = std::fs::read_to_string(requirements)?;
        let node = folder.join("node_modules/node/bin/node");
        let suite = package.join("dist/index.js");
        let client = workspace::root().join("target/debug/examples/conformance_client");
        let results = folder.join("results");
        // Its exit code counts failures that are known, and none of those that did not run.
        let output = cmd!(
            shell,
            "{node} {suite} client --command {client} --requirements {revision} --timeout 120000 -o {results}"
        )
        .ignore_status()
        .quiet()
        .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let run = Self::read(&requirements, &said);
        ensure!(
            !run.required.is_empty() && !run.scenarios.is_empty(),
            "the suite said nothing that is understood:\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(run)
    }

    fn read(requirements: &str, said: &str) -> Self {
        let required = requirements
            .lines()
            .skip_while(|line| *line != "client:")
            .skip(1)
            .map_while(|line| line.trim_start().strip_prefix("- "));
        let scenario = |line: &str| {
            let line = line
                .strip_prefix("✓ ")
                .or_else(|| line.strip_prefix("✗ "))?;
            let (name, counts) = line.split_once(": ")?;
            let (passed, failed) = counts.split_once(" passed, ")?;
            let failed = failed.split(' ').next()?;
            Some((
                name.to_owned(),
                (passed.parse().ok()?, failed.parse().ok()?),
            ))
        };
        Self {
            required: required.map(|name| name.trim().to_owned()).collect(),
            scenarios: said.lines().filter_map(scenario).collect(),
        }
    }

    /// Prints the figures and says what is wrong with them.
    fn judge(
        &self,
        revision: &str,
        required: usize,
        checks_min: u64,
        known: &BTreeMap<String, String>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut passed, mut checks) = (0, 0);
        for name in &self.required {
            let (good, bad) = self.scenarios.get(name).copied().unwrap_or_default();
            checks += good;
            let is_passed = good > 0 && bad == 0;
            passed += usize::from(is_passed);
            match (is_passed, known.get(name)) {
                (false, None) => {
                    wrong.push(format!("{revision} {name}: {good} passed, {bad} failed"))
                }
                (false, Some(reason)) => println!("  expected to fail: {name}: {reason}"),
                (true, Some(_)) => wrong.push(format!(
                    "{revision} {name} passes: strike it from {EXPECTED}"
                )),
                (true, None) => {}
            }
        }
        let all = self.required.len();
        println!("conformance mcp {revision}: {passed}/{all} required, {checks} checks");
        for (name, (good, bad)) in &self.scenarios {
            if !self.required.contains(name) {
                println!("  not required: {name}: {good} passed, {bad} failed");
            }
        }
        if all != required {
            wrong.push(format!(
                "{revision} requires {all} scenarios, and {required} were known"
            ));
        }
        if checks < checks_min {
            wrong.push(format!(
                "{revision} ran {checks} checks, and {checks_min} before"
            ));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIREMENTS: &str =
        "server:\n  - x\n\nclient:\n  - a\n  - auth/b\n\nnot_scored:\n  - scenario: c\n";

    #[test]
    fn a_scenario_without_checks_and_a_missing_one_are_failures() {
        let said = "✓ a: 0 passed, 0 failed\nTotal: 0 passed\n✗ c: 1 passed, 2 failed\n";
        let run = Run::read(REQUIREMENTS, said);
        assert_eq!(run.required, ["a", "auth/b"]);
        let wrong = run.judge("r", 2, 0, &BTreeMap::new());
        assert_eq!(
            wrong,
            ["r a: 0 passed, 0 failed", "r auth/b: 0 passed, 0 failed"]
        );
    }

    #[test]
    fn fewer_checks_than_before_and_a_failure_that_passes_are_failures() {
        let said = "✓ a: 3 passed, 0 failed\n✓ auth/b: 4 passed, 0 failed, 1 warnings\n";
        let run = Run::read(REQUIREMENTS, said);
        assert!(run.judge("r", 2, 7, &BTreeMap::new()).is_empty());
        assert_eq!(run.judge("r", 2, 8, &BTreeMap::new()).len(), 1);
        let known = BTreeMap::from([("a".to_owned(), "because".to_owned())]);
        assert_eq!(run.judge("r", 3, 7, &known).len(), 2);
    }
}
