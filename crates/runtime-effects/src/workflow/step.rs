//! Steps of a workflow: what runs once and is answered from the record from then on.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use runtime_core::{
    CanonicalEncoder, Digest, EffectCommand, EffectEnvelope, EffectKind, EffectOutput,
    EnvelopeError, ExecutionScope, ReplayKey, RetryPolicy, WireError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, WorkflowContext};
use crate::{AttemptContext, ExecutorError, LocalExecutor};

pub(super) type StepBody<'a> =
    Box<dyn FnMut(AttemptContext) -> BoxFuture<'a, Result<Value, Failure>> + Send + 'a>;

/// A step that is not run yet: await it, or give it to [`WorkflowContext::all`].
///
/// Unless it is declared [`retry_safe`](Self::retry_safe), it is never run a second time by
/// itself: after a crash in the middle of it the process parks until somebody rules (E7).
#[must_use = "a step runs when it is awaited"]
pub struct Step<'a, T> {
    pub(super) context: &'a WorkflowContext,
    pub(super) name: String,
    pub(super) retry_safe: bool,
    policy: RetryPolicy,
    input: Option<Digest>,
    pub(super) body: StepBody<'a>,
    value: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Step<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("retry_safe", &self.retry_safe)
            .finish_non_exhaustive()
    }
}

impl<'a, T> Step<'a, T>
where
    T: Serialize + DeserializeOwned + Send + 'a,
{
    pub(super) fn new<F, Attempt, E>(context: &'a WorkflowContext, name: &str, mut run: F) -> Self
    where
        F: FnMut(AttemptContext) -> Attempt + Send + 'a,
        Attempt: Future<Output = Result<T, E>> + Send + 'a,
        E: Into<Failure>,
    {
        let body = move |attempt| {
            let attempt = run(attempt);
            let encoded = async move {
                let value = attempt.await.map_err(Into::into)?;
                Ok(serde_json::to_value(value)?)
            };
            encoded.boxed()
        };
        Self {
            context,
            name: name.to_owned(),
            retry_safe: false,
            policy: RetryPolicy::default(),
            input: None,
            body: Box::new(body),
            value: PhantomData,
        }
    }

    /// Declares that it may run again: repeated, overlapping or late, it does no harm.
    pub fn retry_safe(mut self) -> Self {
        self.retry_safe = true;
        self
    }

    /// Sets how often it is tried in all, when it fails in a way that may pass.
    pub fn attempts(mut self, max: u32) -> Self {
        self.policy.max_attempts = max.max(1);
        self
    }

    /// Sets the pause after the first failed attempt, which doubles each time, and the longest.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.policy.backoff_initial = initial;
        self.policy.backoff_max = max;
        self
    }

    /// Sets how long one attempt may take.
    pub fn timeout(mut self, attempt: Duration) -> Self {
        self.policy.attempt_timeout = attempt;
        self
    }

    /// Makes a value part of the step's identity: when a later version of the workflow comes to
    /// this step with another one, the process parks instead of using the recorded result (E4).
    ///
    /// # Panics
    /// When the value cannot be JSON, for instance a map whose keys are no texts.
    pub fn input(mut self, value: &impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("the input of a step is JSON");
        self.input = Some(CanonicalEncoder::new("step-input").json(&value).digest());
        self
    }

    /// The effect that it is, and what runs it.
    pub(super) fn effect(
        self,
        scope: &ExecutionScope,
        occurrence: u32,
    ) -> Result<(EffectEnvelope, LocalExecutor<'a>), EnvelopeError> {
        let key = ReplayKey::step(&self.name, occurrence)?;
        let command = EffectCommand::DurableStep {
            name: self.name,
            input: self.input,
        };
        let envelope = EffectEnvelope::new(scope.clone(), key, command)?
            .retry_safe(self.retry_safe)
            .with_policy(self.policy);
        let mut body = self.body;
        let executor = LocalExecutor::new(EffectKind::DurableStep, move |attempt| {
            let attempt = body(attempt);
            async move {
                let value = attempt.await.map_err(ExecutorError::from)?;
                Ok(EffectOutput::DurableStep { value })
            }
        });
        Ok((envelope, executor))
    }
}

impl<'a, T> IntoFuture for Step<'a, T>
where
    T: Serialize + DeserializeOwned + Send + 'a,
{
    type Output = Result<T, WireError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.context.run_step(self).boxed()
    }
}
