//! What waits for somebody: approvals, other waits, effects in doubt, conflicts.

use std::sync::Arc;

use runtime_core::{
    CallId, EffectCommand, EffectEnvelope, EffectKind, ExecutionScope, ProcessCommand, ProcessId,
    ReplayKey, ScopeId, Timestamp, WaitIdentity, WaitSource, WireError,
};
use runtime_store::{Page, ReadError, Row, RowKey, RowQuery, Store};
use serde::{Deserialize, Serialize};

use crate::Mismatch;

mod unfinished;

pub use unfinished::UnfinishedEffect;

/// The space of the index of what waits.
pub(crate) const PENDING_SPACE: &str = "pending";

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PendingKind {
    /// A person's approval of a tool call (T3).
    Approval,
    /// A promise or a time.
    Wait,
    /// A ruling on an effect in doubt (E7).
    InDoubt,
    /// A ruling on an effect that is not the one recorded under its key (E4).
    Conflict,
}

/// One promise that would end a wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingPromise {
    /// What it is: an approval, or another promise.
    pub kind: PendingKind,
    /// Which promise.
    pub identity: WaitIdentity,
    /// The tool call that hangs on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// The name of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What the tool asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
}

/// One effect that waits for somebody or something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingEffect {
    /// What is waited for.
    pub kind: PendingKind,
    /// Whose effect it is.
    pub scope: ExecutionScope,
    /// Its address in the scope.
    pub key: ReplayKey,
    /// What kind of effect.
    pub effect: EffectKind,
    /// The tool call that hangs on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// The name of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Since when it waits.
    pub since: Timestamp,
    /// When it goes on by itself, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// The promises that would end the wait; resolve one by
    /// [`AwaitEvents::resolve_identity`](crate::AwaitEvents::resolve_identity), or mint a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub promises: Vec<PendingPromise>,
    /// The processes whose end would end the wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessId>,
    /// Why it is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<WireError>,
    /// How it differs from what is recorded: paths, never values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<Mismatch>,
}

/// A page of what waits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PendingPage {
    /// In the order of scope and key.
    pub items: Vec<PendingEffect>,
    /// Go on after this row, if there is more.
    pub next: Option<RowKey>,
}

impl PendingEffect {
    pub(crate) fn waiting(
        envelope: &EffectEnvelope,
        since: Timestamp,
        due: Option<Timestamp>,
    ) -> Self {
        let promises = pending_promises(envelope);
        let mut pending = Self::of(envelope, PendingKind::Wait, since);
        if promises
            .iter()
            .any(|promise| promise.kind == PendingKind::Approval)
        {
            pending.kind = PendingKind::Approval;
        }
        pending.due = due;
        pending.call = promises.iter().find_map(|promise| promise.call.clone());
        pending.tool = promises.iter().find_map(|promise| promise.tool.clone());
        pending.promises = promises;
        pending.processes = processes_of(envelope);
        pending
    }

    pub(crate) fn in_doubt(envelope: &EffectEnvelope, since: Timestamp, reason: WireError) -> Self {
        let mut pending = Self::of(envelope, PendingKind::InDoubt, since);
        pending.reason = Some(reason);
        pending.of_call(envelope)
    }

    pub(crate) fn conflict(
        envelope: &EffectEnvelope,
        since: Timestamp,
        mismatch: Mismatch,
    ) -> Self {
        let mut pending = Self::of(envelope, PendingKind::Conflict, since);
        pending.mismatch = Some(mismatch);
        pending.of_call(envelope)
    }

    /// Names the tool call that it is, if it is one.
    fn of_call(mut self, envelope: &EffectEnvelope) -> Self {
        if let EffectCommand::ToolCall(command) = envelope.command() {
            self.call = Some(command.call.clone());
            self.tool = Some(command.tool.clone());
        }
        self
    }

    fn of(envelope: &EffectEnvelope, kind: PendingKind, since: Timestamp) -> Self {
        Self {
            kind,
            scope: envelope.scope().clone(),
            key: envelope.key().clone(),
            effect: envelope.kind(),
            call: None,
            tool: None,
            since,
            due: None,
            promises: Vec::new(),
            processes: Vec::new(),
            reason: None,
            mismatch: None,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a pending effect is plain data")
    }

    fn decode(row: &Row) -> Result<Self, ReadError> {
        serde_json::from_slice(&row.body).map_err(|error| ReadError::Corrupt {
            what: format!("pending row {} of {}: {error}", row.key.name, row.key.scope),
        })
    }
}

/// The promises among the sources of a wait.
pub(crate) fn promises_of(envelope: &EffectEnvelope) -> Vec<WaitIdentity> {
    let promises = pending_promises(envelope).into_iter();
    promises.map(|promise| promise.identity).collect()
}

/// The processes among the sources of a wait.
pub(crate) fn processes_of(envelope: &EffectEnvelope) -> Vec<ProcessId> {
    match envelope.command() {
        EffectCommand::Process {
            command: ProcessCommand::Await { process, .. },
        } => vec![process.clone()],
        EffectCommand::AwaitEvent { sources } => {
            let processes = sources.iter().filter_map(|source| match source {
                WaitSource::Process { process } => Some(process.clone()),
                _ => None,
            });
            processes.collect()
        }
        _ => Vec::new(),
    }
}

fn pending_promises(envelope: &EffectEnvelope) -> Vec<PendingPromise> {
    let EffectCommand::AwaitEvent { sources } = envelope.command() else {
        return Vec::new();
    };
    let promise = |source: &WaitSource| match source {
        WaitSource::Promise {
            identity,
            call,
            tool,
            asks,
        } => Some(PendingPromise {
            kind: match is_approval(identity) {
                true => PendingKind::Approval,
                false => PendingKind::Wait,
            },
            identity: identity.clone(),
            call: call.clone(),
            tool: tool.clone(),
            asks: asks.clone(),
        }),
        _ => None,
    };
    sources.iter().filter_map(promise).collect()
}

fn is_approval(identity: &WaitIdentity) -> bool {
    // The prefix that `WaitIdentity::approval` gives.
    matches!(identity, WaitIdentity::Custom { key } if key.starts_with("approval:"))
}

pub(crate) fn pending_key(scope: &ScopeId, key: &ReplayKey) -> RowKey {
    RowKey::new(PENDING_SPACE, scope.clone(), key.as_str())
}

/// Reads what waits, of every scope or of one.
pub(crate) async fn pending(
    store: &dyn Store,
    scope: Option<ScopeId>,
    page: Page<Option<RowKey>>,
) -> Result<PendingPage, ReadError> {
    let query = RowQuery::Prefix {
        space: Arc::from(PENDING_SPACE),
        scope,
        name: Arc::from(""),
    };
    let rows = store.rows(query, page).await?;
    let items: Result<_, _> = rows.rows.iter().map(PendingEffect::decode).collect();
    Ok(PendingPage {
        items: items?,
        next: rows.next,
    })
}
