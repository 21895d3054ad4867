//! The documentation points at things that exist: pages at pages, invariants at their tests.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use xshell::Shell;

use crate::workspace;

/// Checks the pages under `docs/` and those at the root.
pub(crate) fn run(_shell: &Shell) -> Result<()> {
    let root = workspace::root();
    let docs = root.join("docs");
    let mut pages = workspace::files_below(&docs, ".md")?;
    pages.extend(
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
            .map(|name| root.join(name))
            .into_iter()
            .filter(|page| page.is_file()),
    );

    let tests = test_names()?;
    let mut violations = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page)?;
        let shown = page
            .strip_prefix(&root)
            .unwrap_or(page)
            .display()
            .to_string();
        let folder = page.parent().unwrap_or(&root);
        violations.extend(broken_links(&shown, folder, &text));
        violations.extend(missing_guards(&shown, &text, &tests));
    }
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md"))?;
    for page in workspace::files_below(&docs, ".md")? {
        let page = page
            .strip_prefix(&docs)
            .unwrap_or(&page)
            .display()
            .to_string();
        // The pages of the codes are listed by their own; the summary is this one.
        let is_listed = summary.contains(&format!("({page})"));
        if !is_listed && !page.starts_with("errors/") && page != "SUMMARY.md" {
            violations.push(format!("docs/SUMMARY.md does not list {page}"));
        }
    }
    workspace::report("docs", &violations)
}

/// The names of all test functions of the workspace.
fn test_names() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for package in workspace::metadata()?.workspace_packages() {
        for path in workspace::files_below(&workspace::folder(package), ".rs")? {
            let text = std::fs::read_to_string(path)?;
            names.extend(functions(&text).map(str::to_owned));
        }
    }
    Ok(names)
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    let declarations = text.split("fn ").skip(1);
    declarations.filter_map(|rest| rest.split(['(', '<']).next())
}

/// The relative links of a page that lead nowhere.
fn broken_links(page: &str, folder: &Path, text: &str) -> Vec<String> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let files = targets
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .map(|target| target.split('#').next().unwrap_or_default());
    files
        .filter(|file| !folder.join(file).exists())
        .map(|file| format!("{page} links to {file}, which does not exist"))
        .collect()
}

/// The tests that an invariant names as its guard and that do not exist.
fn missing_guards(page: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let guards = text.split("*Guard:*").skip(1);
    let lines = guards.filter_map(|guard| guard.lines().next());
    let quoted = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    let named = quoted.filter(|quoted| quoted.contains("::"));
    named
        .filter(|path| !tests.contains(path.rsplit("::").next().unwrap_or_default()))
        .map(|path| format!("{page} names the test {path}, which does not exist"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nowhere_is_found() {
        let text = "[a](Cargo.toml) [b](https://example.org/x) [c](#part) [d](nowhere.md#part)";
        let found = broken_links("page", &workspace::root(), text);
        assert_eq!(found, ["page links to nowhere.md, which does not exist"]);
    }

    #[test]
    fn an_invariant_whose_test_is_gone_is_found() {
        let tests = functions("async fn is_kept() {}")
            .map(str::to_owned)
            .collect();
        let text = "*Guard:* `crate::it a::is_kept`, `cargo xtask docs`, `a::is_gone`.\n`b::other`";
        let found = missing_guards("page", text, &tests);
        assert_eq!(
            found,
            ["page names the test a::is_gone, which does not exist"]
        );
    }
}
