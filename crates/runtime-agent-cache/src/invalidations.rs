//! Invalidations that every process of a runtime hears of (G2): durable events, read again from
//! where a reader stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use runtime_core::{Clock, EventDraft, EventId, EventKind, Random, StreamKey};
use runtime_store::{Commit, CommitError, NewEvent, Page, Position, ReadError, Store};
use serde::{Deserialize, Serialize};

use crate::{AgentCache, AgentKey, LeaseError};

/// The stream of the events: the cache is their provider.
const STREAM: &str = "provider/agent-cache";

/// Where invalidations are announced to all processes that share a store, and heard of.
///
/// # Law
/// What was announced after the position that a cache [follows](AgentCache::follow) from reaches
/// it, however often reading fails in between. If retention removed announcements that
/// it had not read, it retires everything: what it does not know could be any key.
#[derive(Clone)]
pub struct Invalidations {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidations").finish_non_exhaustive()
    }
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    tenant: String,
    name: String,
    version: u64,
}

/// What a reader found.
pub(crate) enum Heard {
    /// The newest version that was announced of each key, and where to go on.
    News(BTreeMap<AgentKey, u64>, Position),
    /// Some were removed before they were read; go on from here.
    Missed(Position),
    /// Nothing new up to here.
    Nothing(Position),
}

impl Invalidations {
    /// Makes the announcements of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self {
            store,
            clock,
            random,
        }
    }

    /// Announces that a version of an object's configuration is in force: one durable event
    /// (`agent_invalidated`). Every cache that follows invalidates to it, this process's included.
    ///
    /// # Errors
    /// What the store says; Indeterminate may be announced again, which changes nothing.
    ///
    /// # Cancel safety
    /// Dropping the future may or may not announce.
    pub async fn announce(&self, key: &AgentKey, version: u64) -> Result<Position, CommitError> {
        let announced = Announced {
            tenant: key.tenant().to_owned(),
            name: key.name().to_owned(),
            version,
        };
        let payload = serde_json::to_value(&announced).expect("it is plain data");
        let mut draft = EventDraft::new(EventKind::AgentInvalidated).with_payload(payload);
        draft.provider = Some(stream());
        let now = self.clock.now();
        let event = NewEvent::from_draft(EventId::generate(now, self.random.ten()), &draft);
        let commit = Commit::fresh(&*self.store, &*self.clock, &*self.random).event(event);
        let committed = self.store.commit(commit).await?;
        Ok(Position(committed.positions.start))
    }

    /// Returns where the log ends now: a cache that is still empty follows from here.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn head(&self) -> Result<Position, ReadError> {
        let page = Page::after(Position(0), 1);
        Ok(self.store.events(Some(&stream()), page).await?.head)
    }

    /// Reads what was announced after a position, a page at a time.
    pub(crate) async fn read(&self, after: Position) -> Result<Heard, ReadError> {
        let limit = self.store.capabilities().limits.page_entries_max;
        let page = Page::after(after, limit);
        let page = match self.store.events(Some(&stream()), page).await {
            // As after retention, nobody can say what was announced.
            Err(ReadError::CorruptEvents { to, .. }) => return Ok(Heard::Missed(to)),
            page => page?,
        };
        if page.pruned > after {
            return Ok(Heard::Missed(page.pruned));
        }
        if page.events.is_empty() && !page.has_more {
            return Ok(Heard::Nothing(page.next.max(page.head)));
        }
        // Of many announcements of a key only the newest is worth a build.
        let mut news = BTreeMap::new();
        for event in &page.events {
            let event = event.decode().ok();
            let announced =
                event.and_then(|event| Announced::deserialize(&event.draft.payload).ok());
            if let Some(announced) = announced {
                let key = AgentKey::new(&announced.tenant, &announced.name);
                let newest = news.entry(key).or_insert(announced.version);
                *newest = announced.version.max(*newest);
            }
        }
        Ok(Heard::News(news, page.next))
    }

    /// Waits until there may be something after a position.
    pub(crate) async fn changed(&self, after: Position) {
        self.store.changed(after).await;
    }
}

/// Lets a cache know of one invalidation; false if it could not take it now.
///
/// The rebuild is started, not waited for: a slow one must not hold back the next announcement.
pub(crate) fn deliver<V: Send + Sync + 'static>(
    cache: &AgentCache<V>,
    key: &AgentKey,
    version: u64,
) -> bool {
    let started = cache.invalidate(key, version).now_or_never();
    !matches!(
        started,
        Some(Err(LeaseError::BuildsBusy { .. } | LeaseError::Busy { .. }))
    )
}

fn stream() -> StreamKey {
    StreamKey::new(STREAM).expect("two words are a stream key")
}
