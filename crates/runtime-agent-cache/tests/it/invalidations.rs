//! G2: invalidations travel between processes as durable events and are read again on reconnect.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::sync::Arc;

use runtime_agent_cache::{AgentCacheConfig, Invalidations};
use runtime_core::{CommitId, EventKind, Random as _, RuntimeEvent};
use runtime_store::{Commit, MemoryStore, Page, Position, ReadError, Removal, Store};
use runtime_testkit::{FaultStore, ProcessStore, SeededRandom};

use crate::world::{Play, World, key, settle};

/// Processes that share a store, each with its own way to it.
struct Shared {
    memory: MemoryStore,
    seed: u64,
}

impl Shared {
    fn new() -> Self {
        Self {
            memory: MemoryStore::new("shared".parse().unwrap()),
            seed: 0,
        }
    }

    /// A process: its cache, its store, and what it announces and hears through that.
    fn process(&mut self, config: AgentCacheConfig) -> (World, Arc<FaultStore>, Invalidations) {
        self.seed += 1;
        let world = World::with(config);
        let store = FaultStore::new(Arc::new(self.memory.reopen()));
        let random = Arc::new(SeededRandom::new(self.seed));
        let clock = Arc::clone(&world.clock) as _;
        let invalidations = Invalidations::new(Arc::clone(&store) as _, clock, random);
        (world, store, invalidations)
    }

    async fn events(&self) -> Vec<RuntimeEvent> {
        let page = self
            .memory
            .events(None, Page::after(Position(0), 256))
            .await;
        let events = page.unwrap().events;
        events.iter().map(|event| event.decode().unwrap()).collect()
    }

    /// Retention removes everything so far.
    async fn prune(&self) {
        let head = self.memory.events(None, Page::after(Position(0), 1)).await;
        let id = CommitId::generate(
            runtime_core::Timestamp::from_millis(1_000_000),
            SeededRandom::new(99).ten(),
        );
        let commit = Commit::new(id, runtime_core::Timestamp::from_millis(1_000_000));
        let commit = commit.remove(Removal::Through(head.unwrap().head));
        self.memory.commit(commit).await.unwrap();
    }
}

fn version(world: &World, name: &str) -> Option<u64> {
    world.cache.state(&key(name)).map(|state| state.version)
}

async fn build(world: &World, name: &str, version: u64) {
    let key = key(name);
    let built = world.cache.get_or_build(&key, version, &world.build);
    built.await.unwrap();
}

#[tokio::test]
async fn g2_an_invalidation_reaches_every_process_as_a_durable_event() {
    let mut shared = Shared::new();
    let (one, _, announcing) = shared.process(AgentCacheConfig::default());
    let (other, _, hearing) = shared.process(AgentCacheConfig::default());
    one.cache
        .follow(announcing.clone(), announcing.head().await.unwrap());
    other
        .cache
        .follow(hearing.clone(), hearing.head().await.unwrap());
    for world in [&one, &other] {
        build(world, "a", 1).await;
        build(world, "b", 1).await;
    }
    let held = other.cache.get(&key("a")).unwrap();
    announcing.announce(&key("a"), 2).await.unwrap();
    // A key that the other process does not have is none of its business.
    announcing.announce(&key("absent"), 5).await.unwrap();
    settle().await;
    for world in [&one, &other] {
        assert_eq!(
            (version(world, "a"), version(world, "b")),
            (Some(2), Some(1))
        );
        assert_eq!(world.cache.len(), 2);
        assert_eq!(world.cache.counters().invalidations_heard, 2);
    }
    assert_eq!(held.version(), 1, "a holder keeps what it has");
    held.use_it();
    // Late or twice: only a strictly newer version replaces.
    announcing.announce(&key("a"), 2).await.unwrap();
    announcing.announce(&key("a"), 1).await.unwrap();
    settle().await;
    assert_eq!((version(&other, "a"), other.builder.calls()), (Some(2), 3));
    let events = shared.events().await;
    let told = events
        .iter()
        .filter(|event| *event.kind() == EventKind::AgentInvalidated);
    let told: Vec<_> = told
        .map(|event| event.draft.payload["version"].clone())
        .collect();
    assert_eq!(told, [2, 5, 2, 1]);
    drop(held);
    for world in [&one, &other] {
        assert!(
            world.cache.close().await.is_complete(),
            "following ends with the cache"
        );
        world.assert_all_disposed_once();
    }
}

#[tokio::test]
async fn g2_what_was_announced_while_the_connection_was_gone_is_read_on_reconnect() {
    let mut shared = Shared::new();
    let (_world, _, announcing) = shared.process(AgentCacheConfig::default());
    let (other, store, hearing) = shared.process(AgentCacheConfig::default());
    build(&other, "a", 1).await;
    build(&other, "b", 1).await;
    store.fail_reads(3);
    other.cache.follow(hearing, Position(0));
    for version in 2..=300 {
        announcing.announce(&key("a"), version).await.unwrap();
    }
    announcing.announce(&key("b"), 7).await.unwrap();
    settle().await;
    assert_eq!(version(&other, "a"), Some(1), "it cannot know yet");
    for _ in 0..6 {
        other.advance(4);
        settle().await;
    }
    assert_eq!(
        (version(&other, "a"), version(&other, "b")),
        (Some(300), Some(7))
    );
    // Of three hundred announcements of a key not every one is worth a build.
    assert!(other.builder.calls() < 10, "{}", other.builder.calls());
    // It goes on from there.
    build(&other, "c", 1).await;
    store.fail_reads(2);
    announcing.announce(&key("c"), 2).await.unwrap();
    settle().await;
    for _ in 0..3 {
        other.advance(10);
        settle().await;
    }
    assert_eq!(version(&other, "c"), Some(2));
    assert!(other.cache.close().await.is_complete());
    other.assert_all_disposed_once();
}

#[tokio::test]
async fn g2_announcements_that_retention_removed_unread_retire_everything() {
    let mut shared = Shared::new();
    let (_world, _, announcing) = shared.process(AgentCacheConfig::default());
    let (other, store, hearing) = shared.process(AgentCacheConfig::default());
    build(&other, "a", 1).await;
    build(&other, "b", 1).await;
    let held = other.cache.get(&key("a")).unwrap();
    announcing.announce(&key("a"), 2).await.unwrap();
    shared.prune().await;
    store.fail_reads(1);
    other.cache.follow(hearing, Position(0));
    settle().await;
    other.advance(2);
    settle().await;
    assert_eq!(other.cache.len(), 0);
    assert_eq!(other.cache.counters().invalidations_missed, 1);
    held.use_it();
    drop(held);
    assert!(other.cache.close().await.is_complete());
    other.assert_all_disposed_once();
}

/// Of what is damaged nobody can say which agents it named.
#[tokio::test]
async fn g2_announcements_that_are_damaged_retire_everything() {
    let mut shared = Shared::new();
    let (_world, _, announcing) = shared.process(AgentCacheConfig::default());
    let (other, _, _) = shared.process(AgentCacheConfig::default());
    let damaged = ProcessStore::distorting(Arc::new(shared.memory.reopen()), |page| {
        match (page.events.first(), page.events.last()) {
            (Some(first), Some(last)) => Err(ReadError::CorruptEvents {
                from: first.position,
                to: last.position,
                place: None,
            }),
            _ => Ok(page),
        }
    });
    let random = Arc::new(SeededRandom::new(7));
    let hearing = Invalidations::new(damaged, Arc::clone(&other.clock) as _, random);
    build(&other, "a", 1).await;
    announcing.announce(&key("b"), 2).await.unwrap();
    other.cache.follow(hearing, Position(0));
    settle().await;
    assert_eq!(other.cache.len(), 0);
    assert_eq!(other.cache.counters().invalidations_missed, 1);
    assert!(other.cache.close().await.is_complete());
    other.assert_all_disposed_once();
}

#[tokio::test]
async fn g2_an_announcement_waits_for_a_free_build() {
    let mut shared = Shared::new();
    let (other, _, hearing) = shared.process(AgentCacheConfig {
        builds_max: 1,
        ..AgentCacheConfig::default()
    });
    build(&other, "a", 1).await;
    other.builder.plays(Play::Hang);
    let (cache, slow) = (other.cache.clone(), Arc::clone(&other.build));
    let hanging = tokio::spawn(async move { cache.get_or_build(&key("slow"), 1, &slow).await });
    settle().await;
    other.builder.plays(Play::Well);
    other.cache.follow(hearing.clone(), Position(0));
    hearing.announce(&key("a"), 2).await.unwrap();
    settle().await;
    assert_eq!(version(&other, "a"), Some(1));
    // The one that hangs is given up after 60 s.
    for _ in 0..70 {
        other.advance(1);
        settle().await;
    }
    assert_eq!(version(&other, "a"), Some(2));
    assert!(hanging.await.unwrap().is_err());
    assert!(other.cache.close().await.is_complete());
    other.assert_all_disposed_once();
}
