//! A client for tool servers that speak the Model Context Protocol, in both its eras, over child
//! processes (feature `stdio`) and streamable HTTP (feature `http`, credentials by OAuth with
//! feature `auth`).
//!
//! [`McpSource`] is a [`ToolSource`](runtime_tools::ToolSource): it reaches the server of a
//! [`McpServerConfig`] when its tools are first wanted, lists them through the discovery cache,
//! and calls them. The server is taken as hostile: its messages, lists and results are bounded,
//! it gets no shell and only allowed variables, is looked for only at addresses that the entry
//! allows, and its hints count only if the entry says `trusted`.
//!
//! A server that asks for input in the middle of a call, or turns it into a task, parks the call:
//! the turn waits without a process, and whoever answers, in whichever process, lets it go on.
//!
//! Not here: caching and public names (`runtime-mcp-cache`), whether a call runs twice
//! (`runtime-effects`). Of the protocol only tools are used: no resources, prompts, sampling.
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

mod argv;
mod auth;
mod backoff;
mod call;
mod config;
mod connection;
#[cfg(feature = "http")]
mod credentials;
mod deception;
mod desk;
#[cfg(feature = "http")]
mod egress;
mod ending;
mod error;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod http_client;
mod listing;
#[cfg(feature = "auth")]
mod oauth;
#[cfg(feature = "http")]
mod param_headers;
#[cfg(feature = "stdio")]
mod process;
mod rounds;
mod source;
#[cfg(feature = "http")]
mod sse;
#[cfg(feature = "stdio")]
mod survivors;
mod tool;
#[cfg(feature = "stdio")]
mod transport;
mod wire;

pub use auth::{AuthConfig, AuthError, AuthProvider, Challenge, TokenRequest};
pub use config::{Lifecycle, McpServerConfig, ServerStderr, ServerType};
pub use deception::hidden_characters;
pub use error::McpError;
#[cfg(feature = "auth")]
pub use oauth::{Consent, OAuthClient, OAuthProvider};
pub use source::McpSource;
#[cfg(feature = "stdio")]
pub use survivors::{Survivor, end_survivors};
