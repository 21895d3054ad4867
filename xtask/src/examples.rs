//! The programs of the README: as long as they claim, compiled, run, and shown as they are.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::workspace;

/// A program and how many lines of code it may have (U2).
struct Example {
    name: &'static str,
    lines_max: usize,
    /// What a run must print.
    prints: &'static str,
}

/// How often each runs: what comes as a stream must come whole every time.
const RUNS: usize = 3;

const EXAMPLES: &[Example] = &[
    Example {
        name: "hello",
        lines_max: 12,
        prints: "Hello, world!",
    },
    Example {
        name: "streaming_tool",
        lines_max: 25,
        prints: "7 degrees in Oslo",
    },
    Example {
        name: "durable_approval",
        lines_max: 37,
        prints: "Done: paid 40 to Ada.",
    },
];

/// Checks every example: each must print exactly what it should, the whole of it, every time.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let folder = workspace::root().join("crates/runtime/examples");
    let readme = std::fs::read_to_string(workspace::root().join("README.md"))?;
    let programs = workspace::programs(shell)?.join("examples");
    let mut violations = Vec::new();
    for example in EXAMPLES {
        let name = example.name;
        let text = std::fs::read_to_string(folder.join(format!("{name}.rs"))).context(name)?;
        let code = shown(&text);
        let lines = count(&code);
        println!(
            "{name}: {lines} lines of code, {} allowed",
            example.lines_max
        );
        if lines > example.lines_max {
            violations.push(format!("{name} has {lines} lines of code"));
        }
        if !readme.contains(&format!("```rust\n{code}```")) {
            violations.push(format!("README.md does not show {name} as it is"));
        }
        for _ in 0..RUNS {
            let output = run_in_an_empty_folder(shell, &programs.join(name))?;
            if output.trim() != example.prints {
                violations.push(format!("{name} prints {output:?}"));
                break;
            }
        }
    }
    // It checks itself, and tells how much memory it took.
    println!(
        "{}",
        run_in_an_empty_folder(shell, &programs.join("many_workers"))?
    );
    workspace::report("examples", &violations)
}

fn run_in_an_empty_folder(shell: &Shell, program: &Path) -> Result<String> {
    let empty = shell.create_temp_dir()?;
    let _here = shell.push_dir(empty.path());
    cmd!(shell, "{program}")
        .quiet()
        .read()
        .with_context(|| format!("{} failed", program.display()))
}

/// The program as the README shows it: without the words about the file and its lint.
fn shown(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("//!") && !line.starts_with("#![allow("));
    let code: Vec<&str> = lines.skip_while(|line| line.trim().is_empty()).collect();
    format!("{}\n", code.join("\n"))
}

/// Lines that have code in them: neither blank, nor a comment, nor only closing brackets.
fn count(code: &str) -> usize {
    let lines = code.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_code_are_counted_and_nothing_else() {
        let text = "//! About.\n\n#![allow(clippy::print_stdout, reason = \"x\")]\n\nuse a::b;\n\n\
                    // why\nfn main() {\n    b();\n}\n";
        let code = shown(text);
        assert!(code.starts_with("use a::b;\n"));
        assert_eq!(count(&code), 4);
    }
}
