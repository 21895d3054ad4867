//! A worker as its user holds it.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use runtime_core::{SessionId, SubmissionId, Topic, WorkerId, WorkerRef};
use runtime_events::{Cursor, EventStream, StreamItem, SubscribeError};

use crate::{
    InputReceipt, Runtime, RuntimeError, SystemInputReceipt, Transcript, WorkerReceipt,
    WorkerRecord,
};

/// What happens in one turn, up to and with its end.
pub type TurnStream = Pin<Box<dyn Stream<Item = Result<StreamItem, SubscribeError>> + Send>>;

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

    /// Gives it a System input: see [`Runtime::submit_system`].
    ///
    /// # Errors
    /// As [`Runtime::submit_system`].
    pub async fn submit_system(
        &self,
        submission: SubmissionId,
        text: &str,
    ) -> Result<SystemInputReceipt, RuntimeError> {
        self.runtime
            .submit_system(self.id(), submission, text)
            .await
    }

    /// Reads the worker's record.
    ///
    /// # Errors
    /// [`RuntimeError`] when the store cannot be read.
    pub async fn detail(&self) -> Result<WorkerRecord, RuntimeError> {
        crate::view::worker(self.runtime.store(), self.id()).await
    }

    /// Stops it: see [`Runtime::stop_worker`].
    ///
    /// # Errors
    /// As [`Runtime::stop_worker`].
    pub async fn stop(&self, reason: Option<String>) -> Result<WorkerReceipt, RuntimeError> {
        self.runtime.stop_worker(self.id(), reason).await
    }

    /// Lets it go on: see [`Runtime::resume`].
    ///
    /// # Errors
    /// As [`Runtime::resume`].
    pub async fn resume(&self) -> Result<WorkerReceipt, RuntimeError> {
        self.runtime.resume(self.id()).await
    }

    /// Cancels it: see [`Runtime::cancel`].
    ///
    /// # Errors
    /// As [`Runtime::cancel`].
    pub async fn cancel(&self, reason: Option<String>) -> Result<WorkerReceipt, RuntimeError> {
        self.runtime.cancel(self.id(), reason).await
    }

    /// Deletes it: see [`Runtime::delete`].
    ///
    /// # Errors
    /// As [`Runtime::delete`].
    pub async fn delete(&self, reason: Option<String>) -> Result<WorkerReceipt, RuntimeError> {
        self.runtime.delete(self.id(), reason).await
    }

    /// Reads a page of its transcript: see [`Runtime::transcript`].
    ///
    /// # Errors
    /// As [`Runtime::transcript`].
    pub async fn transcript(&self, start: u64, limit: usize) -> Result<Transcript, RuntimeError> {
        self.runtime.transcript(self.id(), start, limit).await
    }

    /// Sends an input and returns the text of the last message of its turn.
    ///
    /// # Errors
    /// As [`Runtime::ask`].
    pub async fn ask(&self, text: &str) -> Result<String, RuntimeError> {
        self.runtime.ask(self.id(), text).await
    }

    /// Sends an input and follows its turn to its end. No event of it is missed, and the stream
    /// has joined before the input is sent, so that a reader who reads sees its first delta as
    /// well; one that falls behind may lose deltas, never events (V3).
    ///
    /// # Errors
    /// As [`Runtime::submit`].
    pub async fn stream(&self, text: &str) -> Result<TurnStream, RuntimeError> {
        let from = self.runtime.cursor_now().await?;
        let mut session = self.subscribe(Some(from));
        session
            .join()
            .await
            .map_err(|error| RuntimeError::from_part(&error))?;
        let turn = self.send(text).await?.turn;
        let items = stream::unfold(Some((session, turn)), |state| async {
            let (mut session, turn) = state?;
            loop {
                let item = session.next().await?;
                let (ours, last) = match &item {
                    Ok(StreamItem::Event(event)) => {
                        let ours = event.draft.turn.as_ref() == Some(&turn);
                        (ours, ours && event.kind().ends_turn())
                    }
                    Ok(StreamItem::Delta(delta)) => (delta.turn == turn, false),
                    _ => (true, false),
                };
                if ours {
                    return Some((item, (!last).then_some((session, turn))));
                }
            }
        });
        Ok(Box::pin(items))
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
