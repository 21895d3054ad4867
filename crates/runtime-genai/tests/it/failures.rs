//! Everything that is no whole answer ends in an error that says who, and whether trying again
//! may help.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use runtime_core::{ErrorClass, FinishReason};
use runtime_model::ModelError;
use runtime_testkit::{ProviderResponse, ProviderStep};
use serde_json::json;

use crate::support::{SHORT, ask, config, server};

/// The error, and how many requests the server saw: exactly one, whatever happened (T6).
async fn failed(response: ProviderResponse, code: &str) -> ModelError {
    let server = server(response);
    let error = ask(config(&server)).await.failed(code);
    assert_eq!(server.requests().len(), 1, "one call is one request");
    error
}

#[tokio::test]
async fn t6_a_connection_dropped_in_mid_stream_is_unavailable() {
    let dropped = ProviderResponse::stream()
        .text("Hel")
        .step(ProviderStep::Break);
    let error = failed(dropped, "model_connection_lost").await;
    assert_eq!(error.class, ErrorClass::Unavailable);
}

#[tokio::test]
async fn t6_a_connection_dropped_before_the_response_is_unavailable() {
    let error = failed(ProviderResponse::silence(), "model_connection_lost").await;
    assert_eq!(error.class, ErrorClass::Unavailable);
}

/// The response ends as HTTP wants it and the answer does not end.
#[tokio::test]
async fn t6_an_answer_that_stops_short_is_incomplete() {
    let short = ProviderResponse::stream().text("Hel").end();
    let error = failed(short, "model_stream_incomplete").await;
    assert_eq!(error.class, ErrorClass::Unavailable);
}

#[tokio::test]
async fn t6_too_many_requests_carry_the_pause_that_was_asked_for() {
    let body = r#"{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}"#;
    let limited = ProviderResponse::status(429, &[("retry-after", "7")], body);
    let error = failed(limited, "model_rate_limited").await;
    assert_eq!(error.class, ErrorClass::Busy);
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(error.provider_code.as_deref(), Some("rate_limit_exceeded"));
    assert!(error.message.contains("slow down"), "{error}");
}

#[tokio::test]
async fn t6_an_empty_account_is_not_tried_again() {
    let body = r#"{"error": {"message": "pay", "code": "insufficient_quota"}}"#;
    let error = failed(
        ProviderResponse::status(429, &[], body),
        "model_quota_exhausted",
    )
    .await;
    assert_eq!(error.class, ErrorClass::Terminal);
}

#[tokio::test]
async fn t6_a_failing_server_is_unavailable() {
    for status in [500, 502, 503, 529] {
        let response = ProviderResponse::status(status, &[], "<html>oops</html>");
        let error = failed(response, "model_unavailable").await;
        assert_eq!(error.class, ErrorClass::Unavailable);
        assert_eq!(error.provider_code, Some(status.to_string()));
    }
}

#[tokio::test]
async fn t6_what_a_server_refuses_is_final() {
    for (status, code, class) in [
        (400, "model_request_refused", ErrorClass::Invalid),
        (401, "model_unauthorised", ErrorClass::Invalid),
        (404, "model_not_found", ErrorClass::NotFound),
    ] {
        let body = r#"{"error": {"message": "no"}}"#;
        let error = failed(ProviderResponse::status(status, &[], body), code).await;
        assert_eq!(error.class, class);
        assert!(error.class.is_final());
    }
}

#[tokio::test]
async fn t6_a_conversation_that_is_too_long_says_so() {
    let body = r#"{"error": {"message": "long", "code": "context_length_exceeded"}}"#;
    let error = failed(
        ProviderResponse::status(400, &[], body),
        "model_context_overflow",
    )
    .await;
    assert_eq!(error.reason, FinishReason::ContextOverflow);
}

/// A key must not follow a redirect to wherever it leads.
#[tokio::test]
async fn t6_a_redirect_is_not_followed() {
    let elsewhere = server(ProviderResponse::stream().text("hi").reason("stop").done());
    let location = format!("{}/chat/completions", elsewhere.base_url());
    let redirect = ProviderResponse::status(307, &[("location", &location)], "");
    failed(redirect, "model_request_refused").await;
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn t6_a_body_that_is_no_stream_is_malformed() {
    let html = [("content-type", "text/html")];
    let json = [("content-type", "application/json")];
    for response in [
        ProviderResponse::status(200, &html, "<html>Sign in to the hotel's network</html>"),
        ProviderResponse::status(
            200,
            &json,
            r#"{"choices": [{"message": {"content": "hi"}}]}"#,
        ),
        ProviderResponse::status(200, &[], ""),
    ] {
        let error = failed(response, "model_response_malformed").await;
        assert_eq!(error.class, ErrorClass::Unavailable);
    }
}

#[tokio::test]
async fn t6_a_piece_that_is_no_json_is_malformed() {
    for data in ["{\"choices\": [", "not json at all", "<html></html>"] {
        let broken = ProviderResponse::stream().text("Hel").event(data).done();
        let error = failed(broken, "model_response_malformed").await;
        assert_eq!(error.class, ErrorClass::Unavailable);
    }
}

#[tokio::test]
async fn t6_bytes_that_are_no_text_are_an_error() {
    let broken = ProviderResponse::stream()
        .text("Hel")
        .raw(b"data: \xff\xfe\n\n")
        .done();
    let error = failed(broken, "model_connection_lost").await;
    assert_eq!(error.class, ErrorClass::Unavailable);
}

#[tokio::test]
async fn t6_an_error_in_mid_stream_has_its_own_class() {
    for (body, code, class) in [
        (
            json!({"message": "overloaded", "type": "server_error"}),
            "model_unavailable",
            ErrorClass::Unavailable,
        ),
        (
            json!({"message": "slow", "type": "rate_limit_error"}),
            "model_rate_limited",
            ErrorClass::Busy,
        ),
        (
            json!({"message": "bad", "type": "invalid_request_error"}),
            "model_request_refused",
            ErrorClass::Invalid,
        ),
        (
            json!("just words"),
            "model_unavailable",
            ErrorClass::Unavailable,
        ),
    ] {
        let told = json!({ "error": body }).to_string();
        let response = ProviderResponse::stream().text("Hel").event(&told).done();
        assert_eq!(failed(response, code).await.class, class);
    }
}

#[tokio::test]
async fn t6_a_call_that_is_not_whole_is_not_handed_on() {
    let call = |arguments: &str, name: &str| {
        let function = json!({"name": name, "arguments": arguments});
        json!({"tool_calls": [{"index": 0, "id": "call_a", "function": function}]})
    };
    for delta in [call("{\"x\": ", "one"), call("[1]", "one"), call("{}", "")] {
        let broken = ProviderResponse::stream()
            .delta(&delta)
            .reason("tool_calls")
            .done();
        let error = failed(broken, "model_tool_call_malformed").await;
        assert_eq!(error.class, ErrorClass::Unavailable);
    }
    let none = ProviderResponse::stream()
        .text("hm")
        .reason("tool_calls")
        .done();
    failed(none, "model_tool_call_malformed").await;
}

#[tokio::test]
async fn t6_a_server_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let running = server(ProviderResponse::silence());
    let mut config = config(&running);
    config.base_url = Some(base_url);
    let error = ask(config).await.failed("model_unreachable");
    assert_eq!(error.class, ErrorClass::Unavailable);
}

/// No first byte, no further byte, no end: each has a bound of its own and says which.
#[tokio::test]
async fn t6_a_stream_that_never_ends_is_ended() {
    let beat = ProviderStep::Repeat(b": alive\n\n".to_vec(), Duration::from_millis(10));
    let empty = b"data: {\"choices\":[]}\n\n".to_vec();
    let empty = ProviderStep::Repeat(empty, Duration::from_millis(1));
    let cases = [
        (
            ProviderResponse::silence().step(ProviderStep::Hang),
            "no response came",
        ),
        (
            ProviderResponse::stream().step(ProviderStep::Hang),
            "nothing more",
        ),
        (
            ProviderResponse::stream()
                .text("a")
                .step(ProviderStep::Hang),
            "nothing more",
        ),
        (
            ProviderResponse::stream().text("a").step(beat),
            "did not end",
        ),
        (
            ProviderResponse::stream().text("a").step(empty),
            "did not end",
        ),
    ];
    for (response, words) in cases {
        let server = server(response);
        let mut config = config(&server);
        match words {
            "no response came" => config.timeouts.first_byte = SHORT,
            "nothing more" => config.timeouts.idle = SHORT,
            _ => config.timeouts.total = SHORT,
        }
        let started = Instant::now();
        let error = ask(config).await.failed("model_timed_out");
        assert_eq!(error.class, ErrorClass::TimedOut);
        assert!(error.message.contains(words), "{error}");
        assert!(started.elapsed() >= SHORT);
        assert_eq!(server.requests().len(), 1);
    }
}

/// The defaults end such a stream before the effect's own bound does, which names nobody.
#[test]
fn t6_the_default_bounds_are_within_an_attempt() {
    let timeouts = runtime_genai::ModelTimeouts::default();
    let attempt = runtime_core::RetryPolicy::default().attempt_timeout;
    assert!(timeouts.total < attempt);
    assert!(timeouts.idle < timeouts.total && timeouts.first_byte < timeouts.total);
}

#[tokio::test]
async fn t6_an_answer_without_end_in_size_is_ended() {
    let text = "x".repeat(1_000);
    let chunk = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let flood = ProviderStep::Repeat(chunk.into_bytes(), Duration::ZERO);
    let server = server(ProviderResponse::stream().step(flood));
    let mut config = config(&server);
    config.answer_bytes_max = 100_000;
    let error = ask(config).await.failed("model_answer_too_large");
    assert_eq!(error.class, ErrorClass::Terminal);
}

/// A server may send back what it was sent; no error repeats it.
#[tokio::test]
async fn x2_an_error_repeats_no_key_and_no_header() {
    let server = runtime_testkit::ProviderServer::start(|request| {
        let body = format!("I was sent {:?}", request.headers);
        ProviderResponse::status(401, &[], &body)
    });
    let mut config = config(&server);
    config.api_key = runtime_genai::ApiKey::Value(runtime_core::Secret::new("canary-key"));
    let secret = runtime_core::Secret::new("canary-header");
    config.headers.insert("x-tenant".to_owned(), secret);
    assert!(!format!("{config:?}").contains("canary"));
    let error = ask(config).await.failed("model_unauthorised");
    let shown = format!("{error:?} {error}");
    assert!(!shown.contains("canary"), "{shown}");
    let sent = &server.requests()[0].headers;
    assert_eq!(sent["authorization"], "Bearer canary-key");
    assert_eq!(sent["x-tenant"], "canary-header");
}
