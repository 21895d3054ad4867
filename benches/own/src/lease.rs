//! A live agent that is built already, and those who take it.

use std::sync::Arc;

use runtime::agent_cache::{AgentCache, AgentCacheConfig, AgentKey, Build, DropIt, Lease};
use runtime::core::WireError;
use runtime::store::{SystemClock, SystemRandom};

use crate::Outcome;

#[derive(Clone)]
pub struct Leases {
    cache: AgentCache<String>,
    key: AgentKey,
    builder: Arc<dyn Build<String>>,
}

impl Leases {
    pub fn new() -> Self {
        let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
        let limits = AgentCacheConfig::default();
        Self {
            cache: AgentCache::new(limits, clock, random, Arc::new(DropIt)),
            key: AgentKey::new("tenant", "writer"),
            builder: Arc::new(|_| async { Ok::<_, WireError>(Some("an agent".to_owned())) }),
        }
    }

    /// Builds it if nobody has, and holds it until the lease is dropped.
    pub async fn acquire(&self) -> Outcome<Lease<String>> {
        Ok(self.cache.get_or_build(&self.key, 1, &self.builder).await?)
    }
}
