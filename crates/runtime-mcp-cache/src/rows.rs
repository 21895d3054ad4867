//! What the archive and the pins have in common: rows of one space and scope of a store, each
//! changed in one commit with the event that tells of it.

use std::fmt;
use std::sync::Arc;

use runtime_core::{Clock, CommitId, EventDraft, EventId, EventKind, Random, ScopeId, StreamKey};
use runtime_store::{Commit, NewEvent, Page, ReadError, RowKey, RowPage, RowQuery, Store};
use serde_json::Value;

/// How many names of each sort an event carries.
pub(crate) const NAMES_MAX: usize = 256;

/// The rows of one space and scope.
pub(crate) struct Rows {
    pub(crate) store: Arc<dyn Store>,
    space: &'static str,
    scope: ScopeId,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("space", &self.space)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Rows {
    pub(crate) fn new(
        space: &'static str,
        store: Arc<dyn Store>,
        scope: ScopeId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            store,
            space,
            scope,
            clock,
            random,
        }
    }

    pub(crate) fn key(&self, name: &str) -> RowKey {
        RowKey::new(self.space, self.scope.clone(), name)
    }

    /// Reads a page of at most `entries_max` rows.
    pub(crate) async fn page(
        &self,
        after: Option<RowKey>,
        entries_max: usize,
    ) -> Result<RowPage, ReadError> {
        let longest = self.store.capabilities().limits.page_entries_max;
        let query = RowQuery::scope(self.space, self.scope.clone());
        let page = Page::after(after, entries_max.min(longest));
        self.store.rows(query, page).await
    }

    /// Starts a commit: of that id, if a command names it.
    pub(crate) fn commit(&self, command: Option<CommitId>) -> Commit {
        match command {
            Some(id) => Commit::new(id, self.clock.now()),
            None => Commit::fresh(&*self.store, &*self.clock, &*self.random),
        }
    }

    /// Makes an event that tells of a server.
    pub(crate) fn event(
        &self,
        kind: EventKind,
        server: &str,
        payload: Value,
        command: Option<CommitId>,
    ) -> NewEvent {
        let mut draft = EventDraft::new(kind).with_payload(payload);
        // The stream of those who watch one provider (V4); none for a name that is no bounded
        // text.
        draft.provider = StreamKey::new(format!("provider/{server}")).ok();
        draft.caused_by = command.map(|id| id.to_string());
        let id = EventId::generate(self.clock.now(), self.random.ten());
        NewEvent::from_draft(id, &draft)
    }
}
