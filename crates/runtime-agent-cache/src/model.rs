//! Leases, builds and disposals of the whole cache under a schedule checker (R11, G1, G2).
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p runtime-agent-cache --lib model`
//!
//! There is no timer in the model: an object that is never disposed of keeps `close` waiting for
//! ever, which the checker reports as a deadlock. Each scenario has a twin with a planted
//! [`Fault`] that must be found.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runtime_core::{Clock, Random, Sleep, Timestamp, WireError};
use shuttle::future::{self, block_on, yield_now};

use crate::sync::{Fault, plant};
use crate::{AgentCache, AgentCacheConfig, AgentKey, Build, Dispose, Lease, LeaseError};

const SCHEDULES: usize = 20_000;
/// Schedules with few but deep preemptions, besides the random ones.
const DEEP_SCHEDULES: usize = 2_000;

#[derive(Debug)]
struct NoTime;

impl Clock for NoTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> Sleep {
        Box::pin(std::future::pending())
    }
}

#[derive(Debug)]
struct Zeros;

impl Random for Zeros {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// The disposals of each thing that was built.
#[derive(Default)]
struct Books {
    disposals: Mutex<Vec<u32>>,
}

struct Thing {
    number: usize,
    books: Arc<Books>,
}

impl Books {
    fn thing(self: &Arc<Self>) -> Thing {
        let mut disposals = self.disposals.lock().expect("nobody panics here");
        disposals.push(0);
        Thing {
            number: disposals.len() - 1,
            books: Arc::clone(self),
        }
    }

    fn built(&self) -> usize {
        self.disposals.lock().expect("nobody panics here").len()
    }
}

struct Undertaker;

#[async_trait]
impl Dispose<Thing> for Undertaker {
    async fn dispose(&self, thing: Thing) -> Result<(), WireError> {
        let mut disposals = thing.books.disposals.lock().expect("nobody panics here");
        disposals[thing.number] += 1;
        Ok(())
    }
}

/// Uses a leased object for a while: it must not be disposed of meanwhile.
async fn work_with(lease: &Lease<Thing>) {
    for _ in 0..2 {
        let disposals = lease.books.disposals.lock().expect("nobody panics here")[lease.number];
        assert_eq!(disposals, 0, "disposed of in use");
        yield_now().await;
    }
}

#[derive(Clone)]
struct World {
    cache: AgentCache<Thing>,
    books: Arc<Books>,
    build: Arc<dyn Build<Thing>>,
}

impl World {
    fn new(entries_max: usize) -> Self {
        let config = AgentCacheConfig {
            entries_max,
            ..AgentCacheConfig::default()
        };
        let books = Arc::new(Books::default());
        let builder = Arc::clone(&books);
        let build = move |_: u64| {
            let books = Arc::clone(&builder);
            async move {
                yield_now().await;
                Ok::<_, WireError>(Some(books.thing()))
            }
        };
        Self {
            cache: AgentCache::new(
                config,
                Arc::new(NoTime),
                Arc::new(Zeros),
                Arc::new(Undertaker),
            ),
            books,
            build: Arc::new(build),
        }
    }

    async fn lease(&self, key: &str, version: u64) -> Result<Lease<Thing>, LeaseError> {
        let lease = self
            .cache
            .get_or_build(&name(key), version, &self.build)
            .await?;
        assert!(lease.version() >= version, "an older one was served");
        Ok(lease)
    }

    /// Starts somebody who leases an object and works with it.
    fn user(&self, key: &'static str, version: u64) -> future::JoinHandle<()> {
        let world = self.clone();
        future::spawn(async move {
            if let Ok(lease) = world.lease(key, version).await {
                work_with(&lease).await;
            }
        })
    }

    /// Closes it, which waits for every disposal; then each has been disposed of once.
    async fn end(self) {
        let report = self.cache.close().await;
        assert!(report.is_complete(), "{report:?}");
        let disposals = self.books.disposals.lock().expect("nobody panics here");
        assert!(disposals.iter().all(|&times| times == 1), "{disposals:?}");
    }
}

fn name(key: &str) -> AgentKey {
    AgentKey::new("tenant", key)
}

/// Users of a cold key, the first dropped at any moment: one build for all.
fn one_build() {
    block_on(async {
        let world = World::new(4);
        let leader = world.user("a", 1);
        let users: Vec<_> = (0..2).map(|_| world.user("a", 1)).collect();
        yield_now().await;
        leader.abort();
        for user in users {
            user.await.expect("no user panics");
        }
        assert_eq!(world.books.built(), 1, "built more than once");
        drop(leader);
        world.end().await;
    });
}

/// Users, an eviction and the end of the cache, all at once.
fn evicted_in_use() {
    block_on(async {
        let world = World::new(4);
        let users: Vec<_> = (0..2).map(|_| world.user("a", 1)).collect();
        let other = world.clone();
        let evicting = future::spawn(async move {
            yield_now().await;
            other.cache.evict(&name("a"));
        });
        let closer = world.clone();
        let closing = future::spawn(async move { closer.cache.close().await });
        for user in users {
            user.await.expect("no user panics");
        }
        evicting.await.expect("no evictor panics");
        assert!(closing.await.expect("it closes").is_complete());
        world.end().await;
    });
}

/// Two operators raise the version while it is in use: the highest one stays.
fn swapped() {
    block_on(async {
        let world = World::new(4);
        drop(world.lease("a", 1).await);
        let user = world.user("a", 1);
        let operators: Vec<_> = [2, 3]
            .map(|version| {
                let world = world.clone();
                future::spawn(async move {
                    let swapped = world.cache.invalidate(&name("a"), version).await;
                    swapped.expect("the build succeeds");
                    let there = world.cache.get(&name("a")).map(|lease| lease.version());
                    assert!(there >= Some(version), "a late write won: {there:?}");
                })
            })
            .into();
        for task in operators.into_iter().chain([user]) {
            task.await.expect("nobody panics");
        }
        let there = world.cache.get(&name("a")).map(|lease| lease.version());
        assert_eq!(there, Some(3), "a late write won");
        world.end().await;
    });
}

/// A slow old build against an object of a newer version that is put in its place.
fn seeded() {
    block_on(async {
        let world = World::new(4);
        let user = world.user("a", 1);
        let other = world.clone();
        let seeding = future::spawn(async move {
            let thing = other.books.thing();
            let seeded = other.cache.seed(&name("a"), 3, thing, &other.build);
            seeded.expect("there is room");
        });
        user.await.expect("no user panics");
        seeding.await.expect("no seeder panics");
        let there = world.cache.get(&name("a")).map(|lease| lease.version());
        assert_eq!(there, Some(3), "a late write won");
        world.end().await;
    });
}

/// An eviction during a build: what it builds is not kept.
fn evicted_while_built() {
    block_on(async {
        let world = World::new(4);
        let user = world.user("a", 1);
        yield_now().await;
        let begun = world.cache.counters().builds == 1;
        world.cache.evict(&name("a"));
        user.await.expect("no user panics");
        let kept = world.cache.get(&name("a")).is_some();
        assert!(!(begun && kept), "a late build was kept");
        world.end().await;
    });
}

/// One seat, and its object is leased although evicted: nobody else gets in, and is told so.
fn one_seat() {
    block_on(async {
        let world = World::new(1);
        let held = world.lease("a", 1).await.expect("there is room");
        let other = world.clone();
        let evicting = future::spawn(async move {
            other.cache.evict(&name("a"));
        });
        let other = world.clone();
        let waiting = future::spawn(async move { other.lease("b", 1).await.map(drop) });
        let refused = waiting.await.expect("nobody panics");
        let busy = Err(LeaseError::Busy { entries_max: 1 });
        assert_eq!(refused, busy, "a seat was given away that is taken");
        work_with(&held).await;
        evicting.await.expect("no evictor panics");
        drop(held);
        world.end().await;
    });
}

fn check(scenario: fn()) {
    plant(None);
    let start = Instant::now();
    shuttle::check_random(scenario, SCHEDULES);
    shuttle::check_pct(scenario, DEEP_SCHEDULES, 3);
    let seconds = start.elapsed().as_secs_f64();
    println!("R11 {} 0 {seconds:.1}", SCHEDULES + DEEP_SCHEDULES);
}

fn check_with(fault: Fault, scenario: fn()) {
    plant(Some(fault));
    shuttle::check_random(scenario, SCHEDULES);
}

#[test]
fn r11_a_dropped_leader_costs_nobody_the_one_build() {
    check(one_build);
}

#[test]
#[should_panic(expected = "built more than once")]
fn r11_leaving_before_placing_is_found() {
    check_with(Fault::LeaveThenPlace, one_build);
}

#[test]
fn r11_what_is_in_use_is_disposed_of_once_and_later() {
    check(evicted_in_use);
}

#[test]
#[should_panic(expected = "deadlock")]
fn r11_a_lost_object_is_found() {
    check_with(Fault::RetiredIsLost, evicted_in_use);
}

#[test]
fn r11_the_highest_version_stays() {
    check(swapped);
}

#[test]
fn r11_a_slow_old_build_does_not_replace_a_newer_object() {
    check(seeded);
}

#[test]
#[should_panic(expected = "a late write won")]
fn r11_an_older_version_that_replaces_is_found() {
    check_with(Fault::OlderReplaces, seeded);
}

#[test]
fn r11_an_evicted_build_is_not_kept() {
    check(evicted_while_built);
}

#[test]
#[should_panic(expected = "a late build was kept")]
fn r11_a_late_build_that_is_kept_is_found() {
    check_with(Fault::LateBuildKept, evicted_while_built);
}

#[test]
fn r11_one_seat_is_never_given_away_twice() {
    check(one_seat);
}

#[test]
#[should_panic(expected = "a seat was given away")]
fn r11_a_leased_object_that_is_not_counted_is_found() {
    check_with(Fault::LeasedIsDoomed, one_seat);
}
