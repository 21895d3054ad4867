//! Why a work on a whole store could not be done.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime_core::{Classified, ErrorClass};
use runtime_store::{ExportError, ReadError};

use crate::error::OpenError;

/// Why a store could not be exported, imported, backed up or repaired.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MaintenanceError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is something where the new store should be.
    #[error("{} exists already; name a directory that does not", directory.display())]
    TargetExists {
        /// Where.
        directory: PathBuf,
    },
    /// The lines are no whole export, or could not be read or written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// What is lost cannot be told from what is left.
    #[error("{what} cannot be repaired; restore a backup")]
    Unrepairable {
        /// The file, inside the store.
        what: String,
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

impl MaintenanceError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

impl Classified for MaintenanceError {
    fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::TargetExists { .. } => "store_target_exists",
            Self::Export(error) => error.code(),
            Self::Unrepairable { .. } => "store_unrepairable",
            Self::Io { .. } => "store_maintenance_io",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Open(error) => error.class(),
            Self::Read(error) => error.class(),
            Self::TargetExists { .. } => ErrorClass::Conflict,
            Self::Export(error) => error.class(),
            Self::Unrepairable { .. } => ErrorClass::Corrupt,
            Self::Io { .. } => ErrorClass::Unavailable,
        }
    }
}
