//! The cache: what a caller sees of policy, shelf and flights.

mod landing;

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use runtime_core::{Classified as _, Clock, Digest, Random, Timestamp};
use tokio::sync::Semaphore;

use crate::archive::{Archived, Keeper, Saved};
use crate::counters::Counters;
use crate::flight::{Boarding, Flights, Ticket};
use crate::policy::{Decision, Life, Moment, PAST, Record, Trouble, decide};
use crate::shelf::{Entry, Held, Shelf};
use crate::sync::{JoinSet, Mutex, MutexGuard, PoisonError, watch};
use crate::{
    Answer, CacheConfig, CacheCounters, CacheKey, CacheObserver, CacheValue, CatalogueChanged,
    DiscoveryError, Fetch, State, UncachedReason,
};

use self::landing::{Failure, Outcome, Weighed, weigh};

/// A cache of what servers list.
///
/// Cheap to clone; the clones are one cache. See the crate for what the answers mean.
pub struct DiscoveryCache<V>(Arc<Inner<V>>);

struct Inner<V> {
    config: CacheConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    observer: Option<Arc<dyn CacheObserver>>,
    shelf: Shelf<V>,
    flights: Flights<CacheKey, Answer<V>>,
    running: Semaphore,
    closing: watch::Sender<bool>,
    /// None once closed.
    tasks: Mutex<Option<JoinSet<()>>>,
    counters: Counters,
    /// What stands in the archive, if there is one.
    saved: Mutex<Saved>,
    /// Who writes to the archive after each landing, if anybody does.
    keeper: OnceLock<Box<dyn Keeper<V>>>,
    /// The keys that the keeper has yet to look at, and the changes it has yet to tell of.
    unkept: Mutex<Unkept>,
}

/// Keys that are to be written to the archive, with the changes that are to be told with them.
pub(crate) type Unkept = HashMap<CacheKey, Vec<CatalogueChanged>>;

/// How many changes of one key wait for an archive that takes nothing; the oldest go first.
const CHANGES_MAX: usize = 16;

/// A flight in its task: lands once, and is taken off the board if the task is ended before.
struct Airborne<V: CacheValue> {
    inner: Arc<Inner<V>>,
    ticket: Option<Ticket<CacheKey, Answer<V>>>,
}

impl<V: CacheValue> Drop for Airborne<V> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.inner.flights.abandon(ticket);
        }
    }
}

impl<V> Clone for DiscoveryCache<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> fmt::Debug for DiscoveryCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryCache")
            .field("entries", &self.0.shelf.entries.len())
            .finish_non_exhaustive()
    }
}

impl<V: CacheValue> DiscoveryCache<V> {
    /// Makes an empty cache.
    #[must_use]
    pub fn new(config: CacheConfig, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self::build(config, clock, random, None)
    }

    /// Makes an empty cache that tells `observer` of every changed value.
    #[must_use]
    pub fn with_observer(
        config: CacheConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        observer: Arc<dyn CacheObserver>,
    ) -> Self {
        Self::build(config, clock, random, Some(observer))
    }

    fn build(
        config: CacheConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        observer: Option<Arc<dyn CacheObserver>>,
    ) -> Self {
        Self(Arc::new(Inner {
            shelf: Shelf::new(config.entries_max, config.total_bytes_max),
            running: Semaphore::new(config.discoveries_max.clamp(1, Semaphore::MAX_PERMITS)),
            config,
            clock,
            random,
            observer,
            flights: Flights::default(),
            closing: watch::Sender::new(false),
            tasks: Mutex::new(Some(JoinSet::new())),
            counters: Counters::default(),
            saved: Mutex::new(Saved::new()),
            keeper: OnceLock::new(),
            unkept: Mutex::default(),
        }))
    }

    /// Answers from the cache, or waits for the one fetch of this key.
    ///
    /// It never fails: what went wrong is in the answer. `fetch` is used only if a fetch has to
    /// start; it then runs in a task of the cache.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the fetch running for everybody else.
    ///
    /// # Panics
    /// Outside a tokio runtime, if a fetch has to start.
    pub async fn get<F: Fetch<V> + ?Sized>(&self, key: &CacheKey, fetch: &Arc<F>) -> Answer<V> {
        let now = self.0.now();
        if let Some(answer) = self.0.fresh(key, now) {
            return answer;
        }
        let (answer, claimed) = self.0.look(key, now, true);
        match answer {
            Some(answer) => {
                if claimed {
                    self.refresh(key, fetch);
                }
                answer
            }
            None => self.fetch_shared(key, fetch, 0).await,
        }
    }

    /// Answers from the cache only: starts nothing, waits for nothing, counts as no read.
    #[must_use]
    pub fn peek(&self, key: &CacheKey) -> Option<Answer<V>> {
        self.0.look(key, self.0.now(), false).0
    }

    /// Fetches anew and waits for it, whatever is cached: a fetch that starts after this call,
    /// shared with everybody who asks so. Lifts a block and a pause after failures.
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub async fn reload<F: Fetch<V> + ?Sized>(&self, key: &CacheKey, fetch: &Arc<F>) -> Answer<V> {
        let now = self.0.now();
        let horizon = self.0.flights.outdate(key, |next| {
            self.0
                .change(key, |record| record.marked_stale(now).pardoned());
            next
        });
        self.fetch_shared(key, fetch, horizon).await
    }

    /// Fetches anew like [`reload`](Self::reload), but at most once per `refresh_interval_min`,
    /// and not while blocked or paused: what an unknown-tool answer of a server asks for (M4).
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub async fn refetch<F: Fetch<V> + ?Sized>(&self, key: &CacheKey, fetch: &Arc<F>) -> Answer<V> {
        let now = self.0.now();
        let horizon = self.0.flights.outdate(key, |next| {
            self.0.change(key, |record| record.marked_stale(now));
            next
        });
        let (answer, claimed) = self.0.look(key, now, true);
        match answer {
            Some(answer) if !claimed => answer,
            _ => self.fetch_shared(key, fetch, horizon).await,
        }
    }

    /// Declares the value out of date: the server said `list_changed`, or was connected anew. The
    /// next caller still gets it and starts one refresh; a fetch under way lands as stale.
    pub fn mark_stale(&self, key: &CacheKey) {
        let now = self.0.now();
        self.0.flights.outdate(key, |_| {
            self.0.change(key, |record| record.marked_stale(now));
        });
    }

    /// Lifts a block and a pause after failures: a new credential is there.
    pub fn unblock(&self, key: &CacheKey) {
        self.0.flights.outdate(key, |_| {
            self.0.change(key, Record::pardoned);
        });
    }

    /// Forgets the key. A fetch under way is stored no more; its callers still get what it brings.
    pub fn invalidate(&self, key: &CacheKey) {
        let gone = self.0.flights.ground(key, || self.0.shelf.remove(key));
        if gone.is_some() {
            self.0.mark_unkept(key.clone(), Vec::new());
        }
        // Only here, outside the lock, a value may be dropped.
        drop(gone);
    }

    /// Returns the number of keys kept, failures included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.shelf.entries.len()
    }

    /// Says whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all values kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.shelf.bytes()
    }

    /// Returns the number of fetches that run or wait for their turn, those of invalidated keys
    /// included; never more than `flights_max`.
    #[must_use]
    pub fn flights(&self) -> usize {
        self.0.flights.len()
    }

    /// Returns what was counted so far.
    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        self.0.counters.read()
    }

    /// Returns the bounds.
    #[must_use]
    pub fn config(&self) -> &CacheConfig {
        &self.0.config
    }

    /// Ends every fetch and waits until none runs; those who wait for one are answered. What is
    /// cached is still served, nothing is fetched any more. A cache that is
    /// [kept](Self::keep_in) writes what it has not written yet.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the fetches instead of waiting for them.
    pub async fn close(&self) {
        let tasks = self.0.tasks().take();
        self.0.closing.send_replace(true);
        let Some(mut tasks) = tasks else { return };
        while tasks.join_next().await.is_some() {}
        if let Some(keeper) = self.0.keeper.get() {
            keeper.keep(self).await;
        }
    }

    /// Sets who writes to the archive from now on; false if somebody does already.
    pub(crate) fn set_keeper(&self, keeper: Box<dyn Keeper<V>>) -> bool {
        self.0.keeper.set(keeper).is_ok()
    }

    pub(crate) fn keeper(&self) -> Option<&dyn Keeper<V>> {
        self.0.keeper.get().map(|keeper| &**keeper)
    }

    /// Takes the keys that changed since they were taken last.
    pub(crate) fn take_unkept(&self) -> Unkept {
        std::mem::take(&mut *self.0.unkept())
    }

    /// Gives a key back that could not be written.
    pub(crate) fn mark_unkept(&self, key: CacheKey, changes: Vec<CatalogueChanged>) {
        self.0.mark_unkept(key, changes);
    }

    pub(crate) fn count_archive_failure(&self) {
        self.0.counters.archive_failures.add(1);
    }

    /// Says whether a value is within the limits of what is kept.
    pub(crate) fn may_keep(&self, value: &V) -> bool {
        self.0.config.is_kept(value.bytes(), value.tools())
    }

    /// Returns what an archive is to hold; nothing whose credential was refused.
    pub(crate) fn to_archive(&self) -> Vec<Archived<V>> {
        let entries = self.0.shelf.entries.iter();
        entries
            .filter_map(|entry| self.0.archived(entry.key(), entry.value()))
            .collect()
    }

    /// Returns what an archive is to hold of one key.
    pub(crate) fn to_archive_of(&self, key: &CacheKey) -> Option<Archived<V>> {
        let entry = self.0.shelf.entries.get(key)?;
        self.0.archived(key, &entry)
    }

    /// Returns the stamp of what stands in the archive under a name.
    pub(crate) fn saved_stamp(&self, name: Digest) -> Option<(Digest, Timestamp)> {
        self.0.saved_lock().get(&name).copied()
    }

    /// Remembers that something unreadable stands in the archive, so that the next save removes it.
    pub(crate) fn note_refused(&self, name: Digest) {
        let nothing = (Digest::from_bytes([0; 32]), Timestamp::from_millis(0));
        self.0.note_saved(name, Some(nothing));
    }

    /// Keeps an archived entry as stale; false if it is too old, nothing may be evicted for it, or
    /// its key is known already.
    pub(crate) fn put_restored(&self, archived: Archived<V>) -> bool {
        let inner = &self.0;
        let stamp = (archived.digest, archived.fetched_at);
        inner.note_saved(archived.key.digest(), Some(stamp));
        let (now, wall) = (inner.now(), inner.clock.now());
        let life = Life {
            fetched_at: now.saturating_sub(wall.since(archived.fetched_at)),
            stale_at: now.saturating_sub(wall.since(archived.stale_at)),
        };
        let record = Record {
            life: Some(life),
            ..Record::NEW
        };
        if decide(&record, &inner.config, now) == Decision::Cold {
            return false;
        }
        let held = Held {
            digest: archived.digest,
            bytes: archived.value.bytes(),
            value: archived.value,
        };
        let (key, bytes) = (archived.key, held.bytes);
        let entry = Entry::new(record, Some(held), None, 0);
        inner.flights.meanwhile(|| {
            let room = inner.shelf.entries.len() < inner.config.entries_max
                && inner.shelf.bytes().saturating_add(bytes) <= inner.config.total_bytes_max;
            let restores = room && !inner.shelf.entries.contains_key(&key);
            if restores {
                inner.shelf.put(&key, entry);
            }
            restores
        })
    }

    pub(crate) fn saved(&self) -> Saved {
        self.0.saved_lock().clone()
    }

    pub(crate) fn note_saved(&self, name: Digest, stamp: Option<(Digest, Timestamp)>) {
        self.0.note_saved(name, stamp);
    }

    /// Waits for the fetch of a key, or starts it. Only a fetch numbered `horizon` or later will
    /// do, and only what such a fetch stored.
    async fn fetch_shared<F: Fetch<V> + ?Sized>(
        &self,
        key: &CacheKey,
        fetch: &Arc<F>,
        horizon: u64,
    ) -> Answer<V> {
        let inner = &self.0;
        loop {
            let look = || inner.landed_since(key, horizon);
            let passenger = match inner.flights.board(key, inner.config.flights_max, look) {
                Boarding::Found(answer) => return answer,
                Boarding::Full => return inner.unstored(&DiscoveryError::Busy),
                Boarding::Join(passenger) => passenger,
                Boarding::TakeOff(ticket, passenger) => {
                    self.take_off(ticket, fetch);
                    passenger
                }
            };
            let number = passenger.number;
            inner.counters.waited.add(1);
            match passenger.arrive().await {
                None => return inner.unstored(&DiscoveryError::Closed),
                Some(answer) if number >= horizon => return answer,
                // That one took off too early. The next flight of the key is late enough, so
                // this goes around at most twice.
                Some(_) => {}
            }
        }
    }

    /// Starts a refresh beside a stale answer, unless one is under way.
    fn refresh<F: Fetch<V> + ?Sized>(&self, key: &CacheKey, fetch: &Arc<F>) {
        let inner = &self.0;
        match inner
            .flights
            .board(key, inner.config.flights_max, || inner.refreshed(key))
        {
            Boarding::TakeOff(ticket, _) => self.take_off(ticket, fetch),
            Boarding::Join(_) | Boarding::Found(()) => {}
            Boarding::Full => inner.unclaim(key),
        }
    }

    /// Hands the flight to a task of the cache.
    fn take_off<F: Fetch<V> + ?Sized>(&self, ticket: Ticket<CacheKey, Answer<V>>, fetch: &Arc<F>) {
        let inner = &self.0;
        let airborne = Airborne {
            inner: Arc::clone(inner),
            ticket: Some(ticket),
        };
        let mut tasks = inner.tasks();
        // Closed: dropping `airborne` after the lock releases the passengers.
        let Some(tasks) = tasks.as_mut() else { return };
        while tasks.try_join_next().is_some() {}
        inner.counters.fetches.add(1);
        tasks.spawn(fly(airborne, Arc::clone(fetch)));
    }
}

async fn fly<V: CacheValue, F: Fetch<V> + ?Sized>(mut airborne: Airborne<V>, fetch: Arc<F>) {
    let inner = Arc::clone(&airborne.inner);
    let started = inner.now();
    let outcome = inner.run(&*fetch).await;
    let ticket = airborne.ticket.take().expect("only this takes the ticket");
    let key = ticket.key.clone();
    tracing::debug!(
        server = ticket.key.server(),
        fetch = ticket.number,
        ok = outcome.is_ok(),
        "discovery landed"
    );
    let changed = inner.land(ticket, started, outcome);
    // Whoever waited has its answer by now.
    if let Some(keeper) = inner.keeper.get() {
        inner.mark_unkept(key, changed.into_iter().collect());
        keeper.keep(&DiscoveryCache(Arc::clone(&inner))).await;
    }
}

impl<V: CacheValue> Inner<V> {
    fn now(&self) -> Moment {
        PAST + self.clock.monotonic()
    }

    fn tasks(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saved_lock(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unkept(&self) -> MutexGuard<'_, Unkept> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark_unkept(&self, key: CacheKey, mut changes: Vec<CatalogueChanged>) {
        // Without a keeper nobody would ever take them.
        if self.keeper.get().is_none() {
            return;
        }
        let mut unkept = self.unkept();
        let waiting = unkept.entry(key).or_default();
        waiting.append(&mut changes);
        // What was given back after a failure is older than what came meanwhile.
        waiting.sort_by_key(|change| change.fetch);
        let over = waiting.len().saturating_sub(CHANGES_MAX);
        waiting.drain(..over);
    }

    fn archived(&self, key: &CacheKey, entry: &Entry<V>) -> Option<Archived<V>> {
        let (now, wall) = (self.now(), self.clock.now());
        let before = |at: Moment| now.saturating_sub(at);
        let (held, life) = (entry.held.as_ref()?, entry.record.life?);
        let blocked = matches!(entry.record.trouble, Trouble::Blocked { .. });
        (!blocked).then(|| Archived {
            key: key.clone(),
            value: Arc::clone(&held.value),
            digest: held.digest,
            fetched_at: wall.before(before(life.fetched_at)),
            stale_at: wall
                .before(before(life.stale_at))
                .after(life.stale_at.saturating_sub(now)),
        })
    }

    fn note_saved(&self, name: Digest, stamp: Option<(Digest, Timestamp)>) {
        let mut saved = self.saved_lock();
        match stamp {
            Some(stamp) => saved.insert(name, stamp),
            None => saved.remove(&name),
        };
    }

    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }

    fn wall(&self, at: Moment, now: Moment) -> Timestamp {
        self.clock.now().after(at.saturating_sub(now))
    }

    /// Answers a hit: the short way through [`look`](Self::look) for a value that is fresh.
    #[inline]
    fn fresh(&self, key: &CacheKey, now: Moment) -> Option<Answer<V>> {
        let entry = self.shelf.entries.get(key)?;
        let age = entry.record.fresh_age(now)?;
        let held = entry.held.as_ref()?;
        entry.touch();
        self.counters.fresh.add(1);
        Some(Answer {
            state: State::Fresh,
            value: Some(Arc::clone(&held.value)),
            age,
            error: None,
            next_retry: None,
        })
    }

    /// Answers from what is kept. As a read it counts, and it may claim a refresh that is due
    /// (the second result).
    fn look(&self, key: &CacheKey, now: Moment, read: bool) -> (Option<Answer<V>>, bool) {
        let Some(entry) = self.shelf.entries.get(key) else {
            return (None, false);
        };
        let decision = decide(&entry.record, &self.config, now);
        let (state, age, retry_at) = match decision {
            Decision::Fresh { age } => (State::Fresh, age, None),
            Decision::Stale { age, retry_at, .. } => (State::Stale, age, retry_at),
            Decision::Negative { age, retry_at } => (State::Negative, age, Some(retry_at)),
            Decision::Blocked { age } => (State::Blocked, age, None),
            Decision::TooLarge { age, retry_at } => (
                State::Uncached(UncachedReason::TooLarge),
                age,
                Some(retry_at),
            ),
            Decision::Cold => return (None, false),
        };
        let serves = matches!(state, State::Fresh | State::Stale);
        let held = entry.held.as_ref().filter(|_| serves);
        let claimed = read && self.count_read(&entry, decision, now);
        let answer = Answer {
            state,
            value: held.map(|held| Arc::clone(&held.value)),
            age,
            error: entry.error.clone(),
            next_retry: retry_at.map(|at| self.wall(at, now)),
        };
        (Some(answer), claimed)
    }

    /// Counts a read and claims the refresh if one is due.
    fn count_read(&self, entry: &Entry<V>, decision: Decision, now: Moment) -> bool {
        entry.touch();
        let counter = match decision {
            Decision::Fresh { .. } => &self.counters.fresh,
            Decision::Stale { .. } => &self.counters.stale,
            Decision::Negative { .. } => &self.counters.negative,
            Decision::Blocked { .. } => &self.counters.blocked,
            Decision::TooLarge { .. } | Decision::Cold => &self.counters.too_large,
        };
        counter.add(1);
        let due = matches!(decision, Decision::Stale { refresh: true, .. });
        due && entry.claim(
            millis(now),
            millis(now.saturating_add(self.config.discovery_timeout)),
        )
    }

    /// Answers with what a fetch numbered `horizon` or later has stored.
    fn landed_since(&self, key: &CacheKey, horizon: u64) -> Option<Answer<V>> {
        let landed = self.shelf.entries.get(key)?.flight >= horizon;
        if landed {
            self.look(key, self.now(), false).0
        } else {
            None
        }
    }

    /// Says whether the refresh that a caller saw due has been made meanwhile.
    fn refreshed(&self, key: &CacheKey) -> Option<()> {
        let entry = self.shelf.entries.get(key)?;
        let decision = decide(&entry.record, &self.config, self.now());
        (!matches!(decision, Decision::Stale { refresh: true, .. })).then_some(())
    }

    fn unclaim(&self, key: &CacheKey) {
        if let Some(entry) = self.shelf.entries.get(key) {
            entry.claimed_until.store(0, Ordering::Relaxed);
        }
    }

    fn change(&self, key: &CacheKey, change: impl FnOnce(Record) -> Record) {
        if let Some(mut entry) = self.shelf.entries.get_mut(key) {
            entry.record = change(entry.record);
        }
    }

    /// An answer that says nothing about the server, so that nothing is stored of it.
    fn unstored(&self, error: &DiscoveryError) -> Answer<V> {
        Answer {
            state: State::Negative,
            value: None,
            age: Duration::ZERO,
            error: Some(Arc::new(error.to_wire())),
            next_retry: None,
        }
    }

    /// Runs a fetch: in its turn, within its deadline, until the cache closes; a panic is a
    /// failure like another.
    async fn run<F: Fetch<V> + ?Sized>(&self, fetch: &F) -> Outcome<V> {
        let limits = self.config.fetch_limits();
        let had_its_turn = AtomicBool::new(false);
        let work = async {
            // The semaphore is never closed.
            let _turn = self.running.acquire().await;
            had_its_turn.store(true, Ordering::Relaxed);
            fetch.fetch(limits).await.map(weigh)
        };
        let work = Box::pin(AssertUnwindSafe(work).catch_unwind());
        let mut closing = self.closing.subscribe();
        let closed = Box::pin(closing.wait_for(|&closing| closing));
        let ended = select(closed, self.clock.sleep(self.config.discovery_timeout));
        // The deadline is looked at first: a fetch whose turn comes at its deadline must not ask.
        match select(ended, work).await {
            Either::Right((Ok(Ok(weighed)), _)) => self.within_hard_limits(weighed),
            Either::Right((Ok(Err(error)), _)) => Err(Failure::from(error)),
            Either::Right((Err(panic), _)) => {
                Err(DiscoveryError::Panicked(panic_message(panic.as_ref())).into())
            }
            Either::Left((Either::Left(_), _)) => Err(Failure::Closed),
            Either::Left((Either::Right(_), _)) if had_its_turn.load(Ordering::Relaxed) => {
                Err(DiscoveryError::TimedOut(self.config.discovery_timeout).into())
            }
            Either::Left((Either::Right(_), _)) => Err(DiscoveryError::Busy.into()),
        }
    }

    /// A fetch that ignored its limits is caught here.
    fn within_hard_limits(&self, weighed: Weighed<V>) -> Outcome<V> {
        let reason = if weighed.held.bytes > self.config.bytes_hard_max {
            format!("it has more than {} bytes", self.config.bytes_hard_max)
        } else if weighed.tools > self.config.tools_hard_max {
            format!("it has more than {} tools", self.config.tools_hard_max)
        } else {
            return Ok(weighed);
        };
        Err(DiscoveryError::TooLarge(reason).into())
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it said nothing").to_owned()
}

fn millis(at: Moment) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}
