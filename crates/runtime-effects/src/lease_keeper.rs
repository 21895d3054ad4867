//! Keeping one's own lease and looking at those of the others (E5).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime_core::{
    Clock, EventDraft, EventId, EventKind, ExecutionScope, InstanceId, Random, ScopeId,
};
use runtime_store::{
    Commit, CommitError, Epoch, Guard, NewEvent, Page, ReadError, Row, RowChange, RowKey, RowQuery,
    Store,
};
use serde_json::json;

use crate::lease::{
    HELD_SPACE, LEASE_SPACE, LIVING, LeaseRow, LeaseState, Observations, SeenLease, crash_key,
    crashes_of, held_key, instance_scope, lease_key,
};
use crate::{Lease, LeaseConfig, LeaseError};

/// The epoch of an instance that was declared dead or left.
const DEAD: Epoch = Epoch(2);

/// Keeps the lease of this instance and looks at those of the others. It has no tasks: whoever
/// owns it calls [`beat`](Self::beat) and [`look`](Self::look) as often as its configuration says.
#[derive(Debug)]
pub struct LeaseKeeper {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    config: LeaseConfig,
    lease: Lease,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    peers: Observations,
    /// What this instance was called before it lost its lease: certainly dead.
    abandoned: Vec<InstanceId>,
}

/// What a beat did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The lease is prolonged.
    Renewed,
    /// There was none; this instance has one under a new name. What it drove under an earlier
    /// name is taken over like that of any dead instance.
    Registered,
}

/// Scopes that a dead instance held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldPage {
    /// The scopes.
    pub scopes: Vec<ScopeId>,
    /// Go on after this row, if there is more.
    pub next: Option<RowKey>,
}

impl LeaseKeeper {
    /// Makes the keeper of an instance that has no lease yet.
    ///
    /// # Errors
    /// [`LeaseError::Config`].
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        config: LeaseConfig,
    ) -> Result<Self, LeaseError> {
        config.check()?;
        Ok(Self {
            lease: Lease::new(Arc::clone(&clock), config.margin),
            store,
            clock,
            random,
            config,
            seen: Mutex::default(),
        })
    }

    /// Returns the lease, for a host and for commits that open scopes.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Returns the terms.
    #[must_use]
    pub const fn config(&self) -> &LeaseConfig {
        &self.config
    }

    /// Renews the lease; registers anew when there is none, or it was renewed too late.
    ///
    /// # Errors
    /// [`LeaseError::Commit`]: the lease is as it was and runs out by itself; try again.
    ///
    /// # Cancel safety
    /// As for [`Store::commit`].
    pub async fn beat(&self) -> Result<Beat, LeaseError> {
        if let Some(instance) = self.lease.instance() {
            // Counted from before the commit, so that the holder stops before anybody else may
            // take it for dead.
            let until = self.clock.monotonic().saturating_add(self.config.ttl);
            let row = LeaseRow::new(self.config.ttl, LeaseState::Live);
            let commit = self
                .new_commit()
                .owned_by(instance_scope(&instance), LIVING)
                .row(RowChange::put(lease_key(&instance), row.to_bytes()));
            match self.store.commit(commit).await {
                Ok(_) if self.lease.renewed(&instance, until) => return Ok(Beat::Renewed),
                // Too late for those who looked at the clock meanwhile; or declared dead.
                Ok(_) | Err(CommitError::Fenced) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.fenced();
        self.register().await?;
        Ok(Beat::Registered)
    }

    /// Notes that a commit in the name of this instance was fenced: somebody declared it dead.
    /// The next beat registers anew.
    pub fn fenced(&self) {
        if let Some(lost) = self.lease.lost() {
            self.seen().abandoned.push(lost);
        }
    }

    /// How long to wait until the next beat.
    #[must_use]
    pub fn pause(&self, beat: &Result<Beat, LeaseError>) -> Duration {
        match beat {
            Ok(_) => self.config.renew_every,
            Err(_) => self.config.renew_every / 6,
        }
    }

    async fn register(&self) -> Result<(), LeaseError> {
        let now = self.clock.now();
        let instance = InstanceId::generate(now, self.random.ten());
        let until = self.clock.monotonic().saturating_add(self.config.ttl);
        let epoch = RowKey::epoch(instance_scope(&instance));
        let row = LeaseRow::new(self.config.ttl, LeaseState::Live);
        let commit = self
            .new_commit()
            .guard(Guard::Absent(epoch.clone()))
            .row(RowChange::put(epoch, Vec::new()))
            .row(RowChange::put(lease_key(&instance), row.to_bytes()));
        self.store.commit(commit).await?;
        self.lease.granted(instance, until);
        Ok(())
    }

    /// Looks at all leases, declares those dead that ran out, and returns the dead whose scopes
    /// are not all taken over.
    ///
    /// # Errors
    /// [`LeaseError`]; look again.
    pub async fn look(&self) -> Result<Vec<InstanceId>, LeaseError> {
        let rows = self.all(RowQuery::space(LEASE_SPACE)).await?;
        let now = self.clock.monotonic();
        let registered = self.lease.registered();
        let mut dead = Vec::new();
        let mut peers = Vec::new();
        let mut lost = Vec::new();
        for row in &rows {
            let (instance, lease) = decode(row)?;
            let is_abandoned = self.seen().abandoned.contains(&instance);
            let seen = SeenLease {
                ttl: Duration::from_millis(lease.ttl_ms),
                version: row.version,
                instance,
            };
            match lease.state {
                LeaseState::Expired | LeaseState::Closed => dead.push(seen.instance),
                LeaseState::Live if is_abandoned => lost.push(seen),
                LeaseState::Live if registered.as_ref() == Some(&seen.instance) => {}
                LeaseState::Live => peers.push(seen),
            }
        }
        let expired = self.seen().peers.observe(now, peers);
        for lease in expired.into_iter().chain(lost) {
            if self.declare_dead(&lease).await? {
                dead.push(lease.instance);
            }
        }
        Ok(dead)
    }

    /// Declares an instance dead; says false when it was not, after all.
    async fn declare_dead(&self, lease: &SeenLease) -> Result<bool, LeaseError> {
        let instance = &lease.instance;
        let told = EventDraft::new(EventKind::InstanceExpired)
            .with_payload(json!({ "instance": instance, "by": self.lease.registered() }));
        let event = EventId::generate(self.clock.now(), self.random.ten());
        let commit = self
            .ending(instance, lease.ttl, LeaseState::Expired)
            // Renewed in between, it lives.
            .guard(Guard::Version(lease_key(instance), lease.version))
            .guard(Guard::Version(epoch_key(instance), LIVING.0))
            .event(NewEvent::from_draft(event, &told));
        match self.store.commit(commit).await {
            Ok(_) => Ok(true),
            Err(CommitError::Rejected { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The end of an instance: the next epoch, and a lease row that says so.
    fn ending(&self, instance: &InstanceId, ttl: Duration, state: LeaseState) -> Commit {
        let row = LeaseRow::new(ttl, state);
        self.new_commit()
            .row(RowChange::put(epoch_key(instance), Vec::new()))
            .row(RowChange::put(lease_key(instance), row.to_bytes()))
    }

    /// Returns the scopes that a dead instance held and nobody has taken over yet, a page at a
    /// time.
    ///
    /// # Errors
    /// [`LeaseError::Read`].
    pub async fn held_by(
        &self,
        dead: &InstanceId,
        after: Option<RowKey>,
    ) -> Result<HeldPage, LeaseError> {
        let query = RowQuery::scope(HELD_SPACE, instance_scope(dead));
        let limit = self.store.capabilities().limits.page_entries_max;
        let page = self.store.rows(query, Page::after(after, limit)).await?;
        let scopes = page.rows.iter().map(|row| {
            ScopeId::new(&*row.key.name).map_err(|error| ReadError::Corrupt {
                what: format!("held row {} of {}: {error}", row.key.name, row.key.scope),
            })
        });
        Ok(HeldPage {
            scopes: scopes.collect::<Result<_, _>>()?,
            next: page.next,
        })
    }

    /// Says whether a scope is still held by this dead instance, and not ended, parked, or taken
    /// over by somebody else; forgets its note if not.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn is_orphan(&self, dead: &InstanceId, scope: &ScopeId) -> Result<bool, LeaseError> {
        let key = RowKey::epoch(scope.clone());
        let row = self.store.row(&key).await?;
        let guard = match row {
            Some(row) if Lease::holder(&row).as_ref() == Some(dead) => return Ok(true),
            Some(row) => Guard::Version(key, row.version),
            None => Guard::Absent(key),
        };
        let commit = self
            .new_commit()
            .guard(guard)
            .row(RowChange::Delete(held_key(dead, scope)));
        match self.store.commit(commit).await {
            // Opened by somebody in between: not an orphan either; the note goes next time.
            Ok(_) | Err(CommitError::Rejected { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the other instances that nobody has declared dead and that did not leave: those
    /// that live, and those that died since somebody looked for long enough.
    ///
    /// # Errors
    /// [`LeaseError::Read`].
    pub async fn living(&self) -> Result<Vec<InstanceId>, LeaseError> {
        let registered = self.lease.registered();
        let mut living = Vec::new();
        for row in self.all(RowQuery::space(LEASE_SPACE)).await? {
            let (instance, lease) = decode(&row)?;
            if lease.state == LeaseState::Live && registered.as_ref() != Some(&instance) {
                living.push(instance);
            }
        }
        Ok(living)
    }

    /// Says whether an instance that is not buried yet was declared dead: it did not give its
    /// lease back.
    ///
    /// # Errors
    /// [`LeaseError::Read`].
    pub async fn has_expired(&self, dead: &InstanceId) -> Result<bool, LeaseError> {
        let row = self.store.row(&lease_key(dead)).await?;
        let lease = row.as_ref().map(decode).transpose()?;
        Ok(lease.is_some_and(|(_, lease)| lease.state == LeaseState::Expired))
    }

    /// Forgets a dead instance that holds nothing any more; says whether it did.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn bury(&self, dead: &InstanceId) -> Result<bool, LeaseError> {
        // A dead instance opens nothing, so what is not there now does not come.
        if !self.held_by(dead, None).await?.scopes.is_empty() {
            return Ok(false);
        }
        let commit = self
            .new_commit()
            .guard(Guard::Version(epoch_key(dead), DEAD.0))
            .row(RowChange::Retire(instance_scope(dead)));
        match self.store.commit(commit).await {
            Ok(_) => {}
            // Somebody else did.
            Err(CommitError::Rejected { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.seen().abandoned.retain(|instance| instance != dead);
        Ok(true)
    }

    /// Says whether whoever holds a scope lives; false where no lease was needed, and for an
    /// earlier name of this instance.
    ///
    /// # Errors
    /// [`LeaseError::Read`].
    pub async fn is_alive(&self, holder: Option<&InstanceId>) -> Result<bool, LeaseError> {
        Ok(is_alive(&*self.store, holder).await?)
    }

    /// Adds to a commit what takes a scope over: everything of [`Lease::opens`], and that its
    /// earlier holder holds it no more. Returns who holds it now.
    ///
    /// # Errors
    /// [`LeaseError::Lost`].
    pub fn takes_over(
        &self,
        commit: Commit,
        scope: &ScopeId,
        from: Option<&InstanceId>,
    ) -> Result<(Commit, Option<InstanceId>), LeaseError> {
        let commit = Lease::lets_go(commit, from, scope);
        self.lease.opens(commit, scope)
    }

    /// Gives the lease back: what is still held is free for the others at once.
    ///
    /// # Errors
    /// [`LeaseError`]: it runs out by itself.
    pub async fn give_back(&self) -> Result<(), LeaseError> {
        let Some(instance) = self.lease.lost() else {
            return Ok(());
        };
        let holds_nothing = self.held_by(&instance, None).await?.scopes.is_empty();
        let commit = if holds_nothing {
            self.new_commit()
                .row(RowChange::Retire(instance_scope(&instance)))
        } else {
            self.ending(&instance, self.config.ttl, LeaseState::Closed)
        };
        let commit = commit.owned_by(instance_scope(&instance), LIVING);
        match self.store.commit(commit).await {
            // Declared dead already: the same in the end.
            Ok(_) | Err(CommitError::Fenced) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn new_commit(&self) -> Commit {
        Commit::fresh(&*self.store, &*self.clock, &*self.random)
    }

    async fn all(&self, query: RowQuery) -> Result<Vec<Row>, ReadError> {
        let limit = self.store.capabilities().limits.page_entries_max;
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let page = self
                .store
                .rows(query.clone(), Page::after(after, limit))
                .await?;
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                return Ok(rows);
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a scope was taken over from a process that died in it, since it last got further:
/// read it when a scope is taken over, add one, and give the count to
/// [`ScopeOpening::crashes`](crate::ScopeOpening) (E5).
///
/// # Errors
/// [`ReadError`].
pub async fn crashes(store: &dyn Store, scope: &ExecutionScope) -> Result<u32, ReadError> {
    let row = store.row(&crash_key(&scope.scope_id())).await?;
    Ok(crashes_of(row.as_ref()))
}

/// Adds to the commit that takes a scope over how often that has happened.
#[must_use]
pub fn with_crashes(commit: Commit, scope: &ExecutionScope, count: u32) -> Commit {
    let key = crash_key(&scope.scope_id());
    commit.row(match count {
        0 => RowChange::Delete(key),
        count => RowChange::put(key, count.to_string().into_bytes()),
    })
}

/// Says whether whoever holds a scope lives.
pub(crate) async fn is_alive(
    store: &dyn Store,
    holder: Option<&InstanceId>,
) -> Result<bool, ReadError> {
    let Some(holder) = holder else {
        return Ok(false);
    };
    let row = store.row(&epoch_key(holder)).await?;
    Ok(row.is_some_and(|row| row.version == LIVING.0))
}

fn epoch_key(instance: &InstanceId) -> RowKey {
    RowKey::epoch(instance_scope(instance))
}

fn decode(row: &Row) -> Result<(InstanceId, LeaseRow), ReadError> {
    let corrupt = |reason: &dyn std::fmt::Display| ReadError::Corrupt {
        what: format!("lease row of {}: {reason}", row.key.scope),
    };
    let name = row.key.scope.as_str().strip_prefix("instance/");
    let name = name.ok_or_else(|| corrupt(&"it is of no instance"))?;
    let instance = name.parse().map_err(|error| corrupt(&error))?;
    let lease = serde_json::from_slice(&row.body).map_err(|error| corrupt(&error))?;
    Ok((instance, lease))
}
