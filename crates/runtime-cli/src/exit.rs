//! How the process ends.

use std::process::ExitCode;

/// How a command ended; the numbers are documented and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It failed. (2 is clap's: usage.)
    Error = 1,
    /// Something waits for a person, or an effect is in doubt.
    Parked = 3,
    /// Another process has the store.
    Busy = 4,
    /// A second Ctrl-C ended it at once.
    Aborted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
