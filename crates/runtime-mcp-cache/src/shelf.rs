//! Where entries stand: a sharded map to read, seats to evict by second chance (M5).
//!
//! Readers touch one shard and no other lock. Writers come one at a time (they hold the lock of
//! the flight board), so the seats are never contended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use runtime_core::{Digest, WireError};

use crate::CacheKey;
use crate::policy::Record;

/// What is kept of one key.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    pub(crate) record: Record,
    pub(crate) held: Option<Held<V>>,
    pub(crate) error: Option<Arc<WireError>>,
    /// The flight that brought it.
    pub(crate) flight: u64,
    pub(crate) seat: usize,
    /// Read since the hand last passed.
    pub(crate) referenced: AtomicBool,
    /// Until when (milliseconds) somebody is refreshing it: callers of a stale entry then go
    /// past the flight board. A claim runs out by itself if its refresh dies.
    pub(crate) claimed_until: AtomicU64,
}

/// A value with what was asked of it once.
#[derive(Debug)]
pub(crate) struct Held<V> {
    pub(crate) value: Arc<V>,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl<V> Clone for Held<V> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            ..*self
        }
    }
}

impl<V> Entry<V> {
    pub(crate) fn new(
        record: Record,
        held: Option<Held<V>>,
        error: Option<Arc<WireError>>,
        flight: u64,
    ) -> Self {
        Self {
            record,
            held,
            error,
            flight,
            seat: 0,
            referenced: AtomicBool::new(false),
            claimed_until: AtomicU64::new(0),
        }
    }

    fn bytes(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.bytes)
    }

    /// Marks it as read. The load first keeps hot entries from bouncing a cache line.
    pub(crate) fn touch(&self) {
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// Claims the refresh for whoever is first.
    pub(crate) fn claim(&self, now: u64, until: u64) -> bool {
        let claimed = self.claimed_until.load(Ordering::Relaxed);
        claimed <= now
            && self
                .claimed_until
                .compare_exchange(claimed, until, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[derive(Debug)]
pub(crate) struct Shelf<V> {
    pub(crate) entries: DashMap<CacheKey, Entry<V>>,
    seats: Mutex<Seats>,
    entries_max: usize,
    bytes_max: u64,
}

/// What went when an entry was put in its place.
#[derive(Debug)]
pub(crate) struct Gone<V> {
    pub(crate) replaced: Option<Entry<V>>,
    pub(crate) evicted: Vec<(CacheKey, Entry<V>)>,
}

#[derive(Debug, Default)]
struct Seats {
    keys: Vec<Option<CacheKey>>,
    free: Vec<usize>,
    hand: usize,
    bytes: u64,
}

impl<V> Shelf<V> {
    pub(crate) fn new(entries_max: usize, bytes_max: u64) -> Self {
        Self {
            entries: DashMap::new(),
            seats: Mutex::default(),
            entries_max: entries_max.max(1),
            bytes_max,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.seats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bytes
    }

    /// Puts an entry in its place and makes room for it. Returns what went, so that the caller
    /// drops it outside of every lock.
    pub(crate) fn put(&self, key: &CacheKey, mut entry: Entry<V>) -> Gone<V> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.entries.get(key).map(|old| (old.seat, old.bytes()));
        let (own, old_bytes) = present.map_or((None, 0), |(seat, bytes)| (Some(seat), bytes));
        seats.bytes = seats.bytes - old_bytes + entry.bytes();
        let mut evicted = Vec::new();
        // Around once to take away second chances, once to find a victim; a third time without
        // asking, because readers may give chances back faster than the hand takes them.
        let around = seats.keys.len();
        for turn in 0..3 * around {
            let full =
                own.is_none() && seats.free.is_empty() && seats.keys.len() >= self.entries_max;
            if !full && seats.bytes <= self.bytes_max {
                break;
            }
            evicted.extend(self.turn_the_hand(&mut seats, own, turn >= 2 * around));
        }
        entry.seat = own.unwrap_or_else(|| seats.take(key));
        let replaced = self.entries.insert(key.clone(), entry);
        Gone { replaced, evicted }
    }

    pub(crate) fn remove(&self, key: &CacheKey) -> Option<Entry<V>> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, entry) = self.entries.remove(key)?;
        seats.leave(entry.seat, entry.bytes());
        Some(entry)
    }

    /// Moves the hand by one seat; evicts who sits there unless it was read since, or is `own`.
    fn turn_the_hand(
        &self,
        seats: &mut Seats,
        own: Option<usize>,
        force: bool,
    ) -> Option<(CacheKey, Entry<V>)> {
        let seat = seats.hand % seats.keys.len();
        seats.hand = seat + 1;
        if own == Some(seat) {
            return None;
        }
        let key = seats.keys[seat].clone()?;
        let unread = |entry: &Entry<V>| !entry.referenced.swap(false, Ordering::Relaxed) || force;
        let evicted = self.entries.remove_if(&key, |_, entry| unread(entry))?;
        seats.leave(seat, evicted.1.bytes());
        Some(evicted)
    }
}

impl Seats {
    fn take(&mut self, key: &CacheKey) -> usize {
        match self.free.pop() {
            Some(seat) => {
                self.keys[seat] = Some(key.clone());
                seat
            }
            None => {
                self.keys.push(Some(key.clone()));
                self.keys.len() - 1
            }
        }
    }

    fn leave(&mut self, seat: usize, bytes: u64) {
        self.keys[seat] = None;
        self.free.push(seat);
        self.bytes -= bytes;
    }
}
