//! Decorators on the seams of a process: they count the calls of models and tools, and let the
//! process die before, inside or after one of them (R4).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use runtime_core::{ErrorClass, FinishReason, ModelRequest, Role, ToolDefinition};
use runtime_model::{Model, ModelError, ModelStream};
use runtime_store::Store;
use runtime_testkit::FaultStore;
use runtime_tools::{Tool, ToolContext, ToolError, ToolOutput};
use runtime_workers::{TurnStatus, view};
use serde_json::Value;

use super::{TASK, desk};

/// Where in a call the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Nobody has heard of the call.
    Before,
    /// The call was made, its response is lost.
    Inside,
    /// The response came, nobody recorded it.
    After,
}

/// What one life of the process goes through.
#[derive(Debug)]
pub(crate) struct Seams {
    pub(crate) store: Arc<FaultStore>,
    /// The call at which this life ends.
    pub(crate) dies: Mutex<Option<(String, Moment)>>,
    /// How often each call was made, over all lives.
    pub(crate) made: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Seams {
    /// Goes into a call; an error is that this process is dead.
    fn enter(&self, call: &str) -> Result<(), &'static str> {
        if self.store.is_crashed() {
            return Err("the process is dead");
        }
        if self.dies_at(call, Moment::Before) {
            return Err("the process dies");
        }
        *self
            .made
            .lock()
            .unwrap()
            .entry(call.to_owned())
            .or_default() += 1;
        Ok(())
    }

    /// Comes back from a call; an error is that its response is lost.
    fn leave(&self, call: &str) -> Result<(), &'static str> {
        if self.dies_at(call, Moment::Inside) {
            return Err("the process dies");
        }
        self.dies_at(call, Moment::After);
        Ok(())
    }

    fn dies_at(&self, call: &str, moment: Moment) -> bool {
        let mut dies = self.dies.lock().unwrap();
        let dies_now = dies
            .as_ref()
            .is_some_and(|(at, when)| at == call && *when == moment);
        if dies_now {
            *dies = None;
            self.store.crash();
        }
        dies_now
    }

    /// Waits until the caller of a sub-agent is parked, so that what it does is not a race.
    async fn caller_is_parked(&self) -> Result<(), &'static str> {
        loop {
            let store: &dyn Store = &*self.store;
            let turns = view::unfinished_turns(store, Some(&desk())).await;
            let turns = turns.map_err(|_| "the process is dead")?;
            let parked = |turn: &runtime_workers::TurnRecord| {
                matches!(turn.status, TurnStatus::Parked { .. })
            };
            if turns.iter().all(parked) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A model on a seam.
#[derive(Debug)]
pub(crate) struct SeamModel {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) seams: Arc<Seams>,
}

/// Whose call it is, and which of its turn.
fn call_of(request: &ModelRequest) -> (bool, String) {
    let input = request
        .messages
        .iter()
        .rposition(|message| message.role == Role::User)
        .unwrap();
    let is_child = request.messages[input].plain_text().contains(TASK);
    let answers = request.messages[input..]
        .iter()
        .filter(|message| message.role == Role::Assistant);
    let who = if is_child { "child" } else { "desk" };
    (is_child, format!("{who} model {}", answers.count() + 1))
}

#[async_trait]
impl Model for SeamModel {
    fn provider(&self) -> &str {
        self.model.provider()
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        let (is_child, call) = call_of(&request);
        let dead = |why: &'static str| ModelError {
            provider: "scripted".to_owned(),
            model: self.name().to_owned(),
            code: "model_script_ended",
            class: ErrorClass::Unavailable,
            reason: FinishReason::ProviderError,
            message: why.to_owned(),
            provider_code: None,
            retry_after: None,
        };
        if is_child {
            self.seams.caller_is_parked().await.map_err(dead)?;
        }
        self.seams.enter(&call).map_err(dead)?;
        let stream = self.model.stream(request).await;
        self.seams.leave(&call).map_err(dead)?;
        stream
    }
}

/// A tool on a seam.
#[derive(Debug)]
pub(crate) struct SeamTool {
    pub(crate) tool: Arc<dyn Tool>,
    pub(crate) seams: Arc<Seams>,
}

impl SeamTool {
    fn lost(&self, why: &'static str) -> ToolError {
        ToolError::Indeterminate {
            tool: self.tool.definition().name.clone(),
            reason: why.to_owned(),
        }
    }
}

#[async_trait]
impl Tool for SeamTool {
    fn definition(&self) -> &ToolDefinition {
        self.tool.definition()
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let call = self.definition().name.clone();
        self.seams.enter(&call).map_err(|why| self.lost(why))?;
        let output = self.tool.call(arguments, context).await;
        self.seams.leave(&call).map_err(|why| self.lost(why))?;
        output
    }

    async fn cancel(
        &self,
        arguments: Value,
        handle: Option<Value>,
        context: ToolContext,
    ) -> Result<(), ToolError> {
        self.tool.cancel(arguments, handle, context).await
    }
}
