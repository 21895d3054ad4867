//! A cache of live objects: built once, leased, swapped by version, disposed of exactly once.
//!
//! [`AgentCache::get_or_build`] builds an object once for everybody who waits and hands out a
//! [`Lease`] bound to that one generation. [`AgentCache::invalidate`] swaps in a newer version
//! while the old one serves its holders. A generation is disposed of when it is retired *and* its
//! last lease is dropped: never in use, never twice, never forgotten.
//!
//! It is not a store: no object survives the process. A cache that [follows](AgentCache::follow)
//! the [`Invalidations`] of a store hears of those in every process.
//!
//! Limits: [`AgentCacheConfig`] names each. Builds and disposals run on the tokio runtime that the
//! cache was made on.
//!
//! ```
//! use std::sync::Arc;
//!
//! use runtime_agent_cache::{AgentCache, AgentCacheConfig, AgentKey, Build, DropIt, Invalidated};
//! use runtime_core::{Timestamp, WireError};
//! use runtime_testkit::{SeededRandom, SimulatedClock};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), runtime_agent_cache::LeaseError> {
//! let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(0)));
//! let random = Arc::new(SeededRandom::new(1));
//! let config = AgentCacheConfig::default();
//! let cache = AgentCache::new(config, clock, random, Arc::new(DropIt));
//!
//! let builder: Arc<dyn Build<String>> = Arc::new(|version: u64| async move {
//!     Ok::<_, WireError>(Some(format!("agent built at version {version}")))
//! });
//! let key = AgentKey::new("tenant", "writer");
//! let old = cache.get_or_build(&key, 1, &builder).await?;
//! assert_eq!(cache.invalidate(&key, 2).await?, Invalidated::Swapped { version: 2 });
//! assert_eq!(*old, "agent built at version 1");
//! assert_eq!(*cache.get_or_build(&key, 1, &builder).await?, "agent built at version 2");
//!
//! drop(old);
//! assert!(cache.close().await.is_complete());
//! # Ok(())
//! # }
//! ```

mod cache;
mod config;
mod contract;
mod counters;
mod error;
mod generation;
mod invalidations;
mod key;
#[cfg(test)]
#[cfg(shuttle)]
mod model;
mod report;
mod state;
mod sync;

pub use cache::AgentCache;
pub use config::{AgentCacheConfig, EnvironmentSettings, SettingCapped, SettingError, Ttl};
pub use contract::{Build, DisposalFailure, DisposalReason, Dispose, DropIt};
pub use counters::AgentCacheCounters;
pub use error::LeaseError;
pub use generation::Lease;
pub use invalidations::Invalidations;
pub use key::AgentKey;
pub use report::{CloseReport, EntryState, Invalidated, Seeded, StaleState, SweepReport};
