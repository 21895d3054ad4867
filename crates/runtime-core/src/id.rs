//! Identifiers (C1): ours follow one bounded grammar, foreign ones are bounded text.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{CanonicalEncoder, Classified, ErrorClass, Timestamp};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text has no bytes, or more than the grammar allows.
    #[error("{what} has {len} bytes; give 1 to {max}")]
    Length {
        /// The kind of identifier.
        what: &'static str,
        /// The number of bytes found.
        len: usize,
        /// The number of bytes allowed.
        max: usize,
    },
    /// The text holds a character that the grammar does not allow at that place.
    #[error("{what} has {found:?} at byte {at}; {allowed}")]
    Character {
        /// The kind of identifier.
        what: &'static str,
        /// The character found.
        found: char,
        /// Its byte offset.
        at: usize,
        /// What is allowed instead.
        allowed: &'static str,
    },
    /// The text is not a UUID.
    #[error("{what} is not a UUID")]
    Uuid {
        /// The kind of identifier.
        what: &'static str,
    },
}

impl Classified for IdError {
    fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "id_length",
            Self::Character { .. } => "id_character",
            Self::Uuid { .. } => "id_uuid",
        }
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

const ID_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 512;

fn check_length(what: &'static str, text: &str, max: usize) -> Result<(), IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::Length {
            what,
            len: text.len(),
            max,
        });
    }
    Ok(())
}

fn check_grammar(what: &'static str, text: &str) -> Result<(), IdError> {
    check_length(what, text, ID_BYTES_MAX)?;
    let legal = |at: usize, c: char| {
        c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | ':' | '-'))
    };
    match text.char_indices().find(|&(at, c)| !legal(at, c)) {
        None => Ok(()),
        Some((at, found)) => Err(IdError::Character {
            what,
            found,
            at,
            allowed: "use letters, digits and . _ : - after a first letter or digit",
        }),
    }
}

fn check_text(what: &'static str, text: &str) -> Result<(), IdError> {
    check_length(what, text, TEXT_BYTES_MAX)?;
    match text.char_indices().find(|(_, c)| c.is_control()) {
        None => Ok(()),
        Some((at, found)) => Err(IdError::Character {
            what,
            found,
            at,
            allowed: "leave out control characters",
        }),
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and keeps it.
            ///
            /// # Errors
            /// [`IdError`] names what is wrong and what is allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                $check($what, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// Returns the identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
    };
}

macro_rules! own_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        text_newtype!($(#[$doc])* $name, $what, check_grammar);

        impl $name {
            /// Makes a new identifier, a UUIDv7, from a time and ten random bytes.
            #[must_use]
            pub fn generate(now: Timestamp, random: [u8; 10]) -> Self {
                Self(Arc::from(uuid_v7(now, random).to_string()))
            }
        }
    };
}

fn uuid_v7(now: Timestamp, random: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid()
}

own_id!(
    /// One durable identity with its log.
    RuntimeId,
    "runtime id"
);
own_id!(
    /// One process that has a runtime open; each opening has its own.
    InstanceId,
    "instance id"
);
own_id!(
    /// A long-lived agent in the catalogue of a runtime.
    WorkerId,
    "worker id"
);
own_id!(
    /// The conversation of a worker; equal to the id of its worker.
    SessionId,
    "session id"
);
own_id!(
    /// All the work that one accepted input causes.
    TurnId,
    "turn id"
);
own_id!(
    /// Background work that outlives the turn that started it.
    ProcessId,
    "process id"
);
own_id!(
    /// An input as its sender names it; sending it twice is accepted once.
    SubmissionId,
    "submission id"
);
own_id!(
    /// An administrative request as its sender names it; repeating it does nothing.
    RequestId,
    "request id"
);
text_newtype!(
    /// A tool call as the model's provider names it.
    CallId,
    "call id",
    check_text
);
text_newtype!(
    /// The owner of rows and epochs in a store: an execution scope, a worker, the runtime.
    ScopeId,
    "scope id",
    check_text
);
text_newtype!(
    /// An ordered sequence of events inside the log, dense from 1.
    StreamKey,
    "stream key",
    check_text
);

impl From<&WorkerId> for SessionId {
    fn from(worker: &WorkerId) -> Self {
        // Both follow the same grammar, so the text needs no second check.
        Self(Arc::clone(&worker.0))
    }
}

impl From<&SessionId> for WorkerId {
    fn from(session: &SessionId) -> Self {
        Self(Arc::clone(&session.0))
    }
}

/// The only authority over a worker: its runtime and its id (never a path or a display name).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkerRef {
    /// The runtime that owns the worker.
    pub runtime_id: RuntimeId,
    /// The worker inside that runtime.
    pub worker_id: WorkerId,
}

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new identifier, a UUIDv7, from a time and ten random bytes.
            #[must_use]
            pub fn generate(now: Timestamp, random: [u8; 10]) -> Self {
                Self(uuid_v7(now, random))
            }

            /// Derives the same identifier (a UUIDv8) from the same identity.
            #[must_use]
            pub fn derived(identity: CanonicalEncoder) -> Self {
                let digest = identity.digest();
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest.as_bytes()[..16]);
                Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
            }

            /// Wraps a UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// Returns when it was made, if it is a UUIDv7; a derived identifier has no time.
            #[must_use]
            pub fn timestamp(&self) -> Option<Timestamp> {
                if self.0.get_version_num() != 7 {
                    return None;
                }
                let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
                Some(Timestamp::from_millis(seconds * 1000 + u64::from(nanos) / 1_000_000))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError::Uuid { what: $what })
            }
        }
    };
}

uuid_newtype!(
    /// A commit; committing the same id twice happens once.
    CommitId,
    "commit id"
);
uuid_newtype!(
    /// An event.
    EventId,
    "event id"
);
