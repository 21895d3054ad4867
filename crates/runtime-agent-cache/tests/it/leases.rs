//! G1 to G4, one behaviour at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime_agent_cache::{
    AgentCacheConfig, AgentKey, Build, DisposalReason, Invalidated, LeaseError, Seeded, Ttl,
};
use runtime_core::{Classified as _, ErrorClass, WireError};

use crate::world::{Play, Thing, World, key, settle};

#[tokio::test]
async fn g1_a_thousand_callers_share_one_build_also_when_the_first_is_dropped() {
    for (play, code) in [
        (Play::Well, None),
        (Play::Fail, Some("agent_cache_build_failed")),
        (Play::Panic, Some("agent_cache_build_panicked")),
        (Play::Hang, Some("agent_cache_build_timed_out")),
        (Play::Nothing, Some("agent_cache_nothing_to_build")),
    ] {
        let world = World::new();
        world.builder.plays(play);
        world.builder.shut();
        let mut calls = Vec::new();
        for _ in 0..1_001 {
            let (cache, build) = (world.cache.clone(), Arc::clone(&world.build));
            calls.push(tokio::spawn(async move {
                cache.get_or_build(&key("a"), 1, &build).await
            }));
        }
        settle().await;
        calls.remove(0).abort();
        settle().await;
        world.builder.open();
        settle().await;
        world.advance(60);
        for call in calls {
            let leased = call.await.unwrap();
            let found = leased.as_ref().err().map(|error| error.code());
            assert_eq!(found, code, "{play:?}");
            if let Ok(lease) = leased {
                lease.use_it();
            }
        }
        assert_eq!(world.builder.calls(), 1, "{play:?}");
        assert!(world.cache.close().await.is_complete());
        world.assert_all_disposed_once();
    }
}

#[tokio::test]
async fn g1_an_object_in_use_is_not_disposed_of_whatever_happens_to_its_key() {
    let world = World::new();
    let lease = world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    assert!(world.cache.evict(&key("a")));
    assert!(world.cache.get(&key("a")).is_none());
    assert_eq!(world.cache.len(), 0);
    settle().await;
    lease.use_it();
    let second = lease.clone();
    drop(lease);
    settle().await;
    second.use_it();
    assert_eq!(world.cache.counters().disposals, 0);
    drop(second);
    settle().await;
    world.assert_all_disposed_once();
}

#[tokio::test]
async fn g1_an_expired_generation_serves_its_holders_but_nobody_new() {
    let world = World::new();
    let old = world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    world.advance(300);
    assert!(world.cache.get(&key("a")).is_none());
    let new = world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    assert_ne!(old.generation(), new.generation());
    old.use_it();
    new.use_it();
    assert_eq!(world.cache.counters().expirations, 1);
}

#[tokio::test]
async fn g1_a_late_release_touches_its_own_generation_only() {
    let world = World::new();
    let first = world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    world.cache.evict(&key("a"));
    let second = world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    drop(first);
    settle().await;
    assert_eq!(world.cache.counters().disposals, 1);
    second.use_it();
    assert_eq!(world.cache.state(&key("a")).unwrap().leases, 1);
}

#[tokio::test]
async fn g2_only_a_strictly_newer_version_replaces() {
    let world = World::new();
    let (cache, build) = (&world.cache, &world.build);
    cache.get_or_build(&key("a"), 5, build).await.unwrap();
    for older in [1, 4, 5] {
        assert_eq!(
            cache
                .get_or_build(&key("a"), older, build)
                .await
                .unwrap()
                .version(),
            5
        );
        assert_eq!(
            cache.invalidate(&key("a"), older).await,
            Ok(Invalidated::Unchanged)
        );
    }
    assert_eq!(
        cache.invalidate(&key("absent"), 9).await,
        Ok(Invalidated::Unchanged)
    );
    assert_eq!(world.builder.calls(), 1);
    let swapped = cache.invalidate(&key("a"), 6).await;
    assert_eq!(swapped, Ok(Invalidated::Swapped { version: 6 }));
    assert_eq!(cache.get(&key("a")).unwrap().version(), 6);
    settle().await;
    assert_eq!((world.books.alive(), cache.counters().disposals), (1, 1));
}

#[tokio::test]
async fn g2_a_late_older_build_does_not_replace_a_newer_one() {
    let world = World::new();
    world.builder.shut();
    let (cache, build) = (world.cache.clone(), Arc::clone(&world.build));
    let early = tokio::spawn(async move { cache.get_or_build(&key("a"), 1, &build).await });
    settle().await;
    world
        .cache
        .seed(&key("a"), 3, world.books.thing(3), &world.build)
        .unwrap();
    world.builder.open();
    assert_eq!(early.await.unwrap().unwrap().version(), 3);
    settle().await;
    assert_eq!(world.cache.get(&key("a")).unwrap().version(), 3);
    assert_eq!((world.books.built(), world.books.alive()), (2, 1));
    assert_eq!(world.cache.counters().not_kept, 1);
}

#[tokio::test]
async fn g2_an_invalidation_during_a_build_is_not_lost() {
    let world = World::new();
    world.builder.shut();
    let (cache, build) = (world.cache.clone(), Arc::clone(&world.build));
    let early = tokio::spawn(async move { cache.get_or_build(&key("a"), 1, &build).await });
    settle().await;
    let cache = world.cache.clone();
    let invalidation = tokio::spawn(async move { cache.invalidate(&key("a"), 2).await });
    settle().await;
    world.builder.open();
    early.await.unwrap().unwrap().use_it();
    let swapped = invalidation.await.unwrap();
    assert_eq!(swapped, Ok(Invalidated::Swapped { version: 2 }));
    settle().await;
    assert_eq!(world.cache.get(&key("a")).unwrap().version(), 2);
    assert_eq!(world.books.alive(), 1);
}

/// Two invalidations at once: the first is answered with its swap, and it has happened, although
/// the build of the second one is still under way.
#[tokio::test]
async fn g2_an_overtaken_build_is_kept_until_the_newer_one_lands() {
    let world = World::new();
    world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    world.builder.shut();
    let invalidate = |version| {
        let cache = world.cache.clone();
        tokio::spawn(async move { cache.invalidate(&key("a"), version).await })
    };
    let second = invalidate(2);
    settle().await;
    world.builder.plays(Play::Fail);
    let third = invalidate(3);
    settle().await;
    world.builder.open();
    let swapped = second.await.unwrap();
    assert_eq!(swapped, Ok(Invalidated::Swapped { version: 2 }));
    assert!(third.await.unwrap().is_err());
    settle().await;
    // The old one that the failed rebuild keeps is the second, not the first.
    let state = world.cache.state(&key("a")).unwrap();
    assert_eq!((state.version, state.stale.unwrap().wanted), (2, 3));
    assert_eq!(world.books.alive(), 1);
}

#[tokio::test]
async fn g2_an_eviction_during_a_build_is_not_undone_by_it() {
    let world = World::new();
    world.builder.shut();
    let (cache, build) = (world.cache.clone(), Arc::clone(&world.build));
    let early = tokio::spawn(async move { cache.get_or_build(&key("a"), 1, &build).await });
    settle().await;
    world.cache.evict(&key("a"));
    world.builder.open();
    let lease = early.await.unwrap().unwrap();
    lease.use_it();
    assert!(world.cache.get(&key("a")).is_none());
    drop(lease);
    settle().await;
    world.assert_all_disposed_once();
}

#[tokio::test]
async fn g2_a_failed_rebuild_keeps_the_old_visibly_stale_and_pauses() {
    let world = World::new();
    let (cache, build) = (&world.cache, &world.build);
    cache.get_or_build(&key("a"), 1, build).await.unwrap();
    world.builder.plays(Play::Fail);
    let error = cache.invalidate(&key("a"), 2).await.unwrap_err();
    assert_eq!(
        (error.code(), error.class()),
        ("agent_cache_build_failed", ErrorClass::Unavailable)
    );
    assert_eq!(cache.get(&key("a")).unwrap().version(), 1);
    let stale = cache.state(&key("a")).unwrap().stale.unwrap();
    assert_eq!((stale.wanted, stale.attempts), (2, 1));
    assert!(stale.next_retry.as_millis() > 1_000_000);
    // In the pause the failure answers; the builder is left alone.
    assert_eq!(cache.invalidate(&key("a"), 2).await, Err(error.clone()));
    assert_eq!(
        cache.get_or_build(&key("a"), 2, build).await.unwrap_err(),
        error
    );
    assert_eq!(world.builder.calls(), 2);
    world.advance(1);
    world.builder.plays(Play::Well);
    assert_eq!(cache.sweep().rebuilding, 1);
    settle().await;
    let state = cache.state(&key("a")).unwrap();
    assert_eq!((state.version, state.stale), (2, None));
}

#[tokio::test]
async fn g2_a_rebuild_of_nothing_retires() {
    let world = World::new();
    world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    world.builder.plays(Play::Nothing);
    assert_eq!(
        world.cache.invalidate(&key("a"), 2).await,
        Ok(Invalidated::Retired)
    );
    assert_eq!(world.cache.len(), 0);
    settle().await;
    world.assert_all_disposed_once();
}

#[tokio::test]
async fn g2_seeding_the_same_version_extends_and_disposes_the_newcomer() {
    let world = World::new();
    let seed = |version| {
        let thing = world.books.thing(version);
        world
            .cache
            .seed(&key("a"), version, thing, &world.build)
            .unwrap()
    };
    assert_eq!(seed(2), Seeded::Kept);
    let first = world.cache.get(&key("a")).unwrap().generation();
    world.advance(200);
    assert_eq!(seed(2), Seeded::Extended);
    assert_eq!(seed(1), Seeded::Older);
    world.advance(200);
    assert_eq!(world.cache.get(&key("a")).unwrap().generation(), first);
    settle().await;
    assert_eq!((world.books.built(), world.books.alive()), (3, 1));
    assert_eq!(seed(3), Seeded::Kept);
    settle().await;
    assert_eq!(world.books.alive(), 1);
}

#[tokio::test]
async fn g3_admission_takes_the_least_recently_used_idle_one_else_is_busy() {
    let world = World::with(AgentCacheConfig {
        entries_max: 3,
        ..AgentCacheConfig::default()
    });
    let (cache, build) = (&world.cache, &world.build);
    for name in ["a", "b", "c"] {
        cache.get_or_build(&key(name), 1, build).await.unwrap();
    }
    settle().await;
    let a = cache.get(&key("a")).unwrap();
    cache.get_or_build(&key("d"), 1, build).await.unwrap();
    settle().await;
    let there = |name: &str| cache.state(&key(name)).is_some();
    assert_eq!(["a", "b", "c", "d"].map(there), [true, false, true, true]);

    let (c, d) = (cache.get(&key("c")).unwrap(), cache.get(&key("d")).unwrap());
    let busy = cache.get_or_build(&key("e"), 1, build).await.unwrap_err();
    assert_eq!(
        (busy.code(), busy.class()),
        ("agent_cache_busy", ErrorClass::Busy)
    );
    assert!(matches!(
        cache.seed(&key("e"), 1, world.books.thing(1), build),
        Err(LeaseError::Busy { entries_max: 3 })
    ));
    // Retired but in use still counts: the cap is on what is alive.
    cache.evict(&key("a"));
    assert!(cache.get_or_build(&key("e"), 1, build).await.is_err());
    drop(a);
    cache.get_or_build(&key("e"), 1, build).await.unwrap();
    drop((c, d));
    settle().await;
    assert_eq!(world.books.alive(), 3);
}

#[tokio::test]
async fn g3_the_time_to_live_is_capped_after_overrides_and_never_is_its_own_option() {
    let world = World::new();
    let (cache, build) = (&world.cache, &world.build);
    let long = Ttl::After(Duration::from_secs(1_000_000));
    let short = Ttl::After(Duration::from_secs(10));
    cache
        .get_or_build_for(&key("long"), 1, long, build)
        .await
        .unwrap();
    cache
        .get_or_build_for(&key("short"), 1, short, build)
        .await
        .unwrap();
    cache
        .get_or_build_for(&key("never"), 1, Ttl::Never, build)
        .await
        .unwrap();
    let left = |name: &str| {
        cache
            .state(&key(name))
            .unwrap()
            .expires_in
            .map(|ttl| ttl.as_secs())
    };
    assert_eq!(
        ["long", "short", "never"].map(left),
        [Some(300), Some(10), None]
    );
    settle().await;
    world.advance(10);
    assert_eq!(cache.sweep().expired, 1);
    world.advance(1_000_000);
    assert_eq!(cache.sweep().expired, 1);
    assert_eq!(cache.len(), 1);
    settle().await;
    assert_eq!(world.books.alive(), 1);
}

#[tokio::test]
async fn g3_the_sweeper_disposes_by_itself_until_the_end() {
    let world = World::new();
    world.cache.start_sweeper();
    world
        .cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    for _ in 0..11 {
        settle().await;
        world.advance(30);
    }
    settle().await;
    world.assert_all_disposed_once();
    assert!(world.cache.close().await.is_complete());
}

#[tokio::test]
async fn g3_bad_disposals_are_counted_reported_and_block_nobody() {
    for (play, reason) in [
        (Play::Fail, "it failed: it broke"),
        (Play::Panic, "it panicked"),
        (Play::Hang, "it took too long"),
    ] {
        let world = World::new();
        *world.books.disposal.lock().unwrap() = play;
        world
            .cache
            .get_or_build(&key("a"), 1, &world.build)
            .await
            .unwrap();
        settle().await;
        world.cache.evict(&key("a"));
        world
            .cache
            .get_or_build(&key("a"), 1, &world.build)
            .await
            .unwrap()
            .use_it();
        settle().await;
        world.advance(30);
        settle().await;
        let failures = world.books.failures.lock().unwrap().clone();
        assert_eq!(failures.len(), 1);
        assert_eq!(
            (failures[0].reason.to_string().as_str(), &failures[0].key),
            (reason, &key("a"))
        );
        let counters = world.cache.counters();
        assert_eq!(counters.disposal_failures + counters.disposal_timeouts, 1);
        assert_eq!(
            failures[0].reason == DisposalReason::TimedOut,
            play == Play::Hang
        );
    }
}

#[tokio::test]
async fn g3_close_retires_all_waits_and_says_what_is_left() {
    let world = World::new();
    let held = world
        .cache
        .get_or_build(&key("held"), 1, &world.build)
        .await
        .unwrap();
    world
        .cache
        .get_or_build(&key("idle"), 1, &world.build)
        .await
        .unwrap();
    world.builder.plays(Play::Hang);
    let (cache, build) = (world.cache.clone(), Arc::clone(&world.build));
    let call = tokio::spawn(async move { cache.get_or_build(&key("slow"), 1, &build).await });
    settle().await;
    let cache = world.cache.clone();
    let closing = tokio::spawn(async move { cache.close().await });
    settle().await;
    assert_eq!(call.await.unwrap().unwrap_err(), LeaseError::Closed);
    assert!(!closing.is_finished(), "it waits for the lease");
    held.use_it();
    world.advance(60);
    let report = closing.await.unwrap();
    assert_eq!((report.leased, report.disposing, report.tasks), (1, 0, 0));
    let closed = world.cache.get_or_build(&key("new"), 1, &world.build).await;
    assert_eq!(closed.unwrap_err(), LeaseError::Closed);
    drop(held);
    settle().await;
    assert!(world.cache.close().await.is_complete());
    world.assert_all_disposed_once();
}

#[tokio::test]
async fn g4_tenants_never_share() {
    let world = World::new();
    let (one, two) = (AgentKey::new("one", "a"), AgentKey::new("two", "a"));
    let first = world
        .cache
        .get_or_build(&one, 1, &world.build)
        .await
        .unwrap();
    assert!(world.cache.get(&two).is_none());
    let second = world
        .cache
        .get_or_build(&two, 1, &world.build)
        .await
        .unwrap();
    assert_ne!(first.serial, second.serial);
}

#[tokio::test]
async fn g4_shadow_mode_seeds_and_counts_but_never_serves() {
    let world = World::with(AgentCacheConfig {
        shadow: true,
        ..AgentCacheConfig::default()
    });
    let (cache, build) = (&world.cache, &world.build);
    let first = cache
        .get_or_build(&key("a"), 1, build)
        .await
        .unwrap()
        .serial;
    let second = cache
        .get_or_build(&key("a"), 1, build)
        .await
        .unwrap()
        .serial;
    assert_ne!(first, second);
    assert!(cache.get(&key("a")).is_none());
    settle().await;
    let counters = cache.counters();
    assert_eq!(
        (counters.hits, counters.shadow_hits, counters.builds),
        (0, 1, 2)
    );
    assert_eq!((cache.len(), world.books.alive()), (1, 1));
}

#[tokio::test]
async fn g1_a_cache_dropped_without_close_still_disposes() {
    let World {
        cache,
        books,
        build,
        ..
    } = World::new();
    let lease = cache.get_or_build(&key("a"), 1, &build).await.unwrap();
    cache.get_or_build(&key("b"), 1, &build).await.unwrap();
    drop(cache);
    settle().await;
    lease.use_it();
    assert_eq!(books.alive(), 1);
    drop(lease);
    settle().await;
    assert_eq!(books.alive(), 0);
}

/// The entry keeps its latest builder: what was given last is what rebuilds, whoever invalidates.
#[tokio::test]
async fn g2_the_latest_builder_rebuilds() {
    let world = World::new();
    let books = Arc::clone(&world.books);
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let newer: Arc<dyn Build<Thing>> = Arc::new(move |version: u64| {
        counted.fetch_add(1, Ordering::SeqCst);
        let thing = books.thing(version);
        async move { Ok::<_, WireError>(Some(thing)) }
    });
    let cache = &world.cache;
    cache
        .get_or_build(&key("a"), 1, &world.build)
        .await
        .unwrap();
    // A hit with another builder builds nothing, and leaves that builder.
    cache.get_or_build(&key("a"), 1, &newer).await.unwrap();
    assert_eq!(
        (world.builder.calls(), asked.load(Ordering::SeqCst)),
        (1, 0)
    );
    cache.invalidate(&key("a"), 2).await.unwrap();
    assert_eq!(
        (world.builder.calls(), asked.load(Ordering::SeqCst)),
        (1, 1)
    );
    // So does seeding.
    let thing = world.books.thing(3);
    cache.seed(&key("a"), 3, thing, &world.build).unwrap();
    cache.invalidate(&key("a"), 4).await.unwrap();
    assert_eq!(
        (world.builder.calls(), asked.load(Ordering::SeqCst)),
        (2, 1)
    );
}

/// G4: what is counted, by one story in which each number is another.
#[tokio::test]
async fn g4_hits_misses_builds_and_disposals_are_counted() {
    let world = World::new();
    let (cache, build) = (&world.cache, &world.build);
    assert!(cache.get(&key("a")).is_none());
    cache.get_or_build(&key("a"), 1, build).await.unwrap();
    for _ in 0..4 {
        cache.get_or_build(&key("a"), 1, build).await.unwrap();
    }
    cache.get(&key("a")).unwrap();
    cache.invalidate(&key("a"), 2).await.unwrap();
    world.builder.plays(Play::Fail);
    cache.get_or_build(&key("b"), 1, build).await.unwrap_err();
    world.builder.plays(Play::Well);
    settle().await;
    cache.evict(&key("a"));
    settle().await;
    let counters = cache.counters();
    assert_eq!((counters.hits, counters.misses), (5, 3));
    assert_eq!((counters.builds, counters.build_failures), (3, 1));
    assert_eq!((counters.swaps, counters.disposals), (1, 2));
    assert_eq!(
        (counters.evictions, counters.expirations, counters.busy),
        (0, 0, 0)
    );
    assert_eq!(
        (counters.disposal_failures, counters.disposal_timeouts),
        (0, 0)
    );
}

/// G4: 64 entries and 300,000 ms are the defaults, and hold where nothing else is said.
#[tokio::test]
async fn g4_the_defaults_are_64_entries_for_300_000_ms() {
    let world = World::new();
    let (cache, build) = (&world.cache, &world.build);
    let mut held = Vec::new();
    for n in 0..64 {
        held.push(
            cache
                .get_or_build(&key(&n.to_string()), 1, build)
                .await
                .unwrap(),
        );
    }
    let busy = cache.get_or_build(&key("one too many"), 1, build).await;
    assert_eq!(busy.unwrap_err(), LeaseError::Busy { entries_max: 64 });
    assert_eq!(cache.counters().busy, 1);
    world.clock.advance(Duration::from_millis(299_999));
    assert!(cache.get(&key("0")).is_some());
    world.clock.advance(Duration::from_millis(1));
    assert!(cache.get(&key("0")).is_none());
}
