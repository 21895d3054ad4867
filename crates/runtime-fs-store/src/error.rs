//! Errors of opening a store and of its inbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime_core::{Classified, CommitId, ErrorClass, RuntimeId, Tier};

use crate::lock::Holder;

/// Why a store could not be opened. Nothing is deleted on any of them.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another instance has it open for writing.
    #[error(
        "{} is open elsewhere{}; stop that instance or open read-only",
        directory.display(),
        holder.as_ref().map_or_else(String::new, |holder| format!(" ({holder})"))
    )]
    Busy {
        /// The directory.
        directory: PathBuf,
        /// Who holds it, if that could be read.
        holder: Option<Holder>,
    },
    /// The directory belongs to another runtime.
    #[error("the store belongs to runtime {found}, not {expected}")]
    WrongRuntime {
        /// The one expected.
        expected: RuntimeId,
        /// The one it belongs to.
        found: RuntimeId,
    },
    /// A later version wrote it.
    #[error("the store has schema {found}; this version knows up to {known}")]
    NewerSchema {
        /// Its schema.
        found: u32,
        /// The latest known here.
        known: u32,
    },
    /// There is no store, and none was to be created.
    #[error(
        "there is no store in {}; check the path, or open it for writing to make one",
        directory.display()
    )]
    NoStore {
        /// The directory.
        directory: PathBuf,
    },
    /// A file of the store is missing, renamed or in the wrong place.
    #[error("{file} of the store is missing or misplaced; put it back from a backup")]
    Missing {
        /// Its name inside the directory.
        file: String,
    },
    /// A file that cannot be done without is damaged.
    #[error("{file} of the store is damaged; put it back from a backup")]
    Damaged {
        /// Its name inside the directory.
        file: String,
    },
    /// A symlink stands where a file or directory of the store belongs.
    #[error("{} is a symlink; the store follows none", path.display())]
    Symlink {
        /// Where.
        path: PathBuf,
    },
    /// Files on this machine cannot give that tier.
    #[error("tier {tier} is not offered by files; use power or crash")]
    Tier {
        /// The tier asked for.
        tier: Tier,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl OpenError {
    /// Tells a symlink from other failures.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return Self::Symlink { path };
        }
        Self::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }
}

impl Classified for OpenError {
    fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "store_busy",
            Self::WrongRuntime { .. } => "store_wrong_runtime",
            Self::NewerSchema { .. } => "store_newer_schema",
            Self::NoStore { .. } => "store_not_found",
            Self::Missing { .. } => "store_missing",
            Self::Damaged { .. } => "store_file_damaged",
            Self::Symlink { .. } => "store_symlink",
            Self::Tier { .. } => "store_tier_unsupported",
            Self::Io { .. } => "store_io",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Busy { .. } => ErrorClass::Busy,
            Self::WrongRuntime { .. } => ErrorClass::Conflict,
            Self::NewerSchema { .. } | Self::Tier { .. } => ErrorClass::Unsupported,
            Self::NoStore { .. } => ErrorClass::NotFound,
            Self::Missing { .. } | Self::Damaged { .. } => ErrorClass::Corrupt,
            Self::Symlink { .. } => ErrorClass::Invalid,
            Self::Io { .. } => ErrorClass::Unavailable,
        }
    }
}

/// Why a command could not be left in the inbox.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// Too many commands wait already.
    #[error("the inbox holds {waiting} commands, as many as it takes; try again later")]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// The command is too long.
    #[error("command {id} has {bytes} bytes; {max} are allowed")]
    TooLarge {
        /// Its id.
        id: CommitId,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// There is no store in that directory.
    #[error("there is no store in {}", directory.display())]
    NoStore {
        /// The directory.
        directory: PathBuf,
    },
    /// The file system refused; leaving the same command again is harmless.
    #[error("cannot leave a command in {}: {source}", path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl Classified for InboxError {
    fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "inbox_full",
            Self::TooLarge { .. } => "inbox_command_too_large",
            Self::NoStore { .. } => "inbox_store_not_found",
            Self::Io { .. } => "inbox_io",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Full { .. } => ErrorClass::Busy,
            Self::TooLarge { .. } => ErrorClass::Invalid,
            Self::NoStore { .. } => ErrorClass::NotFound,
            Self::Io { .. } => ErrorClass::Unavailable,
        }
    }
}
