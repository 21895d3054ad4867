//! Why there is no lease.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, ErrorClass, WireError};
use serde_json::Value;

/// Why there is no lease. Clones share what the builder said.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// As many objects are alive as may be, and each is in use.
    #[error("all {entries_max} objects are in use; try again later, or raise the cap")]
    Busy {
        /// The cap.
        entries_max: usize,
    },
    /// As many builds are under way as may be.
    #[error("{builds_max} builds are under way; try again later")]
    BuildsBusy {
        /// The cap.
        builds_max: usize,
    },
    /// The builder says that there is no such object.
    #[error("there is nothing to build for this key")]
    NothingToBuild,
    /// The builder failed.
    #[error("the build failed: {0}")]
    Failed(#[source] Arc<WireError>),
    /// The builder panicked.
    #[error("the build panicked: {0}")]
    Panicked(Arc<str>),
    /// The builder took longer than it may.
    #[error("the build did not end within {0:?}")]
    TimedOut(Duration),
    /// The cache was closed.
    #[error("the cache is closed")]
    Closed,
}

impl Classified for LeaseError {
    fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "agent_cache_busy",
            Self::BuildsBusy { .. } => "agent_cache_builds_busy",
            Self::NothingToBuild => "agent_cache_nothing_to_build",
            Self::Failed(_) => "agent_cache_build_failed",
            Self::Panicked(_) => "agent_cache_build_panicked",
            Self::TimedOut(_) => "agent_cache_build_timed_out",
            Self::Closed => "agent_cache_closed",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Busy { .. } | Self::BuildsBusy { .. } => ErrorClass::Busy,
            Self::NothingToBuild => ErrorClass::NotFound,
            Self::Failed(error) => error.class,
            Self::Panicked(_) => ErrorClass::Terminal,
            Self::TimedOut(_) => ErrorClass::TimedOut,
            Self::Closed => ErrorClass::Unavailable,
        }
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Failed(error) => serde_json::to_value(&**error).ok(),
            _ => None,
        }
    }
}
