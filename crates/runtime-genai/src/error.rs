//! What is wrong with a configuration.

use runtime_core::{Classified, ErrorClass};

/// Why no model can be made from a configuration. Nothing has been sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenaiError {
    /// The model has no provider before its name.
    #[error("{model:?} names no provider: write provider::model, such as openai::{model}")]
    NoProvider {
        /// What was given.
        model: String,
    },
    /// Nobody knows that provider.
    #[error("{provider:?} is no provider that is known; these are: {}", .known.join(", "))]
    UnknownProvider {
        /// What was given.
        provider: String,
        /// What could have been.
        known: Vec<&'static str>,
    },
    /// The address is none.
    #[error("{base_url:?} is no address of an API: {reason}")]
    InvalidBaseUrl {
        /// What was given.
        base_url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The variable that should hold the key is not set.
    #[error("{provider} wants a key: set {variable}, or configure one")]
    NoKey {
        /// The provider.
        provider: String,
        /// The variable.
        variable: String,
    },
    /// A header cannot be sent.
    #[error("the header {name:?} cannot be sent: {reason}")]
    InvalidHeader {
        /// Its name; never its value.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A bound is zero.
    #[error("{name} must be more than zero")]
    ZeroBound {
        /// Which.
        name: &'static str,
    },
    /// The HTTP client could not be made, for example because the certificates of the system
    /// cannot be read.
    #[error("the HTTP client cannot be made: {reason}")]
    NoClient {
        /// What it said.
        reason: String,
    },
}

impl Classified for GenaiError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoProvider { .. } => "model_provider_missing",
            Self::UnknownProvider { .. } => "model_provider_unknown",
            Self::InvalidBaseUrl { .. } => "model_base_url_invalid",
            Self::NoKey { .. } => "model_key_missing",
            Self::InvalidHeader { .. } => "model_header_invalid",
            Self::ZeroBound { .. } => "model_bound_zero",
            Self::NoClient { .. } => "model_client_unavailable",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NoClient { .. } => ErrorClass::Unavailable,
            _ => ErrorClass::Invalid,
        }
    }
}
