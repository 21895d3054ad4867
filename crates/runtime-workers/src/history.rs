//! The conversation of a session: a fold of its events, kept up to date as they come.

use runtime_core::{Classified, EventDraft, SessionId, Topic, WireError, WorkerId};
use runtime_store::{Page, Position};
use runtime_turn::{Conversation, TurnError};

use crate::RuntimeError;
use crate::instance::Instance;

/// A conversation and the last event that it has taken in.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionHistory {
    pub(crate) conversation: Conversation,
    position: Position,
}

impl SessionHistory {
    pub(crate) fn apply(&mut self, event: &EventDraft) -> Result<(), WireError> {
        // A turn that was cancelled while it was queued has never started.
        let started = self.conversation.open_turn().map(|start| &start.turn);
        if event.kind.ends_turn() && event.turn.as_ref() != started {
            return Ok(());
        }
        self.conversation
            .apply(event)
            .map_err(|error: TurnError| error.to_wire())
    }
}

impl Instance {
    /// Returns the conversation up to the newest event of the session. What an earlier look has
    /// read is not read again.
    pub(crate) async fn history(&self, worker: &WorkerId) -> Result<SessionHistory, RuntimeError> {
        let mut history = self.sessions.take_history(worker).unwrap_or_default();
        let stream = Topic::Session {
            session: SessionId::from(worker),
        }
        .stream_key();
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let page = Page::after(history.position, limit);
            let page = self.store.events(stream.as_ref(), page).await?;
            for event in &page.events {
                history.apply(&event.decode()?.draft)?;
            }
            history.position = page.next;
            if !page.has_more {
                break;
            }
        }
        self.sessions
            .keep(worker, history.clone(), self.config.resident_sessions_max);
        Ok(history)
    }

    /// The payload member of a terminal event that says where the conversation stands after it.
    pub(crate) async fn context_after(
        &self,
        worker: &WorkerId,
        event: &EventDraft,
    ) -> Result<serde_json::Value, RuntimeError> {
        debug_assert!(
            event.kind.ends_turn(),
            "only the end of a turn moves the conversation"
        );
        let mut history = self.history(worker).await?;
        history.apply(event)?;
        Ok(serde_json::json!(history.conversation.mark()))
    }
}
