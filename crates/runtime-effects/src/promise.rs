//! Promises: who resolves first wins, for good (E10–E13).

use std::sync::{Arc, PoisonError, RwLock};

use runtime_core::{
    CanonicalEncoder, Classified, CommitId, ErrorClass, EventDraft, EventId, EventKind,
    ExecutionScope, ProcessId, Resolution, RuntimeId, ScopeId, SessionId, Timestamp, WaitIdentity,
    WireError,
};
use runtime_store::{
    Commit, CommitError, Found, Guard, KeyRing, NewEvent, Page, ReadError, Row, RowChange, RowKey,
    RowQuery,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::{grants_of, held_processes, process_scope};
use crate::promise_deadline::{forgets_deadline, settle_if_due};
use crate::store_host::Shared;
use crate::token::{self, Token, TokenKey, TokenRights, VerifiedToken};
use crate::{Grant, Interrupt};

/// Resolutions and single revocations, by public name.
const PROMISE_SPACE: &str = "promise";
/// Promises that somebody waits for, or has waited for, by public name.
const WAITED_SPACE: &str = "promise_waited";
/// Promises that were resolved before anybody waited, by public name; what the quota counts.
const EARLY_SPACE: &str = "promise_early";
/// Revoked owners.
const REVOKED_SPACE: &str = "promise_revoked";

/// How often a resolution is decided anew when its scope changes hands at the same time.
const RESOLVE_TRIES_MAX: u32 = 8;
/// The longest text in a wait identity, as for all foreign names (C1).
const IDENTITY_TEXT_BYTES_MAX: usize = 512;

/// What became of a resolution.
#[derive(Debug, Clone, PartialEq)]
pub enum ResolveAnswer {
    /// It settled the promise.
    Accepted,
    /// Somebody was first.
    AlreadyResolved {
        /// How it was settled; not shown to a token without [`TokenRights::WAIT`].
        winner: Option<Resolution>,
    },
    /// There is no such promise any more, or the token is not to be trusted. One answer for
    /// forged, cut, foreign, expired, revoked and retired.
    UnknownOrRevoked,
}

/// Why a resolution was not decided.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// It is over the limit.
    #[error("the resolution has {bytes} bytes; {max} are allowed")]
    TooLarge {
        /// Its size as JSON.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Too many promises of the scope were resolved before anybody waits for them.
    #[error("{max} promises of scope {scope} are resolved and not waited for; try again later")]
    QuotaReached {
        /// The scope.
        scope: ScopeId,
        /// The limit.
        max: usize,
    },
    /// There is no such promise any more: its scope is not there, or it is settled or revoked.
    #[error("scope {scope} has no such promise to be settled")]
    Unknown {
        /// The scope.
        scope: ScopeId,
    },
    /// The scope changed hands each time that this was tried.
    #[error("scope {scope} is changing hands; try again")]
    Contended {
        /// The scope.
        scope: ScopeId,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classified for ResolveError {
    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "resolution_too_large",
            Self::QuotaReached { .. } => "promise_quota_reached",
            Self::Unknown { .. } => "promise_unknown",
            Self::Contended { .. } => "promise_contended",
            Self::Commit(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::TooLarge { .. } => ErrorClass::Invalid,
            Self::Unknown { .. } => ErrorClass::NotFound,
            Self::QuotaReached { .. } | Self::Contended { .. } => ErrorClass::Busy,
            Self::Commit(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }
}

/// Why there is no token, or it is not accepted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Forged, cut, foreign, expired or revoked: one answer for all of these.
    #[error("the token is not valid")]
    Refused,
    /// The owner of the promise was revoked: no more tokens are made for it.
    #[error("the owner of this promise was revoked")]
    OwnerRevoked,
    /// The identity of the promise is outside its bounds.
    #[error("{reason}")]
    Identity {
        /// What is wrong.
        reason: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classified for TokenError {
    fn code(&self) -> &'static str {
        match self {
            Self::Refused => "token_refused",
            Self::OwnerRevoked => "promise_owner_revoked",
            Self::Identity { .. } => "wait_identity_invalid",
            Self::Read(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Refused | Self::Identity { .. } => ErrorClass::Invalid,
            Self::OwnerRevoked => ErrorClass::Terminal,
            Self::Read(error) => error.class(),
        }
    }
}

/// Whose promises are revoked (E13). It is for good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revocation {
    /// One promise.
    Promise {
        /// Its scope.
        scope: ExecutionScope,
        /// Which promise.
        identity: WaitIdentity,
    },
    /// All promises of one scope.
    Scope(ExecutionScope),
    /// All promises of one session: of its turns, and of its processes that no live grant of
    /// another session holds.
    Session(SessionId),
}

/// The promises of a runtime. Cloning gives another handle to the same.
///
/// Minting is deterministic and registers nothing: a promise exists once somebody waits for it
/// or resolves it, and as long as its scope does.
#[derive(Debug, Clone)]
pub struct AwaitEvents {
    pub(crate) shared: Arc<Shared>,
    keys: Arc<RwLock<Arc<[TokenKey]>>>,
    /// Lets early resolutions of this process pass one by one, so that the quota holds.
    early: Arc<tokio::sync::Mutex<()>>,
}

impl AwaitEvents {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self, ReadError> {
        let ring = shared.store.key_ring().await?;
        let keys = derive_keys(&ring, &shared.store.identity().runtime);
        Ok(Self {
            shared,
            keys: Arc::new(RwLock::new(keys)),
            early: Arc::default(),
        })
    }

    /// Returns the public name of a promise: it gives no rights, so it is safe to log and to hand
    /// to an engine.
    #[must_use]
    pub fn public_name(&self, scope: &ExecutionScope, identity: &WaitIdentity) -> String {
        public_name(self.runtime(), &scope.scope_id(), identity)
    }

    /// Makes a token for a promise; the same arguments give the same token until the keys rotate.
    ///
    /// # Errors
    /// [`TokenError::OwnerRevoked`]; [`TokenError::Identity`] for an identity out of bounds.
    pub async fn mint(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
        rights: TokenRights,
        expiry: Option<Timestamp>,
    ) -> Result<Token, TokenError> {
        check_identity(identity)?;
        if self.is_revoked(scope, identity).await? {
            return Err(TokenError::OwnerRevoked);
        }
        let keys = self.keys();
        let key = keys.last().expect("a ring has at least one key");
        Ok(key.sign(&VerifiedToken {
            scope: scope.clone(),
            identity: identity.clone(),
            rights,
            expiry,
        }))
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`TokenError::Refused`] for whatever is wrong with it.
    pub async fn verify(&self, text: &str) -> Result<VerifiedToken, TokenError> {
        let token = self.open_token(text).await?.ok_or(TokenError::Refused)?;
        if self.is_revoked(&token.scope, &token.identity).await? {
            return Err(TokenError::Refused);
        }
        Ok(token)
    }

    /// Settles the promise of a token. The first to do so wins; a promise that nobody waits for
    /// yet keeps its resolution.
    ///
    /// `command` is the identity of a request from elsewhere: repeating it gives the same answer.
    ///
    /// # Errors
    /// [`ResolveError`]: nothing was decided.
    pub async fn resolve(
        &self,
        token: &str,
        resolution: Resolution,
        command: Option<CommitId>,
    ) -> Result<ResolveAnswer, ResolveError> {
        let needed = match resolution {
            Resolution::Cancelled => TokenRights::CANCEL,
            _ => TokenRights::RESOLVE,
        };
        let token = match self.verify(token).await {
            Ok(token) if token.rights.include(needed) => token,
            Err(TokenError::Read(error)) => return Err(error.into()),
            _ => return Ok(ResolveAnswer::UnknownOrRevoked),
        };
        let answer = self
            .resolve_identity(&token.scope, &token.identity, resolution, command)
            .await?;
        Ok(match answer {
            ResolveAnswer::AlreadyResolved { .. } if !token.rights.include(TokenRights::WAIT) => {
                ResolveAnswer::AlreadyResolved { winner: None }
            }
            answer => answer,
        })
    }

    /// Settles a promise without a token, for callers inside the process that are trusted.
    ///
    /// # Errors
    /// [`ResolveError`]: nothing was decided.
    pub async fn resolve_identity(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
        resolution: Resolution,
        command: Option<CommitId>,
    ) -> Result<ResolveAnswer, ResolveError> {
        self.check_size(&resolution)?;
        if let Some(command) = command
            && self.shared.store.committed(&command).await?.is_some()
        {
            return Ok(ResolveAnswer::Accepted);
        }
        for _ in 0..RESOLVE_TRIES_MAX {
            let tried = self
                .try_resolve(scope, identity, &resolution, command)
                .await?;
            if let Some(answer) = tried {
                return Ok(answer);
            }
        }
        Err(ResolveError::Contended {
            scope: scope.scope_id(),
        })
    }

    /// Revokes promises: their tokens are refused, none is minted, and whoever waits for them
    /// sees [`Resolution::Cancelled`]. Says whether that is new.
    ///
    /// # Errors
    /// [`ResolveError`]: nothing was revoked.
    pub async fn revoke(
        &self,
        revocation: Revocation,
        command: Option<CommitId>,
    ) -> Result<bool, ResolveError> {
        let (key, draft) = self.revocation_record(&revocation);
        if self.shared.store.row(&key).await?.is_some() {
            return Ok(false);
        }
        let id = command.unwrap_or_else(|| self.fresh_id());
        let body = json!({ "state": "revoked" }).to_string().into_bytes();
        let commit = Commit::new(id, self.shared.clock.now())
            .guard(Guard::Absent(key.clone()))
            .row(RowChange::put(key, body))
            .event(NewEvent::from_draft(event_id(id), &draft));
        match self.shared.commit(commit).await {
            Ok(_) => {}
            // Settled or revoked in between, or the turn has ended: nothing is left to revoke.
            Err(CommitError::Rejected { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.wake_revoked(&revocation).await?;
        Ok(true)
    }

    /// Adds a key that signs from now on; tokens signed with the old ones stay valid.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn rotate_keys(&self) -> Result<(), ReadError> {
        let ring = self.shared.store.rotate_key_ring().await?;
        self.set_keys(&ring);
        Ok(())
    }

    /// Says whether a promise is settled, so that a wait for it would end: resolved, or revoked.
    ///
    /// # Errors
    /// The class and code of the store that cannot be read, or of a damaged record.
    pub async fn is_settled(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
    ) -> Result<bool, WireError> {
        let looked = look_at_promise(&self.shared, scope, identity).await;
        match looked {
            Ok(resolution) => Ok(resolution.is_some()),
            Err(interrupt) => Err(interrupt.to_wire()),
        }
    }

    /// Says whether an answer to a promise is recorded. Unlike [`is_settled`](Self::is_settled) it
    /// only reads: a deadline that has passed counts once somebody settled it, and a revoked owner
    /// is not looked at.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn is_resolved(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
    ) -> Result<bool, ReadError> {
        let id = scope.scope_id();
        let name = public_name(self.runtime(), &id, identity);
        let row = self.shared.store.row(&promise_key(&id, &name)).await?;
        Ok(row.is_some())
    }

    fn runtime(&self) -> &RuntimeId {
        &self.shared.store.identity().runtime
    }

    fn keys(&self) -> Arc<[TokenKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_keys(&self, ring: &KeyRing) {
        let keys = derive_keys(ring, self.runtime());
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    pub(crate) fn fresh_id(&self) -> CommitId {
        let shared = &self.shared;
        let time = shared.store.id_time(shared.clock.now());
        CommitId::generate(time, shared.random.ten())
    }

    async fn open_token(&self, text: &str) -> Result<Option<VerifiedToken>, ReadError> {
        let keys = self.keys();
        // A key that this process does not know may have been added by another one.
        let newest = keys.last().map_or(0, |key| key.id);
        if token::named_key(text).is_some_and(|id| id == newest + 1) {
            let ring = self.shared.store.key_ring().await?;
            self.set_keys(&ring);
        }
        Ok(token::open(text, &self.keys(), self.shared.clock.now()))
    }

    async fn is_revoked(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
    ) -> Result<bool, ReadError> {
        let name = self.public_name(scope, identity);
        let key = promise_key(&scope.scope_id(), &name);
        let row = self.shared.store.row(&key).await?;
        Ok(row.is_some_and(|row| row.event.is_none())
            || is_owner_revoked(&self.shared, scope).await?)
    }

    pub(crate) fn check_size(&self, resolution: &Resolution) -> Result<(), ResolveError> {
        let encoded = serde_json::to_vec(resolution).expect("a resolution is plain data");
        let max = self.shared.limits.resolution_bytes_max;
        if encoded.len() > max {
            return Err(ResolveError::TooLarge {
                bytes: encoded.len(),
                max,
            });
        }
        Ok(())
    }

    /// Tries to settle; none when the scope changed in between.
    async fn try_resolve(
        &self,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
        resolution: &Resolution,
        command: Option<CommitId>,
    ) -> Result<Option<ResolveAnswer>, ResolveError> {
        let store = &self.shared.store;
        let id = scope.scope_id();
        let name = public_name(self.runtime(), &id, identity);
        let epoch_key = RowKey::epoch(id.clone());
        let Some(epoch) = store.row(&epoch_key).await? else {
            return Ok(Some(ResolveAnswer::UnknownOrRevoked));
        };
        settle_if_due(&self.shared, &id, &name).await?;
        if let Some(row) = store.row(&promise_key(&id, &name)).await? {
            return settled_answer(&row).map(Some);
        }
        if is_owner_revoked(&self.shared, scope).await? {
            return Ok(Some(ResolveAnswer::UnknownOrRevoked));
        }
        let waited = store.row(&waited_key(&id, &name)).await?.is_some();
        let commit = Commit::new(
            command.unwrap_or_else(|| self.fresh_id()),
            self.shared.clock.now(),
        );
        let mut commit = with_resolution(commit, scope, identity, resolution, &name, command)
            .guard(Guard::Version(epoch_key, epoch.version));
        let pass = if waited {
            None
        } else {
            let pass = self.early.lock().await;
            self.check_quota(&id).await?;
            commit = commit.row(RowChange::put(early_key(&id, &name), Vec::new()));
            Some(pass)
        };
        let committed = self.shared.commit(commit).await;
        drop(pass);
        match committed {
            Ok(_) => {
                self.shared.registry.wake(&(id, name));
                Ok(Some(ResolveAnswer::Accepted))
            }
            Err(CommitError::Rejected {
                found: Found::Closed,
                ..
            }) => Ok(Some(ResolveAnswer::UnknownOrRevoked)),
            Err(CommitError::Rejected { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds to a commit of somebody else what settles a promise, so that both happen or neither:
    /// for instance the end of the work that was waited for. The commit as it was, and false, when
    /// there is nothing to settle: it was settled or revoked before, or its owner is over.
    ///
    /// The caller is trusted, and answers for how many it settles before they are waited for: no
    /// quota counts them. When the commit has happened, call
    /// [`announce_resolved`](Self::announce_resolved); when it was rejected, decide anew.
    ///
    /// # Errors
    /// [`ResolveError`]; a resolution that is too large among them.
    pub async fn resolve_in(
        &self,
        commit: Commit,
        scope: &ExecutionScope,
        identity: &WaitIdentity,
        resolution: &Resolution,
    ) -> Result<(Commit, bool), ResolveError> {
        self.check_size(resolution)?;
        let store = &self.shared.store;
        let id = scope.scope_id();
        let name = public_name(self.runtime(), &id, identity);
        let epoch_key = RowKey::epoch(id.clone());
        let Some(epoch) = store.row(&epoch_key).await? else {
            return Ok((commit, false));
        };
        settle_if_due(&self.shared, &id, &name).await?;
        let settled = store.row(&promise_key(&id, &name)).await?.is_some();
        if settled || is_owner_revoked(&self.shared, scope).await? {
            return Ok((commit, false));
        }
        let waited = store.row(&waited_key(&id, &name)).await?.is_some();
        let mut commit = with_resolution(commit, scope, identity, resolution, &name, None)
            .guard(Guard::Version(epoch_key, epoch.version));
        if !waited {
            commit = commit.row(RowChange::put(early_key(&id, &name), Vec::new()));
        }
        Ok((commit, true))
    }

    /// Wakes whoever waits for a promise that was settled by [`resolve_in`](Self::resolve_in).
    pub fn announce_resolved(&self, scope: &ExecutionScope, identity: &WaitIdentity) {
        let name = self.public_name(scope, identity);
        self.shared.registry.wake(&(scope.scope_id(), name));
    }

    async fn check_quota(&self, scope: &ScopeId) -> Result<(), ResolveError> {
        let max = self.shared.limits.early_resolutions_max;
        let query = RowQuery::scope(EARLY_SPACE, scope.clone());
        let mut count = 0;
        let mut after = None;
        loop {
            let limit = (max - count).max(1);
            let page = self
                .shared
                .store
                .rows(query.clone(), Page::after(after, limit))
                .await?;
            count += page.rows.len();
            if count >= max {
                return Err(ResolveError::QuotaReached {
                    scope: scope.clone(),
                    max,
                });
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn revocation_record(&self, revocation: &Revocation) -> (RowKey, EventDraft) {
        let draft = EventDraft::new(EventKind::PromiseRevoked);
        match revocation {
            Revocation::Promise { scope, identity } => {
                let name = self.public_name(scope, identity);
                let payload = json!({ "promise": name });
                (
                    promise_key(&scope.scope_id(), &name),
                    draft.in_scope(scope).with_payload(payload),
                )
            }
            Revocation::Scope(scope) => {
                let payload = json!({ "scope": scope.scope_id() });
                (
                    revoked_scope_key(scope),
                    draft.in_scope(scope).with_payload(payload),
                )
            }
            Revocation::Session(session) => {
                let payload = json!({ "session": session });
                (
                    revoked_session_key(session),
                    draft.in_session(session.clone()).with_payload(payload),
                )
            }
        }
    }

    async fn wake_revoked(&self, revocation: &Revocation) -> Result<(), ReadError> {
        let registry = &self.shared.registry;
        match revocation {
            Revocation::Promise { scope, identity } => {
                registry.wake(&(scope.scope_id(), self.public_name(scope, identity)));
            }
            Revocation::Scope(scope) => {
                let scope = scope.scope_id();
                registry.wake_where(|(waiting, _)| *waiting == scope);
            }
            Revocation::Session(session) => {
                registry.wake_where(|(waiting, _)| {
                    let scope = ExecutionScope::from_scope_id(waiting);
                    scope.is_ok_and(|scope| scope.session() == Some(session))
                });
                for process in held_processes(&self.shared, session).await? {
                    let scope = process_scope(&process);
                    if is_owner_revoked(&self.shared, &scope).await? {
                        let scope = scope.scope_id();
                        registry.wake_where(|(waiting, _)| *waiting == scope);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Adds to a commit what settles a promise, if nobody has.
fn with_resolution(
    commit: Commit,
    scope: &ExecutionScope,
    identity: &WaitIdentity,
    resolution: &Resolution,
    name: &str,
    command: Option<CommitId>,
) -> Commit {
    let mut draft = EventDraft::new(EventKind::PromiseResolved)
        .in_scope(scope)
        .with_payload(json!({
            "promise": name, "identity": identity, "resolution": resolution,
        }));
    draft.caused_by = command.map(|command| command.to_string());
    let (id, event) = (event_id(commit.id), commit.events.len());
    commit
        .guard(Guard::Absent(promise_key(&scope.scope_id(), name)))
        .row(settled_row(&scope.scope_id(), name, event))
        .row(forgets_deadline(&scope.scope_id(), name))
        .event(NewEvent::from_draft(id, &draft))
}

fn derive_keys(ring: &KeyRing, runtime: &RuntimeId) -> Arc<[TokenKey]> {
    ring.keys
        .iter()
        .map(|key| TokenKey::derive(key.id, &key.secret, runtime))
        .collect()
}

/// The row of a promise that an event of the same commit tells of.
pub(crate) fn settled_row(scope: &ScopeId, name: &str, event: usize) -> RowChange {
    let body = json!({ "state": "resolved" }).to_string().into_bytes();
    RowChange::Put {
        key: promise_key(scope, name),
        body: body.into(),
        event: Some(event),
        due: None,
    }
}

pub(crate) fn event_id(commit: CommitId) -> EventId {
    EventId::derived(CanonicalEncoder::new("promise-event").bytes(commit.as_uuid().as_bytes()))
}

/// The name of a promise, derived without any key: it proves nothing and gives no rights.
pub(crate) fn public_name(runtime: &RuntimeId, scope: &ScopeId, identity: &WaitIdentity) -> String {
    let identity = serde_json::to_value(identity).expect("an identity is plain data");
    let digest = CanonicalEncoder::new("promise-name")
        .text(runtime.as_str())
        .text(scope.as_str())
        .json(&identity)
        .digest();
    format!("promise-{}", &digest.to_string()[..32])
}

pub(crate) fn promise_key(scope: &ScopeId, name: &str) -> RowKey {
    RowKey::new(PROMISE_SPACE, scope.clone(), name)
}

pub(crate) fn waited_key(scope: &ScopeId, name: &str) -> RowKey {
    RowKey::new(WAITED_SPACE, scope.clone(), name)
}

pub(crate) fn early_key(scope: &ScopeId, name: &str) -> RowKey {
    RowKey::new(EARLY_SPACE, scope.clone(), name)
}

fn revoked_scope_key(scope: &ExecutionScope) -> RowKey {
    RowKey::new(REVOKED_SPACE, scope.scope_id(), "")
}

fn revoked_session_key(session: &SessionId) -> RowKey {
    // An owner of its own: it outlives every turn of the session, so that it never wears off.
    let owner = ScopeId::new(format!("revoked-session/{session}"));
    let owner = owner.expect("an id and a word are within the bounds of a scope id");
    RowKey::new(REVOKED_SPACE, owner, "")
}

pub(crate) async fn is_owner_revoked(
    shared: &Shared,
    scope: &ExecutionScope,
) -> Result<bool, ReadError> {
    if shared.store.row(&revoked_scope_key(scope)).await?.is_some() {
        return Ok(true);
    }
    match (scope.session(), scope) {
        (Some(session), _) => is_session_revoked(shared, session).await,
        (None, ExecutionScope::Process { process }) => {
            is_every_holder_revoked(shared, process).await
        }
        _ => Ok(false),
    }
}

async fn is_session_revoked(shared: &Shared, session: &SessionId) -> Result<bool, ReadError> {
    let row = shared.store.row(&revoked_session_key(session)).await?;
    Ok(row.is_some())
}

/// Says whether a process is held by revoked sessions alone; if nobody holds it any more, whether
/// one of those that did is revoked.
async fn is_every_holder_revoked(shared: &Shared, process: &ProcessId) -> Result<bool, ReadError> {
    let grants = grants_of(shared, process).await?;
    let is_held = grants.iter().any(Grant::is_live);
    let mut revoked = false;
    for grant in grants.iter().filter(|grant| grant.is_live() || !is_held) {
        match is_session_revoked(shared, &grant.session).await? {
            true => revoked = true,
            false if is_held => return Ok(false),
            false => {}
        }
    }
    Ok(revoked)
}

/// Reads how a promise was settled; a revoked one is seen as cancelled.
pub(crate) async fn look_at_promise(
    shared: &Shared,
    scope: &ExecutionScope,
    identity: &WaitIdentity,
) -> Result<Option<Resolution>, Interrupt> {
    let id = scope.scope_id();
    let name = public_name(&shared.store.identity().runtime, &id, identity);
    let settled = settle_if_due(shared, &id, &name).await;
    settled.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
    if let Some(row) = shared.row(&promise_key(&id, &name)).await? {
        if row.event.is_none() {
            return Ok(Some(Resolution::Cancelled));
        }
        return recorded_resolution(&row)
            .map(Some)
            .map_err(Interrupt::Terminal);
    }
    let revoked = is_owner_revoked(shared, scope).await;
    let revoked = revoked.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
    Ok(revoked.then_some(Resolution::Cancelled))
}

fn settled_answer(row: &Row) -> Result<ResolveAnswer, ResolveError> {
    if row.event.is_none() {
        return Ok(ResolveAnswer::UnknownOrRevoked);
    }
    let winner = recorded_resolution(row).map_err(ReadError::from)?;
    Ok(ResolveAnswer::AlreadyResolved {
        winner: Some(winner),
    })
}

fn recorded_resolution(row: &Row) -> Result<Resolution, WireError> {
    let corrupt = |reason: &dyn std::fmt::Display| {
        let message = format!("the record of {} is damaged: {reason}", row.key.name);
        WireError::new("promise_record_corrupt", ErrorClass::Corrupt, message)
    };
    let event = row
        .event
        .as_ref()
        .ok_or_else(|| corrupt(&"it has no event"))?;
    let draft = EventDraft::from_bytes(&event.body)?;
    let resolution: &Value = &draft.payload["resolution"];
    Resolution::deserialize(resolution).map_err(|error| corrupt(&error))
}

/// Checks what the types do not: texts of a wait identity are bounded (C1), ordinals start at 1.
pub(crate) fn check_identity(identity: &WaitIdentity) -> Result<(), TokenError> {
    let refuse = |reason: &str| {
        Err(TokenError::Identity {
            reason: reason.to_owned(),
        })
    };
    match identity {
        WaitIdentity::Custom { key } => {
            let bounded = (1..=IDENTITY_TEXT_BYTES_MAX).contains(&key.len());
            if !bounded || key.chars().any(char::is_control) {
                return refuse("a custom key has 1 to 512 bytes without control characters");
            }
        }
        WaitIdentity::ProcessSignal { name, ordinal, .. } => {
            let bounded = (1..=IDENTITY_TEXT_BYTES_MAX).contains(&name.len());
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if !bounded || !name.chars().all(legal) {
                return refuse("a signal name has 1 to 512 of the characters A-Z a-z 0-9 _ -");
            }
            if *ordinal == 0 {
                return refuse("signals of one name are counted from 1");
            }
        }
        _ => {}
    }
    Ok(())
}
