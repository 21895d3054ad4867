//! Errors of a store, by what happened.

use std::sync::Arc;

use runtime_core::{Classified, CommitId, Digest, ErrorClass, WireError};

use crate::{Guard, Position, Seq};

/// What a guard found instead of what it wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// The row does not exist.
    Absent,
    /// The row has this version.
    Version(u64),
    /// The stream ends here.
    Head(Seq),
    /// The stream is closed: it has had its last event (V5).
    Closed,
}

/// Why a commit gave no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A guard did not hold. Nothing happened.
    #[error("guard {guard:?} found {found:?}")]
    Rejected {
        /// The guard; for [`Found::Closed`] the head guard that would have had to hold.
        guard: Guard,
        /// What it found.
        found: Found,
    },
    /// A later owner has opened the scope, or it is retired. Nothing happened.
    #[error("a later owner has taken over")]
    Fenced,
    /// The id belongs to a commit, or an event id to an event, with other content. Nothing
    /// happened now.
    #[error("id {id} is taken by other content")]
    DifferentContent {
        /// The id of this commit.
        id: CommitId,
    },
    /// It is over the limit. Nothing happened.
    #[error("commit has {bytes} bytes; {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The id is older than what the store remembers, so a repetition could not be told.
    /// Nothing happened now.
    #[error("commit id {id} is older than the remembered commits")]
    TooOld {
        /// The id.
        id: CommitId,
    },
    /// An attachment that it names does not exist. Nothing happened.
    #[error("attachment {digest} does not exist; put it first")]
    MissingAttachment {
        /// Its name.
        digest: Digest,
    },
    /// It is malformed, as the text says. Nothing happened.
    #[error("{reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The store cannot be reached. Nothing happened; later it may work.
    #[error("store unavailable: {reason}")]
    Unavailable {
        /// What is wrong.
        reason: String,
    },
    /// The storage failed in the middle: whether it happened shows when the store is usable again.
    #[error("whether commit {id} happened is unknown: {reason}")]
    Indeterminate {
        /// The id to ask for.
        id: CommitId,
        /// What failed.
        reason: String,
        /// The failure itself.
        #[source]
        source: Option<Arc<std::io::Error>>,
    },
    /// The store takes no more writes: closed, opened read-only, or after a failure until it is
    /// reopened. Nothing happened.
    #[error("store is read-only: {reason}")]
    ReadOnly {
        /// Why.
        reason: String,
    },
}

impl Classified for CommitError {
    fn code(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "commit_rejected",
            Self::Fenced => "commit_fenced",
            Self::DifferentContent { .. } => "commit_different_content",
            Self::TooLarge { .. } => "commit_too_large",
            Self::TooOld { .. } => "commit_too_old",
            Self::MissingAttachment { .. } => "commit_missing_attachment",
            Self::Malformed { .. } => "commit_malformed",
            Self::Unavailable { .. } => "store_unavailable",
            Self::Indeterminate { .. } => "commit_indeterminate",
            Self::ReadOnly { .. } => "store_read_only",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Rejected { .. } | Self::DifferentContent { .. } => ErrorClass::Conflict,
            Self::Fenced => ErrorClass::Fenced,
            Self::TooLarge { .. } | Self::TooOld { .. } | Self::Malformed { .. } => {
                ErrorClass::Invalid
            }
            Self::MissingAttachment { .. } => ErrorClass::NotFound,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
            Self::Indeterminate { .. } => ErrorClass::Indeterminate,
            Self::ReadOnly { .. } => ErrorClass::Unavailable,
        }
    }
}

/// Why a read gave no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The limit of a page is zero.
    #[error("a page of 0 entries reads nothing; give at least 1")]
    LimitZero,
    /// What is stored there is damaged.
    #[error("damaged: {what}")]
    Corrupt {
        /// Where, and what is wrong.
        what: String,
    },
    /// Events of the topic between these positions are damaged; what follows is whole, and is read
    /// after `to` (V4, S4).
    #[error("damaged: events at positions {from} to {to}{}", place_after(place.as_ref()))]
    CorruptEvents {
        /// The first position at which one may be missing.
        from: Position,
        /// The last of them.
        to: Position,
        /// Where the last of them stands, if it is still there.
        place: Option<String>,
    },
    /// The store cannot be reached; later it may work.
    #[error("store unavailable: {reason}")]
    Unavailable {
        /// What is wrong.
        reason: String,
        /// The failure itself.
        #[source]
        source: Option<Arc<std::io::Error>>,
    },
}

fn place_after(place: Option<&String>) -> String {
    place.map_or_else(String::new, |place| format!(" ({place})"))
}

impl Classified for ReadError {
    fn code(&self) -> &'static str {
        match self {
            Self::LimitZero => "page_limit_zero",
            Self::Corrupt { .. } | Self::CorruptEvents { .. } => "store_corrupt",
            Self::Unavailable { .. } => "store_read_unavailable",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::LimitZero => ErrorClass::Invalid,
            Self::Corrupt { .. } | Self::CorruptEvents { .. } => ErrorClass::Corrupt,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
        }
    }

    fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::CorruptEvents { from, to, .. } => {
                Some(serde_json::json!({ "from": from, "to": to }))
            }
            _ => None,
        }
    }
}

impl From<WireError> for ReadError {
    fn from(error: WireError) -> Self {
        Self::Corrupt {
            what: error.message,
        }
    }
}

/// Why an attachment could not be put or read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// There are no bytes of that name.
    #[error("attachment {digest} does not exist")]
    NotFound {
        /// The name.
        digest: Digest,
    },
    /// The stored bytes do not have that name: they are damaged.
    #[error("attachment {digest} is damaged")]
    Corrupt {
        /// The name.
        digest: Digest,
    },
    /// The storage failed or takes no writes; putting the same bytes again is harmless.
    #[error("attachment store unavailable: {reason}")]
    Unavailable {
        /// What failed.
        reason: String,
        /// The failure itself.
        #[source]
        source: Option<Arc<std::io::Error>>,
    },
}

impl Classified for AttachmentError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "attachment_not_found",
            Self::Corrupt { .. } => "attachment_corrupt",
            Self::Unavailable { .. } => "attachment_unavailable",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Corrupt { .. } => ErrorClass::Corrupt,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
        }
    }
}
