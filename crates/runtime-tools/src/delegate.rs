//! Sub-agents: a call that another agent answers.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    ApprovalPolicy, CallId, ExecutionScope, Reserve, ToolDefinition, ToolHints, WireError,
};
use serde_json::{Value, json};

use crate::{Pending, Tool, ToolContext, ToolError, ToolOutput};

/// What a sub-agent is started for.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegation {
    /// Whose call it answers.
    pub scope: ExecutionScope,
    /// The call; it is completed with a [`CallReport`](runtime_core::CallReport) when the sub-agent is done.
    pub call: CallId,
    /// Which agent; none is the one that the host gives by default.
    pub profile: Option<String>,
    /// What it is to do.
    pub task: String,
    /// What it may spend.
    pub reserve: Reserve,
}

/// Starts and cancels sub-agents; the runtime gives one to every call (`runtime-workers`: each
/// sub-agent is a worker of its own, with a session and budgets of its own).
#[async_trait]
pub trait Delegates: fmt::Debug + Send + Sync + 'static {
    /// Starts the sub-agent of a call, once however often it is asked, and returns what names it.
    ///
    /// # Errors
    /// The error of whatever keeps the sub-agents, with its class.
    async fn start(&self, delegation: Delegation) -> Result<Value, WireError>;

    /// Cancels a sub-agent that [`start`](Self::start) has named.
    ///
    /// # Errors
    /// The error of whatever keeps the sub-agents, with its class.
    async fn cancel(&self, handle: &Value) -> Result<(), WireError>;
}

/// A tool by which a model gives a task to a sub-agent and waits for its answer.
///
/// The call parks: a restart of the process loses neither the sub-agent nor its answer. When the
/// turn is cancelled, so is the sub-agent. What it may spend is set aside from the turn's budgets
/// when it starts, and settled by what it spent.
///
/// ```
/// use runtime_tools::{SubAgentTool, Tool};
///
/// let research = SubAgentTool::new("research", "Looks something up and reports.")
///     .profile("researcher")
///     .tokens(50_000);
/// assert!(!research.definition().needs_approval());
/// ```
#[derive(Debug, Clone)]
pub struct SubAgentTool {
    definition: ToolDefinition,
    profile: Option<String>,
    reserve: Reserve,
    deadline: Option<Duration>,
}

impl SubAgentTool {
    /// Makes the tool; the description tells the model what the sub-agent is good for.
    #[must_use]
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        let definition = ToolDefinition {
            name: name.into(),
            display_name: None,
            description: description.into(),
            input_schema: json!({
                "type": "object",
                "properties": {
                    "task": {
                        "type": "string",
                        "description": "The whole task: the sub-agent sees nothing else.",
                    },
                },
                "required": ["task"],
                "additionalProperties": false,
            }),
            output_schema: None,
            category: None,
            approval: ApprovalPolicy::Never,
            hints: ToolHints {
                read_only: false,
                // Starting one again gives the same one back.
                retry_safe: true,
                trusted: true,
            },
            deferrable: false,
        };
        Self {
            definition,
            profile: None,
            reserve: Reserve::default(),
            deadline: None,
        }
    }

    /// Sets which agent answers, otherwise the host's default.
    #[must_use]
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Sets how many tokens one task may spend, otherwise what is left of the turn's.
    #[must_use]
    pub const fn tokens(mut self, tokens: u64) -> Self {
        self.reserve.tokens = Some(tokens);
        self
    }

    /// Sets what one task may cost, in millionths, otherwise what is left of the turn's.
    #[must_use]
    pub const fn cost(mut self, cost: u64) -> Self {
        self.reserve.cost = Some(cost);
        self
    }

    /// Sets how long a task may take, otherwise as long as it likes.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets whether a person is asked first, otherwise not.
    #[must_use]
    pub fn approval(mut self, policy: ApprovalPolicy) -> Self {
        self.definition.approval = policy;
        self
    }

    fn unavailable(&self, reason: impl Into<String>) -> ToolError {
        ToolError::Unavailable {
            tool: self.definition.name.clone(),
            reason: reason.into(),
        }
    }
}

/// The smaller of two limits, where there is one.
fn within(asked: Option<u64>, left: Option<u64>) -> Option<u64> {
    match (asked, left) {
        (Some(asked), Some(left)) => Some(asked.min(left)),
        (asked, left) => asked.or(left),
    }
}

#[async_trait]
impl Tool for SubAgentTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let task = arguments["task"].as_str().unwrap_or_default();
        if task.trim().is_empty() {
            return Err(ToolError::InvalidArguments {
                tool: self.definition.name.clone(),
                reason: "the task is blank".to_owned(),
            });
        }
        let Some(delegates) = &context.delegates else {
            return Err(self.unavailable("no sub-agents can be started here"));
        };
        let reserve = Reserve {
            tokens: within(self.reserve.tokens, context.budget.tokens),
            cost: within(self.reserve.cost, context.budget.cost),
        };
        if reserve.tokens == Some(0) || reserve.cost == Some(0) {
            return Ok(ToolOutput::error("nothing is left to spend on a sub-agent"));
        }
        let started = delegates.start(Delegation {
            scope: context.scope.clone(),
            call: context.call.clone(),
            profile: self.profile.clone(),
            task: task.to_owned(),
            reserve,
        });
        match started.await {
            Ok(handle) => Ok(ToolOutput::Pending(Pending {
                deadline: self.deadline,
                handle: Some(handle),
                reports: true,
                reserve,
                ..Pending::default()
            })),
            Err(error) if error.class.is_final() => {
                let text = format!("{}: {}", error.code, error.message);
                Ok(ToolOutput::error(text))
            }
            Err(error) => Err(self.unavailable(format!("{}: {}", error.code, error.message))),
        }
    }

    async fn cancel(
        &self,
        _arguments: Value,
        handle: Option<Value>,
        context: ToolContext,
    ) -> Result<(), ToolError> {
        let (Some(delegates), Some(handle)) = (&context.delegates, handle) else {
            return Ok(());
        };
        let cancelled = delegates.cancel(&handle).await;
        cancelled.map_err(|error| self.unavailable(format!("{}: {}", error.code, error.message)))
    }
}
