//! What runs processes: named functions, and runners for the other inputs.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{ProcessInput, ProcessRegistration};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, WorkflowContext};

/// Runs the processes of one kind of input.
#[async_trait]
pub trait ProcessRunner: Send + Sync {
    /// Says what is wrong with an input, before a process is started with it.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, _input: &ProcessInput) -> Result<(), String> {
        Ok(())
    }

    /// Runs a process. What it did through its context is answered from the record when it is
    /// driven again.
    ///
    /// # Errors
    /// How the process failed.
    async fn run(
        &self,
        context: WorkflowContext,
        registration: &ProcessRegistration,
    ) -> Result<Value, Failure>;
}

/// The runners of an instance: durable functions by their name, others by the kind of their input.
#[derive(Clone, Default)]
pub struct Functions {
    functions: HashMap<String, Arc<dyn ProcessRunner>>,
    kinds: HashMap<&'static str, Arc<dyn ProcessRunner>>,
    sessions: bool,
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = self.functions.keys().map(String::as_str).collect();
        names.sort_unstable();
        f.debug_struct("Functions")
            .field("names", &names)
            .finish_non_exhaustive()
    }
}

impl Functions {
    /// Adds a durable function. The name is what processes remember: keep it when the code moves.
    #[must_use]
    pub fn function<I, O, E, F, Running>(mut self, name: impl Into<String>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        E: Into<Failure>,
        F: Fn(WorkflowContext, I) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<O, E>> + Send + 'static,
    {
        let function = Function {
            function,
            types: PhantomData::<fn(I) -> O>,
        };
        self.functions.insert(name.into(), Arc::new(function));
        self
    }

    /// Adds what runs processes of another kind of input, as [`ProcessInput::kind`] names it.
    #[must_use]
    pub fn runner(mut self, kind: &'static str, runner: Arc<dyn ProcessRunner>) -> Self {
        self.kinds.insert(kind, runner);
        self
    }

    /// Says that inputs of sessions are taken here: a process of kind `session_turn` may start, and
    /// the turn that works on its input ends it.
    #[must_use]
    pub const fn session_turns(mut self) -> Self {
        self.sessions = true;
        self
    }

    /// Says whether sessions take inputs here.
    pub(super) const fn takes_session_turns(&self) -> bool {
        self.sessions
    }

    /// Returns what runs a process of that input.
    pub(super) fn of(&self, input: &ProcessInput) -> Option<&Arc<dyn ProcessRunner>> {
        match input {
            ProcessInput::Function { name, .. } => self.functions.get(name),
            other => self.kinds.get(other.kind()),
        }
    }
}

struct Function<F, I, O> {
    function: F,
    types: PhantomData<fn(I) -> O>,
}

#[async_trait]
impl<I, O, E, F, Running> ProcessRunner for Function<F, I, O>
where
    I: DeserializeOwned + Send + 'static,
    O: Serialize + 'static,
    E: Into<Failure>,
    F: Fn(WorkflowContext, I) -> Running + Send + Sync + 'static,
    Running: Future<Output = Result<O, E>> + Send + 'static,
{
    fn check(&self, input: &ProcessInput) -> Result<(), String> {
        decode::<I>(input).map(drop)
    }

    async fn run(
        &self,
        context: WorkflowContext,
        registration: &ProcessRegistration,
    ) -> Result<Value, Failure> {
        let input = match decode(&registration.input) {
            Ok(input) => input,
            // It was checked when it was started, so this is another version of the function.
            Err(reason) => return context.park_undecodable(reason).await,
        };
        let output = (self.function)(context, input).await.map_err(Into::into)?;
        Ok(serde_json::to_value(output)?)
    }
}

fn decode<I: DeserializeOwned>(input: &ProcessInput) -> Result<I, String> {
    let ProcessInput::Function { input, .. } = input else {
        return Err(format!("a {} is no function", input.kind()));
    };
    I::deserialize(input).map_err(|error| error.to_string())
}
