//! Why spans are not exported.

use runtime_core::{Classified, ErrorClass};

/// Why spans are not exported. The runtime itself is not concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OtelError {
    /// The address or a header cannot be used.
    #[error("spans cannot be sent to {endpoint:?}: {reason}")]
    Invalid {
        /// The collector, without credentials.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The HTTP client could not be made, for example because the certificates of the system
    /// cannot be read.
    #[error("the HTTP client for spans cannot be made: {reason}")]
    NoClient {
        /// What it said.
        reason: String,
    },
    /// The program has a subscriber already.
    #[error(
        "the program has a tracing subscriber already; add the layer of tracing-opentelemetry to it"
    )]
    AlreadyInstalled,
    /// The last spans did not reach the collector.
    #[error("the last spans did not reach {endpoint:?}: {reason}")]
    NotSent {
        /// The collector.
        endpoint: String,
        /// What came back.
        reason: String,
    },
}

impl Classified for OtelError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "span_export_invalid",
            Self::NoClient { .. } => "span_export_client_unavailable",
            Self::AlreadyInstalled => "span_export_already_installed",
            Self::NotSent { .. } => "span_export_not_sent",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } => ErrorClass::Invalid,
            Self::AlreadyInstalled => ErrorClass::Conflict,
            Self::NoClient { .. } | Self::NotSent { .. } => ErrorClass::Unavailable,
        }
    }
}
