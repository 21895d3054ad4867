//! A server entry (M11) and its bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::McpError;

/// How a server is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerType {
    /// A child process that speaks over its standard input and output.
    #[default]
    Stdio,
}

/// What becomes of what a server writes to its standard error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerStderr {
    /// Nobody sees it: a server may write its credentials there.
    #[default]
    Discard,
    /// It goes where this process writes its own.
    Inherit,
}

/// A tool server: how it is started, what it may do, how long it may take.
///
/// As JSON it is an entry of the usual configuration files, its durations in milliseconds. An
/// unknown member is refused: a mistyped `trusted` must not pass unseen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpServerConfig {
    /// The name, unique among the servers of a runtime; the public names of its tools depend on it.
    pub name: String,
    /// How it is reached.
    #[serde(rename = "type")]
    pub server_type: ServerType,
    /// The program. It is started as it is: no shell reads this or the arguments.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables set for it; they come after, and over, the inherited ones.
    pub env: BTreeMap<String, String>,
    /// The names of the variables that it inherits; no others reach it.
    pub env_allow: Vec<String>,
    /// The directory that it starts in; this process's without.
    pub directory: Option<PathBuf>,
    /// What becomes of its standard error.
    pub stderr: ServerStderr,
    /// Its hints count: a tool that it calls read-only needs no approval and may run again (M10).
    pub trusted: bool,
    /// A turn waits for it rather than go on without its tools (M1).
    pub required: bool,
    /// How long the start, the handshake and a whole list may take each.
    pub discovery_timeout_ms: u64,
    /// How long a call may take.
    pub call_timeout_ms: u64,
    /// How long it may take to end by itself once its input is closed.
    pub shutdown_grace_ms: u64,
    /// The pause after a first failed start; it doubles with each further one.
    pub restart_backoff_initial_ms: u64,
    /// The longest pause.
    pub restart_backoff_max_ms: u64,
    /// The largest message that it may send; a larger one ends the connection.
    pub message_bytes_max: usize,
    /// The bytes of a result that are handed on; the rest is cut, with a note.
    pub result_bytes_max: usize,
}

impl Default for McpServerConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            server_type: ServerType::Stdio,
            command: String::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            env_allow: ["HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"]
                .map(str::to_owned)
                .into(),
            directory: None,
            stderr: ServerStderr::Discard,
            trusted: false,
            required: false,
            discovery_timeout_ms: 30_000,
            call_timeout_ms: 60_000,
            shutdown_grace_ms: 2_000,
            restart_backoff_initial_ms: 500,
            restart_backoff_max_ms: 30_000,
            message_bytes_max: 16 * 1024 * 1024,
            result_bytes_max: 256 * 1024,
        }
    }
}

impl McpServerConfig {
    /// Makes the entry of a server that is a child process.
    #[must_use]
    pub fn stdio(name: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            command: command.into(),
            ..Self::default()
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Sets a variable for the server.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Lets its hints count (M10).
    #[must_use]
    pub const fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Lets turns wait for it rather than go on without its tools (M1).
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Checks what can be checked before anything is started.
    pub(crate) fn check(&self) -> Result<(), McpError> {
        let refuse = |reason: &str| {
            Err(McpError::InvalidConfig {
                server: self.name.clone(),
                reason: reason.to_owned(),
            })
        };
        if self.name.trim().is_empty() || self.name.chars().any(char::is_control) {
            return refuse("give it a name without control characters");
        }
        if self.command.trim().is_empty() {
            return refuse("give it a command");
        }
        let texts = self.args.iter().chain([&self.command]);
        let variables = self.env.iter().flat_map(|(name, value)| [name, value]);
        if texts.chain(variables).any(|text| text.contains('\0')) {
            return refuse("the command, its arguments and variables cannot have a NUL");
        }
        if self
            .env
            .keys()
            .any(|name| name.is_empty() || name.contains('='))
        {
            return refuse("the name of a variable cannot be empty or have a =");
        }
        let timeouts = [self.discovery_timeout_ms, self.call_timeout_ms];
        if timeouts.contains(&0) || self.message_bytes_max == 0 || self.result_bytes_max == 0 {
            return refuse("timeouts and sizes must be at least 1");
        }
        Ok(())
    }

    /// Returns what makes the connection this one and no other (M3). It holds secrets; only its
    /// digest may be kept.
    pub(crate) fn connection_identity(&self) -> Value {
        json!({
            "type": self.server_type,
            "command": self.command,
            "args": self.args,
            "env": self.env,
            "env_allow": self.env_allow,
            "directory": self.directory,
            // Hints are read into the definitions, so trust is part of what is cached.
            "trusted": self.trusted,
        })
    }
}

impl fmt::Debug for McpServerConfig {
    /// Leaves out arguments and the values of variables: credentials are handed over in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpServerConfig")
            .field("name", &self.name)
            .field("server_type", &self.server_type)
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.keys())
            .field("env_allow", &self.env_allow)
            .field("trusted", &self.trusted)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}
