//! The picture of the README: real runs of the real program, drawn as a terminal shows them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anstyle_svg::Term;
use anyhow::{Context, Result, bail};
use xshell::Shell;

use crate::workspace;

/// What is typed, one after the other, in one empty folder: a turn is killed in the middle of its
/// work, and the next process takes it to its end.
const COMMANDS: &[&str] = &["demo --yes --crash-at after-record", "demo --yes"];

/// What the tool of the demo wrote: one line, however often the process died.
const LEDGER: &str = ".agent-runtime/demo-ledger.txt";

/// Longer lines are cut.
const COLUMNS: usize = 100;
const KILLED: &str = "Killed";

/// Records the runs anew and draws them.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let picture = record(shell)?;
    std::fs::write(path(), &picture)?;
    println!("{} lines are in {}", text(&picture).len(), path().display());
    Ok(())
}

/// Records the runs anew and compares what they print with the picture that is there. What a
/// killed process had still printed differs from run to run, so there one is the beginning of the
/// other.
pub(crate) fn check(shell: &Shell) -> Result<()> {
    let drawn = std::fs::read_to_string(path()).context("there is no picture")?;
    let (drawn, recorded) = (text(&drawn), text(&record(shell)?));
    let mut violations = Vec::new();
    if let Some(difference) = difference(&drawn, &recorded) {
        violations.push(difference);
        violations.push("draw it anew by `cargo xtask picture`".to_owned());
    }
    let readme = std::fs::read_to_string(workspace::root().join("README.md"))?;
    if !readme.contains("](docs/demo.svg)") {
        violations.push("README.md does not show docs/demo.svg".to_owned());
    }
    workspace::report("picture", &violations)
}

fn path() -> PathBuf {
    workspace::root().join("docs/demo.svg")
}

fn record(shell: &Shell) -> Result<String> {
    let program = workspace::programs(shell)?.join("agent-runtime");
    let folder = shell.create_temp_dir()?;
    let mut screen = String::new();
    for arguments in COMMANDS {
        screen.push_str(&prompt(&format!("agent-runtime {arguments}")));
        screen.push_str(&output(&program, folder.path(), arguments)?);
    }
    screen.push_str(&prompt(&format!("cat {LEDGER}")));
    let ledger = std::fs::read_to_string(folder.path().join(LEDGER))?;
    screen.extend(ledger.lines().map(|line| format!("{}\n", tidy(line))));
    Ok(Term::new().min_width_px(840).render_svg(screen.trim_end()))
}

fn prompt(command: &str) -> String {
    format!("\u{1b}[32m$\u{1b}[0m \u{1b}[1m{command}\u{1b}[0m\n")
}

/// Runs the program as on a terminal, with nothing of this process's surroundings.
fn output(program: &Path, folder: &Path, arguments: &str) -> Result<String> {
    let output = Command::new(program)
        .args(["--color", "always"])
        .args(arguments.split(' '))
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("the program does not start")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = printed.lines().map(tidy).collect();
    match output.status.code() {
        Some(0) => {}
        None => lines.push(format!("\u{1b}[31m{KILLED}\u{1b}[0m")),
        Some(code) => bail!("{arguments} ended with {code}:\n{printed}"),
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// The line without what is new in every run (ids made from time and chance), and not too wide.
fn tidy(line: &str) -> String {
    let mut tidied = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let id = |c: char| c.is_ascii_hexdigit() || c == '-';
        let length = rest.find(|c| !id(c)).unwrap_or(rest.len());
        if length >= 12 {
            tidied.push('…');
            rest = &rest[length..];
            continue;
        }
        let next = rest.char_indices().map(|(at, _)| at).nth(1);
        let (word, after) = rest.split_at(length.max(next.unwrap_or(rest.len())));
        tidied.push_str(word);
        rest = after;
    }
    cut(&tidied)
}

/// Cuts what is wider than the picture; the codes of colours have no width.
fn cut(line: &str) -> String {
    let (mut width, mut in_code) = (0, false);
    for (at, character) in line.char_indices() {
        match character {
            '\u{1b}' => in_code = true,
            'm' if in_code => in_code = false,
            _ if in_code => {}
            _ if width == COLUMNS => return format!("{}…\u{1b}[0m", &line[..at]),
            _ => width += 1,
        }
    }
    line.to_owned()
}

/// The lines of a picture, without what draws them.
fn text(picture: &str) -> Vec<String> {
    let lines = picture.lines().filter(|line| line.contains("<tspan"));
    let words = lines.map(|line| {
        let mut text = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('<') {
            text.push_str(before);
            rest = after.split_once('>').map_or("", |(_, after)| after);
        }
        text.push_str(rest);
        let named = [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&amp;", "&"),
        ];
        let text = named.iter().fold(text, |text, (name, character)| {
            text.replace(name, character)
        });
        text.trim().to_owned()
    });
    words.collect()
}

/// The first line in which two recordings differ.
fn difference(drawn: &[String], recorded: &[String]) -> Option<String> {
    let halves = |lines: &[String]| {
        let killed = lines.iter().position(|line| line == KILLED)?;
        Some((lines[..killed].to_vec(), lines[killed..].to_vec()))
    };
    let (Some(drawn), Some(recorded)) = (halves(drawn), halves(recorded)) else {
        return Some("nothing was killed".to_owned());
    };
    let common = drawn.0.len().min(recorded.0.len());
    if common < 3 {
        return Some("the killed run shows nothing".to_owned());
    }
    first_difference(&drawn.0[..common], &recorded.0[..common])
        .or_else(|| first_difference(&drawn.1, &recorded.1))
}

fn first_difference(drawn: &[String], recorded: &[String]) -> Option<String> {
    let length = drawn.len().max(recorded.len());
    let line = |lines: &[String], at| lines.get(at).cloned().unwrap_or_default();
    let pairs = (0..length).map(|at| (line(drawn, at), line(recorded, at)));
    pairs
        .into_iter()
        .find(|(drawn, recorded)| drawn != recorded)
        .map(|(drawn, recorded)| format!("the picture has {drawn:?}, a run prints {recorded:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_in_every_run_is_left_out() {
        let line =
            "turn 01934abc-0000-7000-8000-000000000000 of call_0eeb90c70da1_x says 12 dead-beef";
        assert_eq!(tidy(line), "turn … of call_…_x says 12 dead-beef");
        assert_eq!(tidy("naïve – fine"), "naïve – fine");
        assert_eq!(cut(&"x".repeat(COLUMNS)), "x".repeat(COLUMNS));
        assert!(cut(&"x".repeat(COLUMNS + 1)).contains('…'));
    }

    #[test]
    fn the_text_of_a_picture_is_what_was_printed() {
        let screen = format!("{}  a <b> & 'c'\n\u{1b}[31m{KILLED}\u{1b}[0m", prompt("go"));
        let picture = Term::new().render_svg(&screen);
        assert_eq!(text(&picture), ["$ go", "a <b> & 'c'", KILLED]);
    }

    #[test]
    fn a_picture_that_is_not_what_a_run_prints_is_found() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let drawn = lines("$ a b Killed $ c d");
        assert_eq!(difference(&drawn, &drawn), None);
        assert_eq!(difference(&drawn, &lines("$ a b x Killed $ c d")), None);
        for wrong in [
            "$ a x Killed $ c d",
            "$ a b Killed $ c",
            "$ a b Killed $ c d e",
            "$ a b c",
        ] {
            assert!(difference(&drawn, &lines(wrong)).is_some(), "{wrong}");
        }
    }
}
