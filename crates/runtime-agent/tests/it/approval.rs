//! Answers of a person, after a restart (T3).

use runtime_turn::ApprovalDecision;
use serde_json::json;

use crate::desk::{Desk, script, words};

#[tokio::test]
async fn t3_a_denied_call_never_runs_and_the_model_is_told() {
    let desk = Desk::new(script());
    let asked = desk.until_asked().await;
    assert_eq!(asked.len(), 1);
    let reason = Some("not on my disk".to_owned());
    let deny = ApprovalDecision::Deny { reason };
    desk.resolve(asked[0].clone(), deny.to_resolution());
    assert_eq!(
        words(desk.drive().await),
        "done: a person denied this call: not on my disk"
    );
    assert_eq!(desk.write.calls(), 0);
}

#[tokio::test]
async fn t3_an_edited_call_runs_with_the_new_arguments_only() {
    let desk = Desk::new(script());
    let asked = desk.until_asked().await;
    let arguments = json!({ "line": "y" });
    let edit = ApprovalDecision::Edit { arguments };
    desk.resolve(asked[0].clone(), edit.to_resolution());
    let words = words(desk.drive().await);
    assert!(words.ends_with("wrote \"y\""), "{words}");
    assert_eq!(desk.write.calls(), 1);
}

/// T3: driving a turn that waits asks nothing twice and runs nothing.
#[tokio::test]
async fn t3_a_turn_that_waits_runs_nothing_when_it_is_driven_again() {
    let desk = Desk::new(script());
    let asked = desk.until_asked().await;
    let ran = desk.journal.ran();
    assert_eq!(desk.until_asked().await, asked);
    assert_eq!(desk.journal.ran(), ran);
    assert_eq!(desk.write.calls(), 0);
}
