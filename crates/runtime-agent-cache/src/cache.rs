//! The cache: builds once, leases, swaps, and disposes when nobody uses it any more.

mod tasks;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use runtime_core::{Clock, Random};
use runtime_store::Position;
use tokio::sync::watch;

use crate::generation::{Disposals, Generation, Outstanding};
use crate::state::{Building, Landing, Placed, Slot, State, Trash, Trouble};
use crate::sync::{AtomicBool, Fault, Handle, Mutex, MutexGuard, is_planted};
use crate::{
    AgentCacheConfig, AgentCacheCounters, AgentKey, Build, CloseReport, Dispose, EntryState,
    Invalidated, Invalidations, Lease, LeaseError, Seeded, StaleState, SweepReport, Ttl,
};

use self::tasks::{TaskGuard, keep_following, keep_sweeping};

/// A cache of live objects. Cheap to clone; the clones are one cache.
///
/// Dropped without [`close`](Self::close), it retires everything; disposals still run.
pub struct AgentCache<V: Send + Sync + 'static>(Arc<Inner<V>>);

struct Inner<V: Send + Sync + 'static> {
    config: AgentCacheConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    state: Mutex<State<V>>,
    next: AtomicU64,
    closing: watch::Sender<bool>,
    sweeping: AtomicBool,
    disposals: Arc<Disposals<V>>,
}

/// A build under way: lands once; if its task is ended before, its passengers are released.
struct Flight<V: Send + Sync + 'static> {
    inner: Arc<Inner<V>>,
    key: AgentKey,
    version: u64,
    number: u64,
    ttl: Ttl,
    builder: Arc<dyn Build<V>>,
    /// It holds a seat of its own.
    reserved: bool,
    /// The slot that it builds for.
    slot: u64,
    /// In shadow mode each call builds alone; the eviction count at its start.
    alone: Option<u64>,
    landing: watch::Sender<Option<Landing<V>>>,
    over: bool,
}

/// What a build may still do when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is the build of its key: all it says counts.
    Current,
    /// A build of a newer version is under way: what it built is kept until that lands, since
    /// whoever waited for it was promised no less. What went wrong is for the newer one to say.
    Overtaken,
    /// Its key was evicted, or the cache closed: nothing is kept.
    Gone,
}

/// What a call found.
enum Step<V: Send + Sync + 'static> {
    Leased(Lease<V>),
    Wait(watch::Receiver<Option<Landing<V>>>),
    Build(Box<Flight<V>>, watch::Receiver<Option<Landing<V>>>),
    Nothing,
}

impl<V: Send + Sync + 'static> Clone for AgentCache<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V: Send + Sync + 'static> fmt::Debug for AgentCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCache")
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

impl<V: Send + Sync + 'static> AgentCache<V> {
    /// Makes an empty cache that builds and disposes on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(
        config: AgentCacheConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        dispose: Arc<dyn Dispose<V>>,
    ) -> Self {
        let timeout = config.disposal_timeout;
        let disposals = Disposals::new(dispose, Arc::clone(&clock), timeout, Handle::current());
        Self(Arc::new(Inner {
            config,
            clock,
            random,
            state: Mutex::default(),
            next: AtomicU64::new(1),
            closing: watch::Sender::new(false),
            sweeping: AtomicBool::new(false),
            disposals: Arc::new(disposals),
        }))
    }

    /// Leases the object of a key if it is at `version` or newer; else builds it, once for
    /// everybody who waits. The build runs in a task of the cache.
    ///
    /// # Errors
    /// [`LeaseError`]: the build failed, nothing is there to build, or a cap is reached.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the build running; what it builds is cached.
    pub async fn get_or_build(
        &self,
        key: &AgentKey,
        version: u64,
        builder: &Arc<dyn Build<V>>,
    ) -> Result<Lease<V>, LeaseError> {
        let ttl = self.0.config.ttl;
        self.get_or_build_for(key, version, ttl, builder).await
    }

    /// The same with a time to live of its own, which is capped by `ttl_max`.
    ///
    /// # Errors
    /// As [`get_or_build`](Self::get_or_build).
    ///
    /// # Cancel safety
    /// As [`get_or_build`](Self::get_or_build).
    pub async fn get_or_build_for(
        &self,
        key: &AgentKey,
        version: u64,
        ttl: Ttl,
        builder: &Arc<dyn Build<V>>,
    ) -> Result<Lease<V>, LeaseError> {
        let step = self.0.enter(|state, now, trash| {
            self.0.step(state, now, key, version, ttl, builder, trash)
        })?;
        match self.settle(step).await? {
            Some(lease) => Ok(lease),
            None => Err(LeaseError::NothingToBuild),
        }
    }

    /// Leases what is there; none if nothing is, if its time is over, or in shadow mode.
    #[must_use]
    pub fn get(&self, key: &AgentKey) -> Option<Lease<V>> {
        let found = self.0.enter(|state, now, trash| {
            if self.0.config.shadow {
                return None;
            }
            let lease = state.lease(key, now);
            if lease.is_none() && state.retire_expired(key, now, trash) {
                self.0.disposals.counters.expirations.add(1);
            }
            lease
        });
        let counters = &self.0.disposals.counters;
        let counter = if found.is_some() {
            &counters.hits
        } else {
            &counters.misses
        };
        counter.add(1);
        found
    }

    /// Puts an object that the host built itself into the cache.
    ///
    /// Only a strictly newer version replaces what is there. The same version extends the time of
    /// what is there. A newcomer that is not kept is disposed of.
    ///
    /// # Errors
    /// [`LeaseError::Busy`] or [`LeaseError::Closed`]; the newcomer is disposed of.
    pub fn seed(
        &self,
        key: &AgentKey,
        version: u64,
        value: V,
        builder: &Arc<dyn Build<V>>,
    ) -> Result<Seeded, LeaseError> {
        let inner = &self.0;
        let ttl = inner.config.ttl;
        // Counted as alive only once it is let in: `place` needs the seat first.
        inner.enter(|state, now, trash| {
            let refused = if !state.open {
                Some(LeaseError::Closed)
            } else if state.version(key, now).is_none() {
                inner.admit(state, key, 0, now, trash).err()
            } else {
                None
            };
            let newcomer = inner.generation(key, version, value);
            if let Some(refused) = refused {
                trash.generations.push(newcomer);
                return Err(refused);
            }
            let placed = state.place(&newcomer, builder, (ttl, inner.config.ttl_max), now, trash);
            Ok(match placed {
                Placed::Kept { swapped } => {
                    inner.disposals.counters.swaps.add(u64::from(swapped));
                    Seeded::Kept
                }
                Placed::Beaten { same, .. } => {
                    inner.disposals.counters.not_kept.add(1);
                    trash.generations.push(newcomer);
                    if same {
                        Seeded::Extended
                    } else {
                        Seeded::Older
                    }
                }
            })
        })
    }

    /// Rebuilds the object of a key at a newer version with its latest builder, and swaps it.
    ///
    /// Does nothing if nothing is cached, or if it is at `version` or newer. If the rebuild says
    /// that there is nothing to build, the object is retired. If it fails, the old object stays,
    /// visibly stale (see [`state`](Self::state)), and the sweeper tries again after a pause.
    ///
    /// # Errors
    /// Why the rebuild failed; during the pause, why it failed last.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rebuild running.
    pub async fn invalidate(
        &self,
        key: &AgentKey,
        version: u64,
    ) -> Result<Invalidated, LeaseError> {
        let step = self
            .0
            .enter(|state, now, trash| self.0.rebuild_step(state, now, key, version, trash))?;
        if matches!(step, Step::Nothing) {
            return Ok(Invalidated::Unchanged);
        }
        let landed = self.settle(step).await?;
        Ok(match landed {
            Some(lease) => Invalidated::Swapped {
                version: lease.version(),
            },
            None => Invalidated::Retired,
        })
    }

    /// Retires the object of a key; says whether there was one. A build under way is not kept.
    pub fn evict(&self, key: &AgentKey) -> bool {
        self.0.enter(|state, _, trash| state.evict(key, trash))
    }

    /// Returns the number of cached objects.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.0.lock();
        state
            .slots
            .values()
            .filter(|slot| slot.resident.is_some())
            .count()
    }

    /// Says whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how the object of a key stands.
    #[must_use]
    pub fn state(&self, key: &AgentKey) -> Option<EntryState> {
        let now = self.0.clock.monotonic();
        let wall = self.0.clock.now();
        let state = self.0.lock();
        let slot = state.slots.get(key)?;
        let resident = slot.resident.as_ref()?;
        Some(EntryState {
            version: resident.generation.version,
            generation: resident.generation.number,
            leases: Arc::strong_count(&resident.generation) - 1,
            expires_in: resident.expires_at.map(|at| at.saturating_sub(now)),
            building: slot.build.as_ref().map(|build| build.version),
            stale: slot.trouble.as_ref().map(|trouble| StaleState {
                wanted: trouble.version,
                error: trouble.error.clone(),
                attempts: trouble.attempts,
                next_retry: wall.after(trouble.retry_at.saturating_sub(now)),
            }),
        })
    }

    /// Returns what was counted so far.
    #[must_use]
    pub fn counters(&self) -> AgentCacheCounters {
        self.0.disposals.counters.read()
    }

    /// Retires what has expired and starts the rebuilds whose pause is over.
    pub fn sweep(&self) -> SweepReport {
        let (expired, flights) = self.0.enter(|state, now, trash| {
            let expired = state.sweep(now, trash);
            (expired, self.0.due_rebuilds(state, now, trash))
        });
        let report = SweepReport {
            expired,
            rebuilding: flights.len(),
        };
        self.0.disposals.counters.expirations.add(expired as u64);
        for flight in flights {
            Inner::take_off(Box::new(flight));
        }
        report
    }

    /// Starts the task that sweeps every `sweep_interval` until the cache is closed or dropped;
    /// a second call does nothing.
    pub fn start_sweeper(&self) {
        let inner = &self.0;
        if inner.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let guard = TaskGuard::new(&inner.disposals);
        let closing = inner.closing.subscribe();
        inner
            .disposals
            .spawn(keep_sweeping(Arc::downgrade(inner), closing, guard));
    }

    /// Hears of invalidations in every process that shares a store, from after a position on (G2),
    /// until the cache is closed or dropped. A cache that is still empty follows from the
    /// [head](Invalidations::head). What cannot be read now is read again after a pause.
    pub fn follow(&self, invalidations: Invalidations, after: Position) {
        let inner = &self.0;
        let guard = TaskGuard::new(&inner.disposals);
        let mut closing = inner.closing.subscribe();
        let cache = Arc::downgrade(inner);
        inner.disposals.spawn(async move {
            let following = Box::pin(keep_following(cache, invalidations, after));
            let closed = Box::pin(closing.wait_for(|&closing| closing));
            drop(select(closed, following).await);
            drop(guard);
        });
    }

    /// Retires every object; builds under way are not kept. Returns how many there were.
    pub fn retire_all(&self) -> usize {
        self.0.enter(|state, _, trash| state.retire_all(trash))
    }

    /// Retires everything, ends the builds, and waits until every object is disposed of, at most
    /// for `close_timeout`. What is still leased is disposed of when its lease is dropped.
    ///
    /// # Cancel safety
    /// The cache is closed at once; dropping the future only stops waiting.
    pub async fn close(&self) -> CloseReport {
        let inner = &self.0;
        inner.enter(|state, _, trash| {
            state.open = false;
            state.retire_all(trash);
        });
        inner.closing.send_replace(true);
        let mut outstanding = inner.disposals.outstanding.subscribe();
        let over = Box::pin(outstanding.wait_for(Outstanding::is_nothing));
        let deadline = inner.clock.sleep(inner.config.close_timeout);
        // What `wait_for` gives holds a lock of the channel: it must be gone before the count.
        drop(select(over, deadline).await);
        let left = *inner.disposals.outstanding.borrow();
        CloseReport {
            leased: left.alive,
            disposing: left.disposing,
            tasks: left.tasks,
        }
    }

    async fn settle(&self, step: Step<V>) -> Landing<V> {
        let mut landing = match step {
            Step::Leased(lease) => return Ok(Some(lease)),
            Step::Nothing => return Ok(None),
            Step::Wait(landing) => landing,
            Step::Build(flight, landing) => {
                Inner::take_off(flight);
                landing
            }
        };
        let landed = landing.wait_for(Option::is_some).await;
        match landed.as_deref() {
            Ok(Some(landed)) => landed.clone(),
            // The task of the build was ended.
            Ok(None) | Err(_) => Err(LeaseError::Closed),
        }
    }
}

impl<V: Send + Sync + 'static> Inner<V> {
    // Whoever panicked under the lock was ours, not the host; every step leaves a valid state.
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a decision under the lock, then drops what it threw away.
    fn enter<T>(&self, decide: impl FnOnce(&mut State<V>, Duration, &mut Trash<V>) -> T) -> T {
        let now = self.clock.monotonic();
        let mut trash = Trash::default();
        let decided = decide(&mut self.lock(), now, &mut trash);
        drop((trash.generations, trash.builders));
        decided
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn generation(&self, key: &AgentKey, version: u64, value: V) -> Arc<Generation<V>> {
        self.disposals
            .generation(key.clone(), version, self.number(), value)
    }

    /// Makes room for an object of a key that has none. `counted` newcomers are alive already.
    fn admit(
        &self,
        state: &mut State<V>,
        key: &AgentKey,
        counted: usize,
        now: Duration,
        trash: &mut Trash<V>,
    ) -> Result<(), LeaseError> {
        let counters = &self.disposals.counters;
        if state.retire_expired(key, now, trash) {
            counters.expirations.add(1);
        }
        let alive = self.disposals.outstanding.borrow().alive;
        let alive = alive - counted;
        let admitted = state.admit(alive, self.config.entries_max, trash);
        match &admitted {
            Ok(evicted) => counters.evictions.add(*evicted as u64),
            Err(_) => counters.busy.add(1),
        }
        admitted.map(|_| ())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the call, and what its lock gives"
    )]
    fn step(
        self: &Arc<Self>,
        state: &mut State<V>,
        now: Duration,
        key: &AgentKey,
        version: u64,
        ttl: Ttl,
        builder: &Arc<dyn Build<V>>,
        trash: &mut Trash<V>,
    ) -> Result<Step<V>, LeaseError> {
        let counters = &self.disposals.counters;
        if !state.open {
            return Err(LeaseError::Closed);
        }
        let resident = state.version(key, now);
        if resident.is_some_and(|resident| resident >= version) {
            if self.config.shadow {
                counters.shadow_hits.add(1);
            } else {
                counters.hits.add(1);
                if let Some(slot) = state.slots.get_mut(key)
                    && resident == Some(version)
                {
                    slot.use_builder(builder, ttl, trash);
                }
                return Ok(state.lease(key, now).map_or(Step::Nothing, Step::Leased));
            }
        }
        counters.misses.add(1);
        let reserve = resident.is_none() || self.config.shadow;
        if !self.config.shadow
            && let Some(joined) = joinable(state, key, version, now)?
        {
            return Ok(Step::Wait(joined));
        }
        self.begin(state, now, key, version, ttl, builder, reserve, trash)
    }

    fn rebuild_step(
        self: &Arc<Self>,
        state: &mut State<V>,
        now: Duration,
        key: &AgentKey,
        version: u64,
        trash: &mut Trash<V>,
    ) -> Result<Step<V>, LeaseError> {
        if !state.open {
            return Err(LeaseError::Closed);
        }
        let resident = state.version(key, now);
        let Some(slot) = state.slots.get(key) else {
            return Ok(Step::Nothing);
        };
        if resident.is_some_and(|resident| resident >= version) {
            return Ok(Step::Nothing);
        }
        // An object on its way counts as there: without this, an older build would land after
        // the invalidation and be served.
        if resident.is_none() && slot.build.is_none() {
            return Ok(Step::Nothing);
        }
        if let Some(joined) = joinable(state, key, version, now)? {
            return Ok(Step::Wait(joined));
        }
        let (builder, ttl) = (Arc::clone(&slot.builder), slot.ttl);
        let reserve = resident.is_none();
        self.begin(state, now, key, version, ttl, &builder, reserve, trash)
    }

    /// Rebuilds whose pause is over.
    fn due_rebuilds(
        self: &Arc<Self>,
        state: &mut State<V>,
        now: Duration,
        trash: &mut Trash<V>,
    ) -> Vec<Flight<V>> {
        let due = |slot: &Slot<V>| match &slot.trouble {
            Some(trouble) if slot.build.is_none() && trouble.retry_at <= now => {
                Some(trouble.version)
            }
            _ => None,
        };
        let due: Vec<_> = state
            .slots
            .iter()
            .filter_map(|(key, slot)| Some((key.clone(), due(slot)?)))
            .collect();
        let mut flights = Vec::new();
        for (key, version) in due {
            let step = self.rebuild_step(state, now, &key, version, trash);
            if let Ok(Step::Build(flight, _)) = step {
                flights.push(*flight);
            }
        }
        flights
    }

    /// Registers a build; the caller lets it take off outside the lock.
    #[expect(
        clippy::too_many_arguments,
        reason = "the call, and what its lock gives"
    )]
    fn begin(
        self: &Arc<Self>,
        state: &mut State<V>,
        now: Duration,
        key: &AgentKey,
        version: u64,
        ttl: Ttl,
        builder: &Arc<dyn Build<V>>,
        reserve: bool,
        trash: &mut Trash<V>,
    ) -> Result<Step<V>, LeaseError> {
        let builds_max = self.config.builds_max;
        if state.builds >= builds_max {
            self.disposals.counters.busy.add(1);
            return Err(LeaseError::BuildsBusy { builds_max });
        }
        if reserve {
            self.admit(state, key, 0, now, trash)?;
            state.reserved += 1;
        }
        state.builds += 1;
        let (landing, passenger) = watch::channel(None);
        let number = self.number();
        let alone = self.config.shadow.then_some(state.evictions);
        let mut slot_number = number;
        if alone.is_none() {
            let slot = state.slots.entry(key.clone()).or_insert_with(|| Slot {
                number,
                resident: None,
                builder: Arc::clone(builder),
                ttl,
                build: None,
                trouble: None,
            });
            slot_number = slot.number;
            slot.use_builder(builder, ttl, trash);
            slot.build = Some(Building {
                number,
                version,
                landing: passenger.clone(),
            });
        }
        let flight = Flight {
            inner: Arc::clone(self),
            key: key.clone(),
            version,
            number,
            ttl,
            builder: Arc::clone(builder),
            reserved: reserve,
            slot: slot_number,
            alone,
            landing,
            over: false,
        };
        Ok(Step::Build(Box::new(flight), passenger))
    }

    fn take_off(flight: Box<Flight<V>>) {
        let disposals = Arc::clone(&flight.inner.disposals);
        disposals.counters.builds.add(1);
        let guard = TaskGuard::new(&disposals);
        disposals.spawn(flight.fly(guard));
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes);
        let fraction = f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0);
        let doubled = 2_u32
            .checked_pow(attempts.saturating_sub(1))
            .and_then(|factor| self.config.retry_base.checked_mul(factor))
            .unwrap_or(self.config.retry_max)
            .min(self.config.retry_max);
        let seconds = doubled.as_secs_f64() * (0.5 + fraction / 2.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Returns the build under way that is new enough; the last error if its pause is not over.
fn joinable<V: Send + Sync + 'static>(
    state: &State<V>,
    key: &AgentKey,
    version: u64,
    now: Duration,
) -> Result<Option<watch::Receiver<Option<Landing<V>>>>, LeaseError> {
    let Some(slot) = state.slots.get(key) else {
        return Ok(None);
    };
    if let Some(build) = slot.build.as_ref().filter(|build| build.version >= version) {
        return Ok(Some(build.landing.clone()));
    }
    match &slot.trouble {
        Some(trouble) if trouble.version >= version && now < trouble.retry_at => {
            Err(trouble.error.clone())
        }
        _ => Ok(None),
    }
}

impl<V: Send + Sync + 'static> Flight<V> {
    async fn fly(mut self: Box<Self>, guard: TaskGuard<V>) {
        let built = self.build().await;
        self.land(built);
        drop(self);
        // Last: until here `close` knows that an object may still appear.
        drop(guard);
    }

    async fn build(&self) -> Result<Option<V>, LeaseError> {
        let inner = &self.inner;
        let work =
            AssertUnwindSafe(async { self.builder.build(self.version).await }).catch_unwind();
        let mut closing = inner.closing.subscribe();
        let closed = Box::pin(closing.wait_for(|&closing| closing));
        let ended = select(closed, inner.clock.sleep(inner.config.build_timeout));
        match select(Box::pin(work), ended).await {
            Either::Left((Ok(Ok(value)), _)) => Ok(value),
            Either::Left((Ok(Err(error)), _)) => Err(LeaseError::Failed(Arc::new(error))),
            Either::Left((Err(panic), _)) => Err(LeaseError::Panicked(message(panic.as_ref()))),
            Either::Right((Either::Left(_), _)) => Err(LeaseError::Closed),
            Either::Right((Either::Right(_), _)) => {
                Err(LeaseError::TimedOut(inner.config.build_timeout))
            }
        }
    }

    fn land(&mut self, built: Result<Option<V>, LeaseError>) {
        let inner = Arc::clone(&self.inner);
        if built.is_err() {
            inner.disposals.counters.build_failures.add(1);
        }
        let left_early =
            is_planted(Fault::LeaveThenPlace).then(|| inner.enter(|state, _, _| self.leave(state)));
        let landing = inner.enter(|state, now, trash| {
            let claim = left_early.unwrap_or_else(|| self.leave(state));
            let built = match built {
                Ok(value) => value,
                Err(error) => return Err(self.failed(state, claim, error, now, trash)),
            };
            let Some(value) = built else {
                let newer = |there| there >= self.version;
                if claim == Claim::Current && !state.version(&self.key, now).is_some_and(newer) {
                    state.evict(&self.key, trash);
                }
                return Ok(None);
            };
            let newcomer = inner.generation(&self.key, self.version, value);
            Ok(Some(self.settle(state, claim, newcomer, now, trash)))
        });
        self.landing.send_replace(Some(landing));
    }

    /// Ends the flight; says whether what it built may be kept.
    fn leave(&mut self, state: &mut State<V>) -> Claim {
        self.over = true;
        state.builds -= 1;
        state.reserved -= usize::from(self.reserved);
        if let Some(evictions) = self.alone {
            return if state.open && evictions == state.evictions {
                Claim::Current
            } else {
                Claim::Gone
            };
        }
        let slot = state.slots.get_mut(&self.key);
        let Some(slot) = slot.filter(|slot| state.open && slot.number == self.slot) else {
            return if is_planted(Fault::LateBuildKept) {
                Claim::Current
            } else {
                Claim::Gone
            };
        };
        let own = |build: &mut Building<V>| build.number == self.number;
        match slot.build.take_if(own) {
            Some(_) => Claim::Current,
            None => Claim::Overtaken,
        }
    }

    /// Keeps the newcomer if it may be and is the newest; says what its passengers lease.
    fn settle(
        &self,
        state: &mut State<V>,
        claim: Claim,
        newcomer: Arc<Generation<V>>,
        now: Duration,
        trash: &mut Trash<V>,
    ) -> Lease<V> {
        let counters = &self.inner.disposals.counters;
        let ttl = (self.ttl, self.inner.config.ttl_max);
        // A rebuild holds no seat of its own. If the object it was to replace has gone meanwhile,
        // its seat may have been given away.
        let homeless = !self.reserved && state.version(&self.key, now).is_none();
        let refused = homeless && self.inner.admit(state, &self.key, 1, now, trash).is_err();
        if claim == Claim::Gone || refused {
            state.forget_if_empty(&self.key, trash);
            counters.not_kept.add(1);
            return Lease(newcomer);
        }
        match state.place(&newcomer, &self.builder, ttl, now, trash) {
            Placed::Kept { swapped } => {
                counters.swaps.add(u64::from(swapped));
                Lease(newcomer)
            }
            Placed::Beaten { resident, .. } => {
                counters.not_kept.add(1);
                if self.alone.is_some() {
                    return Lease(newcomer);
                }
                trash.generations.push(newcomer);
                resident
            }
        }
    }

    /// Keeps the old object, visibly stale.
    fn failed(
        &self,
        state: &mut State<V>,
        claim: Claim,
        error: LeaseError,
        now: Duration,
        trash: &mut Trash<V>,
    ) -> LeaseError {
        if claim != Claim::Current || self.alone.is_some() {
            return error;
        }
        if let Some(slot) = state.slots.get_mut(&self.key)
            && slot.resident.is_some()
        {
            let attempts = slot.trouble.take().map_or(0, |trouble| trouble.attempts) + 1;
            slot.trouble = Some(Trouble {
                version: self.version,
                error: error.clone(),
                attempts,
                retry_at: now.saturating_add(self.inner.backoff(attempts)),
            });
        }
        state.forget_if_empty(&self.key, trash);
        error
    }
}

impl<V: Send + Sync + 'static> Drop for Flight<V> {
    fn drop(&mut self) {
        if !self.over {
            let inner = Arc::clone(&self.inner);
            inner.enter(|state, _, trash| {
                self.leave(state);
                state.forget_if_empty(&self.key, trash);
            });
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Arc::from(text.unwrap_or("it said nothing"))
}
