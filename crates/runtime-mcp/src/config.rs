//! A server entry (M11) and its bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{AuthConfig, McpError, argv};

/// How a server is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerType {
    /// A child process that speaks over its standard input and output.
    #[default]
    Stdio,
    /// A server at a URL (streamable HTTP).
    Http,
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lifecycle {
    /// As the newer era does, and if the server does not know that, as the older one.
    #[default]
    Auto,
    /// As the older era does: for servers that take the first question of the newer one amiss.
    Handshake,
    /// As the newer era does, and not otherwise.
    Stateless,
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
    /// The names of the variables that it inherits; no others reach it, but for one that names its
    /// owner if its process is [recorded](crate::McpSource::recording_processes).
    pub env_allow: Vec<String>,
    /// The URL of a server over HTTP.
    pub url: String,
    /// Headers that go with each request to it, and to no other origin.
    pub headers: BTreeMap<String, String>,
    /// Its credential, if it is not in a header; a host may give an
    /// [`AuthProvider`](crate::AuthProvider) of its own instead.
    pub auth: Option<AuthConfig>,
    /// It may be on this machine or in its private network; else such addresses are refused,
    /// whatever name stands for them.
    pub allow_private_addresses: bool,
    /// How a connection to it begins.
    pub lifecycle: Lifecycle,
    /// The directory that it starts in; this process's without.
    pub directory: Option<PathBuf>,
    /// What becomes of its standard error.
    pub stderr: ServerStderr,
    /// Its hints count: a tool that it calls read-only needs no approval and may run again (M10).
    pub trusted: bool,
    /// Its definitions are pinned: its first list is trusted, and what is added or changed later is
    /// neither offered nor callable before a person has approved it (M7). The host says where the
    /// pins are kept: [`McpSource::pinned_by`](crate::McpSource::pinned_by).
    pub pin: bool,
    /// A turn waits for it rather than go on without its tools (M1).
    pub required: bool,
    /// Its tools are listed and offered; a server that is switched off is not even started.
    pub discovery: bool,
    /// How long the start, the handshake and a whole list may take each.
    pub discovery_timeout_ms: u64,
    /// How long a call may take.
    pub call_timeout_ms: u64,
    /// How long a call that became a task may take in all.
    pub task_timeout_ms: u64,
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

/// The member of an entry that is wrong, and what to change.
type Wrong = (String, &'static str);

fn wrong(member: impl Into<String>, reason: &'static str) -> Wrong {
    (member.into(), reason)
}

/// The first member of which it is true.
fn first<const N: usize>(members: [(&str, bool); N], reason: &'static str) -> Option<Wrong> {
    let found = members.into_iter().find(|(_, is_wrong)| *is_wrong)?;
    Some(wrong(found.0, reason))
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
            url: String::new(),
            headers: BTreeMap::new(),
            auth: None,
            allow_private_addresses: false,
            lifecycle: Lifecycle::Auto,
            directory: None,
            stderr: ServerStderr::Discard,
            trusted: false,
            pin: false,
            required: false,
            discovery: true,
            discovery_timeout_ms: 30_000,
            call_timeout_ms: 60_000,
            task_timeout_ms: 24 * 60 * 60 * 1_000,
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

    /// Makes the entry of a server at a URL.
    #[must_use]
    pub fn http(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            server_type: ServerType::Http,
            url: url.into(),
            ..Self::default()
        }
    }

    /// Adds a header to each request.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Lets it be on this machine or in its private network (M10).
    #[must_use]
    pub const fn allow_private_addresses(mut self) -> Self {
        self.allow_private_addresses = true;
        self
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

    /// Pins its definitions (M7).
    #[must_use]
    pub const fn pinned(mut self) -> Self {
        self.pin = true;
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
        let wrong = self.wrong_name().or_else(|| match self.server_type {
            ServerType::Stdio => self.wrong_command(),
            ServerType::Http => self.wrong_target(),
        });
        match wrong.or_else(|| self.wrong_bound()) {
            None => Ok(()),
            Some((member, reason)) => Err(McpError::InvalidConfig {
                server: self.name.clone(),
                member: Some(member),
                reason: reason.to_owned(),
            }),
        }
    }

    fn wrong_name(&self) -> Option<Wrong> {
        let bad = self.name.trim().is_empty() || self.name.chars().any(char::is_control);
        bad.then(|| wrong("name", "give it a name without control characters"))
    }

    fn wrong_bound(&self) -> Option<Wrong> {
        let bounds = [
            ("discovery_timeout_ms", self.discovery_timeout_ms == 0),
            ("call_timeout_ms", self.call_timeout_ms == 0),
            ("message_bytes_max", self.message_bytes_max == 0),
            ("result_bytes_max", self.result_bytes_max == 0),
        ];
        first(bounds, "timeouts and sizes must be at least 1")
    }

    fn wrong_command(&self) -> Option<Wrong> {
        let of_http = [
            ("url", !self.url.is_empty()),
            ("headers", !self.headers.is_empty()),
            ("auth", self.auth.is_some()),
        ];
        let of_http = first(
            of_http,
            "url, headers and auth are for servers of type http",
        );
        let command = || {
            let reason = argv::refusal(&self.command, &self.args)?;
            Some(wrong("command", reason))
        };
        let mut set = self.env.iter();
        let variable = |(name, value): (&String, &String)| {
            let reason = argv::variable_refusal(name, value)?;
            Some(wrong(format!("env.{name}"), reason))
        };
        let mut inherited = self.env_allow.iter();
        of_http
            .or_else(command)
            .or_else(|| set.find_map(variable))
            .or_else(|| {
                let reason = inherited.find_map(|name| argv::variable_refusal(name, ""))?;
                Some(wrong("env_allow", reason))
            })
    }

    fn wrong_target(&self) -> Option<Wrong> {
        let of_stdio = [
            ("command", !self.command.is_empty()),
            ("args", !self.args.is_empty()),
            ("env", !self.env.is_empty()),
        ];
        let of_stdio = first(
            of_stdio,
            "command, args and env are for servers of type stdio",
        );
        let mut headers = self.headers.iter();
        let header = |(name, value): (&String, &String)| {
            let reason = argv::header_refusal(name, value)?;
            Some(wrong(format!("headers.{name}"), reason))
        };
        let twice = || {
            let given = self.headers.keys();
            let both = self.auth.is_some() && { given }
                .any(|name| name.eq_ignore_ascii_case("authorization"));
            both.then(|| {
                wrong(
                    "auth",
                    "the credential is given twice: in auth and in a header",
                )
            })
        };
        of_stdio
            .or_else(|| first([("url", self.url.trim().is_empty())], "give it a url"))
            .or_else(|| headers.find_map(header))
            .or_else(twice)
    }

    /// Lays sets of entries over each other, from the widest (the runtime's) to the narrowest
    /// (the worker's): a later entry replaces an earlier one of the same name whole, in its place.
    #[must_use]
    pub fn layered<'a>(sets: impl IntoIterator<Item = &'a [Self]>) -> Vec<Self> {
        let mut entries: Vec<Self> = Vec::new();
        for entry in sets.into_iter().flatten() {
            match entries.iter_mut().find(|known| known.name == entry.name) {
                Some(known) => known.clone_from(entry),
                None => entries.push(entry.clone()),
            }
        }
        entries
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
            "lifecycle": self.lifecycle,
            "directory": self.directory,
            "url": self.url,
            "headers": self.headers,
            "auth": self.auth,
            "allow_private_addresses": self.allow_private_addresses,
            // Hints are read into the definitions, so trust is part of what is cached.
            "trusted": self.trusted,
        })
    }
}

impl fmt::Debug for McpServerConfig {
    /// Leaves out arguments, the URL, and the values of variables and headers: credentials are
    /// handed over in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpServerConfig")
            .field("name", &self.name)
            .field("server_type", &self.server_type)
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.keys())
            .field("headers", &self.headers.keys())
            .field("auth", &self.auth)
            .field("allow_private_addresses", &self.allow_private_addresses)
            .field("env_allow", &self.env_allow)
            .field("trusted", &self.trusted)
            .field("pin", &self.pin)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}
