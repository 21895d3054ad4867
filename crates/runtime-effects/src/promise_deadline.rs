//! Deadlines that a promise carries itself: they settle it, for every waiter (E11).
//!
//! Nobody has to be there when the time comes: whoever looks at the promise after it, resolves it
//! or waits for it settles it first. [`AwaitEvents::settle_due`] does so for those who are parked.

use runtime_core::{
    CanonicalEncoder, CommitId, EventDraft, EventKind, ExecutionScope, Resolution, ScopeId,
    Timestamp, WaitIdentity,
};
use runtime_store::{
    Commit, CommitError, Guard, NewEvent, Page, ReadError, Row, RowChange, RowKey, RowQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::promise::{
    AwaitEvents, ResolveError, check_identity, event_id, is_owner_revoked, promise_key,
    public_name, settled_row,
};
use crate::store_host::Shared;

/// The space of promises with a deadline of their own, by public name.
const DEADLINE_SPACE: &str = "promise_deadline";

/// When a promise settles by itself, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromiseDeadline {
    /// When.
    pub at: Timestamp,
    /// How: [`Resolution::Timeout`], or what its owner would have said by then.
    pub resolution: Resolution,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeadlineRow {
    schema: u16,
    identity: WaitIdentity,
    #[serde(flatten)]
    deadline: PromiseDeadline,
}

impl AwaitEvents {
    /// Lets a promise settle by itself at a time, unless it is resolved or revoked before. The
    /// first deadline of a promise stands; says whether this is it.
    ///
    /// # Errors
    /// [`ResolveError`]; [`ResolveError::Unknown`] when the scope of the promise is not there, or
    /// it is settled or revoked already.
    pub async fn settle_at(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
        deadline: &PromiseDeadline,
    ) -> Result<bool, ResolveError> {
        let unknown = || ResolveError::Unknown {
            scope: scope.scope_id(),
        };
        check_identity(identity).map_err(|_| unknown())?;
        self.check_size(&deadline.resolution)?;
        let (shared, id) = (&*self.shared, scope.scope_id());
        let name = public_name(&shared.store.identity().runtime, &id, identity);
        let epoch_key = RowKey::epoch(id.clone());
        let Some(epoch) = shared.store.row(&epoch_key).await? else {
            return Err(unknown());
        };
        let key = deadline_key(&id, &name);
        if shared.store.row(&key).await?.is_some() {
            return Ok(false);
        }
        if is_owner_revoked(shared, scope).await? {
            return Err(unknown());
        }
        let row = DeadlineRow {
            schema: 1,
            identity: identity.clone(),
            deadline: deadline.clone(),
        };
        let put = RowChange::Put {
            key: key.clone(),
            body: serde_json::to_vec(&row)
                .expect("a deadline is plain data")
                .into(),
            event: None,
            due: Some(deadline.at),
        };
        let commit = Commit::new(self.fresh_id(), shared.clock.now())
            .guard(Guard::Version(epoch_key, epoch.version))
            .guard(Guard::Absent(promise_key(&id, &name)))
            .guard(Guard::Absent(key.clone()))
            .row(put);
        match shared.commit(commit).await {
            Ok(_) => Ok(true),
            Err(CommitError::Rejected { .. }) => match shared.store.row(&key).await? {
                Some(_) => Ok(false),
                None => Err(unknown()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Settles promises whose own deadline was at `until` or before, at most `limit`, and wakes
    /// who waits for them; says how many. Whoever drives turns or processes calls it now and then.
    ///
    /// # Errors
    /// [`ResolveError`]: some may be settled.
    pub async fn settle_due(&self, until: Timestamp, limit: usize) -> Result<usize, ResolveError> {
        let query = RowQuery::Due {
            space: DEADLINE_SPACE.into(),
            until,
        };
        let due = self
            .shared
            .store
            .rows(query, Page::after(None, limit))
            .await?;
        let mut settled = 0;
        for row in &due.rows {
            settled += usize::from(settle(&self.shared, row).await?);
        }
        Ok(settled)
    }
}

/// Settles a promise whose own deadline has passed; does nothing before, or without one.
pub(crate) async fn settle_if_due(
    shared: &Shared,
    scope: &ScopeId,
    name: &str,
) -> Result<(), ResolveError> {
    let row = shared.store.row(&deadline_key(scope, name)).await?;
    match row {
        Some(row) if row.due.is_some_and(|due| due <= shared.clock.now()) => {
            settle(shared, &row).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// When a promise settles by itself, if it does.
pub(crate) async fn deadline_of(
    shared: &Shared,
    scope: &ScopeId,
    name: &str,
) -> Result<Option<Timestamp>, ReadError> {
    let row = shared.store.row(&deadline_key(scope, name)).await?;
    Ok(row.and_then(|row| row.due))
}

async fn settle(shared: &Shared, row: &Row) -> Result<bool, ResolveError> {
    let (scope, name) = (&row.key.scope, &*row.key.name);
    let corrupt = |reason: &dyn std::fmt::Display| ReadError::Corrupt {
        what: format!("deadline of {name}: {reason}"),
    };
    let deadline: DeadlineRow =
        serde_json::from_slice(&row.body).map_err(|error| corrupt(&error))?;
    let owner = ExecutionScope::from_scope_id(scope).map_err(|error| corrupt(&error))?;
    let forget = Commit::new(shared_id(shared), shared.clock.now())
        .guard(Guard::Version(row.key.clone(), row.version))
        .row(RowChange::Delete(row.key.clone()));
    if is_owner_revoked(shared, &owner).await? {
        return forgotten(shared, forget).await;
    }
    let id = CommitId::derived(
        CanonicalEncoder::new("promise-deadline")
            .text(scope.as_str())
            .text(name),
    );
    let draft = EventDraft::new(EventKind::PromiseResolved)
        .in_scope(&owner)
        .with_payload(json!({
            "promise": name, "identity": deadline.identity,
            "resolution": deadline.deadline.resolution, "deadline": deadline.deadline.at,
        }));
    let commit = Commit::new(id, shared.clock.now())
        .guard(Guard::Version(row.key.clone(), row.version))
        .guard(Guard::Absent(promise_key(scope, name)))
        .row(settled_row(scope, name, 0))
        .row(RowChange::Delete(row.key.clone()))
        .event(NewEvent::from_draft(event_id(id), &draft));
    match shared.commit(commit).await {
        Ok(_) => {
            shared.registry.wake(&(scope.clone(), name.to_owned()));
            Ok(true)
        }
        // Resolved, revoked or retired: there is nothing to settle.
        Err(CommitError::Rejected { .. }) => forgotten(shared, forget).await,
        Err(error) => Err(error.into()),
    }
}

async fn forgotten(shared: &Shared, forget: Commit) -> Result<bool, ResolveError> {
    match shared.commit(forget).await {
        Ok(_) | Err(CommitError::Rejected { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn shared_id(shared: &Shared) -> CommitId {
    let time = shared.store.id_time(shared.clock.now());
    CommitId::generate(time, shared.random.ten())
}

fn deadline_key(scope: &ScopeId, name: &str) -> RowKey {
    RowKey::new(DEADLINE_SPACE, scope.clone(), name)
}

/// What a resolution changes besides: there is nothing left to settle.
pub(crate) fn forgets_deadline(scope: &ScopeId, name: &str) -> RowChange {
    RowChange::Delete(deadline_key(scope, name))
}
