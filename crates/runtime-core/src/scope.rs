//! Execution scopes (E2): whose effects these are.

use serde::{Deserialize, Serialize};

use crate::{IdError, ProcessId, ScopeId, SessionId, StreamKey, TurnId};

/// The owner of effects: replay keys are unique inside one scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExecutionScope {
    /// One turn of a session.
    Turn {
        /// The session.
        session: SessionId,
        /// The turn.
        turn: TurnId,
    },
    /// One background process.
    Process {
        /// The process.
        process: ProcessId,
    },
    /// Draining the queue of a session.
    QueueDrain {
        /// The session.
        session: SessionId,
        /// This draining.
        drain: TurnId,
    },
    /// Deleting a session.
    SessionDelete {
        /// The session.
        session: SessionId,
    },
    /// An operation of the runtime itself.
    RuntimeOperation {
        /// The operation.
        operation: TurnId,
    },
}

impl ExecutionScope {
    /// Returns the scope as the owner of rows and epochs in a store.
    ///
    /// It is injective: `/` is in no id, so no two scopes share a text.
    #[must_use]
    pub fn scope_id(&self) -> ScopeId {
        let text = match self {
            Self::Turn { session, turn } => format!("turn/{session}/{turn}"),
            Self::Process { process } => format!("process/{process}"),
            Self::QueueDrain { session, drain } => format!("drain/{session}/{drain}"),
            Self::SessionDelete { session } => format!("delete/{session}"),
            Self::RuntimeOperation { operation } => format!("operation/{operation}"),
        };
        ScopeId::new(text).expect("two ids and a word are within the bounds of a scope id")
    }

    /// Reads back what [`scope_id`](Self::scope_id) wrote.
    ///
    /// # Errors
    /// The text is not that of an execution scope.
    pub fn from_scope_id(id: &ScopeId) -> Result<Self, IdError> {
        let parts: Vec<&str> = id.as_str().split('/').collect();
        match parts[..] {
            ["turn", session, turn] => Ok(Self::Turn {
                session: session.parse()?,
                turn: turn.parse()?,
            }),
            ["process", process] => Ok(Self::Process {
                process: process.parse()?,
            }),
            ["drain", session, drain] => Ok(Self::QueueDrain {
                session: session.parse()?,
                drain: drain.parse()?,
            }),
            ["delete", session] => Ok(Self::SessionDelete {
                session: session.parse()?,
            }),
            ["operation", operation] => Ok(Self::RuntimeOperation {
                operation: operation.parse()?,
            }),
            _ => Err(IdError::Character {
                what: "execution scope",
                found: id.as_str().chars().next().unwrap_or(' '),
                at: 0,
                allowed: "it starts with turn/ process/ drain/ delete/ or operation/",
            }),
        }
    }

    /// Returns the session that the scope belongs to, if it belongs to one.
    #[must_use]
    pub const fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Turn { session, .. }
            | Self::QueueDrain { session, .. }
            | Self::SessionDelete { session } => Some(session),
            Self::Process { .. } | Self::RuntimeOperation { .. } => None,
        }
    }

    /// Returns the turn, if the scope is one.
    #[must_use]
    pub const fn turn(&self) -> Option<&TurnId> {
        match self {
            Self::Turn { turn, .. } => Some(turn),
            _ => None,
        }
    }

    /// Returns the stream that tells of the scope, if it has one of its own.
    #[must_use]
    pub fn stream_key(&self) -> Option<StreamKey> {
        match self {
            Self::Turn { .. } | Self::Process { .. } => {
                Some(StreamKey::new(self.scope_id().as_str()).expect("same bounds"))
            }
            _ => None,
        }
    }
}
