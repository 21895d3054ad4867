//! Errors of opening a store, and what an error of the server means.

use std::error::Error as _;
use std::sync::Arc;

use runtime_core::{Classified, ErrorClass, RuntimeId, Tier};
use runtime_store::{AttachmentError, ReadError};
use tokio_postgres::error::SqlState;

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is malformed.
    #[error("the URL of the database is malformed: {reason}")]
    Url {
        /// What is wrong.
        reason: String,
    },
    /// The certificates to check the server with cannot be read.
    #[error("the certificates to check the server with cannot be read: {reason}")]
    Certificates {
        /// What is wrong.
        reason: String,
    },
    /// The server cannot be reached, or turned us away.
    #[error("the database cannot be reached: {reason}")]
    Unreachable {
        /// What is wrong.
        reason: String,
    },
    /// The tables are not there and may not be made.
    #[error(
        "schema {schema} does not have the tables ({reason}); let somebody with the right to make them run what `agent-runtime postgres schema --print` prints"
    )]
    SchemaMissing {
        /// The schema.
        schema: String,
        /// Why they were not made.
        reason: String,
    },
    /// An earlier version made the tables, and they could not be brought up to this one.
    #[error(
        "the tables of schema {schema} have version {found} and this program needs {known} ({reason}); let somebody with the right to change them run what `agent-runtime postgres schema --print --from {found}` prints"
    )]
    SchemaOlder {
        /// The schema.
        schema: String,
        /// Their version.
        found: u32,
        /// The one needed here.
        known: u32,
        /// Why they were not changed.
        reason: String,
    },
    /// A later version made the tables.
    #[error("the tables have version {found}; this program knows up to {known}")]
    SchemaNewer {
        /// Their version.
        found: u32,
        /// The latest known here.
        known: u32,
    },
    /// The tables say that they are of this version, but are not what this version makes.
    #[error("the tables of schema {schema} are not those of version {version}; use another schema")]
    SchemaDiffers {
        /// The schema.
        schema: String,
        /// The version that they claim.
        version: u32,
    },
    /// The runtime is not in this database and was not to be made.
    #[error("there is no runtime {}in schema {schema}", runtime.as_ref().map_or_else(String::new, |id| format!("{id} ")))]
    NoRuntime {
        /// The one looked for, if one was named.
        runtime: Option<RuntimeId>,
        /// The schema.
        schema: String,
    },
    /// Several runtimes are there and none was named.
    #[error("several runtimes are there; name one by ?runtime=ID: {}", runtimes.join(", "))]
    SeveralRuntimes {
        /// Some of them.
        runtimes: Vec<String>,
    },
    /// The server does not keep what it acknowledges well enough.
    #[error("the server gives tier {found} ({setting}); tier {wanted} was asked for")]
    Tier {
        /// What was asked for.
        wanted: Tier,
        /// What it gives.
        found: Tier,
        /// Which setting is the reason.
        setting: String,
    },
    /// The database cannot hold our texts.
    #[error("the database has the encoding {found}; make one with the encoding UTF8")]
    Encoding {
        /// Its encoding.
        found: String,
    },
}

impl Classified for OpenError {
    fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } => "postgres_url",
            Self::Certificates { .. } => "postgres_certificates",
            Self::Unreachable { .. } => "postgres_unreachable",
            Self::SchemaMissing { .. } => "postgres_schema_missing",
            Self::SchemaOlder { .. } => "postgres_schema_older",
            Self::SchemaNewer { .. } => "postgres_schema_newer",
            Self::SchemaDiffers { .. } => "postgres_schema_differs",
            Self::NoRuntime { .. } => "postgres_no_runtime",
            Self::SeveralRuntimes { .. } => "postgres_several_runtimes",
            Self::Tier { .. } => "postgres_tier",
            Self::Encoding { .. } => "postgres_encoding",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Url { .. } | Self::Certificates { .. } | Self::SeveralRuntimes { .. } => {
                ErrorClass::Invalid
            }
            Self::Unreachable { .. } => ErrorClass::Unavailable,
            Self::SchemaMissing { .. } | Self::NoRuntime { .. } => ErrorClass::NotFound,
            Self::SchemaOlder { .. }
            | Self::SchemaNewer { .. }
            | Self::Tier { .. }
            | Self::Encoding { .. } => ErrorClass::Unsupported,
            Self::SchemaDiffers { .. } => ErrorClass::Corrupt,
        }
    }
}

/// A failure of a call to the server, told apart by what it says about the call.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The server refused it and undid it.
    Refused(Arc<tokio_postgres::Error>),
    /// The connection is gone; whether the call happened is unknown.
    Lost(String),
    /// What the tables hold was not written by us.
    Damaged(String),
}

impl Failure {
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Refused(error) => text(error),
            Self::Lost(reason) | Self::Damaged(reason) => reason.clone(),
        }
    }

    pub(crate) fn read_error(&self) -> ReadError {
        if let Self::Damaged(what) = self {
            return ReadError::Corrupt { what: what.clone() };
        }
        ReadError::Unavailable {
            reason: self.reason(),
            source: None,
        }
    }

    pub(crate) fn attachment_error(&self) -> AttachmentError {
        AttachmentError::Unavailable {
            reason: self.reason(),
            source: None,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let session_ended = |state: &SqlState| {
            state.code().starts_with("08")
                || [
                    SqlState::ADMIN_SHUTDOWN,
                    SqlState::CRASH_SHUTDOWN,
                    SqlState::CANNOT_CONNECT_NOW,
                ]
                .contains(state)
        };
        match error.code() {
            Some(state) if !session_ended(state) => Self::Refused(Arc::new(error)),
            _ => Self::Lost(text(&error)),
        }
    }
}

/// The error with its causes: the library's own text leaves them out.
pub(crate) fn text(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
