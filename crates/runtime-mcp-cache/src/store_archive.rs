//! An archive in the rows of a store.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Classified as _, Clock, Digest, ErrorClass, EventKind, Random, ScopeId, WireError,
};
use runtime_store::{NewEvent, RowChange, Store};
use serde_json::json;

use crate::rows::{NAMES_MAX, Rows};
use crate::{CatalogueArchive, CatalogueChanged};

/// The space of the rows: one for each entry, named by its key.
const SPACE: &str = "mcp-catalogue";

/// Keeps tool lists in the rows of a [`Store`], under one scope.
///
/// An entry is one row. Writing it again replaces it. A list that [changed](CatalogueChanged) is
/// told by an event of the runtime in the same commit; nothing else in the store is touched.
#[derive(Debug)]
pub struct StoreArchive(Rows);

impl StoreArchive {
    /// Makes an archive; caches of the same scope share it.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        scope: ScopeId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self(Rows::new(SPACE, store, scope, clock, random))
    }

    /// The event of the runtime that tells of a changed list, with at most
    /// [`NAMES_MAX`] names of each sort.
    fn event(&self, changed: &CatalogueChanged) -> NewEvent {
        let names = |names: &[String]| names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
        let server = changed.key.server();
        let changes = &changed.changes;
        let payload = json!({
            "server": server,
            "previous": changed.previous,
            "current": changed.current,
            "added": names(&changes.added),
            "removed": names(&changes.removed),
            "changed": names(&changes.changed),
            "names": changes.added.len() + changes.removed.len() + changes.changed.len(),
        });
        self.0
            .event(EventKind::ToolListChanged, server, payload, None)
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
            let rows = self.0.page(after.take(), entries_max - entries.len()).await;
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
        let key = self.0.key(&name.to_string());
        let change = match entry {
            Some(entry) => RowChange::put(key, entry),
            None => RowChange::Delete(key),
        };
        let mut commit = self.0.commit(None).row(change);
        for changed in changes {
            commit = commit.event(self.event(changed));
        }
        let bytes_max = self.0.store.capabilities().limits.commit_bytes_max;
        if commit.bytes() > bytes_max {
            let message = format!("the entry is larger than a commit of {bytes_max} bytes");
            return Err(WireError::new(
                "discovery_archive_unwritable",
                ErrorClass::Unsupported,
                message,
            ));
        }
        let committed = self.0.store.commit(commit).await;
        committed.map(drop).map_err(|error| error.to_wire())
    }
}
