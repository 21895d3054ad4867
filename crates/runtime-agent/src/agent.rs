//! What a turn runs with: instructions, model, tools.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{ApprovalPolicy, RetryPolicy};
use runtime_model::Model;
use runtime_tools::{Tool, ToolSource};
use runtime_turn::{CompactionPolicy, ModelPrice, TurnBudgets, TurnStart};
use serde_json::Value;

use crate::{Compactor, ToolOutputLimits};

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
    /// The models that are asked, in this order, once those before have failed for good.
    pub fallbacks: Vec<Arc<dyn Model>>,
    /// What a turn may spend; none is the runtime's own.
    pub budgets: Option<TurnBudgets>,
    /// What models cost, by their names.
    pub prices: BTreeMap<String, ModelPrice>,
    /// The JSON schema that the last answer of a turn must fit.
    pub output_schema: Option<Value>,
    /// When a conversation is compacted, if ever.
    pub compaction: Option<CompactionPolicy>,
    /// Who compacts; none is [`SummaryCompactor`](crate::SummaryCompactor) with the turn's model.
    pub compactor: Option<Arc<dyn Compactor>>,
    /// Whether queued inputs join a running turn before it completes; otherwise each has a turn
    /// of its own.
    pub inputs_join: bool,
    /// Approval policies of the host, by the name of a tool or, ending with `*`, its beginning:
    /// the longest that fits counts, before what the tool itself says.
    pub approvals: BTreeMap<String, ApprovalPolicy>,
    /// Whether spans carry what is said: prompts, answers, arguments and results.
    pub content_capture: bool,
}

impl Agent {
    /// Returns the model of that name, or the first, when a deployment has no such model any more.
    pub(crate) fn model_named(&self, name: &str) -> &Arc<dyn Model> {
        let named = |model: &&Arc<dyn Model>| model.name() == name;
        self.fallbacks.iter().find(named).unwrap_or(&self.model)
    }

    /// Returns the host's own policy for a tool, if it has one.
    pub(crate) fn approval_for(&self, tool: &str) -> Option<&ApprovalPolicy> {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(beginning) => tool.starts_with(beginning),
            None => tool == pattern,
        };
        let fitting = self.approvals.iter().filter(|(pattern, _)| fits(pattern));
        fitting
            .max_by_key(|(pattern, _)| pattern.len())
            .map(|(_, policy)| policy)
    }

    /// Puts into the start of a turn what this agent says about turns. From then on the turn
    /// keeps it, whatever agent drives it.
    #[must_use]
    pub fn starting(&self, mut start: TurnStart) -> TurnStart {
        if let Some(budgets) = self.budgets {
            start.budgets = budgets;
        }
        start.deployment = Some(self.version.clone());
        let names = self.fallbacks.iter().map(|model| model.name().to_owned());
        start.fallbacks = names.collect();
        start.prices.clone_from(&self.prices);
        start.output_schema.clone_from(&self.output_schema);
        start.compaction = self.compaction;
        start.inputs_join = self.inputs_join;
        start
    }

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
                fallbacks: Vec::new(),
                budgets: None,
                prices: BTreeMap::new(),
                output_schema: None,
                compaction: None,
                compactor: None,
                inputs_join: false,
                approvals: BTreeMap::new(),
                content_capture: false,
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

    /// Adds a model that is asked once those before have failed for good. The turn that meets this
    /// stays with the one that answered.
    #[must_use]
    pub fn fallback(mut self, model: Arc<dyn Model>) -> Self {
        self.agent.fallbacks.push(model);
        self
    }

    /// Sets what a turn may spend, otherwise what the runtime says.
    #[must_use]
    pub const fn budgets(mut self, budgets: TurnBudgets) -> Self {
        self.agent.budgets = Some(budgets);
        self
    }

    /// Says what a model costs; a budget of cost needs the price of every model.
    #[must_use]
    pub fn price(mut self, model: impl Into<String>, price: ModelPrice) -> Self {
        self.agent.prices.insert(model.into(), price);
        self
    }

    /// Asks that the last answer of a turn is JSON that fits this schema. An answer that does not
    /// is corrected once; then the turn fails with `output_schema_mismatch`.
    #[must_use]
    pub fn output_schema(mut self, schema: Value) -> Self {
        self.agent.output_schema = Some(schema);
        self
    }

    /// Compacts conversations that grow too long, otherwise none.
    #[must_use]
    pub const fn compaction(mut self, policy: CompactionPolicy) -> Self {
        self.agent.compaction = Some(policy);
        self
    }

    /// Sets who compacts, otherwise the model of the turn.
    #[must_use]
    pub fn compactor(mut self, compactor: Arc<dyn Compactor>) -> Self {
        self.agent.compactor = Some(compactor);
        self
    }

    /// Lets queued inputs join a running turn before it completes, otherwise each has its own.
    #[must_use]
    pub const fn inputs_join(mut self, join: bool) -> Self {
        self.agent.inputs_join = join;
        self
    }

    /// Sets whether a person is asked before a tool of that name runs, or of names that begin so
    /// (`files_*`): the longest that fits counts, before what the tool itself says.
    #[must_use]
    pub fn approval(mut self, tool: impl Into<String>, policy: ApprovalPolicy) -> Self {
        self.agent.approvals.insert(tool.into(), policy);
        self
    }

    /// Lets spans carry prompts, answers, arguments and results, otherwise not.
    #[must_use]
    pub const fn content_capture(mut self, capture: bool) -> Self {
        self.agent.content_capture = capture;
        self
    }

    /// Returns the agent.
    #[must_use]
    pub fn build(self) -> Agent {
        self.agent
    }
}
