//! Workers as the catalogue keeps them: a fold of their events (W1–W3).

use runtime_core::{
    CanonicalEncoder, Digest, EventDraft, EventKind, Message, RequestId, Role, ScopeId, SessionId,
    Usage, WorkerId,
};
use runtime_store::RowKey;
use runtime_turn::{CompactionMark, ContextMark};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Parent, RuntimeError, RuntimeLimits};

/// What a worker is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerIntent {
    /// It answers.
    Assistant {
        /// For what.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purpose: Option<String>,
    },
    /// It works towards one objective.
    Task {
        /// The objective, not blank.
        objective: String,
    },
    /// It plays a role.
    Role {
        /// The role, not blank.
        role: String,
        /// For what.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purpose: Option<String>,
    },
}

impl Default for WorkerIntent {
    fn default() -> Self {
        Self::Assistant { purpose: None }
    }
}

/// Which configuration a worker runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerProfile {
    /// The runtime's own.
    #[default]
    RuntimeDefault,
    /// One that the host has built in.
    Builtin {
        /// Its name.
        name: String,
    },
    /// One of the configuration.
    Named {
        /// Its name.
        name: String,
    },
}

/// The configuration bundle that a worker is built from; its resolver knows what it means.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BundleReference {
    /// Its id, not blank.
    pub id: String,
}

/// Something that a worker would like to be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CapabilityRequest {
    /// The capability, not blank.
    pub name: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl CapabilityRequest {
    /// Asks for a capability without a reason.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            reason: None,
        }
    }
}

/// A workspace or a mount: a name for the worker, and what stands behind it, which only its
/// resolver reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceReference {
    /// The name, not blank.
    pub name: String,
    /// What stands behind it, not blank.
    pub reference: String,
}

/// A request for a new worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateWorker {
    /// The worker; its session has the same id.
    pub worker_id: WorkerId,
    /// The request as its sender names it; repeating it answers the first result.
    pub request_id: RequestId,
    /// What it is for.
    pub intent: WorkerIntent,
    /// Which configuration it runs with.
    pub profile: WorkerProfile,
    /// What it is built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleReference>,
    /// What it would like to be able to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<CapabilityRequest>,
    /// Where it works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<ResourceReference>,
    /// What it can reach beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<ResourceReference>,
    /// Whose it is, where several share a runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whose sub-agent it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

impl CreateWorker {
    /// A worker under a request of the caller's, with the runtime's own configuration.
    #[must_use]
    pub const fn new(worker_id: WorkerId, request_id: RequestId, intent: WorkerIntent) -> Self {
        Self {
            worker_id,
            request_id,
            intent,
            profile: WorkerProfile::RuntimeDefault,
            bundle: None,
            capabilities: Vec::new(),
            workspaces: Vec::new(),
            mounts: Vec::new(),
            tenant: None,
            parent: None,
        }
    }

    /// An assistant with the runtime's own configuration. The request is named after the worker,
    /// so that asking for the same worker again gives it back.
    #[must_use]
    pub fn assistant(worker_id: WorkerId) -> Self {
        let request_id = RequestId::new(worker_id.as_str()).expect("both share one grammar");
        Self::new(worker_id, request_id, WorkerIntent::default())
    }

    /// Returns the digest that tells a repetition from another request under the same id.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        let value = serde_json::to_value(self).expect("a request is plain data");
        CanonicalEncoder::new("create-worker").json(&value).digest()
    }

    /// Checks what must hold before anything is written (W4).
    ///
    /// # Errors
    /// [`RuntimeError::Blank`], [`RuntimeError::TooLong`], [`RuntimeError::TooMany`].
    pub fn validate(&self, limits: &RuntimeLimits) -> Result<(), RuntimeError> {
        let text = |what, text: &str| limits.check_text(what, text, limits.reference_bytes_max);
        match &self.intent {
            WorkerIntent::Assistant { purpose } => optional(purpose, |it| text("purpose", it))?,
            WorkerIntent::Task { objective } => text("objective", objective)?,
            WorkerIntent::Role { role, purpose } => {
                text("role", role)?;
                optional(purpose, |it| text("purpose", it))?;
            }
        }
        match &self.profile {
            WorkerProfile::RuntimeDefault => {}
            WorkerProfile::Builtin { name } | WorkerProfile::Named { name } => {
                text("profile name", name)?;
            }
        }
        optional(&self.tenant, |it| text("tenant", it))?;
        if let Some(bundle) = &self.bundle {
            text("bundle id", &bundle.id)?;
        }
        limits.check_count("capabilities", self.capabilities.len())?;
        for capability in &self.capabilities {
            text("capability name", &capability.name)?;
            optional(&capability.reason, |it| {
                limits.check_text("capability reason", it, limits.reason_bytes_max)
            })?;
        }
        limits.check_count("workspaces", self.workspaces.len())?;
        limits.check_count("mounts", self.mounts.len())?;
        for resource in self.workspaces.iter().chain(&self.mounts) {
            text("resource name", &resource.name)?;
            text("resource reference", &resource.reference)?;
        }
        Ok(())
    }
}

fn optional(
    text: &Option<String>,
    check: impl FnOnce(&str) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    text.as_deref().map_or(Ok(()), check)
}

/// Where a worker stands (W2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerStatus {
    /// It takes inputs.
    Running,
    /// It takes none until resumed.
    Stopped,
    /// It takes none any more.
    Cancelled,
    /// It is gone but for its history.
    Deleted,
}

impl WorkerStatus {
    /// Says whether nothing follows it any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Deleted)
    }

    /// Says whether a worker may go from this status to another one (W2): a stopped worker may be
    /// resumed, a cancelled one only deleted, a deleted one nothing.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (
                Self::Running,
                Self::Stopped | Self::Cancelled | Self::Deleted
            ) | (
                Self::Stopped,
                Self::Running | Self::Cancelled | Self::Deleted
            ) | (Self::Cancelled, Self::Deleted)
        )
    }

    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Deleted => "deleted",
        }
    }
}

/// A worker as the catalogue keeps it. It is the fold of the worker's events by
/// [`applied`](Self::applied); the row and the fold are equal at every position (W3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The request that made it.
    pub request: CreateWorker,
    /// Where it stands.
    pub status: WorkerStatus,
    /// Starts at 1 and grows each time it is resumed (W6).
    pub generation: u64,
    /// The capabilities that it was given, of those that it asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub granted: Vec<String>,
    /// How many inputs with a turn it has accepted.
    pub inputs: u64,
    /// How many entries its transcript has.
    #[serde(default)]
    pub transcript: u64,
    /// How many of their turns have not ended.
    pub unfinished: u32,
    /// The conversation so far, named by its chain digest.
    pub context: ContextMark,
    /// The tokens spent by ended turns.
    pub usage: Usage,
    /// What their model calls cost, in millionths of the currency of the price table.
    #[serde(default)]
    pub cost: u64,
    /// The summary that stands for the beginning of the conversation, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted: Option<CompactionMark>,
    /// How many tokens the conversation has, as the last model call told it; zero is not known.
    #[serde(default)]
    pub context_tokens: u64,
    /// What it and its users have said was erased; only this tombstone is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purged: bool,
}

impl WorkerRecord {
    /// Returns the worker's id.
    #[must_use]
    pub const fn id(&self) -> &WorkerId {
        &self.request.worker_id
    }

    /// Returns the worker's session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId::from(self.id())
    }

    /// The record after the event that creates a worker, with the capabilities it was given.
    #[must_use]
    pub fn created(request: CreateWorker, granted: Vec<String>) -> (Self, EventDraft) {
        let event = EventDraft::new(EventKind::WorkerCreated)
            .in_session(SessionId::from(&request.worker_id))
            .with_payload(json!({
                "request": request,
                "fingerprint": request.fingerprint(),
                "granted": granted,
            }));
        (Self::new(request, granted), event)
    }

    fn new(request: CreateWorker, granted: Vec<String>) -> Self {
        Self {
            request,
            status: WorkerStatus::Running,
            generation: 1,
            granted,
            inputs: 0,
            transcript: 0,
            unfinished: 0,
            context: ContextMark::empty(),
            usage: Usage::default(),
            cost: 0,
            compacted: None,
            context_tokens: 0,
            purged: false,
        }
    }

    /// What is left of a deleted worker once what it has said is erased: that it was, so that
    /// nobody takes its id for a new one's.
    pub(crate) fn tombstone(&self) -> Self {
        let mut request = CreateWorker::assistant(self.id().clone());
        request.request_id = self.request.request_id.clone();
        Self {
            status: self.status,
            generation: self.generation,
            purged: true,
            ..Self::new(request, Vec::new())
        }
    }

    /// The record after an event: the one place that says what events mean for a worker.
    #[must_use]
    pub fn applied(&self, event: &EventDraft) -> Self {
        let mut next = self.clone();
        match &event.kind {
            EventKind::WorkerStatusChanged => {
                if let Some(status) = member(&event.payload, "status") {
                    next.status = status;
                }
                if let Some(generation) = member(&event.payload, "generation") {
                    next.generation = generation;
                }
            }
            EventKind::InputAccepted => {
                next.transcript += 1;
                match member::<Message>(&event.payload, "message") {
                    Some(message) if message.role == Role::System => {
                        // Between turns it joins at once; else the end of the turn says so.
                        if next.unfinished == 0 {
                            next.context = next.context.after(&message);
                        }
                    }
                    _ => {
                        next.inputs += 1;
                        next.unfinished += 1;
                    }
                }
            }
            kind if kind.ends_turn() => {
                next.unfinished = next.unfinished.saturating_sub(1);
                if let Some(context) = member(&event.payload, "context") {
                    next.context = context;
                }
                if let Some(usage) = member(&event.payload, "usage") {
                    next.usage = next.usage.plus(usage);
                }
                let cost = member(&event.payload, "cost").unwrap_or(0);
                next.cost = next.cost.saturating_add(cost);
                if let Some(compacted) = member(&event.payload, "compacted") {
                    next.compacted = Some(compacted);
                }
                if let Some(tokens) = member(&event.payload, "context_tokens") {
                    next.context_tokens = tokens;
                }
                if let Some(entries) = member::<u64>(&event.payload, "entries") {
                    next.transcript += entries;
                }
            }
            _ => {}
        }
        next
    }

    /// Folds a worker's events from its creation on.
    #[must_use]
    pub fn folded<'a>(events: impl IntoIterator<Item = &'a EventDraft>) -> Option<Self> {
        events
            .into_iter()
            .fold(None, |record, event| match (&event.kind, record) {
                (EventKind::WorkerCreated, _) => {
                    let granted = member(&event.payload, "granted").unwrap_or_default();
                    member(&event.payload, "request").map(|request| Self::new(request, granted))
                }
                (_, Some(record)) => Some(record.applied(event)),
                (_, None) => None,
            })
    }

    pub(crate) fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a worker record is plain data")
    }
}

/// Reads one member of a payload; an absent or unreadable one is none, so that an event of a later
/// version changes only what this version understands.
fn member<T: serde::de::DeserializeOwned>(payload: &Value, name: &str) -> Option<T> {
    T::deserialize(payload.get(name)?).ok()
}

/// The owner of a worker's rows.
pub(crate) fn worker_scope(worker: &WorkerId) -> ScopeId {
    ScopeId::new(format!("worker/{worker}")).expect("a worker id is within the bounds")
}

/// The row of a worker's record.
pub(crate) fn worker_key(worker: &WorkerId) -> RowKey {
    RowKey::new("worker", worker_scope(worker), "")
}
