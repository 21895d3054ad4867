//! Diagnostics: what a person should know of the runtime or of a worker (W1).

use runtime_core::{EventDraft, EventKind, RequestId, SessionId, WorkerId};
use runtime_store::{Commit, RowChange, RowKey};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::entity::runtime_scope;
use crate::instance::Instance;
use crate::worker::worker_scope;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something is not as it was asked for.
    Warning,
    /// Something does not work.
    Error,
}

/// What a person should know. One is kept for each code and subject; it is also told as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Its id: the code, and what it is about where there may be several.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// What it is, for programs: words with dots, such as `worker.tools_less`.
    pub code: String,
    /// What it is, for people.
    pub message: String,
    /// The worker that it is about; none for the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
}

/// The space of their rows: by worker, or of the runtime, then by id.
pub(crate) const DIAGNOSTIC_SPACE: &str = "diagnostic";

impl Diagnostic {
    pub(crate) fn new(severity: Severity, code: &str, message: impl Into<String>) -> Self {
        Self {
            id: code.to_owned(),
            severity,
            code: code.to_owned(),
            message: message.into(),
            worker: None,
        }
    }

    pub(crate) fn of(mut self, worker: &WorkerId) -> Self {
        self.worker = Some(worker.clone());
        self
    }

    /// Tells it from others of its code. What it is about may be any text, so its id holds no
    /// more of it than an id may.
    pub(crate) fn about(mut self, subject: &str) -> Self {
        let subject = match RequestId::new(subject) {
            Ok(_) => subject.to_owned(),
            Err(_) => {
                let digest = runtime_core::CanonicalEncoder::new("diagnostic-subject")
                    .text(subject)
                    .digest();
                digest.to_string().chars().take(16).collect()
            }
        };
        self.id = format!("{}:{subject}", self.code);
        self
    }

    fn key(&self) -> RowKey {
        let scope = self
            .worker
            .as_ref()
            .map_or_else(runtime_scope, worker_scope);
        RowKey::new(DIAGNOSTIC_SPACE, scope, &self.id)
    }
}

impl Instance {
    /// Adds diagnostics to a commit: a row and an event each.
    pub(crate) fn with_diagnostics(
        &self,
        mut commit: Commit,
        diagnostics: &[Diagnostic],
    ) -> Commit {
        for diagnostic in diagnostics {
            let mut event = EventDraft::new(EventKind::Diagnostic)
                .with_payload(json!({ "diagnostic": diagnostic }))
                .with_message(diagnostic.message.clone());
            event.session = diagnostic.worker.as_ref().map(SessionId::from);
            let body = serde_json::to_vec(diagnostic).expect("a diagnostic is plain data");
            commit = commit
                .row(RowChange::put(diagnostic.key(), body))
                .event(self.new_event(&event));
        }
        commit
    }
}
