//! What this runtime does, prepared to be measured: alone by `benches/own.rs`, and beside others by
//! the package `peers`.

pub mod discovery;
pub mod lease;
pub mod promise;
pub mod turn;

use std::path::Path;
use std::sync::Arc;

use runtime::core::{
    Clock, CommitId, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput,
    EventDraft, EventId, EventKind, ExecutionScope, Random, ReplayKey, ScopeId, StreamKey, Tier,
};
use runtime::effects::{
    EffectLimits, LocalExecutor, Projection, Projector, ScopeOpening, StoreEffectHost,
};
use runtime::fs_store::{FsStore, FsStoreOptions};
use runtime::store::{
    Commit, Epoch, Guard, NewEvent, Payload, RowChange, RowKey, Store, SystemClock, SystemRandom,
};
use serde_json::{Value, json};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub const EVENT_BYTES: usize = 300;
pub const ROW_BYTES: usize = 16;

pub fn open(parent: &Path, tier: Tier) -> Outcome<Arc<FsStore>> {
    let options = FsStoreOptions::new(parent.join("store")).tier(tier);
    Ok(Arc::new(FsStore::open(&options)?))
}

/// Commits of a guard, a row and an event of one writer: the row goes from a version to the next.
pub struct Appends {
    stream: StreamKey,
    key: RowKey,
    body: Payload,
    row: Payload,
}

impl Appends {
    pub fn of(writer: u64) -> Outcome<Self> {
        let scope = ScopeId::new(format!("turn/bench/{writer}"))?;
        Ok(Self {
            stream: StreamKey::new(format!("session/bench-{writer}"))?,
            key: RowKey::new("bench", scope, "row"),
            body: vec![b'e'; EVENT_BYTES].into(),
            row: vec![b'r'; ROW_BYTES].into(),
        })
    }

    /// The commit that puts the row over its `version`-th.
    pub fn commit(&self, version: u64) -> Commit {
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

pub fn host(store: &Arc<dyn Store>) -> StoreEffectHost {
    StoreEffectHost::new(
        Arc::clone(store),
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    )
}

pub fn scope(turn: usize) -> Outcome<ExecutionScope> {
    Ok(ExecutionScope::Turn {
        session: format!("bench-{turn}").parse()?,
        turn: "1".parse()?,
    })
}

pub fn opening(scope: &ExecutionScope) -> ScopeOpening {
    ScopeOpening::new(scope.clone(), Epoch(1), Arc::new(OneEvent))
}

/// Puts the first epoch of a scope, as whoever starts a turn does.
pub async fn start(store: &dyn Store, scope: &ExecutionScope) -> Outcome<()> {
    let key = RowKey::epoch(scope.scope_id());
    let commit = Commit::fresh(store, &SystemClock::new(), &SystemRandom)
        .guard(Guard::Absent(key.clone()))
        .row(RowChange::put(key, Vec::new()));
    store.commit(commit).await?;
    Ok(())
}

pub fn step(scope: &ExecutionScope, occurrence: u32) -> Outcome<EffectEnvelope> {
    let command = EffectCommand::DurableStep {
        name: "bench".to_owned(),
        input: None,
    };
    let key = ReplayKey::step("bench", occurrence)?;
    Ok(EffectEnvelope::new(scope.clone(), key, command)?)
}

/// What a step does: nothing, with an outcome of 200 bytes of JSON.
pub fn executor<'a>() -> LocalExecutor<'a> {
    LocalExecutor::new(EffectKind::DurableStep, |_| async {
        Ok(EffectOutput::DurableStep { value: outcome() })
    })
}

pub fn outcome() -> Value {
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

/// An event as an effect tells it, with a payload of about 200 bytes.
pub fn draft(session: &str) -> Outcome<EventDraft> {
    let draft = EventDraft::new(EventKind::EffectFinished).in_session(session.parse()?);
    Ok(draft.with_payload(json!({ "key": "bench", "outcome": "t".repeat(200) })))
}

/// Appends one event.
pub async fn tell(store: &dyn Store, draft: &EventDraft) -> Outcome<()> {
    let id = EventId::generate(SystemClock::new().now(), SystemRandom.ten());
    let commit = Commit::fresh(store, &SystemClock::new(), &SystemRandom);
    let event = NewEvent::from_draft(id, draft);
    store.commit(commit.event(event)).await?;
    Ok(())
}
