//! What a watcher sees while an answer comes: never stored, never needed (V3).

use std::fmt;

use runtime_core::{EventDraft, EventKind, ExecutionScope, ModelEvent, ReplayKey};
use serde_json::json;

/// A piece of an answer. The deltas of a later attempt void those of an earlier one.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnDelta {
    /// The scope of the turn.
    pub scope: ExecutionScope,
    /// The model call.
    pub call: ReplayKey,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Which piece of the attempt, from 0.
    pub index: u64,
    /// The piece.
    pub event: ModelEvent,
}

impl TurnDelta {
    /// Returns the ephemeral event that tells of it.
    #[must_use]
    pub fn to_event(&self) -> EventDraft {
        EventDraft::new(EventKind::ModelDelta)
            .in_scope(&self.scope)
            .with_payload(json!({
                "call": self.call,
                "attempt": self.attempt,
                "index": self.index,
                "event": self.event,
            }))
    }
}

/// Takes pieces of answers as they come. It must not block: the answer waits for it. Losing
/// what it is given is allowed.
pub trait LiveSink: fmt::Debug + Send + Sync {
    /// An attempt of a model call begins, the first or a later one, which voids the pieces of
    /// those before it. Nothing is shown of it unless implemented.
    fn started(&self, scope: &ExecutionScope, call: &ReplayKey, attempt: u32) {
        let _ = (scope, call, attempt);
    }

    /// Takes a piece.
    fn delta(&self, delta: TurnDelta);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl LiveSink for Unwatched {
    fn delta(&self, _: TurnDelta) {}
}
