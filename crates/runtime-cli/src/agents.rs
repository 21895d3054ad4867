//! The agents of the configuration: which model, which tool servers, which tools ask first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use runtime::agent::Agent;
use runtime::core::{Classified, Clock, Random, ToolDefinition, WireError};
use runtime::mcp::McpSource;
use runtime::mcp_cache::{CacheConfig, Catalogue, DiscoveryCache};
use runtime::store::{SystemClock, SystemRandom};
use runtime::tools::{
    Resumption, SourceListing, Tool, ToolContext, ToolError, ToolOutput, ToolSource,
};
use runtime::workers::{
    Admission, AgentLease, AgentResolver, CreateWorker, WorkerProfile, WorkerRecord,
    unknown_profile,
};
use serde_json::Value;

use crate::config::{ConfigError, Configuration, Problem, Settings};
use crate::work::DEMO_WORKER;
use crate::{demo_agent, provider};

/// Makes the agent of each worker from the configuration, once; servers with one entry are one
/// process.
pub(crate) struct ConfiguredAgents {
    configuration: Arc<Configuration>,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    cache: DiscoveryCache<Catalogue>,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    agents: BTreeMap<(Option<String>, Option<String>), Arc<Agent>>,
    /// By the key of their entry.
    sources: BTreeMap<String, Arc<dyn ToolSource>>,
}

impl fmt::Debug for ConfiguredAgents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfiguredAgents").finish_non_exhaustive()
    }
}

impl ConfiguredAgents {
    pub(crate) fn new(configuration: Arc<Configuration>, directory: &Path) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let cache = DiscoveryCache::new(
            CacheConfig::default(),
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        Self {
            configuration,
            directory: directory.to_path_buf(),
            clock,
            random,
            cache,
            made: Mutex::default(),
        }
    }

    /// Makes every agent that the configuration names, so that what is wrong with any is seen
    /// before anything runs. Nothing is started.
    ///
    /// # Errors
    /// [`ConfigError`] that names the key.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let settings = &self.configuration.settings;
        let mut problems = Vec::new();
        if let Err(problem) = self.agent(None, None) {
            problems.push(problem);
        }
        for profile in settings.profiles.keys() {
            problems.extend(self.agent(None, Some(profile)).err());
        }
        for worker in settings.workers.keys() {
            problems.extend(self.agent(Some(worker), None).err());
        }
        problems.sort_by(|one, other| (one.line, &one.key).cmp(&(other.line, &other.key)));
        problems.dedup();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid { problems })
        }
    }

    fn agent(&self, worker: Option<&str>, profile: Option<&str>) -> Result<Arc<Agent>, Problem> {
        let settings = &self.configuration.settings;
        let worker = worker.filter(|name| settings.workers.contains_key(*name));
        let key = (worker.map(str::to_owned), profile.map(str::to_owned));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = made.agents.get(&key) {
            return Ok(Arc::clone(agent));
        }
        let mut agent = self.base()?;
        for entry in settings.servers(worker, profile) {
            if !entry.discovery {
                continue;
            }
            let source = match made.sources.get(&entry.key) {
                Some(source) => Arc::clone(source),
                None => {
                    let source = McpSource::new(
                        entry.config,
                        Arc::clone(&self.clock),
                        Arc::clone(&self.random),
                        self.cache.clone(),
                    );
                    let source = source.map_err(|error| {
                        self.configuration.problem(&entry.key, error.to_string())
                    })?;
                    let source = Governed {
                        source,
                        configuration: Arc::clone(&self.configuration),
                    };
                    let source: Arc<dyn ToolSource> = Arc::new(source);
                    made.sources.insert(entry.key, Arc::clone(&source));
                    source
                }
            };
            agent.sources.push(source);
        }
        settings.limit(&mut agent);
        let agent = Arc::new(agent);
        made.agents.insert(key, Arc::clone(&agent));
        Ok(agent)
    }

    /// The profile of a worker, if it has one of the configuration.
    fn profile<'a>(&self, profile: &'a WorkerProfile) -> Result<Option<&'a str>, WireError> {
        match profile {
            WorkerProfile::RuntimeDefault => Ok(None),
            WorkerProfile::Named { name }
                if self.configuration.settings.profiles.contains_key(name) =>
            {
                Ok(Some(name))
            }
            other => Err(unknown_profile(other)),
        }
    }

    /// The agent without the servers of the configuration: the scripted one of the demo with its
    /// tools, unless a model is configured.
    fn base(&self) -> Result<Agent, Problem> {
        let settings = &self.configuration.settings;
        let mut agent = if settings.model.is_real() {
            let model = provider::model(&settings.model);
            let model =
                model.map_err(|(key, message)| self.configuration.problem(&key, message))?;
            Agent::builder(env!("CARGO_PKG_VERSION"), model).build()
        } else {
            let demo = demo_agent::build(&self.directory, None);
            let mut demo = demo.map_err(|error| {
                self.configuration
                    .problem("model.name", format!("{error:#}"))
            })?;
            let tools = demo.tools.into_iter();
            demo.tools = tools.map(|tool| govern(settings, tool)).collect();
            demo
        };
        if let Some(instructions) = &settings.agent.instructions {
            agent.instructions = instructions.as_str().into();
        }
        Ok(agent)
    }
}

#[async_trait]
impl AgentResolver for ConfiguredAgents {
    async fn admit(&self, request: &CreateWorker) -> Result<Admission, WireError> {
        self.profile(&request.profile)?;
        let reason = "the command line grants none";
        Ok(Admission::nothing(request, reason))
    }

    async fn resolve(&self, worker: &WorkerRecord) -> Result<AgentLease, WireError> {
        // A turn of the demo goes on as the demo, whatever is configured since.
        let name = worker.request.worker_id.as_str();
        if name == DEMO_WORKER || name.starts_with(&format!("{DEMO_WORKER}-")) {
            let demo = demo_agent::build(&self.directory, None).map(Arc::new);
            return demo
                .map(AgentLease::from)
                .map_err(|error| crate::output::wire(&error));
        }
        let profile = self.profile(&worker.request.profile)?;
        let agent = self.agent(Some(name), profile);
        agent.map(AgentLease::from).map_err(|problem| {
            let problems = vec![problem];
            ConfigError::Invalid { problems }.to_wire()
        })
    }
}

/// A source whose tools ask first as the configuration says.
#[derive(Debug)]
struct Governed {
    source: McpSource,
    configuration: Arc<Configuration>,
}

#[async_trait]
impl ToolSource for Governed {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn required(&self) -> bool {
        self.source.required()
    }

    async fn list(&self) -> SourceListing {
        let mut listing = self.source.list().await;
        let settings = &self.configuration.settings;
        let tools = listing.tools.into_iter();
        listing.tools = tools.map(|tool| govern(settings, tool)).collect();
        listing
    }

    async fn close(&self) {
        self.source.close().await;
    }
}

/// The tool with the approval policy that the configuration has for it, if it has one.
fn govern(settings: &Settings, tool: Arc<dyn Tool>) -> Arc<dyn Tool> {
    match settings.approval(&tool.definition().name) {
        Some(approval) if approval != tool.definition().approval => {
            let definition = ToolDefinition {
                approval,
                ..tool.definition().clone()
            };
            Arc::new(GovernedTool { tool, definition })
        }
        _ => tool,
    }
}

#[derive(Debug)]
struct GovernedTool {
    tool: Arc<dyn Tool>,
    definition: ToolDefinition,
}

#[async_trait]
impl Tool for GovernedTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        self.tool.call(arguments, context).await
    }

    async fn resume(
        &self,
        resumption: Resumption,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        self.tool.resume(resumption, context).await
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
