//! Owners: a host that borrows, a zombie that wakes, a store that others write to (E1, E5, R9).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use runtime_core::{EffectEnvelope, EffectKind, EffectOutcome};
use runtime_effects::{
    Addressing, AttemptContext, Concurrency, EffectController, EffectError, EffectHost, Interrupt,
    LocalExecutor, ScopeOpening, ScopedEffectController, WaitRequest,
};
use runtime_store::{Epoch, Store};
use tokio::sync::oneshot;

use crate::support::{Runs, World, desk, opening, result, stands_still, tool_call};

laws![
    r9_a_zombies_result_is_refused,
    e5_the_executor_gets_a_fencing_token_and_an_idempotency_key,
];

/// A handler's context as an engine lends it: nothing about it is `'static`.
#[derive(Debug)]
struct EngineContext<'engine> {
    calls: &'engine AtomicU32,
}

#[derive(Debug)]
struct EngineHost<'engine> {
    context: EngineContext<'engine>,
}

#[derive(Debug)]
struct EngineController<'run> {
    context: &'run EngineContext<'run>,
}

impl EffectHost for EngineHost<'_> {
    fn scoped<'run>(
        &'run self,
        _: ScopeOpening,
    ) -> Result<ScopedEffectController<'run>, EffectError> {
        Ok(Box::new(EngineController {
            context: &self.context,
        }))
    }

    fn scoped_static(
        &self,
        _: ScopeOpening,
    ) -> Result<Option<ScopedEffectController<'static>>, EffectError> {
        Ok(None)
    }
}

#[async_trait]
impl EffectController for EngineController<'_> {
    fn concurrency(&self) -> Concurrency {
        Concurrency::Serial
    }

    fn addressing(&self) -> Addressing {
        Addressing::Ordinal
    }

    async fn execute_effect<'run>(
        &'run self,
        envelope: EffectEnvelope,
        mut executor: LocalExecutor<'run>,
    ) -> Result<EffectOutcome, Interrupt> {
        self.context.calls.fetch_add(1, Ordering::SeqCst);
        let context = AttemptContext {
            attempt: 1,
            idempotency_key: envelope.idempotency_key(),
            fencing_token: 1,
            deadline: runtime_core::Timestamp::from_millis(1),
        };
        let output = executor.attempt(context).await;
        Ok(output.map_or_else(
            |error| EffectOutcome::Failed(error.error),
            EffectOutcome::Completed,
        ))
    }

    async fn execute_batch<'run>(
        &'run self,
        items: Vec<(EffectEnvelope, LocalExecutor<'run>)>,
    ) -> Vec<Result<EffectOutcome, Interrupt>> {
        let mut results = Vec::new();
        for (envelope, executor) in items {
            results.push(self.execute_effect(envelope, executor).await);
        }
        results
    }

    async fn wait_any(&self, envelope: WaitRequest) -> Result<EffectOutcome, Interrupt> {
        Err(Interrupt::Suspended {
            key: envelope.key().clone(),
            due: None,
        })
    }
}

/// E1: an engine whose context is borrowed can implement the traits, and its executors can
/// borrow from the driver.
#[tokio::test]
async fn e1_a_host_over_a_borrowed_context_compiles_and_runs() {
    let calls = AtomicU32::new(0);
    let said = String::from("borrowed");
    let host = EngineHost {
        context: EngineContext { calls: &calls },
    };
    let controller = host.scoped(opening(&desk(), Epoch(1))).expect("opens");
    let executor = LocalExecutor::new(EffectKind::ToolCall, |_| async { Ok(result(&said)) });
    let outcome = controller
        .execute_effect(tool_call(&desk(), 0, "write"), executor)
        .await;
    assert_eq!(outcome, Ok(EffectOutcome::Completed(result("borrowed"))));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let parallel = host.scoped_static(opening(&desk(), Epoch(1)));
    assert!(parallel.expect("answers").is_none());
}

/// The first owner stands still in the middle of a call; the second takes over; the first ends.
async fn r9_a_zombies_result_is_refused(store: Arc<dyn Store>) {
    for retry_safe in [true, false] {
        let world = World::new(Arc::clone(&store));
        let scope = crate::support::turn("desk", if retry_safe { "1" } else { "2" });
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
        assert!(stands_still(stale.as_mut()).await);

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

async fn e5_the_executor_gets_a_fencing_token_and_an_idempotency_key(store: Arc<dyn Store>) {
    let world = World::new(store);
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
