//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

use runtime::core::{Classified, ErrorClass};
use serde::Serialize;
use serde_json::{Value, json};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The file, `environment`, or `command line`.
    pub(crate) source: String,
    /// The line of the file, from 1.
    pub(crate) line: Option<usize>,
    /// The key, or the name of the variable or flag.
    pub(crate) key: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", file.display())]
    Unreadable {
        file: PathBuf,
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}", lines(.problems))]
    Invalid { problems: Vec<Problem> },
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl Classified for ConfigError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "config_unreadable",
            Self::Invalid { .. } => "config_invalid",
        }
    }

    fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Unreadable { file, .. } => Some(json!({ "file": super::shown(file) })),
            Self::Invalid { problems } => Some(json!({ "problems": problems })),
        }
    }
}
