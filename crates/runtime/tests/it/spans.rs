//! The spans of a whole turn, as a collector gets them (T7).

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use runtime::core::Classified;
use runtime::otel::{OtlpConfig, SpanExport};
use runtime::prelude::*;
use runtime::tools::FunctionError;

/// What a collector has been sent.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Bytes>>>);

impl Collector {
    /// Listens, and returns its address.
    async fn start(&self) -> String {
        let taken = self.clone();
        let take = move |body: Bytes| {
            taken.0.lock().unwrap().push(body);
            async { ExportTraceServiceResponse::default().encode_to_vec() }
        };
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let routes = axum::Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        format!("http://{address}")
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.0.lock().unwrap();
        let requests = bodies.iter().map(|body| {
            ExportTraceServiceRequest::decode(body.clone()).expect("a request of the protocol")
        });
        requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }
}

fn text(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Nothing {}

/// A turn that asks for two tools at once, of which one fails, and answers.
fn agent() -> Agent {
    let look = |_: Nothing, _: ToolContext| async move { Ok("a private sight") };
    let look = FunctionTool::new("look", "Looks.", look).read_only();
    let fail = |_: Nothing, _: ToolContext| async move {
        Err::<String, _>(FunctionError::new("a private mishap"))
    };
    let fail = FunctionTool::new("fail", "Fails.", fail).read_only();
    let calls = ScriptStep::text("a private thought")
        .tool_call("1", "look", serde_json::json!({}))
        .tool_call("2", "fail", serde_json::json!({}));
    let steps = vec![calls, ScriptStep::text("a private answer")];
    let model = Arc::new(ScriptedModel::new("scripted", steps));
    let agent = Agent::builder("deployment-1", model);
    agent.tool(Arc::new(look)).tool(Arc::new(fail)).build()
}

/// Drives a turn to its end, with the export in force.
async fn one_turn(export: &SpanExport) {
    let _in_force = tracing::dispatcher::set_default(&export.dispatch());
    let builder = runtime::builder().memory().agent(agent());
    let runtime = builder.open().await.unwrap();
    let desk = runtime.worker("desk").await.unwrap();
    let answer = desk.ask("a private question").await.unwrap();
    assert_eq!(answer, "a private answer");
    runtime.close().await.unwrap();
}

/// T7: a collector gets every span of a turn: one of the turn, and in it one for each model call
/// and each tool call; in one trace, named as the conventions say, and with nothing that was said.
#[tokio::test]
async fn t7_a_collector_gets_every_span_of_a_turn_and_nothing_that_was_said() {
    let collector = Collector::default();
    let mut config = OtlpConfig::new(collector.start().await);
    config.service_name = Some("the desk".to_owned());
    let export = SpanExport::start(&config).unwrap();
    one_turn(&export).await;
    export.close().await.unwrap();

    let spans = collector.spans();
    let named = |name: &str| -> Vec<&Span> {
        spans
            .iter()
            .filter(|span| span.name.starts_with(name))
            .collect()
    };
    let turn = named("invoke_agent");
    assert_eq!(turn.len(), 1, "{spans:#?}");
    assert!(turn[0].parent_span_id.is_empty(), "it is the root");
    assert_eq!(
        text(turn[0], "gen_ai.conversation.id").as_deref(),
        Some("desk")
    );
    let chats = named("chat scripted");
    let tools = named("execute_tool");
    assert_eq!((chats.len(), tools.len()), (2, 2), "{spans:#?}");
    assert_eq!(spans.len(), 5, "nothing else is a span");
    for span in chats.iter().chain(&tools) {
        assert_eq!(span.trace_id, turn[0].trace_id);
        assert_eq!(span.parent_span_id, turn[0].span_id);
        assert!(span.start_time_unix_nano >= turn[0].start_time_unix_nano);
        assert!(span.end_time_unix_nano <= turn[0].end_time_unix_nano);
    }
    for chat in &chats {
        assert_eq!(text(chat, "gen_ai.operation.name").as_deref(), Some("chat"));
        assert_eq!(
            text(chat, "gen_ai.request.model").as_deref(),
            Some("scripted")
        );
        assert!(text(chat, "gen_ai.usage.output_tokens").is_some());
    }
    let mut names: Vec<_> = tools
        .iter()
        .filter_map(|tool| text(tool, "gen_ai.tool.name"))
        .collect();
    names.sort();
    assert_eq!(names, ["fail", "look"]);
    let sent = collector.0.lock().unwrap().concat();
    let holds = |words: &str| sent.windows(words.len()).any(|at| at == words.as_bytes());
    assert!(holds("the desk"), "the name of the service");
    assert!(!holds("private"), "what was said is in a span");
}

/// T7: a collector that is away is told of at the end, and holds up no turn.
#[tokio::test]
async fn t7_a_collector_that_is_away_is_told_of_and_holds_up_nothing() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let config = OtlpConfig::new(format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    let export = SpanExport::start(&config).unwrap();
    one_turn(&export).await;
    let error = export.close().await.expect_err("nobody listens");
    assert_eq!(error.code(), "span_export_not_sent");
}
