//! Why a server could not be asked.

use std::time::Duration;

use runtime_core::{Classified, ErrorClass, Timestamp};
use serde_json::{Value, json};

/// Why a server could not be started, listed or asked.
///
/// No variant holds an argument, a variable or what the server wrote to its standard error:
/// credentials may be in all of them.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum McpError {
    /// The entry of the server is wrong.
    #[error("the entry of tool server {server:?} is wrong: {reason}")]
    InvalidConfig {
        /// The server.
        server: String,
        /// The member of the entry that is wrong, such as `headers.x-tenant`, if it is one.
        member: Option<String>,
        /// What to change.
        reason: String,
    },
    /// Its process could not be started.
    #[error("tool server {server} does not start: {reason}")]
    NotStarted {
        /// The server.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// It started, but no handshake came about.
    #[error("tool server {server} started, but the handshake failed: {reason}")]
    HandshakeFailed {
        /// The server.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The connection ended.
    #[error("the connection to tool server {server} ended: {reason}")]
    ConnectionLost {
        /// The server.
        server: String,
        /// How.
        reason: String,
    },
    /// It did not answer in time.
    #[error("tool server {server} did not answer within {} ms", .after.as_millis())]
    TimedOut {
        /// The server.
        server: String,
        /// How long it had.
        after: Duration,
    },
    /// It answered with an error.
    #[error("tool server {server} answered error {error_code}: {reason}")]
    Refused {
        /// The server.
        server: String,
        /// The JSON-RPC code.
        error_code: i32,
        /// What it said, cut.
        reason: String,
    },
    /// Its answer is none that the protocol knows.
    #[error("tool server {server} gave an answer that is not one: {reason}")]
    InvalidAnswer {
        /// The server.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It failed lately; it is started again later.
    #[error("tool server {server} failed lately and is not started before {next_retry}")]
    BackingOff {
        /// The server.
        server: String,
        /// When it may be tried again.
        next_retry: Timestamp,
    },
    /// It refused the credential, or there is none for it.
    #[error("tool server {server} refuses the credential: {reason}")]
    Unauthorised {
        /// The server.
        server: String,
        /// What to do about it.
        reason: String,
    },
    /// This build cannot reach servers of that type.
    #[error(
        "tool server {server} is of a type that this build leaves out: build it with feature {feature}"
    )]
    Unsupported {
        /// The server.
        server: String,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// It was closed by its host.
    #[error("tool server {server} was closed")]
    Closed {
        /// The server.
        server: String,
    },
}

impl Classified for McpError {
    fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig { .. } => "mcp_config_invalid",
            Self::NotStarted { .. } => "mcp_not_started",
            Self::HandshakeFailed { .. } => "mcp_handshake_failed",
            Self::ConnectionLost { .. } => "mcp_connection_lost",
            Self::TimedOut { .. } => "mcp_timed_out",
            Self::Refused { .. } => "mcp_refused",
            Self::InvalidAnswer { .. } => "mcp_answer_invalid",
            Self::BackingOff { .. } => "mcp_backing_off",
            Self::Unauthorised { .. } => "mcp_unauthorised",
            Self::Unsupported { .. } => "mcp_unsupported",
            Self::Closed { .. } => "mcp_closed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidConfig { .. } => ErrorClass::Invalid,
            Self::Unsupported { .. } => ErrorClass::Unsupported,
            Self::Unauthorised { .. } => ErrorClass::Terminal,
            Self::NotStarted { .. }
            | Self::HandshakeFailed { .. }
            | Self::ConnectionLost { .. }
            | Self::BackingOff { .. }
            | Self::Closed { .. } => ErrorClass::Unavailable,
            Self::TimedOut { .. } => ErrorClass::TimedOut,
            Self::Refused { .. } | Self::InvalidAnswer { .. } => ErrorClass::Terminal,
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Refused { error_code, .. } => Some(json!({ "error_code": error_code })),
            Self::BackingOff { next_retry, .. } => Some(json!({ "next_retry": next_retry })),
            _ => None,
        }
    }
}

/// The characters of a server's own words that an error keeps.
const WORDS_MAX: usize = 512;

/// Cuts a server's own words and leaves out what could deceive a reader.
pub(crate) fn words(text: &str) -> String {
    let mut kept: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX)
        .collect();
    if text.chars().nth(WORDS_MAX).is_some() {
        kept.push('…');
    }
    kept
}
