//! What an agent can be told, driven to its end: other models, a checked answer, compaction, and
//! the time a turn runs (T1, T2, T6).

use std::sync::Arc;

use runtime_agent::{Agent, CompactionRequest, Compactor};
use runtime_core::{
    ApprovalNeed, ApprovalPolicy, ApprovalRule, ArgumentTest, EffectKind, Message, Role, WireError,
};
use runtime_model::{ScriptStep, ScriptedModel};
use runtime_turn::{Compacted, CompactionPolicy, TurnEnd};
use serde_json::json;

use crate::desk::{Desk, Recording, script, start, words};

/// Drives a turn that starts as the agent says.
async fn drive(desk: &Desk, agent: &Agent) -> TurnEnd {
    let controller = desk.controller();
    let run = desk.run(agent, &controller, agent.starting(start()));
    runtime_agent::drive_turn(run).await.unwrap()
}

fn said(end: &TurnEnd) -> String {
    match end {
        TurnEnd::Completed { message, .. } => message.plain_text(),
        other => panic!("it should complete, but {other:?}"),
    }
}

/// T6: the model that fails for good is followed by the next, in the open.
#[tokio::test]
async fn t6_a_fallback_model_answers_when_the_first_fails_for_good() {
    let mut desk = Desk::new(vec![]);
    // A script without answers fails for good.
    desk.model = Recording::new(vec![]);
    let second = Recording::named("second", vec![ScriptStep::text("I can")]);
    let agent = desk.builder().fallback(Arc::clone(&second) as _).build();
    assert_eq!(said(&drive(&desk, &agent).await), "I can");
    assert_eq!(desk.journal.ran_of(EffectKind::LlmCall), 2);
    assert_eq!(second.requests()[0].model, "second");
    let failed = desk.journal.events();
    let failed = failed
        .iter()
        .find(|event| event.kind == runtime_core::EventKind::ModelCallFailed);
    assert!(failed.is_some(), "the failure of the first is told");
}

/// T2: the schema goes to the model, and the answer is checked.
#[tokio::test]
async fn t2_a_structured_answer_is_returned_as_json() {
    let desk = Desk::new(vec![ScriptStep::text("{\"n\": 4}")]);
    let schema = json!({ "type": "object", "required": ["n"] });
    let agent = desk.builder().output_schema(schema.clone()).build();
    match drive(&desk, &agent).await {
        TurnEnd::Completed { output, .. } => assert_eq!(output, Some(json!({ "n": 4 }))),
        other => panic!("it should complete, but {other:?}"),
    }
    let asked = desk.model.requests();
    assert_eq!(asked[0].output_schema.as_deref(), Some(&schema));
}

/// Six reads and a last word: long enough to be compacted.
fn long() -> Vec<ScriptStep> {
    let mut steps: Vec<ScriptStep> = (0..6)
        .map(|n| ScriptStep::call("c", "read", json!({ "path": n.to_string() })))
        .collect();
    steps.push(ScriptStep::text("end"));
    steps
}

#[derive(Debug)]
struct Fixed;

#[async_trait::async_trait]
impl Compactor for Fixed {
    async fn compact(&self, request: CompactionRequest) -> Result<Compacted, WireError> {
        // The scripted model counts its answers since the last input of a person.
        Ok(Compacted {
            covered: request.covered,
            summary: Arc::new(Message::text(Role::System, "so far: reading")),
            usage: Default::default(),
            model: None,
        })
    }
}

/// T2, T4: compaction is an effect: a turn that goes on in another process sees the same summary,
/// and makes none again.
#[tokio::test]
async fn t2_a_compacted_turn_goes_on_after_a_crash_with_the_same_summary() {
    let desk = Desk::new(long());
    let policy = CompactionPolicy {
        context_tokens_max: 1,
        messages_kept: 20,
    };
    // Too few messages to leave anything out: nothing is compacted.
    let agent = desk.builder().compaction(policy).build();
    assert_eq!(said(&drive(&desk, &agent).await), "end");
    assert_eq!(desk.journal.ran_of(EffectKind::DurableStep), 0);

    let desk = Desk::new(vec![ScriptStep::text("short")]);
    let history: Vec<_> = (0..6)
        .map(|n| Arc::new(Message::text(Role::User, format!("note {n}"))))
        .collect();
    let mut begun = start();
    begun.history = runtime_turn::ContextMark::of(history.iter().map(AsRef::as_ref));
    begun.context_tokens = 10;
    let policy = CompactionPolicy {
        context_tokens_max: 1,
        messages_kept: 2,
    };
    let agent = desk
        .builder()
        .compaction(policy)
        .compactor(Arc::new(Fixed))
        .build();
    let begun = agent.starting(begun);
    let crashing = desk.controller().crashing_after(2);
    let mut run = desk.run(&agent, &crashing, begun.clone());
    run.history = history.clone().into();
    assert!(runtime_agent::drive_turn(run).await.is_err());
    assert_eq!(desk.journal.ran_of(EffectKind::DurableStep), 1);
    let controller = desk.controller();
    let mut run = desk.run(&agent, &controller, begun);
    run.history = history.into();
    let end = runtime_agent::drive_turn(run).await.unwrap();
    assert_eq!(said(&end), "short");
    assert_eq!(desk.journal.ran_of(EffectKind::DurableStep), 1);
    let asked = desk.model.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].messages[0].plain_text(), "so far: reading");
    // The summary, the last note, the input.
    assert_eq!(asked[0].messages.len(), 3);
}

/// T2: the default asks a model, and shows it calls and results as text.
#[tokio::test]
async fn t2_the_default_compactor_asks_the_model_for_a_summary() {
    let model = Arc::new(ScriptedModel::new(
        "summarist",
        vec![ScriptStep::text("they read a file")],
    ));
    let compactor = runtime_agent::SummaryCompactor::new(model);
    let request = CompactionRequest {
        model: "scripted".to_owned(),
        messages: vec![Arc::new(Message::text(Role::User, "read a file"))],
        covered: 1,
        idempotency_key: "k".to_owned(),
    };
    let compacted = compactor.compact(request).await.unwrap();
    assert!(compacted.summary.plain_text().ends_with("they read a file"));
    assert!(compacted.usage.total() > 0);
    assert_eq!(compacted.model.as_deref(), Some("summarist"));
}

/// T3: the host's own policy for a tool is what the turn records, rules included.
#[tokio::test]
async fn t3_the_host_decides_about_approval_by_name_and_by_rule() {
    let desk = Desk::new(script());
    let rule = |beginning: &str, then| {
        let test = ArgumentTest::StartsWith(beginning.to_owned());
        ApprovalRule::new("/line", test, then)
    };
    let rules = vec![rule("x", ApprovalNeed::Run), rule("rm", ApprovalNeed::Deny)];
    let agent = desk
        .builder()
        .approval("w*", ApprovalPolicy::Always)
        .approval("write", ApprovalPolicy::ByRules(rules.clone()))
        .build();
    assert_eq!(
        words(desk.drive_with(&agent, &desk.controller()).await),
        "done: wrote \"x\""
    );
    let offered = &desk.model.requests()[0].tools;
    let write = offered.iter().find(|tool| tool.name == "write").unwrap();
    assert_eq!(write.approval, ApprovalPolicy::ByRules(rules));

    let forbidden = vec![
        ScriptStep::call("c", "write", json!({ "line": "rm -rf" })),
        ScriptStep::text("so {last_tool_result}"),
    ];
    let desk = Desk::new(forbidden);
    let end = desk.drive_with(&agent_of(&desk), &desk.controller()).await;
    assert!(words(end).starts_with("so tool_denied_by_rule"));
    assert_eq!(desk.write.calls(), 0);
}

fn agent_of(desk: &Desk) -> Agent {
    let rule = ApprovalRule::new(
        "/line",
        ArgumentTest::StartsWith("rm".to_owned()),
        ApprovalNeed::Deny,
    );
    let policy = ApprovalPolicy::ByRules(vec![rule]);
    desk.builder().approval("write", policy).build()
}
