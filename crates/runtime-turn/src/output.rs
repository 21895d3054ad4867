//! The structured last word of a turn: read, checked, and corrected once.

use runtime_core::{Message, Role, check_schema};
use serde_json::Value;

/// Reads the JSON of an answer and checks it; the error says what does not fit.
pub(crate) fn read(schema: &Value, text: &str) -> Result<Value, String> {
    let json = unfenced(text.trim());
    let value: Value =
        serde_json::from_str(json).map_err(|error| format!("it is not JSON: {error}"))?;
    match check_schema(schema, &value) {
        Ok(()) => Ok(value),
        Err(violation) => Err(violation.to_string()),
    }
}

/// What the model is told of an answer that does not fit.
pub(crate) fn repair(mismatch: &str) -> Message {
    let text = format!(
        "[The answer does not fit the JSON schema that was asked for: {mismatch}. \
         Answer again, with the JSON only.]"
    );
    Message::text(Role::User, text)
}

/// Models put JSON between fences, however often one asks them not to.
fn unfenced(text: &str) -> &str {
    let inner = text
        .strip_prefix("```json")
        .or_else(|| text.strip_prefix("```"));
    let inner = inner.and_then(|rest| rest.trim_end().strip_suffix("```"));
    inner.map_or(text, str::trim)
}
