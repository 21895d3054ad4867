//! Dependencies point strictly down, and the kernel does no I/O (docs/architecture.md).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use cargo_metadata::{DependencyKind, Metadata, Package};
use xshell::{Shell, cmd};

use crate::workspace;

/// A layer, lowest first. `Side` stands beside them: only tests use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Kernel,
    Contract,
    Service,
    Driver,
    Engine,
    Edge,
    Umbrella,
    Binary,
    Side,
}

impl Layer {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "0" => Self::Kernel,
            "1a" => Self::Contract,
            "1b" => Self::Service,
            "2a" => Self::Driver,
            "2b" => Self::Engine,
            "3" => Self::Edge,
            "4" => Self::Umbrella,
            "5" => Self::Binary,
            "side" => Self::Side,
            _ => return None,
        })
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "0",
            Self::Contract => "1a",
            Self::Service => "1b",
            Self::Driver => "2a",
            Self::Engine => "2b",
            Self::Edge => "3",
            Self::Umbrella => "4",
            Self::Binary => "5",
            Self::Side => "side",
        })
    }
}

/// One dependency between two crates of the workspace.
#[derive(Debug, Clone)]
struct Edge {
    from: (String, Layer),
    to: (String, Layer),
    for_tests: bool,
}

/// Crates that may be named by a peer of their own layer, and by whom.
const PEERS_ALLOWED: &[(&str, &str)] = &[("runtime-turn", "runtime-core")];

/// Packages of async runtimes and of I/O: the kernel pulls in none of them, at any depth.
/// `libc` is not among them: on some machines SHA-256 asks it for what the processor can do.
const IO_PACKAGES: &[&str] = &[
    "dashmap",
    "futures",
    "getrandom",
    "hyper",
    "mio",
    "nix",
    "polling",
    "rand",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tracing",
];
const IO_PREFIXES: &[&str] = &["async-", "futures-", "tokio-"];

/// What a kernel crate's `clippy.toml` must forbid.
const KERNEL_FORBIDS: &[&str] = &[
    "std::time::SystemTime::now",
    "std::time::Instant::now",
    "std::env::var",
    "std::fs::read",
    "std::fs::write",
    "std::fs::File::open",
    "std::thread::spawn",
    "std::thread::sleep",
];

/// Checks the workspace.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let metadata = workspace::metadata()?;
    let mut violations = Vec::new();
    let layers = declared_layers(&metadata, &mut violations);
    violations.extend(edges(&metadata, &layers).iter().filter_map(violation));
    for package in metadata.workspace_packages() {
        if is_sans_io(package) == Some(true) {
            violations.extend(kernel_violations(shell, package)?);
        }
    }
    workspace::report("layers", &violations)
}

fn declared_layers(metadata: &Metadata, violations: &mut Vec<String>) -> BTreeMap<String, Layer> {
    let mut layers = BTreeMap::new();
    for package in metadata.workspace_packages() {
        let declared = package.metadata["runtime"]["layer"].as_str();
        match declared.and_then(Layer::parse) {
            Some(layer) => {
                layers.insert(package.name.to_string(), layer);
            }
            None => violations.push(format!(
                "{}: its manifest needs [package.metadata.runtime] layer = one of 0 1a 1b 2a 2b 3 4 5 side",
                package.name
            )),
        }
        match (is_sans_io(package), declared) {
            (None, _) => violations.push(format!(
                "{}: its manifest needs [package.metadata.runtime] sans-io = true or false",
                package.name
            )),
            (Some(false), Some("0")) => violations.push(format!(
                "{}: a crate of layer 0 is sans-io = true",
                package.name
            )),
            _ => {}
        }
    }
    layers
}

fn is_sans_io(package: &Package) -> Option<bool> {
    package.metadata["runtime"]["sans-io"].as_bool()
}

fn edges(metadata: &Metadata, layers: &BTreeMap<String, Layer>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            let from = layers.get_key_value(package.name.as_str());
            let to = layers.get_key_value(&dependency.name);
            if let (Some((from, from_layer)), Some((to, to_layer))) = (from, to) {
                edges.push(Edge {
                    from: (from.clone(), *from_layer),
                    to: (to.clone(), *to_layer),
                    for_tests: dependency.kind == DependencyKind::Development,
                });
            }
        }
    }
    edges
}

/// Says what is wrong with an edge, if something is.
fn violation(edge: &Edge) -> Option<String> {
    let ((from, from_layer), (to, to_layer)) = (&edge.from, &edge.to);
    let reason = match (*from_layer, *to_layer) {
        // The checkers of the workspace start what tests need.
        (_, Layer::Side) if edge.for_tests || from == "xtask" => return None,
        (_, Layer::Side) => "the test kit is for dev-dependencies only",
        (Layer::Side, Layer::Kernel | Layer::Contract | Layer::Service) => return None,
        (Layer::Side, _) => "the test kit knows the contracts, not who drives them",
        (Layer::Binary, Layer::Binary) => return None,
        (same, other) if same == other => {
            let allowed = PEERS_ALLOWED.contains(&(from.as_str(), to.as_str()));
            match same {
                _ if allowed => return None,
                Layer::Edge => "an edge never names another edge",
                _ => "peers never name each other",
            }
        }
        (Layer::Edge, Layer::Driver | Layer::Engine) => {
            "an edge implements contracts; it never names who drives it"
        }
        (upper, lower) if upper > lower => return None,
        _ => "dependencies point down",
    };
    Some(format!(
        "{from} (layer {from_layer}) depends on {to} (layer {to_layer}): {reason}"
    ))
}

fn kernel_violations(shell: &Shell, package: &Package) -> Result<Vec<String>> {
    let name = package.name.as_str();
    // `cargo tree` of this package alone: features that other crates switch on do not count.
    let tree = cmd!(
        shell,
        "cargo tree --quiet --package {name} --all-features --edges normal,build --prefix none"
    )
    .quiet()
    .read()?;
    let packages = tree.lines().filter_map(|line| line.split(' ').next());
    let mut violations = io_packages(name, packages);

    let clippy = workspace::folder(package).join("clippy.toml");
    let text = std::fs::read_to_string(&clippy)
        .with_context(|| anyhow!("{name} is sans-io and needs {}", clippy.display()))?;
    violations.extend(missing_prohibitions(name, &text));
    Ok(violations)
}

fn io_packages<'a>(kernel: &str, packages: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_io = |package: &&str| {
        IO_PACKAGES.contains(package)
            || IO_PREFIXES.iter().any(|prefix| package.starts_with(prefix))
    };
    let mut found: Vec<&str> = packages.filter(is_io).collect();
    found.sort_unstable();
    found.dedup();
    let violation = |package| format!("{kernel} is sans-io but pulls in {package}");
    found.into_iter().map(violation).collect()
}

fn missing_prohibitions(kernel: &str, clippy: &str) -> Vec<String> {
    let (_, forbidden) = clippy.split_once("disallowed-methods").unwrap_or_default();
    let missing = KERNEL_FORBIDS
        .iter()
        .filter(|path| !forbidden.contains(&format!("\"{path}\"")));
    missing
        .map(|path| format!("{kernel}: the disallowed-methods of its clippy.toml lack {path}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: (&str, &str), to: (&str, &str), for_tests: bool) -> Edge {
        let end = |(name, layer): (&str, &str)| (name.to_owned(), Layer::parse(layer).unwrap());
        Edge {
            from: end(from),
            to: end(to),
            for_tests,
        }
    }

    fn refused(from: (&str, &str), to: (&str, &str)) -> bool {
        violation(&edge(from, to, false)).is_some()
    }

    #[test]
    fn each_planted_violation_is_found() {
        let planted = [
            (("runtime-core", "0"), ("runtime-store", "1a")),
            (("runtime-core", "0"), ("runtime-turn", "0")),
            (("runtime-tools", "1a"), ("runtime-store", "1a")),
            (("runtime-store", "1a"), ("runtime-effects", "1b")),
            (("runtime-effects", "1b"), ("runtime-events", "1b")),
            (("runtime-agent", "2a"), ("runtime-workers", "2b")),
            (("runtime-agent", "2a"), ("runtime-mcp", "3")),
            (("runtime-workers", "2b"), ("runtime-fs-store", "3")),
            (("runtime-mcp", "3"), ("runtime-fs-store", "3")),
            (("runtime-mcp", "3"), ("runtime-agent", "2a")),
            (("runtime-fs-store", "3"), ("runtime", "4")),
            (("runtime", "4"), ("runtime-cli", "5")),
            (("runtime-store", "1a"), ("runtime-testkit", "side")),
            (("runtime-testkit", "side"), ("runtime-workers", "2b")),
        ];
        for (from, to) in planted {
            assert!(refused(from, to), "{from:?} → {to:?} passed");
        }
    }

    #[test]
    fn an_upward_dev_dependency_is_found_too() {
        let upward = edge(("runtime-events", "1b"), ("runtime-fs-store", "3"), true);
        assert!(violation(&upward).is_some());
    }

    #[test]
    fn each_edge_of_the_architecture_is_allowed() {
        let allowed = [
            (("runtime-turn", "0"), ("runtime-core", "0")),
            (("runtime-store", "1a"), ("runtime-core", "0")),
            (("runtime-effects", "1b"), ("runtime-store", "1a")),
            (("runtime-agent", "2a"), ("runtime-effects", "1b")),
            (("runtime-workers", "2b"), ("runtime-agent", "2a")),
            (("runtime-mcp", "3"), ("runtime-mcp-cache", "1b")),
            (("runtime", "4"), ("runtime-fs-store", "3")),
            (("runtime-cli", "5"), ("runtime", "4")),
            (("runtime-testkit", "side"), ("runtime-store", "1a")),
        ];
        for (from, to) in allowed {
            assert!(!refused(from, to), "{from:?} → {to:?} refused");
        }
        let test_kit = edge(("runtime-store", "1a"), ("runtime-testkit", "side"), true);
        assert!(violation(&test_kit).is_none());
    }

    #[test]
    fn io_in_the_kernel_is_found_and_plain_data_is_not() {
        let packages = [
            "serde",
            "tokio",
            "sha2",
            "futures-core",
            "async-trait",
            "uuid",
            "tokio",
        ];
        let found = io_packages("runtime-core", packages.into_iter());
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn a_kernel_that_may_read_the_clock_is_found() {
        let all: String = KERNEL_FORBIDS
            .iter()
            .map(|path| format!("{{ path = \"{path}\" }},"))
            .collect();
        let complete = format!("disallowed-methods = [{all}]");
        assert!(missing_prohibitions("runtime-core", &complete).is_empty());
        let leaky = complete.replace("\"std::time::Instant::now\"", "\"std::time::Instant\"");
        assert_eq!(missing_prohibitions("runtime-core", &leaky).len(), 1);
        assert_eq!(
            missing_prohibitions("runtime-core", "").len(),
            KERNEL_FORBIDS.len()
        );
    }
}
