//! Which events tell of effects (V2).

use runtime_core::{EffectOutcome, EffectOutput, ErrorClass, EventKind, SourceReport, WireError};
use runtime_turn::{ApprovalDecision, project_outcome, project_started};
use serde_json::json;

use crate::world::{
    READ, WRITE, answer, asked, call, effects, finished, machine, one, ready, resolved, start,
    synced, wait,
};

/// V2: model calls, by what came of them.
#[test]
fn v2_a_model_call_is_told_by_what_came_of_it() {
    let envelope = one(&ready(start())).envelope;
    let calls = [call("a", READ, json!({}))];
    let (event, further) = project_outcome(&envelope, &answer(&calls));
    assert_eq!(event.kind, EventKind::MessageCommitted);
    assert_eq!(event.message.as_deref(), Some("model asks for read"));
    assert_eq!(event.turn.unwrap().as_str(), "1");
    assert!(further.is_empty());

    let error = WireError::new("model_refused", ErrorClass::Terminal, "secret text");
    let (event, _) = project_outcome(&envelope, &EffectOutcome::Failed(error));
    assert_eq!(event.kind, EventKind::ModelCallFailed);
    assert_eq!(
        event.message.as_deref(),
        Some("model call failed: model_refused")
    );
}

/// V2: the intent of a tool is its start; its outcome is its end.
#[test]
fn v2_a_tool_call_is_told_twice() {
    let envelope = effects(&asked(&[call("a", READ, json!({}))]))
        .remove(0)
        .envelope;
    let (event, _) = project_started(&envelope);
    assert_eq!(event.kind, EventKind::ToolCallStarted);
    let (event, _) = project_outcome(&envelope, &finished("x"));
    assert_eq!(event.kind, EventKind::ToolCallFinished);
    assert_eq!(event.message.as_deref(), Some("tool read done"));
}

/// V2: a wait for a person names the tools.
#[test]
fn v2_an_approval_names_its_tools() {
    let calls = [call("a", WRITE, json!({})), call("b", WRITE, json!({}))];
    let envelope = wait(&asked(&calls));
    let (event, _) = project_started(&envelope);
    assert_eq!(event.kind, EventKind::ApprovalRequested);
    assert_eq!(
        event.message.as_deref(),
        Some("approval needed for write, write")
    );
    let yes = resolved(1, ApprovalDecision::Approve.to_resolution());
    let (event, _) = project_outcome(&envelope, &yes);
    assert_eq!(event.kind, EventKind::WaitEnded);
    assert_eq!(event.message.as_deref(), Some("approval of write answered"));
}

/// M1: a tool server that could not be listed is told in the same commit.
#[test]
fn m1_a_missing_tool_server_is_told() {
    let envelope = one(&machine()).envelope;
    let (event, further) = project_outcome(&envelope, &synced());
    assert_eq!(event.kind, EventKind::EnvironmentSynced);
    assert!(further.is_empty());

    let EffectOutcome::Completed(EffectOutput::SyncExecutionEnvironment { prompt, tools, .. }) =
        synced()
    else {
        panic!("an environment expected");
    };
    let outcome = EffectOutcome::Completed(EffectOutput::SyncExecutionEnvironment {
        prompt,
        tools,
        reports: vec![SourceReport {
            source: "files".into(),
            state: "cold".into(),
            error: Some(WireError::new("refused", ErrorClass::Unavailable, "down")),
            next_retry: None,
        }],
    });
    let (_, further) = project_outcome(&envelope, &outcome);
    assert_eq!(further.len(), 1);
    assert_eq!(further[0].kind, EventKind::Diagnostic);
    assert_eq!(
        further[0].payload["tool_source"]["error"]["class"],
        "unavailable"
    );
}
