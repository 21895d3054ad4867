//! Credentials for servers over HTTP: asked for, never kept in a configuration.

use std::fmt;

use async_trait::async_trait;
use runtime_core::Secret;
use serde::{Deserialize, Serialize};

/// Gives the credential of a server.
///
/// # Law
/// - It is asked anew for each connection and each discovery, those in the background included,
///   and again whenever the server refuses what it gave; it may answer from memory.
/// - What it gives goes to that server's own origin and nowhere else: no redirect, no other
///   server, no child process, no event, trace or error carries it.
#[async_trait]
pub trait AuthProvider: fmt::Debug + Send + Sync + 'static {
    /// Returns on whose behalf it asks: a stable name such as issuer and subject, never a secret.
    /// What one account was told is not shown to another (M3).
    fn account(&self) -> String;

    /// Returns the bearer token to use now; none to go without.
    ///
    /// # Errors
    /// [`AuthError`]: there is none. The server counts as refusing the credential (M1, Blocked).
    ///
    /// # Cancel safety
    /// Dropping the future gives up on asking.
    async fn token(&self, request: TokenRequest) -> Result<Option<Secret>, AuthError>;
}

/// What a token is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The name of the server's entry.
    pub server: String,
    /// Its URL.
    pub url: String,
    /// What the server said when it refused the last one.
    pub challenge: Option<Challenge>,
}

/// How a server refused a request for its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Challenge {
    /// 401: none or a wrong one; 403: not enough of one.
    pub status: u16,
    /// Its `WWW-Authenticate` header; empty without.
    pub www_authenticate: String,
}

/// Why there is no credential. The reason holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AuthError {
    /// What to do about it.
    pub reason: String,
}

impl AuthError {
    /// Makes the error.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// How an entry names its credential (M11); anything richer is an [`AuthProvider`] of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum AuthConfig {
    /// A bearer token in a variable of this process; read anew each time.
    BearerEnv {
        /// The name of the variable.
        variable: String,
    },
}

/// The token of a variable. Only servers over HTTP are given one.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(crate) struct EnvironmentToken {
    pub(crate) variable: String,
}

#[cfg(feature = "http")]
#[async_trait]
impl AuthProvider for EnvironmentToken {
    fn account(&self) -> String {
        format!("env:{}", self.variable)
    }

    async fn token(&self, request: TokenRequest) -> Result<Option<Secret>, AuthError> {
        let missing = || AuthError::new(format!("set the variable {}", self.variable));
        if let Some(challenge) = request.challenge {
            // It has nothing else to offer.
            let reason = format!(
                "the server refused the token in {} ({})",
                self.variable, challenge.status
            );
            return Err(AuthError::new(reason));
        }
        match std::env::var(&self.variable) {
            Ok(token) if !token.trim().is_empty() => Ok(Some(Secret::new(token.trim()))),
            _ => Err(missing()),
        }
    }
}
