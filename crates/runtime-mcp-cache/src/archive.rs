//! Warm starts: what is cached is written to an archive, and read back after a restart (M1).
//!
//! What comes back is stale, however young it is: it is served at once and fetched anew, and its
//! age counts by wall time. Nothing in an archive is trusted to be whole: an entry that is not
//! exactly what was written is dropped, and the server is asked instead.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{Classified, Digest, ErrorClass, SessionId, Timestamp, WireError};
use serde::{Deserialize, Serialize};

use crate::{CacheKey, CacheValue, DiscoveryCache, Owner};

/// The version of the encoding; another one is not read.
const FORMAT: u32 = 1;

/// Where entries outlive the process.
///
/// It keeps bytes under names and reads nothing into them. See
/// [`StoreArchive`](crate::StoreArchive) for one in the rows of a store.
#[async_trait]
pub trait CatalogueArchive: Send + Sync + 'static {
    /// Returns what was saved, at most `entries_max` entries and about `bytes_max` bytes.
    ///
    /// # Errors
    /// What went wrong; the cache starts cold then.
    async fn load(
        &self,
        entries_max: usize,
        bytes_max: u64,
    ) -> Result<Vec<(Digest, Arc<[u8]>)>, WireError>;

    /// Saves an entry under a name, or removes it.
    ///
    /// # Errors
    /// What went wrong; it is tried again with the next save.
    async fn save(&self, name: Digest, entry: Option<Arc<[u8]>>) -> Result<(), WireError>;
}

/// A value that can be written to an archive.
pub trait ArchivedValue: CacheValue + Sized {
    /// Encodes it.
    fn encode(&self) -> Vec<u8>;

    /// Reads it back; none if it is not exactly what `encode` wrote.
    fn decode(server: &str, bytes: &[u8]) -> Option<Self>;
}

/// Why an archive gave or took nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It could not be read.
    #[error("the archive of tool lists cannot be read: {0}")]
    Load(#[source] WireError),
    /// It could not be written.
    #[error("the archive of tool lists cannot be written: {0}")]
    Save(#[source] WireError),
}

impl Classified for ArchiveError {
    fn code(&self) -> &'static str {
        match self {
            Self::Load(_) => "discovery_archive_unreadable",
            Self::Save(_) => "discovery_archive_unwritable",
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Load(error) | Self::Save(error) => error.class,
        }
    }
}

/// What a restart brought back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Entries that are served as stale from now on.
    pub restored: usize,
    /// Entries that are too old, or for which there is no room, or whose key was fetched already.
    pub skipped: usize,
    /// Entries that are damaged, foreign, or over a limit.
    pub refused: usize,
}

/// What a save did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveReport {
    /// Entries written.
    pub written: usize,
    /// Entries removed: they are cached no more, or their credential was refused.
    pub removed: usize,
    /// Entries that stand in the archive as they are.
    pub unchanged: usize,
}

/// What is known to stand in the archive: the content and when it was fetched.
pub(crate) type Saved = HashMap<Digest, (Digest, Timestamp)>;

/// An entry on its way to or from an archive.
#[derive(Debug)]
pub(crate) struct Archived<V> {
    pub(crate) key: CacheKey,
    pub(crate) value: Arc<V>,
    pub(crate) digest: Digest,
    pub(crate) fetched_at: Timestamp,
    pub(crate) stale_at: Timestamp,
}

/// The head of an encoded entry; the value follows after a newline.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    server: String,
    session: Option<SessionId>,
    key: Digest,
    /// Of the bytes of the value.
    checksum: Digest,
    fetched_at: Timestamp,
    stale_at: Timestamp,
}

impl<V: ArchivedValue> Archived<V> {
    fn encode(&self) -> Arc<[u8]> {
        let value = self.value.encode();
        let head = Head {
            format: FORMAT,
            server: self.key.server().to_owned(),
            session: match self.key.owner() {
                Owner::Shared => None,
                Owner::Session(session) => Some(session.clone()),
            },
            key: self.key.digest(),
            checksum: Digest::of_bytes(&value),
            fetched_at: self.fetched_at,
            stale_at: self.stale_at,
        };
        let mut bytes = serde_json::to_vec(&head).expect("a head of plain fields can be written");
        bytes.push(b'\n');
        bytes.extend(value);
        bytes.into()
    }

    fn decode(name: Digest, bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let (head, value) = (&bytes[..end], &bytes[end + 1..]);
        let head: Head = serde_json::from_slice(head).ok()?;
        let whole = head.format == FORMAT
            && head.key == name
            && head.checksum == Digest::of_bytes(value)
            && head.fetched_at <= head.stale_at;
        if !whole {
            return None;
        }
        let value = V::decode(&head.server, value)?;
        let owner = head.session.map_or(Owner::Shared, Owner::Session);
        Some(Self {
            key: CacheKey::restored(owner, head.server, head.key),
            digest: value.digest(),
            value: Arc::new(value),
            fetched_at: head.fetched_at,
            stale_at: head.stale_at,
        })
    }
}

impl<V: ArchivedValue> DiscoveryCache<V> {
    /// Reads back what [`save`](Self::save) wrote: to be called once, before the first turn.
    ///
    /// An entry that is still within its window is served as stale, with its age by wall time;
    /// its first caller starts one refresh. An entry that is damaged or too old, or for which
    /// there is no room, is left out: its server is asked as if there had been no archive. What
    /// has been fetched meanwhile is not overwritten.
    ///
    /// # Errors
    /// [`ArchiveError::Load`]; nothing is restored then.
    ///
    /// # Cancel safety
    /// Dropping the future restores nothing, or what was restored so far.
    pub async fn restore(
        &self,
        archive: &dyn CatalogueArchive,
    ) -> Result<RestoreReport, ArchiveError> {
        let config = self.config();
        let loaded = archive
            .load(config.entries_max, config.total_bytes_max)
            .await
            .map_err(ArchiveError::Load)?;
        let mut report = RestoreReport::default();
        for (name, bytes) in loaded.into_iter().take(config.entries_max) {
            let entry = Archived::<V>::decode(name, &bytes);
            let Some(entry) = entry.filter(|entry| self.may_keep(&entry.value)) else {
                tracing::warn!(entry = %name, "an archived tool list was refused");
                report.refused += 1;
                self.note_refused(name);
                continue;
            };
            if self.put_restored(entry) {
                report.restored += 1;
            } else {
                report.skipped += 1;
            }
        }
        Ok(report)
    }

    /// Writes what is cached to an archive, and removes what is cached no more. Only what differs
    /// from the last save or restore is written, so it may be called after every change.
    ///
    /// Failures, and entries whose credential was refused, are not kept.
    ///
    /// # Errors
    /// [`ArchiveError::Save`], the first one; the rest is tried all the same.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some entries unsaved; the next save writes them.
    pub async fn save(&self, archive: &dyn CatalogueArchive) -> Result<SaveReport, ArchiveError> {
        let mut report = SaveReport::default();
        let (mut gone, mut failed) = (self.saved(), None);
        for entry in self.to_archive() {
            let (name, stamp) = (entry.key.digest(), (entry.digest, entry.fetched_at));
            if gone.remove(&name) == Some(stamp) {
                report.unchanged += 1;
                continue;
            }
            match archive.save(name, Some(entry.encode())).await {
                Ok(()) => {
                    report.written += 1;
                    self.note_saved(name, Some(stamp));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for name in gone.into_keys() {
            match archive.save(name, None).await {
                Ok(()) => {
                    report.removed += 1;
                    self.note_saved(name, None);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(report), |error| Err(ArchiveError::Save(error)))
    }
}
