//! Why a discovery gave nothing.

use std::time::Duration;

use runtime_core::{Classified, ErrorClass, WireError};

use crate::OverBudget;

/// Why a fetch gave nothing; what a [`Fetch`](crate::Fetch) answers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server refused the credential: the cache fails closed (M1).
    #[error("the server refused the credential: {0}")]
    Refused(#[source] WireError),
    /// Anything else; the class says whether trying again may help.
    #[error("{0}")]
    Failed(#[source] WireError),
    /// The list is over a hard limit.
    #[error("the list is too large: {reason}")]
    TooLarge {
        /// Which limit.
        reason: String,
    },
}

impl FetchError {
    /// Wraps an error of the fetcher's own.
    #[must_use]
    pub fn failed(error: &impl Classified) -> Self {
        Self::Failed(error.to_wire())
    }

    /// Wraps an error that says that the credential was refused.
    #[must_use]
    pub fn refused(error: &impl Classified) -> Self {
        Self::Refused(error.to_wire())
    }
}

impl From<OverBudget> for FetchError {
    fn from(over: OverBudget) -> Self {
        Self::TooLarge {
            reason: over.to_string(),
        }
    }
}

/// Why the cache itself gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The fetch took longer than it may.
    #[error("the tool list did not arrive within {0:?}")]
    TimedOut(Duration),
    /// The fetch panicked; it is a failure like another.
    #[error("the discovery panicked: {0}")]
    Panicked(String),
    /// The list is over a hard limit.
    #[error("the tool list is too large: {0}; shorten it, or raise the limit")]
    TooLarge(String),
    /// Too many fetches are under way.
    #[error("too many discoveries at once; try again later")]
    Busy,
    /// The cache was closed.
    #[error("the discovery cache is closed")]
    Closed,
}

impl Classified for DiscoveryError {
    fn code(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "discovery_timed_out",
            Self::Panicked(_) => "discovery_panicked",
            Self::TooLarge(_) => "discovery_too_large",
            Self::Busy => "discovery_busy",
            Self::Closed => "discovery_closed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::TimedOut(_) => ErrorClass::TimedOut,
            Self::Panicked(_) | Self::TooLarge(_) => ErrorClass::Terminal,
            Self::Busy => ErrorClass::Busy,
            Self::Closed => ErrorClass::Unavailable,
        }
    }
}

/// The bytes of an error message that are kept: a hostile server cannot fill the cache with one.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// Cuts an error to what is kept of it; details go when they are large.
pub(crate) fn bounded(mut error: WireError) -> WireError {
    if error.message.len() > MESSAGE_BYTES_MAX {
        let end = error.message.floor_char_boundary(MESSAGE_BYTES_MAX);
        error.message.truncate(end);
        error.message.push('…');
    }
    let budget = &mut crate::ByteBudget::new(MESSAGE_BYTES_MAX as u64);
    if budget.spend_json(&error.details).is_err() {
        error.details = None;
    }
    error
}
