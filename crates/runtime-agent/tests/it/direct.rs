//! Model calls outside a turn, and code, as effects of a process (E3).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use runtime_agent::{TurnProjector, call_model, run_code};
use runtime_core::{
    CodeOutput, ContentPart, EffectKind, EffectOutcome, EffectOutput, ErrorClass, ExecutionScope,
    Message, ModelRequest, ReplayKey, Role,
};
use runtime_effects::{
    EffectHost, EffectLimits, Interrupt, ScopeOpening, ScopedEffectController, StoreEffectHost,
};
use runtime_model::{ScriptStep, ScriptedModel};
use runtime_store::{
    Commit, Epoch, MemoryStore, RowChange, RowKey, Store, SystemClock, SystemRandom,
};
use runtime_tools::{Code, CodeContext, CodeExecutor, ToolError};

/// Counts what it runs; fails in its own terms on request, or so that nobody knows.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl CodeExecutor for Counting {
    async fn execute(&self, code: Code, context: CodeContext) -> Result<CodeOutput, ToolError> {
        let ran = self.0.fetch_add(1, Ordering::SeqCst);
        assert!(!context.idempotency_key.is_empty());
        if code.source == "vanish" {
            return Err(ToolError::Indeterminate {
                tool: code.language,
                reason: "the machine is gone".to_owned(),
            });
        }
        let text = format!("run {ran}");
        Ok(CodeOutput {
            observations: vec![ContentPart::Text { text }],
            duration_ms: 3,
            ..CodeOutput::default()
        })
    }
}

fn scope() -> ExecutionScope {
    ExecutionScope::Process {
        process: "p".parse().unwrap(),
    }
}

async fn host(store: &MemoryStore) -> StoreEffectHost {
    let epoch = RowKey::epoch(scope().scope_id());
    let commit = Commit::fresh(store, &SystemClock::new(), &SystemRandom);
    let commit = commit.row(RowChange::put(epoch, Vec::new()));
    store.commit(commit).await.unwrap();
    StoreEffectHost::new(
        Arc::new(store.clone()),
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        EffectLimits::default(),
    )
}

fn opened(host: &StoreEffectHost) -> ScopedEffectController<'_> {
    let opening = ScopeOpening::new(scope(), Epoch(1), Arc::new(TurnProjector));
    host.scoped(opening).unwrap()
}

fn code(source: &str) -> Code {
    Code {
        language: "counting".to_owned(),
        source: source.to_owned(),
    }
}

fn key(kind: EffectKind, name: &str) -> ReplayKey {
    ReplayKey::process(kind, name, 0).unwrap()
}

/// E3, E4: a model call outside a turn carries its usage label, and is answered from the record.
#[tokio::test]
async fn e3_a_direct_call_is_recorded_with_its_label() {
    let store = MemoryStore::new("direct".parse().unwrap());
    let host = host(&store).await;
    let controller = opened(&host);
    let steps = vec![ScriptStep::text("a title"), ScriptStep::text("another")];
    let model = ScriptedModel::new("scripted", steps);
    let request = ModelRequest {
        model: "scripted".to_owned(),
        instructions: "Give a title.".into(),
        messages: vec![Arc::new(Message::text(Role::User, "a long story"))],
        tools: Arc::new([]),
        idempotency_key: String::new(),
        output_schema: None,
    };
    let scope = scope();
    for _ in 0..2 {
        let key = key(EffectKind::Direct, "title");
        let outcome = call_model(&*controller, &scope, key, &model, "titles", request.clone());
        let EffectOutcome::Completed(EffectOutput::Direct(output)) = outcome.await.unwrap() else {
            panic!("no answer");
        };
        assert_eq!(output.label, "titles");
        assert_eq!(output.response.message.plain_text(), "a title");
    }
    // Another request under the same key is a conflict, not an answer.
    let mut other = request;
    other.instructions = "Give a summary.".into();
    let key = key(EffectKind::Direct, "title");
    let refused = call_model(&*controller, &scope, key, &model, "titles", other).await;
    assert!(
        matches!(refused, Err(Interrupt::Conflict(_))),
        "{refused:?}"
    );
}

/// E3, E4, E7: code runs once; cut off in the middle it is in doubt; with no executor it is
/// unsupported.
#[tokio::test]
async fn e3_code_goes_to_its_executor() {
    let store = MemoryStore::new("code".parse().unwrap());
    let host = host(&store).await;
    let controller = opened(&host);
    let (scope, executor) = (scope(), Counting::default());
    for _ in 0..2 {
        let key = key(EffectKind::ExecCode, "count");
        let outcome = run_code(&*controller, &scope, key, Some(&executor), code("count"));
        let EffectOutcome::Completed(EffectOutput::ExecCode(output)) = outcome.await.unwrap()
        else {
            panic!("no output");
        };
        let text = "run 0".to_owned();
        assert_eq!(output.observations, [ContentPart::Text { text }]);
        assert_eq!(output.duration_ms, 3);
    }
    let lost = key(EffectKind::ExecCode, "lost");
    let lost = run_code(&*controller, &scope, lost, Some(&executor), code("vanish")).await;
    assert!(matches!(lost, Err(Interrupt::InDoubt { .. })), "{lost:?}");
    assert_eq!(executor.0.load(Ordering::SeqCst), 2);
    let none = key(EffectKind::ExecCode, "none");
    let none = run_code(&*controller, &scope, none, None, code("count")).await;
    let EffectOutcome::Failed(error) = none.unwrap() else {
        panic!("it did not fail");
    };
    assert_eq!(error.code, "code_executor_missing");
    assert_eq!(error.class, ErrorClass::Unsupported);
}
