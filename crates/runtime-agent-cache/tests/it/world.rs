//! A cache over objects that the test counts.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runtime_agent_cache::{
    AgentCache, AgentCacheConfig, AgentKey, Build, DisposalFailure, Dispose,
};
use runtime_core::{Clock, ErrorClass, Timestamp, WireError};
use runtime_testkit::{SeededRandom, SimulatedClock};
use tokio::sync::watch;

/// Something alive: it is on the books until it is disposed of.
#[derive(Debug)]
pub(crate) struct Thing {
    pub(crate) serial: u64,
    pub(crate) version: u64,
    books: Arc<Books>,
}

impl Thing {
    /// Uses it: an object in use must not have been disposed of.
    pub(crate) fn use_it(&self) {
        let state = self.books.things.lock().unwrap()[&self.serial];
        assert_eq!(state, Life::Alive, "thing {} is used", self.serial);
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        let mut things = self.books.things.lock().unwrap();
        let state = things.insert(self.serial, Life::Dropped);
        // Never dropped without having been disposed of.
        if state != Some(Life::Disposed) {
            self.books.lost.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Disposed,
    Dropped,
}

/// What was built and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Books {
    things: Mutex<BTreeMap<u64, Life>>,
    next: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) failures: Mutex<Vec<DisposalFailure>>,
    /// Disposals fail, panic or hang while this says so.
    pub(crate) disposal: Mutex<Play>,
}

impl Books {
    pub(crate) fn built(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    pub(crate) fn alive(&self) -> usize {
        let things = self.things.lock().unwrap();
        things.values().filter(|&&life| life == Life::Alive).count()
    }

    pub(crate) fn thing(self: &Arc<Self>, version: u64) -> Thing {
        let serial = self.next.fetch_add(1, Ordering::SeqCst);
        self.things.lock().unwrap().insert(serial, Life::Alive);
        Thing {
            serial,
            version,
            books: Arc::clone(self),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Play {
    #[default]
    Well,
    Fail,
    Panic,
    Hang,
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Undertaker(Arc<Books>);

#[async_trait]
impl Dispose<Thing> for Undertaker {
    async fn dispose(&self, thing: Thing) -> Result<(), WireError> {
        let before = self
            .0
            .things
            .lock()
            .unwrap()
            .insert(thing.serial, Life::Disposed);
        if before != Some(Life::Alive) {
            self.0.doubled.fetch_add(1, Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
        let play = *self.0.disposal.lock().unwrap();
        match play {
            Play::Well | Play::Nothing => Ok(()),
            Play::Fail => Err(error()),
            Play::Panic => panic!("the disposal panicked on purpose"),
            Play::Hang => std::future::pending().await,
        }
    }

    fn failed(&self, failure: DisposalFailure) {
        self.0.failures.lock().unwrap().push(failure);
    }
}

/// A builder: counts its calls, and builds when its gate is open.
#[derive(Debug)]
pub(crate) struct Builder {
    books: Arc<Books>,
    play: Mutex<Play>,
    calls: AtomicU64,
    gate: watch::Sender<bool>,
}

impl Builder {
    pub(crate) fn plays(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    pub(crate) fn shut(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.gate.send_replace(true);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Build<Thing> for Builder {
    async fn build(&self, version: u64) -> Result<Option<Thing>, WireError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let play = *self.play.lock().unwrap();
        let mut gate = self.gate.subscribe();
        gate.wait_for(|&open| open).await.unwrap();
        match play {
            Play::Well => Ok(Some(self.books.thing(version))),
            Play::Nothing => Ok(None),
            Play::Fail => Err(error()),
            Play::Panic => panic!("the build panicked on purpose"),
            Play::Hang => std::future::pending().await,
        }
    }
}

fn error() -> WireError {
    WireError::new("broken", ErrorClass::Unavailable, "it broke")
}

pub(crate) struct World {
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) cache: AgentCache<Thing>,
    pub(crate) books: Arc<Books>,
    pub(crate) builder: Arc<Builder>,
    /// The same builder as the cache takes it.
    pub(crate) build: Arc<dyn Build<Thing>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(AgentCacheConfig::default())
    }

    pub(crate) fn with(config: AgentCacheConfig) -> Self {
        let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000_000)));
        let books = Arc::new(Books::default());
        let builder = Arc::new(Builder {
            books: Arc::clone(&books),
            play: Mutex::default(),
            calls: AtomicU64::new(0),
            gate: watch::Sender::new(true),
        });
        let undertaker = Arc::new(Undertaker(Arc::clone(&books)));
        let random = Arc::new(SeededRandom::new(7));
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let cache = AgentCache::new(config, time, random, undertaker);
        let build = Arc::clone(&builder) as Arc<dyn Build<Thing>>;
        Self {
            clock,
            cache,
            books,
            builder,
            build,
        }
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Everything built has been disposed of, each once.
    pub(crate) fn assert_all_disposed_once(&self) {
        assert_eq!(self.books.alive(), 0, "something was never disposed of");
        assert_eq!(
            self.books.lost.load(Ordering::SeqCst),
            0,
            "dropped undisposed"
        );
        assert_eq!(
            self.books.doubled.load(Ordering::SeqCst),
            0,
            "disposed twice"
        );
        assert_eq!(self.cache.counters().disposals, self.books.built());
    }
}

/// Lets every task run until it waits.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn key(name: &str) -> AgentKey {
    AgentKey::new("tenant", name)
}
