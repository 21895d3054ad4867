//! What a store survives.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an acknowledgement means; a later tier includes the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tier {
    /// Memory: gone with the process.
    Volatile,
    /// Survives the kill of the process.
    Crash,
    /// Survives the loss of power.
    Power,
    /// Survives the loss of a machine.
    Replicated,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volatile => "volatile",
            Self::Crash => "crash",
            Self::Power => "power",
            Self::Replicated => "replicated",
        })
    }
}
