//! Reading processes, from the owner of a store or beside it.

use std::sync::Arc;

use runtime_core::{ExecutionScope, ProcessId, ProcessOutcome, ProcessRegistration, ProcessStatus};
use runtime_effects::{
    Grant, GrantFilter, PendingEffect, ProcessError, ProcessLimits, ProcessRecord, ProcessView,
    StoreEffectHost,
};
use runtime_store::{Page, Store};
use serde::Serialize;

use crate::RuntimeError;
use crate::view::reading_host;

/// Lists the processes of some statuses, in the order of the statuses and of their ids.
///
/// # Errors
/// [`RuntimeError`] when the store cannot be read.
pub async fn processes(
    store: Arc<dyn Store>,
    statuses: &[ProcessStatus],
) -> Result<Vec<ProcessRecord>, RuntimeError> {
    let limit = store.capabilities().limits.page_entries_max;
    let processes = reading_host(store)
        .processes(ProcessLimits::default())
        .await?;
    let mut listed = Vec::new();
    for status in statuses {
        let mut after = None;
        loop {
            let page = processes.list(*status, Page::after(after, limit)).await;
            let page = page.map_err(|error| RuntimeError::from_part(&error))?;
            listed.extend(page.processes);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(listed)
}

/// A process as a person looks at it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessDetail {
    /// Where it stands.
    pub record: ProcessRecord,
    /// What it was registered as.
    pub registration: ProcessRegistration,
    /// How it ended, if it has.
    pub outcome: Option<ProcessOutcome>,
    /// Who holds it, or held it.
    pub grants: Vec<Grant>,
    /// What it spawned.
    pub children: Vec<ProcessId>,
    /// What it waits for.
    pub waits: Vec<PendingEffect>,
}

/// Reads everything that is kept of a process.
///
/// # Errors
/// `process_not_found`, or when the store cannot be read.
pub async fn process(
    store: Arc<dyn Store>,
    process: &ProcessId,
) -> Result<ProcessDetail, RuntimeError> {
    let host = reading_host(store);
    let processes = host.processes(ProcessLimits::default()).await?;
    let part = |error: ProcessError| RuntimeError::from_part(&error);
    let view = process_view(&host, process).await?;
    let scope = ExecutionScope::Process {
        process: process.clone(),
    };
    let mut waits = Vec::new();
    let mut after = None;
    loop {
        let page = host
            .pending_of(&scope.scope_id(), Page::after(after, PENDING_PAGE))
            .await?;
        waits.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(ProcessDetail {
        record: view.record,
        registration: view.registration,
        outcome: view.outcome,
        grants: processes
            .grants(process, GrantFilter::All)
            .await
            .map_err(part)?,
        children: processes.children(process).await.map_err(part)?,
        waits,
    })
}

pub(crate) async fn process_view(
    host: &StoreEffectHost,
    process: &ProcessId,
) -> Result<ProcessView, RuntimeError> {
    let processes = host.processes(ProcessLimits::default()).await?;
    let view = processes.get(process).await;
    view.map_err(|error| RuntimeError::from_part(&error))
}

/// How many waits are read at once.
const PENDING_PAGE: usize = 64;
