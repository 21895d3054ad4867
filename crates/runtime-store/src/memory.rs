//! A store in memory.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    Clock, CommitId, Digest, Random, RuntimeId, Secret, StreamKey, Tier, Timestamp,
};
use tokio::sync::watch;

use crate::state::State;
use crate::{
    AttachmentError, AttachmentStore, Capabilities, Commit, CommitError, Committed, EventPage,
    KeyRing, KeyRingStore, Limits, Page, Payload, Position, ReadError, RetentionUnit, Row, RowKey,
    RowPage, RowQuery, SigningKey, Store, StoreIdentity, SystemClock, SystemRandom,
};

/// How many events a unit of retention has.
const RETENTION_UNIT_EVENTS: usize = 16;

/// A store that lives as long as its process: tier [`Tier::Volatile`], dense positions.
///
/// A clone is the same store. Memory grows with the log until events are removed
/// ([`Removal`](crate::Removal)); an event id stays taken for good.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    closed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Shared {
    identity: StoreIdentity,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    contents: Mutex<Contents>,
    head: watch::Sender<Position>,
}

#[derive(Debug, Default)]
struct Contents {
    state: State,
    attachments: HashMap<Digest, Attachment>,
    keys: Vec<SigningKey>,
}

#[derive(Debug)]
struct Attachment {
    bytes: Payload,
    /// When it was last put, on the monotonic clock: a repeated put makes it young again, since
    /// the commit that names it is still to come.
    put: Duration,
}

impl MemoryStore {
    /// Makes an empty store with the machine's clock and randomness and the default limits.
    #[must_use]
    pub fn new(runtime: RuntimeId) -> Self {
        Self::with_parts(
            runtime,
            Arc::new(SystemClock::new()),
            Arc::new(SystemRandom),
            Limits::default(),
        )
    }

    /// Makes an empty store. The clock tells the age of attachments, the randomness makes the
    /// lineage and the keys.
    #[must_use]
    pub fn with_parts(
        runtime: RuntimeId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        limits: Limits,
    ) -> Self {
        let lineage = random.ten().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes any text");
            text
        });
        let shared = Shared {
            identity: StoreIdentity { runtime, lineage },
            capabilities: Capabilities {
                tier: Tier::Volatile,
                shared_by_processes: false,
                dense_positions: true,
                limits,
            },
            clock,
            random,
            contents: Mutex::default(),
            head: watch::Sender::new(Position::default()),
        };
        Self {
            shared: Arc::new(shared),
            closed: Arc::default(),
        }
    }

    /// Opens the same contents again: the new store is open even if this one is closed. It stands
    /// in for a restart in tests.
    #[must_use]
    pub fn reopen(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            closed: Arc::default(),
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Every change is made after all its checks and cannot panic half-way.
        self.shared
            .contents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> &Limits {
        &self.shared.capabilities.limits
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn fresh_key(&self, keys: &[SigningKey]) -> SigningKey {
        let mut secret = [0; 32];
        self.shared.random.fill(&mut secret);
        SigningKey {
            id: keys.last().map_or(1, |key| key.id + 1),
            secret: Secret::new(secret),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn identity(&self) -> &StoreIdentity {
        &self.shared.identity
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        // Hashing needs no lock.
        let content = commit.content_digest();
        let (committed, head) = {
            let contents = &mut *self.contents();
            // Asked under the lock: once `close` has returned nothing is committed any more.
            if self.is_closed() {
                return Err(CommitError::ReadOnly {
                    reason: "the store is closed".to_owned(),
                });
            }
            let attachments = &contents.attachments;
            let committed = contents
                .state
                .commit(commit, content, self.limits(), |name| {
                    attachments.contains_key(name)
                })?;
            (committed, contents.state.head())
        };
        // Another commit may have announced a later head already.
        self.shared.head.send_if_modified(|known| {
            let is_later = head > *known;
            *known = head.max(*known);
            is_later
        });
        Ok(committed)
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        Ok(self.contents().state.committed(id))
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        self.contents().state.id_time(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        Ok(self.contents().state.row(key))
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.contents().state.rows(&query, page, self.limits())
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.contents().state.events(stream, &page, self.limits())
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        let state = &self.contents().state;
        state.retention_units(&page, RETENTION_UNIT_EVENTS, self.limits())
    }

    async fn changed(&self, after: Position) -> Position {
        // Subscribing comes before the first look, so a commit in between is not missed.
        let mut head = self.shared.head.subscribe();
        *head
            .wait_for(|head| *head > after)
            .await
            .expect("the sender lives in this store")
    }

    async fn close(&self) -> Result<(), CommitError> {
        let _contents = self.contents();
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

#[async_trait]
impl AttachmentStore for MemoryStore {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        let digest = Digest::of_bytes(&bytes);
        let put = self.shared.clock.monotonic();
        let mut contents = self.contents();
        if self.is_closed() {
            return Err(AttachmentError::Unavailable {
                reason: "the store is closed".to_owned(),
                source: None,
            });
        }
        contents
            .attachments
            .entry(digest)
            .and_modify(|found| found.put = put)
            .or_insert(Attachment { bytes, put });
        Ok(digest)
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        let contents = self.contents();
        let found = contents.attachments.get(digest);
        found
            .map(|attachment| Arc::clone(&attachment.bytes))
            .ok_or(AttachmentError::NotFound { digest: *digest })
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        Ok(self.contents().attachments.contains_key(digest))
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        let now = self.shared.clock.monotonic();
        let is_old = |put: Duration| now.saturating_sub(put) >= min_age;
        let old: Vec<Digest> = {
            let contents = self.contents();
            let old =
                |(digest, found): (&Digest, &Attachment)| is_old(found.put).then_some(*digest);
            contents.attachments.iter().filter_map(old).collect()
        };
        // `live` is the caller's code, so it runs outside the lock.
        let orphans: Vec<Digest> = old.into_iter().filter(|digest| !live(digest)).collect();
        let contents = &mut *self.contents();
        let named = contents.state.named_attachments();
        let mut gone = HashSet::new();
        for digest in orphans {
            let found = contents.attachments.get(&digest);
            // Put again in between, it is young again and stays.
            if !named.contains(&digest) && found.is_some_and(|found| is_old(found.put)) {
                contents.attachments.remove(&digest);
                gone.insert(digest);
            }
        }
        contents.state.forget_attachments(&gone);
        Ok(gone.len())
    }
}

#[async_trait]
impl KeyRingStore for MemoryStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        {
            let keys = &self.contents().keys;
            if !keys.is_empty() {
                return Ok(KeyRing { keys: keys.clone() });
            }
        }
        // The source of randomness may be the host's code, so it runs outside the lock.
        let fresh = self.fresh_key(&[]);
        let keys = &mut self.contents().keys;
        if keys.is_empty() {
            keys.push(fresh);
        }
        Ok(KeyRing { keys: keys.clone() })
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        let known = self.key_ring().await?;
        let mut fresh = self.fresh_key(&known.keys);
        let keys = &mut self.contents().keys;
        // Another rotation may have come in between.
        fresh.id = keys.last().map_or(1, |key| key.id + 1);
        keys.push(fresh);
        Ok(KeyRing { keys: keys.clone() })
    }
}
