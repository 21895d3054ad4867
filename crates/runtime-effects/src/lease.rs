//! The lease of an instance: one for everything that it drives (E5). No I/O.
//!
//! An instance is itself a scope, `instance/ID`: its epoch is 1 while it lives, and whoever
//! declares it dead puts the next one, so that from then on it opens nothing and renews nothing.
//! Its row in space `lease` is put anew by each renewal; an observer takes an instance for dead
//! when that row has kept its version for the whole term, on the observer's own monotonic clock.
//! No two wall clocks are compared.
//!
//! Why the two sides agree: the holder counts its term from *before* it submits a renewal, the
//! observer from *after* it has read it. So the holder stops first.

use std::collections::HashMap;
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::{pending, select};
use runtime_core::{Classified, Clock, ErrorClass, InstanceId, ScopeId};
use runtime_store::{Commit, CommitError, Epoch, Guard, ReadError, Row, RowChange, RowKey};
use serde::{Deserialize, Serialize};

use crate::registry::{PromiseKey, WaitRegistry};
use crate::sync::{Arc, Mutex};

/// The rows of leases, one for each instance.
pub(crate) const LEASE_SPACE: &str = "lease";
/// What each instance drives: the owner is the instance, the name a scope.
pub(crate) const HELD_SPACE: &str = "held";
/// How often the process that drove a scope has died in it without getting further.
const CRASH_SPACE: &str = "crashes";

/// The epoch of an instance that lives.
pub(crate) const LIVING: Epoch = Epoch(1);

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long a lease lasts after the renewal before it was submitted.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew_every: Duration,
    /// How often the leases of the others are looked at. What a dead instance drove goes on within
    /// `ttl` and two looks.
    pub look_every: Duration,
    /// How long before the end of the lease executors are cancelled.
    pub margin: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            renew_every: Duration::from_secs(3),
            look_every: Duration::from_secs(1),
            margin: Duration::from_secs(1),
        }
    }
}

impl LeaseConfig {
    /// Checks that a lease can be renewed in time.
    ///
    /// # Errors
    /// [`LeaseError::Config`] says what does not fit.
    pub fn check(&self) -> Result<(), LeaseError> {
        let usable = self.ttl.saturating_sub(self.margin);
        let reason = if self.renew_every.is_zero() || self.look_every.is_zero() {
            "renew_every and look_every must not be zero"
        } else if self.renew_every >= usable {
            "renew_every must be less than ttl without margin"
        } else {
            return Ok(());
        };
        Err(LeaseError::Config { reason })
    }
}

/// Why a lease could not be had, kept, or looked at.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The terms contradict each other.
    #[error("the lease cannot be kept: {reason}")]
    Config {
        /// What does not fit.
        reason: &'static str,
    },
    /// This instance holds no lease now: it opens no scope until it has a new one.
    #[error("this instance holds no lease; it registers anew as soon as the store answers")]
    Lost,
    /// The store refused or failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classified for LeaseError {
    fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "lease_config_invalid",
            Self::Lost => "lease_lost",
            Self::Commit(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Config { .. } => ErrorClass::Invalid,
            Self::Lost => ErrorClass::Unavailable,
            Self::Commit(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }
}

/// The lease of this instance, as everything that it drives sees it. A clone is the same lease.
#[derive(Debug, Clone, Default)]
pub struct Lease(Option<Arc<LeaseShared>>);

struct LeaseShared {
    clock: std::sync::Arc<dyn Clock>,
    margin: Duration,
    tenure: Mutex<Option<Tenure>>,
    /// Rung when the lease is lost.
    bells: Arc<WaitRegistry>,
}

/// What is held, and until when on the monotonic clock.
#[derive(Debug, Clone)]
struct Tenure {
    instance: InstanceId,
    until: Duration,
}

impl fmt::Debug for LeaseShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseShared")
            .field("tenure", &self.tenure)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// No lease, where none is needed: the store is not shared, and its own lock serves.
    #[must_use]
    pub const fn unneeded() -> Self {
        Self(None)
    }

    /// A lease that is not held yet.
    pub(crate) fn new(clock: std::sync::Arc<dyn Clock>, margin: Duration) -> Self {
        Self(Some(Arc::new(LeaseShared {
            clock,
            margin,
            tenure: Mutex::new(None),
            bells: Arc::default(),
        })))
    }

    /// Says whether one is needed.
    #[must_use]
    pub const fn is_needed(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the name of this instance while its lease lasts.
    #[must_use]
    pub fn instance(&self) -> Option<InstanceId> {
        let shared = self.0.as_ref()?;
        let tenure = shared.tenure()?;
        shared.is_in_time(&tenure).then_some(tenure.instance)
    }

    /// Adds to a commit what opens a scope: its epoch, who holds it, and the fence that refuses
    /// an instance whose lease ran out. Returns who holds it, for
    /// [`ScopeOpening::instance`](crate::ScopeOpening). The caller adds the guard of the epoch.
    ///
    /// # Errors
    /// [`LeaseError::Lost`].
    pub fn opens(
        &self,
        commit: Commit,
        scope: &ScopeId,
    ) -> Result<(Commit, Option<InstanceId>), LeaseError> {
        let epoch = RowKey::epoch(scope.clone());
        if !self.is_needed() {
            return Ok((commit.row(RowChange::put(epoch, Vec::new())), None));
        }
        let instance = self.instance().ok_or(LeaseError::Lost)?;
        let body = instance.as_str().as_bytes().to_vec();
        let me = instance_scope(&instance);
        // A commit in the name of another scope is fenced by a guard instead.
        let commit = match commit.owner {
            None => commit.owned_by(me, LIVING),
            Some(_) => commit.guard(Guard::Version(RowKey::epoch(me), LIVING.0)),
        };
        let commit = commit
            .row(RowChange::put(epoch, body))
            .row(RowChange::put(held_key(&instance, scope), Vec::new()));
        Ok((commit, Some(instance)))
    }

    /// Adds to a commit that parks or ends a scope that it is not held any more.
    #[must_use]
    pub fn lets_go(commit: Commit, instance: Option<&InstanceId>, scope: &ScopeId) -> Commit {
        match instance {
            Some(instance) => commit.row(RowChange::Delete(held_key(instance, scope))),
            None => commit,
        }
    }

    /// Returns who holds a scope, by its epoch row; none where no lease was needed.
    #[must_use]
    pub fn holder(epoch_row: &Row) -> Option<InstanceId> {
        std::str::from_utf8(&epoch_row.body).ok()?.parse().ok()
    }

    /// Says whether this instance still has the lease under which it opened something.
    pub(crate) fn holds(&self, instance: Option<&InstanceId>) -> bool {
        match (&self.0, instance) {
            (Some(shared), Some(instance)) => !shared.left_of(instance).is_zero(),
            _ => true,
        }
    }

    /// Waits until the lease under which something was opened is over, or its margin begins.
    pub(crate) async fn ended(&self, instance: Option<&InstanceId>) {
        let (Some(shared), Some(instance)) = (&self.0, instance) else {
            return pending().await;
        };
        // Interest first, the look second, as for promises.
        let interest = shared.bells.register(vec![bell(instance)]);
        loop {
            let left = shared.left_of(instance);
            if left.is_zero() {
                return;
            }
            let rung = std::pin::pin!(interest.woken());
            select(rung, shared.clock.sleep(left)).await;
        }
    }

    /// The planted fault of the model: listening only now.
    #[cfg(test)]
    #[cfg(shuttle)]
    pub(crate) fn listen_late(&self, instance: &InstanceId) -> crate::registry::Interest {
        let shared = self.0.as_ref().expect("a lease is needed");
        shared.bells.register(vec![bell(instance)])
    }

    pub(crate) fn granted(&self, instance: InstanceId, until: Duration) {
        if let Some(shared) = &self.0 {
            *shared.lock() = Some(Tenure { instance, until });
        }
    }

    /// Prolongs the lease; says false when it was over already: some executor may have noticed
    /// that, so it stays over.
    pub(crate) fn renewed(&self, instance: &InstanceId, until: Duration) -> bool {
        let Some(shared) = &self.0 else { return true };
        let mut tenure = shared.lock();
        match &mut *tenure {
            Some(held) if held.instance == *instance && shared.is_in_time(held) => {
                held.until = until;
                true
            }
            _ => false,
        }
    }

    /// Gives the lease up; returns what was held.
    pub(crate) fn lost(&self) -> Option<InstanceId> {
        let shared = self.0.as_ref()?;
        let lost = shared.lock().take();
        let instance = lost?.instance;
        shared.bells.wake(&bell(&instance));
        Some(instance)
    }

    /// Returns the instance that is registered, whether or not its lease lasts.
    pub(crate) fn registered(&self) -> Option<InstanceId> {
        Some(self.0.as_ref()?.tenure()?.instance)
    }
}

impl LeaseShared {
    fn lock(&self) -> impl std::ops::DerefMut<Target = Option<Tenure>> + '_ {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenure(&self) -> Option<Tenure> {
        self.lock().clone()
    }

    /// What is left of the lease of that name; nothing if it is not held. The clock is read under
    /// the lock: a lease that was renewed in between must not be taken for over.
    fn left_of(&self, instance: &InstanceId) -> Duration {
        let tenure = self.lock();
        match &*tenure {
            Some(held) if held.instance == *instance => self.left(held),
            _ => Duration::ZERO,
        }
    }

    fn left(&self, held: &Tenure) -> Duration {
        let end = held.until.saturating_sub(self.margin);
        end.saturating_sub(self.clock.monotonic())
    }

    fn is_in_time(&self, held: &Tenure) -> bool {
        !self.left(held).is_zero()
    }
}

fn bell(instance: &InstanceId) -> PromiseKey {
    (instance_scope(instance), String::new())
}

/// The scope that an instance is.
pub(crate) fn instance_scope(instance: &InstanceId) -> ScopeId {
    ScopeId::new(format!("instance/{instance}"))
        .expect("an id and a word are within the bounds of a scope id")
}

pub(crate) fn lease_key(instance: &InstanceId) -> RowKey {
    RowKey::new(LEASE_SPACE, instance_scope(instance), "")
}

pub(crate) fn held_key(instance: &InstanceId, scope: &ScopeId) -> RowKey {
    RowKey::new(HELD_SPACE, instance_scope(instance), scope.as_str())
}

/// Names the row that counts how often a scope was taken over from a process that died in it,
/// since it last got further.
pub(crate) fn crash_key(scope: &ScopeId) -> RowKey {
    RowKey::new(CRASH_SPACE, scope.clone(), "")
}

/// Reads how often a scope was taken over since it last got further, from its row of the space
/// `crashes`.
pub(crate) fn crashes_of(row: Option<&Row>) -> u32 {
    let text = row.and_then(|row| std::str::from_utf8(&row.body).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The body of a lease row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRow {
    pub(crate) schema: u16,
    pub(crate) ttl_ms: u64,
    pub(crate) state: LeaseState,
}

/// Whether an instance lives, as its lease row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LeaseState {
    /// It renews.
    Live,
    /// Somebody found that it did not.
    Expired,
    /// It left in order and holds nothing, or what it could not let go of.
    Closed,
}

impl LeaseRow {
    pub(crate) fn new(ttl: Duration, state: LeaseState) -> Self {
        Self {
            schema: 1,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            state,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a lease row is plain data")
    }
}

/// A lease as an observer reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenLease {
    pub(crate) instance: InstanceId,
    pub(crate) version: u64,
    pub(crate) ttl: Duration,
}

/// Since when each lease has kept its version.
#[derive(Debug, Default)]
pub(crate) struct Observations(HashMap<InstanceId, (u64, Duration)>);

impl Observations {
    /// Notes what was read before `now` and returns the leases that have run out. One that is not
    /// read any more is forgotten.
    pub(crate) fn observe(&mut self, now: Duration, seen: Vec<SeenLease>) -> Vec<SeenLease> {
        let earlier = std::mem::take(&mut self.0);
        let mut expired = Vec::new();
        for lease in seen {
            let since = match earlier.get(&lease.instance) {
                Some((version, since)) if *version == lease.version => *since,
                _ => now,
            };
            self.0
                .insert(lease.instance.clone(), (lease.version, since));
            if now.saturating_sub(since) >= lease.ttl {
                expired.push(lease);
            }
        }
        expired
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    fn lease(version: u64) -> SeenLease {
        SeenLease {
            instance: "a".parse().expect("legal"),
            version,
            ttl: Duration::from_secs(10),
        }
    }

    #[test]
    fn e5_a_lease_runs_out_when_its_version_stands_still_for_its_term() {
        let mut seen = Observations::default();
        let at = Duration::from_secs;
        assert_eq!(seen.observe(at(100), vec![lease(7)]), []);
        assert_eq!(seen.observe(at(109), vec![lease(7)]), []);
        assert_eq!(seen.observe(at(110), vec![lease(7)]), [lease(7)]);
        // Renewed: the term starts again.
        assert_eq!(seen.observe(at(111), vec![lease(8)]), []);
        assert_eq!(seen.observe(at(120), vec![lease(8)]), []);
        // Not there once: whoever comes back is new.
        assert_eq!(seen.observe(at(121), vec![]), []);
        assert_eq!(seen.observe(at(122), vec![lease(8)]), []);
    }

    #[test]
    fn e5_terms_that_cannot_be_kept_are_refused() {
        let config = LeaseConfig::default();
        assert!(config.check().is_ok());
        let slow = LeaseConfig {
            renew_every: Duration::from_secs(9),
            ..config
        };
        assert_eq!(
            slow.check().map_err(|error| error.code()),
            Err("lease_config_invalid")
        );
    }
}
