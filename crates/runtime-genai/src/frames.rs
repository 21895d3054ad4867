//! What the raw frames of an answer in OpenAI's format say.
//!
//! The client library reads these frames too, and loses what many servers do: calls without an
//! `index` vanish, two calls with one `index` run into each other, a gap in the indexes becomes a
//! copy of another call, and a stream without the final `[DONE]` has no end. So calls, end and
//! usage are read here, from the frames that the library hands on.

use std::collections::VecDeque;

use runtime_core::Usage;
use serde_json::Value;

/// A call as far as it has come.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct PartialCall {
    index: Option<u64>,
    /// The id that the server gave; empty without.
    pub(crate) id: String,
    pub(crate) name: String,
    /// The arguments as text.
    pub(crate) arguments: String,
}

/// What the frames so far say.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// How many frames came.
    pub(crate) count: usize,
    /// How many bytes they had.
    pub(crate) bytes: usize,
    /// Whether they are in OpenAI's format.
    pub(crate) has_choices: bool,
    /// Why the model stopped, once it says so.
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) calls: Vec<PartialCall>,
    /// New pieces of arguments, and of which call; for display.
    pub(crate) pieces: VecDeque<(usize, String)>,
}

impl Frames {
    /// Reads one frame; what is not in OpenAI's format is only counted.
    pub(crate) fn read(&mut self, data: &str) {
        // A comment, or a line that is nothing of this protocol.
        if data.is_empty() {
            return;
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(data.len());
        let Ok(frame) = serde_json::from_str::<Value>(data) else {
            return;
        };
        let Some(choices) = frame.get("choices").and_then(Value::as_array) else {
            return;
        };
        self.has_choices = true;
        if let Some(usage) = frame.get("usage").filter(|usage| usage.is_object()) {
            self.usage = Some(usage_of(usage));
        }
        let Some(choice) = choices.first() else {
            return;
        };
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish = Some(reason.to_owned());
        }
        let fragments = choice
            .pointer("/delta/tool_calls")
            .and_then(Value::as_array);
        for fragment in fragments.into_iter().flatten() {
            self.read_fragment(fragment);
        }
    }

    fn read_fragment(&mut self, fragment: &Value) {
        let text = |pointer: &str| {
            let text = fragment.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default()
        };
        let index = fragment.get("index").and_then(Value::as_u64);
        let (id, name) = (text("/id"), text("/function/name"));
        let at = self.call_of(index, id, name);
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        let arguments = match fragment.pointer("/function/arguments") {
            Some(Value::String(piece)) => piece.clone(),
            // Some servers send the arguments whole, as an object.
            Some(whole @ Value::Object(_)) => whole.to_string(),
            _ => return,
        };
        if !arguments.is_empty() {
            call.arguments.push_str(&arguments);
            self.pieces.push_back((at, arguments));
        }
    }

    /// The call that a fragment goes on with, or a new one.
    fn call_of(&mut self, index: Option<u64>, id: &str, name: &str) -> usize {
        let known = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None if id.is_empty() => self.calls.len().checked_sub(1),
            None => self.calls.iter().rposition(|call| call.id == id),
        };
        // A second name under another id is a second call, whatever its index says.
        let other = |call: &PartialCall| {
            !id.is_empty() && !call.id.is_empty() && call.id != id && !name.is_empty()
        };
        // Without id and index only a name begins a call.
        let begins = |call: &PartialCall| {
            index.is_none() && id.is_empty() && !name.is_empty() && !call.name.is_empty()
        };
        match known {
            Some(at) if !other(&self.calls[at]) && !begins(&self.calls[at]) => at,
            _ => {
                self.calls.push(PartialCall {
                    index,
                    ..PartialCall::default()
                });
                self.calls.len() - 1
            }
        }
    }
}

fn usage_of(usage: &Value) -> Usage {
    let tokens = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    Usage {
        input_tokens: tokens("/prompt_tokens"),
        output_tokens: tokens("/completion_tokens"),
        cached_input_tokens: tokens("/prompt_tokens_details/cached_tokens"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn calls(fragments: &[Value]) -> Vec<(String, String, String)> {
        let mut frames = Frames::default();
        for fragment in fragments {
            let frame = json!({"choices": [{"delta": {"tool_calls": [fragment]}}]});
            frames.read(&frame.to_string());
        }
        let calls = frames.calls.into_iter();
        calls.map(|c| (c.id, c.name, c.arguments)).collect()
    }

    fn call(id: &str, name: &str, arguments: &str) -> (String, String, String) {
        (id.to_owned(), name.to_owned(), arguments.to_owned())
    }

    fn fragment(index: u64, arguments: &str) -> Value {
        json!({"index": index, "function": {"arguments": arguments}})
    }

    fn begin(index: Option<u64>, id: &str, name: &str, arguments: &str) -> Value {
        let mut begin = json!({"id": id, "function": {"name": name, "arguments": arguments}});
        if let Some(index) = index {
            begin["index"] = index.into();
        }
        begin
    }

    #[test]
    fn t6_fragments_find_their_call_by_index() {
        let calls = calls(&[
            begin(Some(0), "a", "one", ""),
            begin(Some(1), "b", "two", ""),
            fragment(1, "{\"y\""),
            fragment(0, "{\"x\":"),
            fragment(1, ":2}"),
            fragment(0, "1}"),
        ]);
        assert_eq!(
            calls,
            [call("a", "one", "{\"x\":1}"), call("b", "two", "{\"y\":2}")]
        );
    }

    #[test]
    fn t6_a_gap_in_the_indexes_copies_no_call() {
        let calls = calls(&[begin(Some(1), "a", "one", "{}")]);
        assert_eq!(calls, [call("a", "one", "{}")]);
    }

    #[test]
    fn t6_two_calls_with_one_index_or_none_are_two() {
        let two = [call("a", "one", "{}"), call("b", "two", "{}")];
        for index in [Some(0), None] {
            let fragments = [
                begin(index, "a", "one", "{}"),
                begin(index, "b", "two", "{}"),
            ];
            assert_eq!(calls(&fragments), two);
        }
        let nameless = [begin(None, "", "one", "{}"), begin(None, "", "two", "{}")];
        assert_eq!(
            calls(&nameless),
            [call("", "one", "{}"), call("", "two", "{}")]
        );
    }

    #[test]
    fn t6_an_id_or_name_in_each_fragment_begins_no_call() {
        let repeated = [
            begin(Some(0), "a", "one", "{"),
            begin(Some(0), "a", "one", "}"),
        ];
        assert_eq!(calls(&repeated), [call("a", "one", "{}")]);
        let renewed = [
            begin(Some(0), "a", "one", "{"),
            begin(Some(0), "b", "", "}"),
        ];
        assert_eq!(calls(&renewed), [call("a", "one", "{}")]);
    }

    #[test]
    fn what_is_no_frame_is_counted_and_nothing_else() {
        let mut frames = Frames::default();
        for data in [
            "[DONE]",
            "{",
            "[]",
            "{\"choices\": 1}",
            "{\"type\":\"ping\"}",
        ] {
            frames.read(data);
        }
        assert_eq!((frames.count, frames.has_choices), (5, false));
        assert_eq!(frames.bytes, 6 + 1 + 2 + 14 + 15);
    }
}
