//! Prompt and tools of a turn are those it started with (E3, M1).

use std::sync::Arc;

use async_trait::async_trait;
use runtime_agent::Agent;
use runtime_core::{EffectKind, ErrorClass, EventKind, WireError};
use runtime_effects::Interrupt;
use runtime_model::ScriptStep;
use runtime_store::MemoryStore;
use runtime_tools::{SourceDiagnostic, SourceListing, Tool, ToolSource};
use serde_json::json;

use crate::desk::{Counted, Desk, script, words, write};

/// A tool server that is down, or offers a tool.
#[derive(Debug)]
struct Server {
    required: bool,
    tool: Option<Arc<Counted>>,
}

#[async_trait]
impl ToolSource for Server {
    fn name(&self) -> &str {
        "files"
    }

    fn required(&self) -> bool {
        self.required
    }

    async fn list(&self) -> SourceListing {
        let tools = self
            .tool
            .iter()
            .map(|tool| Arc::clone(tool) as Arc<dyn Tool>);
        let error = WireError::new("mcp_unreachable", ErrorClass::Unavailable, "refused");
        SourceListing {
            tools: tools.collect(),
            diagnostic: self.tool.is_none().then(|| SourceDiagnostic {
                source: "files".to_owned(),
                state: "cold".to_owned(),
                error: Some(error),
                next_retry: None,
            }),
        }
    }
}

fn server(required: bool, tool: Option<Arc<Counted>>) -> Arc<Server> {
    Arc::new(Server { required, tool })
}

/// E3: an edited prompt and another tool reach new turns only.
#[tokio::test]
async fn e3_an_open_turn_keeps_its_prompt_and_tools() {
    let desk = Desk::new(script());
    desk.approve_all().await;
    let other = Counted::new("other", true, |_| panic!("never offered, never called"));
    let edited = desk
        .builder()
        .instructions("be verbose")
        .tool(other)
        .build();
    desk.drive_with(&edited, &desk.controller()).await.unwrap();
    let requests = desk.model.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].instructions, requests[1].instructions);
    assert_eq!(&*requests[1].instructions, "be brief");
    assert_eq!(requests[0].tools, requests[1].tools);
    assert_eq!(desk.journal.ran_of(EffectKind::SyncExecutionEnvironment), 1);
}

/// T3: a tool that joins the agent while a turn is open cannot be called by it: nobody decided
/// whether a person must be asked.
#[tokio::test]
async fn t3_a_tool_that_was_not_offered_is_not_called() {
    let steps = vec![
        ScriptStep::call("c", "late", json!({})),
        ScriptStep::text("so {last_tool_result}"),
    ];
    let desk = Desk::new(steps);
    let crashed = desk
        .drive_with(
            &desk.builder().build(),
            &desk.controller().crashing_after(2),
        )
        .await;
    assert!(crashed.is_err());
    let late = Counted::new("late", true, |_| panic!("never offered, never called"));
    let edited = desk.builder().tool(Arc::clone(&late) as _).build();
    let end = desk.drive_with(&edited, &desk.controller()).await;
    assert_eq!(words(end), "so tool_not_found: no tool is called late");
    assert_eq!(late.calls(), 0);
}

/// T4: a recorded tool that is gone is an error that the model reads.
#[tokio::test]
async fn t4_a_tool_that_is_gone_is_told_to_the_model() {
    let desk = Desk::new(script());
    desk.approve_all().await;
    let model: Arc<dyn runtime_model::Model> = Arc::clone(&desk.model) as _;
    let bare = Agent::builder("2", model).build();
    let end = desk.drive_with(&bare, &desk.controller()).await;
    assert_eq!(words(end), "done: tool_not_found: no tool is called write");
    assert_eq!(desk.write.calls(), 0);
}

/// E18: a turn whose recorded prompt is gone says so and stops; nothing of it runs, and trying
/// again would not help.
#[tokio::test]
async fn e18_a_recorded_prompt_that_is_gone_stops_the_turn() {
    let mut desk = Desk::new(script());
    let crashing = desk.controller().crashing_after(2);
    let crashed = desk.drive_with(&desk.builder().build(), &crashing).await;
    assert!(crashed.is_err());
    let asked = desk.model.requests().len();
    desk.store = MemoryStore::new("other".parse().unwrap());
    match desk.drive().await {
        Err(Interrupt::Terminal(error)) => {
            assert_eq!(error.code, "attachment_resolution_failed");
            assert!(!error.class.is_retryable(), "{error:?}");
        }
        other => panic!("it should stop, but {other:?}"),
    }
    assert_eq!(desk.model.requests().len(), asked);
}

/// M1: a turn goes on without the tools of a server that is down, and says so.
#[tokio::test]
async fn m1_a_turn_goes_on_without_a_server_and_tells_of_it() {
    let desk = Desk::new(vec![ScriptStep::text("hi")]);
    let agent = desk.builder().source(server(false, None)).build();
    desk.drive_with(&agent, &desk.controller()).await.unwrap();
    let events = desk.journal.events();
    let told = events
        .iter()
        .find(|event| event.kind == EventKind::Diagnostic);
    let report = &told.unwrap().payload["tool_source"];
    assert_eq!(report["source"], "files");
    assert_eq!(report["state"], "cold");
    assert_eq!(report["error"]["class"], "unavailable");
}

/// M1: a required server that is down delays the turn; nothing is recorded, no model is asked.
#[tokio::test]
async fn m1_a_required_server_delays_the_turn() {
    let desk = Desk::new(vec![ScriptStep::text("hi")]);
    let agent = desk.builder().source(server(true, None)).build();
    assert_eq!(agent.environment_policy.max_attempts, u32::MAX);
    match desk.drive_with(&agent, &desk.controller()).await {
        Err(Interrupt::Terminal(error)) => {
            assert_eq!(error.code, "tool_source_required");
            assert!(error.class.is_retryable());
        }
        other => panic!("it should be delayed, but {other:?}"),
    }
    assert_eq!(desk.journal.records(), 0);
    // The server is back.
    let agent = desk
        .builder()
        .source(server(true, Some(read_files())))
        .build();
    let end = desk.drive_with(&agent, &desk.controller()).await;
    assert_eq!(words(end), "hi");
    assert_eq!(desk.model.requests()[0].tools.len(), 3);
}

fn read_files() -> Arc<Counted> {
    Counted::new("files_read", true, |_| {
        Ok(runtime_tools::ToolOutput::text("content"))
    })
}

/// A tool of a server that is down on resume is not gone: its call waits for the server.
#[tokio::test]
async fn m1_a_tool_of_a_server_that_is_down_is_unavailable_not_gone() {
    let steps = vec![
        ScriptStep::call("c", "files_read", json!({})),
        ScriptStep::text("so {last_tool_result}"),
    ];
    let desk = Desk::new(steps);
    let up = desk
        .builder()
        .source(server(false, Some(read_files())))
        .build();
    let crashed = desk
        .drive_with(&up, &desk.controller().crashing_after(2))
        .await;
    assert!(crashed.is_err());
    let down = desk.builder().source(server(false, None)).build();
    match desk.drive_with(&down, &desk.controller()).await {
        Err(Interrupt::Terminal(error)) => assert_eq!(error.code, "tool_unavailable"),
        other => panic!("it should be unavailable, but {other:?}"),
    }
    let end = desk.drive_with(&up, &desk.controller()).await;
    assert_eq!(words(end), "so content");
}

/// M8: two tools of one name are refused both, and the turn tells of it.
#[tokio::test]
async fn m8_a_name_that_comes_twice_is_offered_by_nobody() {
    let desk = Desk::new(vec![ScriptStep::text("hi")]);
    let agent = desk.builder().tool(write()).build();
    desk.drive_with(&agent, &desk.controller()).await.unwrap();
    let offered = &desk.model.requests()[0].tools;
    assert_eq!(offered.len(), 1);
    assert_eq!(offered[0].name, "read");
    let events = desk.journal.events();
    let told = events
        .iter()
        .find(|event| event.kind == EventKind::Diagnostic);
    assert_eq!(
        told.unwrap().payload["tool_source"],
        json!({ "source": "write", "state": "duplicate_name" })
    );
}
