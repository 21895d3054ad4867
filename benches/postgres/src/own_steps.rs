//! This runtime: durable steps through `StoreEffectHost` over `PostgresStore`.

use std::sync::Arc;

use runtime::core::{
    Clock as _, CommitId, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput,
    EventDraft, EventKind, ExecutionScope, Random as _, ReplayKey, RuntimeId,
};
use runtime::effects::{
    EffectHost as _, EffectLimits, LocalExecutor, Projection, Projector, ScopeOpening,
    StoreEffectHost,
};
use runtime::postgres::{PostgresOptions, PostgresStore};
use runtime::store::{
    Commit, Epoch, Guard, RowChange, RowKey, Store as _, SystemClock, SystemRandom,
};

use crate::{Outcome, Plan, Progress, outcome};

pub(crate) async fn run(
    plan: &Plan,
    url: &str,
    workflows: usize,
    retry_safe: bool,
) -> Outcome<f64> {
    let fresh = RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten());
    let mut options = PostgresOptions::new(url)?.runtime(fresh);
    options.schema = "bench_steps".to_owned();
    let store = Arc::new(PostgresStore::open(options).await?);
    let host = StoreEffectHost::new(
        Arc::clone(&store) as _,
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    );
    let progress = Arc::new(Progress::default());
    let running: Vec<_> = (0..workflows)
        .map(|number| {
            let (store, host) = (Arc::clone(&store), host.clone());
            let progress = Arc::clone(&progress);
            tokio::spawn(async move { drive(&store, &host, &progress, retry_safe, number).await })
        })
        .collect();
    let rate = progress.observe(plan).await;
    for one in running {
        one.await??;
    }
    store.close().await?;
    Ok(rate)
}

/// Runs steps of one scope, one after another.
async fn drive(
    store: &PostgresStore,
    host: &StoreEffectHost,
    progress: &Progress,
    retry_safe: bool,
    number: usize,
) -> Outcome<()> {
    let scope = ExecutionScope::Turn {
        session: format!("bench-{number}").parse()?,
        turn: "1".parse()?,
    };
    let now = SystemClock::new().now();
    let key = RowKey::epoch(scope.scope_id());
    let commit = Commit::new(CommitId::generate(now, SystemRandom.ten()), now)
        .guard(Guard::Absent(key.clone()))
        .row(RowChange::put(key, Vec::new()));
    store.commit(commit).await?;
    let opening = ScopeOpening::new(scope.clone(), Epoch(1), Arc::new(OneEvent));
    let controller = host.scoped(opening)?;
    for occurrence in 0.. {
        let command = EffectCommand::DurableStep {
            name: "bench".to_owned(),
            input: None,
        };
        let key = ReplayKey::step("bench", occurrence)?;
        let envelope = EffectEnvelope::new(scope.clone(), key, command)?.retry_safe(retry_safe);
        let executor = LocalExecutor::new(EffectKind::DurableStep, |_| async {
            Ok(EffectOutput::DurableStep { value: outcome() })
        });
        controller.execute_effect(envelope, executor).await?;
        if !progress.count() {
            break;
        }
    }
    Ok(())
}

/// One event for each record of an effect.
#[derive(Debug)]
struct OneEvent;

impl Projector for OneEvent {
    fn outcome(&self, effect: &EffectEnvelope, _: &EffectOutcome) -> Projection {
        told(effect, EventKind::EffectFinished)
    }

    fn started(&self, effect: &EffectEnvelope) -> Projection {
        told(effect, EventKind::EffectStarted)
    }
}

fn told(effect: &EffectEnvelope, kind: EventKind) -> Projection {
    Projection {
        carrier: EventDraft::new(kind).in_scope(effect.scope()),
        further: Vec::new(),
    }
}
