//! Every command: its JSON is JSON, it is documented, it has a page of the manual (U4).

use std::collections::BTreeSet;
use std::fs;

use crate::command_line::Home;

const GUIDE: &str = include_str!("../../../../docs/guides/operations.md");

/// Each command with arguments that work on a runtime in which the demo has run, and how it may
/// end. A command that is missing here fails the test.
const COMMANDS: &[(&str, &[&str], &[i32])] = &[
    ("demo", &["--yes"], &[0]),
    ("run", &["--worker", "desk", "the weather"], &[0]),
    ("resume", &[], &[0]),
    ("workers", &[], &[0]),
    ("show", &["demo"], &[0]),
    ("tail", &["demo", "--cursors"], &[0]),
    ("transcript", &["demo"], &[0]),
    ("status", &[], &[0]),
    ("diagnostics", &[], &[0]),
    ("processes", &["--all"], &[0]),
    ("process show", &["nobody"], &[1]),
    ("process cancel", &["nobody"], &[1]),
    ("process signal", &["nobody", "go"], &[1]),
    ("pending", &[], &[0]),
    ("watch", &["--once"], &[0]),
    ("doctor", &[], &[0]),
    ("tools", &[], &[0]),
    ("approve-tool", &["nobody", "nothing", "0123456789"], &[1]),
    ("approve", &["nothing"], &[1]),
    ("deny", &["nothing"], &[1]),
    ("resolve", &["nothing", "1"], &[1]),
    ("in-doubt run-again", &["nothing"], &[1]),
    ("conflict accept-recorded", &["nothing"], &[1]),
    ("conflict fork", &["nothing"], &[1]),
    ("conflict fail", &["nothing"], &[1]),
    ("in-doubt done", &["nothing", "1"], &[1]),
    ("in-doubt fail", &["nothing"], &[1]),
    ("worker inform", &["desk", "it rains"], &[0]),
    ("worker stop", &["desk"], &[0]),
    ("worker resume", &["desk"], &[0]),
    ("worker cancel", &["desk"], &[0]),
    ("worker delete", &["desk"], &[0]),
    ("purge", &["desk", "--yes"], &[0]),
    ("config check", &[], &[0]),
    ("config show", &[], &[0]),
    ("postgres schema", &["--print"], &[0]),
    ("verify", &[], &[0]),
    ("export", &["{home}/all.jsonl"], &[0]),
    (
        "import",
        &["{home}/all.jsonl", "--dir", "{home}/copy"],
        &[0],
    ),
    (
        "copy",
        &["--from", "{home}/copy", "--to", "{home}/moved"],
        &[0],
    ),
    ("backup", &["{home}/backup"], &[0]),
    ("repair", &["--dry-run"], &[0]),
    ("retention", &["--events", "1000000", "--dry-run"], &[0]),
    ("purge", &["demo"], &[0]),
    ("cancel", &["demo"], &[0]),
    ("stop", &[], &[0]),
    ("reopen", &[], &[0]),
    ("completions", &["bash"], &[0]),
    ("man", &[], &[0]),
];

/// What may have nothing to say.
const SILENT: &[&str] = &["pending", "processes", "resume", "retention", "tools"];

/// The members that the guide promises for a command's objects.
fn documented(command: &str) -> Vec<&'static str> {
    let name = format!("`{command}`");
    let rows = GUIDE.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ours = cells.len() == 5 && cells[1].split(", ").any(|cell| cell == name);
        ours.then(|| cells[3])
    });
    let members = rows.flat_map(|members| members.split('`').skip(1).step_by(2));
    members.collect()
}

#[test]
fn u4_the_json_of_every_command_is_json() {
    let home = Home::new();
    let place = home.path().display().to_string();
    for (command, arguments, codes) in COMMANDS {
        let mut words = vec!["--json".to_owned()];
        words.extend(command.split(' ').map(str::to_owned));
        words.extend(arguments.iter().map(|word| word.replace("{home}", &place)));
        if command.starts_with("in-doubt ") || command.starts_with("conflict ") {
            // The call stands before the ruling.
            words.swap(2, 3);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = home.run(&words);
        let code = ended.code.expect("it was not killed");
        assert!(
            codes.contains(&code),
            "{command}: {code}\n{}{}",
            ended.stdout,
            ended.stderr
        );
        let objects = ended.json();
        assert!(
            objects.iter().all(serde_json::Value::is_object),
            "{command}"
        );
        assert!(
            !objects.is_empty() || SILENT.contains(command),
            "{command} says nothing"
        );
        let members = documented(command);
        assert!(
            !members.is_empty(),
            "the guide says nothing of the JSON of {command}"
        );
        for object in objects
            .iter()
            .filter(|object| object.get("error").is_none())
        {
            for member in &members {
                assert!(
                    object.get(member).is_some(),
                    "{command}: no {member} in {object}"
                );
            }
        }
        if code == 1 {
            let error = objects.last().map(|last| &last["error"]);
            assert!(
                error.is_some_and(|error| error["code"].is_string()),
                "{command}"
            );
        }
    }
}

#[test]
fn u4_every_command_is_tested_documented_and_in_the_manual() {
    let home = Home::new();
    let folder = home.path().join("man");
    home.run(&["man", "--all", &folder.display().to_string()])
        .expect(0);
    let pages = fs::read_dir(&folder).expect("the pages").map(|page| {
        let name = page
            .expect("a page")
            .file_name()
            .into_string()
            .expect("UTF-8");
        let name = name
            .trim_end_matches(".1")
            .trim_start_matches("agent-runtime");
        name.trim_start_matches('-').to_owned()
    });
    let pages: BTreeSet<String> = pages.filter(|page| !page.is_empty()).collect();
    let tested: BTreeSet<String> = COMMANDS
        .iter()
        .map(|(command, ..)| command.replace(' ', "-"))
        .collect();
    for command in &tested {
        assert!(pages.contains(command), "there is no page for {command}");
    }
    // A command that only has commands of its own is none itself.
    let leaf = |page: &&String| {
        !pages
            .iter()
            .any(|other| other.starts_with(&format!("{page}-")))
    };
    let untested: Vec<&String> = pages
        .iter()
        .filter(|page| !page.ends_with("help") && !page.contains("help-") && *page != "mcp-server")
        .filter(|page| leaf(page) || tested.contains(*page))
        .filter(|page| !tested.contains(*page))
        .collect();
    assert!(untested.is_empty(), "add these to the table: {untested:?}");
    for (command, ..) in COMMANDS {
        let first = command.split(' ').next().unwrap_or_default();
        let named = [format!("`{first}`"), format!("`{first} ")];
        assert!(
            named.iter().any(|name| GUIDE.contains(name)),
            "the guide does not name {first}"
        );
    }
}

#[test]
fn u4_completions_exist_for_each_shell_and_help_has_examples() {
    let home = Home::new();
    for (shell, words) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef agent-runtime"),
        ("fish", "complete -c agent-runtime"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = home.run(&["completions", shell]).expect(0).stdout;
        assert!(script.contains(words), "{shell}");
        assert!(
            script.contains("in-doubt") && script.contains("color"),
            "{shell}"
        );
    }
    let page = home.run(&["man"]).expect(0).stdout;
    assert!(page.contains(".TH agent-runtime"), "{page}");
    for command in ["", "watch", "doctor", "completions", "man"] {
        let words: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|w| !w.is_empty())
            .collect();
        let help = home.run(&words).expect(0).stdout;
        assert!(help.contains("Examples:"), "{command}: {help}");
    }
    // No colours in a pipe; colours where they are asked for, and never in JSON.
    let plain = home.run(&["demo", "--yes"]).expect(0).stdout;
    assert!(!plain.contains('\u{1b}'), "{plain}");
    let coloured = home.run(&["--color", "always", "tail"]).expect(0).stdout;
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    let json = home
        .run(&["--color", "always", "--json", "tail"])
        .expect(0)
        .stdout;
    assert!(!json.contains('\u{1b}'), "{json}");
}
