//! Why a whole runtime could not be moved into the database or out of it.

use runtime_core::{Classified, ErrorClass, RuntimeId};
use runtime_store::ExportError;

use crate::OpenError;
use crate::error::Failure;

/// Why a runtime could not be exported or imported. A failed import leaves nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The database cannot be opened, or the runtime is not there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The lines are no whole export, or could not be read or written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The runtime is in the database already.
    #[error(
        "runtime {runtime} is in schema {schema} already; name another schema, or remove it there"
    )]
    TargetExists {
        /// Which.
        runtime: RuntimeId,
        /// Where.
        schema: String,
    },
    /// The lines are of another runtime than the one that was named.
    #[error("the export is of runtime {exported}, not of {named}; a copy keeps its identity")]
    OtherRuntime {
        /// The one that was named.
        named: RuntimeId,
        /// Whose lines they are.
        exported: RuntimeId,
    },
    /// The server refused, or the connection was lost.
    #[error("the database did not go along: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
}

impl Classified for TransferError {
    fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Export(error) => error.code(),
            Self::TargetExists { .. } => "postgres_target_exists",
            Self::OtherRuntime { .. } => "postgres_other_runtime",
            Self::Failed { .. } => "postgres_transfer_failed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Open(error) => error.class(),
            Self::Export(error) => error.class(),
            Self::TargetExists { .. } => ErrorClass::Conflict,
            Self::OtherRuntime { .. } => ErrorClass::Invalid,
            Self::Failed { .. } => ErrorClass::Unavailable,
        }
    }
}

impl From<tokio_postgres::Error> for TransferError {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<Failure> for TransferError {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            reason: failure.reason(),
        }
    }
}
