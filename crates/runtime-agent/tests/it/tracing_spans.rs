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

/// T7: one span for each act, and nothing that was said in any of them.
#[tokio::test]
async fn t7_a_turn_has_a_span_for_each_act_and_no_content() {
    let spans = Spans::default();
    let guard = tracing::subscriber::set_default(spans.clone());
    let desk = Desk::new(script());
    desk.approve_all().await;
    desk.drive().await.unwrap();
    drop(guard);

    let lines = spans.0.lock().unwrap();
    let named = |name: &str| lines.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(named("invoke_agent "), 2, "driven twice");
    assert_eq!(named("chat "), 2);
    assert_eq!(named("execute_tool "), 3);
    let chat = lines.iter().find(|line| line.starts_with("chat ")).unwrap();
    for part in [
        "gen_ai.operation.name=\"chat\"",
        "gen_ai.request.model=\"scripted\"",
        "gen_ai.usage.input_tokens=10",
    ] {
        assert!(chat.contains(part), "{chat}");
    }
    let all = lines.join("\n");
    for said in ["let me see", "content of", "be brief", "wrote"] {
        assert!(!all.contains(said), "{said} is in a span");
    }
}
