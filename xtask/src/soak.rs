//! The rows of the file store at their long counts: hours, on a machine that has nothing else to do.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use xshell::{Shell, cmd};

use crate::scoreboard::{self, Row};
use crate::{debian, reliability, services, workspace};

const STORE: &str = "runtime-fs-store";
/// What mutants are made of (R19), and how many of them the tests must find.
const MUTATED: &[&str] = &["runtime-fs-store", "runtime-effects", "runtime-events"];
const CAUGHT_PERCENT_MIN: usize = 90;

/// What else there is to do for a long time.
#[derive(Debug, Subcommand)]
pub(crate) enum Kind {
    /// PostgreSQL: three processes under load of which one is killed every few seconds (R3), the
    /// server restarted ten times under load (R3), a thousand sequences beside the model (R12), the
    /// crash matrix (R4), paused owners (R9).
    Postgres {
        /// How long the processes are under load.
        #[arg(long, default_value_t = 10)]
        minutes: u32,
    },
    /// Changes the code of the store, the effects and the events, one place at a time, and sees
    /// whether a test fails (R19); needs `cargo install cargo-mutants`.
    Mutants {
        /// Only these files, as patterns such as `crates/runtime-fs-store/src/hint.rs`.
        #[arg(long = "file", value_name = "PATTERN")]
        files: Vec<String>,
        /// One part of all the changes, such as `1/8`: every eighth, so that a part is a sample.
        #[arg(long, value_name = "K/N")]
        shard: Option<String>,
    },
}

/// The rows of PostgreSQL, by their tests.
const POSTGRES_ROWS: &[&str] = &[
    "shared::r3_processes",
    "restart::r3_",
    "model::r12_",
    "processes::r9_",
    "database::every_commit",
];
/// How often the server restarts, and how many sequences the model runs.
const RESTARTS: &str = "10";
const SEQUENCES: &str = "1000";

/// How much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// So many times as many drawn cases as the quick rows have; one leaves out every second or
    /// seventh case as they do.
    pub(crate) times: u32,
    /// How long a store is under load (R20).
    pub(crate) minutes: u32,
    /// Which run this is: drawn cases differ from those of every other.
    pub(crate) run: u32,
}

/// Runs the rows of the store, then those over simulated files, and prints each line as it comes.
pub(crate) fn run(shell: &Shell, scale: Scale) -> Result<()> {
    debian::provide(shell, "strace", "strace")?;
    let mut lines = Vec::new();
    let mut has_failed = false;
    let simulation = ["--features", workspace::SIMULATION];
    for features in [&[][..], &simulation] {
        has_failed |= !rows(features, scale, &mut lines)?;
    }
    let rows: Vec<Row> = lines.iter().filter_map(|line| Row::parse(line)).collect();
    scoreboard::print(&rows);
    if has_failed || rows.is_empty() || rows.iter().any(Row::has_failed) {
        bail!("a row has failed");
    }
    Ok(())
}

/// Runs the rows of one build; says whether they went well.
fn rows(features: &[&str], scale: Scale, lines: &mut Vec<String>) -> Result<bool> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--release", "--package", STORE, "--lib", "--tests"])
        .args(features)
        .args(["--no-fail-fast", "--", "--nocapture", "--test-threads", "1"])
        .args(reliability::filters())
        .env("FS_STORE_TIMES", scale.times.to_string())
        .env("FS_STORE_MINUTES", scale.minutes.to_string())
        .env("FS_STORE_RUN", scale.run.to_string())
        .current_dir(workspace::root())
        .stdout(Stdio::piped());
    if scale.times > 1 {
        command.env("FS_STORE_EVERY_CASE", "1");
    }
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("it was piped")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        lines.push(line);
    }
    Ok(child.wait()?.success())
}

/// Runs the rows of PostgreSQL, with a server of its own. They wait for the server, not for code,
/// so they run as the tests do.
pub(crate) fn postgres(shell: &Shell, minutes: u32) -> Result<()> {
    let features = workspace::ordinary_features()?;
    let seconds = u64::from(minutes) * 60;
    services::with(shell, |shell| {
        let printed = cmd!(
            shell,
            "cargo test --workspace --features {features} --tests --no-fail-fast -- --nocapture --test-threads 1 {POSTGRES_ROWS...}"
        )
        .env("CI", "true")
        .env("AGENT_RUNTIME_SHARED_SECONDS", seconds.to_string())
        .env("AGENT_RUNTIME_POSTGRES_RESTARTS", RESTARTS)
        .env("AGENT_RUNTIME_POSTGRES_SEQUENCES", SEQUENCES)
        .read()?;
        println!("{printed}");
        let rows: Vec<Row> = printed.lines().filter_map(Row::parse).collect();
        scoreboard::print(&rows);
        if rows.len() < POSTGRES_ROWS.len() || rows.iter().any(Row::has_failed) {
            bail!("a row has failed, or is missing");
        }
        Ok(())
    })
}

/// Runs the mutants, one crate after another with its own tests, and prints the score.
pub(crate) fn mutants(shell: &Shell, files: &[String], shard: Option<&str>) -> Result<()> {
    let (mut caught, mut missed) = (0, Vec::new());
    for package in MUTATED {
        let features = workspace::ordinary_features_of(package)?;
        let files = files.iter().flat_map(|file| ["--file", file.as_str()]);
        let shard = shard.map(|shard| ["--shard", shard]);
        let shard = shard.iter().flatten();
        let directory = workspace::root().join("target/mutants").join(package);
        std::fs::create_dir_all(&directory)?;
        // Its exit code says that some were missed, which the score decides.
        cmd!(
            shell,
            "cargo mutants --package {package} --features={features} {files...} {shard...} --output {directory} --sharding round-robin --test-tool nextest --baseline skip --timeout 400"
        )
        .ignore_status()
        .run()?;
        let lines = |name: &str| -> Result<Vec<String>> {
            let file = directory.join("mutants.out").join(name);
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        caught += lines("caught.txt")?.len() + lines("timeout.txt")?.len();
        missed.extend(lines("missed.txt")?);
    }
    let all = caught + missed.len();
    let percent = (caught * 100).checked_div(all).unwrap_or(0);
    println!("R19 {all} mutants, {caught} caught, {percent} %");
    if percent < CAUGHT_PERCENT_MIN {
        bail!("these were missed:\n{}", missed.join("\n"));
    }
    Ok(())
}
