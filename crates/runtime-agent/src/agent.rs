//! What a turn runs with: instructions, model, tools.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::RetryPolicy;
use runtime_model::Model;
use runtime_tools::{Tool, ToolSource};

use crate::ToolOutputLimits;

/// What a turn runs with. A turn records its instructions and tool definitions when it starts;
/// another agent given to a later run of the same turn changes neither.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The deployment, as the host names it.
    pub version: String,
    /// The instructions for the model.
    pub instructions: Arc<str>,
    /// The model.
    pub model: Arc<dyn Model>,
    /// The tools of the host.
    pub tools: Vec<Arc<dyn Tool>>,
    /// The tool servers.
    pub sources: Vec<Arc<dyn ToolSource>>,
    /// How often and how long a model call is tried.
    pub model_policy: RetryPolicy,
    /// How often and how long a tool call is tried.
    pub tool_policy: RetryPolicy,
    /// How often and how long gathering the tools is tried: what happens when a required tool
    /// server cannot be listed.
    pub environment_policy: RetryPolicy,
    /// How much of a tool's output the model sees.
    pub output_limits: ToolOutputLimits,
}

impl Agent {
    /// Starts an agent without instructions and tools.
    #[must_use]
    pub fn builder(version: impl Into<String>, model: Arc<dyn Model>) -> AgentBuilder {
        let tool_policy = RetryPolicy {
            attempt_timeout: Duration::from_secs(60),
            ..RetryPolicy::default()
        };
        // A required tool server that is down must delay a turn, not fail it (M1).
        let environment_policy = RetryPolicy {
            max_attempts: u32::MAX,
            ..tool_policy
        };
        AgentBuilder {
            agent: Self {
                version: version.into(),
                instructions: Arc::from(""),
                model,
                tools: Vec::new(),
                sources: Vec::new(),
                model_policy: RetryPolicy::default(),
                tool_policy,
                environment_policy,
                output_limits: ToolOutputLimits::default(),
            },
        }
    }
}

/// Builds an [`Agent`].
#[derive(Debug, Clone)]
pub struct AgentBuilder {
    agent: Agent,
}

impl AgentBuilder {
    /// Sets the instructions.
    #[must_use]
    pub fn instructions(mut self, instructions: impl Into<Arc<str>>) -> Self {
        self.agent.instructions = instructions.into();
        self
    }

    /// Adds a tool.
    #[must_use]
    pub fn tool(mut self, tool: Arc<dyn Tool>) -> Self {
        self.agent.tools.push(tool);
        self
    }

    /// Adds a tool server.
    #[must_use]
    pub fn source(mut self, source: Arc<dyn ToolSource>) -> Self {
        self.agent.sources.push(source);
        self
    }

    /// Sets how often and how long a model call is tried, otherwise 3 times 300 seconds.
    #[must_use]
    pub const fn model_policy(mut self, policy: RetryPolicy) -> Self {
        self.agent.model_policy = policy;
        self
    }

    /// Sets how often and how long a tool call is tried, otherwise 3 times 60 seconds.
    #[must_use]
    pub const fn tool_policy(mut self, policy: RetryPolicy) -> Self {
        self.agent.tool_policy = policy;
        self
    }

    /// Sets how often and how long gathering the tools is tried, otherwise 60 seconds again
    /// and again: a required tool server that is down delays a turn.
    #[must_use]
    pub const fn environment_policy(mut self, policy: RetryPolicy) -> Self {
        self.agent.environment_policy = policy;
        self
    }

    /// Sets how much of a tool's output the model sees.
    #[must_use]
    pub const fn output_limits(mut self, limits: ToolOutputLimits) -> Self {
        self.agent.output_limits = limits;
        self
    }

    /// Returns the agent.
    #[must_use]
    pub fn build(self) -> Agent {
        self.agent
    }
}
