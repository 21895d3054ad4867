//! Events of processes that become inputs of their owners' sessions, each exactly once (E15).

use runtime_core::{
    CanonicalEncoder, EventDraft, ProcessId, ScopeId, SessionId, SubmissionId, Timestamp,
};
use runtime_store::{Page, RowChange, RowKey, RowQuery};

use super::record::corrupt;
use super::{ProcessError, Processes};

/// The space of wakes that no session has taken yet.
const WAKE_SPACE: &str = "process_wake";

/// One input that a process gives a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessWake {
    /// The session.
    pub session: SessionId,
    /// The process.
    pub process: ProcessId,
    /// What is said.
    pub text: String,
    /// The identity of the input: taking the same wake twice submits the same input.
    pub submission: SubmissionId,
    /// The row; remove it in the commit that accepts the input, or after it.
    pub row: RowKey,
}

/// The row of a wake; it goes by the time it was told, then by what told it.
pub(super) fn wake_change(
    session: &SessionId,
    process: &ProcessId,
    key: &str,
    now: Timestamp,
    event: usize,
) -> RowChange {
    let digest = identity(process, key).digest().to_string();
    let name = format!("{:020}.{}", now.as_millis(), &digest[..32]);
    let scope = ScopeId::new(format!("wakes/{session}")).expect("an id and a word are in bounds");
    RowChange::Put {
        key: RowKey::new(WAKE_SPACE, scope, name),
        body: Vec::new().into(),
        event: Some(event),
        due: None,
    }
}

fn identity(process: &ProcessId, key: &str) -> CanonicalEncoder {
    CanonicalEncoder::new("process-wake")
        .text(process.as_str())
        .text(key)
}

impl Processes {
    /// Reads the wakes that no session has taken, in the order in which they were told, at most
    /// `limit`, after that row. Go on after the greatest row of a page.
    ///
    /// # Errors
    /// [`ProcessError`] when the store cannot be read.
    pub async fn wakes(
        &self,
        after: Option<RowKey>,
        limit: usize,
    ) -> Result<Vec<ProcessWake>, ProcessError> {
        let page = Page::after(after, limit);
        let page = self.shared.store.rows(RowQuery::space(WAKE_SPACE), page);
        let mut rows = page.await?.rows;
        // Of one moment several may come; the log says which was first.
        rows.sort_by_key(|row| row.event.as_ref().map(|event| event.position));
        let wakes = rows.into_iter().map(|row| {
            let bad = |reason: &str| ProcessError::from(corrupt(&row.key, reason));
            let event = row.event.as_ref().ok_or_else(|| bad("it has no event"))?;
            let draft = EventDraft::from_bytes(&event.body)?;
            let field = |name: &str| draft.payload[name].as_str().ok_or_else(|| bad(name));
            let process = ProcessId::new(field("process")?).map_err(|_| bad("process"))?;
            let digest = identity(&process, field("key")?).digest().to_string();
            let submission = SubmissionId::new(format!("wake-{}", &digest[..32]));
            Ok(ProcessWake {
                session: draft.session.clone().ok_or_else(|| bad("session"))?,
                text: field("text")?.to_owned(),
                submission: submission.expect("a digest is within the bounds"),
                process,
                row: row.key.clone(),
            })
        });
        wakes.collect()
    }

    /// Forgets a wake whose input was accepted, or can never be.
    ///
    /// # Errors
    /// [`ProcessError`]; it is read again then.
    pub async fn wake_taken(&self, wake: &ProcessWake) -> Result<(), ProcessError> {
        let commit = self.fresh(None).row(RowChange::Delete(wake.row.clone()));
        self.shared.commit(commit).await?;
        Ok(())
    }
}
