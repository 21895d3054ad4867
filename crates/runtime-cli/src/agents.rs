//! The agents of the configuration: which model, which tool servers, which tools ask first.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use runtime::agent::Agent;
use runtime::agent_cache::{AgentCache, AgentKey, Build, DropIt};
use runtime::core::{Classified, CommitId, ErrorClass, ToolDefinition, WireError};
use runtime::mcp::{McpError, McpSource};
use runtime::store::{SystemClock, SystemRandom};
use runtime::tools::{
    Resumption, SourceListing, Tool, ToolContext, ToolError, ToolOutput, ToolSource,
};
use runtime::workers::{
    Admission, AgentLease, AgentResolver, CommandAnswer, CreateWorker, WorkerProfile, WorkerRecord,
    unknown_profile,
};
use serde_json::Value;

use crate::config::{ConfigError, Configuration, Problem, Settings};
use crate::tool_servers::{ToolApproval, ToolServers};
use crate::work::DEMO_WORKER;
use crate::{demo_agent, provider};

/// The version of every agent: a configuration is read once.
const VERSION: u64 = 1;

/// The agents of the configuration, leased for the length of a turn.
pub(crate) struct ConfiguredAgents {
    maker: Arc<Maker>,
    cache: AgentCache<Agent>,
}

/// Makes agents from the configuration; servers with one entry are one process.
struct Maker {
    configuration: Arc<Configuration>,
    directory: PathBuf,
    servers: ToolServers,
}

impl fmt::Debug for ConfiguredAgents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfiguredAgents").finish_non_exhaustive()
    }
}

impl ConfiguredAgents {
    pub(crate) fn new(
        configuration: Arc<Configuration>,
        directory: &Path,
        servers: ToolServers,
    ) -> Self {
        let cache = AgentCache::new(
            configuration.agent_cache.clone(),
            Arc::new(SystemClock::new()),
            Arc::new(SystemRandom),
            Arc::new(DropIt),
        );
        Self {
            maker: Arc::new(Maker {
                configuration,
                directory: directory.to_path_buf(),
                servers,
            }),
            cache,
        }
    }

    /// Makes every agent that the configuration names, so that what is wrong with any is seen
    /// before anything runs. Nothing is started.
    ///
    /// # Errors
    /// [`ConfigError`] that names the key.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let settings = &self.maker.configuration.settings;
        let profiles = settings
            .profiles
            .keys()
            .map(|profile| (None, Some(profile)));
        let workers = settings.workers.keys().map(|worker| (Some(worker), None));
        let all = std::iter::once((None, None)).chain(profiles).chain(workers);
        let made = all.map(|(worker, profile): (Option<&String>, Option<&String>)| {
            let (worker, profile) = (worker.map(|name| &**name), profile.map(|name| &**name));
            self.maker.agent(worker, profile)
        });
        let mut problems: Vec<Problem> = made.filter_map(Result::err).collect();
        problems.sort_by(|one, other| (one.line, &one.key).cmp(&(other.line, &other.key)));
        problems.dedup();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid { problems })
        }
    }

    /// Leases an agent of the cache; builds it if it is not there.
    async fn lease(
        &self,
        worker: &WorkerRecord,
        profile: Option<&str>,
    ) -> Result<AgentLease, WireError> {
        let name = worker.request.worker_id.as_str();
        let known = &self.maker.configuration.settings.workers;
        // Workers that nothing is configured for share an agent.
        let name = known.contains_key(name).then(|| name.to_owned());
        let profile = profile.map(str::to_owned);
        // Neither name has a control character.
        let object = format!(
            "{}\n{}",
            name.as_deref().unwrap_or_default(),
            profile.as_deref().unwrap_or_default()
        );
        let tenant = worker.request.tenant.as_deref().unwrap_or_default();
        let maker = Arc::clone(&self.maker);
        let builder: Arc<dyn Build<Agent>> = Arc::new(move |_: u64| {
            let made = maker.agent(name.as_deref(), profile.as_deref());
            let made = made.map(Some).map_err(|problem| {
                let problems = vec![problem];
                ConfigError::Invalid { problems }.to_wire()
            });
            std::future::ready(made)
        });
        let key = AgentKey::new(tenant, &object);
        let lease = self.cache.get_or_build(&key, VERSION, &builder).await;
        lease.map(AgentLease::from).map_err(|error| error.to_wire())
    }
}

impl Maker {
    fn agent(&self, worker: Option<&str>, profile: Option<&str>) -> Result<Agent, Problem> {
        let settings = &self.configuration.settings;
        let mut agent = self.base()?;
        for entry in settings.servers(worker, profile) {
            if !entry.discovery {
                continue;
            }
            let source = self.servers.source(&entry.key, entry.config);
            let source = source.map_err(|error| self.server_problem(&entry.key, &error))?;
            agent.sources.push(Arc::new(Governed {
                source,
                configuration: Arc::clone(&self.configuration),
            }));
        }
        settings.limit(&mut agent);
        Ok(agent)
    }

    /// What is wrong with a server entry, by the member that is.
    fn server_problem(&self, entry: &str, error: &McpError) -> Problem {
        let (member, message) = match error {
            McpError::InvalidConfig { member, .. } => (member.as_deref(), error.to_string()),
            McpError::Unsupported { feature, .. } => {
                let message = format!(
                    "this program was built without servers of this type: build it with \
                     `--features mcp-{feature}`"
                );
                (Some("type"), message)
            }
            _ => (None, error.to_string()),
        };
        let key = member.map_or_else(|| entry.to_owned(), |member| format!("{entry}.{member}"));
        self.configuration.problem(&key, message)
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
            let demo = demo_agent::build(&self.directory, &self.servers, None);
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
        self.maker.profile(&request.profile)?;
        let reason = "the command line grants none";
        Ok(Admission::nothing(request, reason))
    }

    async fn resolve(&self, worker: &WorkerRecord) -> Result<AgentLease, WireError> {
        // A turn of the demo goes on as the demo, whatever is configured since.
        let name = worker.request.worker_id.as_str();
        if name == DEMO_WORKER || name.starts_with(&format!("{DEMO_WORKER}-")) {
            let maker = &self.maker;
            let demo = demo_agent::build(&maker.directory, &maker.servers, None).map(Arc::new);
            return demo
                .map(AgentLease::from)
                .map_err(|error| crate::output::wire(&error));
        }
        let profile = self.maker.profile(&worker.request.profile)?;
        self.lease(worker, profile).await
    }

    async fn carry_out(
        &self,
        id: CommitId,
        name: &str,
        body: Value,
    ) -> Result<CommandAnswer, WireError> {
        if name != ToolApproval::NAME {
            let message = format!("this program knows no command {name:?}");
            return Err(WireError::new(
                "command_unknown",
                ErrorClass::Unsupported,
                message,
            ));
        }
        let approval: ToolApproval = serde_json::from_value(body)
            .map_err(|error| WireError::new("command_undecodable", ErrorClass::Invalid, error))?;
        let approved = self.maker.servers.approve(id, &approval).await;
        approved.map_err(|error| crate::output::wire(&error))
    }

    async fn close(&self) -> Result<(), WireError> {
        // The agents first: they hold the tools of the servers.
        self.cache.close().await;
        self.maker.servers.close().await;
        Ok(())
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
