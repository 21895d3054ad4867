//! The journal's decision: what to do about an effect, given what is recorded of it. No I/O.

use runtime_core::{
    Digest, EffectOutcome, ErrorClass, EventDraft, ReplayKey, Timestamp, WireError,
};
use runtime_store::{Epoch, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Mismatch;

/// The version of the row form that is written.
const ROW_SCHEMA: u16 = 1;

/// The most differing paths that a conflict names (E4).
const PATHS_MAX: usize = 8;

/// Where a recorded effect stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum EffectState {
    /// An attempt that must not happen twice was about to start in this epoch.
    Started { epoch: Epoch },
    /// An attempt failed; the next may start at `due`.
    Retrying { due: Timestamp },
    /// A wait began; one absolute time for each source, none for a promise.
    Waiting {
        since: Timestamp,
        due: Vec<Option<Timestamp>>,
    },
    /// It is unknown whether it happened.
    InDoubt,
    /// Somebody ruled that it runs again.
    Released,
    /// Somebody ruled its outcome, which is in the event; not yet told by its projector.
    Ruled,
    /// It ended; the outcome is in the event.
    Done,
}

/// The body of a row of space `effect`. Identity and outcome are in the row's event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EffectRow {
    pub(crate) schema: u16,
    /// The digest of the envelope's identity.
    pub(crate) digest: Digest,
    /// The attempts known to have started.
    pub(crate) attempts: u32,
    /// The digest of the last ruling, so that repeating it can be told from contradicting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ruling: Option<Digest>,
    #[serde(flatten)]
    pub(crate) state: EffectState,
}

impl EffectRow {
    pub(crate) const fn new(digest: Digest, attempts: u32, state: EffectState) -> Self {
        Self {
            schema: ROW_SCHEMA,
            digest,
            attempts,
            ruling: None,
            state,
        }
    }

    pub(crate) const fn with_ruling(mut self, ruling: Option<Digest>) -> Self {
        self.ruling = ruling;
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an effect row is plain data")
    }
}

/// What is recorded of an effect: its row and the payload of the row's event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) row: EffectRow,
    /// `{"identity": …, "outcome": …, …}`.
    pub(crate) payload: Value,
    /// The version of the row, for guards.
    pub(crate) version: u64,
}

impl Recorded {
    /// Reads a row of space `effect`.
    pub(crate) fn decode(row: &Row) -> Result<Self, WireError> {
        let event = row
            .event
            .as_ref()
            .ok_or_else(|| corrupt(row.key.name.as_ref(), "it has no event"))?;
        let draft = EventDraft::from_bytes(&event.body)?;
        Ok(Self {
            row: serde_json::from_slice(&row.body)
                .map_err(|error| corrupt(row.key.name.as_ref(), error))?,
            payload: draft.payload,
            version: row.version,
        })
    }

    pub(crate) fn identity(&self) -> &Value {
        &self.payload["identity"]
    }

    pub(crate) fn outcome(&self, key: &str) -> Result<EffectOutcome, WireError> {
        EffectOutcome::deserialize(&self.payload["outcome"]).map_err(|error| corrupt(key, error))
    }
}

fn corrupt(key: &str, reason: impl std::fmt::Display) -> WireError {
    let message = format!("the record of effect {key} is damaged: {reason}");
    WireError::new("effect_record_corrupt", ErrorClass::Corrupt, message)
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requested<'a> {
    pub(crate) key: &'a ReplayKey,
    pub(crate) digest: Digest,
    pub(crate) identity: &'a Value,
    pub(crate) epoch: Epoch,
    pub(crate) retry_safe: bool,
    pub(crate) strict: bool,
    pub(crate) now: Timestamp,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Run this attempt, or begin to wait.
    Run { attempt: u32 },
    /// Run this attempt, but not before `due`.
    NotYetDue { attempt: u32, due: Timestamp },
    /// Go on with a wait that began.
    Wait { due: Vec<Option<Timestamp>> },
    /// Answer this without running.
    Replay(EffectOutcome),
    /// Record this ruled outcome as if it had just come, then answer it.
    Adopt(EffectOutcome),
    /// The record has another effect.
    Conflict(Mismatch),
    /// It is unknown whether this attempt happened; `recorded` says whether that is known yet.
    InDoubt { attempt: u32, recorded: bool },
    /// Strict replay found nothing.
    Missing,
    /// The record is of a later owner.
    Fenced,
}

/// Decides (E4, E7). An effect that is claimed by somebody alive never comes here.
pub(crate) fn decide(
    recorded: Option<&Recorded>,
    requested: &Requested<'_>,
) -> Result<Decision, WireError> {
    let Some(recorded) = recorded else {
        return Ok(if requested.strict {
            Decision::Missing
        } else {
            Decision::Run { attempt: 1 }
        });
    };
    if recorded.row.digest != requested.digest {
        return Ok(Decision::Conflict(mismatch(recorded, requested)));
    }
    let attempts = recorded.row.attempts;
    let next = attempts.saturating_add(1);
    Ok(match &recorded.row.state {
        EffectState::Started { epoch } if *epoch > requested.epoch => Decision::Fenced,
        EffectState::Started { .. } if requested.retry_safe => Decision::Run { attempt: next },
        // The same epoch without a claim: its future was dropped, which is as good as a crash.
        EffectState::Started { .. } => Decision::InDoubt {
            attempt: attempts,
            recorded: false,
        },
        EffectState::Retrying { due } if *due > requested.now => Decision::NotYetDue {
            attempt: next,
            due: *due,
        },
        EffectState::Retrying { .. } | EffectState::Released => Decision::Run { attempt: next },
        EffectState::Waiting { due, .. } => Decision::Wait { due: due.clone() },
        EffectState::InDoubt => Decision::InDoubt {
            attempt: attempts,
            recorded: true,
        },
        EffectState::Ruled => Decision::Adopt(recorded.outcome(requested.key.as_str())?),
        EffectState::Done => Decision::Replay(recorded.outcome(requested.key.as_str())?),
    })
}

fn mismatch(recorded: &Recorded, requested: &Requested<'_>) -> Mismatch {
    Mismatch {
        key: requested.key.clone(),
        recorded: recorded.row.digest,
        requested: requested.digest,
        paths: differing_paths(recorded.identity(), requested.identity),
    }
}

/// The JSON pointers at which two values differ, at most [`PATHS_MAX`]; never their values.
pub(crate) fn differing_paths(left: &Value, right: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect_differences(left, right, &mut String::new(), &mut paths);
    paths
}

fn collect_differences(left: &Value, right: &Value, path: &mut String, paths: &mut Vec<String>) {
    if paths.len() == PATHS_MAX || left == right {
        return;
    }
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let only_right = right.keys().filter(|key| !left.contains_key(*key));
            let mut keys: Vec<&String> = left.keys().chain(only_right).collect();
            keys.sort_unstable();
            for key in keys {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                descend(left.get(key), right.get(key), &escaped, path, paths);
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for index in 0..left.len().max(right.len()) {
                let name = index.to_string();
                descend(left.get(index), right.get(index), &name, path, paths);
            }
        }
        _ => paths.push(path.clone()),
    }
}

fn descend(
    left: Option<&Value>,
    right: Option<&Value>,
    name: &str,
    path: &mut String,
    paths: &mut Vec<String>,
) {
    let parent = path.len();
    path.push('/');
    path.push_str(name);
    match (left, right) {
        (Some(left), Some(right)) => collect_differences(left, right, path, paths),
        // A member that only one side has differs, even from null.
        _ if paths.len() < PATHS_MAX => paths.push(path.clone()),
        _ => {}
    }
    path.truncate(parent);
}
