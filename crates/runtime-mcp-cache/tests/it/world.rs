//! A cache over a server that the test plays.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{Clock, Digest, ErrorClass, Timestamp, WireError};
use runtime_mcp_cache::{
    Answer, Authorisation, CacheConfig, CacheKey, CacheObserver, CacheValue, CatalogueChanged,
    Changes, DiscoveryCache, Era, Fetch, FetchError, FetchLimits, Fetched, Hints, Owner,
};
use runtime_testkit::{SeededRandom, SimulatedClock};
use serde_json::json;
use tokio::sync::watch;

/// A value that is only a number and a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) tools: usize,
}

impl CacheValue for Page {
    fn digest(&self) -> Digest {
        Digest::of_bytes(&self.number.to_le_bytes())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn tools(&self) -> usize {
        self.tools
    }

    fn changes_since(&self, earlier: &Self) -> Changes {
        Changes {
            added: vec![self.number.to_string()],
            removed: vec![earlier.number.to_string()],
            changed: Vec::new(),
        }
    }
}

/// What the server does when it is asked.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    Give(Page),
    Fail,
    Refuse,
    Panic,
    Hang,
}

pub(crate) fn page(number: u64) -> Play {
    Play::Give(Page {
        number,
        bytes: 10,
        tools: 1,
    })
}

pub(crate) fn sized(number: u64, bytes: u64) -> Play {
    Play::Give(Page {
        number,
        bytes,
        tools: 1,
    })
}

/// A server: counts how often it is asked, and answers when its gate is open.
#[derive(Debug)]
pub(crate) struct Server {
    play: Mutex<Play>,
    pub(crate) ttl_ms: Mutex<Option<i64>>,
    /// It says that its list is private.
    pub(crate) private: AtomicBool,
    asked: AtomicU64,
    gate: watch::Sender<bool>,
}

impl Server {
    pub(crate) fn new(play: Play) -> Arc<Self> {
        Arc::new(Self {
            play: Mutex::new(play),
            ttl_ms: Mutex::new(None),
            private: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            gate: watch::Sender::new(true),
        })
    }

    pub(crate) fn plays(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    pub(crate) fn shut(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.gate.send_replace(true);
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Fetch<Page> for Server {
    async fn fetch(&self, _limits: FetchLimits) -> Result<Fetched<Page>, FetchError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // What it lists is what it had when it was asked, however long the answer takes.
        let play = self.play.lock().unwrap().clone();
        let mut gate = self.gate.subscribe();
        gate.wait_for(|&open| open).await.unwrap();
        let hints = Hints {
            era: Era::WithoutHints,
            ttl_ms: *self.ttl_ms.lock().unwrap(),
            private: self.private.load(Ordering::SeqCst),
        };
        match play {
            Play::Give(value) => Ok(Fetched { value, hints }),
            Play::Fail => Err(FetchError::Failed(WireError::new(
                "down",
                ErrorClass::Unavailable,
                "nobody listens",
            ))),
            Play::Refuse => Err(FetchError::Refused(WireError::new(
                "refused",
                ErrorClass::Terminal,
                "unknown token",
            ))),
            Play::Panic => panic!("the fetch panicked on purpose"),
            Play::Hang => std::future::pending().await,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Seen(pub(crate) Mutex<Vec<CatalogueChanged>>);

impl CacheObserver for Seen {
    fn catalogue_changed(&self, event: CatalogueChanged) {
        self.0.lock().unwrap().push(event);
    }
}

pub(crate) struct World {
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) cache: DiscoveryCache<Page>,
    pub(crate) seen: Arc<Seen>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(CacheConfig::default())
    }

    pub(crate) fn with(config: CacheConfig) -> Self {
        let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000_000)));
        let seen = Arc::new(Seen::default());
        let random = Arc::new(SeededRandom::new(7));
        let cache = DiscoveryCache::with_observer(
            config,
            Arc::clone(&clock) as Arc<dyn Clock>,
            random,
            Arc::clone(&seen) as Arc<dyn CacheObserver>,
        );
        Self { clock, cache, seen }
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Starts a call that waits, and lets it get as far as it can.
    pub(crate) async fn call(
        &self,
        key: &CacheKey,
        server: &Arc<Server>,
    ) -> tokio::task::JoinHandle<Answer<Page>> {
        let (cache, key, server) = (self.cache.clone(), key.clone(), Arc::clone(server));
        let call = tokio::spawn(async move { cache.get(&key, &server).await });
        settle().await;
        call
    }
}

/// Lets every task run until it waits.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn key(server: &str) -> CacheKey {
    CacheKey::new(
        Owner::Shared,
        server,
        &json!({"command": server}),
        &Authorisation::Anonymous,
    )
}
