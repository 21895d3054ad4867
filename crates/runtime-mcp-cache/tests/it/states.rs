//! The states of an entry (M1, M2, M4, M5, M6), one at a time.

use std::sync::Arc;

use runtime_core::ErrorClass;
use runtime_mcp_cache::{CacheConfig, State, UncachedReason};

use crate::world::{Play, Server, World, key, page, settle, sized};

#[tokio::test]
async fn m1_cold_then_fresh_then_stale_with_one_refresh_then_fresh() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    let first = world.cache.get(&key, &server).await;
    assert_eq!(first.state, State::Cold);
    let second = world.cache.get(&key, &server).await;
    assert_eq!(second.state, State::Fresh);
    assert!(Arc::ptr_eq(&first.value.unwrap(), &second.value.unwrap()));

    world.advance(4_000);
    server.plays(page(2));
    server.shut();
    for _ in 0..10 {
        let stale = world.cache.get(&key, &server).await;
        assert_eq!(
            (stale.state, stale.value.unwrap().number),
            (State::Stale, 1)
        );
        assert_eq!(stale.age.as_secs(), 4_000);
    }
    settle().await;
    assert_eq!(server.asked(), 2, "ten stale answers start one refresh");
    server.open();
    settle().await;
    let fresh = world.cache.get(&key, &server).await;
    assert_eq!(
        (fresh.state, fresh.value.unwrap().number),
        (State::Fresh, 2)
    );
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn m1_a_stale_value_is_not_served_beyond_its_window() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    world.cache.get(&key, &server).await;
    world.advance(3_960 + 3_600);
    server.plays(page(2));
    let answer = world.cache.get(&key, &server).await;
    assert_eq!(
        (answer.state, answer.value.unwrap().number),
        (State::Cold, 2)
    );
}

#[tokio::test]
async fn m1_a_failure_is_served_until_its_retry_and_is_not_an_empty_list() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(Play::Fail));
    for _ in 0..5 {
        let answer = world.cache.get(&key, &server).await;
        assert_eq!(answer.state, State::Negative);
        assert!(answer.value.is_none());
        assert_eq!(answer.error.unwrap().class, ErrorClass::Unavailable);
        let wait = answer.next_retry.unwrap().as_millis() - 1_000_000;
        assert!((500..=1_000).contains(&wait), "{wait}");
    }
    assert_eq!(server.asked(), 1);
    world.advance(1);
    server.plays(page(1));
    assert_eq!(world.cache.get(&key, &server).await.state, State::Cold);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn m1_a_failed_refresh_keeps_the_value_and_says_what_went_wrong() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    world.cache.get(&key, &server).await;
    world.cache.mark_stale(&key);
    server.plays(Play::Fail);
    world.cache.get(&key, &server).await;
    settle().await;
    let answer = world.cache.get(&key, &server).await;
    assert_eq!(
        (answer.state, answer.value.unwrap().number),
        (State::Stale, 1)
    );
    assert_eq!(answer.error.unwrap().code, "down");
    assert!(answer.next_retry.is_some());
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn m1_a_refused_credential_fails_closed_until_it_is_lifted() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    world.cache.get(&key, &server).await;
    world.cache.mark_stale(&key);
    server.plays(Play::Refuse);
    world.cache.get(&key, &server).await;
    settle().await;
    server.plays(page(2));
    for _ in 0..3 {
        world.advance(100_000);
        let answer = world.cache.get(&key, &server).await;
        assert_eq!(answer.state, State::Blocked);
        assert!(
            answer.value.is_none(),
            "a refused caller gets no old list either"
        );
        assert_eq!(answer.next_retry, None);
    }
    assert_eq!(server.asked(), 2);
    world.cache.unblock(&key);
    let answer = world.cache.get(&key, &server).await;
    assert_eq!(
        (answer.state, answer.value.unwrap().number),
        (State::Cold, 2)
    );
}

#[tokio::test]
async fn m1_reload_lifts_a_block_and_fetches_anew() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(Play::Refuse));
    assert_eq!(world.cache.get(&key, &server).await.state, State::Blocked);
    server.plays(page(1));
    assert_eq!(world.cache.reload(&key, &server).await.state, State::Cold);
    assert_eq!(world.cache.get(&key, &server).await.state, State::Fresh);
}

#[tokio::test]
async fn m1_a_refusal_of_a_replaced_credential_does_not_block_the_new_one() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(Play::Refuse));
    server.shut();
    let call = world.call(&key, &server).await;
    world.cache.unblock(&key);
    server.open();
    assert_eq!(call.await.unwrap().state, State::Negative);
    world.advance(1);
    server.plays(page(1));
    assert_eq!(world.cache.get(&key, &server).await.state, State::Cold);
}

#[tokio::test]
async fn m4_a_ttl_of_zero_is_served_stale_and_refreshed_at_a_bounded_pace() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    *server.ttl_ms.lock().unwrap() = Some(0);
    world.cache.get(&key, &server).await;
    for _ in 0..100 {
        assert_eq!(world.cache.get(&key, &server).await.state, State::Stale);
        settle().await;
    }
    assert_eq!(server.asked(), 2);
    world.advance(1);
    world.cache.get(&key, &server).await;
    settle().await;
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn m4_a_change_announced_during_a_fetch_makes_its_result_stale() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    server.shut();
    let call = world.call(&key, &server).await;
    server.plays(page(2));
    world.cache.mark_stale(&key);
    server.open();
    assert_eq!(call.await.unwrap().value.unwrap().number, 1);
    assert_eq!(world.cache.get(&key, &server).await.state, State::Stale);
    settle().await;
    let answer = world.cache.get(&key, &server).await;
    assert_eq!(
        (answer.state, answer.value.unwrap().number),
        (State::Fresh, 2)
    );
}

#[tokio::test]
async fn m4_refetch_brings_what_is_new_but_not_more_often_than_it_may() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    world.cache.get(&key, &server).await;
    server.plays(page(2));
    let answer = world.cache.refetch(&key, &server).await;
    assert_eq!(answer.value.unwrap().number, 2);
    for _ in 0..10 {
        world.cache.refetch(&key, &server).await;
    }
    assert_eq!(server.asked(), 2);
    world.advance(1);
    world.cache.refetch(&key, &server).await;
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn m5_a_value_over_the_retention_limit_is_given_once_and_paced() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(sized(1, 2 << 20)));
    let too_large = State::Uncached(UncachedReason::TooLarge);
    let first = world.cache.get(&key, &server).await;
    assert_eq!((first.state, first.value.unwrap().number), (too_large, 1));
    assert!(first.next_retry.is_some());
    let second = world.cache.get(&key, &server).await;
    assert_eq!(second.state, too_large);
    assert!(second.value.is_none() && second.next_retry.is_some());
    assert_eq!(server.asked(), 1);
    assert_eq!(world.cache.bytes(), 0);
    world.advance(1);
    assert!(world.cache.get(&key, &server).await.value.is_some());
}

#[tokio::test]
async fn m5_a_stale_copy_is_served_while_the_new_list_is_too_large() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    world.cache.get(&key, &server).await;
    world.cache.mark_stale(&key);
    server.plays(sized(2, 2 << 20));
    world.cache.get(&key, &server).await;
    settle().await;
    let answer = world.cache.get(&key, &server).await;
    assert_eq!(
        (answer.state, answer.value.unwrap().number),
        (State::Stale, 1)
    );
    assert!(answer.next_retry.is_some());
}

#[tokio::test]
async fn m5_a_value_over_a_hard_limit_is_a_cached_error() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(sized(1, 17 << 20)));
    for _ in 0..3 {
        let answer = world.cache.get(&key, &server).await;
        assert_eq!(answer.state, State::Negative);
        assert_eq!(answer.error.unwrap().code, "discovery_too_large");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn m5_eviction_respects_reads_and_never_takes_the_entry_just_stored() {
    let world = World::with(CacheConfig {
        entries_max: 4,
        total_bytes_max: 1_000,
        ..CacheConfig::default()
    });
    let server = Server::new(sized(1, 100));
    let hot = key("hot");
    world.cache.get(&hot, &server).await;
    for number in 0..100 {
        assert_eq!(
            world.cache.get(&hot, &server).await.state,
            State::Fresh,
            "{number}"
        );
        let cold = key(&format!("cold-{number}"));
        world.cache.get(&cold, &server).await;
        assert_eq!(world.cache.peek(&cold).unwrap().state, State::Fresh);
        assert!(world.cache.len() <= 4 && world.cache.bytes() <= 1_000);
    }
    server.plays(sized(1, 950));
    let large = key("large");
    world.cache.get(&large, &server).await;
    assert_eq!(world.cache.peek(&large).unwrap().state, State::Fresh);
    assert_eq!((world.cache.len(), world.cache.bytes()), (1, 950));
}

#[tokio::test]
async fn m5_a_late_fetch_does_not_resurrect_an_invalidated_entry() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    server.shut();
    let early = world.call(&key, &server).await;
    world.cache.invalidate(&key);
    server.plays(page(2));
    let late = world.call(&key, &server).await;
    server.open();
    let early = early.await.unwrap();
    assert_eq!(early.state, State::Uncached(UncachedReason::Superseded));
    assert_eq!(early.value.unwrap().number, 1);
    assert_eq!(late.await.unwrap().value.unwrap().number, 2);
    settle().await;
    assert_eq!(world.cache.peek(&key).unwrap().value.unwrap().number, 2);
    assert_eq!(world.cache.counters().discarded, 1);
}

#[tokio::test]
async fn m6_an_unchanged_refresh_keeps_the_same_value_and_a_changed_one_is_told() {
    let world = World::new();
    let (key, server) = (key("a"), Server::new(page(1)));
    let first = world.cache.get(&key, &server).await.value.unwrap();
    let same = world.cache.reload(&key, &server).await.value.unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    assert!(world.seen.0.lock().unwrap().is_empty());
    server.plays(page(2));
    world.cache.reload(&key, &server).await;
    settle().await;
    let seen = world.seen.0.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (&*seen[0].changes.added, &*seen[0].changes.removed),
        (&["2".to_owned()][..], &["1".to_owned()][..])
    );
}
