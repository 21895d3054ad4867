//! Warm starts: what is cached is written to an archive, and read back after a restart (M1).
//!
//! What comes back is stale, however young it is: it is served at once and fetched anew, and its
//! age counts by wall time. Nothing in an archive is trusted to be whole: an entry that is not
//! exactly what was written is dropped, and the server is asked instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use runtime_core::{Classified, Digest, ErrorClass, SessionId, Timestamp, WireError};
use serde::{Deserialize, Serialize};

use crate::{CacheKey, CacheValue, CatalogueChanged, DiscoveryCache, Owner};

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

    /// Saves an entry under a name, or removes it. `changes` are the events that tell of it, if
    /// the entry changed what was there: an archive that can, records all in one step.
    ///
    /// # Errors
    /// What went wrong; it is tried again with the next save.
    async fn save(
        &self,
        name: Digest,
        entry: Option<Arc<[u8]>>,
        changes: &[CatalogueChanged],
    ) -> Result<(), WireError>;
}

/// A value that can be written to an archive.
pub trait ArchivedValue: CacheValue + Sized {
    /// Encodes it.
    fn encode(&self) -> Vec<u8>;

    /// Reads it back; none if it is not exactly what `encode` wrote.
    fn decode(server: &str, bytes: &[u8]) -> Option<Self>;
}

/// Writes to an archive what landed. A seam, because a cache of any value has one and only values
/// that can be archived can fill it.
#[async_trait]
pub(crate) trait Keeper<V: CacheValue>: Send + Sync {
    /// Writes the keys that are marked.
    async fn keep(&self, cache: &DiscoveryCache<V>);

    /// Returns what went wrong last, if it is not made good yet.
    fn error(&self) -> Option<WireError>;
}

/// Keeps a cache in an archive.
struct ArchiveKeeper {
    archive: Arc<dyn CatalogueArchive>,
    /// One writes at a time, so that of two landings of a key the later one stays.
    writing: tokio::sync::Mutex<()>,
    error: Mutex<Option<WireError>>,
}

#[async_trait]
impl<V: ArchivedValue> Keeper<V> for ArchiveKeeper {
    async fn keep(&self, cache: &DiscoveryCache<V>) {
        let _writing = self.writing.lock().await;
        let mut error = None;
        for (key, changes) in cache.take_unkept() {
            if let Err(failed) = self.keep_one(cache, &key, &changes).await {
                cache.mark_unkept(key, changes);
                cache.count_archive_failure();
                tracing::warn!(%failed, "a tool list could not be archived");
                error = Some(failed);
            }
        }
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn error(&self) -> Option<WireError> {
        let error = self.error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ArchiveKeeper {
    /// Writes one key as it is cached now, unless the archive has it so already. A list that was
    /// only confirmed is written again when what stands there is half a window old: a server
    /// whose lists hold no time at all must not cost a write with each refresh.
    async fn keep_one<V: ArchivedValue>(
        &self,
        cache: &DiscoveryCache<V>,
        key: &CacheKey,
        changes: &[CatalogueChanged],
    ) -> Result<(), WireError> {
        let name = key.digest();
        let saved = cache.saved_stamp(name);
        let Some(entry) = cache.to_archive_of(key) else {
            if saved.is_some() {
                self.archive.save(name, None, changes).await?;
                cache.note_saved(name, None);
            }
            return Ok(());
        };
        let rest = cache.config().stale_window / 2;
        // A list that changed and changed back is as it was, and still told.
        let stands = changes.is_empty()
            && saved.is_some_and(|(digest, fetched_at)| {
                digest == entry.digest && entry.fetched_at.since(fetched_at) < rest
            });
        if !stands {
            let bytes = entry.encode();
            self.archive.save(name, Some(bytes), changes).await?;
            cache.note_saved(name, Some((entry.digest, entry.fetched_at)));
        }
        Ok(())
    }
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

    /// [Restores](Self::restore) from an archive, and from then on writes to it what each fetch
    /// brings, in the task of the fetch and after its callers have their answer: a restart starts
    /// warm, also after a kill. To be called once, before the first turn.
    ///
    /// What the archive does not take is counted, told by [`archive_error`](Self::archive_error),
    /// and written with the next landing or at [`close`](Self::close).
    ///
    /// # Errors
    /// [`ArchiveError::Load`]; nothing is restored then, and nothing will be written.
    ///
    /// # Cancel safety
    /// As [`restore`](Self::restore).
    pub async fn keep_in(
        &self,
        archive: Arc<dyn CatalogueArchive>,
    ) -> Result<RestoreReport, ArchiveError> {
        let report = self.restore(&*archive).await?;
        // Somebody else's archive stays; the second one was only read.
        self.set_keeper(Box::new(ArchiveKeeper {
            archive,
            writing: tokio::sync::Mutex::default(),
            error: Mutex::default(),
        }));
        Ok(report)
    }

    /// Returns why the archive that the cache is [kept](Self::keep_in) in took nothing, if that
    /// is not made good yet.
    #[must_use]
    pub fn archive_error(&self) -> Option<WireError> {
        self.keeper()?.error()
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
            match archive.save(name, Some(entry.encode()), &[]).await {
                Ok(()) => {
                    report.written += 1;
                    self.note_saved(name, Some(stamp));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for name in gone.into_keys() {
            match archive.save(name, None, &[]).await {
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
