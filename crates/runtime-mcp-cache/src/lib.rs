//! A discovery cache: what tool servers list, fetched once for everybody who asks.
//!
//! Every [`Answer`] says its [`State`], its age, what went wrong and when it is tried again; "no
//! tools" and "server down" are never the same answer. One fetch serves all callers of a key,
//! also when it fails, hangs or panics; it runs in a task of the cache and outlives whoever asked
//! first. A hit is the clone of an `Arc` and takes no lock but that of one shard.
//!
//! It is not a client: it knows no protocol and opens no connection. A [`Fetch`] does that (for
//! MCP: `runtime-mcp`). Nor does it ask a person. It is in memory unless the host has it
//! [kept](DiscoveryCache::keep_in) in an archive, such as the rows of a store.
//!
//! Limits: [`CacheConfig`] names each. Fetches run on the tokio runtime of the caller.
//!
//! Start with [`DiscoveryCache`], [`CacheKey`] and [`CatalogueBuilder`]; [`StorePins`] withholds
//! definitions that nobody has approved yet.
//!
//! ```
//! use std::sync::Arc;
//!
//! use runtime_core::Timestamp;
//! use runtime_mcp_cache::{
//!     Authorisation, CacheConfig, CacheKey, CatalogueBuilder, DiscoveryCache, FetchLimits, Hints,
//!     Owner, State,
//! };
//! use runtime_testkit::{SeededRandom, SimulatedClock};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(0)));
//! let cache = DiscoveryCache::new(CacheConfig::default(), clock, Arc::new(SeededRandom::new(1)));
//! let connection = json!({"type": "stdio", "command": "files-server"});
//! let key = CacheKey::new(Owner::Shared, "files", &connection, &Authorisation::Anonymous);
//!
//! // A real fetch asks the server, page by page.
//! let fetch = Arc::new(|limits: FetchLimits| async move {
//!     let mut list = CatalogueBuilder::new("files", false, limits);
//!     list.page([json!({"name": "read", "inputSchema": {"type": "object"}})], Hints::default())?;
//!     Ok(list.finish())
//! });
//! assert_eq!(cache.get(&key, &fetch).await.state, State::Cold);
//! let answer = cache.get(&key, &fetch).await;
//! assert_eq!(answer.state, State::Fresh);
//! let catalogue = answer.value.expect("a fresh answer has a value");
//! assert_eq!(catalogue.tools()[0].definition.name, "files__read");
//! cache.close().await;
//! # }
//! ```

mod answer;
mod archive;
mod budget;
mod cache;
mod catalogue;
mod config;
mod counters;
mod error;
mod fetch;
mod flight;
mod hints;
mod key;
#[cfg(test)]
#[cfg(shuttle)]
mod model;
mod name;
mod pin;
mod policy;
mod rows;
mod shelf;
mod store_archive;
mod store_pins;
mod sync;

pub use answer::{Answer, CacheObserver, CatalogueChanged, State, UncachedReason};
pub use archive::{ArchiveError, ArchivedValue, CatalogueArchive, RestoreReport, SaveReport};
pub use budget::{ByteBudget, OverBudget};
pub use cache::DiscoveryCache;
pub use catalogue::{Catalogue, CatalogueBuilder, DiscoveredTool};
pub use config::{CacheConfig, FetchLimits};
pub use counters::CacheCounters;
pub use error::{DiscoveryError, FetchError};
pub use fetch::{CacheValue, Changes, Fetch, Fetched};
pub use hints::{Era, Hints};
pub use key::{Authorisation, CacheKey, Owner};
pub use name::{NameMap, RefusedTool, public_name};
pub use pin::{PinBoard, PinReview, WithheldReason, WithheldTool};
pub use store_archive::StoreArchive;
pub use store_pins::{PinError, PinnedServer, StorePins};
