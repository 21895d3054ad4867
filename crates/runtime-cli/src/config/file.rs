//! Reading the file, with the line of every value.

use std::path::Path;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::values::{Origin, Values};

/// Reads a file into the values; what is no TOML is a problem.
pub(crate) fn read(file: &Path, text: &str, values: &mut Values) -> Vec<Problem> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let problems = errors.into_iter().map(|error| Problem {
        source: file.display().to_string(),
        line: error.span().map(|span| lines.line(span.start)),
        key: error
            .span()
            .map(|span| lines.key_before(span.start))
            .unwrap_or_default(),
        message: error.message().to_owned(),
    });
    let problems: Vec<Problem> = problems.collect();
    if problems.is_empty() {
        read_table(file, &lines, table.get_ref(), &mut Vec::new(), values);
    }
    problems
}

fn read_table(
    file: &Path,
    lines: &Lines<'_>,
    table: &DeTable<'_>,
    path: &mut Vec<String>,
    values: &mut Values,
) {
    for (name, value) in table {
        path.push(name.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(table) if !table.is_empty() => {
                read_table(file, lines, table, path, values);
            }
            _ => {
                let origin = Origin::File {
                    file: file.to_path_buf(),
                    line: lines.line(name.span().start),
                };
                values.set(path.clone(), json(value), origin);
            }
        }
        path.pop();
    }
}

fn json(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let integer = i64::from_str_radix(number.as_str(), number.radix());
            // A number beyond 64 bits stays text and is refused as such.
            integer.map_or_else(|_| Value::String(number.as_str().to_owned()), Value::from)
        }
        DeValue::Float(number) => {
            let float = number.as_str().parse::<f64>().ok();
            let float = float.and_then(serde_json::Number::from_f64);
            float.map_or_else(|| Value::String(number.as_str().to_owned()), Value::Number)
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(json).collect()),
        DeValue::Table(table) => {
            let members = table
                .iter()
                .map(|(name, value)| (name.get_ref().to_string(), json(value)));
            Value::Object(members.collect::<Map<_, _>>())
        }
    }
}

/// Where the lines of a text begin.
struct Lines<'a> {
    text: &'a str,
}

impl<'a> Lines<'a> {
    const fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// The line of a place, from 1.
    fn line(&self, at: usize) -> usize {
        let before = self
            .text
            .as_bytes()
            .get(..at)
            .unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The key at the start of the line of a place, for what is no TOML: the parser has no better.
    fn key_before(&self, at: usize) -> String {
        let at = at.min(self.text.len());
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        let key = line.split('=').next().unwrap_or_default().trim();
        let bare = |c: char| c.is_ascii_alphanumeric() || "_-.[]\"".contains(c);
        // A line without a key may hold anything, a secret as well.
        if line.contains('=') && key.chars().all(bare) || line.trim_start().starts_with('[') {
            key.to_owned()
        } else {
            String::new()
        }
    }
}
