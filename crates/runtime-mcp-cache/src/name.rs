//! The names that a model sees (M8): one per (server, tool), and an explicit map back.

use std::collections::BTreeMap;

use runtime_core::CanonicalEncoder;
use serde::{Deserialize, Serialize};

/// The characters of a name that model providers take: `[A-Za-z_][A-Za-z0-9_-]{0,62}`.
const NAME_MAX: usize = 63;

/// `-` and sixteen hexadecimal digits at the end of a name mean that it was lossy.
const SUFFIX_MAX: usize = 17;

/// Between server and tool. A server that contains or touches it gets a digest suffix instead,
/// so the first occurrence always ends the server.
const SEPARATOR: &str = "__";

/// Returns the public name of a tool.
///
/// It depends on the server and the tool alone, so it stays when other servers come and go.
/// `server__tool` where that loses nothing; else what is left of it, and a digest of both.
///
/// ```
/// use runtime_mcp_cache::public_name;
///
/// assert_eq!(public_name("files", "read_line"), "files__read_line");
/// let dotted = public_name("files", "read.line");
/// assert!(dotted.starts_with("files__read_line-") && dotted.len() <= 63);
/// ```
#[must_use]
pub fn public_name(server: &str, tool: &str) -> String {
    let plain = format!("{server}{SEPARATOR}{tool}");
    if is_lossless(server, tool, &plain) {
        return plain;
    }
    let digest = CanonicalEncoder::new("tool-name")
        .text(server)
        .text(tool)
        .digest()
        .to_string();
    let start = if starts_well(&plain) { "" } else { "_" };
    let legible = plain.chars().map(|c| if is_legal(c) { c } else { '_' });
    let mut name: String = start
        .chars()
        .chain(legible)
        .take(NAME_MAX - SUFFIX_MAX)
        .collect();
    name.push('-');
    name.push_str(&digest[..SUFFIX_MAX - 1]);
    name
}

fn is_lossless(server: &str, tool: &str, plain: &str) -> bool {
    let parts = !server.is_empty() && !tool.is_empty();
    let separable = !server.contains(SEPARATOR) && !server.ends_with('_');
    parts
        && separable
        && plain.len() <= NAME_MAX
        && starts_well(plain)
        && plain.chars().all(is_legal)
        && !looks_lossy(plain)
}

fn starts_well(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// A plain name of this form would be mistaken for a lossy one, so it becomes lossy itself.
fn looks_lossy(name: &str) -> bool {
    let hexadecimal = |digits: &str| {
        digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    // The names asked for are ASCII here, so any byte is a boundary.
    let Some(at) = name.len().checked_sub(SUFFIX_MAX) else {
        return false;
    };
    name[at..].strip_prefix('-').is_some_and(hexadecimal)
}

/// A tool that may not be offered, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RefusedTool {
    /// The name on the server.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The way back from public names: explicit, never by taking a name apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameMap {
    names: BTreeMap<String, (String, String)>,
}

impl NameMap {
    /// Gathers (server, tool) pairs. Two tools with one public name are both refused, so that
    /// neither can stand in for the other; so is a pair that comes twice.
    #[must_use]
    pub fn gather<S: Into<String>>(
        pairs: impl IntoIterator<Item = (S, S)>,
    ) -> (Self, Vec<RefusedTool>) {
        let mut names: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (server, tool) in pairs {
            let (server, tool) = (server.into(), tool.into());
            names
                .entry(public_name(&server, &tool))
                .or_default()
                .push((server, tool));
        }
        let mut map = Self::default();
        let mut refused = Vec::new();
        for (public, mut pairs) in names {
            match (pairs.pop(), pairs.is_empty()) {
                (Some(only), true) => {
                    map.names.insert(public, only);
                }
                (last, _) => refused.extend(pairs.into_iter().chain(last).map(|(server, tool)| {
                    let reason = format!("it and another tool are both called {public}");
                    let name = format!("{server}/{tool}");
                    RefusedTool { name, reason }
                })),
            }
        }
        (map, refused)
    }

    /// Returns the server and the tool behind a public name.
    #[must_use]
    pub fn resolve(&self, public: &str) -> Option<(&str, &str)> {
        let (server, tool) = self.names.get(public)?;
        Some((server, tool))
    }

    /// Returns the public names in order, each with its server and tool.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.names
            .iter()
            .map(|(public, (server, tool))| (public.as_str(), server.as_str(), tool.as_str()))
    }
}
