//! What a server is sent.

use std::sync::Arc;

use runtime_core::{
    ApprovalPolicy, CallId, ContentPart, Message, Role, Secret, ToolCall, ToolDefinition,
    ToolHints, ToolResult,
};
use runtime_genai::ApiKey;
use runtime_testkit::ProviderResponse;
use serde_json::json;

use crate::support::{ask, ask_with, config, request, server};

fn hello() -> ProviderResponse {
    ProviderResponse::stream().text("hi").reason("stop").done()
}

fn tool(name: &str) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        display_name: None,
        description: "Looks something up.".to_owned(),
        input_schema: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
        output_schema: None,
        category: None,
        approval: ApprovalPolicy::Never,
        hints: ToolHints::default(),
        deferrable: false,
    }
}

#[tokio::test]
async fn t6_a_conversation_arrives_as_the_protocol_wants_it() {
    let server = server(hello());
    let id: CallId = "call_a".parse().unwrap();
    let call = ToolCall {
        id: id.clone(),
        name: "look_up".to_owned(),
        arguments: json!({"city": "Oslo"}),
    };
    let assistant = Message {
        role: Role::Assistant,
        content: vec![
            ContentPart::Text {
                text: "I look.".to_owned(),
            },
            ContentPart::ToolCall(call),
        ],
    };
    let result = Message {
        role: Role::Tool,
        content: vec![ContentPart::ToolResult(ToolResult::text(id, "rain"))],
    };
    let mut request = request();
    request
        .messages
        .extend([Arc::new(assistant), Arc::new(result)]);
    // The second is the name of a tool of OpenAI's own; ours is ours.
    request.tools = Arc::from([tool("look_up"), tool("web_search")]);
    ask_with(config(&server), request).await.whole();

    let sent = &server.requests()[0];
    assert_eq!(sent.path, "/v1/chat/completions");
    assert_eq!(sent.body["model"], "fake-model");
    assert_eq!(sent.body["stream"], true);
    assert_eq!(sent.body["stream_options"], json!({"include_usage": true}));
    let messages = sent.body["messages"].as_array().unwrap();
    let roles: Vec<_> = messages
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool"]);
    let sent_call = &messages[2]["tool_calls"][0];
    assert_eq!(sent_call["id"], "call_a");
    assert_eq!(sent_call["function"]["arguments"], "{\"city\":\"Oslo\"}");
    assert_eq!(messages[3]["tool_call_id"], "call_a");
    assert_eq!(messages[3]["content"], "rain");
    let tools = sent.body["tools"].as_array().unwrap();
    let names: Vec<_> = tools
        .iter()
        .map(|t| t["function"]["name"].as_str())
        .collect();
    assert_eq!(names, [Some("look_up"), Some("web_search")]);
}

#[tokio::test]
async fn e7_the_idempotency_key_is_handed_on() {
    let server = server(hello());
    ask(config(&server)).await.whole();
    ask(config(&server)).await.whole();
    let requests = server.requests();
    let keys: Vec<_> = requests
        .iter()
        .map(|r| r.headers["idempotency-key"].as_str())
        .collect();
    assert_eq!(keys, ["turn-1/call-1", "turn-1/call-1"]);
}

#[tokio::test]
async fn t6_without_a_key_none_is_sent() {
    let server = server(hello());
    let mut config = config(&server);
    config
        .headers
        .insert("x-tenant".to_owned(), Secret::new("acme"));
    ask(config.clone()).await.whole();
    // At an address of one's own the provider's key is not sent by itself either.
    config.api_key = ApiKey::Provider;
    ask(config).await.whole();
    for request in server.requests() {
        assert!(!request.headers.contains_key("authorization"));
        assert_eq!(request.headers["x-tenant"], "acme");
        assert_eq!(request.headers["idempotency-key"], "turn-1/call-1");
    }
}

#[tokio::test]
async fn t6_bounds_of_an_answer_are_sent() {
    let server = server(hello());
    let mut config = config(&server);
    config.output_tokens_max = Some(99);
    config.temperature = Some(0.5);
    ask(config).await.whole();
    let sent = &server.requests()[0].body;
    assert_eq!(
        (&sent["max_tokens"], &sent["temperature"]),
        (&json!(99), &json!(0.5))
    );
}

/// A turn that started with one model goes on with it.
#[tokio::test]
async fn t4_the_model_of_the_request_counts() {
    let server = server(hello());
    let mut earlier = request();
    earlier.model = "earlier-model".to_owned();
    ask_with(config(&server), earlier).await.whole();
    assert_eq!(server.requests()[0].body["model"], "earlier-model");
}
