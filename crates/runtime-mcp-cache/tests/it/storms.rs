//! A thousand callers at once (M2), a thousand announcements (M4), and the end (close).
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::sync::Arc;
use std::time::Duration;

use runtime_core::ErrorClass;
use runtime_mcp_cache::{Answer, CacheConfig, State, UncachedReason};

use crate::world::{Page, Play, Server, World, key, page, settle, sized};

const CALLERS: usize = 1_000;

/// A thousand callers of a cold key; the first one is dropped. `then` lets the fetch end.
async fn burst(world: &World, server: &Arc<Server>, then: impl FnOnce()) -> Vec<Answer<Page>> {
    server.shut();
    let key = key("a");
    let leader = world.call(&key, server).await;
    let mut calls = Vec::new();
    for _ in 0..CALLERS {
        let (cache, key, server) = (world.cache.clone(), key.clone(), Arc::clone(server));
        calls.push(tokio::spawn(async move { cache.get(&key, &server).await }));
    }
    settle().await;
    leader.abort();
    settle().await;
    assert_eq!((server.asked(), world.cache.flights()), (1, 1));
    then();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert_eq!(server.asked(), 1, "one fetch for all");
    assert_eq!(
        world.cache.flights(),
        0,
        "coordination is over with the fetch"
    );
    answers
}

fn all_are(answers: &[Answer<Page>], state: State, code: Option<&str>) {
    assert_eq!(answers.len(), CALLERS);
    for answer in answers {
        let found = answer.error.as_ref().map(|error| error.code.as_str());
        assert_eq!((answer.state, found), (state, code));
    }
}

#[tokio::test]
async fn m2_a_thousand_callers_share_one_success() {
    let (world, server) = (World::new(), Server::new(page(1)));
    let answers = burst(&world, &server, || server.open()).await;
    all_are(&answers, State::Cold, None);
    let first = answers[0].value.as_ref().unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| Arc::ptr_eq(answer.value.as_ref().unwrap(), first))
    );
}

#[tokio::test]
async fn m2_a_thousand_callers_share_one_failure() {
    let (world, server) = (World::new(), Server::new(Play::Fail));
    let answers = burst(&world, &server, || server.open()).await;
    all_are(&answers, State::Negative, Some("down"));
    assert!(answers.iter().all(|answer| answer.next_retry.is_some()));
}

#[tokio::test]
async fn m2_a_thousand_callers_share_one_refusal() {
    let (world, server) = (World::new(), Server::new(Play::Refuse));
    let answers = burst(&world, &server, || server.open()).await;
    all_are(&answers, State::Blocked, Some("refused"));
}

#[tokio::test]
async fn m2_a_thousand_callers_share_one_panic() {
    let (world, server) = (World::new(), Server::new(Play::Panic));
    let answers = burst(&world, &server, || server.open()).await;
    all_are(&answers, State::Negative, Some("discovery_panicked"));
}

#[tokio::test]
async fn m2_a_thousand_callers_share_one_deadline() {
    let (world, server) = (World::new(), Server::new(Play::Hang));
    let answers = burst(&world, &server, || {
        server.open();
        world.advance(30);
    })
    .await;
    all_are(&answers, State::Negative, Some("discovery_timed_out"));
    assert_eq!(
        answers[0].error.as_ref().unwrap().class,
        ErrorClass::TimedOut
    );
}

#[tokio::test]
async fn m2_a_thousand_callers_share_one_oversized_value() {
    let (world, server) = (World::new(), Server::new(sized(1, 2 << 20)));
    let answers = burst(&world, &server, || server.open()).await;
    all_are(&answers, State::Uncached(UncachedReason::TooLarge), None);
    assert!(answers.iter().all(|answer| answer.value.is_some()));
}

#[tokio::test]
async fn m4_a_thousand_announcements_cost_at_most_two_fetches() {
    let (world, server) = (World::new(), Server::new(page(1)));
    let key = key("a");
    world.cache.get(&key, &server).await;
    let before = server.asked();
    for number in 0..1_000 {
        server.plays(page(2 + number));
        world.cache.mark_stale(&key);
        world.cache.get(&key, &server).await;
        // Some land between two announcements, some do not.
        if number % 7 == 0 {
            settle().await;
        }
        world.clock.advance(Duration::from_micros(900));
    }
    assert!(server.asked() - before <= 2, "{}", server.asked() - before);
    // The last announcement is not lost.
    world.advance(2);
    world.cache.get(&key, &server).await;
    settle().await;
    let answer = world.cache.get(&key, &server).await;
    assert_eq!(
        (answer.state, answer.value.unwrap().number),
        (State::Fresh, 1_001)
    );
}

#[tokio::test]
async fn m4_a_thousand_reloads_at_once_cost_at_most_two_fetches() {
    let (world, server) = (World::new(), Server::new(page(1)));
    let key = key("a");
    server.shut();
    let mut calls = Vec::new();
    for _ in 0..CALLERS {
        let (cache, key, server) = (world.cache.clone(), key.clone(), Arc::clone(&server));
        calls.push(tokio::spawn(
            async move { cache.reload(&key, &server).await },
        ));
    }
    settle().await;
    server.plays(page(2));
    server.open();
    let mut numbers = Vec::new();
    for call in calls {
        numbers.push(call.await.unwrap().value.unwrap().number);
    }
    // Whoever asked while the first fetch was under way got a later one.
    assert!(numbers.iter().skip(1).all(|&number| number == 2));
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn m2_fetches_run_in_turn_and_waiting_counts_towards_the_deadline() {
    let world = World::with(CacheConfig {
        discoveries_max: 2,
        flights_max: 4,
        ..CacheConfig::default()
    });
    let hanging = Server::new(Play::Hang);
    let mut calls = Vec::new();
    for number in 0..6 {
        calls.push(world.call(&key(&number.to_string()), &hanging).await);
    }
    assert_eq!((hanging.asked(), world.cache.flights()), (2, 4));
    world.advance(30);
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap().error.unwrap().code.clone());
    }
    codes.sort();
    let busy = "discovery_busy";
    let timed_out = "discovery_timed_out";
    assert_eq!(codes, [busy, busy, busy, busy, timed_out, timed_out]);
}

#[tokio::test]
async fn close_ends_fetches_answers_their_callers_and_starts_no_more() {
    let (world, server) = (World::new(), Server::new(page(1)));
    world.cache.get(&key("kept"), &server).await;
    server.plays(Play::Hang);
    let call = world.call(&key("a"), &server).await;
    world.cache.close().await;
    assert_eq!(call.await.unwrap().error.unwrap().code, "discovery_closed");
    assert_eq!(world.cache.flights(), 0);
    let asked = server.asked();
    let after = world.cache.get(&key("b"), &server).await;
    assert_eq!(after.error.unwrap().code, "discovery_closed");
    assert_eq!(
        world.cache.get(&key("kept"), &server).await.state,
        State::Fresh
    );
    assert_eq!((server.asked(), world.cache.flights()), (asked, 0));
    world.cache.close().await;
}

/// Callers on several threads board while the flight lands: whoever finds no flight must find
/// what it stored, or the server is asked twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m2_callers_on_several_threads_never_ask_twice() {
    const KEYS: u64 = 400;
    let (world, server) = (World::new(), Server::new(page(1)));
    for number in 0..KEYS {
        let key = key(&number.to_string());
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let (cache, key, server) = (world.cache.clone(), key.clone(), Arc::clone(&server));
                tokio::spawn(async move { cache.get(&key, &server).await })
            })
            .collect();
        for call in calls {
            let answer = call.await.unwrap();
            assert_eq!(answer.value.unwrap().number, 1);
        }
        assert_eq!(server.asked(), number + 1, "asked twice for one key");
    }
    assert_eq!((world.cache.len() as u64, world.cache.flights()), (KEYS, 0));
}

/// A key that is invalidated while its fetch hangs may be fetched again; the fetches that were
/// given up count towards the bound all the same.
#[tokio::test]
async fn m2_invalidating_again_and_again_starts_no_fetches_without_bound() {
    let world = World::with(CacheConfig {
        flights_max: 4,
        ..CacheConfig::default()
    });
    let server = Server::new(Play::Hang);
    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(world.call(&key("a"), &server).await);
        world.cache.invalidate(&key("a"));
    }
    assert_eq!((server.asked(), world.cache.flights()), (4, 4));
    world.advance(30);
    let mut busy = 0;
    for call in calls {
        let code = call.await.unwrap().error.unwrap().code.clone();
        busy += usize::from(code == "discovery_busy");
    }
    assert_eq!((busy, world.cache.flights()), (16, 0));
}
