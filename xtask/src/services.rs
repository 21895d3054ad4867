//! The services that tests need: a private PostgreSQL server.
//!
//! `up` starts one and leaves its URL where tests look, `down` stops it, `run` starts one for the
//! time of a command. Where the server is not installed, continuous integration installs it from
//! Debian's package, and elsewhere the tests that need it are skipped and reported.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use postgres_for_tests::{PostgresServer, StartError, URL_VARIABLE};
use xshell::{Shell, cmd};

use crate::{debian, workspace};

/// What to do with the services.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Start them and leave them running; tests find them by themselves.
    Up,
    /// Stop what `up` has started.
    Down,
    /// Run a command with services of its own.
    Run {
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Does it.
pub(crate) fn run(shell: &Shell, action: Action) -> Result<()> {
    match action {
        Action::Up => up(shell),
        Action::Down => down(),
        Action::Run { command } => with(shell, |shell| {
            let (program, arguments) = command.split_first().context("a command has a name")?;
            cmd!(shell, "{program} {arguments...}").run()?;
            Ok(())
        }),
    }
}

/// Runs the work with services that live as long as it, unless a server is named already.
pub(crate) fn with(shell: &Shell, work: impl FnOnce(&Shell) -> Result<()>) -> Result<()> {
    if std::env::var_os(URL_VARIABLE).is_some() || shell.var(URL_VARIABLE).is_ok() {
        return work(shell);
    }
    match start(shell)? {
        None => {
            let done = work(shell);
            println!("SKIPPED: every test that needs PostgreSQL; no server is installed here");
            done
        }
        Some(server) => {
            let _url = shell.push_env(URL_VARIABLE, server.url());
            work(shell)
        }
    }
}

fn up(shell: &Shell) -> Result<()> {
    if let Some(server) = kept() {
        let url = server.url();
        let _directory = server.keep();
        println!("runs already: {url}");
        return Ok(());
    }
    let server = start(shell)?.context(StartError::NoBinaries.to_string())?;
    let url = server.url();
    postgres_for_tests::keep_url(&url)?;
    std::fs::write(
        directory_file(),
        server.keep().as_os_str().as_encoded_bytes(),
    )?;
    println!("export {URL_VARIABLE}={url}");
    Ok(())
}

fn down() -> Result<()> {
    match kept() {
        // Dropping it stops it.
        Some(server) => println!("stopped {}", server.url()),
        None => println!("nothing runs"),
    }
    for file in [directory_file(), postgres_for_tests::kept_url_file()] {
        if file.exists() {
            std::fs::remove_file(file)?;
        }
    }
    Ok(())
}

fn directory_file() -> PathBuf {
    postgres_for_tests::kept_url_file().with_extension("directory")
}

fn kept() -> Option<PostgresServer> {
    let directory = std::fs::read_to_string(directory_file()).ok()?;
    PostgresServer::kept_in(directory.as_ref())
}

/// Starts a server; none where it is not installed and that is no failure.
fn start(shell: &Shell) -> Result<Option<PostgresServer>> {
    let is_ci = workspace::is_ci();
    match PostgresServer::start() {
        Ok(server) => Ok(Some(server)),
        Err(StartError::NoBinaries) if is_ci => {
            debian::install(shell, "postgresql")
                .with_context(|| StartError::NoBinaries.to_string())?;
            Ok(Some(PostgresServer::start()?))
        }
        Err(StartError::NoBinaries) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
