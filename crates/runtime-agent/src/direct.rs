//! Model calls outside a turn, and code: effects of whatever scope (E3).

use runtime_core::{
    CanonicalEncoder, Classified, CodeCommand, DirectCall, DirectOutput, EffectCommand,
    EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, ErrorClass, ExecutionScope,
    FinishReason, ModelRequest, ReplayKey, WireError,
};
use runtime_effects::{Applied, EffectController, ExecutorError, Interrupt, LocalExecutor};
use runtime_model::{Model, ModelError, collect};
use runtime_tools::{Code, CodeContext, CodeExecutor};

use crate::tool_call::failed;

/// Calls a model outside a turn: for a title, a summary, a classification. The answer is recorded
/// with what its tokens are booked under; asked again, the record answers.
///
/// It may be repeated: an attempt whose answer was lost is paid twice, as in a turn.
///
/// # Errors
/// [`Interrupt`]: the driver must unwind.
pub async fn call_model(
    controller: &dyn EffectController,
    scope: &ExecutionScope,
    key: ReplayKey,
    model: &dyn Model,
    label: &str,
    request: ModelRequest,
) -> Result<EffectOutcome, Interrupt> {
    let named = ModelRequest {
        idempotency_key: String::new(),
        ..request.clone()
    };
    let named = serde_json::to_value(&named).expect("a request is plain data");
    let command = EffectCommand::Direct(DirectCall {
        model: request.model.clone(),
        request: CanonicalEncoder::new("direct-request")
            .json(&named)
            .digest(),
        label: label.to_owned(),
    });
    let executor = LocalExecutor::new(EffectKind::Direct, move |attempt| {
        let mut request = request.clone();
        request.idempotency_key = attempt.idempotency_key;
        let label = label.to_owned();
        async move {
            let asked = request.model.clone();
            let answered = async {
                let stream = model.stream(request).await?;
                collect(stream, || unfinished(model, asked), |_| {}).await
            };
            match answered.await {
                Ok(mut response) => {
                    response.provider = Some(model.provider().to_owned());
                    Ok(EffectOutput::Direct(DirectOutput { label, response }))
                }
                // Tokens may have been spent; a model call may be repeated all the same.
                Err(error) => Err(ExecutorError {
                    error: error.to_wire(),
                    applied: Applied::Unknown,
                }),
            }
        }
    });
    run(controller, scope, key, command, true, executor).await
}

fn unfinished(model: &dyn Model, asked: String) -> ModelError {
    ModelError {
        provider: model.provider().to_owned(),
        model: asked,
        code: "model_stream_incomplete",
        class: ErrorClass::Unavailable,
        reason: FinishReason::ProviderError,
        message: "the answer ended before its end".to_owned(),
        provider_code: None,
        retry_after: None,
    }
}

/// Runs code by an executor. What it gave is recorded; asked again, the record answers. Without
/// an executor it fails as unsupported (`code_executor_missing`), for good.
///
/// # Errors
/// [`Interrupt`]: the driver must unwind; in doubt, if a crash cut it off and the executor does not
/// say that running again does no harm.
pub async fn run_code(
    controller: &dyn EffectController,
    scope: &ExecutionScope,
    key: ReplayKey,
    executor: Option<&dyn CodeExecutor>,
    code: Code,
) -> Result<EffectOutcome, Interrupt> {
    let command = EffectCommand::ExecCode(CodeCommand {
        language: code.language.clone(),
        source: CanonicalEncoder::new("code").text(&code.source).digest(),
        bytes: code.source.len() as u64,
    });
    let retry_safe = executor.is_none_or(CodeExecutor::retry_safe);
    let local = LocalExecutor::new(EffectKind::ExecCode, move |attempt| {
        let code = code.clone();
        async move {
            let Some(executor) = executor else {
                let message = "no executor of code is wired here";
                let error =
                    WireError::new("code_executor_missing", ErrorClass::Unsupported, message);
                return Err(ExecutorError {
                    error,
                    applied: Applied::No,
                });
            };
            let context = CodeContext {
                scope: scope.clone(),
                idempotency_key: attempt.idempotency_key,
                attempt: attempt.attempt,
                fencing_token: attempt.fencing_token,
                deadline: attempt.deadline,
            };
            let output = executor.execute(code, context).await;
            output
                .map(EffectOutput::ExecCode)
                .map_err(|error| failed(&error))
        }
    });
    run(controller, scope, key, command, retry_safe, local).await
}

async fn run<'run>(
    controller: &'run dyn EffectController,
    scope: &ExecutionScope,
    key: ReplayKey,
    command: EffectCommand,
    retry_safe: bool,
    executor: LocalExecutor<'run>,
) -> Result<EffectOutcome, Interrupt> {
    let envelope = EffectEnvelope::new(scope.clone(), key, command);
    let envelope = envelope.map_err(|error| Interrupt::Terminal(error.to_wire()))?;
    controller
        .execute_effect(envelope.retry_safe(retry_safe), executor)
        .await
}
