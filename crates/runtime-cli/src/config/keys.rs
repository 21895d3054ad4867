//! Which keys there are.

use std::sync::OnceLock;

use runtime::mcp::McpServerConfig;
use serde_json::Value;

/// What a key's value looks like when it is written as plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// Text that is never shown.
    Secret,
    Number,
    Flag,
    /// A list, or whatever TOML makes of the text.
    Any,
}

/// A key; a `*` stands for any name.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) path: Vec<String>,
    pub(crate) kind: Kind,
}

const PLAIN: &[(&str, Kind)] = &[
    ("agent.instructions", Kind::Text),
    ("approval.default", Kind::Text),
    ("approval.tools.*", Kind::Text),
    ("limits.backoff_initial_ms", Kind::Number),
    ("limits.backoff_max_ms", Kind::Number),
    ("limits.calls_max", Kind::Number),
    ("limits.identical_calls_max", Kind::Number),
    ("limits.input_bytes_max", Kind::Number),
    ("limits.iterations_max", Kind::Number),
    ("limits.model_attempt_timeout_ms", Kind::Number),
    ("limits.model_attempts_max", Kind::Number),
    ("limits.queue_max", Kind::Number),
    ("limits.tokens_max", Kind::Number),
    ("limits.tool_attempt_timeout_ms", Kind::Number),
    ("limits.tool_attempts_max", Kind::Number),
    ("limits.tool_output_bytes_max", Kind::Number),
    ("limits.tool_output_lines_max", Kind::Number),
    ("limits.turns_running_max", Kind::Number),
    ("model.answer_bytes_max", Kind::Number),
    ("model.api_key", Kind::Secret),
    ("model.api_key_env", Kind::Text),
    ("model.base_url", Kind::Text),
    ("model.headers.*", Kind::Secret),
    ("model.name", Kind::Text),
    ("model.output_tokens_max", Kind::Number),
    ("model.temperature", Kind::Number),
    ("model.timeout_connect_ms", Kind::Number),
    ("model.timeout_first_byte_ms", Kind::Number),
    ("model.timeout_idle_ms", Kind::Number),
    ("model.timeout_total_ms", Kind::Number),
    ("retention.age_days", Kind::Number),
    ("retention.bytes_max", Kind::Number),
    ("retention.events_max", Kind::Number),
    ("retention.interval_ms", Kind::Number),
    ("store.directory", Kind::Text),
    ("store.url", Kind::Secret),
    ("workers.*.profile", Kind::Text),
];

/// Where server entries stand: the layers of M11.
const SERVERS: &[&str] = &[
    "mcp_servers.*",
    "profiles.*.mcp_servers.*",
    "workers.*.mcp_servers.*",
];

/// Members of a server entry whose values are credentials, or may be.
const SECRET_MEMBERS: &[&str] = &["auth", "env", "headers"];

/// All keys.
pub(crate) fn all() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let plain = PLAIN.iter().map(|(path, kind)| key(path, *kind));
        let servers = SERVERS.iter().flat_map(|layer| {
            let members = server_members().into_iter();
            members.map(move |(member, kind)| key(&format!("{layer}.{member}"), kind))
        });
        plain.chain(servers).collect()
    })
}

fn key(path: &str, kind: Kind) -> Key {
    Key {
        path: path.split('.').map(str::to_owned).collect(),
        kind,
    }
}

/// The members of a server entry: what the client's own entry has, so that both always agree.
fn server_members() -> Vec<(String, Kind)> {
    let entry = serde_json::to_value(McpServerConfig::default()).expect("an entry is plain data");
    let Value::Object(members) = entry else {
        unreachable!("an entry is an object")
    };
    let mut keys = vec![("discovery".to_owned(), Kind::Flag)];
    for (name, value) in members {
        if name == "name" || name == "discovery" {
            continue;
        }
        let secret = SECRET_MEMBERS.contains(&name.as_str());
        let kind = match value {
            _ if secret => Kind::Secret,
            Value::Number(_) => Kind::Number,
            Value::Bool(_) => Kind::Flag,
            Value::Array(_) => Kind::Any,
            _ => Kind::Text,
        };
        if value.is_object() || secret {
            keys.push((format!("{name}.*"), kind));
        }
        if !value.is_object() {
            keys.push((name, kind));
        }
    }
    keys
}

/// The key of a path.
pub(crate) fn of(path: &[String]) -> Option<&'static Key> {
    all().iter().find(|key| fits(&key.path, path))
}

/// Whether keys stand below this path.
pub(crate) fn is_table(path: &[String]) -> bool {
    let starts = |key: &&Key| key.path.len() > path.len() && fits(&key.path[..path.len()], path);
    all().iter().any(|key| starts(&key))
}

fn fits(pattern: &[String], path: &[String]) -> bool {
    let same = |(expected, given): (&String, &String)| expected == "*" || expected == given;
    pattern.len() == path.len() && pattern.iter().zip(path).all(same)
}

/// The key that was probably meant: the same table, a similar name.
pub(crate) fn nearest(path: &[String]) -> Option<String> {
    let (name, table) = path.split_last()?;
    let siblings = all().iter().filter_map(|key| {
        let sibling = key.path.get(table.len())?;
        (sibling != "*" && fits(&key.path[..table.len()], table)).then_some(sibling)
    });
    let similar = siblings.map(|sibling| (strsim::jaro_winkler(name, sibling), sibling));
    let best = similar.max_by(|one, other| one.0.total_cmp(&other.0))?;
    let mut meant = table.to_vec();
    meant.push(best.1.clone());
    (best.0 > 0.75).then(|| join(&meant))
}

/// A path as it is written: names with other characters in quotes.
pub(crate) fn join(path: &[String]) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let names = path.iter().map(|name| {
        if !name.is_empty() && name.chars().all(bare) {
            name.clone()
        } else {
            format!("{name:?}")
        }
    });
    names.collect::<Vec<_>>().join(".")
}
