//! The values of all layers, each with where it came from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::Flags;
use super::error::Problem;
use super::keys::{self, Kind};

/// The prefix of the variables that set keys.
pub(super) const PREFIX: &str = "AGENT_RUNTIME_";
/// The variable of the most important key.
const MODEL_VARIABLE: &str = "AGENT_RUNTIME_MODEL";
/// The variable of the runtime's directory.
const DIRECTORY_VARIABLE: &str = "AGENT_RUNTIME_DIR";
/// The tables that variables can set keys of.
const TABLES: &[&str] = &["agent", "approval", "limits", "model", "retention", "store"];

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    File { file: PathBuf, line: usize },
    Environment { variable: String },
    CommandLine { flag: String },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::CommandLine { flag } => write!(f, "command line {flag}"),
        }
    }
}

/// One value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// All values by path; a later layer replaces an earlier one's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values(BTreeMap<Vec<String>, Entry>);

impl Values {
    pub(crate) fn set(&mut self, path: Vec<String>, value: Value, origin: Origin) {
        self.0.insert(path, Entry { value, origin });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Vec<String>, &Entry)> {
        self.0.iter()
    }

    /// Who set a key.
    pub(crate) fn origin(&self, key: &str) -> Option<&Origin> {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        self.0.get(&path).map(|entry| &entry.origin)
    }

    /// Reads the variables that set keys.
    pub(crate) fn read_environment(&mut self, variables: &[(String, String)]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (variable, text) in variables {
            let Some(path) = path_of(variable) else {
                continue;
            };
            let origin = Origin::Environment {
                variable: variable.clone(),
            };
            match keys::of(&path) {
                Some(key) => self.set(path, value_of(text, key.kind), origin),
                None => problems.push(unknown(&path, &origin)),
            }
        }
        problems
    }

    /// Reads the flags that set keys.
    pub(crate) fn read_flags(&mut self, flags: &Flags) -> Vec<Problem> {
        let mut problems = Vec::new();
        let origin = |flag: &str| Origin::CommandLine {
            flag: flag.to_owned(),
        };
        for assignment in &flags.set {
            let origin = origin("--set");
            let Some((key, text)) = assignment.split_once('=') else {
                let message = "write it as KEY=VALUE, such as model.temperature=0.2";
                let key = assignment.split('=').next().unwrap_or_default();
                problems.push(problem_at(&origin, key.to_owned(), message.to_owned()));
                continue;
            };
            let path: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
            match keys::of(&path) {
                Some(key) => self.set(path, value_of(text, key.kind), origin),
                None => problems.push(unknown(&path, &origin)),
            }
        }
        if let Some(model) = &flags.model {
            let path = vec!["model".to_owned(), "name".to_owned()];
            self.set(path, Value::String(model.clone()), origin("--model"));
        }
        if let Some(directory) = &flags.directory {
            let path = vec!["store".to_owned(), "directory".to_owned()];
            let directory = directory.to_string_lossy().into_owned();
            self.set(path, Value::String(directory), origin("--dir"));
        }
        problems
    }

    /// What nobody reads, with what was probably meant.
    pub(crate) fn unknown_keys(&self) -> Vec<Problem> {
        let unknown_ones = self.0.iter().filter_map(|(path, entry)| {
            let known = keys::of(path).is_some();
            // An empty table of a known kind is a value of its own.
            let empty = entry.value.as_object().is_some_and(Map::is_empty);
            let known = known || (empty && keys::is_table(path));
            (!known).then(|| unknown(path, &entry.origin))
        });
        unknown_ones.collect()
    }

    /// The values as one tree.
    pub(crate) fn tree(&self) -> Value {
        let mut tree = Value::Object(Map::new());
        for (path, entry) in &self.0 {
            let mut place = &mut tree;
            for name in path {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                let table = place.as_object_mut().expect("made so right above");
                place = table.entry(name.clone()).or_insert(Value::Null);
            }
            *place = entry.value.clone();
        }
        tree
    }

    /// A problem with a key, where it was set; with its table or what is below it, if it was not.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let message = message.into();
        let table = &path[..path.len().saturating_sub(1)];
        let nearest = (self.0.get(&path))
            .or_else(|| self.first_below(&path))
            .or_else(|| self.first_below(table));
        match nearest {
            Some(entry) => problem_at(&entry.origin, key.to_owned(), message),
            None => Problem {
                source: "configuration".to_owned(),
                line: None,
                key: key.to_owned(),
                message,
            },
        }
    }

    /// What stands first in the file of a table; what is in no file comes after all that is.
    fn first_below(&self, table: &[String]) -> Option<&Entry> {
        let below = self.0.iter();
        let below = below.filter(|(path, _)| !table.is_empty() && path.starts_with(table));
        let line = |entry: &Entry| match entry.origin {
            Origin::File { line, .. } => line,
            _ => usize::MAX,
        };
        below
            .map(|(_, entry)| entry)
            .min_by_key(|entry| line(entry))
    }
}

fn problem_at(origin: &Origin, key: String, message: String) -> Problem {
    let (source, line) = match origin {
        Origin::File { file, line } => (file.display().to_string(), Some(*line)),
        Origin::Environment { variable } => (format!("environment {variable}"), None),
        Origin::CommandLine { flag } => (format!("command line {flag}"), None),
    };
    Problem {
        source,
        line,
        key,
        message,
    }
}

fn unknown(path: &[String], origin: &Origin) -> Problem {
    let message = match keys::nearest(path) {
        _ if keys::is_table(path) => "this is a table, not a value".to_owned(),
        Some(meant) => format!("there is no such key; did you mean {meant}?"),
        None => "there is no such key".to_owned(),
    };
    problem_at(origin, keys::join(path), message)
}

/// The key that a variable sets; none if it is not one of ours.
fn path_of(variable: &str) -> Option<Vec<String>> {
    let path = |path: [&str; 2]| Some(path.map(str::to_owned).to_vec());
    match variable {
        MODEL_VARIABLE => return path(["model", "name"]),
        DIRECTORY_VARIABLE => return path(["store", "directory"]),
        _ => {}
    }
    let (table, name) = variable.strip_prefix(PREFIX)?.split_once('_')?;
    let table = table.to_lowercase();
    let name = name.to_lowercase();
    TABLES.contains(&table.as_str()).then_some(())?;
    path([&table, &name])
}

/// Reads plain text as what its key wants. What does not fit stays text, and is refused with the
/// key's name when the settings are made.
fn value_of(text: &str, kind: Kind) -> Value {
    let plain = || Value::String(text.to_owned());
    match kind {
        Kind::Text | Kind::Secret => plain(),
        Kind::Number | Kind::Flag => serde_json::from_str(text.trim()).unwrap_or_else(|_| plain()),
        Kind::Any => {
            let document = format!("value = {text}");
            let parsed = toml::from_str::<Map<String, Value>>(&document);
            let value = parsed.ok().and_then(|mut table| table.remove("value"));
            value.unwrap_or_else(plain)
        }
    }
}
