//! Random interleavings of callers, announcements, failures, evictions and time (M1, M2, M5).

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use runtime_mcp_cache::{Answer, CacheConfig, CacheKey, State};
use tokio::task::JoinHandle;

use crate::world::{Page, Play, Server, World, key, settle};

#[derive(Debug, Clone)]
enum Act {
    Get(usize),
    Reload(usize),
    Refetch(usize),
    Abandon(usize),
    MarkStale(usize),
    Unblock(usize),
    Invalidate(usize),
    Plays(usize, Play),
    Gate(usize, bool),
    Pass(u64),
    /// What is cached is still served; nothing is fetched from here on.
    Close,
    Yield(u8),
}

const KEYS: usize = 4;
/// Enough that a key is mostly fetched at once, too few for every invalidated fetch that hangs.
const FLIGHTS: usize = 6;

fn act() -> impl Strategy<Value = Act> {
    let k = || 0..KEYS;
    let play = prop_oneof![
        6 => (100..200_u64).prop_map(|bytes| Play::Give(Page { number: 0, bytes, tools: 1 })),
        1 => Just(Play::Give(Page { number: 0, bytes: 2_000, tools: 1 })),
        2 => Just(Play::Fail),
        1 => Just(Play::Refuse),
        1 => Just(Play::Panic),
        1 => Just(Play::Hang),
    ];
    prop_oneof![
        8 => k().prop_map(Act::Get),
        1 => k().prop_map(Act::Reload),
        1 => k().prop_map(Act::Refetch),
        2 => any::<usize>().prop_map(Act::Abandon),
        3 => k().prop_map(Act::MarkStale),
        1 => k().prop_map(Act::Unblock),
        2 => k().prop_map(Act::Invalidate),
        4 => (k(), play).prop_map(|(k, play)| Act::Plays(k, play)),
        4 => (k(), any::<bool>()).prop_map(|(k, open)| Act::Gate(k, open)),
        3 => (0..8_000_u64).prop_map(Act::Pass),
        1 => Just(Act::Close),
        4 => (0..8_u8).prop_map(Act::Yield),
    ]
}

struct Run {
    world: World,
    servers: Vec<Arc<Server>>,
    keys: Vec<CacheKey>,
    waiting: Vec<JoinHandle<Answer<Page>>>,
    /// Grows with each change, so that an older list is a smaller number.
    number: u64,
    /// The newest list that each key has served since it was invalidated.
    newest: BTreeMap<usize, u64>,
    /// The fetches until the cache was closed.
    closed_at: Option<u64>,
}

impl Run {
    fn new() -> Self {
        let config = CacheConfig {
            entries_max: 3,
            entry_bytes_max: 1_000,
            total_bytes_max: 350,
            flights_max: FLIGHTS,
            ..CacheConfig::default()
        };
        Self {
            world: World::with(config),
            servers: (0..KEYS).map(|_| Server::new(Play::Fail)).collect(),
            keys: (0..KEYS).map(|k| key(&k.to_string())).collect(),
            waiting: Vec::new(),
            number: 0,
            newest: BTreeMap::new(),
            closed_at: None,
        }
    }

    fn spawn(
        &mut self,
        k: usize,
        how: fn(Cache, CacheKey, Arc<Server>) -> JoinHandle<Answer<Page>>,
    ) {
        let call = how(
            self.world.cache.clone(),
            self.keys[k].clone(),
            Arc::clone(&self.servers[k]),
        );
        self.waiting.push(call);
    }

    async fn act(&mut self, act: Act) {
        let cache = self.world.cache.clone();
        match act {
            Act::Get(k) => self.spawn(k, |cache, key, server| {
                tokio::spawn(async move { cache.get(&key, &server).await })
            }),
            Act::Reload(k) => self.spawn(k, |cache, key, server| {
                tokio::spawn(async move { cache.reload(&key, &server).await })
            }),
            Act::Refetch(k) => self.spawn(k, |cache, key, server| {
                tokio::spawn(async move { cache.refetch(&key, &server).await })
            }),
            Act::Abandon(which) if !self.waiting.is_empty() => {
                let which = which % self.waiting.len();
                self.waiting.swap_remove(which).abort();
            }
            Act::Abandon(_) => {}
            Act::MarkStale(k) => cache.mark_stale(&self.keys[k]),
            Act::Unblock(k) => cache.unblock(&self.keys[k]),
            Act::Invalidate(k) => {
                cache.invalidate(&self.keys[k]);
                self.newest.remove(&k);
                assert!(cache.peek(&self.keys[k]).is_none());
            }
            Act::Plays(k, play) => {
                self.number += 1;
                self.servers[k].plays(match play {
                    Play::Give(page) => Play::Give(Page {
                        number: self.number,
                        ..page
                    }),
                    other => other,
                });
            }
            Act::Gate(k, true) => self.servers[k].open(),
            Act::Gate(k, false) => self.servers[k].shut(),
            Act::Pass(seconds) => self.world.advance(seconds),
            Act::Close => {
                cache.close().await;
                assert_eq!(cache.flights(), 0, "a fetch outlives the cache");
                self.closed_at.get_or_insert(cache.counters().fetches);
            }
            Act::Yield(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let cache = &self.world.cache;
        assert!(cache.len() <= 3 && cache.bytes() <= 350);
        assert!(cache.flights() <= FLIGHTS);
        for (k, key) in self.keys.iter().enumerate() {
            let Some(answer) = cache.peek(key) else {
                continue;
            };
            match answer.state {
                State::Fresh | State::Stale => {
                    let number = answer.value.expect("it serves a value").number;
                    let before = self.newest.insert(k, number).unwrap_or(0);
                    assert!(
                        before <= number,
                        "a late fetch won: {before} became {number}"
                    );
                }
                State::Negative | State::Blocked => {
                    assert!(answer.value.is_none() && answer.error.is_some());
                }
                State::Uncached(_) => assert!(answer.value.is_none()),
                other => panic!("nothing is kept as {other:?}"),
            }
        }
        self.waiting.retain(|call| !call.is_finished());
    }

    /// Everything ends: every caller is answered, every fetch lands once.
    async fn end(self) {
        self.servers.iter().for_each(|server| server.open());
        for _ in 0..3 {
            settle().await;
            // Fetches that hang are given up after 30 s; a reload may need two.
            self.world.advance(31);
        }
        settle().await;
        for call in self.waiting {
            assert!(call.is_finished(), "a caller waits for ever");
            let answer = call.await.expect("no caller panics");
            assert!(
                answer.value.is_some() || answer.error.is_some() || answer.next_retry.is_some()
            );
        }
        assert_eq!(self.world.cache.flights(), 0);
        let asked: u64 = self.servers.iter().map(|server| server.asked()).sum();
        let fetches = self.world.cache.counters().fetches;
        match self.closed_at {
            None => assert_eq!(fetches, asked, "no fetch lost or doubled"),
            // What had not begun when the cache was closed never asks.
            Some(closed_at) => assert!(fetches == closed_at && asked <= fetches, "{asked}"),
        }
        self.world.cache.close().await;
    }
}

type Cache = runtime_mcp_cache::DiscoveryCache<Page>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn m2_no_fetch_is_lost_or_doubled_and_no_late_one_wins(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut run = Run::new();
            for act in acts {
                run.act(act).await;
            }
            run.end().await;
        });
    }
}
