//! Each error code is unique across the workspace and has a page under `docs/errors/` (C3).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use xshell::Shell;

use crate::workspace;

/// Checks the sources of every crate against the pages.
pub(crate) fn run(_shell: &Shell) -> Result<()> {
    let root = workspace::root();
    let mut sources = Vec::new();
    for package in workspace::metadata()?.workspace_packages() {
        // What a test kit makes up is no error of the product.
        if package.metadata["runtime"]["layer"] == "side" {
            continue;
        }
        for path in workspace::files_below(&workspace::folder(package).join("src"), ".rs")? {
            let text = std::fs::read_to_string(&path)?;
            let shown = path.strip_prefix(&root).unwrap_or(&path).to_path_buf();
            sources.push((shown, without_tests(&text).to_owned()));
        }
    }
    let mut pages = BTreeMap::new();
    for path in workspace::files_below(&root.join("docs/errors"), ".md")? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if name != "README" {
            pages.insert(name.into_owned(), std::fs::read_to_string(&path)?);
        }
    }
    workspace::report("codes", &violations(&sources, &pages))
}

fn violations(sources: &[(PathBuf, String)], pages: &BTreeMap<String, String>) -> Vec<String> {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (path, text) in sources {
        for code in declared_codes(text) {
            let owner = path.display().to_string();
            owners.entry(code).or_default().push(owner);
        }
        used.extend(wire_codes(text));
    }
    let mut violations = Vec::new();
    for (code, places) in &owners {
        if places.len() > 1 {
            violations.push(format!("{code} is declared in {}", places.join(" and ")));
        }
    }
    for code in owners.keys().chain(&used) {
        match pages.get(code) {
            None => violations.push(format!("{code} has no page docs/errors/{code}.md")),
            Some(page) => violations.extend(page_violation(code, page)),
        }
    }
    for code in pages.keys() {
        // A code may be chosen by data, such as a model provider's; its source still names it.
        if !sources.iter().any(|(_, text)| text.contains(code)) {
            violations.push(format!("docs/errors/{code}.md is the page of no code"));
        }
    }
    violations.sort();
    violations.dedup();
    violations
}

fn page_violation(code: &str, page: &str) -> Option<String> {
    let title = page.lines().next() == Some(&format!("# {code}"));
    let complete = page.contains("What happened") && page.contains("What to do");
    (!title || !complete).then(|| {
        format!("docs/errors/{code}.md needs `# {code}`, `What happened` and `What to do`")
    })
}

/// The string literals in the bodies of `fn code(&self) -> &'static str`.
fn declared_codes(text: &str) -> Vec<String> {
    let mut codes = Vec::new();
    for (start, signature) in text.match_indices("fn code(&self) -> &'static str") {
        let body = block(&text[start + signature.len()..]);
        codes.extend(literals(body).filter(|literal| is_code(literal)));
    }
    codes
}

/// The codes given to `WireError::new` and to a `code:` member, literally.
fn wire_codes(text: &str) -> Vec<String> {
    let starts = ["WireError::new(", " code: "].into_iter();
    let places = starts.flat_map(|start| {
        let places = text.match_indices(start);
        places.map(move |(at, _)| &text[at + start.len()..])
    });
    places
        .filter(|rest| rest.trim_start().starts_with('"'))
        .filter_map(|rest| literals(rest).next())
        .filter(|literal| is_code(literal))
        .collect()
}

fn is_code(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The text from its first brace to the matching one.
fn block(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return &text[..at],
            b'}' => depth -= 1,
            _ => {}
        }
    }
    text
}

fn literals(text: &str) -> impl Iterator<Item = String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned)
}

/// The text before the unit tests, which stand at the end of a file.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        impl Classified for A {
            fn code(&self) -> &'static str {
                match self {
                    Self::One { .. } => "one_code",
                    Self::Two => "two_code",
                }
            }
            fn class(&self) -> ErrorClass { panic!("never {}", "no_code") }
        }
        fn f() -> WireError { WireError::new("three_code", ErrorClass::Corrupt, "text") }
    "#;

    fn check(sources: &[&str], pages: &[&str]) -> Vec<String> {
        let numbered = sources.iter().enumerate();
        let sources: Vec<_> = numbered
            .map(|(n, text)| (PathBuf::from(format!("{n}.rs")), (*text).to_owned()))
            .collect();
        let page = |code: &&str| {
            let text = format!("# {code}\n\nWhat happened: x.\n\nWhat to do: y.\n");
            ((*code).to_owned(), text)
        };
        violations(&sources, &pages.iter().map(page).collect())
    }

    #[test]
    fn a_complete_set_passes() {
        let found = check(&[SOURCE], &["one_code", "two_code", "three_code"]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_missing_page_is_found_also_for_a_wire_code() {
        assert_eq!(check(&[SOURCE], &["one_code", "two_code"]).len(), 1);
        assert_eq!(check(&[SOURCE], &["one_code", "three_code"]).len(), 1);
    }

    #[test]
    fn a_code_declared_twice_is_found() {
        let pages = ["one_code", "two_code", "three_code"];
        assert_eq!(check(&[SOURCE, SOURCE], &pages).len(), 2);
    }

    #[test]
    fn a_page_without_a_code_is_found() {
        let pages = ["one_code", "two_code", "three_code", "four_code"];
        assert_eq!(check(&[SOURCE], &pages).len(), 1);
    }

    #[test]
    fn a_page_that_does_not_help_is_found() {
        assert!(page_violation("a", "# a\n\nOops.\n").is_some());
        assert!(page_violation("a", "# b\n\nWhat happened. What to do.\n").is_some());
        assert!(page_violation("a", "# a\n\nWhat happened. What to do.\n").is_none());
    }
}
