//! Durable steps against the floor, by the number of turns that run at once.
#![allow(clippy::print_stdout, reason = "a program for people prints")]

mod measure;

use std::path::Path;
use std::sync::Arc;

use measure::{Contender, Figures, Group, Outcome, Plan, Progress, Table, Written, floor, observe};
use runtime::core::{
    Clock, CommitId, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput,
    EventDraft, EventKind, ExecutionScope, Random, ReplayKey, Tier,
};
use runtime::effects::{
    EffectHost, EffectLimits, LocalExecutor, Projection, Projector, ScopeOpening, StoreEffectHost,
};
use runtime::fs_store::{FsStore, FsStoreOptions};
use runtime::store::{Commit, Epoch, Guard, RowChange, RowKey, Store, SystemClock, SystemRandom};
use serde_json::{Value, json};

fn main() -> Outcome<()> {
    let table = |name: &str, turns: usize, target| Table {
        name: format!("step, {name}"),
        contenders: vec![
            Contender {
                name: "floor: append and fdatasync",
                target: None,
                run: Box::new(move |plan, path| Box::pin(floor::run(plan, path, turns))),
            },
            contender(
                "Power, retry-safe (1 write)",
                Tier::Power,
                true,
                turns,
                Some(target),
            ),
            contender(
                "Power, not retry-safe (2 writes)",
                Tier::Power,
                false,
                turns,
                None,
            ),
            contender("Crash, retry-safe", Tier::Crash, true, turns, None),
        ],
    };
    let group = Group {
        name: "step",
        tables: vec![
            table("one after another", 1, 0.6),
            table("16 turns at once", 16, 0.55),
            table("64 turns at once", 64, 0.45),
        ],
    };
    group.run(&Plan::from_arguments())
}

fn contender(
    name: &'static str,
    tier: Tier,
    retry_safe: bool,
    turns: usize,
    target: Option<f64>,
) -> Contender {
    Contender {
        name,
        target,
        run: Box::new(move |plan, path| Box::pin(run(plan, path, tier, retry_safe, turns))),
    }
}

async fn run(
    plan: &Plan,
    parent: &Path,
    tier: Tier,
    retry_safe: bool,
    turns: usize,
) -> Outcome<Figures> {
    let options = FsStoreOptions::new(parent.join("store")).tier(tier);
    let store = Arc::new(FsStore::open(&options)?);
    let host = StoreEffectHost::new(
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    );
    let progress = Arc::new(Progress::default());
    let handles = (0..turns).map(|turn| {
        let (store, host, progress) = (Arc::clone(&store), host.clone(), Arc::clone(&progress));
        tokio::spawn(async move { drive(&store, &host, &progress, retry_safe, turn).await })
    });
    let handles = handles.collect();
    let figures = observe(plan, &progress, handles, || {
        let written = store.written();
        Written {
            syncs: written.syncs,
            bytes: written.bytes,
        }
    })
    .await?;
    store.close().await?;
    Ok(figures)
}

/// Runs steps of one turn, one after another.
async fn drive(
    store: &FsStore,
    host: &StoreEffectHost,
    progress: &Progress,
    retry_safe: bool,
    turn: usize,
) -> Outcome<()> {
    let scope = ExecutionScope::Turn {
        session: format!("bench-{turn}").parse()?,
        turn: "1".parse()?,
    };
    start(store, &scope).await?;
    let controller = host.scoped(ScopeOpening::new(
        scope.clone(),
        Epoch(1),
        Arc::new(OneEvent),
    ))?;
    let value = outcome();
    for occurrence in 0.. {
        let command = EffectCommand::DurableStep {
            name: "bench".to_owned(),
            input: None,
        };
        let key = ReplayKey::step("bench", occurrence)?;
        let envelope = EffectEnvelope::new(scope.clone(), key, command)?.retry_safe(retry_safe);
        let value = &value;
        let executor = LocalExecutor::new(EffectKind::DurableStep, move |_| async move {
            Ok(EffectOutput::DurableStep {
                value: value.clone(),
            })
        });
        controller.execute_effect(envelope, executor).await?;
        if !progress.count() {
            break;
        }
    }
    Ok(())
}

/// Puts the first epoch of the scope, as whoever starts a turn does.
async fn start(store: &FsStore, scope: &ExecutionScope) -> Outcome<()> {
    let now = SystemClock::new().now();
    let key = RowKey::epoch(scope.scope_id());
    let commit = Commit::new(CommitId::generate(now, SystemRandom.ten()), now)
        .guard(Guard::Absent(key.clone()))
        .row(RowChange::put(key, Vec::new()));
    store.commit(commit).await?;
    Ok(())
}

/// An outcome of 200 bytes of JSON.
fn outcome() -> Value {
    json!({ "text": "o".repeat(200 - r#"{"text":""}"#.len()) })
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
