//! What a scripted model says: steps, and the places in them that the conversation fills.

use runtime_core::{
    CallId, CanonicalEncoder, ContentPart, FinishReason, IdError, Message, ModelEvent,
    ModelRequest, Role, ToolCall, Usage,
};
use serde_json::Value;

use crate::ModelError;

/// One answer of a [`ScriptedModel`](crate::ScriptedModel).
///
/// In its texts and arguments `{input}` stands for the last user message, `{last_tool_result}`
/// for the text of the last tool result.
#[derive(Debug, Clone, Default)]
pub struct ScriptStep {
    parts: Vec<Part>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Reasoning(String),
    Call {
        id_suffix: String,
        name: String,
        arguments: Value,
    },
}

/// An error in place of an answer, or at the end of one.
#[derive(Debug, Clone)]
struct Failure {
    error: ModelError,
    /// How many attempts fail; all of them without.
    attempts: Option<u32>,
    /// The pieces of the answer come first; the end of it never does.
    mid_stream: bool,
}

/// What one attempt of a step does.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It answers.
    Answer,
    /// It fails before the first piece.
    Fail(ModelError),
    /// It fails after the last piece.
    Break(ModelError),
}

impl ScriptStep {
    /// An answer that says a text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::default().say(text)
    }

    /// An answer that thinks before it speaks.
    #[must_use]
    pub fn reasoning(text: impl Into<String>) -> Self {
        Self {
            parts: vec![Part::Reasoning(text.into())],
            ..Self::default()
        }
    }

    /// An answer that calls a tool without a word.
    #[must_use]
    pub fn call(id_suffix: impl Into<String>, name: impl Into<String>, arguments: Value) -> Self {
        Self::default().tool_call(id_suffix, name, arguments)
    }

    /// No answer: each attempt fails.
    #[must_use]
    pub fn error(error: ModelError) -> Self {
        Self {
            failure: Some(Failure {
                error,
                attempts: None,
                mid_stream: false,
            }),
            ..Self::default()
        }
    }

    /// Says more.
    #[must_use]
    pub fn say(mut self, text: impl Into<String>) -> Self {
        self.parts.push(Part::Text(text.into()));
        self
    }

    /// Calls a tool. The id of the call is made from the request and ends in `id_suffix`: another
    /// in each turn, the same each time this answer is given.
    #[must_use]
    pub fn tool_call(
        mut self,
        id_suffix: impl Into<String>,
        name: impl Into<String>,
        arguments: Value,
    ) -> Self {
        self.parts.push(Part::Call {
            id_suffix: id_suffix.into(),
            name: name.into(),
            arguments,
        });
        self
    }

    /// Lets the first `attempts` attempts fail before they say anything.
    ///
    /// Attempts are counted by idempotency key in the memory of the process: the only thing about
    /// a scripted model that a restart forgets.
    #[must_use]
    pub fn failing_first(mut self, attempts: u32, error: ModelError) -> Self {
        self.failure = Some(Failure {
            error,
            attempts: Some(attempts),
            mid_stream: false,
        });
        self
    }

    /// Lets the first `attempts` attempts fail after all pieces came, before the end.
    #[must_use]
    pub fn breaking_first(mut self, attempts: u32, error: ModelError) -> Self {
        self.failure = Some(Failure {
            error,
            attempts: Some(attempts),
            mid_stream: true,
        });
        self
    }

    /// Sets the tokens spent, otherwise 10 read and 5 written.
    #[must_use]
    pub const fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Sets why the answer ends, otherwise `ToolUse` after calls and `Stop` after words.
    #[must_use]
    pub const fn finish(mut self, reason: FinishReason) -> Self {
        self.finish = Some(reason);
        self
    }

    /// Says whether failures of this step are counted.
    pub(crate) const fn counts_attempts(&self) -> bool {
        matches!(
            &self.failure,
            Some(Failure {
                attempts: Some(_),
                ..
            })
        )
    }

    /// Decides what attempt number `attempt` (from 1) does.
    pub(crate) fn attempt(&self, attempt: u32) -> Attempt {
        match &self.failure {
            Some(failure) if failure.attempts.is_none_or(|last| attempt <= last) => {
                if failure.mid_stream {
                    Attempt::Break(failure.error.clone())
                } else {
                    Attempt::Fail(failure.error.clone())
                }
            }
            _ => Attempt::Answer,
        }
    }

    /// Returns the events of the answer: pieces of at most `piece_chars` characters, then the
    /// usage, then the end.
    pub(crate) fn events(
        &self,
        request: &ModelRequest,
        piece_chars: usize,
    ) -> Result<Vec<ModelEvent>, IdError> {
        let blanks = Blanks::of(&request.messages);
        let mut events = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => events.extend(
                    pieces(&blanks.fill(text), piece_chars)
                        .map(|text| ModelEvent::TextDelta { text }),
                ),
                Part::Reasoning(text) => events.extend(
                    pieces(&blanks.fill(text), piece_chars)
                        .map(|text| ModelEvent::ReasoningDelta { text }),
                ),
                Part::Call {
                    id_suffix,
                    name,
                    arguments,
                } => {
                    let id = call_id(request, index, id_suffix)?;
                    let arguments = blanks.fill_value(arguments);
                    events.extend(pieces(&arguments.to_string(), piece_chars).map(|text| {
                        ModelEvent::ToolArgumentsDelta {
                            call: id.clone(),
                            text,
                        }
                    }));
                    events.push(ModelEvent::ToolCall(ToolCall {
                        id,
                        name: name.clone(),
                        arguments,
                    }));
                }
            }
        }
        events.push(ModelEvent::Usage(self.usage.unwrap_or(USAGE)));
        events.push(ModelEvent::Finished {
            reason: self.finish.unwrap_or_else(|| self.natural_finish()),
        });
        Ok(events)
    }

    fn natural_finish(&self) -> FinishReason {
        let calls = |part: &Part| matches!(part, Part::Call { .. });
        if self.parts.iter().any(calls) {
            FinishReason::ToolUse
        } else {
            FinishReason::Stop
        }
    }
}

/// What an answer costs unless its step says otherwise: fixed, so that sums can be checked.
const USAGE: Usage = Usage {
    input_tokens: 10,
    output_tokens: 5,
    cached_input_tokens: 0,
};

/// Returns which answer a conversation is at: how many the model gave since the last input.
pub(crate) fn step_index(messages: &[impl AsRef<Message>]) -> usize {
    let since_input = messages
        .iter()
        .rev()
        .take_while(|message| message.as_ref().role != Role::User);
    since_input
        .filter(|message| message.as_ref().role == Role::Assistant)
        .count()
}

/// Returns the text of the last input.
pub(crate) fn last_input(messages: &[impl AsRef<Message>]) -> String {
    messages
        .iter()
        .rev()
        .find(|message| message.as_ref().role == Role::User)
        .map(|message| message.as_ref().plain_text())
        .unwrap_or_default()
}

fn last_tool_result(messages: &[impl AsRef<Message>]) -> String {
    let parts = messages
        .iter()
        .rev()
        .flat_map(|message| message.as_ref().content.iter().rev());
    let result = parts.into_iter().find_map(|part| match part {
        ContentPart::ToolResult(result) => Some(result),
        _ => None,
    });
    let texts = result.iter().flat_map(|result| &result.content);
    texts
        .filter_map(|part| match part {
            ContentPart::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// Makes the id of a call from the request alone, so that a restarted process makes the same.
fn call_id(request: &ModelRequest, index: usize, suffix: &str) -> Result<CallId, IdError> {
    let digest = CanonicalEncoder::new("scripted-call")
        .text(&request.idempotency_key)
        .text(&request.messages.len().to_string())
        .text(&index.to_string())
        .digest()
        .to_string();
    CallId::new(format!("call_{}_{suffix}", &digest[..12]))
}

/// What the conversation fills in.
struct Blanks {
    input: String,
    last_tool_result: String,
}

impl Blanks {
    fn of(messages: &[impl AsRef<Message>]) -> Self {
        Self {
            input: last_input(messages),
            last_tool_result: last_tool_result(messages),
        }
    }

    /// Fills a template in one pass: what is filled in is not searched again, so an input that
    /// holds `{last_tool_result}` stays as its sender wrote it.
    fn fill(&self, template: &str) -> String {
        let blanks = [
            ("{input}", &self.input),
            ("{last_tool_result}", &self.last_tool_result),
        ];
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let blank = blanks.iter().find(|(name, _)| rest.starts_with(name));
            let taken = blank.map_or(1, |(name, _)| name.len());
            filled.push_str(blank.map_or(&rest[..taken], |(_, text)| text.as_str()));
            rest = &rest[taken..];
        }
        filled.push_str(rest);
        filled
    }

    fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(items) => items.iter().map(|item| self.fill_value(item)).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| (name.clone(), self.fill_value(member)))
                .collect(),
            other => other.clone(),
        }
    }
}

/// Cuts a text into pieces of at most `piece_chars` characters, never inside a character.
fn pieces(text: &str, piece_chars: usize) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    characters
        .chunks(piece_chars.max(1))
        .map(|piece| piece.iter().collect())
        .collect::<Vec<String>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanks() -> Blanks {
        Blanks {
            input: "say {last_tool_result}".to_owned(),
            last_tool_result: "42".to_owned(),
        }
    }

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        assert_eq!(
            blanks().fill("{input}, {last_tool_result}, {other}, {"),
            "say {last_tool_result}, 42, {other}, {"
        );
    }

    #[test]
    fn arguments_are_filled_at_any_depth_and_other_values_kept() {
        let template = serde_json::json!({"a": ["{last_tool_result}", 7], "b": {"c": "{input}!"}});
        assert_eq!(
            blanks().fill_value(&template),
            serde_json::json!({"a": ["42", 7], "b": {"c": "say {last_tool_result}!"}})
        );
    }

    #[test]
    fn pieces_keep_characters_whole() {
        let cut: Vec<String> = pieces("aä漢🦀b", 2).collect();
        assert_eq!(cut, ["aä", "漢🦀", "b"]);
        assert_eq!(pieces("", 2).count(), 0);
    }
}
