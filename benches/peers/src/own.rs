//! What this runtime is measured with, shared by the groups.

use std::path::Path;
use std::sync::Arc;

use runtime::core::{
    Clock, CommitId, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput,
    EventDraft, EventId, EventKind, ExecutionScope, Random, ReplayKey, ScopeId, StreamKey, Tier,
};
use runtime::effects::{
    EffectHost, EffectLimits, LocalExecutor, Projection, Projector, ScopeOpening, StoreEffectHost,
};
use runtime::fs_store::{FsStore, FsStoreOptions};
use runtime::store::{
    Commit, Epoch, Guard, NewEvent, Payload, RowChange, RowKey, Store, SystemClock, SystemRandom,
};
use serde_json::{Value, json};

use harness::{Figures, Outcome, Plan, Progress, Written, observe};

pub(crate) const EVENT_BYTES: usize = 300;
pub(crate) const ROW_BYTES: usize = 16;

pub(crate) fn open(parent: &Path, tier: Tier) -> Outcome<Arc<FsStore>> {
    let options = FsStoreOptions::new(parent.join("store")).tier(tier);
    Ok(Arc::new(FsStore::open(&options)?))
}

pub(crate) fn written(store: &FsStore) -> Option<Written> {
    let written = store.written();
    Some(Written {
        syncs: written.syncs,
        bytes: Some(written.bytes),
    })
}

/// Commits of a guard, a row and an event of one writer: the row goes from a version to the next.
pub(crate) struct Appends {
    stream: StreamKey,
    key: RowKey,
    body: Payload,
    row: Payload,
}

impl Appends {
    pub(crate) fn of(writer: u64) -> Outcome<Self> {
        let scope = ScopeId::new(format!("turn/bench/{writer}"))?;
        Ok(Self {
            stream: StreamKey::new(format!("session/bench-{writer}"))?,
            key: RowKey::new("bench", scope, "row"),
            body: vec![b'e'; EVENT_BYTES].into(),
            row: vec![b'r'; ROW_BYTES].into(),
        })
    }

    /// The commit that puts the row over its `version`-th.
    pub(crate) fn commit(&self, version: u64) -> Commit {
        let now = SystemClock::new().now();
        let guard = match version {
            0 => Guard::Absent(self.key.clone()),
            version => Guard::Version(self.key.clone(), version),
        };
        let event = NewEvent {
            id: EventId::generate(now, SystemRandom.ten()),
            streams: vec![self.stream.clone()],
            closes: false,
            body: Arc::clone(&self.body),
        };
        Commit::new(CommitId::generate(now, SystemRandom.ten()), now)
            .guard(guard)
            .row(RowChange::put(self.key.clone(), Arc::clone(&self.row)))
            .event(event)
    }
}

/// So many writers append to a store, each waiting for one commit before the next. Their streams
/// are numbered from `first` on: a row is put under its version, which starts anew.
pub(crate) async fn append(
    plan: Plan,
    store: Arc<FsStore>,
    first: u64,
    writers: usize,
) -> Outcome<Figures> {
    let progress = Arc::new(Progress::default());
    let tasks = (first..first + writers as u64).map(|writer| {
        let (store, progress) = (Arc::clone(&store), Arc::clone(&progress));
        tokio::spawn(async move {
            let appends = Appends::of(writer)?;
            for version in 0.. {
                store.commit(appends.commit(version)).await?;
                if !progress.count() {
                    break;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect();
    observe(plan, &progress, tasks, || written(&store)).await
}

/// Steps of so many turns, each running one after another.
pub(crate) async fn steps(
    plan: Plan,
    store: Arc<dyn Store>,
    turns: usize,
    retry_safe: bool,
    written: impl Fn() -> Option<Written>,
) -> Outcome<Figures> {
    let host = host(&store);
    let progress = Arc::new(Progress::default());
    let tasks = (0..turns).map(|turn| {
        let (store, host) = (Arc::clone(&store), host.clone());
        let progress = Arc::clone(&progress);
        tokio::spawn(async move {
            let scope = scope(turn)?;
            start(&*store, &scope).await?;
            let controller = host.scoped(opening(&scope))?;
            for occurrence in 0.. {
                let envelope = step(&scope, occurrence)?.retry_safe(retry_safe);
                controller.execute_effect(envelope, executor()).await?;
                if !progress.count() {
                    break;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect();
    observe(plan, &progress, tasks, written).await
}

pub(crate) fn host(store: &Arc<dyn Store>) -> StoreEffectHost {
    StoreEffectHost::new(
        Arc::clone(store),
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    )
}

pub(crate) fn scope(turn: usize) -> Outcome<ExecutionScope> {
    Ok(ExecutionScope::Turn {
        session: format!("bench-{turn}").parse()?,
        turn: "1".parse()?,
    })
}

pub(crate) fn opening(scope: &ExecutionScope) -> ScopeOpening {
    ScopeOpening::new(scope.clone(), Epoch(1), Arc::new(OneEvent))
}

/// Puts the first epoch of a scope, as whoever starts a turn does.
pub(crate) async fn start(store: &dyn Store, scope: &ExecutionScope) -> Outcome<()> {
    let key = RowKey::epoch(scope.scope_id());
    let commit = Commit::fresh(store, &SystemClock::new(), &SystemRandom)
        .guard(Guard::Absent(key.clone()))
        .row(RowChange::put(key, Vec::new()));
    store.commit(commit).await?;
    Ok(())
}

pub(crate) fn step(scope: &ExecutionScope, occurrence: u32) -> Outcome<EffectEnvelope> {
    let command = EffectCommand::DurableStep {
        name: "bench".to_owned(),
        input: None,
    };
    let key = ReplayKey::step("bench", occurrence)?;
    Ok(EffectEnvelope::new(scope.clone(), key, command)?)
}

/// What a step does: nothing, with an outcome of 200 bytes of JSON.
pub(crate) fn executor<'a>() -> LocalExecutor<'a> {
    LocalExecutor::new(EffectKind::DurableStep, |_| async {
        Ok(EffectOutput::DurableStep { value: outcome() })
    })
}

pub(crate) fn outcome() -> Value {
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
