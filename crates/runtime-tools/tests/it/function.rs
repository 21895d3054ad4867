//! Typed functions as tools (T5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_core::{
    ApprovalPolicy, CallId, Classified, ContentPart, ErrorClass, ExecutionScope, Reserve,
    Timestamp, TurnId,
};
use runtime_tools::{
    FunctionError, FunctionTool, Pending, Tool, ToolContext, ToolError, ToolOutput, Toolbox,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

fn context() -> ToolContext {
    ToolContext {
        scope: ExecutionScope::RuntimeOperation {
            operation: TurnId::new("test").expect("an id"),
        },
        call: CallId::new("call").expect("an id"),
        idempotency_key: "key".to_owned(),
        attempt: 1,
        fencing_token: 1,
        deadline: Timestamp::from_millis(1),
        completions: None,
        delegates: None,
        triggers: None,
        budget: Reserve::default(),
    }
}

#[derive(Deserialize, JsonSchema)]
struct Add {
    /// The first number.
    left: i64,
    #[serde(default)]
    right: i64,
    #[serde(default)]
    options: Options,
}

#[derive(Default, Deserialize, JsonSchema)]
struct Options {
    negate: bool,
}

fn add() -> FunctionTool {
    FunctionTool::new("add", "Adds.", |add: Add, _| async move {
        let sum = add.left + add.right;
        Ok(if add.options.negate { -sum } else { sum })
    })
}

async fn text_of(tool: &FunctionTool, arguments: Value) -> String {
    match tool.call(arguments, context()).await.expect("a result") {
        ToolOutput::Finished {
            content,
            is_error: false,
        } => match &content[..] {
            [ContentPart::Text { text }] => text.clone(),
            other => panic!("not one text: {other:?}"),
        },
        other => panic!("not finished: {other:?}"),
    }
}

#[tokio::test]
async fn t5_the_schema_and_the_arguments_come_from_the_type() {
    let tool = add();
    let schema = &tool.definition().input_schema;
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["required"], json!(["left"]));
    assert_eq!(
        schema["properties"]["left"]["description"],
        "The first number."
    );
    assert!(!schema.to_string().contains("$ref"), "{schema}");
    assert_eq!(text_of(&tool, json!({"left": 2, "right": 3})).await, "5");
    let negated = json!({"left": 2, "options": {"negate": true}});
    assert_eq!(text_of(&tool, negated).await, "-2");
}

#[tokio::test]
async fn t5_arguments_that_do_not_fit_do_not_run() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let tool = FunctionTool::new("count", "Counts.", move |_: Add, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    for wrong in [json!({}), json!({"left": "2"}), json!([1]), Value::Null] {
        let error = tool.call(wrong, context()).await.expect_err("does not fit");
        assert!(matches!(error, ToolError::InvalidArguments { .. }));
        assert_eq!(error.class(), ErrorClass::Invalid);
        assert!(error.did_not_run());
    }
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    assert_eq!(text_of(&tool, json!({"left": 1})).await, "done");
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

#[derive(Serialize)]
struct Weather {
    city: &'static str,
    degrees: f64,
}

#[tokio::test]
async fn t5_a_result_is_text_json_or_an_output_of_its_own() {
    let text = FunctionTool::new("t", "", |_: Nothing, _| async { Ok("as \"is\"") });
    assert_eq!(text_of(&text, Value::Null).await, "as \"is\"");
    let json = FunctionTool::new("j", "", |_: Nothing, _| async {
        Ok(Weather {
            city: "Oslo",
            degrees: 3.5,
        })
    });
    assert_eq!(
        text_of(&json, json!({})).await,
        r#"{"city":"Oslo","degrees":3.5}"#
    );
    let pending = FunctionTool::new("p", "", |_: Nothing, _| async {
        Ok(ToolOutput::Pending(Pending::default()))
    });
    let output = pending.call(json!({}), context()).await.expect("an output");
    assert_eq!(output, ToolOutput::Pending(Pending::default()));
}

#[tokio::test]
async fn e6_an_error_keeps_its_meaning() {
    let io = FunctionTool::new("io", "", |_: Nothing, _| async {
        std::fs::read_to_string("/nowhere/at/all")?;
        Ok(())
    });
    let error = io
        .call(json!({}), context())
        .await
        .expect_err("no such file");
    assert_eq!(
        (error.code(), error.class()),
        ("tool_failed", ErrorClass::Terminal)
    );
    assert!(error.to_string().starts_with("io failed: "));
    assert!(!error.did_not_run());

    let down = FunctionTool::new("down", "", |_: Nothing, _| async {
        Err::<(), _>(FunctionError::from(ToolError::Unavailable {
            tool: "down".to_owned(),
            reason: "closed on Sundays".to_owned(),
        }))
    });
    let error = down
        .call(json!({}), context())
        .await
        .expect_err("unavailable");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(error.did_not_run());

    let text = FunctionTool::new("text", "", |_: Nothing, _| async {
        Err::<(), _>(FunctionError::new("no ink"))
    });
    let error = text.call(json!({}), context()).await.expect_err("fails");
    assert_eq!(error.to_string(), "text failed: no ink");
}

#[tokio::test]
async fn t5_blocking_functions_run_beside_the_async_threads() {
    let caller = std::thread::current().id();
    let tool = FunctionTool::blocking("where", "", move |_: Nothing, _| {
        Ok((std::thread::current().id() == caller).to_string())
    });
    assert_eq!(text_of(&tool, json!({})).await, "false");
}

#[tokio::test]
async fn e9_a_panic_of_a_blocking_function_reaches_the_caller_with_its_text() {
    let tool = FunctionTool::blocking("boom", "", |_: Nothing, _| -> Result<(), FunctionError> {
        panic!("out of paper")
    });
    let called = tokio::spawn(async move { tool.call(json!({}), context()).await });
    let panic = called.await.expect_err("panics").into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"out of paper"));
}

#[test]
fn t3_what_the_host_declares_counts() {
    let plain = add();
    assert!(plain.definition().needs_approval());
    assert!(!plain.definition().is_retry_safe());
    let reading = add().read_only();
    assert!(!reading.definition().needs_approval());
    assert!(reading.definition().is_retry_safe());
    let writing = add().retry_safe().approval(ApprovalPolicy::Always);
    assert!(writing.definition().needs_approval());
    assert!(writing.definition().is_retry_safe());
    let never = add().approval(ApprovalPolicy::Never);
    assert!(!never.definition().needs_approval());
    assert!(!never.definition().is_retry_safe());
}

#[test]
#[should_panic(expected = "tool name \"not a name\"")]
fn m8_a_name_outside_the_grammar_is_a_mistake_in_the_program() {
    let _ = FunctionTool::new("not a name", "", |_: Nothing, _| async { Ok(()) });
}

#[test]
#[should_panic(expected = "must be an object")]
fn arguments_that_are_no_object_are_a_mistake_in_the_program() {
    let _ = FunctionTool::new("text", "", |_: String, _| async { Ok(()) });
}

#[test]
fn m8_functions_of_one_name_are_refused_both() {
    let tools = [Arc::new(add()) as Arc<dyn Tool>, Arc::new(add())];
    let (toolbox, refused) = Toolbox::gather(tools);
    assert_eq!(refused, ["add"]);
    assert!(toolbox.definitions().is_empty());
}
