//! The headers that a tool wants its arguments in (`x-mcp-header`): pure.
//!
//! A server over HTTP may ask that some arguments of a call stand in headers too, so that those
//! in between can route without reading the body. What it asks for is in the schema of the tool.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The member of a property that names its header.
const ANNOTATION: &str = "x-mcp-header";
const BASE64_START: &str = "=?base64?";
const BASE64_END: &str = "?=";
/// Deeper schemas are not searched; no argument is that deep.
const DEPTH_MAX: usize = 64;

/// Returns the headers of a call: those of its arguments that the schema asks for, and that it
/// has.
pub(crate) fn of_call(input_schema: &Value, arguments: &Value) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    collect(input_schema, arguments, 0, &mut headers);
    headers
}

fn collect(schema: &Value, arguments: &Value, depth: usize, headers: &mut Vec<(String, String)>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let Some(argument) = arguments.get(name) else {
            continue;
        };
        let header = property.get(ANNOTATION).and_then(Value::as_str);
        if let (Some(header), Some(text)) = (header, primitive(argument)) {
            headers.push((format!("Mcp-Param-{header}"), header_value(&text)));
        }
        if depth < DEPTH_MAX {
            collect(property, argument, depth + 1, headers);
        }
    }
}

fn primitive(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Returns a text as the value of a header: as it is, or in Base64 where a header cannot carry it.
pub(crate) fn header_value(text: &str) -> String {
    let blank = |c: char| c == ' ' || c == '\t';
    let printable = text.chars().all(|c| (' '..='~').contains(&c));
    let padded = text.starts_with(blank) || text.ends_with(blank);
    let looks_coded = text.starts_with(BASE64_START) && text.ends_with(BASE64_END);
    if printable && !padded && !looks_coded {
        text.to_owned()
    } else {
        format!("{BASE64_START}{}{BASE64_END}", STANDARD.encode(text))
    }
}

/// Checks what a schema asks for.
///
/// # Errors
/// Why the tool must not be offered: a header that none can be, one asked for twice, or on what
/// is no plain argument.
pub(crate) fn check(input_schema: &Value) -> Result<(), String> {
    let mut seen = HashSet::new();
    if input_schema.get(ANNOTATION).is_some() {
        return Err(format!("{ANNOTATION} is on the schema itself"));
    }
    walk(input_schema, true, 0, &mut seen)
}

fn walk(
    schema: &Value,
    on_path: bool,
    depth: usize,
    seen: &mut HashSet<String>,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Ok(());
    }
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    (ANNOTATION, header) => check_annotation(schema, header, on_path, seen)?,
                    ("properties", Value::Object(properties)) => {
                        for property in properties.values() {
                            walk(property, on_path, depth + 1, seen)?;
                        }
                    }
                    // The names in these are the server's own, not words of the schema.
                    (
                        "$defs" | "definitions" | "dependentSchemas" | "patternProperties",
                        Value::Object(schemas),
                    ) => {
                        for schema in schemas.values() {
                            walk(schema, false, depth + 1, seen)?;
                        }
                    }
                    // Data, not schemas.
                    ("default" | "const" | "enum" | "examples", _) => {}
                    _ => walk(member, false, depth + 1, seen)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| walk(item, false, depth + 1, seen)),
        _ => Ok(()),
    }
}

fn check_annotation(
    schema: &Value,
    header: &Value,
    on_path: bool,
    seen: &mut HashSet<String>,
) -> Result<(), String> {
    let Some(header) = header.as_str() else {
        return Err(format!("an {ANNOTATION} is not a text"));
    };
    if !on_path {
        return Err(format!(
            "{ANNOTATION} {header:?} is not on a plain argument"
        ));
    }
    if header.is_empty() || !header.chars().all(is_token) {
        return Err(format!("{ANNOTATION} {header:?} is no name of a header"));
    }
    if !seen.insert(header.to_ascii_lowercase()) {
        return Err(format!("{ANNOTATION} {header:?} is asked for twice"));
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string" | "integer" | "boolean") => Ok(()),
        _ => Err(format!(
            "{ANNOTATION} {header:?} is on an argument that is no text, integer or truth value"
        )),
    }
}

/// A character of a token (RFC 9110, 5.6.2).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn m9_arguments_stand_in_the_headers_that_are_asked_for() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "count": {"type": "integer", "x-mcp-header": "Count"},
            "where": {"type": "object", "properties": {
                "city": {"type": "string", "x-mcp-header": "City"},
            }},
            "quiet": {"type": "boolean", "x-mcp-header": "Quiet"},
            "free": {"type": "string"},
        }});
        assert_eq!(check(&schema), Ok(()));
        let arguments =
            json!({"region": "eu", "count": 3, "where": {"city": "Zürich"}, "free": "x"});
        let mut headers = of_call(&schema, &arguments);
        headers.sort();
        let expected = [
            ("Mcp-Param-City", "=?base64?WsO8cmljaA==?="),
            ("Mcp-Param-Count", "3"),
            ("Mcp-Param-Region", "eu"),
        ];
        assert_eq!(headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn x6_no_argument_can_break_out_of_its_header() {
        for text in [
            "a\r\nHost: evil",
            " led",
            "trailed\t",
            "\u{0}",
            "é",
            "=?base64?x?=",
        ] {
            let value = header_value(text);
            assert!(
                value.bytes().all(|b| (b' '..=b'~').contains(&b)),
                "{value:?}"
            );
            assert_ne!(value, text);
        }
        assert_eq!(header_value(""), "");
        assert_eq!(header_value("a b"), "a b");
    }

    #[test]
    fn m9_what_cannot_be_a_header_is_refused() {
        let property = |property: Value| json!({"properties": {"a": property}});
        for wrong in [
            json!({"x-mcp-header": "A"}),
            property(json!({"type": "string", "x-mcp-header": ""})),
            property(json!({"type": "string", "x-mcp-header": 3})),
            property(json!({"type": "string", "x-mcp-header": "a b"})),
            property(json!({"type": "string", "x-mcp-header": "a\r\nb"})),
            property(json!({"type": "string", "x-mcp-header": "ä"})),
            property(json!({"type": "number", "x-mcp-header": "A"})),
            property(json!({"type": "object", "x-mcp-header": "A"})),
            property(json!({"x-mcp-header": "A"})),
            property(json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}})),
            json!({"$defs": {"d": {"type": "string", "x-mcp-header": "A"}}}),
            json!({"properties": {
                "a": {"type": "string", "x-mcp-header": "Same"},
                "b": {"type": "string", "x-mcp-header": "sAME"},
            }}),
        ] {
            assert!(check(&wrong).is_err(), "{wrong}");
        }
        // A property that happens to be called so is one like any other.
        let named = json!({"properties": {"x-mcp-header": {"type": "string"}}});
        assert_eq!(check(&named), Ok(()));
    }
}
