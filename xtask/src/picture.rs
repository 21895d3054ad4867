//! The picture of the README: real runs of the real program, written down as they print.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::workspace;

/// What is typed, one after the other, in one empty folder.
const COMMANDS: &[&str] = &[
    "demo --yes --crash-at during-model",
    "demo --yes --crash-at after-record",
    "demo --yes",
];

const LINE_HEIGHT: usize = 17;
const CHARACTER_WIDTH: f32 = 7.8;
const COLUMNS: usize = 104;

/// Records the runs anew.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    cmd!(shell, "cargo build --quiet --package runtime-cli").run()?;
    let program = workspace::root().join("target/debug/agent-runtime");
    let folder = shell.create_temp_dir()?;
    let mut lines = Vec::new();
    for arguments in COMMANDS {
        lines.push(Line::Typed(format!("$ agent-runtime {arguments}")));
        lines.extend(record(&program, folder.path(), arguments)?);
    }
    let path = workspace::root().join("docs/demo.svg");
    std::fs::write(&path, picture(&lines))?;
    println!("{} lines are in {}", lines.len(), path.display());
    Ok(())
}

enum Line {
    Typed(String),
    Printed(String),
    Killed(String),
}

fn record(program: &Path, folder: &Path, arguments: &str) -> Result<Vec<Line>> {
    let output = Command::new(program)
        .current_dir(folder)
        .args(arguments.split(' '))
        .output()
        .context("the program does not start")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| Line::Printed(without_names(line)));
    let mut lines: Vec<Line> = lines.collect();
    if output.status.code().is_none() {
        lines.push(Line::Killed("Killed".to_owned()));
    }
    Ok(lines)
}

/// Replaces what is new in every run (ids made from time and chance) by an ellipsis, and cuts what
/// is wider than the picture, so that recording again gives the same picture.
fn without_names(line: &str) -> String {
    let words = line
        .split(' ')
        .map(|word| if is_made_up(word) { "…" } else { word });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(COLUMNS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

fn is_made_up(word: &str) -> bool {
    let hexadecimal = |part: &str| part.len() >= 8 && part.chars().all(|c| c.is_ascii_hexdigit());
    word.split(['-', '/', '=', ':']).any(hexadecimal) || word.len() > 60
}

fn picture(lines: &[Line]) -> String {
    let height = (lines.len() + 2) * LINE_HEIGHT;
    let width = (COLUMNS + 4) as f32 * CHARACTER_WIDTH;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height}\" \
         role=\"img\" aria-label=\"The demo is killed twice and goes on\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>\n\
         <g font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"13\" \
         xml:space=\"preserve\">\n"
    );
    for (at, line) in lines.iter().enumerate() {
        let y = (at + 2) * LINE_HEIGHT - 5;
        let (colour, text) = match line {
            Line::Typed(text) => ("#8fd694", text),
            Line::Printed(text) => ("#d7dae0", text),
            Line::Killed(text) => ("#f28b82", text),
        };
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        writeln!(
            svg,
            "<text x=\"14\" y=\"{y}\" fill=\"{colour}\">{text}</text>"
        )
        .expect("a text can be written to");
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_in_every_run_is_left_out() {
        let line = "turn=01934abc-0000-7000-8000-000000000000 says <hi>";
        assert_eq!(without_names(line), "… says <hi>");
        let svg = picture(&[Line::Printed(without_names(line))]);
        assert!(svg.contains("&lt;hi&gt;") && !svg.contains("01934abc"));
    }
}
