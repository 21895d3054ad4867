//! Characters that let a person read something else than a model (M10): pure.

use runtime_core::ToolDefinition;
use serde_json::Value;

/// Says whether a definition has characters that nobody sees: zero-width, bidirectional, tag or
/// control characters, in any text of it.
pub(crate) fn hides_characters(definition: &ToolDefinition) -> bool {
    let texts = definition
        .display_name
        .iter()
        .chain([&definition.description]);
    texts.into_iter().any(|text| hides(text))
        || value_hides(&definition.input_schema)
        || definition.output_schema.as_ref().is_some_and(value_hides)
}

fn value_hides(value: &Value) -> bool {
    match value {
        Value::String(text) => hides(text),
        Value::Array(items) => items.iter().any(value_hides),
        Value::Object(members) => members
            .iter()
            .any(|(name, member)| hides(name) || value_hides(member)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn hides(text: &str) -> bool {
    text.chars().any(is_hidden)
}

fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\r' | '\t' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => true,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{e0000}'..='\u{e007f}' => true,
        _ => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::{ApprovalPolicy, ToolHints};
    use serde_json::json;

    fn definition(description: &str, schema: Value) -> ToolDefinition {
        ToolDefinition {
            name: "t".to_owned(),
            display_name: None,
            description: description.to_owned(),
            input_schema: schema,
            output_schema: None,
            category: None,
            approval: ApprovalPolicy::default(),
            hints: ToolHints::default(),
            deferrable: false,
        }
    }

    #[test]
    fn m10_what_nobody_sees_is_found_wherever_it_is() {
        for hidden in [
            "\u{200b}",
            "\u{202e}",
            "\u{2066}",
            "\u{feff}",
            "\u{e0041}",
            "\u{1b}[8m",
        ] {
            let text = format!("reads{hidden} a file");
            assert!(hides_characters(&definition(&text, json!({}))), "{text:?}");
            let schema = json!({"properties": {"a": {"enum": ["x", text]}}});
            assert!(hides_characters(&definition("", schema)), "{text:?}");
            let schema = json!({"properties": {text.clone(): {}}});
            assert!(hides_characters(&definition("", schema)), "{text:?}");
        }
    }

    #[test]
    fn m10_ordinary_text_of_any_script_passes() {
        let text = "Größe, 漢字, עברית, हिन्दी, 🦀:\n\t- one";
        assert!(!hides_characters(&definition(
            text,
            json!({"description": text})
        )));
    }
}
