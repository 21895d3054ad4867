//! Calls that park and go on themselves, in whichever process the turn is then (T5, M9).

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{ApprovalPolicy, Continuation, Resolution, ToolDefinition, ToolHints};
use runtime_model::ScriptStep;
use runtime_tools::{Resumption, Tool, ToolContext, ToolError, ToolOutput};
use serde_json::{Value, json};

use crate::desk::{Counted, Desk, words};
use crate::durable::{World, suspended};

/// Asks for two things, one after the other, then polls once, then answers with all it was told.
#[derive(Debug)]
struct Form {
    definition: ToolDefinition,
    acts: Mutex<Vec<String>>,
}

impl Form {
    fn new() -> Arc<Self> {
        let like = Counted::new("work", true, |_| Ok(ToolOutput::text("")));
        // It needs no approval, and may not run again by itself.
        let definition = ToolDefinition {
            approval: ApprovalPolicy::Never,
            hints: ToolHints::default(),
            ..like.definition().clone()
        };
        Arc::new(Self {
            definition,
            acts: Mutex::default(),
        })
    }

    fn ask(question: &str, state: Value) -> ToolOutput {
        ToolOutput::Parked {
            deadline: None,
            continuation: Continuation {
                question: Some(question.to_owned()),
                state,
                retry_safe: false,
            },
        }
    }
}

#[async_trait]
impl Tool for Form {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        self.acts.lock().unwrap().push(format!("call {arguments}"));
        Ok(Self::ask("from\u{1b} where?", json!({"asked": "from"})))
    }

    async fn resume(
        &self,
        resumption: Resumption,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        assert_eq!(context.idempotency_key.len(), 64);
        let Resumption {
            arguments,
            state,
            resolution,
        } = resumption;
        assert_eq!(arguments, json!({"n": 1}));
        let told = match &resolution {
            Resolution::Ok { value } => value.to_string(),
            other => format!("{other:?}"),
        };
        let asked = state["asked"].as_str().unwrap().to_owned();
        self.acts.lock().unwrap().push(format!("{asked} {told}"));
        Ok(match asked.as_str() {
            "from" => Self::ask("where to?", json!({"asked": "to", "from": told})),
            "to" => ToolOutput::Parked {
                deadline: Some(Duration::from_secs(5)),
                continuation: Continuation {
                    question: None,
                    state: json!({"asked": "poll", "from": state["from"], "to": told}),
                    retry_safe: true,
                },
            },
            _ => ToolOutput::text(format!("{} to {}", state["from"], state["to"])),
        })
    }
}

/// M9: each step happens in a process of its own, once, and is given the answer of its own wait.
#[tokio::test]
async fn m9_a_parked_call_goes_on_in_another_process() {
    let world = World::new();
    let desk = Desk::new(vec![
        ScriptStep::call("c", "work", json!({"n": 1})),
        ScriptStep::text("so {last_tool_result}"),
    ]);
    let form = Form::new();
    let agent = runtime_agent::Agent::builder("1", Arc::clone(&desk.model) as _)
        .tool(Arc::clone(&form) as _)
        .build();
    world.begin("1").await;

    suspended(world.drive(&agent, &world.host()).await);
    // Driven again without an answer, it only waits.
    suspended(world.drive(&agent, &world.host()).await);
    assert_eq!(
        world.answer("from  where?", json!("Bern")).await,
        "from  where?"
    );
    suspended(world.drive(&agent, &world.host()).await);
    world.answer("where to?", json!("Basel")).await;
    let due = suspended(world.drive(&agent, &world.host()).await);
    assert!(due.is_some(), "a poll has its time");
    assert_eq!(form.acts.lock().unwrap().len(), 3);
    world.clock.advance(Duration::from_secs(5));
    let end = world.drive(&agent, &world.host()).await;

    assert_eq!(words(end), r#"so "\"Bern\"" to "\"Basel\"""#);
    assert_eq!(
        *form.acts.lock().unwrap(),
        [
            "call {\"n\":1}",
            "from \"Bern\"",
            "to \"Basel\"",
            "poll Timeout"
        ]
    );
    assert_eq!(desk.model.requests().len(), 2);
    // The conversation folds from the events as the machine saw it.
    assert_eq!(world.conversation().await.history().len(), 4);
}

/// E7: going on is an act of its own; cut off, it is in doubt, not repeated.
#[tokio::test]
async fn e7_a_continuation_that_was_cut_off_is_in_doubt() {
    let world = World::new();
    let desk = Desk::new(vec![ScriptStep::call("c", "work", json!({"n": 1}))]);
    let form = Arc::new(Hanging(Form::new()));
    let agent = runtime_agent::Agent::builder("1", Arc::clone(&desk.model) as _)
        .tool(Arc::clone(&form) as _)
        .build();
    world.begin("1").await;
    suspended(world.drive(&agent, &world.host()).await);
    world.answer("from  where?", json!("Bern")).await;
    let host = world.host();
    let cut_off = tokio::time::timeout(Duration::from_millis(50), world.drive(&agent, &host));
    assert!(cut_off.await.is_err(), "the tool never goes on");
    let again = world.drive(&agent, &world.host()).await;
    assert!(
        matches!(again, Err(runtime_effects::Interrupt::InDoubt { .. })),
        "{again:?}"
    );
}

/// Goes on for ever.
#[derive(Debug)]
struct Hanging(Arc<Form>);

#[async_trait]
impl Tool for Hanging {
    fn definition(&self) -> &ToolDefinition {
        &self.0.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        self.0.call(arguments, context).await
    }

    async fn resume(&self, _: Resumption, _: ToolContext) -> Result<ToolOutput, ToolError> {
        std::future::pending().await
    }
}
