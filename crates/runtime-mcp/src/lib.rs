//! A client for tool servers that speak the Model Context Protocol, in both its eras, over child
//! processes.
//!
//! [`McpSource`] is a [`ToolSource`](runtime_tools::ToolSource): it starts the server of a
//! [`McpServerConfig`] when its tools are first wanted, lists them through the discovery cache,
//! and calls them. The server is taken as hostile: its messages, lists and results are bounded,
//! it gets no shell and only allowed variables, and its hints count only if the entry says
//! `trusted`.
//!
//! Not here: caching and public names (`runtime-mcp-cache`), whether a call runs twice
//! (`runtime-effects`). Not yet: servers over HTTP, rounds of input, tasks, and ending the
//! processes that a killed runtime left behind (a server sees its input closed).
//!
//! ```
//! use runtime_mcp::McpServerConfig;
//!
//! let entry = r#"{"name": "files", "command": "mcp-files", "args": ["/srv"], "trusted": true}"#;
//! let config: McpServerConfig = serde_json::from_str(entry)?;
//! assert_eq!(config, McpServerConfig::stdio("files", "mcp-files").arg("/srv").trusted());
//! assert_eq!(config.call_timeout_ms, 60_000);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod backoff;
mod call;
mod config;
mod connection;
mod deception;
mod error;
mod listing;
mod process;
mod source;
mod transport;

pub use config::{McpServerConfig, ServerStderr, ServerType};
pub use error::McpError;
pub use source::McpSource;
