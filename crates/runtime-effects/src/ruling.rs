//! Rulings on effects in doubt (E7). Those on conflicts are in `conflict`.

use runtime_core::{
    CanonicalEncoder, Classified, CommitId, EffectOutcome, ErrorClass, ExecutionScope, ReplayKey,
    ScopeId, WireError,
};
use runtime_store::{Commit, CommitError, Guard, ReadError, RowChange};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::journal::{EffectRow, EffectState, Recorded};
use crate::pending::pending_key;
use crate::recording::{effect_key, ruling_event, ruling_id};
use crate::store_host::Shared;

/// What a person decides about an effect of which nobody knows whether it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ruling", content = "with", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ruling {
    /// It did not happen, or may happen twice: run it once more.
    RunAgain,
    /// It ended so.
    RecordOutcome(EffectOutcome),
    /// It is taken as failed.
    Fail(WireError),
}

/// What became of a ruling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulingAnswer {
    /// It is recorded.
    Ruled,
    /// The same ruling was recorded before; nothing was done now.
    AlreadyRuled,
}

/// Why a ruling on an effect in doubt, or on a conflict, was not recorded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RulingError {
    /// There is no such effect, or its scope is retired.
    #[error("scope {scope} has no effect {key}")]
    NotFound {
        /// The scope.
        scope: ScopeId,
        /// The effect.
        key: ReplayKey,
    },
    /// The effect is not in doubt.
    #[error("effect {key} is not in doubt; there is nothing to rule")]
    NotInDoubt {
        /// The effect.
        key: ReplayKey,
    },
    /// The effect is not in conflict with the record, as far as anybody who drove it found.
    #[error("effect {key} is in no conflict; there is nothing to rule")]
    NoConflict {
        /// The effect.
        key: ReplayKey,
    },
    /// The recorded effect has no outcome that could be accepted.
    #[error("the effect recorded as {key} has no outcome to accept; fork or fail")]
    NothingRecorded {
        /// The effect.
        key: ReplayKey,
    },
    /// Another ruling was recorded first.
    #[error("effect {key} was ruled otherwise already")]
    RuledOtherwise {
        /// The effect.
        key: ReplayKey,
    },
    /// The ruled outcome is of another kind than the effect.
    #[error("an outcome of kind {found} does not fit effect {key}")]
    WrongOutcome {
        /// The effect.
        key: ReplayKey,
        /// The kind of the ruled outcome.
        found: &'static str,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classified for RulingError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ruling_effect_not_found",
            Self::NotInDoubt { .. } => "ruling_not_in_doubt",
            Self::NoConflict { .. } => "ruling_no_conflict",
            Self::NothingRecorded { .. } => "ruling_nothing_recorded",
            Self::RuledOtherwise { .. } => "ruling_contradicted",
            Self::WrongOutcome { .. } => "ruling_wrong_outcome",
            Self::Commit(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::NotInDoubt { .. }
            | Self::NoConflict { .. }
            | Self::NothingRecorded { .. }
            | Self::RuledOtherwise { .. } => ErrorClass::Conflict,
            Self::WrongOutcome { .. } => ErrorClass::Invalid,
            Self::Commit(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }
}

/// Records a ruling.
pub(crate) async fn rule(
    shared: &Shared,
    scope: &ScopeId,
    key: &ReplayKey,
    ruling: Ruling,
    command: Option<CommitId>,
) -> Result<RulingAnswer, RulingError> {
    if is_carried_out(shared, command).await? {
        return Ok(RulingAnswer::AlreadyRuled);
    }
    let recorded = read(shared, scope, key).await?;
    let value = serde_json::to_value(&ruling).expect("a ruling is plain data");
    let digest = CanonicalEncoder::new("effect-ruling-content")
        .json(&value)
        .digest();
    if recorded.row.state != EffectState::InDoubt {
        return match recorded.row.ruling {
            Some(earlier) if earlier == digest => Ok(RulingAnswer::AlreadyRuled),
            Some(_) => Err(RulingError::RuledOtherwise { key: key.clone() }),
            None => Err(RulingError::NotInDoubt { key: key.clone() }),
        };
    }
    let outcome = match &ruling {
        Ruling::RunAgain => None,
        Ruling::RecordOutcome(outcome) => Some(fitting(key, &recorded, outcome.clone())?),
        Ruling::Fail(error) => Some(EffectOutcome::Failed(error.clone())),
    };
    let id = command.unwrap_or_else(|| ruling_id(scope, key, recorded.row.attempts, &digest));
    let state = if outcome.is_none() {
        EffectState::Released
    } else {
        EffectState::Ruled
    };
    let row = EffectRow::new(recorded.row.digest, recorded.row.attempts, state)
        .with_ruling(Some(digest))
        .with_revision(recorded.row.revision);
    let mut payload = json!({
        "identity": recorded.identity(), "key": key, "ruling": value["ruling"],
    });
    if let Some(outcome) = &outcome {
        payload["outcome"] = json!(outcome);
    }
    let owner = ExecutionScope::from_scope_id(scope).map_err(|_| RulingError::NotFound {
        scope: scope.clone(),
        key: key.clone(),
    })?;
    let effect = effect_key(scope, key);
    let commit = Commit::new(id, shared.clock.now())
        .guard(Guard::Version(effect.clone(), recorded.version))
        .row(RowChange::Put {
            key: effect,
            body: row.to_bytes().into(),
            event: Some(0),
            due: None,
        })
        .row(RowChange::Delete(pending_key(scope, key)))
        .event(ruling_event(id, &owner, payload, command));
    submit(shared, scope, key, commit).await
}

/// Says whether the command that brings a ruling has been carried out before.
pub(crate) async fn is_carried_out(
    shared: &Shared,
    command: Option<CommitId>,
) -> Result<bool, ReadError> {
    match command {
        Some(command) => Ok(shared.store.committed(&command).await?.is_some()),
        None => Ok(false),
    }
}

/// Commits a ruling; whoever drives the scope drives it on.
pub(crate) async fn submit(
    shared: &Shared,
    scope: &ScopeId,
    key: &ReplayKey,
    commit: Commit,
) -> Result<RulingAnswer, RulingError> {
    match shared.commit(commit).await {
        Ok(committed) if committed.repeated => Ok(RulingAnswer::AlreadyRuled),
        Ok(_) => {
            let listeners = &shared.registry.listeners;
            listeners.tell(|listener| listener.scope_woken(scope));
            Ok(RulingAnswer::Ruled)
        }
        // Somebody else ruled in between, or the scope was taken over.
        Err(CommitError::Rejected { .. }) => Err(RulingError::RuledOtherwise { key: key.clone() }),
        Err(error) => Err(error.into()),
    }
}

async fn read(shared: &Shared, scope: &ScopeId, key: &ReplayKey) -> Result<Recorded, RulingError> {
    let row = shared.store.row(&effect_key(scope, key)).await?;
    let row = row.ok_or_else(|| RulingError::NotFound {
        scope: scope.clone(),
        key: key.clone(),
    })?;
    Ok(Recorded::decode(&row).map_err(ReadError::from)?)
}

/// Refuses a ruled outcome that its effect could never give (E3).
fn fitting(
    key: &ReplayKey,
    recorded: &Recorded,
    outcome: EffectOutcome,
) -> Result<EffectOutcome, RulingError> {
    if let EffectOutcome::Completed(output) = &outcome {
        let found = output.kind().as_str();
        if recorded.identity()["command"]["kind"] != found {
            return Err(RulingError::WrongOutcome {
                key: key.clone(),
                found,
            });
        }
    }
    Ok(outcome)
}
