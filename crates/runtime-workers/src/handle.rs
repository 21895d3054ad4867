//! A worker as its user holds it.

use runtime_core::{SessionId, SubmissionId, Topic, WorkerId, WorkerRef};
use runtime_events::{Cursor, EventStream};

use crate::{InputReceipt, Runtime, RuntimeError};

/// A worker of an open runtime. Clones are the same worker.
#[derive(Debug, Clone)]
pub struct Worker {
    runtime: Runtime,
    reference: WorkerRef,
}

impl Worker {
    pub(crate) const fn new(runtime: Runtime, reference: WorkerRef) -> Self {
        Self { runtime, reference }
    }

    /// Returns the worker's id.
    #[must_use]
    pub const fn id(&self) -> &WorkerId {
        &self.reference.worker_id
    }

    /// Returns the only authority over the worker.
    #[must_use]
    pub const fn reference(&self) -> &WorkerRef {
        &self.reference
    }

    /// Sends an input under a fresh submission id.
    ///
    /// # Errors
    /// As [`Runtime::submit`].
    pub async fn send(&self, text: &str) -> Result<InputReceipt, RuntimeError> {
        self.runtime.send(self.id(), text).await
    }

    /// Sends an input under a submission id of the caller: repeating it is accepted once.
    ///
    /// # Errors
    /// As [`Runtime::submit`].
    pub async fn submit(
        &self,
        submission: SubmissionId,
        text: &str,
    ) -> Result<InputReceipt, RuntimeError> {
        self.runtime.submit(self.id(), submission, text).await
    }

    /// Sends an input and returns the text of the last message of its turn.
    ///
    /// # Errors
    /// As [`Runtime::ask`].
    pub async fn ask(&self, text: &str) -> Result<String, RuntimeError> {
        self.runtime.ask(self.id(), text).await
    }

    /// Follows the worker's session, from the cursor or from its first event: see
    /// [`Runtime::subscribe`].
    #[must_use]
    pub fn subscribe(&self, from: Option<Cursor>) -> EventStream {
        let topic = Topic::Session {
            session: SessionId::from(self.id()),
        };
        self.runtime.subscribe(topic, from)
    }
}
