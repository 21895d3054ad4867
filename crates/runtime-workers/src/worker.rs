//! Workers as the catalogue keeps them: a fold of their events (W1–W3).

use runtime_core::{
    CanonicalEncoder, Digest, EventDraft, EventKind, RequestId, ScopeId, SessionId, Usage, WorkerId,
};
use runtime_store::RowKey;
use runtime_turn::ContextMark;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::RuntimeError;

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
    /// Whose it is, where several share a runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

impl CreateWorker {
    /// An assistant with the runtime's own configuration. The request is named after the worker,
    /// so that asking for the same worker again gives it back.
    #[must_use]
    pub fn assistant(worker_id: WorkerId) -> Self {
        let request_id = RequestId::new(worker_id.as_str()).expect("both share one grammar");
        Self {
            worker_id,
            request_id,
            intent: WorkerIntent::default(),
            profile: WorkerProfile::default(),
            tenant: None,
        }
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
    /// [`RuntimeError::Blank`].
    pub fn validate(&self) -> Result<(), RuntimeError> {
        let blank = |what: &'static str, text: &str| match text.trim() {
            "" => Err(RuntimeError::Blank { what }),
            _ => Ok(()),
        };
        match &self.intent {
            WorkerIntent::Assistant { .. } => {}
            WorkerIntent::Task { objective } => blank("objective", objective)?,
            WorkerIntent::Role { role, .. } => blank("role", role)?,
        }
        match &self.profile {
            WorkerProfile::RuntimeDefault => Ok(()),
            WorkerProfile::Builtin { name } | WorkerProfile::Named { name } => {
                blank("profile name", name)
            }
        }
    }
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
    /// Grows each time it is resumed (W6).
    pub generation: u64,
    /// How many inputs it has accepted.
    pub inputs: u64,
    /// How many of their turns have not ended.
    pub unfinished: u32,
    /// The conversation so far, named by its chain digest.
    pub context: ContextMark,
    /// The tokens spent by ended turns.
    pub usage: Usage,
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

    /// The record after the event that creates a worker.
    #[must_use]
    pub fn created(request: CreateWorker) -> (Self, EventDraft) {
        let event = EventDraft::new(EventKind::WorkerCreated)
            .in_session(SessionId::from(&request.worker_id))
            .with_payload(json!({ "request": request, "fingerprint": request.fingerprint() }));
        let record = Self {
            request,
            status: WorkerStatus::Running,
            generation: 1,
            inputs: 0,
            unfinished: 0,
            context: ContextMark::empty(),
            usage: Usage::default(),
        };
        (record, event)
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
            }
            EventKind::InputAccepted => {
                next.inputs += 1;
                next.unfinished += 1;
            }
            kind if kind.ends_turn() => {
                next.unfinished = next.unfinished.saturating_sub(1);
                if let Some(context) = member(&event.payload, "context") {
                    next.context = context;
                }
                if let Some(usage) = member(&event.payload, "usage") {
                    next.usage = next.usage.plus(usage);
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
                    member(&event.payload, "request").map(|request| Self::created(request).0)
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
