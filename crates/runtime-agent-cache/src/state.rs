//! Who is cached, who is being built, and who must go: every decision, under one lock, with the
//! moment given as an argument.
//!
//! Nothing of the host runs in here. What has to be dropped is handed out in a [`Trash`], which
//! the caller drops after the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::generation::Generation;
use crate::sync::{Fault, is_planted};
use crate::{AgentKey, Build, Lease, LeaseError, Ttl};

/// What passengers of a build get; none if there is nothing to build.
pub(crate) type Landing<V> = Result<Option<Lease<V>>, LeaseError>;

pub(crate) struct State<V: Send + 'static> {
    pub(crate) open: bool,
    pub(crate) slots: HashMap<AgentKey, Slot<V>>,
    /// Keys by when they were last leased.
    recency: BTreeMap<u64, AgentKey>,
    tick: u64,
    /// Seats held for builds of keys that have no object yet.
    pub(crate) reserved: usize,
    pub(crate) builds: usize,
    /// Counts evictions, so that a build of shadow mode knows that one came between.
    pub(crate) evictions: u64,
}

pub(crate) struct Slot<V: Send + 'static> {
    /// Tells the slot of a key from the one that it had before it was evicted.
    pub(crate) number: u64,
    pub(crate) resident: Option<Resident<V>>,
    pub(crate) builder: Arc<dyn Build<V>>,
    pub(crate) ttl: Ttl,
    pub(crate) build: Option<Building<V>>,
    pub(crate) trouble: Option<Trouble>,
}

pub(crate) struct Resident<V: Send + 'static> {
    pub(crate) generation: Arc<Generation<V>>,
    pub(crate) expires_at: Option<Duration>,
    tick: u64,
}

pub(crate) struct Building<V: Send + 'static> {
    pub(crate) number: u64,
    pub(crate) version: u64,
    pub(crate) landing: watch::Receiver<Option<Landing<V>>>,
}

/// A rebuild that failed; the old object stays.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) version: u64,
    pub(crate) error: LeaseError,
    pub(crate) attempts: u32,
    pub(crate) retry_at: Duration,
}

/// What is to be dropped outside the lock.
pub(crate) struct Trash<V: Send + 'static> {
    pub(crate) generations: Vec<Arc<Generation<V>>>,
    pub(crate) builders: Vec<Arc<dyn Build<V>>>,
}

impl<V: Send + 'static> Default for Trash<V> {
    fn default() -> Self {
        Self {
            generations: Vec::new(),
            builders: Vec::new(),
        }
    }
}

/// What became of a newcomer.
pub(crate) enum Placed<V: Send + 'static> {
    /// It is the object of its key now; `swapped` if it replaced an older one.
    Kept { swapped: bool },
    /// The resident is as new or newer.
    Beaten { resident: Lease<V>, same: bool },
}

impl<V: Send + 'static> Resident<V> {
    pub(crate) fn is_expired(&self, now: Duration) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    fn is_idle(&self) -> bool {
        // Exact under the lock: new leases come from here only.
        Arc::strong_count(&self.generation) == 1
    }

    pub(crate) fn lease(&self) -> Lease<V> {
        Lease(Arc::clone(&self.generation))
    }
}

impl<V: Send + 'static> Default for State<V> {
    fn default() -> Self {
        Self {
            open: true,
            slots: HashMap::new(),
            recency: BTreeMap::new(),
            tick: 0,
            reserved: 0,
            builds: 0,
            evictions: 0,
        }
    }
}

impl<V: Send + 'static> State<V> {
    /// Returns the version of the object that may be leased.
    pub(crate) fn version(&self, key: &AgentKey, now: Duration) -> Option<u64> {
        let resident = self.slots.get(key)?.resident.as_ref()?;
        (!resident.is_expired(now)).then_some(resident.generation.version)
    }

    /// Leases the object of a key and remembers that it was used.
    pub(crate) fn lease(&mut self, key: &AgentKey, now: Duration) -> Option<Lease<V>> {
        let resident = self.slots.get_mut(key)?.resident.as_mut()?;
        if resident.is_expired(now) {
            return None;
        }
        self.tick += 1;
        let place = self.recency.remove(&resident.tick);
        resident.tick = self.tick;
        self.recency
            .insert(self.tick, place.unwrap_or_else(|| key.clone()));
        Some(resident.lease())
    }

    /// Retires the object of a key if its time is over.
    pub(crate) fn retire_expired(
        &mut self,
        key: &AgentKey,
        now: Duration,
        trash: &mut Trash<V>,
    ) -> bool {
        let expired = |slot: &Slot<V>| slot.resident.as_ref().is_some_and(|r| r.is_expired(now));
        let found = self.slots.get(key).is_some_and(expired);
        if found {
            self.retire(key, trash);
            self.forget_if_empty(key, trash);
        }
        found
    }

    /// Retires every object whose time is over; returns how many.
    pub(crate) fn sweep(&mut self, now: Duration, trash: &mut Trash<V>) -> usize {
        let keys: Vec<_> = self.slots.keys().cloned().collect();
        let expired = keys
            .iter()
            .filter(|key| self.retire_expired(key, now, trash));
        expired.count()
    }

    /// Retires the object of a key: it gives no new lease, and goes with its last one.
    pub(crate) fn retire(&mut self, key: &AgentKey, trash: &mut Trash<V>) -> bool {
        let Some(slot) = self.slots.get_mut(key) else {
            return false;
        };
        slot.trouble = None;
        let Some(resident) = slot.resident.take() else {
            return false;
        };
        self.recency.remove(&resident.tick);
        if resident.is_idle() || is_planted(Fault::LeasedIsDoomed) {
            resident.generation.doom();
        }
        if is_planted(Fault::RetiredIsLost) {
            std::mem::forget(resident.generation);
            return true;
        }
        trash.generations.push(resident.generation);
        true
    }

    /// Removes a key, and with it the claim of a build under way to be kept.
    pub(crate) fn evict(&mut self, key: &AgentKey, trash: &mut Trash<V>) -> bool {
        self.evictions += 1;
        let retired = self.retire(key, trash);
        if let Some(slot) = self.slots.remove(key) {
            trash.builders.push(slot.builder);
        }
        retired
    }

    /// Evicts every key; returns how many objects were retired.
    pub(crate) fn retire_all(&mut self, trash: &mut Trash<V>) -> usize {
        let keys: Vec<_> = self.slots.keys().cloned().collect();
        let retired = keys.iter().filter(|key| self.evict(key, trash));
        retired.count()
    }

    pub(crate) fn forget_if_empty(&mut self, key: &AgentKey, trash: &mut Trash<V>) {
        let empty = |slot: &Slot<V>| slot.resident.is_none() && slot.build.is_none();
        if self.slots.get(key).is_some_and(empty)
            && let Some(slot) = self.slots.remove(key)
        {
            trash.builders.push(slot.builder);
        }
    }

    /// Makes room for one more: retires idle objects, the least recently used first, but none if
    /// that would not be enough. Returns how many went.
    pub(crate) fn admit(
        &mut self,
        alive: usize,
        entries_max: usize,
        trash: &mut Trash<V>,
    ) -> Result<usize, LeaseError> {
        let excess = (alive + self.reserved + 1).saturating_sub(entries_max);
        let idle = |key: &&AgentKey| {
            // While a newer one is being built its seat is needed.
            let settled = self.slots.get(*key).filter(|slot| slot.build.is_none());
            let resident = settled.and_then(|slot| slot.resident.as_ref());
            resident.is_some_and(Resident::is_idle)
        };
        let victims: Vec<_> = self
            .recency
            .values()
            .filter(idle)
            .take(excess)
            .cloned()
            .collect();
        if victims.len() < excess {
            return Err(LeaseError::Busy { entries_max });
        }
        for victim in &victims {
            self.retire(victim, trash);
            self.forget_if_empty(victim, trash);
        }
        Ok(victims.len())
    }

    /// Makes a newcomer the object of its key, if it is strictly newer than what is there. One of
    /// the same version extends the time of what is there.
    pub(crate) fn place(
        &mut self,
        newcomer: &Arc<Generation<V>>,
        builder: &Arc<dyn Build<V>>,
        (ttl, ttl_max): (Ttl, Duration),
        now: Duration,
        trash: &mut Trash<V>,
    ) -> Placed<V> {
        let key = &newcomer.key;
        let expires_at = ttl.capped(ttl_max).map(|ttl| now.saturating_add(ttl));
        self.retire_expired(key, now, trash);
        if let Some(resident) = self
            .slots
            .get_mut(key)
            .and_then(|slot| slot.resident.as_mut())
            && resident.generation.version >= newcomer.version
            && !is_planted(Fault::OlderReplaces)
        {
            let same = resident.generation.version == newcomer.version;
            if same {
                resident.expires_at = expires_at;
            }
            let resident = resident.lease();
            return Placed::Beaten { resident, same };
        }
        // A still newer version that could not be built stays wanted, and visibly so (G2): the
        // builds of two versions end in any order.
        let newer = |trouble: &mut Trouble| trouble.version > newcomer.version;
        let slot = self.slots.get_mut(key);
        let wanted = slot.and_then(|slot| slot.trouble.take_if(newer));
        let swapped = self.retire(key, trash);
        self.tick += 1;
        self.recency.insert(self.tick, key.clone());
        let resident = Resident {
            generation: Arc::clone(newcomer),
            expires_at,
            tick: self.tick,
        };
        let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot {
            number: newcomer.number,
            resident: None,
            builder: Arc::clone(builder),
            ttl,
            build: None,
            trouble: None,
        });
        slot.resident = Some(resident);
        slot.trouble = wanted;
        slot.use_builder(builder, ttl, trash);
        Placed::Kept { swapped }
    }
}

impl<V: Send + 'static> Slot<V> {
    /// Keeps the latest builder.
    pub(crate) fn use_builder(
        &mut self,
        builder: &Arc<dyn Build<V>>,
        ttl: Ttl,
        trash: &mut Trash<V>,
    ) {
        self.ttl = ttl;
        if !Arc::ptr_eq(&self.builder, builder) {
            let old = std::mem::replace(&mut self.builder, Arc::clone(builder));
            trash.builders.push(old);
        }
    }
}
