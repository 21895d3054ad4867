//! The configuration as types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use runtime::agent::{Agent, ToolOutputLimits};
use runtime::core::{ApprovalPolicy, RetryPolicy};
use runtime::events::RetentionPolicy;
use runtime::mcp::McpServerConfig;
use runtime::workers::{RuntimeConfig, RuntimeLimits};
use serde::Deserialize;
use serde_json::Value;

use super::error::Problem;
use super::keys::{self, Kind};
use super::values::Values;
use crate::store_care::policy;

/// The name of the model that needs nothing.
pub(crate) const SCRIPTED: &str = "scripted";

/// Everything that can be configured; what is absent has its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) agent: AgentSettings,
    pub(crate) approval: ApprovalSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) mcp_servers: BTreeMap<String, Value>,
    pub(crate) model: ModelSettings,
    pub(crate) profiles: BTreeMap<String, ProfileSettings>,
    pub(crate) retention: RetentionSettings,
    pub(crate) store: StoreSettings,
    pub(crate) workers: BTreeMap<String, WorkerSettings>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentSettings {
    pub(crate) instructions: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ApprovalSettings {
    /// For every tool that is not named below.
    pub(crate) default: Option<ApprovalPolicy>,
    /// By the name that the model sees.
    pub(crate) tools: BTreeMap<String, ApprovalPolicy>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelSettings {
    pub(crate) name: Option<String>,
    pub(crate) base_url: Option<String>,
    pub(crate) api_key: Option<String>,
    pub(crate) api_key_env: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) output_tokens_max: Option<u32>,
    pub(crate) temperature: Option<f64>,
    pub(crate) timeout_connect_ms: Option<u64>,
    pub(crate) timeout_first_byte_ms: Option<u64>,
    pub(crate) timeout_idle_ms: Option<u64>,
    pub(crate) timeout_total_ms: Option<u64>,
    pub(crate) answer_bytes_max: Option<usize>,
}

impl std::fmt::Debug for ModelSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSettings")
            .field("name", &self.name)
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

impl ModelSettings {
    /// Whether a real model is configured.
    pub(crate) fn is_real(&self) -> bool {
        self.name.as_deref().is_some_and(|name| name != SCRIPTED)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitSettings {
    backoff_initial_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    calls_max: Option<u32>,
    identical_calls_max: Option<u32>,
    input_bytes_max: Option<usize>,
    iterations_max: Option<u32>,
    model_attempt_timeout_ms: Option<u64>,
    model_attempts_max: Option<u32>,
    queue_max: Option<u32>,
    tokens_max: Option<u64>,
    tool_attempt_timeout_ms: Option<u64>,
    tool_attempts_max: Option<u32>,
    tool_output_bytes_max: Option<usize>,
    tool_output_lines_max: Option<usize>,
    turns_running_max: Option<u32>,
}

/// What is kept of the log while a process has the runtime open; all of it without a bound.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetentionSettings {
    age_days: Option<u64>,
    bytes_max: Option<u64>,
    events_max: Option<u64>,
    interval_ms: Option<u64>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSettings {
    pub(crate) directory: Option<PathBuf>,
    /// A database instead; it may carry a password.
    pub(crate) url: Option<String>,
}

impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSettings")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProfileSettings {
    pub(crate) mcp_servers: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkerSettings {
    pub(crate) profile: Option<String>,
    pub(crate) mcp_servers: BTreeMap<String, Value>,
}

/// A server entry (M11), and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct ServerEntry {
    pub(crate) config: McpServerConfig,
    /// Whether its tools are looked for at all.
    pub(crate) discovery: bool,
    /// The key of the entry.
    pub(crate) key: String,
}

impl Settings {
    pub(crate) fn from_values(values: &Values) -> Result<Self, Problem> {
        let settings: Self = serde_path_to_error::deserialize(values.tree()).map_err(|error| {
            let key = error.path().to_string();
            values.problem(&key, wrong(&key, &error.into_inner()))
        })?;
        settings.check(values)?;
        Ok(settings)
    }

    fn check(&self, values: &Values) -> Result<(), Problem> {
        let limits = &self.limits;
        let zero = [
            ("calls_max", limits.calls_max == Some(0)),
            ("identical_calls_max", limits.identical_calls_max == Some(0)),
            ("input_bytes_max", limits.input_bytes_max == Some(0)),
            ("iterations_max", limits.iterations_max == Some(0)),
            (
                "model_attempt_timeout_ms",
                limits.model_attempt_timeout_ms == Some(0),
            ),
            ("model_attempts_max", limits.model_attempts_max == Some(0)),
            ("queue_max", limits.queue_max == Some(0)),
            ("tokens_max", limits.tokens_max == Some(0)),
            (
                "tool_attempt_timeout_ms",
                limits.tool_attempt_timeout_ms == Some(0),
            ),
            ("tool_attempts_max", limits.tool_attempts_max == Some(0)),
            (
                "tool_output_bytes_max",
                limits.tool_output_bytes_max == Some(0),
            ),
            (
                "tool_output_lines_max",
                limits.tool_output_lines_max == Some(0),
            ),
            ("turns_running_max", limits.turns_running_max == Some(0)),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(values.problem(&format!("limits.{name}"), "it must be at least 1"));
        }
        let both = self.model.api_key.is_some() && self.model.api_key_env.is_some();
        if both {
            let message = "give the key itself or the variable that holds it, not both";
            return Err(values.problem("model.api_key_env", message));
        }
        for (worker, settings) in &self.workers {
            if let Some(profile) = &settings.profile
                && !self.profiles.contains_key(profile)
            {
                let message = format!("there is no profile {profile:?}");
                return Err(values.problem(&format!("workers.{worker}.profile"), message));
            }
        }
        for (prefix, servers) in self.server_layers() {
            for (name, entry) in servers {
                let entry = server_entry(&prefix, name, entry);
                let check = entry.map(|_| ());
                check.map_err(|(key, message)| values.problem(&key, message))?;
            }
        }
        Ok(())
    }

    fn server_layers(&self) -> Vec<(String, &BTreeMap<String, Value>)> {
        let runtime = [("mcp_servers".to_owned(), &self.mcp_servers)];
        let profiles = self.profiles.iter();
        let profiles =
            profiles.map(|(name, p)| (format!("profiles.{name}.mcp_servers"), &p.mcp_servers));
        let workers = self.workers.iter();
        let workers =
            workers.map(|(name, w)| (format!("workers.{name}.mcp_servers"), &w.mcp_servers));
        runtime.into_iter().chain(profiles).chain(workers).collect()
    }

    /// The servers of a worker: the runtime's, over them its profile's, over them its own; the
    /// later replaces by name (M11).
    pub(crate) fn servers(&self, worker: Option<&str>, profile: Option<&str>) -> Vec<ServerEntry> {
        let worker = worker.and_then(|name| Some((name, self.workers.get(name)?)));
        let configured = worker.and_then(|(_, settings)| settings.profile.as_deref());
        let profile = profile
            .or(configured)
            .and_then(|name| Some((name, self.profiles.get(name)?)));
        let mut layered: BTreeMap<&String, (String, &Value)> = BTreeMap::new();
        let mut lay = |prefix: String, servers| {
            let servers: &BTreeMap<String, Value> = servers;
            for (name, entry) in servers {
                layered.insert(name, (prefix.clone(), entry));
            }
        };
        lay("mcp_servers".to_owned(), &self.mcp_servers);
        if let Some((name, profile)) = profile {
            lay(format!("profiles.{name}.mcp_servers"), &profile.mcp_servers);
        }
        if let Some((name, worker)) = worker {
            lay(format!("workers.{name}.mcp_servers"), &worker.mcp_servers);
        }
        let entries = layered.into_iter().map(|(name, (prefix, entry))| {
            server_entry(&prefix, name, entry).expect("it was read when the file was")
        });
        entries.collect()
    }

    /// The servers of every layer, each under its own key.
    pub(crate) fn all_servers(&self) -> Vec<ServerEntry> {
        let layers = self.server_layers().into_iter();
        let entries = layers.flat_map(|(prefix, servers)| {
            servers.iter().map(move |(name, entry)| {
                server_entry(&prefix, name, entry).expect("it was read when the file was")
            })
        });
        entries.collect()
    }

    /// The approval policy of a tool; none if its own counts.
    pub(crate) fn approval(&self, tool: &str) -> Option<ApprovalPolicy> {
        self.approval
            .tools
            .get(tool)
            .cloned()
            .or_else(|| self.approval.default.clone())
    }

    /// Sets the limits of a runtime.
    pub(crate) fn runtime_config(&self) -> RuntimeConfig {
        let mut config = RuntimeConfig::default();
        let limits = &self.limits;
        let budgets = &mut config.turn_budgets;
        put(&mut budgets.iterations_max, limits.iterations_max);
        put(&mut budgets.calls_max, limits.calls_max);
        put(&mut budgets.identical_calls_max, limits.identical_calls_max);
        budgets.tokens_max = limits.tokens_max.or(budgets.tokens_max);
        let RetentionSettings {
            age_days,
            bytes_max,
            events_max,
            interval_ms,
        } = self.retention;
        let policy = policy(age_days, events_max, bytes_max);
        let keeps_all = RetentionPolicy::default();
        config.retention = (policy != keeps_all).then_some(policy);
        put(&mut config.retention_interval, milliseconds(interval_ms));
        config
    }

    /// The limits of what users send; none if none is configured, so that a runtime keeps its own.
    pub(crate) fn runtime_limits(&self) -> Option<RuntimeLimits> {
        let limits = &self.limits;
        let is_given = limits.input_bytes_max.is_some()
            || limits.queue_max.is_some()
            || limits.turns_running_max.is_some();
        is_given.then(|| {
            let mut bounds = RuntimeLimits {
                turns_running_max: limits.turns_running_max,
                ..RuntimeLimits::default()
            };
            put(&mut bounds.input_bytes_max, limits.input_bytes_max);
            put(&mut bounds.queue_max, limits.queue_max);
            bounds
        })
    }

    /// Sets the limits of an agent.
    pub(crate) fn limit(&self, agent: &mut Agent) {
        let limits = &self.limits;
        let policy = |policy: &mut RetryPolicy, attempts, timeout: Option<u64>| {
            put(&mut policy.max_attempts, attempts);
            put(&mut policy.attempt_timeout, milliseconds(timeout));
            put(
                &mut policy.backoff_initial,
                milliseconds(limits.backoff_initial_ms),
            );
            put(&mut policy.backoff_max, milliseconds(limits.backoff_max_ms));
        };
        let (attempts, timeout) = (limits.model_attempts_max, limits.model_attempt_timeout_ms);
        policy(&mut agent.model_policy, attempts, timeout);
        let (attempts, timeout) = (limits.tool_attempts_max, limits.tool_attempt_timeout_ms);
        policy(&mut agent.tool_policy, attempts, timeout);
        let ToolOutputLimits {
            bytes_max,
            lines_max,
        } = &mut agent.output_limits;
        put(bytes_max, limits.tool_output_bytes_max);
        put(lines_max, limits.tool_output_lines_max);
    }
}

pub(crate) fn milliseconds(milliseconds: Option<u64>) -> Option<Duration> {
    milliseconds.map(Duration::from_millis)
}

pub(crate) fn put<Setting>(place: &mut Setting, value: Option<Setting>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Reads a server entry; its error comes with the key.
fn server_entry(prefix: &str, name: &str, entry: &Value) -> Result<ServerEntry, (String, String)> {
    let key = format!("{prefix}.{name}");
    let refuse = |message: &str| Err((key.clone(), message.to_owned()));
    let Value::Object(members) = entry else {
        return refuse("a server is a table");
    };
    let mut members = members.clone();
    let discovery = match members.remove("discovery") {
        None => true,
        Some(Value::Bool(discovery)) => discovery,
        Some(_) => {
            let message = "invalid type: expected true or false".to_owned();
            return Err((format!("{key}.discovery"), message));
        }
    };
    members.insert("name".to_owned(), Value::String(name.to_owned()));
    let config: McpServerConfig = serde_path_to_error::deserialize(Value::Object(members))
        .map_err(|error| {
            let path = error.path().to_string();
            let key = if path == "." {
                key.clone()
            } else {
                format!("{key}.{path}")
            };
            let message = wrong(&key, &error.into_inner());
            (key, message)
        })?;
    Ok(ServerEntry {
        config,
        discovery,
        key,
    })
}

/// What is wrong with a value. The parser repeats the value, which a secret's must not.
fn wrong(key: &str, error: &serde_json::Error) -> String {
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    if keys::of(&path).is_some_and(|key| key.kind == Kind::Secret) {
        "it must be a text".to_owned()
    } else {
        error.to_string()
    }
}
