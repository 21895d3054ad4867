//! What a call gave: pure reading of the server's answer.

use rmcp::model::{ErrorCode, ErrorData};
use runtime_core::ContentPart;
use runtime_tools::{ToolError, ToolOutput};
use serde_json::{Value, json};

use crate::connection::RequestError;
use crate::error::words;

/// Says what a failed request means for the call: above all whether it may have run (E6).
pub(crate) fn call_error(tool: &str, error: RequestError, lost: &str) -> ToolError {
    let tool = tool.to_owned();
    match error {
        RequestError::NotSent(reason) => ToolError::Unavailable {
            tool,
            reason: words(&reason),
        },
        RequestError::Unauthorised(reason) => ToolError::Unavailable {
            tool,
            reason: format!("it refuses the credential: {}", words(&reason)),
        },
        RequestError::Lost => ToolError::Indeterminate {
            tool,
            reason: lost.to_owned(),
        },
        RequestError::TimedOut => ToolError::TimedOut { tool },
        RequestError::Refused(error) => refused(tool, &error),
    }
}

fn refused(tool: String, error: &ErrorData) -> ToolError {
    let reason = words(&error.message);
    match error.code {
        ErrorCode::METHOD_NOT_FOUND => ToolError::NotFound { tool },
        // Also the answer to an unknown tool.
        ErrorCode::INVALID_PARAMS => ToolError::InvalidArguments { tool, reason },
        code => ToolError::Failed {
            tool,
            reason,
            details: Some(json!({ "error_code": code.0 })),
        },
    }
}

/// Reads the result of a call, at most `bytes_max` bytes of it.
///
/// # Errors
/// [`ToolError::Failed`] if it is none: the call is over, and what it did is unknown.
pub(crate) fn call_output(
    tool: &str,
    result: &Value,
    bytes_max: usize,
) -> Result<ToolOutput, ToolError> {
    let failed = |reason: &str| {
        Err(ToolError::Failed {
            tool: tool.to_owned(),
            reason: reason.to_owned(),
            details: None,
        })
    };
    match result.get("resultType").and_then(Value::as_str) {
        None | Some("complete") => {}
        Some(_) => return failed("its answer is of an unknown type"),
    }
    let parts = match result.get("content") {
        Some(Value::Array(parts)) => parts.as_slice(),
        Some(_) => return failed("its content is not a list"),
        None => &[],
    };
    let mut texts: Vec<String> = parts.iter().map(part_text).collect();
    if let (true, Some(structured)) = (texts.is_empty(), result.get("structuredContent")) {
        texts.push(structured.to_string());
    }
    Ok(ToolOutput::Finished {
        content: cut(texts, bytes_max)
            .into_iter()
            .map(|text| ContentPart::Text { text })
            .collect(),
        is_error: result.get("isError").and_then(Value::as_bool) == Some(true),
    })
}

/// Returns a part as text; of what is not text, a note of what was left out.
fn part_text(part: &Value) -> String {
    let text = |value: &Value, member: &str| {
        let text = value.get(member).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let left_out = |what: &str, holder: &Value, member: &str| {
        let encoded = holder
            .get(member)
            .and_then(Value::as_str)
            .map_or(0, str::len);
        let kind = words(&text(holder, "mimeType"));
        format!("[{what} {kind}, about {} bytes, left out]", encoded / 4 * 3)
    };
    match part.get("type").and_then(Value::as_str) {
        Some("text") => text(part, "text"),
        Some(what @ ("image" | "audio")) => left_out(what, part, "data"),
        Some("resource_link") => {
            format!("[resource {}: {}]", text(part, "name"), text(part, "uri"))
        }
        Some("resource") => {
            let resource = part.get("resource").unwrap_or(&Value::Null);
            match resource.get("text").and_then(Value::as_str) {
                Some(text) => text.to_owned(),
                None => left_out("resource", resource, "blob"),
            }
        }
        _ => "[content of an unknown type, left out]".to_owned(),
    }
}

/// Keeps the first `bytes_max` bytes of the texts and says so where something is missing.
fn cut(texts: Vec<String>, bytes_max: usize) -> Vec<String> {
    let total: usize = texts.iter().map(String::len).sum();
    if total <= bytes_max {
        return texts;
    }
    let mut left = bytes_max;
    let mut kept = Vec::new();
    for mut text in texts {
        let whole = text.len();
        text.truncate(text.floor_char_boundary(left));
        left -= text.len();
        let is_cut = text.len() < whole;
        if !text.is_empty() {
            kept.push(text);
        }
        if is_cut {
            break;
        }
    }
    kept.push(format!(
        "[the result was cut: {} of {total} bytes are shown]",
        bytes_max - left
    ));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(output: ToolOutput) -> (Vec<String>, bool) {
        let ToolOutput::Finished { content, is_error } = output else {
            panic!("not finished")
        };
        let texts = content.into_iter().map(|part| match part {
            ContentPart::Text { text } => text,
            other => panic!("not a text: {other:?}"),
        });
        (texts.collect(), is_error)
    }

    fn read(result: Value, bytes_max: usize) -> (Vec<String>, bool) {
        texts(call_output("t", &result, bytes_max).expect("a result"))
    }

    #[test]
    fn m9_content_of_every_kind_becomes_text_or_a_note() {
        let result = json!({"content": [
            {"type": "text", "text": "hello"},
            {"type": "image", "mimeType": "image/png", "data": "QUJDRA=="},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
            {"type": "resource_link", "name": "b", "uri": "file:///b"},
            {"type": "hologram"},
            7
        ], "isError": true});
        let (texts, is_error) = read(result, 1000);
        assert!(is_error);
        assert_eq!(texts[0], "hello");
        assert_eq!(texts[1], "[image image/png, about 6 bytes, left out]");
        assert_eq!(texts[2], "inside");
        assert_eq!(texts[3], "[resource b: file:///b]");
        assert_eq!(texts[4], "[content of an unknown type, left out]");
        assert_eq!(texts[5], texts[4]);
    }

    #[test]
    fn m9_structured_content_stands_in_for_missing_text() {
        let structured = json!({"content": [], "structuredContent": {"degrees": 3}});
        assert_eq!(read(structured, 1000).0, [r#"{"degrees":3}"#]);
        let both = json!({
            "content": [{"type": "text", "text": "three"}],
            "structuredContent": {"degrees": 3}
        });
        assert_eq!(read(both, 1000).0, ["three"]);
        assert!(read(json!({}), 1000).0.is_empty());
    }

    #[test]
    fn m10_a_result_bomb_is_cut_between_characters_with_a_note() {
        let result = json!({"content": [
            {"type": "text", "text": "ab"},
            {"type": "text", "text": "cäd"},
            {"type": "text", "text": "never"}
        ]});
        let note = "[the result was cut: 3 of 11 bytes are shown]";
        assert_eq!(read(result.clone(), 4).0, ["ab", "c", note]);
        assert_eq!(read(result.clone(), 11).0, ["ab", "cäd", "never"]);
        assert_eq!(
            read(result, 0).0,
            ["[the result was cut: 0 of 11 bytes are shown]"]
        );
    }

    #[test]
    fn m9_what_is_no_result_fails() {
        for wrong in [
            json!({"resultType": "surprise"}),
            json!({"content": "text"}),
        ] {
            let error = call_output("t", &wrong, 10).expect_err("no result");
            assert!(matches!(error, ToolError::Failed { .. }), "{error}");
        }
    }

    #[test]
    fn e6_only_an_unsent_call_and_one_refused_for_its_arguments_did_not_run() {
        let refused =
            |code: i32| RequestError::Refused(ErrorData::new(ErrorCode(code), "no", None));
        let did_not_run = |error| call_error("t", error, "it ended").did_not_run();
        assert!(did_not_run(RequestError::NotSent("gone".to_owned())));
        assert!(did_not_run(RequestError::Unauthorised("no".to_owned())));
        assert!(did_not_run(refused(-32601)));
        assert!(did_not_run(refused(-32602)));
        assert!(!did_not_run(RequestError::Lost));
        assert!(!did_not_run(RequestError::TimedOut));
        assert!(!did_not_run(refused(-32603)));
    }
}
