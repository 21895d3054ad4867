//! What tools answer, and what is recorded of it (T2, T5, E6).

use std::sync::Arc;
use std::time::Duration;

use runtime_agent::ToolOutputLimits;
use runtime_core::{
    ContentPart, EffectOutcome, EffectOutput, PendingCall, Resolution, Timestamp, ToolCallOutput,
    ToolResult, WaitIdentity,
};
use runtime_effects::Interrupt;
use runtime_model::ScriptStep;
use runtime_store::AttachmentStore;
use runtime_tools::{Pending, ToolError, ToolOutput};
use serde_json::json;

use crate::desk::{Answer, Counted, Desk, words};

/// A desk whose model calls `work` once.
fn desk(read_only: bool, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Desk {
    let mut desk = Desk::new(vec![
        ScriptStep::call("c", "work", json!({})),
        ScriptStep::text("so {last_tool_result}"),
    ]);
    desk.read = Counted::new("work", read_only, move |_| answer());
    desk
}

fn result(desk: &Desk) -> ToolResult {
    match desk.journal.outcome("0.tool_call.0") {
        EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Finished {
            result,
            ..
        })) => result,
        other => panic!("a result expected, found {other:?}"),
    }
}

/// A tool that ran and failed in its own terms has an ordinary outcome.
#[tokio::test]
async fn e6_a_tools_own_error_is_an_ordinary_result() {
    let desk = desk(true, || Ok(ToolOutput::error("no such file")));
    assert_eq!(words(desk.drive().await), "so no such file");
    assert!(result(&desk).is_error);
    assert_eq!(desk.read.calls(), 1);
}

/// E6: nobody knows whether it ran, so it is not called again.
#[tokio::test]
async fn e6_a_call_that_was_lost_is_in_doubt() {
    let lost = || {
        Err(ToolError::Indeterminate {
            tool: "work".into(),
            reason: "connection reset".into(),
        })
    };
    let desk = desk(false, lost);
    desk.approve_all().await;
    let interrupt = desk.drive().await.unwrap_err();
    assert!(matches!(interrupt, Interrupt::InDoubt { .. }));
    assert_eq!(desk.read.calls(), 1);
}

/// E6: it certainly did not run, so it is tried again.
#[tokio::test]
async fn e6_a_call_that_did_not_run_is_tried_again() {
    let desk = desk(false, || {
        Err(ToolError::Unavailable {
            tool: "work".into(),
            reason: "busy".into(),
        })
    });
    desk.approve_all().await;
    let interrupt = desk.drive().await.unwrap_err();
    assert!(matches!(interrupt, Interrupt::Terminal(_)));
    assert_eq!(desk.read.calls(), 3);
}

/// E3: a failure for good is recorded and told to the model.
#[tokio::test]
async fn e3_a_failure_for_good_is_told_to_the_model() {
    let desk = desk(false, || {
        Err(ToolError::Failed {
            tool: "work".into(),
            reason: format!("disk full {}", "x".repeat(10_000)),
            details: None,
        })
    });
    desk.approve_all().await;
    let words = words(desk.drive().await);
    assert!(words.starts_with("so tool_failed: work failed: disk full"));
    assert!(words.len() < 5000, "a failure is told in bounds");
    assert_eq!(desk.read.calls(), 1);
}

/// T5: a tool answers Pending; its deadline is recorded as absolute time; completion comes from
/// outside.
#[tokio::test]
async fn t5_a_tool_is_completed_from_outside() {
    let deadline = Some(Duration::from_secs(9));
    let desk = desk(true, move || {
        Ok(ToolOutput::Pending(Pending {
            deadline,
            ..Pending::default()
        }))
    });
    let promises = desk.until_asked().await;
    assert!(matches!(
        promises[..],
        [WaitIdentity::ToolCompletion { .. }]
    ));
    assert_eq!(
        desk.journal.outcome("0.tool_call.0"),
        EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(
            PendingCall {
                deadline: Some(Timestamp::from_millis(10_000)),
                ..PendingCall::default()
            }
        )))
    );
    let value = json!("paid");
    desk.resolve(promises[0].clone(), Resolution::Ok { value });
    assert_eq!(words(desk.drive().await), "so paid");
    assert_eq!(desk.read.calls(), 1);
}

/// T2: the model sees the beginning, the store keeps the whole.
#[tokio::test]
async fn t2_a_long_output_is_cut_and_kept() {
    let whole = "line\n".repeat(100);
    let long = whole.clone();
    let desk = desk(true, move || Ok(ToolOutput::text(long.clone())));
    let limits = ToolOutputLimits {
        lines_max: 10,
        ..ToolOutputLimits::default()
    };
    let agent = desk.builder().output_limits(limits).build();
    desk.drive_with(&agent, &desk.controller()).await.unwrap();
    let content = result(&desk).content;
    assert_eq!(
        content[0],
        ContentPart::Text {
            text: "line\n".repeat(10)
        }
    );
    let ContentPart::Attachment { digest, bytes, .. } = &content[1] else {
        panic!("an attachment expected, found {content:?}");
    };
    assert_eq!(*bytes, 500);
    let kept = desk.store.attachment(digest).await.unwrap();
    assert_eq!(kept, Arc::from(whole.as_bytes()));
}

/// E18: a tool that names bytes nobody has does not lose its result.
#[tokio::test]
async fn e18_an_attachment_that_is_not_there_is_told_instead() {
    let digest = runtime_core::Digest::of_bytes(b"never put");
    let desk = desk(true, move || {
        Ok(ToolOutput::Finished {
            content: vec![ContentPart::Attachment {
                digest,
                media_type: "image/png".into(),
                bytes: 9,
            }],
            is_error: false,
        })
    });
    let words = words(desk.drive().await);
    assert!(words.contains("attachment_resolution_failed"), "{words}");
    assert_eq!(result(&desk).content.len(), 1);
}
