//! Owners: a zombie that wakes, the token that fences it (E5, R9).

use std::pin::pin;

use runtime_core::{EffectKind, EffectOutcome};
use runtime_effects::{AttemptContext, Interrupt, LocalExecutor};
use tokio::sync::oneshot;

use super::world::{Runs, World, desk, result, tool_call, turn};
use crate::store_laws::StoreFixture;

/// R9: a zombie's result is refused. The first owner stands still in the middle of a call; the
/// second takes over; the first ends.
pub async fn r9_a_zombies_result_is_refused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    for retry_safe in [true, false] {
        let scope = turn("desk", if retry_safe { "1" } else { "2" });
        let envelope = || tool_call(&scope, 0, "write").retry_safe(retry_safe);
        let (wake, paused) = oneshot::channel::<()>();
        let mut paused = Some(paused);
        let zombie_host = world.host();
        let zombie = world.open(&zombie_host, &scope).await;
        let sleepy = LocalExecutor::new(EffectKind::ToolCall, move |_| {
            let paused = paused.take().expect("one attempt");
            async move {
                paused.await.expect("is woken");
                Ok(result("stale"))
            }
        });
        let mut stale = pin!(zombie.execute_effect(envelope(), sleepy));
        assert!(world.stands_still(stale.as_mut()).await);

        let successor = world.host();
        let owner = world.open(&successor, &scope).await;
        let runs = Runs::default();
        let outcome = owner
            .execute_effect(envelope(), runs.succeeds("fresh"))
            .await;
        wake.send(()).expect("is waited for");
        assert_eq!(
            stale.await,
            Err(Interrupt::Fenced),
            "retry_safe {retry_safe}"
        );
        if retry_safe {
            assert_eq!(outcome, Ok(EffectOutcome::Completed(result("fresh"))));
        } else {
            assert!(
                matches!(outcome, Err(Interrupt::InDoubt { .. })),
                "{outcome:?}"
            );
        }
        assert_eq!(runs.count(), u32::from(retry_safe));
        // What the successor recorded stands.
        let replayed = owner
            .execute_effect(envelope(), runs.succeeds("later"))
            .await;
        assert_eq!(replayed, outcome);
    }
}

/// E5: the executor gets a fencing token and an idempotency key.
pub async fn e5_the_executor_gets_a_fencing_token_and_an_idempotency_key(
    fixture: &dyn StoreFixture,
) {
    let world = World::new(fixture).await;
    let scope = desk();
    let host = world.host();
    world.next_epoch(&scope).await;
    let controller = world.open(&host, &scope).await;
    let envelope = tool_call(&scope, 0, "write");
    let expected = (1, envelope.idempotency_key(), 2);
    let (tell, told) = oneshot::channel();
    let mut tell = Some(tell);
    let executor = LocalExecutor::new(EffectKind::ToolCall, move |context: AttemptContext| {
        let seen = (
            context.attempt,
            context.idempotency_key,
            context.fencing_token,
        );
        let tell = tell.take().expect("one attempt");
        tell.send(seen).expect("is waited for");
        async { Ok(result("done")) }
    });
    controller
        .execute_effect(envelope, executor)
        .await
        .expect("runs");
    assert_eq!(told.await.expect("was told"), expected);
}
