//! G1: random interleavings of everything a host can do. Each generation is disposed of exactly
//! once, and only after its last lease; no build is doubled; no late write wins.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use runtime_agent_cache::{AgentCacheConfig, Lease, LeaseError};
use tokio::task::JoinHandle;

use crate::world::{Play, Thing, World, key, settle};

#[derive(Debug, Clone)]
enum Act {
    Build {
        key: u8,
        version: u64,
    },
    Get {
        key: u8,
    },
    Invalidate {
        key: u8,
        version: u64,
    },
    Seed {
        key: u8,
        version: u64,
    },
    Evict {
        key: u8,
    },
    /// Drops a lease that is held.
    Release {
        which: usize,
    },
    /// Drops a caller who waits.
    Abandon {
        which: usize,
    },
    Plays(Play),
    Disposals(Play),
    Gate(bool),
    Pass(u64),
    Sweep,
    RetireAll,
    /// Nothing is served and nothing built from here on.
    Close,
    Yield(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let play = || {
        prop_oneof![4 => Just(Play::Well), 1 => Just(Play::Fail), 1 => Just(Play::Panic),
        1 => Just(Play::Hang), 1 => Just(Play::Nothing)]
    };
    prop_oneof![
        6 => (0..4_u8, 1..6_u64).prop_map(|(key, version)| Act::Build { key, version }),
        3 => (0..4_u8).prop_map(|key| Act::Get { key }),
        4 => (0..4_u8, 1..6_u64).prop_map(|(key, version)| Act::Invalidate { key, version }),
        2 => (0..4_u8, 1..6_u64).prop_map(|(key, version)| Act::Seed { key, version }),
        2 => (0..4_u8).prop_map(|key| Act::Evict { key }),
        4 => any::<usize>().prop_map(|which| Act::Release { which }),
        2 => any::<usize>().prop_map(|which| Act::Abandon { which }),
        3 => play().prop_map(Act::Plays),
        2 => play().prop_map(Act::Disposals),
        4 => any::<bool>().prop_map(Act::Gate),
        2 => (0..200_u64).prop_map(Act::Pass),
        1 => Just(Act::Sweep),
        1 => Just(Act::RetireAll),
        1 => Just(Act::Close),
        4 => (0..8_u8).prop_map(Act::Yield),
    ]
}

type Leased = Result<Lease<Thing>, LeaseError>;

struct Run {
    world: World,
    held: Vec<Lease<Thing>>,
    waiting: Vec<JoinHandle<Leased>>,
    invalidations: Vec<JoinHandle<()>>,
    closings: Vec<JoinHandle<()>>,
    /// The newest version that was seen in each key since it was last seen empty.
    newest: BTreeMap<u8, (u64, u64)>,
}

impl Run {
    async fn act(&mut self, act: Act) {
        let world = &self.world;
        match act {
            Act::Build { key: k, version } => {
                let (cache, build) = (world.cache.clone(), Arc::clone(&world.build));
                self.waiting.push(tokio::spawn(async move {
                    let lease = cache.get_or_build(&name(k), version, &build).await?;
                    assert!(lease.version() >= version, "an older one was served");
                    Ok(lease)
                }));
            }
            Act::Get { key } => self.held.extend(world.cache.get(&name(key))),
            Act::Invalidate { key, version } => {
                let cache = world.cache.clone();
                self.invalidations.push(tokio::spawn(async move {
                    // Failing is one of the things that a rebuild may do.
                    let _ = cache.invalidate(&name(key), version).await;
                }));
            }
            Act::Seed { key, version } => {
                let thing = world.books.thing(version);
                let _ = world.cache.seed(&name(key), version, thing, &world.build);
            }
            Act::Evict { key } => {
                world.cache.evict(&name(key));
                self.newest.remove(&key);
            }
            Act::Release { which } if !self.held.is_empty() => {
                let which = which % self.held.len();
                drop(self.held.swap_remove(which));
            }
            Act::Abandon { which } if !self.waiting.is_empty() => {
                let which = which % self.waiting.len();
                self.waiting.swap_remove(which).abort();
            }
            Act::Release { .. } | Act::Abandon { .. } => {}
            Act::Plays(play) => world.builder.plays(play),
            Act::Disposals(play) => *world.books.disposal.lock().unwrap() = play,
            Act::Gate(true) => world.builder.open(),
            Act::Gate(false) => world.builder.shut(),
            Act::Pass(seconds) => world.advance(seconds),
            Act::Sweep => {
                world.cache.sweep();
            }
            Act::RetireAll => {
                world.cache.retire_all();
                self.newest.clear();
            }
            Act::Close => {
                let cache = world.cache.clone();
                self.closings.push(tokio::spawn(async move {
                    cache.close().await;
                }));
                settle().await;
                assert!(world.cache.is_empty(), "it retires everything at once");
                self.newest.clear();
            }
            Act::Yield(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.check().await;
    }

    async fn check(&mut self) {
        for at in (0..self.waiting.len()).rev() {
            if self.waiting[at].is_finished() {
                self.held
                    .extend(self.waiting.swap_remove(at).await.unwrap());
            }
        }
        for lease in &self.held {
            lease.use_it();
        }
        for k in 0..4 {
            let Some(state) = self.world.cache.state(&name(k)) else {
                self.newest.remove(&k);
                continue;
            };
            let now = (state.generation, state.version);
            if let Some((generation, version)) = self.newest.insert(k, now) {
                // While a key is never empty, its version only grows.
                let same = generation == now.0 && version == now.1;
                assert!(
                    same || version < now.1 || generation < now.0,
                    "a late write won"
                );
            }
        }
        assert!(self.world.cache.len() <= 3);
    }

    async fn end(mut self) {
        self.world.builder.plays(Play::Well);
        *self.world.books.disposal.lock().unwrap() = Play::Well;
        self.world.builder.open();
        self.held.clear();
        self.waiting.iter().for_each(JoinHandle::abort);
        let cache = self.world.cache.clone();
        let closing = tokio::spawn(async move { cache.close().await });
        for _ in 0..4 {
            settle().await;
            // Disposals that hang since earlier are given up after 30 s.
            self.world.advance(16);
        }
        let report = closing.await.unwrap();
        for closing in self.closings {
            closing.await.unwrap();
        }
        assert!(report.is_complete(), "{report:?}");
        settle().await;
        self.world.assert_all_disposed_once();
        let counters = self.world.cache.counters();
        assert_eq!(
            counters.builds,
            self.world.builder.calls(),
            "no build lost or doubled"
        );
    }
}

fn name(k: u8) -> runtime_agent_cache::AgentKey {
    key(&k.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn g1_each_generation_is_disposed_of_once_and_only_after_its_last_lease(
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::with(AgentCacheConfig { entries_max: 3, ..AgentCacheConfig::default() });
            let mut run = Run {
                world,
                held: Vec::new(),
                waiting: Vec::new(),
                invalidations: Vec::new(),
                closings: Vec::new(),
                newest: BTreeMap::new(),
            };
            for act in acts {
                run.act(act).await;
            }
            run.end().await;
        });
    }
}
