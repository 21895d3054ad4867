//! `config check` and `config show`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::keys::{self, Kind};
use super::{Configuration, FILE};
use crate::agents::ConfiguredAgents;
use crate::exit::Exit;
use crate::output::Output;
use crate::tool_servers::ToolServers;

/// What is shown in place of a secret.
const REDACTED: &str = "[redacted]";

/// `config check`: everything that can be checked before anything is started.
pub(crate) fn check(
    configuration: &Arc<Configuration>,
    directory: &Path,
    output: Output,
) -> anyhow::Result<Exit> {
    ConfiguredAgents::new(Arc::clone(configuration), directory, ToolServers::new()).check()?;
    let mut warnings = warnings(configuration);
    warnings.extend(configuration.capped.iter().cloned());
    let file = configuration.file.as_deref().map(super::shown);
    let shown = file
        .clone()
        .unwrap_or_else(|| format!("no {FILE} here; defaults, environment and flags"));
    let lines = || {
        let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
        let ok = std::iter::once(format!("{shown}: ok"));
        ok.chain(warnings).collect::<Vec<_>>().join("\n")
    };
    output.print(
        lines,
        &json!({ "ok": true, "file": file, "warnings": warnings }),
    );
    Ok(Exit::Done)
}

/// A file that holds a key should not be everybody's to read.
pub(crate) fn warnings(configuration: &Configuration) -> Vec<String> {
    let Some(file) = &configuration.file else {
        return Vec::new();
    };
    let secrets = configuration.values.iter().filter(|(path, entry)| {
        let secret = keys::of(path).is_some_and(|key| key.kind == Kind::Secret);
        secret && matches!(entry.origin, super::values::Origin::File { .. })
    });
    let mode = std::fs::metadata(file).map(|metadata| metadata.permissions().mode());
    let open = mode.is_ok_and(|mode| mode & 0o077 != 0);
    let secrets: Vec<String> = secrets.map(|(path, _)| keys::join(path)).collect();
    if secrets.is_empty() || !open {
        return Vec::new();
    }
    let names = secrets.join(", ");
    let file = file.display();
    vec![format!(
        "others may read {file}, which holds {names}: chmod 600 {file}"
    )]
}

/// `config show`: every value that is set, who set it, no secret.
pub(crate) fn show(
    configuration: &Configuration,
    directory: &Path,
    output: Output,
) -> anyhow::Result<Exit> {
    let directory = super::shown(directory);
    let mut rows = Vec::new();
    for (path, entry) in configuration.values.iter() {
        rows.push((
            keys::join(path),
            shown(path, &entry.value),
            entry.origin.to_string(),
        ));
    }
    let defaults = [
        ("model.name", json!(super::settings::SCRIPTED)),
        ("store.directory", json!(directory)),
    ];
    for (key, value) in defaults {
        if !rows.iter().any(|(set, _, _)| set == key) {
            rows.push((key.to_owned(), value, "default".to_owned()));
        }
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let lines = || {
        let lines = rows
            .iter()
            .map(|(key, value, origin)| format!("{key} = {value}  # {origin}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let values = rows
        .iter()
        .map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin }));
    let values: Vec<Value> = values.collect();
    let file = configuration.file.as_deref().map(super::shown);
    output.print(
        lines,
        &json!({ "file": file, "directory": directory, "values": values }),
    );
    Ok(Exit::Done)
}

/// The value as it may be shown: credentials also hide in arguments and addresses.
fn shown(path: &[String], value: &Value) -> Value {
    let last = path.last().map(String::as_str).unwrap_or_default();
    if keys::of(path).is_none_or(|key| key.kind == Kind::Secret) && !value.is_object() {
        return Value::String(REDACTED.to_owned());
    }
    match value {
        Value::Array(items) if last == "args" => Value::Array(arguments(items)),
        Value::String(text) if last.ends_with("url") => Value::String(address(text)),
        Value::Object(members) if !members.is_empty() => Value::String(REDACTED.to_owned()),
        other => other.clone(),
    }
}

/// Arguments of a program, without the values of those that sound like credentials.
fn arguments(items: &[Value]) -> Vec<Value> {
    let mut hide_next = false;
    let shown = items.iter().map(|item| {
        let text = item.as_str().unwrap_or_default();
        let hidden = std::mem::take(&mut hide_next);
        let lower = text.to_lowercase();
        let words = ["auth", "credential", "key", "pass", "secret", "token"];
        let sounds_secret = words.iter().any(|word| lower.contains(word));
        if hidden {
            return Value::String(REDACTED.to_owned());
        }
        match text.split_once('=') {
            Some((name, _)) if sounds_secret => Value::String(format!("{name}={REDACTED}")),
            None if sounds_secret && text.starts_with('-') => {
                hide_next = true;
                item.clone()
            }
            _ if text.contains("://") => Value::String(address(text)),
            _ => item.clone(),
        }
    });
    shown.collect()
}

/// An address without its credentials and query.
fn address(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{REDACTED}@{host}"),
        None => authority.to_owned(),
    };
    match path.split_once('?') {
        Some((path, _)) => format!("{scheme}://{host}{path}?{REDACTED}"),
        None => format!("{scheme}://{host}{path}"),
    }
}
