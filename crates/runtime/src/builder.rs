//! Wiring a runtime: the store is one line (U1).

#[cfg(feature = "fs-store")]
use std::path::PathBuf;
use std::sync::Arc;

use runtime_agent::Agent;
use runtime_core::{Classified, Clock, ErrorClass, Random, RuntimeId, Tier, WireError};
use runtime_effects::{Failure, Functions, ProcessRunner, WorkflowContext};
use runtime_events::{HubParts, RetentionPolicy};
use runtime_store::{MemoryStore, Store, SystemClock, SystemRandom};
use runtime_workers::{
    AgentResolver, Runtime, RuntimeConfig, RuntimeError, RuntimeLimits, RuntimeParts,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Starts to wire a runtime: memory, unless another store is given.
#[must_use]
pub fn builder() -> Builder {
    Builder {
        store: Storage::Memory,
        agents: None,
        config: RuntimeConfig::default(),
        retention: None,
        events: HubParts::default(),
        tier: Tier::Volatile,
        limits: None,
        functions: Functions::default(),
        resume: true,
        drive: true,
    }
}

#[derive(Debug, Clone)]
enum Storage {
    Memory,
    #[cfg(feature = "fs-store")]
    Directory(PathBuf),
    /// Read when it was given, told when it is opened.
    #[cfg(feature = "postgres")]
    Postgres(Result<Box<runtime_postgres::PostgresOptions>, runtime_postgres::OpenError>),
    Given(Arc<dyn Store>),
}

#[derive(Debug, Clone)]
enum Agents {
    One(Arc<Agent>),
    Resolved(Arc<dyn AgentResolver>),
}

/// Wires a runtime. The order of the calls does not count.
#[derive(Debug, Clone)]
pub struct Builder {
    store: Storage,
    agents: Option<Agents>,
    config: RuntimeConfig,
    retention: Option<RetentionPolicy>,
    events: HubParts,
    tier: Tier,
    limits: Option<RuntimeLimits>,
    functions: Functions,
    resume: bool,
    drive: bool,
}

/// Why a runtime could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No agent was given.
    #[error("a runtime needs an agent: call agent(…) or agents(…)")]
    NoAgent,
    /// The embedded store could not be opened.
    #[cfg(feature = "fs-store")]
    #[error(transparent)]
    Store(#[from] runtime_fs_store::OpenError),
    /// The database could not be opened.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] runtime_postgres::OpenError),
    /// The runtime could not be opened over its store.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl OpenError {
    /// The error of the part that failed, if a part did.
    fn part(&self) -> Option<&dyn Classified> {
        match self {
            Self::NoAgent => None,
            #[cfg(feature = "fs-store")]
            Self::Store(error) => Some(error),
            #[cfg(feature = "postgres")]
            Self::Postgres(error) => Some(error),
            Self::Runtime(error) => Some(error),
        }
    }
}

impl Classified for OpenError {
    fn code(&self) -> &'static str {
        self.part().map_or("builder_no_agent", Classified::code)
    }

    fn class(&self) -> ErrorClass {
        self.part().map_or(ErrorClass::Invalid, Classified::class)
    }

    fn to_wire(&self) -> WireError {
        match self.part() {
            Some(part) => part.to_wire(),
            None => WireError::new(self.code(), self.class(), self),
        }
    }
}

impl Builder {
    /// Keeps everything in memory: gone with the process (tier Volatile).
    #[must_use]
    pub fn memory(mut self) -> Self {
        self.store = Storage::Memory;
        self
    }

    /// Keeps everything in one directory, made when it does not exist (tier Power).
    #[cfg(feature = "fs-store")]
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.store = Storage::Directory(directory.into());
        self
    }

    /// Keeps everything in a PostgreSQL database, which several processes may share: a URL such
    /// as `postgres://app@db.example.com/app?runtime=support`.
    ///
    /// The times of all processes are then those of the database. What is wrong with the URL
    /// [`open`](Self::open) says.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn postgres(mut self, url: &str) -> Self {
        let options = runtime_postgres::PostgresOptions::new(url);
        self.store = Storage::Postgres(options.map(Box::new));
        self
    }

    /// Keeps everything in that store.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Storage::Given(store);
        self
    }

    /// Lets one agent work for every worker.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<Arc<Agent>>) -> Self {
        self.agents = Some(Agents::One(agent.into()));
        self
    }

    /// Lets a resolver say which agent works for which worker.
    #[must_use]
    pub fn agents(mut self, agents: Arc<dyn AgentResolver>) -> Self {
        self.agents = Some(Agents::Resolved(agents));
        self
    }

    /// Sets what bounds its work.
    #[must_use]
    pub fn config(mut self, config: RuntimeConfig) -> Self {
        self.config = config;
        self
    }

    /// Says what is kept of the log, whatever [`config`](Self::config) says; what is older goes by
    /// itself, and no live worker forgets what was said (V9). Without it everything is kept.
    #[must_use]
    pub const fn retention(mut self, keeps: RetentionPolicy) -> Self {
        self.retention = Some(keeps);
        self
    }

    /// Sets how events are watched: bounds, live fan-out, who may read what.
    #[must_use]
    pub fn events(mut self, parts: HubParts) -> Self {
        self.events = parts;
        self
    }

    /// Says what an acknowledgement must survive at least: opening refuses a store of a lower tier
    /// (C7).
    #[must_use]
    pub const fn tier(mut self, min: Tier) -> Self {
        self.tier = min;
        self
    }

    /// Sets the limits of what users send. They are kept with the runtime: without any, a
    /// runtime that exists keeps its own.
    #[must_use]
    pub const fn limits(mut self, limits: RuntimeLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Adds a durable function, so that processes may run it (E15): what it does by its context is
    /// recorded, and it goes on where it was after a crash. The name is what processes remember:
    /// keep it when the code moves.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use runtime::core::ProcessRegistration;
    /// use runtime::effects::{Failure, WorkflowContext};
    ///
    /// async fn double(context: WorkflowContext, number: u64) -> Result<u64, Failure> {
    ///     let doubled = context.step("double", || async move { Ok::<_, Failure>(number * 2) });
    ///     Ok(doubled.await?)
    /// }
    ///
    /// # let model = runtime::model::ScriptedModel::new("scripted", vec![]);
    /// # let agent = runtime::agent::Agent::builder("1", std::sync::Arc::new(model)).build();
    /// let runtime = runtime::builder().agent(agent).function("double", double).open().await?;
    /// let process = ProcessRegistration::function("double-21".parse()?, "double", 21.into());
    /// let run = runtime.start_process(&process, None).await?;
    /// assert_eq!(run.value::<u64>().await.map_err(|error| error.message)?, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn function<I, O, E, F, Running>(mut self, name: impl Into<String>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        E: Into<Failure>,
        F: Fn(WorkflowContext, I) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<O, E>> + Send + 'static,
    {
        self.functions = self.functions.function(name, function);
        self
    }

    /// Adds what runs processes of another kind of input, as
    /// [`ProcessInput::kind`](runtime_core::ProcessInput::kind) names it: `tool_call` or `code`.
    #[must_use]
    pub fn runner(mut self, kind: &'static str, runner: Arc<dyn ProcessRunner>) -> Self {
        self.functions = self.functions.runner(kind, runner);
        self
    }

    /// Says whether unfinished turns and processes go on as soon as the runtime is open; they do unless told
    /// otherwise.
    #[must_use]
    pub const fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Says whether turns go on here at all; they do unless told otherwise.
    ///
    /// A runtime that drives none takes inputs and answers and leaves what is behind them to the
    /// next opening, or to another instance: what a tool that only answers wants, since it may
    /// have other tools and models than the program whose turns these are.
    #[must_use]
    pub const fn drive(mut self, drive: bool) -> Self {
        self.drive = drive;
        self
    }

    /// Opens the runtime.
    ///
    /// # Errors
    /// [`OpenError`]; for a directory that another process holds, one that names the holder.
    pub async fn open(self) -> Result<Runtime, OpenError> {
        let agents = self.agents.ok_or(OpenError::NoAgent)?;
        let (store, clock): (Arc<dyn Store>, Option<Arc<dyn Clock>>) = match self.store {
            Storage::Memory => (Arc::new(MemoryStore::new(fresh_runtime_id())), None),
            #[cfg(feature = "fs-store")]
            Storage::Directory(directory) => {
                let options = runtime_fs_store::FsStoreOptions::new(directory);
                (Arc::new(runtime_fs_store::FsStore::open(&options)?), None)
            }
            #[cfg(feature = "postgres")]
            Storage::Postgres(options) => {
                let store = runtime_postgres::PostgresStore::open(*options?).await?;
                let clock = store.clock();
                (Arc::new(store), Some(clock))
            }
            Storage::Given(store) => (store, None),
        };
        let mut parts = match agents {
            Agents::One(agent) => RuntimeParts::new(store, agent),
            Agents::Resolved(agents) => RuntimeParts::with_agents(store, agents),
        };
        if let Some(clock) = clock {
            parts.clock = clock;
        }
        parts.config = self.config;
        parts.config.retention = self.retention.or(parts.config.retention);
        parts.events = self.events;
        parts.limits = self.limits;
        parts.tier_min = self.tier;
        parts.functions = self.functions;
        parts.resume = self.resume;
        parts.drive = self.drive;
        Ok(Runtime::open(parts).await?)
    }
}

fn fresh_runtime_id() -> RuntimeId {
    RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten())
}
