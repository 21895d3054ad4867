//! The processes of a runtime: register, start, read, hold.

use std::sync::Arc;

use runtime_core::{
    CommitId, EventKind, InstanceId, ProcessId, ProcessListing, ProcessOutcome,
    ProcessRegistration, ProcessStatus, ScopeId, SessionDeletion, SessionId,
};
use runtime_store::{
    Commit, CommitError, Committed, Epoch, Found, Page, ReadError, RowKey, RowQuery,
};

use super::grants::Grants;
use super::plan::{self, Versioned, VersionedGrants};
use super::record::{
    HELD_SPACE, grants_key, held_scope, process_key, process_of, process_scope, recorded_outcome,
    recorded_registration, registration_key, retired_key, status_space,
};
use super::schema::{check_registration, check_size};
use super::{Grant, GrantFilter, ProcessError, ProcessLimits, ProcessListener, ProcessRecord};
use crate::AwaitEvents;
use crate::store_host::Shared;

/// The processes of a runtime. Cloning gives another handle to the same.
///
/// Every operation is one commit, and repeating it changes nothing.
#[derive(Debug, Clone)]
pub struct Processes {
    pub(crate) shared: Arc<Shared>,
    pub(crate) promises: AwaitEvents,
    pub(crate) limits: ProcessLimits,
}

/// The right to act in the name of a process: its epoch, the only fence (E5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessClaim {
    /// The process.
    pub process: ProcessId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The instance that drives it, on a store that instances share.
    pub instance: Option<InstanceId>,
}

/// What registering or starting a process did.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessStart {
    /// The process after it.
    pub record: ProcessRecord,
    /// It had been done before; nothing was written now.
    pub repeated: bool,
}

/// Everything that is kept of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessView {
    /// Where it stands.
    pub record: ProcessRecord,
    /// What it was registered as.
    pub registration: ProcessRegistration,
    /// How it ended, if it has.
    pub outcome: Option<ProcessOutcome>,
}

/// A page of processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessPage {
    /// In the order of their ids.
    pub processes: Vec<ProcessRecord>,
    /// Go on after this one, if there is more.
    pub next: Option<ProcessId>,
}

impl Processes {
    pub(crate) async fn open(
        shared: Arc<Shared>,
        limits: ProcessLimits,
    ) -> Result<Self, ReadError> {
        Ok(Self {
            promises: AwaitEvents::open(Arc::clone(&shared)).await?,
            shared,
            limits,
        })
    }

    /// Lets a listener hear of what happens to processes, as long as it lives.
    pub fn listen(&self, listener: &Arc<dyn ProcessListener>) {
        self.shared.registry.listeners.add(listener);
    }

    /// Registers a process without starting it. Repeating it does nothing.
    ///
    /// # Errors
    /// [`ProcessError::Conflict`] when the id has another registration,
    /// [`ProcessError::Retired`], and what is wrong with the registration.
    pub async fn register(
        &self,
        registration: &ProcessRegistration,
    ) -> Result<ProcessStart, ProcessError> {
        self.begin(registration, None, false).await
    }

    /// Registers a process, lets a session hold it, and starts it: one commit. Repeating it does
    /// nothing; a process that was only registered is started.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub async fn start(
        &self,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
    ) -> Result<ProcessStart, ProcessError> {
        let start = self.begin(registration, owner, true).await?;
        if !start.repeated {
            self.announce_start(&registration.process);
        }
        Ok(start)
    }

    /// Adds to a commit of somebody else what starts a process, so that both happen or neither.
    /// Gives the commit as it was, and false, when the process has started before.
    ///
    /// When the commit has happened, call [`announce_start`](Self::announce_start); when it was
    /// rejected, decide anew.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub async fn start_in(
        &self,
        commit: Commit,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
    ) -> Result<(Commit, bool), ProcessError> {
        check_registration(registration, &self.limits)?;
        let found = self.same(registration).await?;
        match self
            .start_commit(commit.clone(), registration, owner, found)
            .await?
        {
            Ok(extended) => Ok((extended, true)),
            Err(_) => Ok((commit, false)),
        }
    }

    /// Tells the listeners of a process that started by [`start_in`](Self::start_in).
    pub fn announce_start(&self, process: &ProcessId) {
        let listeners = &self.shared.registry.listeners;
        listeners.tell(|listener| listener.process_started(process));
    }

    /// Starts what a process spawned, held by whoever owns that one.
    pub(crate) async fn start_child(
        &self,
        parent: &ProcessId,
        registration: &ProcessRegistration,
    ) -> Result<ProcessStart, ProcessError> {
        let grants = self.versioned_grants(parent).await?.grants;
        self.start(registration, grants.owner()).await
    }

    async fn begin(
        &self,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
        scheduled: bool,
    ) -> Result<ProcessStart, ProcessError> {
        check_registration(registration, &self.limits)?;
        let process = &registration.process;
        for _ in 0..self.limits.contention_tries_max {
            let found = self.same(registration).await?;
            let commit = self.fresh(None);
            let commit = match (found, scheduled) {
                (Some(found), false) => return Ok(repeated(found)),
                (None, false) => plan::register(commit, registration, None)?,
                (found, true) => {
                    match self
                        .start_commit(commit, registration, owner, found)
                        .await?
                    {
                        Ok(commit) => commit,
                        Err(found) => return Ok(repeated(found)),
                    }
                }
            };
            match self.shared.commit(commit).await {
                Ok(_) => {
                    let record = self.versioned(process).await?.record;
                    let repeated = false;
                    return Ok(ProcessStart { record, repeated });
                }
                // Its tombstone is gone, but its events are kept, and their stream is closed.
                Err(CommitError::Rejected {
                    found: Found::Closed,
                    ..
                }) => {
                    return Err(ProcessError::Retired {
                        process: process.clone(),
                    });
                }
                Err(CommitError::Rejected { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.contended(process))
    }

    /// What starts a process that was found so, or the process if it has started.
    async fn start_commit(
        &self,
        commit: Commit,
        registration: &ProcessRegistration,
        owner: Option<&SessionId>,
        found: Option<Versioned>,
    ) -> Result<Result<Commit, Versioned>, ProcessError> {
        let process = &registration.process;
        let mut commit = match found {
            None => plan::register(commit, registration, Some(&self.shared.lease))?,
            Some(found) if found.record.status == ProcessStatus::Registered => {
                plan::schedule(commit, &found, &self.shared.lease)?
            }
            Some(found) => return Ok(Err(found)),
        };
        if let Some(owner) = owner {
            let grants = self.versioned_grants(process).await?;
            if !grants.grants.holds(owner) {
                commit = plan::grant(commit, process, &grants, owner);
            }
        }
        Ok(Ok(commit))
    }

    /// Reads a process of that registration; none if there is no process of that id.
    async fn same(
        &self,
        registration: &ProcessRegistration,
    ) -> Result<Option<Versioned>, ProcessError> {
        let process = &registration.process;
        match self.find(process).await? {
            Some(found) if found.record.registration == registration.digest() => Ok(Some(found)),
            Some(_) => Err(ProcessError::Conflict {
                process: process.clone(),
            }),
            None => match self.shared.store.row(&retired_key(process)).await? {
                None => Ok(None),
                Some(_) => Err(ProcessError::Retired {
                    process: process.clone(),
                }),
            },
        }
    }

    /// Reads what is kept of a process.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`].
    pub async fn get(&self, process: &ProcessId) -> Result<ProcessView, ProcessError> {
        let not_found = || ProcessError::NotFound {
            process: process.clone(),
        };
        let row = self.shared.store.row(&process_key(process)).await?;
        let row = row.ok_or_else(not_found)?;
        let record = ProcessRecord::decode(&row)?;
        let outcome = match record.status.is_ended() {
            true => Some(recorded_outcome(&row)?),
            false => None,
        };
        let registration = self.shared.store.row(&registration_key(process)).await?;
        let registration = recorded_registration(&registration.ok_or_else(not_found)?)?;
        Ok(ProcessView {
            record,
            registration,
            outcome,
        })
    }

    /// Lists the processes of one status, a page at a time.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn list(
        &self,
        status: ProcessStatus,
        page: Page<Option<ProcessId>>,
    ) -> Result<ProcessPage, ProcessError> {
        let space = status_space(status);
        let key = |process: ProcessId| RowKey::new(&space, process_scope(&process).scope_id(), "");
        let page = Page::after(page.after.map(key), page.limit);
        let rows = self
            .shared
            .store
            .rows(RowQuery::space(&space), page)
            .await?;
        let mut processes = Vec::with_capacity(rows.rows.len());
        for row in &rows.rows {
            // It may have moved on since the index was read.
            if let Some(process) = process_of(&row.key.scope)
                && let Some(found) = self.find(&process).await?
                && found.record.status == status
            {
                processes.push(found.record);
            }
        }
        let next = rows.next.and_then(|key| process_of(&key.scope));
        Ok(ProcessPage { processes, next })
    }

    /// Lets a session hold a process. The first to hold what nobody owns owns it. Says whether
    /// that is new.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`], [`ProcessError::TooLarge`].
    pub async fn grant(
        &self,
        process: &ProcessId,
        session: &SessionId,
    ) -> Result<bool, ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            self.versioned(process).await?;
            let before = self.versioned_grants(process).await?;
            if before.grants.holds(session) {
                return Ok(false);
            }
            let known = before
                .grants
                .0
                .iter()
                .any(|grant| grant.session == *session);
            if !known {
                let count = before.grants.0.len() + 1;
                check_size("list of grants", count, self.limits.grants_max)?;
            }
            let commit = plan::grant(self.fresh(None), process, &before, session);
            if self.contend(commit).await?.is_some() {
                return Ok(true);
            }
        }
        Err(self.contended(process))
    }

    /// Ends a session's hold on a process; says whether there was one.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`].
    pub async fn revoke(
        &self,
        process: &ProcessId,
        session: &SessionId,
    ) -> Result<bool, ProcessError> {
        self.revoke_from(process, session, false).await
    }

    /// Revokes a grant; that of a deleted session stays in the index, so that repeating the
    /// deletion gives the same report.
    async fn revoke_from(
        &self,
        process: &ProcessId,
        session: &SessionId,
        deleted: bool,
    ) -> Result<bool, ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            self.versioned(process).await?;
            let before = self.versioned_grants(process).await?;
            let mut after = before.grants.clone();
            let commit = self.fresh(None);
            if !after.revoke(session, commit.time) {
                return Ok(false);
            }
            let kind = EventKind::ProcessGrantRevoked;
            let event = plan::grant_event(session, kind, process, None);
            let commit = plan::with_event(commit, &event);
            let mut commit = plan::write_grants(commit, process, &before, &after);
            if !deleted {
                commit = plan::let_go(commit, session, process);
            }
            if self.contend(commit).await?.is_some() {
                return Ok(true);
            }
        }
        Err(self.contended(process))
    }

    /// Gives a session's hold on a process, and whether it owns it, to another session. Says
    /// whether that is new: repeating it does nothing while the other one holds it.
    ///
    /// # Errors
    /// [`ProcessError::NotGranted`] when neither holds it.
    pub async fn transfer(
        &self,
        process: &ProcessId,
        from: &SessionId,
        to: &SessionId,
    ) -> Result<bool, ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            self.versioned(process).await?;
            let before = self.versioned_grants(process).await?;
            let mut after = before.grants.clone();
            let commit = self.fresh(None);
            if from == to && before.grants.holds(to) {
                return Ok(false);
            }
            if !after.transfer(from, to, commit.time) {
                return match before.grants.holds(to) {
                    true => Ok(false),
                    false => Err(ProcessError::NotGranted {
                        process: process.clone(),
                        session: from.clone(),
                    }),
                };
            }
            let count = after.0.len();
            check_size("list of grants", count, self.limits.grants_max)?;
            let kind = EventKind::ProcessGrantTransferred;
            let event = plan::grant_event(from, kind, process, Some(to));
            let commit = plan::with_event(commit, &event);
            let event = plan::grant_event(to, EventKind::ProcessGranted, process, None);
            let commit = plan::with_event(commit, &event);
            let commit = plan::write_grants(commit, process, &before, &after);
            let commit = plan::let_go(commit, from, process);
            let commit = plan::hold(commit, to, process);
            if self.contend(commit).await?.is_some() {
                return Ok(true);
            }
        }
        Err(self.contended(process))
    }

    /// Lists who holds a process, the oldest grant first.
    ///
    /// # Errors
    /// [`ProcessError::NotFound`].
    pub async fn grants(
        &self,
        process: &ProcessId,
        filter: GrantFilter,
    ) -> Result<Vec<Grant>, ProcessError> {
        self.versioned(process).await?;
        let Grants(grants) = self.versioned_grants(process).await?.grants;
        let listed = grants
            .into_iter()
            .filter(|grant| filter == GrantFilter::All || grant.is_live());
        Ok(listed.collect())
    }

    /// Lists what a session holds now, in the order of ids.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn held_by(&self, session: &SessionId) -> Result<Vec<ProcessListing>, ProcessError> {
        let mut listed = Vec::new();
        for process in self.ever_held_by(session).await? {
            let grants = self.versioned_grants(&process).await?.grants;
            if let Some(found) = self.find(&process).await?
                && grants.holds(session)
            {
                listed.push(ProcessListing {
                    process,
                    title: found.record.title,
                    status: found.record.status,
                });
            }
        }
        Ok(listed)
    }

    /// Revokes every grant of a session, and ends its subscriptions. It ends no process; a process that is bound to its owner
    /// and that no session holds any more is asked to end, as it is disposed to.
    ///
    /// Repeating it gives the same report, as long as nobody else changes the grants.
    ///
    /// # Errors
    /// [`ProcessError`]; what was revoked so far stays revoked: repeat it.
    pub async fn delete_session(
        &self,
        session: &SessionId,
    ) -> Result<SessionDeletion, ProcessError> {
        let mut report = SessionDeletion::default();
        for process in self.ever_held_by(session).await? {
            match self.revoke_from(&process, session, true).await {
                Ok(_) => {}
                // It was retired in between.
                Err(ProcessError::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            }
            let grants = self.versioned_grants(&process).await?.grants;
            let orphaned = grants.live().next().is_none();
            if orphaned {
                self.dispose_of_orphan(&process).await?;
                report.orphaned.push(process.clone());
            } else {
                report.preserved.push(process.clone());
            }
            report.revoked.push(process);
        }
        self.end_subscriptions(session).await?;
        Ok(report)
    }

    /// The processes that a session holds or held, in the order of ids.
    async fn ever_held_by(&self, session: &SessionId) -> Result<Vec<ProcessId>, ProcessError> {
        Ok(held_processes(&self.shared, session).await?)
    }

    /// Says whether other processes of the operating system may write to the store.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.store.capabilities().shared_by_processes
    }

    /// Says whether this instance drives what it drives under a lease.
    pub(crate) fn is_leased(&self) -> bool {
        self.shared.lease.is_needed()
    }

    pub(crate) fn page_entries(&self) -> usize {
        self.shared.store.capabilities().limits.page_entries_max
    }

    /// Starts a commit; under the id of the command that asks for it, if one does.
    pub(crate) fn fresh(&self, command: Option<CommitId>) -> Commit {
        let shared = &self.shared;
        match command {
            Some(id) => Commit::new(id, shared.clock.now()),
            None => Commit::fresh(&*shared.store, &*shared.clock, &*shared.random),
        }
    }

    /// Commits; none when a guard found that another commit came first.
    pub(crate) async fn contend(&self, commit: Commit) -> Result<Option<Committed>, ProcessError> {
        match self.shared.commit(commit).await {
            Ok(committed) => Ok(Some(committed)),
            Err(CommitError::Rejected { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn contended(&self, process: &ProcessId) -> ProcessError {
        ProcessError::Contended {
            process: process.clone(),
        }
    }

    pub(crate) async fn find(
        &self,
        process: &ProcessId,
    ) -> Result<Option<Versioned>, ProcessError> {
        let Some(row) = self.shared.store.row(&process_key(process)).await? else {
            return Ok(None);
        };
        Ok(Some(Versioned {
            record: ProcessRecord::decode(&row)?,
            version: row.version,
        }))
    }

    pub(crate) async fn versioned(&self, process: &ProcessId) -> Result<Versioned, ProcessError> {
        let found = self.find(process).await?;
        found.ok_or_else(|| ProcessError::NotFound {
            process: process.clone(),
        })
    }

    pub(crate) async fn versioned_grants(
        &self,
        process: &ProcessId,
    ) -> Result<VersionedGrants, ProcessError> {
        let row = self.shared.store.row(&grants_key(process)).await?;
        Ok(VersionedGrants {
            grants: Grants::decode(row.as_ref())?,
            version: row.map(|row| row.version),
        })
    }
}

fn repeated(found: Versioned) -> ProcessStart {
    ProcessStart {
        record: found.record,
        repeated: true,
    }
}

/// Lists what a session holds, or held.
pub(crate) async fn held_processes(
    shared: &Shared,
    session: &SessionId,
) -> Result<Vec<ProcessId>, ReadError> {
    let held = keys_of(shared, HELD_SPACE, held_scope(session)).await?;
    Ok(held
        .iter()
        .filter_map(|key| key.name.parse().ok())
        .collect())
}

/// Lists all rows of a scope in a space, page by page, in the order of their names.
pub(crate) async fn keys_of(
    shared: &Shared,
    space: &str,
    scope: ScopeId,
) -> Result<Vec<RowKey>, ReadError> {
    let limit = shared.store.capabilities().limits.page_entries_max;
    let query = RowQuery::scope(space, scope);
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = Page::after(after, limit);
        let page = shared.store.rows(query.clone(), page).await?;
        keys.extend(page.rows.into_iter().map(|row| row.key));
        after = page.next;
        if after.is_none() {
            return Ok(keys);
        }
    }
}

/// Reads the grants of a process, the ended ones too.
pub(crate) async fn grants_of(
    shared: &Shared,
    process: &ProcessId,
) -> Result<Vec<Grant>, ReadError> {
    let row = shared.store.row(&grants_key(process)).await?;
    let Grants(grants) = Grants::decode(row.as_ref()).map_err(ReadError::from)?;
    Ok(grants)
}
