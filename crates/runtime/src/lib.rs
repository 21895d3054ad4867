//! An embeddable, durable agent runtime: a program links it to run agents that survive anything.
//! Kill the process in the middle of a turn, start it again, and the turn goes on.
//!
//! This is the umbrella: it re-exports the crates under short names, adds a [`builder`] and a
//! [`prelude`], and has no logic of its own. A program that needs one part depends on that crate
//! alone. It is not a server, and not a framework of prompts.
//!
//! Features, all additive: `fs-store` (default) the embedded store; `schemars` (default) typed
//! tools; `mcp` tool servers; `genai` models behind real providers; `otel` spans by OTLP. The default pulls no HTTP client, no
//! MCP, no TLS.
//!
//! ```
//! use std::sync::Arc;
//! use runtime::prelude::*;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = ScriptedModel::new("scripted", vec![ScriptStep::text("Hello, {input}!")]);
//! let agent = Agent::builder("1", Arc::new(model)).build();
//! let runtime = runtime::builder().memory().agent(agent).open().await?;
//! let worker = runtime.worker("desk").await?;
//! assert_eq!(worker.ask("world").await?, "Hello, world!");
//! runtime.close().await?;
//! # Ok(())
//! # }
//! ```

mod builder;
pub mod prelude;

pub use builder::{Builder, OpenError, builder};
pub use runtime_agent as agent;
pub use runtime_agent_cache as agent_cache;
pub use runtime_core as core;
pub use runtime_effects as effects;
pub use runtime_events as events;
#[cfg(feature = "fs-store")]
pub use runtime_fs_store as fs_store;
#[cfg(feature = "genai")]
pub use runtime_genai as genai;
#[cfg(feature = "mcp")]
pub use runtime_mcp as mcp;
#[cfg(feature = "mcp")]
pub use runtime_mcp_cache as mcp_cache;
pub use runtime_model as model;
#[cfg(feature = "otel")]
pub use runtime_otel as otel;
#[cfg(feature = "postgres")]
pub use runtime_postgres as postgres;
pub use runtime_store as store;
pub use runtime_tools as tools;
pub use runtime_turn as turn;
pub use runtime_workers as workers;
pub use runtime_workers::{Runtime, RuntimeError};
