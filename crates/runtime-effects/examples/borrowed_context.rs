//! An engine that lends its handler a context runs effects, though nothing about that context is
//! `'static` (E1): the controller borrows it, and the executors borrow from the driver.
//!
//! The engine here keeps a history by place, as engines that replay handlers do: a handler that
//! is run again gets the recorded results of its first steps, in their order. So parallel effects
//! go through `execute_batch` as *one* step; a driver that joined two `execute_effect` futures
//! would record them in whichever order they ended.
//!
//! `cargo run -p runtime-effects --example borrowed_context`

#![allow(clippy::print_stdout, reason = "an example shows what it did")]

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use runtime_core::{
    EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, EventDraft, EventKind,
    ExecutionScope, ReplayKey, Timestamp,
};
use runtime_effects::{
    Addressing, AttemptContext, Concurrency, EffectController, EffectError, EffectHost, Interrupt,
    LocalExecutor, Projection, Projector, ScopeOpening, ScopedEffectController, TriggerReports,
    WaitRequest,
};
use runtime_store::Epoch;

type Error = Box<dyn std::error::Error>;
type Outcomes = Vec<Result<EffectOutcome, Interrupt>>;

/// The engine: it keeps the history of one handler, and lends a context to each run of it.
#[derive(Debug, Default)]
struct Engine {
    history: Mutex<Vec<String>>,
}

/// What the engine lends: it ends with the run of the handler.
#[derive(Debug)]
struct Context<'engine> {
    engine: &'engine Engine,
    place: AtomicUsize,
}

impl Engine {
    fn context(&self) -> Context<'_> {
        Context {
            engine: self,
            place: AtomicUsize::new(0),
        }
    }

    fn recorded(&self, place: usize) -> Option<String> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.get(place).cloned()
    }

    fn record(&self, text: String) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push(text);
    }
}

impl Context<'_> {
    /// One step of the engine: answered from the history, or run and recorded.
    async fn step(
        &self,
        run: impl Future<Output = Vec<EffectOutcome>>,
    ) -> Result<Vec<EffectOutcome>, serde_json::Error> {
        let place = self.place.fetch_add(1, Ordering::SeqCst);
        if let Some(text) = self.engine.recorded(place) {
            return serde_json::from_str(&text);
        }
        let outcomes = run.await;
        self.engine.record(serde_json::to_string(&outcomes)?);
        Ok(outcomes)
    }
}

/// Effects inside a handler: borrows the context that the engine lends.
#[derive(Debug)]
struct HandlerHost<'engine> {
    context: Context<'engine>,
}

#[derive(Debug)]
struct HandlerController<'run> {
    context: &'run Context<'run>,
}

impl EffectHost for HandlerHost<'_> {
    fn scoped<'run>(
        &'run self,
        _: ScopeOpening,
    ) -> Result<ScopedEffectController<'run>, EffectError> {
        let context = &self.context;
        Ok(Box::new(HandlerController { context }))
    }

    /// Work that outlives the handler cannot borrow from it: this host has none, and says so.
    fn scoped_static(
        &self,
        _: ScopeOpening,
    ) -> Result<Option<ScopedEffectController<'static>>, EffectError> {
        Ok(None)
    }
}

async fn run_one(envelope: &EffectEnvelope, executor: &mut LocalExecutor<'_>) -> EffectOutcome {
    let context = AttemptContext {
        attempt: 1,
        idempotency_key: envelope.idempotency_key(),
        fencing_token: 1,
        deadline: Timestamp::from_millis(u64::MAX),
        triggers: TriggerReports::default(),
    };
    match executor.attempt(context).await {
        Ok(output) => EffectOutcome::Completed(output),
        Err(error) => EffectOutcome::Failed(error.error),
    }
}

#[async_trait]
impl EffectController for HandlerController<'_> {
    fn concurrency(&self) -> Concurrency {
        Concurrency::Serial
    }

    fn addressing(&self) -> Addressing {
        Addressing::Ordinal
    }

    async fn execute_effect<'run>(
        &'run self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Result<EffectOutcome, Interrupt> {
        let mut outcomes = self.execute_batch(vec![(envelope, executor)]).await;
        outcomes.pop().unwrap_or(Err(Interrupt::Cancelled))
    }

    async fn execute_batch<'run>(
        &'run self,
        items: Vec<(EffectEnvelope, LocalExecutor<'run>)>,
    ) -> Outcomes {
        let count = items.len();
        let run = async move {
            let mut outcomes = Vec::new();
            for (envelope, mut executor) in items {
                outcomes.push(run_one(&envelope, &mut executor).await);
            }
            outcomes
        };
        match self.context.step(run).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            // The history is not that of these effects: nothing of it is used.
            Err(_) => (0..count).map(|_| Err(Interrupt::Fenced)).collect(),
        }
    }

    async fn wait_any(&self, envelope: WaitRequest) -> Result<EffectOutcome, Interrupt> {
        let key = envelope.key().clone();
        Err(Interrupt::Suspended { key, due: None })
    }
}

/// An engine tells its own events.
#[derive(Debug)]
struct Silent;

impl Projector for Silent {
    fn outcome(&self, _: &EffectEnvelope, _: &EffectOutcome) -> Projection {
        self.plain(EventKind::EffectFinished)
    }

    fn started(&self, _: &EffectEnvelope) -> Projection {
        self.plain(EventKind::EffectStarted)
    }
}

impl Silent {
    const fn plain(&self, kind: EventKind) -> Projection {
        Projection {
            carrier: EventDraft::new(kind),
            further: Vec::new(),
        }
    }
}

fn step(name: &str) -> Result<EffectEnvelope, Error> {
    let process = "example".parse()?;
    let command = EffectCommand::DurableStep {
        name: name.to_owned(),
        input: None,
    };
    let key = ReplayKey::step(name, 0)?;
    let scope = ExecutionScope::Process { process };
    Ok(EffectEnvelope::new(scope, key, command)?)
}

/// The handler: one effect, then two at once. What it counts it borrows from its caller.
async fn handler(engine: &Engine, ran: &AtomicUsize) -> Result<Vec<EffectOutcome>, Error> {
    let host = HandlerHost {
        context: engine.context(),
    };
    let process = "example".parse()?;
    let opening = ScopeOpening::new(
        ExecutionScope::Process { process },
        Epoch(1),
        Arc::new(Silent),
    );
    let controller = host.scoped(opening)?;
    let body = |value: usize| {
        LocalExecutor::new(EffectKind::DurableStep, move |_| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            let value = value.into();
            Ok(EffectOutput::DurableStep { value })
        })
    };
    let mut outcomes = vec![controller.execute_effect(step("one")?, body(1)).await?];
    let batch = vec![(step("two")?, body(2)), (step("three")?, body(3))];
    for outcome in controller.execute_batch(batch).await {
        outcomes.push(outcome?);
    }
    Ok(outcomes)
}

async fn run() -> Result<usize, Error> {
    let engine = Engine::default();
    let ran = AtomicUsize::new(0);
    let first = handler(&engine, &ran).await?;
    // The engine runs the handler again, as after a crash: everything comes from the history.
    let again = handler(&engine, &ran).await?;
    assert_eq!(first, again);
    Ok(ran.load(Ordering::SeqCst))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let ran = run().await?;
    println!("3 effects, handler run twice, bodies run {ran} times");
    Ok(())
}

#[cfg(test)]
mod tests {
    /// E1: the example runs, and no body runs twice.
    #[tokio::test]
    async fn e1_effects_run_over_a_borrowed_context() {
        assert_eq!(super::run().await.expect("runs"), 3);
    }
}
