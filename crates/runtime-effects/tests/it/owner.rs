//! A host that borrows from its engine (E1).

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use runtime_core::{EffectEnvelope, EffectKind, EffectOutcome};
use runtime_effects::{
    Addressing, AttemptContext, Concurrency, EffectController, EffectError, EffectHost, Interrupt,
    LocalExecutor, ScopeOpening, ScopedEffectController, WaitRequest,
};
use runtime_store::Epoch;
use runtime_testkit::effect_laws::{desk, opening, result, tool_call};

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
            triggers: runtime_effects::TriggerReports::default(),
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
