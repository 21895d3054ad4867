//! Which agent works for which worker (W7).

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_agent::Agent;
use runtime_agent_cache::{AgentCache, AgentCacheConfig, AgentKey, Build, DropIt, Lease};
use runtime_core::{CanonicalEncoder, Classified, Clock, CommitId, ErrorClass, Random, WireError};
use serde_json::{Value, json};

use crate::{CapabilityRequest, CommandAnswer, CreateWorker, WorkerProfile, WorkerRecord};

/// What a worker gets of what it asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// The capabilities that it gets.
    pub granted: Vec<String>,
    /// The capabilities that it does not get, and why; each leaves the diagnostic
    /// `worker.capability_unavailable`.
    pub unavailable: Vec<(String, String)>,
}

impl Admission {
    /// Gives nothing of what is asked for, for one reason.
    #[must_use]
    pub fn nothing(request: &CreateWorker, reason: &str) -> Self {
        let name = |capability: &CapabilityRequest| (capability.name.clone(), reason.to_owned());
        Self {
            granted: Vec::new(),
            unavailable: request.capabilities.iter().map(name).collect(),
        }
    }

    /// Gives what is asked for as far as it is offered.
    #[must_use]
    pub fn of(request: &CreateWorker, offered: &[&str]) -> Self {
        let mut admission = Self::default();
        for capability in &request.capabilities {
            let name = capability.name.clone();
            if offered.contains(&name.as_str()) {
                admission.granted.push(name);
            } else {
                let reason = "this runtime does not offer it".to_owned();
                admission.unavailable.push((name, reason));
            }
        }
        admission
    }
}

/// Turns a worker into the agent that works for it.
#[async_trait]
pub trait AgentResolver: fmt::Debug + Send + Sync + 'static {
    /// Decides on a request before the worker is created.
    ///
    /// Unless it says otherwise, only the runtime's own profile is known, and no capability is
    /// granted.
    ///
    /// # Errors
    /// What is wrong with the request, such as `profile_unknown`; no worker is created.
    async fn admit(&self, request: &CreateWorker) -> Result<Admission, WireError> {
        match &request.profile {
            WorkerProfile::RuntimeDefault => {
                let reason = "the resolver of this runtime grants none";
                Ok(Admission::nothing(request, reason))
            }
            other => Err(unknown_profile(other)),
        }
    }

    /// Returns the agent.
    ///
    /// # Errors
    /// What is wrong; the worker's turns stay where they are.
    async fn resolve(&self, worker: &WorkerRecord) -> Result<AgentLease, WireError>;

    /// Carries out a [`Command::Host`](crate::Command::Host): a command of the host's own, which
    /// may come from another process. What it changes, it changes in one commit of that id, with
    /// an event that names the id as its cause; then the command is carried out once, and whoever
    /// sent it hears of it.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed. Unless it says otherwise, no command is known.
    async fn carry_out(
        &self,
        id: CommitId,
        name: &str,
        body: Value,
    ) -> Result<CommandAnswer, WireError> {
        let (_, _) = (id, body);
        let message = format!("this program knows no command {name:?}");
        Err(WireError::new(
            "command_unknown",
            ErrorClass::Unsupported,
            message,
        ))
    }

    /// Lets go of what it holds; called once, when the runtime has closed.
    ///
    /// # Errors
    /// What it could not let go of; the report of closing tells it.
    async fn close(&self) -> Result<(), WireError> {
        Ok(())
    }
}

/// The refusal of a profile that no resolver knows.
#[must_use]
pub fn unknown_profile(profile: &WorkerProfile) -> WireError {
    let name = match profile {
        WorkerProfile::RuntimeDefault => "the runtime's own".to_owned(),
        WorkerProfile::Builtin { name } => format!("builtin {name:?}"),
        WorkerProfile::Named { name } => format!("{name:?}"),
    };
    let message = format!("profile {name} is not known here; name one that the host provides");
    WireError::new("profile_unknown", ErrorClass::NotFound, message)
}

/// An agent for as long as a turn needs it: what built it does not dispose of it meanwhile.
#[derive(Debug)]
pub struct AgentLease(Held);

#[derive(Debug)]
enum Held {
    Shared(Arc<Agent>),
    Leased(Lease<Agent>),
}

impl Deref for AgentLease {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        match &self.0 {
            Held::Shared(agent) => agent,
            Held::Leased(agent) => agent,
        }
    }
}

impl From<Arc<Agent>> for AgentLease {
    fn from(agent: Arc<Agent>) -> Self {
        Self(Held::Shared(agent))
    }
}

impl From<Lease<Agent>> for AgentLease {
    fn from(agent: Lease<Agent>) -> Self {
        Self(Held::Leased(agent))
    }
}

/// One agent for every worker.
#[derive(Debug)]
pub(crate) struct OneAgent(pub(crate) Arc<Agent>);

#[async_trait]
impl AgentResolver for OneAgent {
    async fn resolve(&self, _worker: &WorkerRecord) -> Result<AgentLease, WireError> {
        Ok(Arc::clone(&self.0).into())
    }
}

/// Builds agents by configuration: what [`CachedAgents`] asks.
#[async_trait]
pub trait AgentFactory: fmt::Debug + Send + Sync + 'static {
    /// Decides on a request: see [`AgentResolver::admit`].
    ///
    /// # Errors
    /// What is wrong with the request.
    async fn admit(&self, request: &CreateWorker) -> Result<Admission, WireError>;

    /// Returns the version of the worker's configuration in force now. A greater one than that of
    /// the agent in the cache builds a new agent; turns under way keep theirs.
    ///
    /// # Errors
    /// Why it is not known.
    async fn version(&self, worker: &WorkerRecord) -> Result<u64, WireError>;

    /// Builds the agent of a worker's tenant, profile, bundle and granted capabilities; nothing
    /// else of the worker may count, since workers that agree in these share the agent. None if
    /// the configuration is gone.
    ///
    /// # Errors
    /// What is wrong; everybody who waits for this agent gets it.
    async fn build(&self, worker: &WorkerRecord, version: u64) -> Result<Option<Agent>, WireError>;
}

/// Agents that are built once for each tenant and configuration, leased for the length of a turn,
/// and swapped when the configuration gets a new version.
#[derive(Debug)]
pub struct CachedAgents {
    factory: Arc<dyn AgentFactory>,
    cache: AgentCache<Agent>,
}

impl CachedAgents {
    /// Caches what a factory builds.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(
        factory: Arc<dyn AgentFactory>,
        config: AgentCacheConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let cache = AgentCache::new(config, clock, random, Arc::new(DropIt));
        Self { factory, cache }
    }

    /// Returns the cache, for its counters and to invalidate by hand.
    #[must_use]
    pub const fn cache(&self) -> &AgentCache<Agent> {
        &self.cache
    }

    /// Returns the key under which a worker's agent is cached.
    #[must_use]
    pub fn key(worker: &WorkerRecord) -> AgentKey {
        let request = &worker.request;
        let configuration = json!({
            "profile": request.profile,
            "bundle": request.bundle,
            "granted": worker.granted,
        });
        let digest = CanonicalEncoder::new("agent-configuration")
            .json(&configuration)
            .digest();
        // A blank tenant is refused at creation, so "" is the key of no tenant alone.
        let tenant = request.tenant.as_deref().unwrap_or("");
        AgentKey::new(tenant, &digest.to_string())
    }
}

#[async_trait]
impl AgentResolver for CachedAgents {
    async fn admit(&self, request: &CreateWorker) -> Result<Admission, WireError> {
        self.factory.admit(request).await
    }

    async fn resolve(&self, worker: &WorkerRecord) -> Result<AgentLease, WireError> {
        let version = self.factory.version(worker).await?;
        let (factory, of) = (Arc::clone(&self.factory), worker.clone());
        let builder: Arc<dyn Build<Agent>> = Arc::new(move |version: u64| {
            let (factory, worker) = (Arc::clone(&factory), of.clone());
            async move { factory.build(&worker, version).await }
        });
        let key = Self::key(worker);
        let lease = self.cache.get_or_build(&key, version, &builder).await;
        lease.map(AgentLease::from).map_err(|error| error.to_wire())
    }

    async fn close(&self) -> Result<(), WireError> {
        let report = self.cache.close().await;
        if report.is_complete() {
            return Ok(());
        }
        let message = format!("not every agent was disposed of in time: {report:?}");
        Err(WireError::new(
            "agents_not_disposed",
            ErrorClass::TimedOut,
            message,
        ))
    }
}
