//! What happens outside starts processes: subscriptions to sources, and occurrences (E15).
//!
//! A tool reports what happened with its outcome; recording the outcome and starting the
//! subscribed processes is one commit, and an occurrence that was recorded starts nothing again.

use runtime_core::{
    CanonicalEncoder, ProcessId, ProcessRegistration, RequestId, ScopeId, SessionId, Timestamp,
    Trigger,
};
use runtime_store::{
    Commit, CommitError, Guard, Page, Position, ReadError, Row, RowChange, RowKey, RowQuery,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::{self, VersionedGrants};
use super::record::{corrupt, held_scope, process_key, process_scope, retired_key};
use super::schema::check_size;
use super::{ProcessError, Processes};
use crate::store_host::Shared;

const SUBSCRIPTION_SPACE: &str = "process_subscription";
/// The index of a session's subscriptions.
const SUBSCRIBED_SPACE: &str = "session_subscription";
/// Occurrences that were recorded, by their id and by their idempotency key.
pub(super) const OCCURRENCE_SPACE: &str = "process_occurrence";

/// The longest text that names a source, an occurrence or an idempotency key, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// Starts a durable function for each occurrence of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id, unique for its source.
    pub id: RequestId,
    /// The session that holds what it starts.
    pub session: SessionId,
    /// What kind of source, such as `mailbox`.
    pub source_type: String,
    /// Which source of that kind.
    pub source_key: String,
    /// The durable function; its input is `{"input": …, "trigger": …}`.
    pub function: String,
    /// What it is given besides the occurrence.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
}

impl Subscription {
    /// The process that an occurrence starts; the same one has the same id.
    fn process(&self, trigger: &Trigger) -> ProcessRegistration {
        let digest = CanonicalEncoder::new("triggered-process")
            .text(&self.source_type)
            .text(&self.source_key)
            .text(self.id.as_str())
            .text(&trigger.occurrence)
            .digest()
            .to_string();
        // Ids are ASCII, so any byte is a boundary.
        let name = &self.id.as_str()[..self.id.as_str().len().min(96)];
        let process = ProcessId::new(format!("{name}.{}", &digest[..24]));
        let process = process.expect("96 bytes of an id, a dot and 24 digits are within bounds");
        let input = json!({ "input": self.input, "trigger": trigger });
        ProcessRegistration::function(process, self.function.clone(), input)
    }

    fn key(&self) -> RowKey {
        let scope = source_scope(&self.source_type, &self.source_key);
        RowKey::new(SUBSCRIPTION_SPACE, scope, self.id.as_str())
    }

    /// The row of the index of its session, which names the row of the subscription.
    fn index(&self) -> RowChange {
        let source = source_scope(&self.source_type, &self.source_key);
        let name = format!("{source}/{}", self.id);
        let key = RowKey::new(SUBSCRIBED_SPACE, held_scope(&self.session), name);
        let body = json!([self.source_type, self.source_key, self.id]).to_string();
        RowChange::put(key, body.into_bytes())
    }

    fn decode(row: &Row) -> Result<Self, ProcessError> {
        let decoded = serde_json::from_slice(&row.body);
        Ok(decoded.map_err(|error| corrupt(&row.key, error))?)
    }
}

/// The owner of the subscriptions and occurrences of one source.
fn source_scope(source_type: &str, source_key: &str) -> ScopeId {
    let digest = CanonicalEncoder::new("trigger-source")
        .text(source_type)
        .text(source_key)
        .digest();
    ScopeId::new(format!("source/{digest}")).expect("a digest and a word are within the bounds")
}

/// The rows that tell an occurrence from a repetition.
fn occurrence_keys(trigger: &Trigger) -> Vec<RowKey> {
    let scope = source_scope(&trigger.source_type, &trigger.source_key);
    let key = |kind: &str, name: &str| {
        let digest = CanonicalEncoder::new("trigger-occurrence")
            .text(kind)
            .text(name)
            .digest();
        RowKey::new(OCCURRENCE_SPACE, scope.clone(), digest.to_string())
    };
    let again = trigger.idempotency_key.as_ref();
    let again = again.map(|name| key("idempotency_key", name));
    std::iter::once(key("occurrence", &trigger.occurrence))
        .chain(again)
        .collect()
}

pub(crate) fn check_trigger(trigger: &Trigger) -> Result<(), ProcessError> {
    let texts = [
        &trigger.source_type,
        &trigger.source_key,
        &trigger.occurrence,
    ];
    for text in texts.into_iter().chain(&trigger.idempotency_key) {
        check_size("name of a source or occurrence", text.len(), NAME_BYTES_MAX)?;
    }
    Ok(())
}

/// A commit with what some occurrences start, and the processes that it starts.
pub(crate) struct Triggered {
    pub(crate) commit: Commit,
    pub(crate) started: Vec<ProcessId>,
}

/// Adds to a commit what occurrences start: each subscribed process, registered, granted and
/// scheduled. What was recorded before adds nothing. When the commit is rejected, decide anew.
pub(crate) async fn with_triggers(
    shared: &Shared,
    mut commit: Commit,
    triggers: &[Trigger],
) -> Result<Triggered, ProcessError> {
    let mut started = Vec::new();
    let until = commit.time.after(shared.limits.occurrence_retention);
    let mut keys_of_this: Vec<RowKey> = Vec::new();
    for trigger in triggers {
        check_trigger(trigger)?;
        let keys = occurrence_keys(trigger);
        let mut known = keys.iter().any(|key| keys_of_this.contains(key));
        for key in &keys {
            known |= shared.store.row(key).await?.is_some();
        }
        if known {
            continue;
        }
        for key in &keys {
            commit = commit
                .guard(Guard::Absent(key.clone()))
                .row(noted(key, until));
        }
        keys_of_this.extend(keys);
        for subscription in subscriptions(shared, &trigger.source_type, &trigger.source_key).await?
        {
            let registration = subscription.process(trigger);
            let process = registration.process.clone();
            // It was started when its occurrence was last known.
            if was_started(shared, &process).await? {
                continue;
            }
            commit = plan::register(commit, &registration, Some(&shared.lease))?;
            let nobody = VersionedGrants::default();
            commit = plan::grant(commit, &process, &nobody, &subscription.session);
            started.push(process);
        }
    }
    Ok(Triggered { commit, started })
}

/// Says whether a process was started before: it is there, or it is retired, which its tombstone
/// tells for a while and its events as long as they are kept.
async fn was_started(shared: &Shared, process: &ProcessId) -> Result<bool, ReadError> {
    for key in [process_key(process), retired_key(process)] {
        if shared.store.row(&key).await?.is_some() {
            return Ok(true);
        }
    }
    let stream = process_scope(process).stream_key();
    let stream = stream.expect("a process has a stream of its own");
    let first = Page::after(Position(0), 1);
    let page = shared.store.events(Some(&stream), first).await?;
    Ok(!page.events.is_empty())
}

fn noted(key: &RowKey, until: Timestamp) -> RowChange {
    RowChange::Put {
        key: key.clone(),
        body: Vec::new().into(),
        event: None,
        due: Some(until),
    }
}

/// The subscriptions of a source, in the order of their ids.
async fn subscriptions(
    shared: &Shared,
    source_type: &str,
    source_key: &str,
) -> Result<Vec<Subscription>, ProcessError> {
    let scope = source_scope(source_type, source_key);
    let query = RowQuery::scope(SUBSCRIPTION_SPACE, scope);
    let limit = shared.store.capabilities().limits.page_entries_max;
    let page = shared.store.rows(query, Page::after(None, limit)).await?;
    page.rows.iter().map(Subscription::decode).collect()
}

impl Processes {
    /// Lets each occurrence of a source start a function from now on. Says whether that is new:
    /// another subscription of the same id and source is replaced.
    ///
    /// # Errors
    /// [`ProcessError::TooLarge`] when the source has as many subscriptions as it may have.
    pub async fn subscribe(&self, subscription: &Subscription) -> Result<bool, ProcessError> {
        let (source_type, source_key) = (&subscription.source_type, &subscription.source_key);
        for text in [source_type, source_key] {
            check_size("name of a source", text.len(), NAME_BYTES_MAX)?;
        }
        let body = serde_json::to_vec(subscription).expect("a subscription is plain data");
        check_size(
            "subscription",
            body.len(),
            self.limits.registration_bytes_max,
        )?;
        let there = self.subscriptions(source_type, source_key).await?;
        if there.contains(subscription) {
            return Ok(false);
        }
        let known = there.iter().any(|other| other.id == subscription.id);
        let count = there.len() + usize::from(!known);
        check_size(
            "list of subscriptions",
            count,
            self.limits.subscriptions_max,
        )?;
        let commit = self
            .fresh(None)
            .row(RowChange::put(subscription.key(), body))
            .row(subscription.index());
        self.shared.commit(commit).await?;
        Ok(true)
    }

    /// Ends a subscription; says whether there was one. What it has started goes on.
    ///
    /// # Errors
    /// [`ProcessError`] when the store does not work.
    pub async fn unsubscribe(
        &self,
        source_type: &str,
        source_key: &str,
        id: &RequestId,
    ) -> Result<bool, ProcessError> {
        let there = self.subscriptions(source_type, source_key).await?;
        let Some(found) = there
            .into_iter()
            .find(|subscription| subscription.id == *id)
        else {
            return Ok(false);
        };
        let mut commit = self.fresh(None).row(RowChange::Delete(found.key()));
        if let RowChange::Put { key, .. } = found.index() {
            commit = commit.row(RowChange::Delete(key));
        }
        self.shared.commit(commit).await?;
        Ok(true)
    }

    /// Lists the subscriptions of a source, in the order of their ids.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn subscriptions(
        &self,
        source_type: &str,
        source_key: &str,
    ) -> Result<Vec<Subscription>, ProcessError> {
        subscriptions(&self.shared, source_type, source_key).await
    }

    /// Records an occurrence that no tool reports, and starts what is subscribed to it: one
    /// commit. Gives the processes that it started: none when it was recorded before.
    ///
    /// # Errors
    /// [`ProcessError`]; nothing was started, unless the class is Indeterminate.
    pub async fn occurred(&self, trigger: &Trigger) -> Result<Vec<ProcessId>, ProcessError> {
        for _ in 0..self.limits.contention_tries_max {
            let triggers = std::slice::from_ref(trigger);
            let triggered = with_triggers(&self.shared, self.fresh(None), triggers);
            let Triggered { commit, started } = triggered.await?;
            if commit.rows.is_empty() {
                return Ok(started);
            }
            match self.shared.commit(commit).await {
                Ok(_) => {
                    started
                        .iter()
                        .for_each(|process| self.announce_start(process));
                    return Ok(started);
                }
                Err(CommitError::Rejected { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ProcessError::SourceContended {
            source_key: trigger.source_key.clone(),
        })
    }

    /// Ends the subscriptions of a session.
    pub(super) async fn end_subscriptions(&self, session: &SessionId) -> Result<(), ProcessError> {
        loop {
            let query = RowQuery::scope(SUBSCRIBED_SPACE, held_scope(session));
            let page = Page::after(None, self.page_entries());
            let rows = self.shared.store.rows(query, page).await?.rows;
            if rows.is_empty() {
                return Ok(());
            }
            let mut commit = self.fresh(None);
            for row in rows {
                let decoded = serde_json::from_slice(&row.body);
                let (source_type, source_key, id): (String, String, RequestId) =
                    decoded.map_err(|error| corrupt(&row.key, error))?;
                let scope = source_scope(&source_type, &source_key);
                let key = RowKey::new(SUBSCRIPTION_SPACE, scope, id.as_str());
                commit = commit
                    .row(RowChange::Delete(key))
                    .row(RowChange::Delete(row.key));
            }
            self.shared.commit(commit).await?;
        }
    }
}
