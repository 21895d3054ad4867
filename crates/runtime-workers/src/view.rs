//! Reading the catalogue, from the owner of a store or beside it.

use std::sync::Arc;

use runtime_core::{
    CallId, Classified, ErrorClass, ExecutionScope, ReplayKey, ScopeId, Timestamp, ToolCall,
    ToolDefinition, TurnId, WireError, WorkerId,
};
use runtime_effects::{
    AwaitEvents, EffectLimits, Mismatch, PendingEffect, PendingKind, PendingPromise,
    StoreEffectHost, TokenRights, UnfinishedEffect,
};
use runtime_store::{Page, Row, RowQuery, Store, SystemClock, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answers::{approval_named, ruled_named};
use crate::details::TurnCalls;
use crate::diagnostic::DIAGNOSTIC_SPACE;
use crate::process_view::process_view;
pub use crate::process_view::{ProcessDetail, process, processes};
use crate::turn::TURN_SPACE;
use crate::worker::{worker_key, worker_scope};
use crate::{
    Command, Diagnostic, RuntimeError, RuntimeSummary, Transcript, TurnRecord, WorkerRecord,
};

/// Something that waits for somebody.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PendingItem {
    /// What is waited for.
    pub kind: PendingKind,
    /// The worker whose turn waits.
    pub worker: Option<WorkerId>,
    /// The turn.
    pub turn: Option<TurnId>,
    /// The tool call that hangs on it.
    pub call: Option<CallId>,
    /// The name of the tool.
    pub tool: Option<String>,
    /// What the tool asks whoever answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
    /// The arguments of the call: those that the model gave, or a person has put in their place. An
    /// approval is bound to their digest. None where no call hangs on it, and if the record of the
    /// turn is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// The tool as the model saw it, so that whoever approves knows what was offered (M10). Its
    /// words are its server's: show what nobody would see in them. None as for the arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<ToolDefinition>,
    /// What answers it, for an approval or another promise. Whoever has it may answer.
    pub token: Option<String>,
    /// Since when it waits, in milliseconds since the epoch.
    pub since: Timestamp,
    /// When it goes on by itself, if ever.
    pub due: Option<Timestamp>,
    /// The effect's address in its scope.
    pub key: ReplayKey,
    /// Whose effect it is: `SCOPE#KEY` names it for a ruling.
    pub scope: ScopeId,
    /// Why it is in doubt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<WireError>,
    /// How it differs from what is recorded: at most 8 JSON paths, never values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<Mismatch>,
}

/// Lists the workers, by id.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub async fn workers(store: &dyn Store) -> Result<Vec<WorkerRecord>, RuntimeError> {
    all_rows(store, RowQuery::space("worker")).await
}

/// A page of workers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerPage {
    /// The workers, by id.
    pub workers: Vec<WorkerRecord>,
    /// The last of them, if more follow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<WorkerId>,
}

/// Lists workers by id, after one of them, at most so many; the store clamps the limit.
///
/// # Errors
/// [`RuntimeError::LimitZero`], or when the store cannot be read.
pub async fn list(
    store: &dyn Store,
    after: Option<&WorkerId>,
    limit: usize,
) -> Result<WorkerPage, RuntimeError> {
    if limit == 0 {
        return Err(RuntimeError::LimitZero { limit: "page" });
    }
    let page = Page::after(after.map(worker_key), limit);
    let page = store.rows(RowQuery::space("worker"), page).await?;
    let workers = page
        .rows
        .iter()
        .map(decode)
        .collect::<Result<Vec<WorkerRecord>, _>>()?;
    let next = page.next.and(workers.last()).map(|last| last.id().clone());
    Ok(WorkerPage { workers, next })
}

/// Reads a runtime at a glance; it counts the workers one by one.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub async fn summary(store: &dyn Store) -> Result<RuntimeSummary, RuntimeError> {
    crate::entity::summary(store).await
}

/// Reads the diagnostics of one worker, or of the runtime and all workers.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub async fn diagnostics(
    store: &dyn Store,
    worker: Option<&WorkerId>,
) -> Result<Vec<Diagnostic>, RuntimeError> {
    let query = match worker {
        Some(worker) => RowQuery::scope(DIAGNOSTIC_SPACE, worker_scope(worker)),
        None => RowQuery::space(DIAGNOSTIC_SPACE),
    };
    all_rows(store, query).await
}

/// Reads a page of a worker's transcript: see
/// [`Runtime::transcript`](crate::Runtime::transcript).
///
/// # Errors
/// [`RuntimeError::LimitZero`], [`RuntimeError::UnknownWorker`], or when the store cannot be read.
pub async fn transcript(
    store: &dyn Store,
    worker: &WorkerId,
    start: u64,
    limit: usize,
) -> Result<Transcript, RuntimeError> {
    crate::transcript::read(store, worker, start, limit).await
}

/// Returns one worker.
///
/// # Errors
/// [`RuntimeError::UnknownWorker`], or when the store cannot be read.
pub async fn worker(store: &dyn Store, id: &WorkerId) -> Result<WorkerRecord, RuntimeError> {
    match store.row(&worker_key(id)).await? {
        Some(row) => decode(&row),
        None => Err(RuntimeError::UnknownWorker { worker: id.clone() }),
    }
}

/// Lists the turns that have not ended, of one worker or of all: by worker, then in the order
/// they will run.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub async fn unfinished_turns(
    store: &dyn Store,
    worker: Option<&WorkerId>,
) -> Result<Vec<TurnRecord>, RuntimeError> {
    let query = match worker {
        Some(worker) => RowQuery::scope(TURN_SPACE, worker_scope(worker)),
        None => RowQuery::space(TURN_SPACE),
    };
    all_rows(store, query).await
}

/// Lists what a turn has begun and not ended: what may not happen twice and was begun, and what is
/// tried again. After a crash it says what a restart will find in doubt.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub async fn begun(
    store: &dyn Store,
    turn: &TurnRecord,
) -> Result<Vec<UnfinishedEffect>, RuntimeError> {
    let scope = turn.scope().scope_id();
    let begun = UnfinishedEffect::all_of(store, &scope).await;
    begun.map_err(RuntimeError::Part)
}

/// Lists what waits for somebody, with the tokens that answer it. What has been answered is not
/// among it, though its turn may not have gone on yet.
///
/// # Errors
/// [`RuntimeError`] when the store or its key ring cannot be read.
pub async fn pending(store: Arc<dyn Store>) -> Result<Vec<PendingItem>, RuntimeError> {
    let host = reading_host(Arc::clone(&store));
    let promises = host.await_events().await?;
    pending_items(&*store, &host, &promises).await
}

/// Checks a command against what is stored, so that a wrong one is refused before anything is
/// written or sent. What it finds may change before the command is carried out.
///
/// # Errors
/// What carrying it out would answer now: an unknown worker, a refused token, nothing pending.
pub async fn check(store: Arc<dyn Store>, command: &Command) -> Result<(), RuntimeError> {
    let host = reading_host(Arc::clone(&store));
    match command {
        Command::Input { worker: id, .. }
        | Command::SystemInput { worker: id, .. }
        | Command::StopWorker { worker: id, .. }
        | Command::ResumeWorker { worker: id }
        | Command::DeleteWorker { worker: id, .. }
        | Command::PurgeWorker { worker: id }
        | Command::CancelWorker { worker: id, .. } => worker(&*store, id).await.map(|_| ()),
        Command::StopRuntime { .. } | Command::ReopenRuntime | Command::Host { .. } => Ok(()),
        Command::CancelProcess { process, .. } | Command::SignalProcess { process, .. } => {
            process_view(&host, process).await.map(|_| ())
        }
        Command::Decide { target, .. } => match approval_named(&host, target).await? {
            Some(_) => Ok(()),
            None => check_token(&host, target).await,
        },
        Command::Resolve { token, .. } => check_token(&host, token).await,
        Command::RuleInDoubt { call, .. } => {
            let named = ruled_named(&host, PendingKind::InDoubt, call).await;
            named.map(|_| ())
        }
        Command::RuleConflict { effect, .. } => {
            let named = ruled_named(&host, PendingKind::Conflict, effect).await;
            named.map(|_| ())
        }
    }
}

async fn check_token(host: &StoreEffectHost, token: &str) -> Result<(), RuntimeError> {
    let verified = host.await_events().await?.verify(token).await;
    verified
        .map(|_| ())
        .map_err(|error| RuntimeError::from_part(&error))
}

/// A host that only reads: nothing runs through it.
pub(crate) fn reading_host(store: Arc<dyn Store>) -> StoreEffectHost {
    let clock = Arc::new(SystemClock::new());
    StoreEffectHost::new(
        store,
        clock,
        Arc::new(SystemRandom),
        EffectLimits::default(),
    )
}

pub(crate) async fn pending_items(
    store: &dyn Store,
    host: &StoreEffectHost,
    promises: &AwaitEvents,
) -> Result<Vec<PendingItem>, RuntimeError> {
    let mut items = Vec::new();
    for effect in pending_effects(host).await? {
        let mut waiting = Vec::new();
        for promise in &effect.promises {
            // What was answered waits for nobody: its turn goes on when it is next driven.
            let answered = promises.is_resolved(&effect.scope, &promise.identity);
            if !answered.await? {
                waiting.push(promise);
            }
        }
        if waiting.is_empty() && !effect.promises.is_empty() {
            continue;
        }
        let of_call = |promise: &&PendingPromise| promise.call.is_some();
        let calls = match effect.call.is_some() || waiting.iter().any(of_call) {
            true => calls_of(store, &effect.scope).await?,
            false => TurnCalls::default(),
        };
        if waiting.is_empty() {
            let call = effect.call.as_ref().and_then(|call| calls.named(call));
            items.push(item(&effect, call, &calls));
        }
        for promise in waiting {
            let rights = TokenRights::ALL;
            let token = promises
                .mint(&effect.scope, &promise.identity, rights, None)
                .await;
            let token = token.map_err(|error| error.to_wire())?;
            items.push(PendingItem {
                kind: promise.kind,
                call: promise.call.clone(),
                tool: promise.tool.clone(),
                asks: promise.asks.clone(),
                token: Some(token.expose().to_owned()),
                ..item(&effect, calls.promised(promise), &calls)
            });
        }
    }
    Ok(items)
}

/// What the record says of the calls of a turn. One damaged record must not hide everything else
/// that waits; driving its turn says what is wrong.
async fn calls_of(store: &dyn Store, scope: &ExecutionScope) -> Result<TurnCalls, RuntimeError> {
    match TurnCalls::read(store, scope).await {
        Err(error) if matches!(error.class(), ErrorClass::Corrupt | ErrorClass::NotFound) => {
            Ok(TurnCalls::default())
        }
        read => read,
    }
}

pub(crate) async fn pending_effects(
    host: &StoreEffectHost,
) -> Result<Vec<PendingEffect>, RuntimeError> {
    let mut effects = Vec::new();
    let mut after = None;
    loop {
        let page = host.pending(Page::after(after, PAGE)).await?;
        effects.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(effects),
        }
    }
}

fn item(effect: &PendingEffect, call: Option<&ToolCall>, calls: &TurnCalls) -> PendingItem {
    let session = match &effect.scope {
        ExecutionScope::Turn { session, .. } => Some(session),
        _ => None,
    };
    PendingItem {
        kind: effect.kind,
        worker: session.map(WorkerId::from),
        turn: effect.scope.turn().cloned(),
        call: effect.call.clone(),
        tool: effect.tool.clone(),
        asks: None,
        arguments: call.map(|call| call.arguments.clone()),
        definition: call.and_then(|call| calls.definition(&call.name)).cloned(),
        token: None,
        since: effect.since,
        due: effect.due,
        key: effect.key.clone(),
        scope: effect.scope.scope_id(),
        reason: effect.reason.clone(),
        mismatch: effect.mismatch.clone(),
    }
}

/// The page in which lists are read; a store may give fewer.
const PAGE: usize = 256;

async fn all_rows<T: DeserializeOwned>(
    store: &dyn Store,
    query: RowQuery,
) -> Result<Vec<T>, RuntimeError> {
    let mut records = Vec::new();
    each_row(store, query, |record| records.push(record)).await?;
    Ok(records)
}

/// Reads the rows of a query, a page at a time.
pub(crate) async fn each_row<T: DeserializeOwned>(
    store: &dyn Store,
    query: RowQuery,
    mut with: impl FnMut(T),
) -> Result<(), RuntimeError> {
    let mut after = None;
    loop {
        let page = store.rows(query.clone(), Page::after(after, PAGE)).await?;
        for row in &page.rows {
            with(decode(row)?);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Reads the body of a row that this crate wrote.
pub(crate) fn decode<T: DeserializeOwned>(row: &Row) -> Result<T, RuntimeError> {
    serde_json::from_slice(&row.body).map_err(|error| {
        let message = format!(
            "row {}/{}/{}: {error}",
            row.key.space, row.key.scope, row.key.name
        );
        RuntimeError::Part(WireError::new(
            "row_undecodable",
            ErrorClass::Corrupt,
            message,
        ))
    })
}
