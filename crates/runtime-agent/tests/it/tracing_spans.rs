//! Spans with the GenAI names, without content (T7).

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::desk::{Desk, script};

/// Keeps spans as text: name, then fields.
#[derive(Debug, Default, Clone)]
struct Spans(Arc<Mutex<Vec<String>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl Subscriber for Spans {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut lines = self.0.lock().unwrap();
        let mut line = span.metadata().name().to_owned();
        span.record(&mut Line(&mut line));
        lines.push(line);
        Id::from_u64(lines.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut lines = self.0.lock().unwrap();
        let at = usize::try_from(span.into_u64()).unwrap() - 1;
        values.record(&mut Line(&mut lines[at]));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The names that spans may use: those of the conventions, and the few that no convention has.
#[expect(
    deprecated,
    reason = "the conventions of GenAI moved to a repository of their own; their constants are still here"
)]
fn names() -> Vec<&'static str> {
    use opentelemetry_semantic_conventions::attribute as otel;
    vec![
        otel::ERROR_TYPE,
        otel::GEN_AI_AGENT_VERSION,
        otel::GEN_AI_CONVERSATION_ID,
        otel::GEN_AI_INPUT_MESSAGES,
        otel::GEN_AI_OPERATION_NAME,
        otel::GEN_AI_OUTPUT_MESSAGES,
        otel::GEN_AI_PROVIDER_NAME,
        otel::GEN_AI_REQUEST_MODEL,
        otel::GEN_AI_RESPONSE_FINISH_REASONS,
        otel::GEN_AI_TOOL_CALL_ARGUMENTS,
        otel::GEN_AI_TOOL_CALL_ID,
        otel::GEN_AI_TOOL_CALL_RESULT,
        otel::GEN_AI_TOOL_NAME,
        otel::GEN_AI_TOOL_TYPE,
        otel::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
        otel::GEN_AI_USAGE_INPUT_TOKENS,
        otel::GEN_AI_USAGE_OUTPUT_TOKENS,
        // Of the bridge from spans to OpenTelemetry.
        "otel.kind",
        "otel.name",
        // Ours.
        "attempt",
        "turn",
    ]
}

/// Every span of a whole turn: two lives, an approval in between.
async fn spans_of_a_turn(content: bool) -> Vec<String> {
    let spans = Spans::default();
    let guard = tracing::subscriber::set_default(spans.clone());
    let desk = Desk::new(script());
    desk.approve_all().await;
    let agent = desk.builder().content_capture(content).build();
    desk.drive_with(&agent, &desk.controller()).await.unwrap();
    drop(guard);
    let lines = spans.0.lock().unwrap();
    lines.clone()
}

/// T7: one span for each act, named as the conventions say, and nothing that was said in any of
/// them.
#[tokio::test]
async fn t7_a_turn_has_a_span_for_each_act_and_no_content() {
    let lines = spans_of_a_turn(false).await;
    let named = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(named("invoke_agent "), 2, "driven twice");
    assert_eq!(named("chat "), 2);
    assert_eq!(named("execute_tool "), 3);
    assert_eq!(lines.len(), 7, "nothing else is a span");
    let chat = lines.iter().find(|line| line.starts_with("chat ")).unwrap();
    for part in [
        "gen_ai.operation.name=\"chat\"",
        "gen_ai.request.model=\"scripted\"",
        "gen_ai.usage.input_tokens=10",
        "gen_ai.response.finish_reasons=\"[\\\"tool_use\\\"]\"",
    ] {
        assert!(chat.contains(part), "{chat}");
    }
    let all = lines.join("\n");
    for said in ["let me see", "content of", "be brief", "wrote"] {
        assert!(!all.contains(said), "{said} is in a span");
    }
}

/// T7: no field has a name that the conventions do not know.
#[tokio::test]
async fn t7_every_field_of_every_span_has_a_name_of_the_conventions() {
    let known = names();
    let mut seen = std::collections::BTreeSet::new();
    for line in spans_of_a_turn(true).await {
        let fields = line.split(' ').filter_map(|part| part.split_once('='));
        for (name, _) in fields {
            // What was said may have an equals sign too; names have only these.
            let is_name = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || "._".contains(c));
            if is_name && !name.is_empty() {
                assert!(known.contains(&name), "{name} in {line}");
                seen.insert(name.to_owned());
            }
        }
    }
    let expected = known.iter().filter(|name| **name != "error.type");
    for name in expected {
        assert!(seen.contains(*name), "{name} is in no span");
    }
}

/// T7: who asks for what is said gets it.
#[tokio::test]
async fn t7_content_is_captured_only_where_it_is_asked_for() {
    let all = spans_of_a_turn(true).await.join("\n");
    for said in ["let me see", "content of", "wrote"] {
        assert!(all.contains(said), "{said} is in no span");
    }
}
