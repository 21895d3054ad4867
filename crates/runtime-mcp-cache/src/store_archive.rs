//! An archive in the rows of a store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Classified as _, Clock, CommitId, Digest, ErrorClass, EventDraft, EventId, EventKind, Random,
    ScopeId, StreamKey, WireError,
};
use runtime_store::{Commit, NewEvent, Page, RowChange, RowKey, RowQuery, Store};
use serde_json::json;

use crate::{CatalogueArchive, CatalogueChanged};

/// The space of the rows: one for each entry, named by its key.
const SPACE: &str = "mcp-catalogue";
/// How many names of each sort an event carries.
const NAMES_MAX: usize = 256;

/// Keeps tool lists in the rows of a [`Store`], under one scope.
///
/// An entry is one row. Writing it again replaces it. A list that [changed](CatalogueChanged) is
/// told by an event of the runtime in the same commit; nothing else in the store is touched.
pub struct StoreArchive {
    store: Arc<dyn Store>,
    scope: ScopeId,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl fmt::Debug for StoreArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreArchive")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl StoreArchive {
    /// Makes an archive; caches of the same scope share it.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        scope: ScopeId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            store,
            scope,
            clock,
            random,
        }
    }

    fn commit_id(&self) -> CommitId {
        CommitId::generate(self.clock.now(), self.random.ten())
    }

    /// The event of the runtime that tells of a changed list, with at most
    /// [`NAMES_MAX`] names of each sort.
    fn event(&self, changed: &CatalogueChanged) -> NewEvent {
        let names = |names: &[String]| names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
        let changes = &changed.changes;
        let payload = json!({
            "server": changed.key.server(),
            "previous": changed.previous,
            "current": changed.current,
            "added": names(&changes.added),
            "removed": names(&changes.removed),
            "changed": names(&changes.changed),
            "names": changes.added.len() + changes.removed.len() + changes.changed.len(),
        });
        let mut draft = EventDraft::new(EventKind::ToolListChanged).with_payload(payload);
        draft.provider = provider(changed.key.server());
        let id = EventId::generate(self.clock.now(), self.random.ten());
        NewEvent::from_draft(id, &draft)
    }
}

#[async_trait]
impl CatalogueArchive for StoreArchive {
    async fn load(
        &self,
        entries_max: usize,
        bytes_max: u64,
    ) -> Result<Vec<(Digest, Arc<[u8]>)>, WireError> {
        let (mut entries, mut bytes, mut after) = (Vec::new(), 0, None);
        while entries.len() < entries_max && bytes < bytes_max {
            let query = RowQuery::scope(SPACE, self.scope.clone());
            let page = Page::after(after.take(), entries_max - entries.len());
            let rows = self.store.rows(query, page).await;
            let rows = rows.map_err(|error| error.to_wire())?;
            for row in rows.rows {
                bytes += row.body.len() as u64;
                // A row of another name is not ours.
                if let Ok(name) = row.key.name.parse() {
                    entries.push((name, row.body));
                }
            }
            after = rows.next;
            if after.is_none() {
                break;
            }
        }
        Ok(entries)
    }

    async fn save(
        &self,
        name: Digest,
        entry: Option<Arc<[u8]>>,
        changes: &[CatalogueChanged],
    ) -> Result<(), WireError> {
        let key = RowKey::new(SPACE, self.scope.clone(), name.to_string());
        let change = match entry {
            Some(entry) => RowChange::put(key, entry),
            None => RowChange::Delete(key),
        };
        let mut commit = Commit::new(self.commit_id(), self.clock.now()).row(change);
        for changed in changes {
            commit = commit.event(self.event(changed));
        }
        let bytes_max = self.store.capabilities().limits.commit_bytes_max;
        if commit.bytes() > bytes_max {
            let message = format!("the entry is larger than a commit of {bytes_max} bytes");
            return Err(WireError::new(
                "discovery_archive_unwritable",
                ErrorClass::Unsupported,
                message,
            ));
        }
        let committed = self.store.commit(commit).await;
        committed.map(drop).map_err(|error| error.to_wire())
    }
}

/// The stream of a tool server, for those who watch one provider (V4); none for a name that is no
/// bounded text.
pub(crate) fn provider(server: &str) -> Option<StreamKey> {
    StreamKey::new(format!("provider/{server}")).ok()
}
