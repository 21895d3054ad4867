//! An answer as it comes: from the library's events and the raw frames to ours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use genai::chat::{ChatStream, ChatStreamEvent, StopReason, StreamEnd};
use runtime_core::{
    CallId, CanonicalEncoder, ErrorClass, FinishReason, ModelEvent, ToolCall, Usage,
};
use runtime_model::ModelError;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::ModelTimeouts;
use crate::failure::Blame;
use crate::frames::Frames;

/// An answer under way.
pub(crate) struct Answer {
    pub(crate) chat: ChatStream,
    pub(crate) frames: Arc<Mutex<Frames>>,
    pub(crate) blame: Blame,
    pub(crate) ids: CallIds,
    pub(crate) timeouts: ModelTimeouts,
    pub(crate) deadline: Instant,
    pub(crate) bytes_max: usize,
    pub(crate) progress: Progress,
}

/// What has been handed on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    waiting: VecDeque<ModelEvent>,
    ended: bool,
    /// How much of each call's arguments has been shown, where the library repeats them.
    shown: BTreeMap<String, usize>,
}

/// A call as the server named it: id, name, arguments as text or value.
struct RawCall {
    id: String,
    name: String,
    arguments: Value,
}

impl Answer {
    /// Returns the next event; none after the last one or after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        loop {
            if let Some(event) = self.progress.waiting.pop_front() {
                return Some(Ok(event));
            }
            if self.progress.ended {
                return None;
            }
            if let Err(error) = self.read().await {
                self.progress.ended = true;
                return Some(Err(error));
            }
        }
    }

    async fn read(&mut self) -> Result<(), ModelError> {
        let Ok(event) = timeout_at(self.deadline, self.chat.next()).await else {
            let total = self.timeouts.total;
            return Err(self.blame.too_slow("the answer did not end", total));
        };
        if self.frames().bytes > self.bytes_max {
            return Err(self.blame.too_large(self.bytes_max));
        }
        match event {
            Some(Ok(event)) => self.take(event),
            Some(Err(error)) => Err(self.blame.of(&error, &self.timeouts)),
            None => self.end(None),
        }
    }

    fn take(&mut self, event: ChatStreamEvent) -> Result<(), ModelError> {
        match event {
            ChatStreamEvent::Chunk(chunk) if !chunk.content.is_empty() => {
                let text = chunk.content;
                self.push(ModelEvent::TextDelta { text });
            }
            ChatStreamEvent::ReasoningChunk(chunk) if !chunk.content.is_empty() => {
                let text = chunk.content;
                self.push(ModelEvent::ReasoningDelta { text });
            }
            ChatStreamEvent::ToolCallChunk(chunk) => self.show_arguments(&chunk.tool_call),
            ChatStreamEvent::End(end) => return self.end(Some(end)),
            // A start, a sign of life, a signature: nothing to hand on.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, event: ModelEvent) {
        self.progress.waiting.push_back(event);
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what is new of a call's arguments.
    fn show_arguments(&mut self, call: &genai::chat::ToolCall) {
        let mut frames = self.frames();
        if frames.has_choices {
            let pieces: Vec<_> = frames.pieces.drain(..).collect();
            let ids: Vec<String> = frames.calls.iter().map(|call| call.id.clone()).collect();
            drop(frames);
            for (at, text) in pieces {
                let call = self.ids.id(at, &ids[at]);
                self.push(ModelEvent::ToolArgumentsDelta { call, text });
            }
            return;
        }
        drop(frames);
        // The library hands on all that has come of them, each time.
        let Some(all) = call.fn_arguments.as_str() else {
            return;
        };
        let shown = self.progress.shown.entry(call.call_id.clone());
        let shown = shown.or_default();
        let text = all.get(*shown..).unwrap_or_default().to_owned();
        *shown = all.len().max(*shown);
        if let (false, Ok(call)) = (text.is_empty(), call.call_id.parse()) {
            self.push(ModelEvent::ToolArgumentsDelta { call, text });
        }
    }

    fn end(&mut self, end: Option<StreamEnd>) -> Result<(), ModelError> {
        self.progress.ended = true;
        let said = end
            .as_ref()
            .and_then(|end| end.captured_stop_reason.clone());
        let usage = end.as_ref().and_then(usage);
        let frames = std::mem::take(&mut *self.frames());
        if end.is_none() && frames.finish.is_none() {
            return Err(if frames.count == 0 {
                self.blame.malformed("the response is no stream of events")
            } else {
                self.blame.incomplete()
            });
        }
        let usage = usage.or(frames.usage);
        let reason = match frames.finish {
            Some(said) => reason(&StopReason::from(said)),
            None => said.as_ref().map_or(FinishReason::Unknown, reason),
        };
        let calls = if frames.has_choices {
            let calls = frames.calls.into_iter().map(|call| RawCall {
                id: call.id,
                name: call.name,
                arguments: Value::String(call.arguments),
            });
            calls.collect()
        } else {
            captured(end)
        };
        let calls = self.whole(calls, reason)?;
        let reason = self.settled(reason, &calls)?;
        self.progress
            .waiting
            .extend(calls.into_iter().map(ModelEvent::ToolCall));
        self.progress.waiting.extend(usage.map(ModelEvent::Usage));
        self.push(ModelEvent::Finished { reason });
        Ok(())
    }

    /// The calls that are whole. A broken one is an error, unless the answer was cut at its
    /// limit, which explains it.
    fn whole(
        &mut self,
        calls: Vec<RawCall>,
        reason: FinishReason,
    ) -> Result<Vec<ToolCall>, ModelError> {
        let cut = reason == FinishReason::OutputLimit;
        let mut whole = Vec::new();
        for (at, call) in calls.into_iter().enumerate() {
            let id = self.ids.id(at, &call.id);
            match arguments(call.arguments) {
                Ok(arguments) if !call.name.is_empty() => whole.push(ToolCall {
                    id,
                    name: call.name,
                    arguments,
                }),
                _ if cut => {}
                Ok(_) => return Err(self.broken_call("a tool call has no name")),
                Err(why) => {
                    let what = format!("the arguments of a call of {} are {why}", call.name);
                    return Err(self.broken_call(&what));
                }
            }
        }
        Ok(whole)
    }

    /// Another attempt may give a call that is whole.
    fn broken_call(&self, what: &str) -> ModelError {
        let class = ErrorClass::Unavailable;
        self.blame.error("model_tool_call_malformed", class, what)
    }

    /// Servers disagree about how an answer with calls ends.
    fn settled(
        &self,
        reason: FinishReason,
        calls: &[ToolCall],
    ) -> Result<FinishReason, ModelError> {
        match reason {
            FinishReason::Stop | FinishReason::Unknown if !calls.is_empty() => {
                Ok(FinishReason::ToolUse)
            }
            FinishReason::ToolUse if calls.is_empty() => {
                Err(self.broken_call("the answer ends for tool calls and has none"))
            }
            other => Ok(other),
        }
    }
}

fn captured(end: Option<StreamEnd>) -> Vec<RawCall> {
    let calls = end.and_then(StreamEnd::captured_into_tool_calls);
    let calls = calls.unwrap_or_default().into_iter().map(|call| RawCall {
        id: call.call_id,
        name: call.fn_name,
        arguments: call.fn_arguments,
    });
    calls.collect()
}

fn usage(end: &StreamEnd) -> Option<Usage> {
    let usage = end.captured_usage.as_ref()?;
    let tokens = |tokens: Option<i32>| u64::try_from(tokens.unwrap_or(0)).unwrap_or(0);
    let cached = usage.prompt_tokens_details.as_ref();
    Some(Usage {
        input_tokens: tokens(usage.prompt_tokens),
        output_tokens: tokens(usage.completion_tokens),
        cached_input_tokens: tokens(cached.and_then(|details| details.cached_tokens)),
    })
}

fn reason(said: &StopReason) -> FinishReason {
    match said {
        StopReason::Completed(_) | StopReason::StopSequence(_) => FinishReason::Stop,
        StopReason::MaxTokens(raw) if raw == "model_context_window_exceeded" => {
            FinishReason::ContextOverflow
        }
        StopReason::MaxTokens(_) => FinishReason::OutputLimit,
        StopReason::ToolCall(_) => FinishReason::ToolUse,
        StopReason::ContentFilter(_) => FinishReason::ContentFilter,
        StopReason::Other(_) => FinishReason::Unknown,
    }
}

/// The arguments as an object, or what they are instead.
fn arguments(raw: Value) -> Result<Value, &'static str> {
    match raw {
        Value::Object(_) => Ok(raw),
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        Value::String(text) if text.trim().is_empty() => Ok(Value::Object(serde_json::Map::new())),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(object @ Value::Object(_)) => Ok(object),
            Ok(Value::Null) => Ok(Value::Object(serde_json::Map::new())),
            Ok(_) => Err("no object"),
            Err(_) => Err("no JSON"),
        },
        _ => Err("no object"),
    }
}

/// Names calls so that no two of a conversation share a name: what a server calls `call_0` in
/// every answer would take the approval of another.
#[derive(Debug)]
pub(crate) struct CallIds {
    taken: BTreeSet<String>,
    idempotency_key: String,
    given: BTreeMap<usize, CallId>,
}

impl CallIds {
    /// Starts an answer to a conversation in which these ids are taken.
    pub(crate) fn new(taken: BTreeSet<String>, idempotency_key: String) -> Self {
        Self {
            taken,
            idempotency_key,
            given: BTreeMap::new(),
        }
    }

    /// Returns the id of the call at this place of the answer: the server's own if it can be
    /// used, otherwise one made from the idempotency key, the same on every attempt.
    fn id(&mut self, at: usize, servers: &str) -> CallId {
        if let Some(id) = self.given.get(&at) {
            return id.clone();
        }
        let id = match servers.parse::<CallId>() {
            Ok(id) if !self.taken.contains(servers) => id,
            _ => self.made(at),
        };
        self.taken.insert(id.as_str().to_owned());
        self.given.insert(at, id.clone());
        id
    }

    fn made(&self, at: usize) -> CallId {
        let digest = CanonicalEncoder::new("model-call-id")
            .text(&self.idempotency_key)
            .unsigned(at as u64)
            .digest()
            .to_string();
        // Providers take at most 40 characters.
        let id = format!("call_{}", &digest[..24]);
        id.parse().expect("letters and digits are an id")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_two_calls_share_an_id() {
        let taken = BTreeSet::from(["call_0".to_owned()]);
        let mut ids = CallIds::new(taken, "turn/1".to_owned());
        let first = ids.id(0, "call_0");
        let second = ids.id(1, "fresh");
        let third = ids.id(2, "fresh");
        let fourth = ids.id(3, "");
        assert_eq!(second.as_str(), "fresh");
        let all = BTreeSet::from([&first, &second, &third, &fourth].map(|id| id.to_string()));
        assert_eq!(all.len(), 4);
        assert!(!all.contains("call_0"));
        let mut again = CallIds::new(BTreeSet::from(["call_0".to_owned()]), "turn/1".to_owned());
        assert_eq!(again.id(0, "call_0"), first, "the same on every attempt");
        assert!(first.as_str().len() <= 40);
    }

    #[test]
    fn arguments_are_an_object_or_an_error() {
        for (raw, expected) in [
            (json!({"a": 1}), json!({"a": 1})),
            (json!("{\"a\": 1}"), json!({"a": 1})),
            (json!(""), json!({})),
            (json!("null"), json!({})),
            (Value::Null, json!({})),
        ] {
            assert_eq!(arguments(raw), Ok(expected));
        }
        for raw in [json!("{\"a\":"), json!("[1]"), json!("7"), json!([1])] {
            assert!(arguments(raw.clone()).is_err(), "{raw}");
        }
    }
}
