//! The journal's decision: what to do about an effect, given what is recorded of it. No I/O.

use runtime_core::{
    Digest, EffectEnvelope, EffectOutcome, ErrorClass, EventDraft, ReplayKey, Timestamp, WireError,
};
use runtime_store::{Epoch, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    /// Somebody ruled that what is recorded counts no more: it is as unknown as if it had never
    /// run (E4).
    SetAside,
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
    /// How often what was recorded was set aside; commits of an effect that runs anew have other
    /// ids.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) revision: u32,
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
            revision: 0,
            state,
        }
    }

    pub(crate) const fn with_ruling(mut self, ruling: Option<Digest>) -> Self {
        self.ruling = ruling;
        self
    }

    pub(crate) const fn with_revision(mut self, revision: u32) -> Self {
        self.revision = revision;
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an effect row is plain data")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(revision: &u32) -> bool {
    *revision == 0
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
        Self::decode_beside(row, None)
    }

    /// Reads the row of an effect that most likely is the one asked for.
    pub(crate) fn decode_for(row: &Row, requested: &Requested<'_>) -> Result<Self, WireError> {
        Self::decode_beside(row, Some(requested))
    }

    fn decode_beside(row: &Row, requested: Option<&Requested<'_>>) -> Result<Self, WireError> {
        let event = row
            .event
            .as_ref()
            .ok_or_else(|| corrupt(row.key.name.as_ref(), "it has no event"))?;
        let draft = EventDraft::from_bytes(&event.body)?;
        let recorded = Self {
            row: serde_json::from_slice(&row.body)
                .map_err(|error| corrupt(row.key.name.as_ref(), error))?,
            payload: draft.payload,
            version: row.version,
        };
        match recorded.contradiction(&row.key.name, requested) {
            None => Ok(recorded),
            Some(reason) => Err(corrupt(row.key.name.as_ref(), reason)),
        }
    }

    /// Says what is wrong when the row and its event do not tell of the same step of the same
    /// effect: then one of them was changed or took the other's place, and neither is believed.
    fn contradiction(&self, key: &str, requested: Option<&Requested<'_>>) -> Option<&'static str> {
        if self.row.schema > ROW_SCHEMA {
            return Some("its form is of a later version");
        }
        if self.row.state == EffectState::SetAside {
            let mut set_aside = self.payload["set_aside"].as_array().into_iter().flatten();
            let named = json!({ "key": key, "digest": self.row.digest });
            let is_named = set_aside.any(|effect| *effect == named);
            return (!is_named).then_some("its event sets other effects aside");
        }
        // What is the same as something of the same digest needs no digest of its own.
        let is_requested = |requested: &Requested<'_>| {
            requested.digest == self.row.digest && requested.identity == self.identity()
        };
        if !requested.is_some_and(is_requested)
            && EffectEnvelope::identity_digest(self.identity()) != self.row.digest
        {
            return Some("its event is that of another effect");
        }
        (!self.is_told()).then_some("its event tells of another step")
    }

    /// Says whether the event is one that leads to the state of the row.
    fn is_told(&self) -> bool {
        let has = |member: &str| self.payload.get(member).is_some();
        let of_attempt = self.payload["attempt"] == self.row.attempts;
        match &self.row.state {
            EffectState::Started { .. } => of_attempt && !has("reason") && !has("error"),
            EffectState::Retrying { due } => of_attempt && self.payload["next_due"] == json!(due),
            EffectState::Waiting { since, due } => {
                let earliest = due.iter().flatten().min();
                self.payload["since"] == json!(since) && self.payload["due"] == json!(earliest)
            }
            EffectState::InDoubt => of_attempt && has("reason"),
            EffectState::Released => self.payload["ruling"] == "run_again",
            EffectState::Ruled => has("ruling") && has("outcome"),
            EffectState::Done => has("outcome") && !has("ruling"),
            // Of several effects at once.
            EffectState::SetAside => false,
        }
    }

    pub(crate) fn identity(&self) -> &Value {
        &self.payload["identity"]
    }

    pub(crate) const fn has_outcome(&self) -> bool {
        matches!(self.row.state, EffectState::Done | EffectState::Ruled)
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
    if recorded.row.state == EffectState::SetAside {
        return decide(None, requested);
    }
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
        EffectState::Done | EffectState::SetAside => {
            Decision::Replay(recorded.outcome(requested.key.as_str())?)
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use runtime_core::EffectOutput;
    use serde_json::json;

    use super::*;

    fn digest(of: &str) -> Digest {
        Digest::of_bytes(of.as_bytes())
    }

    fn ended() -> EffectOutcome {
        EffectOutcome::Completed(EffectOutput::DurableStep { value: json!(4) })
    }

    fn recorded(attempts: u32, state: EffectState) -> Recorded {
        Recorded {
            row: EffectRow::new(digest("asked"), attempts, state),
            payload: json!({ "identity": { "command": { "kind": "a" } }, "outcome": ended() }),
            version: 1,
        }
    }

    fn answer(
        recorded: Option<&Recorded>,
        asked: &str,
        retry_safe: bool,
        strict: bool,
    ) -> Decision {
        let key: ReplayKey = "1.durable_step.0".parse().expect("legal");
        let requested = Requested {
            key: &key,
            digest: digest(asked),
            identity: &json!({ "command": { "kind": "b" } }),
            epoch: Epoch(5),
            retry_safe,
            strict,
            now: Timestamp::from_millis(100),
        };
        decide(recorded, &requested).expect("the record is whole")
    }

    fn any_state() -> impl Strategy<Value = EffectState> {
        prop_oneof![
            (0..10u64).prop_map(|epoch| EffectState::Started {
                epoch: Epoch(epoch)
            }),
            (0..200u64).prop_map(|due| EffectState::Retrying {
                due: Timestamp::from_millis(due)
            }),
            Just(EffectState::Waiting {
                since: Timestamp::from_millis(1),
                due: vec![None, Some(Timestamp::from_millis(9))],
            }),
            Just(EffectState::InDoubt),
            Just(EffectState::Released),
            Just(EffectState::Ruled),
            Just(EffectState::Done),
        ]
    }

    /// E4, E7: the whole table, by hand.
    #[test]
    fn e4_each_state_has_its_answer() {
        let due = |millis| Timestamp::from_millis(millis);
        let doubt = |recorded| Decision::InDoubt {
            attempt: 2,
            recorded,
        };
        let started = |epoch| EffectState::Started {
            epoch: Epoch(epoch),
        };
        let table = [
            (started(4), false, doubt(false)),
            (started(5), false, doubt(false)),
            (started(6), false, Decision::Fenced),
            (started(4), true, Decision::Run { attempt: 3 }),
            (
                EffectState::Retrying { due: due(100) },
                false,
                Decision::Run { attempt: 3 },
            ),
            (
                EffectState::Retrying { due: due(101) },
                true,
                Decision::NotYetDue {
                    attempt: 3,
                    due: due(101),
                },
            ),
            (EffectState::InDoubt, false, doubt(true)),
            (EffectState::InDoubt, true, doubt(true)),
            (EffectState::Released, false, Decision::Run { attempt: 3 }),
            (EffectState::Ruled, false, Decision::Adopt(ended())),
            (EffectState::Done, false, Decision::Replay(ended())),
            (EffectState::SetAside, false, Decision::Run { attempt: 1 }),
        ];
        for (state, retry_safe, expected) in table {
            let record = recorded(2, state.clone());
            let found = answer(Some(&record), "asked", retry_safe, false);
            assert_eq!(found, expected, "{state:?}");
        }
        assert_eq!(
            answer(None, "asked", false, false),
            Decision::Run { attempt: 1 }
        );
        assert_eq!(answer(None, "asked", false, true), Decision::Missing);
    }

    /// A record without its outcome is damage, never a reason to run.
    #[test]
    fn e3_a_record_without_outcome_is_corrupt() {
        let mut record = recorded(1, EffectState::Done);
        record.payload = json!({ "identity": {} });
        let key: ReplayKey = "1.durable_step.0".parse().expect("legal");
        let requested = Requested {
            key: &key,
            digest: digest("asked"),
            identity: &Value::Null,
            epoch: Epoch(5),
            retry_safe: true,
            strict: false,
            now: Timestamp::from_millis(0),
        };
        let error = decide(Some(&record), &requested).expect_err("is damaged");
        assert_eq!(
            (error.code.as_str(), error.class),
            ("effect_record_corrupt", ErrorClass::Corrupt)
        );
    }

    #[test]
    fn e4_a_mismatch_names_paths_and_no_values() {
        let left = json!({ "a": 1, "b": { "c/d": [1, 2], "gone": null }, "same": "x" });
        let right = json!({ "a": 2, "b": { "c/d": [1, 3, 4] }, "same": "x", "~new": 1 });
        let paths = differing_paths(&left, &right);
        assert_eq!(paths, ["/a", "/b/c~1d/1", "/b/c~1d/2", "/b/gone", "/~0new"]);
        let many = |n: i32| (0..n).map(|i| json!(i)).collect::<Vec<_>>();
        assert_eq!(
            differing_paths(&json!(many(20)), &json!([])).len(),
            PATHS_MAX
        );
        assert_eq!(differing_paths(&json!(1), &json!("1")), [""]);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c/~]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// E7: what has an intent and no outcome runs again only if it may.
        #[test]
        fn e7_nothing_in_flight_runs_again_by_itself(
            attempts in 0..9u32, state in any_state(), strict: bool,
        ) {
            let record = recorded(attempts, state.clone());
            let found = answer(Some(&record), "asked", false, strict);
            let open = matches!(state, EffectState::Retrying { .. } | EffectState::Released);
            let runs = matches!(found, Decision::Run { .. } | Decision::NotYetDue { .. });
            prop_assert_eq!(runs, open);
        }

        /// E4: another digest is a conflict, whatever is recorded.
        #[test]
        fn e4_another_digest_is_always_a_conflict(
            attempts in 0..9u32, state in any_state(), retry_safe: bool, strict: bool,
        ) {
            let record = recorded(attempts, state);
            let Decision::Conflict(mismatch) = answer(Some(&record), "other", retry_safe, strict)
            else {
                return Err(TestCaseError::fail("no conflict"));
            };
            prop_assert_eq!(mismatch.paths, ["/command/kind"]);
        }

        /// A row reads back as it was written.
        #[test]
        fn a_row_round_trips(attempts in any::<u32>(), state in any_state(), ruled: bool) {
            let row = EffectRow::new(digest("asked"), attempts, state)
                .with_ruling(ruled.then(|| digest("ruling")));
            let read: EffectRow = serde_json::from_slice(&row.to_bytes()).expect("reads");
            prop_assert_eq!(read, row);
        }

        /// E4: paths are named exactly when the values differ, each of them is a place in one.
        #[test]
        fn e4_paths_differ_exactly_when_the_values_do(left in any_json(), right in any_json()) {
            let paths = differing_paths(&left, &right);
            prop_assert_eq!(paths.is_empty(), left == right);
            prop_assert!(paths.len() <= PATHS_MAX);
            for path in &paths {
                prop_assert_ne!(left.pointer(path), right.pointer(path), "{}", path);
            }
            prop_assert_eq!(&paths, &differing_paths(&right, &left));
        }
    }

    /// E4: a row says of revisions only that there were some.
    #[test]
    fn e4_a_row_names_its_revision_only_if_something_was_set_aside() {
        let row = EffectRow::new(digest("asked"), 1, EffectState::Done);
        let written = |row: &EffectRow| serde_json::to_value(row).expect("is plain data");
        assert_eq!(written(&row).get("revision"), None);
        assert_eq!(written(&row.with_revision(2))["revision"], 2);
    }

    /// E4: a row is believed only with the event of its own step, also when that event is of the
    /// very effect that is asked for.
    #[test]
    fn e4_a_row_is_believed_only_with_the_event_of_its_own_step() {
        let key: ReplayKey = "1.durable_step.0".parse().expect("legal");
        let identity = json!({ "command": { "kind": "a" } });
        let requested = Requested {
            key: &key,
            digest: EffectEnvelope::identity_digest(&identity),
            identity: &identity,
            epoch: Epoch(5),
            retry_safe: true,
            strict: false,
            now: Timestamp::from_millis(0),
        };
        let told = json!({ "identity": identity, "outcome": ended() });
        let mut ruled = told.clone();
        ruled["ruling"] = json!("record_outcome");
        let another = Some("its event is that of another effect");
        for (digest, payload, expected) in [
            (requested.digest, &told, None),
            (digest("damaged"), &told, another),
            (
                requested.digest,
                &ruled,
                Some("its event tells of another step"),
            ),
        ] {
            let recorded = Recorded {
                row: EffectRow::new(digest, 1, EffectState::Done),
                payload: payload.clone(),
                version: 1,
            };
            let found = recorded.contradiction(key.as_str(), Some(&requested));
            assert_eq!(found, expected, "{payload}");
        }
    }
}
