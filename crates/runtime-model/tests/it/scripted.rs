//! The scripted model (T6, T4): what it says depends on the request, not on the process.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use runtime_core::{
    CallId, Classified, Clock, ErrorClass, FinishReason, LlmResponse, Message, ModelEvent,
    ModelRequest, Role, Sleep, Timestamp, ToolResult, Usage,
};
use runtime_core::{ContentPart, ToolCall};
use runtime_model::{Model, ModelError, ScriptStep, ScriptedModel, collect};
use serde_json::json;

fn script() -> Vec<ScriptStep> {
    vec![
        ScriptStep::text("Looking up {input}.")
            .tool_call("a", "lookup", json!({"city": "{input}"}))
            .tool_call("b", "write", json!({"line": "visited {input}"})),
        ScriptStep::text("It says {last_tool_result}."),
    ]
}

fn request(key: &str, messages: &[Message]) -> ModelRequest {
    ModelRequest {
        model: "demo".to_owned(),
        instructions: Arc::from(""),
        messages: messages.iter().cloned().map(Arc::new).collect(),
        tools: Arc::from([]),
        idempotency_key: key.to_owned(),
        output_schema: None,
    }
}

fn unfinished() -> ModelError {
    failure("model_stream_incomplete", ErrorClass::Unavailable)
}

fn failure(code: &'static str, class: ErrorClass) -> ModelError {
    ModelError {
        provider: "scripted".to_owned(),
        model: "demo".to_owned(),
        code,
        class,
        reason: FinishReason::ProviderError,
        message: "as scripted".to_owned(),
        provider_code: None,
        retry_after: None,
    }
}

async fn answer(model: &ScriptedModel, request: ModelRequest) -> Result<LlmResponse, ModelError> {
    collect(model.stream(request).await?, unfinished, |_| ()).await
}

fn user(text: &str) -> Message {
    Message::text(Role::User, text)
}

fn tool_result(call: &ToolCall, text: &str) -> Message {
    Message {
        role: Role::Tool,
        content: vec![ContentPart::ToolResult(ToolResult::text(
            call.id.clone(),
            text,
        ))],
    }
}

#[tokio::test]
async fn t4_each_process_gives_the_answer_that_the_conversation_is_at() {
    // A new model for each call: nothing may live in the process.
    let fresh = || ScriptedModel::new("demo", script());
    let mut conversation = vec![
        user("old"),
        Message::text(Role::Assistant, "x"),
        user("Oslo"),
    ];

    let first = answer(&fresh(), request("t2/0", &conversation))
        .await
        .expect("step 0");
    assert_eq!(first.message.plain_text(), "Looking up Oslo.");
    assert_eq!(first.reason, FinishReason::ToolUse);
    let calls: Vec<ToolCall> = first.message.tool_calls().cloned().collect();
    assert_eq!(calls[0].arguments, json!({"city": "Oslo"}));
    assert_eq!(calls[1].arguments, json!({"line": "visited Oslo"}));

    conversation.push(first.message);
    conversation.push(tool_result(&calls[0], "rain"));
    conversation.push(tool_result(&calls[1], "done"));
    let second = answer(&fresh(), request("t2/1", &conversation))
        .await
        .expect("step 1");
    assert_eq!(second.message.plain_text(), "It says done.");
    assert_eq!(second.reason, FinishReason::Stop);

    conversation.push(second.message);
    let error = answer(&fresh(), request("t2/2", &conversation))
        .await
        .expect_err("no step 2");
    assert_eq!(error.code(), "model_script_ended");
    assert_eq!(error.class(), ErrorClass::Invalid);
}

#[tokio::test]
async fn call_ids_are_the_same_on_each_attempt_and_others_in_each_turn() {
    async fn ids(key: &str) -> Vec<CallId> {
        let model = ScriptedModel::new("demo", script());
        let response = answer(&model, request(key, &[user("Oslo")]))
            .await
            .expect("answers");
        let ids = response.message.tool_calls().map(|call| call.id.clone());
        ids.collect()
    }
    let once = ids("t1/0").await;
    assert_eq!(once, ids("t1/0").await);
    let again = ids("t2/0").await;
    assert!(once.iter().all(|id| !again.contains(id)));
    assert_ne!(once[0], once[1]);
    assert!(once[0].as_str().ends_with("_a"));
}

#[tokio::test]
async fn text_comes_in_small_pieces_and_ends_once() {
    let step = ScriptStep::reasoning("hmm, an ä")
        .say("Twelve chars")
        .usage(Usage {
            input_tokens: 3,
            output_tokens: 2,
            cached_input_tokens: 1,
        });
    let model = ScriptedModel::new("demo", vec![step]).with_piece_chars(5);
    let stream = model
        .stream(request("k", &[user("x")]))
        .await
        .expect("starts");
    let events: Vec<ModelEvent> = stream.map(|event| event.expect("no error")).collect().await;
    let deltas: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            ModelEvent::TextDelta { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(deltas, ["Twelv", "e cha", "rs"]);
    let ends = events
        .iter()
        .filter(|e| matches!(e, ModelEvent::Finished { .. }));
    assert_eq!(ends.count(), 1);
    assert!(matches!(
        events[events.len() - 2..],
        [
            ModelEvent::Usage(Usage {
                cached_input_tokens: 1,
                ..
            }),
            ModelEvent::Finished {
                reason: FinishReason::Stop
            }
        ]
    ));
}

#[tokio::test]
async fn t4_each_attempt_leaves_one_line_in_the_call_log_before_it_answers() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("calls");
    for key in ["t1/0", "t1/1\nforged"] {
        let model = ScriptedModel::new("demo", script()).with_call_log(&log);
        let stream = model.stream(request(key, &[user("x")])).await;
        drop(stream); // dropped before the first piece: the call was made all the same
    }
    assert_eq!(
        fs::read_to_string(&log).expect("a log"),
        "t1/0\nt1/1 forged\n"
    );

    let model = ScriptedModel::new("demo", script()).with_call_log(dir.path());
    let error = answer(&model, request("k", &[user("x")]))
        .await
        .expect_err("a directory");
    assert_eq!(error.code(), "model_call_log_failed");
}

#[tokio::test]
async fn t6_scripted_errors_fail_the_first_attempts_of_each_call() {
    let busy = || failure("model_overloaded", ErrorClass::Busy);
    let steps = vec![ScriptStep::text("at last").failing_first(2, busy())];
    let model = ScriptedModel::new("demo", steps);
    for key in ["a", "b"] {
        for _ in 0..2 {
            let error = answer(&model, request(key, &[user("x")]))
                .await
                .expect_err("scripted");
            assert_eq!(
                (error.code(), error.class()),
                ("model_overloaded", ErrorClass::Busy)
            );
        }
        let response = answer(&model, request(key, &[user("x")]))
            .await
            .expect("third");
        assert_eq!(response.message.plain_text(), "at last");
    }

    let model = ScriptedModel::new("demo", vec![ScriptStep::error(busy())]);
    for _ in 0..5 {
        assert!(answer(&model, request("a", &[user("x")])).await.is_err());
    }
}

#[tokio::test]
async fn t6_a_stream_may_break_after_its_pieces() {
    let lost = failure("model_connection_lost", ErrorClass::Unavailable);
    let steps = vec![ScriptStep::text("half").breaking_first(1, lost)];
    let model = ScriptedModel::new("demo", steps);
    let mut seen = 0;
    let stream = model
        .stream(request("k", &[user("x")]))
        .await
        .expect("starts");
    let error = collect(stream, unfinished, |_| seen += 1)
        .await
        .expect_err("breaks");
    assert_eq!(error.code(), "model_connection_lost");
    assert!(seen > 0, "pieces come before the error");
    assert!(answer(&model, request("k", &[user("x")])).await.is_ok());
}

#[tokio::test]
async fn inputs_may_have_scripts_of_their_own() {
    let model = ScriptedModel::new("demo", vec![ScriptStep::text("default")])
        .when_input_contains("weather", vec![ScriptStep::text("rain")]);
    for (input, said) in [("hello", "default"), ("the weather?", "rain")] {
        let response = answer(&model, request("k", &[user(input)]))
            .await
            .expect("answers");
        assert_eq!(response.message.plain_text(), said);
    }
}

/// Counts the waits and ends each at once.
#[derive(Debug, Default)]
struct CountingClock(std::sync::atomic::AtomicUsize);

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> Sleep {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn c4_the_pace_is_kept_by_the_clock_before_each_piece() {
    let clock = Arc::new(CountingClock::default());
    let model = ScriptedModel::new("demo", vec![ScriptStep::text("12345678")]).with_pace(
        Arc::clone(&clock) as Arc<dyn Clock>,
        Duration::from_millis(30),
    );
    let response = answer(&model, request("k", &[user("x")]))
        .await
        .expect("answers");
    assert_eq!(response.message.plain_text(), "12345678");
    assert_eq!(clock.0.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn c4_a_long_answer_is_paced_at_its_start_only() {
    let clock = Arc::new(CountingClock::default());
    let text = "x".repeat(100_000);
    let model = ScriptedModel::new("demo", vec![ScriptStep::text(&text)]).with_pace(
        Arc::clone(&clock) as Arc<dyn Clock>,
        Duration::from_millis(30),
    );
    let response = answer(&model, request("k", &[user("x")]))
        .await
        .expect("answers");
    assert_eq!(response.message.plain_text(), text);
    assert!(clock.0.load(std::sync::atomic::Ordering::Relaxed) <= 256);
}
