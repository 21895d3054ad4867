//! Rulings on conflicts: the record has another effect under the key that was asked for (E4).
//!
//! A conflict is noted in the index of what waits, with the identity that was asked for, before
//! the turn parks. Whoever takes the scope over forgets the note ([`forgets_conflict`]), so that a
//! deploy that fits the record again leaves nothing behind.

use runtime_core::{
    CanonicalEncoder, CommitId, Digest, EffectOutcome, EventDraft, EventId, EventKind,
    ExecutionScope, ReplayKey, ScopeId, Timestamp, WireError,
};
use runtime_store::{
    Commit, Guard, NewEvent, Page, Position, ReadError, Row, RowChange, RowKey, RowQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::journal::{EffectRow, EffectState, Recorded};
use crate::pending::{PENDING_SPACE, PendingEffect, pending_key};
use crate::recording::{EFFECT_SPACE, Subject, effect_key};
use crate::ruling::{is_carried_out, submit};
use crate::store_host::Shared;
use crate::{Mismatch, RulingAnswer, RulingError};

/// The space of recorded outcomes that are accepted for another effect than the recorded one.
const ACCEPTED_SPACE: &str = "accepted";

/// The code of a conflict.
pub(crate) const CONFLICT: &str = "effect_conflict";

/// What a person decides about an effect that is not the one recorded under its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ruling", content = "with", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConflictRuling {
    /// The recorded outcome is the outcome of the effect that is asked for now. Nothing runs.
    AcceptRecorded,
    /// The record of the effect, and of everything that was recorded after it in its scope, is
    /// set aside, and the effect runs anew: what it had done outside stays done.
    Fork,
    /// The effect that is asked for now is taken as failed; what was recorded after the other one
    /// is set aside.
    Fail(WireError),
}

/// A conflict as it is noted: what a person reads, and the identity that was asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    #[serde(flatten)]
    pending: PendingEffect,
    requested: Value,
}

/// A recorded outcome that is accepted for another effect.
#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    schema: u16,
    /// The identity for which it is accepted.
    requested: Digest,
    /// The ruling that did.
    ruling: Digest,
}

/// Names the note of a conflict. Its name is no replay key: the effect itself may wait, too.
pub(crate) fn conflict_key(scope: &ScopeId, key: &ReplayKey) -> RowKey {
    let digest = Digest::of_bytes(key.as_str().as_bytes());
    RowKey::new(PENDING_SPACE, scope.clone(), format!("\u{1}{digest}"))
}

fn accepted_key(scope: &ScopeId, key: &ReplayKey) -> RowKey {
    RowKey::new(ACCEPTED_SPACE, scope.clone(), key.as_str())
}

/// Adds to the commit that takes a scope over that its conflict is not known any more: whoever
/// drives it now may ask for what is recorded.
#[must_use]
pub fn forgets_conflict(commit: Commit, scope: &ScopeId, key: &ReplayKey) -> Commit {
    commit.row(RowChange::Delete(conflict_key(scope, key)))
}

/// Returns the effect that a recorded [`Interrupt::Conflict`](crate::Interrupt::Conflict) is
/// about; none of another error.
#[must_use]
pub fn conflict_of(error: &WireError) -> Option<ReplayKey> {
    let key = error.details.as_ref()?.get("key")?.as_str()?;
    (error.code == CONFLICT).then(|| key.parse().ok())?
}

/// The note of a conflict; none when it is noted already, as that row says.
pub(crate) fn note(
    subject: &Subject,
    mismatch: &Mismatch,
    now: Timestamp,
    noted: Option<&Row>,
) -> Option<RowChange> {
    let known = noted.and_then(|row| serde_json::from_slice::<Noted>(&row.body).ok());
    if known.is_some_and(|known| known.pending.mismatch.as_ref() == Some(mismatch)) {
        return None;
    }
    let noted = Noted {
        pending: PendingEffect::conflict(&subject.envelope, now, mismatch.clone()),
        requested: subject.identity.clone(),
    };
    let body = serde_json::to_vec(&noted).expect("a conflict is plain data");
    let key = conflict_key(&subject.scope, subject.key());
    Some(RowChange::put(key, body))
}

/// Says whether a person accepted the recorded outcome for the effect that is asked for.
pub(crate) async fn is_accepted(
    shared: &Shared,
    scope: &ScopeId,
    mismatch: &Mismatch,
) -> Result<bool, ReadError> {
    let row = shared
        .store
        .row(&accepted_key(scope, &mismatch.key))
        .await?;
    let accepted = row.as_ref().map(read_accepted).transpose()?;
    Ok(accepted.is_some_and(|accepted| accepted.requested == mismatch.requested))
}

fn read_accepted(row: &Row) -> Result<Accepted, ReadError> {
    serde_json::from_slice(&row.body).map_err(|error| corrupt(row, error))
}

fn corrupt(row: &Row, reason: impl std::fmt::Display) -> ReadError {
    ReadError::Corrupt {
        what: format!("row {}/{}: {reason}", row.key.space, row.key.scope),
    }
}

/// Everything that a ruling is decided from.
struct Case<'a> {
    shared: &'a Shared,
    scope: &'a ScopeId,
    key: &'a ReplayKey,
    recorded: Recorded,
    /// Where the log tells of the recorded effect.
    position: Position,
    /// The digest of the ruling itself.
    digest: Digest,
}

/// Records a ruling.
pub(crate) async fn rule(
    shared: &Shared,
    scope: &ScopeId,
    key: &ReplayKey,
    ruling: ConflictRuling,
    command: Option<CommitId>,
) -> Result<RulingAnswer, RulingError> {
    if is_carried_out(shared, command).await? {
        return Ok(RulingAnswer::AlreadyRuled);
    }
    let not_found = || RulingError::NotFound {
        scope: scope.clone(),
        key: key.clone(),
    };
    let owner = ExecutionScope::from_scope_id(scope).map_err(|_| not_found())?;
    let row = shared.store.row(&effect_key(scope, key)).await?;
    let row = row.ok_or_else(not_found)?;
    let value = serde_json::to_value(&ruling).expect("a ruling is plain data");
    let encoder = CanonicalEncoder::new("conflict-ruling-content").json(&value);
    let case = Case {
        shared,
        scope,
        key,
        recorded: Recorded::decode(&row).map_err(ReadError::from)?,
        position: row
            .event
            .as_ref()
            .map(|event| event.position)
            .unwrap_or_default(),
        digest: encoder.digest(),
    };
    let Some(noted_row) = shared.store.row(&conflict_key(scope, key)).await? else {
        return case.answer_without_conflict().await;
    };
    let noted: Noted =
        serde_json::from_slice(&noted_row.body).map_err(|error| corrupt(&noted_row, error))?;
    let id = command.unwrap_or_else(|| case.ruling_id(&noted.requested));
    let (changes, mut payload) = match &ruling {
        ConflictRuling::AcceptRecorded => case.accept(&noted)?,
        ConflictRuling::Fork => case.fork().await?,
        ConflictRuling::Fail(error) => case.fail(&noted, error).await?,
    };
    payload["key"] = json!(key);
    payload["ruling"] = value["ruling"].clone();
    payload["mismatch"] = json!(noted.pending.mismatch);
    let mut draft = EventDraft::new(EventKind::ConflictRuled)
        .in_scope(&owner)
        .with_payload(payload);
    draft.caused_by = command.map(|command| command.to_string());
    let event = CanonicalEncoder::new("conflict-ruling-event").bytes(id.as_uuid().as_bytes());
    let mut commit = Commit::new(id, shared.clock.now())
        .guard(Guard::Version(effect_key(scope, key), row.version))
        .guard(Guard::Version(noted_row.key.clone(), noted_row.version))
        .row(RowChange::Delete(noted_row.key))
        .event(NewEvent::from_draft(EventId::derived(event), &draft));
    commit.rows.extend(changes);
    submit(shared, scope, key, commit).await
}

impl Case<'_> {
    /// The identity of a ruling that came without one.
    fn ruling_id(&self, requested: &Value) -> CommitId {
        CommitId::derived(
            CanonicalEncoder::new("conflict-ruling")
                .text(self.scope.as_str())
                .text(self.key.as_str())
                .unsigned(u64::from(self.recorded.row.revision))
                .bytes(self.recorded.row.digest.as_bytes())
                .json(requested)
                .bytes(self.digest.as_bytes()),
        )
    }

    /// What a ruling is told when there is no conflict.
    async fn answer_without_conflict(&self) -> Result<RulingAnswer, RulingError> {
        let accepted = accepted_key(self.scope, self.key);
        let accepted = self.shared.store.row(&accepted).await?;
        let accepted = accepted.as_ref().map(read_accepted).transpose()?;
        let earlier = accepted.map(|accepted| accepted.ruling);
        match earlier.or(self.recorded.row.ruling) {
            Some(earlier) if earlier == self.digest => Ok(RulingAnswer::AlreadyRuled),
            Some(_) => Err(RulingError::RuledOtherwise {
                key: self.key.clone(),
            }),
            None => Err(RulingError::NoConflict {
                key: self.key.clone(),
            }),
        }
    }

    fn accept(&self, noted: &Noted) -> Result<(Vec<RowChange>, Value), RulingError> {
        let requested = runtime_core::EffectEnvelope::identity_digest(&noted.requested);
        if !self.recorded.has_outcome() {
            return Err(RulingError::NothingRecorded {
                key: self.key.clone(),
            });
        }
        let accepted = Accepted {
            schema: 1,
            requested,
            ruling: self.digest,
        };
        let body = serde_json::to_vec(&accepted).expect("an acceptance is plain data");
        let row = RowChange::put(accepted_key(self.scope, self.key), body);
        Ok((vec![row], json!({})))
    }

    async fn fork(&self) -> Result<(Vec<RowChange>, Value), RulingError> {
        let mut changes = Vec::new();
        let mut set_aside = Vec::new();
        for later in self.later_effects().await? {
            let ruling = (later.key == *self.key).then_some(self.digest);
            self.set_aside(&later, ruling, &mut changes);
            set_aside.push(json!({ "key": later.key, "digest": later.row.digest }));
        }
        Ok((changes, json!({ "set_aside": set_aside })))
    }

    async fn fail(
        &self,
        noted: &Noted,
        error: &WireError,
    ) -> Result<(Vec<RowChange>, Value), RulingError> {
        let mut changes = Vec::new();
        let mut set_aside = Vec::new();
        for later in self.later_effects().await? {
            set_aside.push(json!({ "key": later.key, "digest": later.row.digest }));
            if later.key != *self.key {
                self.set_aside(&later, None, &mut changes);
            }
        }
        let requested = runtime_core::EffectEnvelope::identity_digest(&noted.requested);
        let row = EffectRow::new(requested, 0, EffectState::Ruled)
            .with_ruling(Some(self.digest))
            .with_revision(self.recorded.row.revision.saturating_add(1));
        self.replace(self.key, &row, &mut changes);
        let payload = json!({
            "identity": noted.requested,
            "outcome": EffectOutcome::Failed(error.clone()),
            "set_aside": set_aside,
        });
        Ok((changes, payload))
    }

    fn set_aside(&self, later: &Later, ruling: Option<Digest>, changes: &mut Vec<RowChange>) {
        // The digest stays, so that the row can be told from that of another effect.
        let row = EffectRow::new(later.row.digest, 0, EffectState::SetAside)
            .with_ruling(ruling)
            .with_revision(later.row.revision.saturating_add(1));
        self.replace(&later.key, &row, changes);
    }

    /// Puts a row with the event of the ruling, in place of all that was known of its effect.
    fn replace(&self, key: &ReplayKey, row: &EffectRow, changes: &mut Vec<RowChange>) {
        changes.push(RowChange::Put {
            key: effect_key(self.scope, key),
            body: row.to_bytes().into(),
            event: Some(0),
            due: None,
        });
        changes.push(RowChange::Delete(pending_key(self.scope, key)));
        changes.push(RowChange::Delete(accepted_key(self.scope, key)));
    }

    /// The effects of the scope of which the log tells where it tells of this one, or later. A
    /// parked scope records nothing more, so it is not read twice.
    async fn later_effects(&self) -> Result<Vec<Later>, RulingError> {
        let query = RowQuery::scope(EFFECT_SPACE, self.scope.clone());
        let limit = self.shared.store.capabilities().limits.page_entries_max;
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = Page::after(after, limit);
            let page = self.shared.store.rows(query.clone(), page).await?;
            for row in &page.rows {
                let told = row.event.as_ref().map(|event| event.position);
                if told < Some(self.position) {
                    continue;
                }
                let recorded = Recorded::decode(row).map_err(ReadError::from)?;
                if recorded.row.state != EffectState::SetAside {
                    found.push(Later {
                        key: row.key.name.parse().map_err(|error| corrupt(row, error))?,
                        row: recorded.row,
                    });
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }
}

/// An effect that was recorded after another.
struct Later {
    key: ReplayKey,
    row: EffectRow,
}
