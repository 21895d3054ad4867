//! Errors of starting a server.

use std::path::PathBuf;

/// Why a server could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// There are no server binaries: neither beside `pg_config`, nor below
    /// `/usr/lib/postgresql`, nor on the path.
    NoBinaries,
    /// A program of the server could not be run, or failed.
    Program {
        /// Which.
        program: PathBuf,
        /// What it said.
        message: String,
    },
    /// A file or directory could not be made.
    Io(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoBinaries => f.write_str(
                "no PostgreSQL server is installed; install the package postgresql, or set the \
                 variable AGENT_RUNTIME_TEST_POSTGRES to the URL of one that tests may fill",
            ),
            Self::Program { program, message } => {
                write!(f, "{} failed: {message}", program.display())
            }
            Self::Io(error) => write!(f, "cannot make the server's directory: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::NoBinaries | Self::Program { .. } => None,
        }
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
