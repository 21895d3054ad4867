//! The command line, as clap reads it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::catalogue::WorkerCommand;
use crate::config::Configuration;
use crate::processes::ProcessCommand;
use crate::style::ColourChoice;

/// Durable agents from the command line.
#[derive(Debug, Parser)]
#[command(name = "agent-runtime", version, about, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  agent-runtime demo                           a durable turn, with nothing configured
  agent-runtime run --worker desk \"Good day\"   send an input and follow its turn
  agent-runtime pending                        what waits for somebody
  agent-runtime approve CALL                   answer it, from any process
  agent-runtime resume                         let everything unfinished go on
  agent-runtime watch                          watch it all, and answer with a key

Exit codes: 0 done, 1 error, 2 usage, 3 parked (waits for a person, or an effect is in doubt), \
4 store busy, 130 aborted by a second Ctrl-C.";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    /// The directory of the runtime; `.agent-runtime` unless it is configured.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The configuration; `agent-runtime.toml` if it is there.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The model, as PROVIDER::MODEL.
    #[arg(long, global = true, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Set a key of the configuration; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Keep the runtime in a PostgreSQL database that several processes share, instead of the
    /// directory; `AGENT_RUNTIME_STORE` says the same where a password should not be seen.
    #[arg(long, global = true, value_name = "postgres://…")]
    pub(crate) store: Option<String>,
    /// Print one JSON object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to print colours.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColourChoice,
}

/// What every command works with.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    /// The directory of the runtime.
    pub(crate) dir: PathBuf,
    /// The database, where one is named instead.
    pub(crate) store: Option<String>,
    pub(crate) configuration: Arc<Configuration>,
}

impl Common {
    /// The database, if the runtime is in one.
    pub(crate) fn database(&self) -> Option<String> {
        let named = || std::env::var("AGENT_RUNTIME_STORE").ok();
        let named = self.store.clone().or_else(named);
        named.filter(|url| !url.is_empty())
    }

    /// Where the store itself lives.
    pub(crate) fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a scripted turn with two tools, one of them behind an approval.
    ///
    /// An unfinished demo turn goes on instead of a new one. Nothing is needed: no key, no
    /// network, no service.
    #[command(after_help = "\
Examples:
  agent-runtime demo                                  asks before it writes to its ledger
  agent-runtime demo --yes --crash-at after-record    is killed in the middle
  agent-runtime demo --yes                            goes on, and repeats nothing")]
    Demo {
        /// Approve without asking.
        #[arg(long)]
        yes: bool,
        /// Kill the process (SIGKILL) at this point, to see it go on when run again.
        #[arg(long, value_name = "POINT")]
        crash_at: Option<CrashPoint>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Send an input to a worker and follow its turn. Creates the worker if there is none.
    ///
    /// Without a configured model it is the scripted one: it looks something up, and if the text
    /// has the word "ledger", it asks for approval and appends a line to the demo ledger.
    #[command(after_help = "\
Examples:
  agent-runtime run --worker desk \"What is a log good for?\"
  agent-runtime run --worker desk --submission mail-17 \"…\"   twice is once
  agent-runtime run --worker desk --wait \"…\"                stays for answers from elsewhere")]
    Run {
        /// The worker.
        #[arg(long, value_name = "NAME")]
        worker: String,
        /// The input.
        text: String,
        /// Names the input: sending the same again does not repeat it.
        #[arg(long, value_name = "ID")]
        submission: Option<String>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Let everything unfinished go on.
    #[command(after_help = "\
Examples:
  agent-runtime resume           as far as it goes by itself
  agent-runtime resume --wait    and stays for answers from other processes")]
    Resume {
        #[command(flatten)]
        patience: Patience,
    },
    /// List the workers.
    #[command(after_help = "\
Examples:
  agent-runtime workers
  agent-runtime --json workers    one object per worker")]
    Workers,
    /// Show a worker: what it did, what it waits for, and what a restart would do.
    #[command(after_help = "\
Examples:
  agent-runtime show desk")]
    Show {
        /// The worker.
        worker: String,
    },
    /// Print the events of a worker, or of the whole runtime.
    #[command(after_help = "\
Examples:
  agent-runtime tail desk                     what happened to one worker
  agent-runtime tail --follow                 and what happens from now on
  agent-runtime --json tail --from CURSOR     go on where --cursors said")]
    Tail {
        /// The worker; without one, the whole runtime.
        worker: Option<String>,
        /// Where to start: `start`, `now`, or a cursor as `--cursors` prints it.
        #[arg(long, default_value = "start", value_name = "WHERE")]
        from: String,
        /// Print with each event the cursor right after it, to go on from there by `--from`.
        #[arg(long)]
        cursors: bool,
        /// Go on with new events until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// List what waits for somebody: approvals, other waits, effects in doubt.
    #[command(after_help = "\
Examples:
  agent-runtime pending
  agent-runtime --json pending    with the token of each")]
    Pending,
    /// Watch the workers, their turns and what waits, live; answer with a key.
    ///
    /// It reads beside whoever has the runtime open. With `--json` it prints an object whenever
    /// something has changed.
    #[command(after_help = "\
Keys: up and down choose what waits, a approves, d denies, r lets an effect in doubt run again,
f lets it fail, q quits.

Examples:
  agent-runtime watch
  agent-runtime --json watch --once     what there is now, as one object")]
    Watch {
        /// Show what there is now, and end.
        #[arg(long)]
        once: bool,
    },
    /// Approve a call.
    #[command(after_help = "\
Examples:
  agent-runtime approve weather-1
  agent-runtime approve TOKEN --arguments '{\"amount\": 30}'     run it with other arguments")]
    Approve {
        /// The token, or the id of the call.
        target: String,
        /// Run it with these arguments instead (JSON).
        #[arg(long, value_name = "JSON")]
        arguments: Option<String>,
    },
    /// Deny a call; the model reads the reason.
    #[command(after_help = "\
Examples:
  agent-runtime deny weather-1 --reason 'not today'")]
    Deny {
        /// The token, or the id of the call.
        target: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Resolve a promise.
    #[command(after_help = "\
Examples:
  agent-runtime resolve TOKEN '\"painted\"'     a text is quoted twice
  agent-runtime resolve TOKEN '{\"rooms\": 3}'")]
    Resolve {
        /// The token.
        token: String,
        /// The value (JSON).
        value: String,
    },
    /// Rule on an effect of which nobody knows whether it happened.
    #[command(after_help = "\
Examples:
  agent-runtime in-doubt CALL done '\"appended\"'     you looked: it happened
  agent-runtime in-doubt CALL run-again            it did not happen, or may happen twice
  agent-runtime in-doubt CALL fail")]
    InDoubt {
        /// The id of the call, or the effect as `pending` names it.
        call: String,
        #[command(subcommand)]
        ruling: Ruling,
    },
    /// List the tool servers: what they offer, how old that is, what is wrong with them, and which
    /// definitions wait for approval. No server is started or asked.
    #[command(after_help = "\
Examples:
  agent-runtime tools")]
    Tools,
    /// Let models call a tool whose definition is new or changed. `tools` shows what waits.
    #[command(after_help = "\
Examples:
  agent-runtime approve-tool files read_file 3f2a9c01")]
    ApproveTool {
        /// The server.
        server: String,
        /// The tool, as its server calls it.
        tool: String,
        /// The digest of the definition as it was shown, or its first digits (at least 8).
        digest: String,
    },
    /// Rule on an effect that is not the one recorded under its key, so that its turn is parked.
    #[command(after_help = "\
Examples:
  agent-runtime conflict CALL accept-recorded
  agent-runtime conflict CALL fork
  agent-runtime conflict CALL fail")]
    Conflict {
        /// The id of the call, or the effect as `pending` names it.
        effect: String,
        #[command(subcommand)]
        ruling: ConflictRuling,
    },
    /// Cancel a worker and what it does.
    #[command(after_help = "\
Examples:
  agent-runtime cancel desk --reason 'no longer needed'")]
    Cancel {
        /// The worker.
        worker: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// List the processes: background work that outlives the turn that started it.
    #[command(after_help = "\
Examples:
  agent-runtime processes
  agent-runtime processes --all    those that have ended too")]
    Processes {
        /// Those that have ended too, until they are retired.
        #[arg(long)]
        all: bool,
    },
    /// Show, cancel or signal a process.
    #[command(after_help = "\
Examples:
  agent-runtime processes --all
  agent-runtime process show order-17
  agent-runtime process signal order-17 paid '{\"amount\": 30}'")]
    Process {
        #[command(subcommand)]
        command: ProcessCommand,
    },
    /// Stop, resume, cancel or delete a worker, or tell it something.
    #[command(after_help = "\
Examples:
  agent-runtime worker stop desk --reason 'maintenance'
  agent-runtime worker resume desk
  agent-runtime worker inform desk 'The office is closed today.'
  agent-runtime worker delete desk")]
    Worker {
        #[command(subcommand)]
        command: WorkerCommand,
    },
    /// Show what a worker and its users said, by place in the transcript.
    #[command(after_help = "\
Examples:
  agent-runtime transcript desk
  agent-runtime transcript desk --start 257    the second page")]
    Transcript {
        /// The worker.
        worker: String,
        /// The first entry, from 1.
        #[arg(long, default_value_t = 1)]
        start: u64,
        /// How many entries at most; 256 is the maximum.
        #[arg(long, default_value_t = 256)]
        limit: usize,
    },
    /// Show the runtime at a glance.
    #[command(after_help = "\
Examples:
  agent-runtime status")]
    Status,
    /// List what a person should know of the runtime and its workers.
    #[command(after_help = "\
Examples:
  agent-runtime diagnostics
  agent-runtime diagnostics desk")]
    Diagnostics {
        /// Only of this worker.
        worker: Option<String>,
    },
    /// Stop the runtime and all its workers: it can be read, and takes no changes.
    #[command(after_help = "\
Examples:
  agent-runtime stop --reason 'moving house'")]
    Stop {
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a stopped runtime take changes again; its workers are resumed one by one.
    #[command(after_help = "\
Examples:
  agent-runtime reopen && agent-runtime worker resume desk")]
    Reopen,
    /// Check the configuration, or show it.
    #[command(after_help = "\
Examples:
  agent-runtime config check
  agent-runtime --set limits.iterations_max=8 config show")]
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Read the whole store and report damage.
    #[command(after_help = "\
Examples:
  agent-runtime verify     0 if nothing is damaged, 1 otherwise")]
    Verify,
    /// The tables of a runtime in PostgreSQL.
    #[command(after_help = "\
Examples:
  agent-runtime postgres schema --print | psql              makes the tables
  agent-runtime postgres schema --print --from 1 | psql     brings those of version 1 up")]
    Postgres {
        #[command(subcommand)]
        command: Postgres,
    },
    /// Write the whole store as lines of JSON; beside its writer too. Signing keys are left out.
    #[command(after_help = "\
Examples:
  agent-runtime export all.jsonl
  agent-runtime export - | gzip > all.jsonl.gz")]
    Export {
        /// The file to write; `-` is standard output.
        file: PathBuf,
    },
    /// Make a new store of an export. The directory must hold none.
    #[command(after_help = "\
Examples:
  agent-runtime --dir copy import all.jsonl")]
    Import {
        /// The file to read; `-` is standard input.
        file: PathBuf,
    },
    /// Copy the store, also while it is written to, into a directory that does not exist.
    #[command(after_help = "\
Examples:
  agent-runtime backup /srv/backup/monday     also while the store is written to")]
    Backup {
        /// The directory of the copy, to be given as `--dir` later.
        target: PathBuf,
    },
    /// Copy a runtime from a directory into a database, or back, with everything that it has.
    ///
    /// Nothing may have it open. The target must not have it; the source stays as it is, and is
    /// not to be opened again: a copy is the same runtime, and would do the same work.
    #[command(after_help = "\
Examples:
  agent-runtime copy --from .agent-runtime --to postgres://app@db.example.com/app
  agent-runtime copy --from 'postgres://app@db.example.com/app?runtime=support' --to back")]
    Copy {
        /// The directory (as `--dir`) or `postgres://…` URL of the runtime.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// The directory or URL of the copy.
        #[arg(long, value_name = "PLACE")]
        to: String,
    },
    /// Say what of a damaged store would have to be given up, or give it up.
    #[command(after_help = "\
Examples:
  agent-runtime repair            what would have to be given up
  agent-runtime repair --apply    give it up")]
    Repair {
        /// Give it up; the files are kept as they were inside the store.
        #[arg(long, conflicts_with = "dry_run")]
        apply: bool,
        /// Change nothing (this is what happens without `--apply`).
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove the oldest events by age, count or bytes, and free their room.
    #[command(after_help = "\
Examples:
  agent-runtime retention --age-days 90 --dry-run
  agent-runtime retention --events 1000000")]
    Retention {
        /// Events older than so many days go.
        #[arg(long, value_name = "DAYS")]
        age_days: Option<u64>,
        /// Of more events than this the oldest go.
        #[arg(long, value_name = "COUNT")]
        events: Option<u64>,
        /// Of more bytes than this the oldest go.
        #[arg(long, value_name = "BYTES")]
        bytes: Option<u64>,
        /// Say what would go, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Erase what a deleted worker and its users have said, and free its bytes; only that it was
    /// is kept.
    #[command(after_help = "\
Examples:
  agent-runtime worker delete desk && agent-runtime purge desk    what would go
  agent-runtime purge desk --yes")]
    Purge {
        /// The worker.
        worker: String,
        /// Do it; without this it is only said what would go.
        #[arg(long)]
        yes: bool,
    },
    /// Look at this place: file system, room, store, tier, lock, versions, configuration.
    #[command(after_help = "\
Examples:
  agent-runtime doctor             0 if all is well, 1 if something would go wrong
  agent-runtime --json doctor      the same, a check per line")]
    Doctor,
    /// Print the completions of a shell.
    #[command(after_help = "\
Examples:
  agent-runtime completions bash > ~/.local/share/bash-completion/completions/agent-runtime
  agent-runtime completions zsh > ~/.zfunc/_agent-runtime
  agent-runtime completions fish > ~/.config/fish/completions/agent-runtime.fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for every command.
    #[command(after_help = "\
Examples:
  agent-runtime man > agent-runtime.1 && man ./agent-runtime.1
  agent-runtime man --all ~/.local/share/man/man1")]
    Man {
        /// Write a page for every command into this folder instead.
        #[arg(long, value_name = "FOLDER")]
        all: Option<PathBuf>,
    },
    /// Serve the demo's tools over standard input and output.
    #[command(hide = true)]
    McpServer,
}

/// What there is to know of the tables.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Postgres {
    /// Print the statements that make the tables, for whoever has the right to run them.
    Schema {
        /// Print them; nothing else is done with them here.
        #[arg(long, required = true)]
        print: bool,
        /// The schema to hold the tables.
        #[arg(long, default_value = runtime::postgres::SCHEMA_DEFAULT, value_name = "NAME")]
        schema: String,
        /// Only what brings tables of this version to the one of this program.
        #[arg(long, default_value_t = 0, value_name = "VERSION")]
        from: u32,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ConfigAction {
    /// Check the configuration without starting anything.
    Check,
    /// Show every value that is set and who set it, without secrets.
    Show,
}

/// How long to stay when a turn waits.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Patience {
    /// Stay and wait for answers from other processes instead of exiting with 3.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Ruling {
    /// It did not happen, or may happen again.
    RunAgain,
    /// It happened, and gave this.
    Done {
        /// What the model reads (JSON).
        value: String,
    },
    /// Treat it as failed.
    Fail,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ConflictRuling {
    /// What is recorded is the outcome of what is asked for now; nothing runs.
    AcceptRecorded,
    /// Set aside what is recorded from that effect on, and run it anew. What it did outside stays
    /// done.
    Fork,
    /// Treat what is asked for now as failed.
    Fail,
}

/// Where `demo --crash-at` kills its own process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CrashPoint {
    /// The input is accepted; nothing has run.
    AfterInput,
    /// A part of the first answer has been streamed.
    DuringModel,
    /// The first answer is recorded.
    AfterModel,
    /// The ledger call is approved; it has not been declared started.
    BeforeTool,
    /// The ledger call runs.
    DuringTool,
    /// The ledger call is done; its outcome is not recorded.
    AfterToolBeforeRecord,
    /// The ledger call's outcome is recorded.
    AfterRecord,
    /// Everything is done but the end of the turn.
    BeforeTerminal,
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use super::*;

    /// The words of a line as a shell reads it, up to what a pipe or a list goes on with.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for character in line.chars() {
            match (quote, character) {
                (None, ' ') => words.extend(word.take()),
                (None, '|' | '>' | '&') => break,
                (None, '\'' | '"') => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                (Some(open), _) if open == character => quote = None,
                _ => word.get_or_insert_default().push(character),
            }
        }
        words.extend(word);
        words
    }

    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string);
        let lines = help.unwrap_or_default();
        let lines = lines.lines().map(str::trim);
        let lines = lines.filter(|line| line.starts_with("agent-runtime"));
        // What follows after some room says what it does.
        let line = |line: &str| line.split("   ").next().unwrap_or_default().to_owned();
        lines.map(line).collect()
    }

    fn check(command: &Command, above: usize) {
        let examples = examples(command);
        for example in &examples {
            let parsed = Arguments::try_parse_from(words(example));
            assert!(parsed.is_ok(), "{example}: {:?}", parsed.err());
        }
        let has = above + examples.len();
        if command.get_subcommands().next().is_none() && !command.is_hide_set() {
            assert!(has > 0, "{} --help has no example", command.get_name());
        }
        for below in command.get_subcommands() {
            check(below, has);
        }
    }

    /// U4: every command shows how it is used, and what it shows can be typed.
    #[test]
    fn every_help_has_examples_that_can_be_typed() {
        let root = Arguments::command();
        for command in root.get_subcommands() {
            check(command, 0);
        }
        check(&root, 1);
    }
}
