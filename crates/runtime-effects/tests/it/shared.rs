//! A store that several processes write to: waits notice what others committed (E14).

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{EffectOutcome, EffectOutput, Resolution, WaitOutput};
use runtime_effects::ResolveAnswer;
use runtime_store::{MemoryStore, Store};
use runtime_testkit::ProcessStore;
use runtime_testkit::effect_laws::{World, custom, desk, fresh_id, wait_for};
use runtime_testkit::store_laws::StoreFixture;

struct Shared;

#[async_trait]
impl StoreFixture for Shared {
    async fn open(&self) -> Arc<dyn Store> {
        let inner = MemoryStore::new("test".parse().expect("legal"));
        ProcessStore::over(Arc::new(inner))
    }
}

/// E14: a promise resolved by another process rings no bell here; the change of the log does.
#[tokio::test]
async fn e14_a_wait_sees_what_another_process_resolved() {
    let world = World::new(&Shared).await;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let mut waiting = pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    // The bells of this host are not those of the other one.
    let elsewhere = world.host().await_events().await.expect("loads");
    let resolution = Resolution::Ok {
        value: serde_json::json!("yes"),
    };
    elsewhere
        .resolve_identity(&scope, &identity, resolution.clone(), None)
        .await
        .expect("decides");
    let seen = EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution,
    });
    // A wait that is not woken parks as soon as time moves.
    assert_eq!(
        world.drive(waiting).await,
        Ok(EffectOutcome::Completed(seen))
    );
}

/// E10: processes that all found the promise open have one winner, by the guard of the commit.
#[tokio::test]
async fn e10_resolving_from_several_processes_at_once_has_one_winner() {
    let world = World::new(&Shared).await;
    world.next_epoch(&desk()).await;
    let racers = (0..8).map(|racer| {
        let host = world.host();
        async move {
            let promises = host.await_events().await.expect("loads");
            let value = serde_json::json!(racer);
            let resolution = Resolution::Ok { value };
            promises
                .resolve_identity(&desk(), &custom("answer"), resolution, Some(fresh_id()))
                .await
                .expect("decides")
        }
    });
    let answers = futures_util::future::join_all(racers).await;
    let accepted = answers
        .iter()
        .filter(|answer| **answer == ResolveAnswer::Accepted);
    assert_eq!(accepted.count(), 1);
    assert_eq!(world.kinds().await, ["promise_resolved"]);
}
