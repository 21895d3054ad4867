//! The tool servers of the configuration: each reached once, its processes on record, its list
//! and its pins in the store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use runtime::core::{Clock, CommitId, Digest, Random, ScopeId};
use runtime::mcp::{McpError, McpServerConfig, McpSource, Survivor, end_survivors};
use runtime::mcp_cache::{CacheConfig, Catalogue, DiscoveryCache, StoreArchive, StorePins};
use runtime::store::{Store, SystemClock, SystemRandom};
use runtime::tools::ToolSource;
use runtime::workers::CommandAnswer;
use serde::{Deserialize, Serialize};

/// Under which lists and pins stand in the store.
const SCOPE: &str = "tool-servers";
/// The directory, beside the store, that names the processes of tool servers while they run (E7).
const PROCESSES: &str = "processes";

/// What all agents of a process share of tool servers.
pub(crate) struct ToolServers {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    cache: DiscoveryCache<Catalogue>,
    /// Where processes are written down; none while nothing is started.
    records: Option<PathBuf>,
    /// None while the configuration is only checked.
    pins: Option<Arc<StorePins>>,
    /// By the key of their entry.
    sources: Mutex<BTreeMap<String, McpSource>>,
}

/// The approval of a tool definition, as a command to the process that has the store open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToolApproval {
    pub(crate) server: String,
    pub(crate) tool: String,
    /// The definition that was shown.
    pub(crate) definition: Digest,
}

impl ToolApproval {
    /// The name of the command.
    pub(crate) const NAME: &str = "approve_tool";
}

impl fmt::Debug for ToolServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolServers").finish_non_exhaustive()
    }
}

impl ToolServers {
    /// Makes them without anything that outlives the process; nothing is started.
    pub(crate) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let cache = DiscoveryCache::new(
            CacheConfig::default(),
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        Self {
            clock,
            random,
            cache,
            records: None,
            pins: None,
            sources: Mutex::default(),
        }
    }

    /// Ends what a killed process left running, and writes down from now on what is started. To be
    /// called by the process that holds the store, before any turn goes on (E7).
    pub(crate) fn recording_in(&mut self, directory: &Path) -> anyhow::Result<Vec<Survivor>> {
        let records = directory.join(PROCESSES);
        let ended = end_survivors(&records)?;
        self.records = Some(records);
        Ok(ended)
    }

    /// Keeps lists and pins in a store: what was listed before is there at once (M1), and what was
    /// not approved is withheld (M7).
    pub(crate) async fn keep_in(&mut self, store: &Arc<dyn Store>) -> anyhow::Result<()> {
        let archive = self.archive(store);
        self.cache.keep_in(Arc::new(archive)).await?;
        self.pins = Some(Arc::new(self.pins_in(store)));
        Ok(())
    }

    /// Reads what is kept in a store, to be looked at only.
    pub(crate) async fn read(&mut self, store: &Arc<dyn Store>) -> anyhow::Result<StorePins> {
        let archive = self.archive(store);
        self.cache.restore(&archive).await?;
        Ok(self.pins_in(store))
    }

    fn archive(&self, store: &Arc<dyn Store>) -> StoreArchive {
        let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
        StoreArchive::new(Arc::clone(store), scope(), clock, random)
    }

    fn pins_in(&self, store: &Arc<dyn Store>) -> StorePins {
        let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
        StorePins::new(Arc::clone(store), scope(), clock, random)
    }

    /// Returns the source of an entry: entries of one key are one source, and one process.
    pub(crate) fn source(&self, key: &str, config: McpServerConfig) -> Result<McpSource, McpError> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(key) {
            return Ok(source.clone());
        }
        let mut source = McpSource::new(
            config,
            Arc::clone(&self.clock),
            Arc::clone(&self.random),
            self.cache.clone(),
        )?;
        if let Some(records) = &self.records {
            source = source.recorded_in(records);
        }
        if let (true, Some(pins)) = (source.config().pin, &self.pins) {
            source = source.pinned_by(Arc::clone(pins));
        }
        sources.insert(key.to_owned(), source.clone());
        Ok(source)
    }

    /// Approves a definition, under the id of the command.
    pub(crate) async fn approve(
        &self,
        command: CommitId,
        approval: &ToolApproval,
    ) -> anyhow::Result<CommandAnswer> {
        let ToolApproval {
            server,
            tool,
            definition,
        } = approval;
        let pins = self.pins.as_ref().expect("the store is open");
        let approved = pins.approve_by(command, server, tool, definition).await;
        match approved? {
            true => Ok(CommandAnswer::Done),
            false => Ok(CommandAnswer::AlreadyDone),
        }
    }

    /// Ends every server, and writes what is not written yet.
    pub(crate) async fn close(&self) {
        let sources =
            std::mem::take(&mut *self.sources.lock().unwrap_or_else(PoisonError::into_inner));
        let closing = sources.values().map(ToolSource::close);
        futures_util::future::join_all(closing).await;
        self.cache.close().await;
    }
}

fn scope() -> ScopeId {
    ScopeId::new(SCOPE).expect("a word is a scope")
}
