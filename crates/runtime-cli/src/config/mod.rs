//! The configuration: a file, under it the defaults, over it the environment, over that the flags.
//!
//! Every value keeps where it came from, so that an error can name file, line and key, and
//! `config show` can say who set what.

mod command;
mod error;
mod file;
mod keys;
mod settings;
mod values;

use std::path::{Path, PathBuf};

use runtime::agent_cache::{AgentCacheConfig, EnvironmentSettings, SettingError};

pub(crate) use command::{check, show, warnings};
pub(crate) use error::{ConfigError, Problem};
pub(crate) use settings::{ModelSettings, ServerEntry, Settings};
#[cfg(feature = "genai")]
pub(crate) use settings::{milliseconds, put};
use values::{Origin, Values};

/// The file that is read when none is named.
pub(crate) const FILE: &str = "agent-runtime.toml";
/// The directory of the runtime unless one is configured.
pub(crate) const DIRECTORY: &str = ".agent-runtime";
/// The variable that names another file.
const FILE_VARIABLE: &str = "AGENT_RUNTIME_CONFIG";

/// What the command line says of the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--config FILE`
    pub(crate) file: Option<PathBuf>,
    /// `--dir DIR`
    pub(crate) directory: Option<PathBuf>,
    /// `--model PROVIDER::MODEL`
    pub(crate) model: Option<String>,
    /// `--set KEY=VALUE`, in order.
    pub(crate) set: Vec<String>,
}

/// The configuration as it is in force.
#[derive(Debug, Clone)]
pub(crate) struct Configuration {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    pub(crate) settings: Settings,
    /// The bounds of the cache of built agents (G4).
    pub(crate) agent_cache: AgentCacheConfig,
    /// What a variable asked for beyond its cap.
    pub(crate) capped: Vec<String>,
    values: Values,
    /// What `--dir` named: a path need not be text, a value is.
    named: Option<PathBuf>,
}

impl Configuration {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, as far as it can be seen at once.
    pub(crate) fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let file = file_of(flags, &environment);
        let mut values = Values::default();
        let mut problems = Vec::new();
        if let Some(path) = &file {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                file: path.clone(),
                source,
            })?;
            problems.extend(file::read(path, &text, &mut values));
        }
        problems.extend(values.read_environment(&environment));
        problems.extend(values.read_flags(flags));
        problems.extend(values.unknown_keys());
        let (agent_cache, capped) = agent_cache(&environment).unwrap_or_else(|error| {
            problems.push(Problem {
                source: format!("environment {}", error.name),
                line: None,
                key: String::new(),
                message: error.to_string(),
            });
            Default::default()
        });
        // What has an unknown key would be read as if it were not there, so it is not read.
        if !problems.is_empty() {
            return Err(ConfigError::Invalid { problems });
        }
        match Settings::from_values(&values) {
            Ok(settings) => Ok(Self {
                file,
                settings,
                agent_cache,
                capped,
                values,
                named: flags.directory.clone(),
            }),
            Err(problem) => Err(ConfigError::Invalid {
                problems: vec![problem],
            }),
        }
    }

    /// The directory of the runtime. A relative one in the file is relative to the file.
    pub(crate) fn directory(&self) -> PathBuf {
        if let Some(named) = &self.named {
            return named.clone();
        }
        let Some(directory) = &self.settings.store.directory else {
            return PathBuf::from(DIRECTORY);
        };
        match (self.values.origin("store.directory"), &self.file) {
            (Some(Origin::File { .. }), Some(file)) => {
                let folder = file.parent().unwrap_or_else(|| Path::new(""));
                folder.join(directory)
            }
            _ => directory.clone(),
        }
    }

    /// A problem with the value of a key, wherever that was set.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        self.values.problem(key, message)
    }
}

/// The variables of this process. One that is no text is none of ours, unless it has our prefix.
///
/// # Errors
/// [`ConfigError::Invalid`]: a variable that would be passed by in silence.
pub(crate) fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    let mut problems = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if name.starts_with(values::PREFIX) => problems.push(Problem {
                source: format!("environment {name}"),
                line: None,
                key: String::new(),
                message: "its value is not UTF-8".to_owned(),
            }),
            Err(_) => {}
        }
    }
    match problems.is_empty() {
        true => Ok(variables),
        false => Err(ConfigError::Invalid { problems }),
    }
}

/// A path as JSON has it, which holds text alone.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The bounds of the cache of built agents, from the variables that set them, and what had to be
/// capped.
fn agent_cache(
    environment: &[(String, String)],
) -> Result<(AgentCacheConfig, Vec<String>), SettingError> {
    let variable = |name: &str| {
        let mut set = environment.iter().filter(|(variable, _)| variable == name);
        set.next().map(|(_, text)| text.as_str())
    };
    let settings = EnvironmentSettings {
        max_entries: variable("AGENT_RUNTIME_CACHE_MAX_ENTRIES"),
        ttl_ms: variable("AGENT_RUNTIME_CACHE_TTL_MS"),
        ttl_seconds: variable("AGENT_RUNTIME_CACHE_TTL_SECONDS"),
    };
    let (config, capped) = AgentCacheConfig::default().with_settings(settings)?;
    let capped = capped.iter().map(|capped| {
        let (name, asked, cap) = (capped.name, capped.asked, capped.cap);
        format!("{name} asks for {asked}; its cap, {cap}, holds")
    });
    Ok((config, capped.collect()))
}

/// The file: named, or the usual one if it is there. A named one must be there.
fn file_of(flags: &Flags, environment: &[(String, String)]) -> Option<PathBuf> {
    let variable = environment
        .iter()
        .find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
    let named = flags
        .file
        .clone()
        .or_else(|| variable.map(|(_, value)| PathBuf::from(value)));
    named.or_else(|| Some(PathBuf::from(FILE)).filter(|file| file.exists()))
}
