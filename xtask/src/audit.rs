//! What comes from elsewhere: licences, sources, bans, advisories, package counts; and no
//! `unsafe` of our own (X5).
//!
//! The policy is `deny.toml`, in the form that `cargo deny` reads too; this check needs no such
//! program. Advisories are read from a snapshot given as a path: a checkout of the RustSec
//! advisory database, or any folder with its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cargo_metadata::semver::{Version, VersionReq};
use cargo_metadata::{Metadata, MetadataCommand};
use serde::Deserialize;
use xshell::Shell;

use crate::workspace;

/// The most packages of others that the core may pull in (X5).
const CORE_PACKAGES_MAX: usize = 60;
/// Fewer packages than this were not the workspace's.
const PACKAGES_MIN: usize = 50;
/// The variable that names a snapshot, where no flag can.
const SNAPSHOT: &str = "ADVISORY_DB";

/// The part of `deny.toml` that is read here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Policy {
    licenses: Licences,
    bans: Bans,
    sources: Sources,
    advisories: Ignored,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
    allow_git: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ignored {
    ignore: Vec<IgnoredAdvisory>,
}

#[derive(Debug, Deserialize)]
struct IgnoredAdvisory {
    id: String,
    reason: String,
}

/// A package of the lock file.
#[derive(Debug, Clone)]
struct Locked {
    name: String,
    version: Version,
    /// None for our own.
    source: Option<String>,
    /// As its manifest says; none if it says nothing.
    licence: Option<String>,
}

/// What the audit found, and how much it looked at.
#[derive(Debug, Default)]
struct Audit {
    packages: usize,
    advisories: usize,
    violations: Vec<String>,
    /// What does not fail, but should be read.
    notes: Vec<String>,
}

/// The step of `ci`: with the snapshot that the environment names, if it names one.
pub(crate) fn step(shell: &Shell) -> Result<()> {
    run(
        shell,
        std::env::var_os(SNAPSHOT).map(PathBuf::from).as_deref(),
    )
}

/// Audits the workspace.
pub(crate) fn run(_shell: &Shell, snapshot: Option<&Path>) -> Result<()> {
    let started = Instant::now();
    let audit = audit(snapshot)?;
    for note in &audit.notes {
        println!("note: {note}");
    }
    println!(
        "X5 {} {} {:.1}",
        audit.packages,
        audit.violations.len(),
        started.elapsed().as_secs_f64()
    );
    workspace::report("audit", &audit.violations)
}

fn audit(snapshot: Option<&Path>) -> Result<Audit> {
    let root = workspace::root();
    let text = std::fs::read_to_string(root.join("deny.toml")).context("deny.toml")?;
    let policy: Policy = toml::from_str(&text).context("deny.toml")?;
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(vec!["--locked".to_owned(), "--all-features".to_owned()])
        .exec()
        .context("cargo metadata failed")?;
    let packages = locked(&metadata);
    let mut audit = Audit {
        packages: packages.len(),
        ..Audit::default()
    };
    if packages.len() < PACKAGES_MIN {
        bail!("only {} packages were looked at", packages.len());
    }
    audit
        .violations
        .extend(policy_violations(&policy, &packages));
    audit.violations.extend(unsafe_code(&root, &metadata)?);
    let core = closure(&metadata, "runtime-core");
    audit.notes.push(format!(
        "runtime-core: {} packages from elsewhere",
        core.len()
    ));
    audit.violations.extend(count_violation(core.len()));
    match snapshot {
        None => audit.notes.push(format!(
            "no advisories were checked: name a snapshot by --advisories or {SNAPSHOT}"
        )),
        Some(snapshot) => {
            let advisories = read_advisories(snapshot)?;
            audit.advisories = advisories.len();
            audit
                .notes
                .push(format!("{} advisories were read", advisories.len()));
            for ignored in &policy.advisories.ignore {
                audit
                    .notes
                    .push(format!("{} is ignored: {}", ignored.id, ignored.reason));
            }
            let (fatal, told) = advised(&policy, &advisories, &packages);
            audit.violations.extend(fatal);
            audit.notes.extend(told);
        }
    }
    Ok(audit)
}

fn locked(metadata: &Metadata) -> Vec<Locked> {
    let packages = metadata.packages.iter().map(|package| Locked {
        name: package.name.to_string(),
        version: package.version.clone(),
        source: package.source.as_ref().map(|source| source.repr.clone()),
        licence: package.license.clone(),
    });
    packages.collect()
}

/// The packages from elsewhere that a crate of ours pulls in without its tests.
fn closure(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    use cargo_metadata::DependencyKind;

    let mut reached = BTreeSet::new();
    let Some(resolve) = &metadata.resolve else {
        return reached;
    };
    let start = metadata
        .packages
        .iter()
        .find(|package| package.name == name);
    let mut waiting: Vec<_> = start
        .map(|package| package.id.clone())
        .into_iter()
        .collect();
    let mut seen: BTreeSet<_> = waiting.iter().cloned().collect();
    while let Some(id) = waiting.pop() {
        if metadata[&id].source.is_some() {
            reached.insert(format!("{} {}", metadata[&id].name, metadata[&id].version));
        }
        let node = resolve.nodes.iter().find(|node| node.id == id);
        for dependency in node.iter().flat_map(|node| &node.deps) {
            let kinds = &dependency.dep_kinds;
            let counts = kinds
                .iter()
                .any(|kind| kind.kind != DependencyKind::Development);
            if counts && seen.insert(dependency.pkg.clone()) {
                waiting.push(dependency.pkg.clone());
            }
        }
    }
    reached
}

fn count_violation(packages: usize) -> Option<String> {
    (packages > CORE_PACKAGES_MAX)
        .then(|| format!("the core pulls in {packages} packages; {CORE_PACKAGES_MAX} are allowed"))
}

/// Licences, bans and sources.
fn policy_violations(policy: &Policy, packages: &[Locked]) -> Vec<String> {
    let mut violations = Vec::new();
    for package in packages {
        let shown = format!("{} {}", package.name, package.version);
        if policy.bans.deny.iter().any(|ban| ban.name == package.name) {
            violations.push(format!("{shown} is banned"));
        }
        let Some(source) = &package.source else {
            continue;
        };
        let allowed = &policy.sources;
        let mut sources = allowed.allow_registry.iter().chain(&allowed.allow_git);
        if !sources.any(|allowed| is_from(source, allowed)) {
            violations.push(format!("{shown} comes from {source}"));
        }
        match &package.licence {
            None => violations.push(format!("{shown} names no licence")),
            Some(licence) if !is_allowed(licence, &policy.licenses.allow) => {
                violations.push(format!("{shown} has the licence {licence}"));
            }
            Some(_) => {}
        }
    }
    violations
}

/// A source is `registry+ADDRESS` or `git+ADDRESS?…#…`.
fn is_from(source: &str, allowed: &str) -> bool {
    let address = source
        .split_once('+')
        .map_or(source, |(_, address)| address);
    address.split(['?', '#']).next() == Some(allowed)
}

/// Whether an SPDX expression can be satisfied by the allowed licences. What cannot be read is
/// not allowed.
fn is_allowed(licence: &str, allowed: &[String]) -> bool {
    let Ok(expression) = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX) else {
        return false;
    };
    expression.evaluate(|requirement| {
        let shown = requirement.to_string();
        allowed.contains(&shown)
    })
}

/// Every crate inherits the lints, and the lints forbid `unsafe`.
fn unsafe_code(root: &Path, metadata: &Metadata) -> Result<Vec<String>> {
    let read = |path: &Path| -> Result<toml::Table> {
        let text = std::fs::read_to_string(path)?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    };
    let mut manifests = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest = read(package.manifest_path.as_std_path())?;
        manifests.push((package.name.to_string(), manifest));
    }
    Ok(lint_violations(
        &read(&root.join("Cargo.toml"))?,
        &manifests,
    ))
}

fn lint_violations(workspace: &toml::Table, manifests: &[(String, toml::Table)]) -> Vec<String> {
    let at = |table: &toml::Table, path: [&str; 2]| -> Option<toml::Value> {
        table.get(path[0])?.get(path[1]).cloned()
    };
    let lints = at(workspace, ["workspace", "lints"]);
    let level = lints
        .as_ref()
        .and_then(|lints| lints.get("rust")?.get("unsafe_code"));
    let mut violations = Vec::new();
    if level.and_then(toml::Value::as_str) != Some("forbid") {
        violations.push("the workspace does not forbid unsafe_code".to_owned());
    }
    for (name, manifest) in manifests {
        if at(manifest, ["lints", "workspace"]) != Some(toml::Value::Boolean(true)) {
            violations.push(format!(
                "{name} does not inherit the lints that forbid unsafe"
            ));
        }
    }
    violations
}

/// An advisory of the RustSec database.
#[derive(Debug, Deserialize)]
struct Advisory {
    advisory: About,
    #[serde(default)]
    versions: Versions,
}

#[derive(Debug, Deserialize)]
struct About {
    id: String,
    package: String,
    #[serde(default)]
    withdrawn: Option<toml::Value>,
    #[serde(default)]
    informational: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Versions {
    patched: Vec<String>,
    unaffected: Vec<String>,
}

fn read_advisories(snapshot: &Path) -> Result<Vec<Advisory>> {
    let mut advisories = Vec::new();
    for path in workspace::files_below(snapshot, ".md")? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Other pages of the database are for people.
        if !name.starts_with("RUSTSEC-") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        advisories.push(advisory(&text).with_context(|| path.display().to_string())?);
    }
    if advisories.is_empty() {
        bail!("there are no advisories in {}", snapshot.display());
    }
    Ok(advisories)
}

/// An advisory is a page that begins with a block of TOML.
fn advisory(text: &str) -> Result<Advisory> {
    let (_, rest) = text.split_once("```toml").context("no block of TOML")?;
    let (block, _) = rest
        .split_once("```")
        .context("the block of TOML does not end")?;
    Ok(toml::from_str(block)?)
}

/// What the advisories say: what fails, and what should only be known.
fn advised(
    policy: &Policy,
    advisories: &[Advisory],
    packages: &[Locked],
) -> (Vec<String>, Vec<String>) {
    let (mut fatal, mut told) = (Vec::new(), Vec::new());
    for advisory in advisories {
        let about = &advisory.advisory;
        let ignored = policy
            .advisories
            .ignore
            .iter()
            .any(|ignored| ignored.id == about.id);
        if about.withdrawn.is_some() || ignored {
            continue;
        }
        let ours = packages.iter().filter(|package| {
            package.source.is_some()
                && package.name == about.package
                && affects(&advisory.versions, &package.version)
        });
        for package in ours {
            let shown = format!("{} {}: {}", package.name, package.version, about.id);
            match about.informational.as_deref() {
                Some(kind @ ("unmaintained" | "notice")) => told.push(format!("{shown} ({kind})")),
                _ => fatal.push(format!("{shown} is known to be vulnerable or unsound")),
            }
        }
    }
    (fatal, told)
}

/// A requirement that cannot be read excludes nothing: better a false alarm than none.
fn affects(versions: &Versions, version: &Version) -> bool {
    let safe = versions.patched.iter().chain(&versions.unaffected);
    let mut safe = safe.filter_map(|text| VersionReq::parse(text).ok());
    // A requirement does not match a pre-release, so the release that follows is asked.
    let release = Version::new(version.major, version.minor, version.patch);
    !safe.any(|requirement| requirement.matches(version) || requirement.matches(&release))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "https://github.com/rust-lang/crates.io-index";

    fn policy() -> Policy {
        toml::from_str(
            "[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"Apache-2.0 WITH LLVM-exception\"]\n\
             [bans]\ndeny = [{ crate = \"openssl-sys\" }]\n\
             [sources]\nallow-registry = [\"https://github.com/rust-lang/crates.io-index\"]\n\
             [advisories]\nignore = [{ id = \"RUSTSEC-2099-0009\", reason = \"test\" }]",
        )
        .unwrap()
    }

    fn package(name: &str, version: &str) -> Locked {
        Locked {
            name: name.to_owned(),
            version: version.parse().unwrap(),
            source: Some(format!("registry+{REGISTRY}")),
            licence: Some("MIT OR Apache-2.0".to_owned()),
        }
    }

    /// The row, with its floor: the workspace as it is. Without a snapshot it says so.
    #[test]
    fn x5_the_workspace_passes_its_audit() {
        let started = Instant::now();
        let snapshot = std::env::var_os(SNAPSHOT).map(PathBuf::from);
        let audit = audit(snapshot.as_deref()).unwrap();
        let (packages, failures) = (audit.packages, audit.violations.len());
        println!(
            "X5 {packages} {failures} {:.1}",
            started.elapsed().as_secs_f64()
        );
        assert!(audit.violations.is_empty(), "{:#?}", audit.violations);
        assert!(packages >= PACKAGES_MIN);
    }

    #[test]
    fn x5_each_planted_fault_is_found() {
        let mut copyleft = package("copyleft", "1.0.0");
        copyleft.licence = Some("GPL-3.0-only".to_owned());
        let mut both = package("both", "1.0.0");
        both.licence = Some("MIT AND GPL-3.0-only".to_owned());
        let mut nameless = package("nameless", "1.0.0");
        nameless.licence = None;
        let mut unreadable = package("unreadable", "1.0.0");
        unreadable.licence = Some("do what you like".to_owned());
        let mut git = package("git", "1.0.0");
        git.source = Some("git+https://example.org/evil?branch=main#0123".to_owned());
        let mut mirror = package("mirror", "1.0.0");
        mirror.source = Some("registry+https://example.org/index".to_owned());
        let banned = package("openssl-sys", "0.9.0");
        let planted = [copyleft, both, nameless, unreadable, git, mirror, banned];
        for package in &planted {
            let found = policy_violations(&policy(), std::slice::from_ref(package));
            assert_eq!(found.len(), 1, "{package:?}: {found:?}");
        }
        assert!(count_violation(CORE_PACKAGES_MAX + 1).is_some());
        assert!(count_violation(CORE_PACKAGES_MAX).is_none());
    }

    #[test]
    fn x5_what_is_allowed_passes() {
        let mut choice = package("choice", "1.0.0");
        choice.licence = Some("GPL-2.0-only OR MIT".to_owned());
        let mut exception = package("exception", "1.0.0");
        exception.licence = Some("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only".to_owned());
        let mut old = package("old", "1.0.0");
        old.licence = Some("MIT/Apache-2.0".to_owned());
        let good = [choice, exception, old, package("plain", "1.0.0")];
        assert_eq!(policy_violations(&policy(), &good), [""; 0]);
    }

    fn planted(id: &str, extra: &str, versions: &str) -> Advisory {
        let text = format!(
            "```toml\n[advisory]\nid = \"{id}\"\npackage = \"bad\"\ndate = \"2099-01-01\"\n{extra}\n\
             [versions]\n{versions}\n```\n\n# Bad things happen\n"
        );
        advisory(&text).unwrap()
    }

    #[test]
    fn x5_a_vulnerable_version_is_found_and_a_mended_one_passes() {
        let advisories = [planted(
            "RUSTSEC-2099-0001",
            "",
            "patched = [\">= 1.2.3\"]\nunaffected = [\"< 1.0.0\"]",
        )];
        let fatal = |version: &str| {
            let packages = [package("bad", version), package("good", "1.1.0")];
            advised(&policy(), &advisories, &packages).0.len()
        };
        assert_eq!(fatal("1.1.0"), 1);
        assert_eq!(fatal("1.2.2"), 1);
        assert_eq!(fatal("1.2.3"), 0);
        assert_eq!(fatal("2.0.0"), 0);
        assert_eq!(fatal("0.9.9"), 0);
    }

    #[test]
    fn x5_never_patched_fails_and_unmaintained_is_told() {
        let packages = [package("bad", "9.9.9")];
        let find = |advisory| advised(&policy(), &[advisory], &packages);
        let (fatal, _) = find(planted("RUSTSEC-2099-0001", "", "patched = []"));
        assert_eq!(fatal.len(), 1);
        let unsound = "informational = \"unsound\"";
        assert_eq!(find(planted("RUSTSEC-2099-0001", unsound, "")).0.len(), 1);
        let unmaintained = "informational = \"unmaintained\"";
        let (fatal, told) = find(planted("RUSTSEC-2099-0001", unmaintained, ""));
        assert_eq!((fatal.len(), told.len()), (0, 1));
        let withdrawn = "withdrawn = \"2099-02-02\"";
        assert!(
            find(planted("RUSTSEC-2099-0001", withdrawn, ""))
                .0
                .is_empty()
        );
        assert!(
            find(planted("RUSTSEC-2099-0009", "", "")).0.is_empty(),
            "ignored with a reason"
        );
    }

    #[test]
    fn x5_a_crate_that_allows_unsafe_is_found() {
        let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
        let workspace = table("[workspace.lints.rust]\nunsafe_code = \"forbid\"");
        let good = ("good".to_owned(), table("[lints]\nworkspace = true"));
        let bad = ("bad".to_owned(), table("[package]\nname = \"bad\""));
        assert_eq!(
            lint_violations(&workspace, std::slice::from_ref(&good)).len(),
            0
        );
        assert_eq!(lint_violations(&workspace, &[good.clone(), bad]).len(), 1);
        let lax = table("[workspace.lints.rust]\nunsafe_code = \"warn\"");
        assert_eq!(lint_violations(&lax, &[good]).len(), 1);
    }

    /// An empty folder is no snapshot: no advisory read is a failure, not a clean bill.
    #[test]
    fn x5_a_snapshot_without_advisories_is_refused() {
        let folder = workspace::root().join("docs/adr");
        assert!(read_advisories(&folder).is_err());
    }
}
