//! The checks of the workspace: `cargo xtask COMMAND`.
//!
//! Everything that continuous integration runs is a command here, one file each, so that nothing
//! lives only in a workflow file. `cargo xtask ci` runs them all.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people prints"
)]

mod audit;
mod bench;
mod ci;
mod codes;
mod conformance;
mod debian;
mod deps;
mod docs;
mod examples;
mod features;
mod instructions;
mod layers;
mod lint;
mod mcp_servers;
mod msrv;
mod picture;
mod release;
mod reliability;
mod schedules;
mod scoreboard;
mod semver;
mod services;
mod shape;
mod soak;
mod steps;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The checks of the workspace")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that continuous integration runs.
    Ci,
    /// Formatting, clippy, documentation, layers, error pages, the shape of each crate.
    Lint,
    /// Tests and documentation tests, then the tests that run over a simulated file system.
    Test,
    /// Dependencies point down, the kernel does no I/O.
    Layers,
    /// Each error code is unique and has a page.
    Codes,
    /// Each crate has an example, and at most one integration test binary that forgets no file.
    Shape,
    /// Links lead somewhere, and each guard of an invariant exists.
    Docs,
    /// The packages that a user of `runtime` compiles; refuses HTTP clients and TLS.
    Deps,
    /// Licences, sources, bans, package counts, no unsafe; advisories from a snapshot.
    Audit {
        /// A checkout of the RustSec advisory database; `ADVISORY_DB` names one too.
        #[arg(long, value_name = "PATH")]
        advisories: Option<std::path::PathBuf>,
    },
    /// The programs of the README: their lengths, compiled, run, and shown as they are.
    Examples,
    /// Records the picture of the README anew, from real runs.
    Picture {
        /// Only compare the picture that is there with what the runs print.
        #[arg(long)]
        check: bool,
    },
    /// The oldest Rust that the manifests promise compiles everything.
    Msrv,
    /// A published interface does not break by accident.
    Semver,
    /// Checks and packages every crate that is published, in order.
    Release {
        /// Publish nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Each feature compiles alone, and each crate without any; slow, so not part of `ci`.
    Features,
    /// The quick rows of the reliability scoreboard.
    Reliability,
    /// The rows of the file store at their long counts; takes hours.
    Soak {
        /// Something else that takes hours.
        #[command(subcommand)]
        kind: Option<soak::Kind>,
        /// How many times as many drawn cases as the quick rows have; more than one leaves no case
        /// out where there is a fixed number.
        #[arg(long, default_value_t = 500)]
        times: u32,
        /// How long a store is under load (R20).
        #[arg(long, default_value_t = 120)]
        minutes: u32,
        /// The number of this run: each draws cases that no other has, so that the runs of many
        /// nights add up.
        #[arg(long, default_value_t = 0)]
        run: u32,
    },
    /// The models of concurrent protocols, under a schedule checker.
    Schedules,
    /// The conformance suite of a protocol against our side of it.
    Conformance {
        /// Which.
        suite: conformance::Suite,
    },
    /// Installs the real tool servers that tests speak to, below `target/` (npm and pip).
    McpServers,
    /// The table of the last reliability run.
    Scoreboard,
    /// The services that tests need: a private PostgreSQL server.
    Services {
        /// What to do.
        #[command(subcommand)]
        action: services::Action,
    },
    /// Benchmarks: this runtime alone, each run against the one before; or as one of the commands
    /// says.
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        kind: Option<bench::Kind>,
        #[command(flatten)]
        own: bench::Own,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let shell = workspace::shell()?;
    match command {
        Command::Ci => services::with(&shell, ci::run),
        Command::Lint => lint::run(&shell),
        Command::Test => services::with(&shell, test::run),
        Command::Layers => layers::run(&shell),
        Command::Codes => codes::run(&shell),
        Command::Shape => shape::run(&shell),
        Command::Docs => docs::run(&shell),
        Command::Deps => deps::run(&shell),
        Command::Audit { advisories } => match advisories {
            Some(path) => audit::run(&shell, Some(&path)),
            None => audit::step(&shell),
        },
        Command::Examples => examples::run(&shell),
        Command::Picture { check: true } => picture::check(&shell),
        Command::Picture { check: false } => picture::run(&shell),
        Command::Msrv => msrv::run(&shell),
        Command::Semver => semver::run(&shell),
        Command::Release { dry_run } => release::run(&shell, dry_run),
        Command::Features => features::run(&shell),
        Command::Reliability => services::with(&shell, reliability::run),
        Command::Soak {
            kind: Some(soak::Kind::Mutants { files, shard }),
            ..
        } => soak::mutants(&shell, &files, shard.as_deref()),
        Command::Soak {
            kind: Some(soak::Kind::Postgres { minutes }),
            ..
        } => soak::postgres(&shell, minutes),
        Command::Soak {
            kind: None,
            times,
            minutes,
            run,
        } => soak::run(
            &shell,
            soak::Scale {
                times,
                minutes,
                run,
            },
        ),
        Command::Schedules => schedules::run(&shell),
        Command::Conformance { suite } => conformance::run(&shell, suite),
        Command::McpServers => mcp_servers::run(&shell),
        Command::Scoreboard => scoreboard::run(),
        Command::Services { action } => services::run(&shell, action),
        Command::Bench { kind, own } => match kind {
            Some(kind) => bench::run(&shell, &kind),
            None => bench::own(&shell, &own),
        },
    }
}
