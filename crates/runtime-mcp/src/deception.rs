//! Characters that let a person read something else than a model (M10): pure.

use std::collections::BTreeSet;

use serde_json::Value;

/// Returns the characters of a definition that nobody sees, in any text of it: zero-width,
/// bidirectional, tag and control characters. Whoever approves it must be told of them.
#[must_use]
pub fn hidden_characters(definition: &Value) -> BTreeSet<char> {
    let mut found = BTreeSet::new();
    collect(definition, &mut found);
    found
}

fn collect(value: &Value, found: &mut BTreeSet<char>) {
    match value {
        Value::String(text) => found.extend(text.chars().filter(|&c| is_hidden(c))),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            found.extend(name.chars().filter(|&c| is_hidden(c)));
            collect(member, found);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\r' | '\t' => false,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => true,
        '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}' => true,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn m10_what_nobody_sees_is_found_wherever_it_is() {
        for (hidden, found) in [
            ("\u{200b}", '\u{200b}'),
            ("\u{202e}", '\u{202e}'),
            ("\u{2066}", '\u{2066}'),
            ("\u{feff}", '\u{feff}'),
            ("\u{e0041}", '\u{e0041}'),
            ("\u{3164}", '\u{3164}'),
            ("\u{1b}[8m", '\u{1b}'),
        ] {
            let text = format!("reads{hidden} a file");
            for definition in [
                json!({"name": text}),
                json!({"description": text}),
                json!({"inputSchema": {"properties": {"a": {"enum": ["x", text]}}}}),
                json!({"inputSchema": {"properties": {text.clone(): {}}}}),
                json!({"unknownToday": [[text]]}),
            ] {
                let all = hidden_characters(&definition);
                assert_eq!(all, BTreeSet::from([found]), "{definition}");
            }
        }
    }

    #[test]
    fn m10_ordinary_text_of_any_script_passes() {
        let text = "Größe, 漢字, עברית, हिन्दी, 🦀:\n\t- one";
        let found = hidden_characters(&json!({"description": text, "inputSchema": [text]}));
        assert_eq!(found, BTreeSet::new());
    }
}
