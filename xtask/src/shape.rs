//! The shape that every crate shares: an example to start from, and one integration test binary
//! that forgets no file.

use std::path::Path;

use anyhow::Result;
use cargo_metadata::{Package, TargetKind};
use xshell::Shell;

use crate::workspace;

/// Checks every crate.
pub(crate) fn run(_shell: &Shell) -> Result<()> {
    let metadata = workspace::metadata()?;
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let folder = workspace::folder(package);
        if has_target(package, &TargetKind::Lib) {
            let text = std::fs::read_to_string(folder.join("src/lib.rs"))?;
            violations.extend(library_violations(name, &text));
        }
        if !inherits_lints(&std::fs::read_to_string(folder.join("Cargo.toml"))?) {
            violations.push(format!(
                "{name}: its manifest needs [lints] workspace = true"
            ));
        }
        violations.extend(test_violations(name, package, &folder)?);
    }
    workspace::report("shape", &violations)
}

fn has_target(package: &Package, kind: &TargetKind) -> bool {
    package
        .targets
        .iter()
        .any(|target| target.kind.contains(kind))
}

fn inherits_lints(manifest: &str) -> bool {
    let (_, lints) = manifest.split_once("[lints]").unwrap_or_default();
    lints.trim_start().starts_with("workspace = true")
}

/// The crate says what it is, and shows it by an example that runs.
fn library_violations(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let prose = text.lines().take_while(|line| line.starts_with("//!"));
    let fences: Vec<&str> = prose.filter(|line| line.starts_with("//! ```")).collect();
    let runs = fences.iter().step_by(2).any(|fence| {
        let flags = fence.trim_start_matches("//! ```");
        flags.is_empty() || flags == "rust" || flags.starts_with("rust,edition")
    });
    let mut violations = Vec::new();
    if !text.starts_with("//!") {
        violations.push(format!(
            "{name}: lib.rs starts with what the crate is (//!)"
        ));
    }
    if !runs {
        violations.push(format!("{name}: lib.rs has no example that runs (//! ```)"));
    }
    if lines > LIBRARY_LINES_MAX {
        violations.push(format!(
            "{name}: lib.rs has {lines} lines, {LIBRARY_LINES_MAX} are allowed"
        ));
    }
    if let Some(line) = text.lines().find(|line| defines(line)) {
        violations.push(format!(
            "{name}: lib.rs only names what there is, but it has `{line}`"
        ));
    }
    violations
}

/// What the crate is, one example, private modules and a list of what is public take no more.
const LIBRARY_LINES_MAX: usize = 140;

fn defines(line: &str) -> bool {
    let item = line.strip_prefix("pub ").unwrap_or(line);
    let words = [
        "async", "const", "enum", "fn", "impl", "static", "struct", "trait", "type",
    ];
    item.split(' ')
        .next()
        .is_some_and(|word| words.contains(&word))
}

fn test_violations(name: &str, package: &Package, folder: &Path) -> Result<Vec<String>> {
    let is_test = |kind: &TargetKind| *kind == TargetKind::Test;
    let tests = package
        .targets
        .iter()
        .filter(|target| target.kind.iter().any(is_test));
    let tests: Vec<&str> = tests.map(|target| target.name.as_str()).collect();
    let mut violations = Vec::new();
    if tests.len() > 1 || tests.first().is_some_and(|test| *test != "it") {
        violations.push(format!(
            "{name}: one integration test binary, tests/it/main.rs; found {}",
            tests.join(", ")
        ));
    }
    for path in workspace::files_below(folder, ".rs")? {
        // An ignored test is one that nobody runs; the attribute is spelt so that it is not found
        // in this file.
        if std::fs::read_to_string(&path)?.contains(concat!("#[ign", "ore")) {
            violations.push(format!("{name}: {} ignores a test", path.display()));
        }
    }
    let main = folder.join("tests/it/main.rs");
    if main.is_file() {
        let main = std::fs::read_to_string(main)?;
        for path in workspace::files_below(&folder.join("tests/it"), ".rs")? {
            // Deeper files belong to the module of their folder.
            if path.parent() == Some(&folder.join("tests/it")) {
                let module = path.file_stem().unwrap_or_default().to_string_lossy();
                violations.extend(forgotten(name, &main, &module));
            }
        }
    }
    Ok(violations)
}

fn forgotten(name: &str, main: &str, module: &str) -> Option<String> {
    let named = main
        .lines()
        .any(|line| line.trim() == format!("mod {module};"));
    (module != "main" && !named)
        .then(|| format!("{name}: tests/it/{module}.rs is not named in tests/it/main.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_without_a_running_example_is_found() {
        let good = "//! What it is.\n//! ```\n//! let one = 1;\n//! ```\n\nmod a;\n";
        assert!(library_violations("a", good).is_empty());
        let text_only = good.replacen("//! ```", "//! ```text", 1);
        assert_eq!(library_violations("a", &text_only).len(), 1);
        assert_eq!(library_violations("a", "mod a;\n").len(), 2);
        let long = format!("{good}{}", "// more\n".repeat(LIBRARY_LINES_MAX));
        assert_eq!(library_violations("a", &long).len(), 1);
        let busy = format!("{good}pub fn work() {{}}\n");
        assert_eq!(library_violations("a", &busy).len(), 1);
    }

    #[test]
    fn a_forgotten_test_file_is_found() {
        assert!(forgotten("a", "mod ids;\nmod encoding;\n", "ids").is_none());
        assert!(forgotten("a", "mod ids;\n", "main").is_none());
        assert!(forgotten("a", "// mod ids;\n", "ids").is_some());
    }

    #[test]
    fn a_manifest_without_the_lints_is_found() {
        assert!(inherits_lints(
            "[dependencies]\n\n[lints]\nworkspace = true\n"
        ));
        assert!(!inherits_lints("[dependencies]\nserde.workspace = true\n"));
    }
}
