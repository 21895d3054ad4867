//! The runtime itself, as the store keeps it: its name and limits, whether it takes changes, and
//! whether an instance has it open.

use std::sync::{Arc, PoisonError};

use runtime_core::{CommitId, EventDraft, EventKind, ScopeId, Tier, WorkerId};
use runtime_store::{Commit, CommitError, Guard, Page, Row, RowChange, RowKey, RowQuery};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::diagnostic::DIAGNOSTIC_SPACE;
use crate::instance::Instance;
use crate::{
    Diagnostic, RuntimeError, RuntimeLimits, RuntimeReceipt, Severity, WorkerRecord, WorkerStatus,
};

/// Where a runtime stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuntimeStatus {
    /// It takes changes.
    Running,
    /// It can be read, and takes no changes until it is reopened.
    Stopped,
}

impl RuntimeStatus {
    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// How many workers there are, by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounts {
    /// Those that take inputs.
    pub running: u64,
    /// Those that may be resumed.
    pub stopped: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Those that were deleted and not purged.
    pub deleted: u64,
}

/// A runtime at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeSummary {
    /// Its id.
    pub id: runtime_core::RuntimeId,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What an acknowledgement survives.
    pub tier: Tier,
    /// Whether several processes may write to its store at once.
    pub shared_by_processes: bool,
    /// Where it stands.
    pub status: RuntimeStatus,
    /// Its workers.
    pub workers: WorkerCounts,
    /// How many diagnostics there are, those of its workers included.
    pub diagnostics: u64,
    /// What it accepts.
    pub limits: RuntimeLimits,
}

/// What is kept of a runtime whichever instance opens it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    #[serde(default)]
    pub(crate) limits: RuntimeLimits,
}

/// Whether the runtime takes changes, as this instance last read it, with the version of the row
/// that says so: each change is guarded by it, so that a stop in another process counts too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) status: RuntimeStatus,
    version: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StatusRecord {
    status: RuntimeStatus,
}

/// Kept while an instance has the runtime open: found at the next opening, it tells that the last
/// one was not closed.
#[derive(Debug, Serialize, Deserialize)]
struct OpenMark {
    since: runtime_core::Timestamp,
}

/// The owner of the runtime's own rows.
pub(crate) fn runtime_scope() -> ScopeId {
    ScopeId::new("runtime").expect("a word is within the bounds")
}

fn key(name: &str) -> RowKey {
    RowKey::new("runtime", runtime_scope(), name)
}

fn status_key() -> RowKey {
    key("status")
}

impl Instance {
    /// Opens the runtime in the store: keeps what is stored of it unless other values are given,
    /// and tells what differs, and that the last instance did not close (W1, U3).
    pub(crate) async fn open_entity(
        &self,
        display_name: Option<String>,
        limits: Option<RuntimeLimits>,
    ) -> Result<(), RuntimeError> {
        for _ in 0..self.config.contention_attempts {
            if self.open_entity_once(&display_name, limits).await? {
                return Ok(());
            }
        }
        Err(RuntimeError::Contended {
            what: "the runtime's settings",
        })
    }

    async fn open_entity_once(
        &self,
        display_name: &Option<String>,
        limits: Option<RuntimeLimits>,
    ) -> Result<bool, RuntimeError> {
        let stored = self.store.row(&key("settings")).await?;
        let known: Option<Settings> = stored.as_ref().map(crate::view::decode).transpose()?;
        let mut settings = known.clone().unwrap_or_default();
        if display_name.is_some() {
            settings.display_name.clone_from(display_name);
        }
        if let Some(limits) = limits {
            settings.limits = limits;
        }
        if let Some(name) = &settings.display_name {
            let max = settings.limits.reference_bytes_max;
            settings.limits.check_text("display name", name, max)?;
        }
        let status = self.store.row(&status_key()).await?;
        let mut opened = json!({ "tier": self.store.capabilities().tier });
        if let Some(instance) = self.lease.instance() {
            opened["instance"] = json!(instance);
        }
        let opened = EventDraft::new(EventKind::RuntimeOpened).with_payload(opened);
        let mut commit = self.new_commit(None).event(self.new_event(&opened));
        commit = commit.guard(unchanged(key("settings"), stored.as_ref()));
        if known.as_ref() != Some(&settings) {
            let body = serde_json::to_vec(&settings).expect("settings are plain data");
            commit = commit.row(RowChange::put(key("settings"), body));
        }
        if status.is_none() {
            // It starts with the event that opened it: its receipt has an event from the start.
            commit = commit
                .guard(Guard::Absent(status_key()))
                .row(put_status(RuntimeStatus::Running, 0));
        }
        let mut diagnostics: Vec<_> = known
            .iter()
            .flat_map(|was| settings.differing(was))
            .collect();
        if !self.store.capabilities().shared_by_processes {
            let mark = self.store.row(&key("open")).await?;
            diagnostics.extend(mark.is_some().then(not_closed));
            let since = self.clock.now();
            let body = serde_json::to_vec(&OpenMark { since }).expect("a mark is plain data");
            commit = commit.row(RowChange::put(key("open"), body));
        }
        commit = self.with_diagnostics(commit, &diagnostics);
        if self.contend(commit).await?.is_none() {
            return Ok(false);
        }
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.read_standing().await?;
        Ok(true)
    }

    /// Adds to the commit of closing that the runtime was closed.
    pub(crate) fn without_open_mark(&self, commit: Commit) -> Commit {
        if self.store.capabilities().shared_by_processes {
            return commit;
        }
        commit.row(RowChange::Delete(key("open")))
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn limits(&self) -> RuntimeLimits {
        self.settings().limits
    }

    /// Reads whether the runtime takes changes.
    async fn read_standing(&self) -> Result<(Standing, Row), RuntimeError> {
        let row = self.store.row(&status_key()).await?;
        let row = row.ok_or_else(|| crate::drive::corrupt("row runtime/status", "is missing"))?;
        let record: StatusRecord = crate::view::decode(&row)?;
        let standing = Standing {
            status: record.status,
            version: row.version,
        };
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
        Ok((standing, row))
    }

    /// Guards a change by the runtime's being open for changes.
    ///
    /// # Errors
    /// [`RuntimeError::Closed`], [`RuntimeError::Stopped`].
    pub(crate) async fn changing(&self, commit: Commit) -> Result<Commit, RuntimeError> {
        self.accepting()?;
        let known = *self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = match known {
            Some(standing) if standing.status == RuntimeStatus::Running => standing,
            // Another process may have reopened it.
            _ => self.read_standing().await?.0,
        };
        match standing.status {
            RuntimeStatus::Running => {
                Ok(commit.guard(Guard::Version(status_key(), standing.version)))
            }
            RuntimeStatus::Stopped => Err(RuntimeError::Stopped),
        }
    }

    /// Refuses while the runtime is stopped; for changes that others commit.
    pub(crate) async fn check_changing(&self) -> Result<(), RuntimeError> {
        let nothing = self.new_commit(None);
        self.changing(nothing).await.map(|_| ())
    }

    /// Commits a change; none when another commit came first, also one that stopped the runtime:
    /// the next try reads that.
    pub(crate) async fn contend_change(
        &self,
        commit: Commit,
    ) -> Result<Option<runtime_store::Committed>, RuntimeError> {
        match self.commit(commit).await {
            Ok(committed) => Ok(Some(committed)),
            Err(CommitError::Rejected { guard, .. }) => {
                if matches!(&guard, Guard::Version(key, _) if *key == status_key()) {
                    *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stops the runtime: from the first commit on it takes no changes; then each running worker
    /// is stopped by a commit of its own. A stop that was cut off goes on when it is repeated.
    pub(crate) async fn stop_runtime(
        self: &Arc<Self>,
        reason: Option<String>,
        command: Option<CommitId>,
    ) -> Result<RuntimeReceipt, RuntimeError> {
        let mut receipt = self
            .change_runtime(RuntimeStatus::Stopped, &reason, command)
            .await?;
        for worker in self.workers_running().await? {
            let stopped = self
                .change_status(&worker, WorkerStatus::Stopped, &reason, None, true)
                .await?;
            receipt.workers += u64::from(!stopped.repeated);
        }
        Ok(receipt)
    }

    /// Lets the runtime take changes again. Its workers stay as they are: each is resumed by
    /// itself.
    pub(crate) async fn reopen_runtime(
        &self,
        command: Option<CommitId>,
    ) -> Result<RuntimeReceipt, RuntimeError> {
        let receipt = self
            .change_runtime(RuntimeStatus::Running, &None, command)
            .await?;
        self.background.sessions_changed();
        Ok(receipt)
    }

    async fn change_runtime(
        &self,
        status: RuntimeStatus,
        reason: &Option<String>,
        command: Option<CommitId>,
    ) -> Result<RuntimeReceipt, RuntimeError> {
        self.accepting()?;
        if let Some(reason) = reason {
            let limits = self.limits();
            limits.check_text("reason", reason, limits.reason_bytes_max)?;
        }
        for _ in 0..self.config.contention_attempts {
            let (standing, row) = self.read_standing().await?;
            if standing.status == status {
                return receipt_of(&row, status, true);
            }
            let mut event = EventDraft::new(EventKind::RuntimeStatusChanged)
                .with_payload(json!({ "status": status, "reason": reason }));
            event.caused_by = command.map(|id| id.to_string());
            let commit = self
                .new_commit(command)
                .guard(Guard::Version(status_key(), standing.version))
                .row(put_status(status, 0))
                .event(self.new_event(&event));
            if self.contend(commit).await?.is_some() {
                let (_, row) = self.read_standing().await?;
                return receipt_of(&row, status, false);
            }
        }
        Err(RuntimeError::Contended {
            what: "the runtime's status",
        })
    }

    async fn workers_running(&self) -> Result<Vec<WorkerId>, RuntimeError> {
        let mut running = Vec::new();
        let mut after = None;
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let page = Page::after(after, limit);
            let page = self.store.rows(RowQuery::space("worker"), page).await?;
            for row in &page.rows {
                let record: WorkerRecord = crate::view::decode(row)?;
                if record.status == WorkerStatus::Running {
                    running.push(record.request.worker_id);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(running),
            }
        }
    }
}

impl Settings {
    /// Tells what was stored otherwise.
    fn differing(&self, was: &Self) -> Vec<Diagnostic> {
        let mut told = Vec::new();
        if self.display_name != was.display_name {
            let (from, to) = (&was.display_name, &self.display_name);
            let message = format!("the display name was {from:?} and is now {to:?}");
            let code = "runtime.display_name_changed";
            told.push(Diagnostic::new(Severity::Info, code, message));
        }
        if self.limits != was.limits {
            let (from, to) = (was.limits, self.limits);
            let message = format!("the limits were {from:?} and are now {to:?}");
            let code = "runtime.limits_changed";
            told.push(Diagnostic::new(Severity::Info, code, message));
        }
        told
    }
}

/// Told at the next opening; on a shared store by whoever found the instance dead.
pub(crate) fn not_closed() -> Diagnostic {
    let message = "an instance ended without closing, or stood still beyond its lease; what it had \
                   acknowledged is kept, and unfinished turns go on";
    Diagnostic::new(Severity::Warning, "runtime.not_closed", message)
}

fn put_status(status: RuntimeStatus, event: usize) -> RowChange {
    RowChange::Put {
        key: status_key(),
        body: serde_json::to_vec(&StatusRecord { status })
            .expect("a status is plain data")
            .into(),
        event: Some(event),
        due: None,
    }
}

fn receipt_of(
    row: &Row,
    status: RuntimeStatus,
    repeated: bool,
) -> Result<RuntimeReceipt, RuntimeError> {
    let event = row.event.as_ref();
    let event = event.ok_or_else(|| crate::drive::corrupt("row runtime/status", "has no event"))?;
    Ok(RuntimeReceipt {
        status,
        event: event.id,
        position: event.position.0,
        workers: 0,
        repeated,
    })
}

/// A guard that holds as long as nobody has written the row since it was read.
fn unchanged(key: RowKey, row: Option<&Row>) -> Guard {
    match row {
        Some(row) => Guard::Version(key, row.version),
        None => Guard::Absent(key),
    }
}

/// Reads a runtime at a glance, from its owner or beside it.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub(crate) async fn summary(
    store: &dyn runtime_store::Store,
) -> Result<RuntimeSummary, RuntimeError> {
    let settings = match store.row(&key("settings")).await? {
        Some(row) => crate::view::decode(&row)?,
        None => Settings::default(),
    };
    let status = match store.row(&status_key()).await? {
        Some(row) => crate::view::decode::<StatusRecord>(&row)?.status,
        None => RuntimeStatus::Running,
    };
    let mut workers = WorkerCounts::default();
    crate::view::each_row(
        store,
        RowQuery::space("worker"),
        |record: WorkerRecord| match record.status {
            WorkerStatus::Running => workers.running += 1,
            WorkerStatus::Stopped => workers.stopped += 1,
            WorkerStatus::Cancelled => workers.cancelled += 1,
            WorkerStatus::Deleted => workers.deleted += 1,
        },
    )
    .await?;
    let mut diagnostics = 0;
    let query = RowQuery::space(DIAGNOSTIC_SPACE);
    crate::view::each_row(store, query, |_: Diagnostic| diagnostics += 1).await?;
    let capabilities = store.capabilities();
    Ok(RuntimeSummary {
        id: store.identity().runtime.clone(),
        display_name: settings.display_name,
        tier: capabilities.tier,
        shared_by_processes: capabilities.shared_by_processes,
        status,
        workers,
        diagnostics,
        limits: settings.limits,
    })
}
