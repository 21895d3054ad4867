//! The conversation of a session: a fold of its events, kept up to date as they come.

use std::sync::Arc;

use runtime_core::{EventDraft, EventId, EventKind, WorkerId};
use runtime_store::Position;
use runtime_turn::{Conversation, TurnError};

use crate::RuntimeError;
use crate::carried::Said;
use crate::instance::Instance;

/// A conversation and the last event that it has taken in.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionHistory {
    pub(crate) conversation: Conversation,
    /// The events that brought the messages of the open turn, after its input, one for each.
    pub(crate) sources: Vec<EventId>,
    position: Position,
}

impl SessionHistory {
    pub(crate) fn apply(&mut self, id: EventId, event: &EventDraft) -> Result<(), TurnError> {
        // A turn that was cancelled while it was queued has never started.
        let started = self.conversation.open_turn().map(|start| &start.turn);
        let ends = event.kind.ends_turn();
        if ends && event.turn.as_ref() != started {
            self.sources.clear();
            return Ok(());
        }
        let (history, waiting) = (
            self.conversation.history().len(),
            self.conversation.waiting(),
        );
        self.conversation.apply(event)?;
        let messages = match ends {
            true => self.conversation.history().len() - history - waiting,
            false => self.conversation.open_messages(),
        };
        // The input has an entry of its own, from when it was accepted.
        let entries = messages.saturating_sub(1);
        // A ruling on a conflict may take messages back.
        let grown = entries > self.sources.len() || event.kind == EventKind::ConflictRuled;
        if ends || grown {
            self.sources.resize(entries, id);
        }
        if self.conversation.open_turn().is_some() && entries == 0 {
            self.sources.clear();
        }
        Ok(())
    }
}

impl Instance {
    /// Returns the conversation up to the newest event of the session. What an earlier look has
    /// read is not read again.
    pub(crate) async fn history(
        &self,
        worker: &WorkerId,
    ) -> Result<Arc<SessionHistory>, RuntimeError> {
        let mut kept = self.sessions.take_history(worker).unwrap_or_default();
        // Copied only while somebody else still looks at it.
        let history = Arc::make_mut(&mut kept);
        let said = Said { worker, turn: None };
        let after = history.position;
        history.position = said
            .each(&*self.store, after, |id, event| {
                let applied = history.apply(id, event);
                applied.map_err(|error| unsaid(worker, &error))
            })
            .await?;
        self.sessions
            .keep(worker, Arc::clone(&kept), self.config.resident_sessions_max);
        Ok(kept)
    }

    /// The conversation after a terminal event that is not committed yet.
    pub(crate) async fn history_after(
        &self,
        worker: &WorkerId,
        id: EventId,
        event: &EventDraft,
    ) -> Result<SessionHistory, RuntimeError> {
        debug_assert!(
            event.kind.ends_turn(),
            "only the end of a turn moves the conversation"
        );
        // The event may never be committed, so it is applied to a copy, whose messages are shared.
        let mut history = Arc::unwrap_or_clone(self.history(worker).await?);
        let applied = history.apply(id, event);
        applied.map_err(|error| unsaid(worker, &error))?;
        Ok(history)
    }
}

/// A turn that knows more messages than there are: they were removed past the runtime.
fn unsaid(worker: &WorkerId, error: &TurnError) -> RuntimeError {
    match error {
        TurnError::HistoryMismatch { expected, found } if expected.messages > found.messages => {
            let worker = worker.clone();
            RuntimeError::ConversationPruned { worker }
        }
        error => RuntimeError::from_part(error),
    }
}
