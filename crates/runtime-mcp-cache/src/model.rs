//! The single flight of the whole cache under a schedule checker (R11).
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p runtime-mcp-cache --lib model`
//!
//! There is no timer in the model: a caller who is not woken would wait for ever, which the
//! checker reports as a deadlock. Each scenario has a twin with a planted [`Fault`] that must be
//! found, so that none of them passes because it looks at nothing.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runtime_core::{Clock, Digest, ErrorClass, Random, Sleep, Timestamp, WireError};
use serde_json::Value;
use shuttle::future::{self, JoinHandle, block_on, yield_now};

use crate::sync::{Fault, plant};
use crate::{
    Answer, Authorisation, CacheConfig, CacheKey, CacheValue, Changes, DiscoveryCache, Era, Fetch,
    FetchError, FetchLimits, Fetched, Hints, Owner, State,
};

const SCHEDULES: usize = 20_000;
/// Schedules with few but deep preemptions, besides the random ones.
const DEEP_SCHEDULES: usize = 2_000;
const CALLERS: usize = 3;

/// Stands still, until a scenario moves it; nothing ever times out.
#[derive(Debug, Default)]
struct StandingClock(AtomicU64);

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst) * 1_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
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

#[derive(Debug)]
struct List(u64);

impl CacheValue for List {
    fn digest(&self) -> Digest {
        Digest::of_bytes(&self.0.to_le_bytes())
    }

    fn bytes(&self) -> u64 {
        8
    }

    fn tools(&self) -> usize {
        1
    }

    fn changes_since(&self, _: &Self) -> Changes {
        Changes::default()
    }
}

#[derive(Debug, Clone, Copy)]
enum Play {
    Give,
    Fail,
    Panic,
}

#[derive(Debug)]
struct Server {
    play: Play,
    asked: AtomicU64,
    version: AtomicU64,
}

#[async_trait]
impl Fetch<List> for Server {
    async fn fetch(&self, _: FetchLimits) -> Result<Fetched<List>, FetchError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let version = self.version.load(Ordering::SeqCst);
        yield_now().await;
        let hints = Hints {
            era: Era::WithHints,
            ttl_ms: Some(3_600_000),
            private: false,
        };
        match self.play {
            Play::Give => Ok(Fetched {
                value: List(version),
                hints,
            }),
            Play::Fail => {
                let down = WireError::new(
                    "tool_unavailable",
                    ErrorClass::Unavailable,
                    "nobody listens",
                );
                Err(FetchError::Failed(down))
            }
            // Without the hook: it would print each of the panics.
            Play::Panic => resume_unwind(Box::new("on purpose")),
        }
    }
}

#[derive(Clone)]
struct World {
    cache: DiscoveryCache<List>,
    server: Arc<Server>,
    key: CacheKey,
    clock: Arc<StandingClock>,
}

impl World {
    fn new(play: Play) -> Self {
        let clock = Arc::new(StandingClock::default());
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        Self {
            cache: DiscoveryCache::new(CacheConfig::default(), time, Arc::new(Zeros)),
            server: Arc::new(Server {
                play,
                asked: AtomicU64::new(0),
                version: AtomicU64::new(1),
            }),
            key: CacheKey::new(Owner::Shared, "s", &Value::Null, &Authorisation::Anonymous),
            clock,
        }
    }

    fn call(&self) -> JoinHandle<Answer<List>> {
        let world = self.clone();
        future::spawn(async move { world.get().await })
    }

    async fn get(&self) -> Answer<List> {
        self.cache.get(&self.key, &self.server).await
    }

    fn asked(&self) -> u64 {
        self.server.asked.load(Ordering::SeqCst)
    }

    fn version(&self, answer: &Answer<List>) -> u64 {
        answer.value.as_ref().expect("the server gives").0
    }

    async fn until_landed(&self) {
        while self.cache.flights() > 0 {
            yield_now().await;
        }
    }
}

/// Callers of a cold key; the first one is dropped at any moment. One fetch, and everybody else
/// has its outcome.
fn cold_burst(play: Play, code: Option<&str>) {
    block_on(async {
        let world = World::new(play);
        let leader = world.call();
        let followers: Vec<_> = (0..CALLERS).map(|_| world.call()).collect();
        yield_now().await;
        leader.abort();
        for follower in followers {
            let answer = follower.await.expect("no caller panics");
            let found = answer.error.as_ref().map(|error| error.code.as_str());
            assert_eq!((answer.value.is_some(), found), (code.is_none(), code));
        }
        world.until_landed().await;
        assert_eq!(world.asked(), 1, "asked more than once");
    });
}

/// The list changes and is announced while fetches of the old one are under way. What is served
/// as fresh after the announcement is the new one, and in the end the new one is there.
fn list_changed() {
    block_on(async {
        let world = World::new(Play::Give);
        let callers: Vec<_> = (0..CALLERS).map(|_| world.call()).collect();
        let announcer = world.clone();
        let announced = future::spawn(async move {
            announcer.server.version.store(2, Ordering::SeqCst);
            announcer.cache.mark_stale(&announcer.key);
            let answer = announcer.get().await;
            let old = answer.state == State::Fresh && announcer.version(&answer) == 1;
            assert!(!old, "the announcement was lost");
        });
        for caller in callers {
            caller.await.expect("no caller panics");
        }
        announced.await.expect("no announcer panics");
        for _ in 0..3 {
            world.until_landed().await;
            world.clock.0.fetch_add(2, Ordering::SeqCst);
            world.get().await;
        }
        world.until_landed().await;
        let answer = world.get().await;
        let last = (answer.state, world.version(&answer));
        assert_eq!(last, (State::Fresh, 2), "the announcement was lost");
        assert!(world.asked() <= 3, "asked {} times", world.asked());
    });
}

/// An entry is invalidated while a fetch of the old list is under way: it never comes back.
fn invalidated() {
    block_on(async {
        let world = World::new(Play::Give);
        let callers: Vec<_> = (0..CALLERS).map(|_| world.call()).collect();
        let other = world.clone();
        let invalidated = future::spawn(async move {
            yield_now().await;
            other.server.version.store(2, Ordering::SeqCst);
            other.cache.invalidate(&other.key);
            let answer = other.get().await;
            assert_eq!(other.version(&answer), 2, "a late fetch won");
        });
        for caller in callers {
            caller.await.expect("no caller panics");
        }
        invalidated.await.expect("no invalidator panics");
        world.until_landed().await;
        let answer = world.get().await;
        assert_eq!(world.version(&answer), 2, "a late fetch won");
        assert!(world.asked() <= 2, "asked {} times", world.asked());
    });
}

/// The tasks are ended (the future of `close` is dropped) while callers wait: all are released.
fn tasks_are_ended() {
    block_on(async {
        let world = World::new(Play::Give);
        let callers: Vec<_> = (0..CALLERS).map(|_| world.call()).collect();
        let closer = world.clone();
        let closing = future::spawn(async move { closer.cache.close().await });
        yield_now().await;
        closing.abort();
        for caller in callers {
            let answer = caller.await.expect("no caller panics");
            assert!(answer.value.is_some() != answer.error.is_some());
        }
        world.until_landed().await;
        assert!(world.asked() <= 1, "asked more than once");
    });
}

/// A reload gets what the server had when it was asked for, or later.
fn reloaded() {
    block_on(async {
        let world = World::new(Play::Give);
        let callers: Vec<_> = (0..2).map(|_| world.call()).collect();
        let other = world.clone();
        let reloaded = future::spawn(async move {
            other.server.version.store(2, Ordering::SeqCst);
            let answer = other.cache.reload(&other.key, &other.server).await;
            assert_eq!(other.version(&answer), 2, "a fetch from before was served");
        });
        for caller in callers {
            caller.await.expect("no caller panics");
        }
        reloaded.await.expect("nobody panics");
        assert!(world.asked() <= 2, "asked {} times", world.asked());
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
fn r11_a_dropped_leader_costs_nobody_the_one_fetch() {
    check(|| cold_burst(Play::Give, None));
}

#[test]
#[should_panic(expected = "asked more than once")]
fn r11_leaving_before_storing_is_found() {
    check_with(Fault::LeaveThenStore, || cold_burst(Play::Give, None));
}

#[test]
fn r11_a_failing_fetch_is_shared() {
    check(|| cold_burst(Play::Fail, Some("tool_unavailable")));
}

#[test]
fn r11_a_panicking_fetch_is_shared() {
    check(|| cold_burst(Play::Panic, Some("discovery_panicked")));
}

#[test]
#[should_panic(expected = "asked more than once")]
fn r11_leaving_before_storing_a_panic_is_found() {
    let panicking = || cold_burst(Play::Panic, Some("discovery_panicked"));
    check_with(Fault::LeaveThenStore, panicking);
}

#[test]
fn r11_an_announcement_during_a_fetch_is_not_lost() {
    check(list_changed);
}

#[test]
#[should_panic(expected = "the announcement was lost")]
fn r11_a_forgotten_announcement_is_found() {
    check_with(Fault::OutdatedForgotten, list_changed);
}

#[test]
fn r11_an_invalidated_entry_does_not_come_back() {
    check(invalidated);
}

#[test]
#[should_panic(expected = "a late fetch won")]
fn r11_a_grounded_flight_that_stores_is_found() {
    check_with(Fault::GroundedStores, invalidated);
}

#[test]
fn r11_callers_are_released_when_the_tasks_are_ended() {
    check(tasks_are_ended);
}

#[test]
#[should_panic(expected = "deadlock")]
fn r11_callers_who_are_not_released_are_found() {
    check_with(Fault::AbandonedStay, tasks_are_ended);
}

#[test]
fn r11_a_reload_waits_for_a_fetch_of_its_own() {
    check(reloaded);
}
