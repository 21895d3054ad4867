//! Local executors: what really calls the model or the tool.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use runtime_core::{EffectKind, EffectOutput, Timestamp, Trigger, WireError};

/// What one attempt is told.
#[derive(Debug, Clone)]
pub struct AttemptContext {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The same for every attempt of this effect.
    pub idempotency_key: String,
    /// The epoch of the scope, as a fencing token (E5).
    pub fencing_token: u64,
    /// When this attempt is given up; the controller drops it then.
    pub deadline: Timestamp,
    /// Where it reports what happened outside, so that its outcome and the processes that this
    /// starts are recorded together (E15). An attempt that fails reports nothing.
    pub triggers: TriggerReports,
}

/// What one attempt reports of what happened outside. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct TriggerReports {
    reported: Arc<Mutex<Vec<Trigger>>>,
}

impl TriggerReports {
    /// Reports an occurrence.
    pub fn report(&self, trigger: Trigger) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.push(trigger);
    }

    pub(crate) fn take(&self) -> Vec<Trigger> {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *reported)
    }
}

/// Whether a failed attempt may have had its effect (E6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It certainly had none.
    No,
    /// Nobody knows.
    Unknown,
}

/// Why an attempt gave no output.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{error}")]
pub struct ExecutorError {
    /// The error; its class decides on trying again and on recording (C3).
    pub error: WireError,
    /// Whether it may have had its effect.
    pub applied: Applied,
}

type Attempt<'run> =
    dyn FnMut(AttemptContext) -> BoxFuture<'run, Result<EffectOutput, ExecutorError>> + Send + 'run;

/// What runs an effect of one kind: called once for each attempt, never two at a time.
///
/// It may borrow from its driver (`'run`); it is never spawned.
pub struct LocalExecutor<'run> {
    kind: EffectKind,
    attempt: Box<Attempt<'run>>,
}

impl<'run> LocalExecutor<'run> {
    /// Makes an executor for one kind of effect from a function that starts an attempt.
    pub fn new<F, Attempted>(kind: EffectKind, mut attempt: F) -> Self
    where
        F: FnMut(AttemptContext) -> Attempted + Send + 'run,
        Attempted: Future<Output = Result<EffectOutput, ExecutorError>> + Send + 'run,
    {
        Self {
            kind,
            attempt: Box::new(move |context| Box::pin(attempt(context))),
        }
    }

    /// Returns the kind of effect that it runs.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        self.kind
    }

    /// Starts an attempt.
    pub fn attempt(
        &mut self,
        context: AttemptContext,
    ) -> BoxFuture<'run, Result<EffectOutput, ExecutorError>> {
        (self.attempt)(context)
    }
}

impl fmt::Debug for LocalExecutor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalExecutor")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
