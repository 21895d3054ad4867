//! One attempt of a model call.

use runtime_core::{
    Classified, EffectOutput, ErrorClass, ExecutionScope, FinishReason, LlmResponse, ModelRequest,
    ReplayKey, WireError,
};
use runtime_effects::{Applied, AttemptContext, ExecutorError};
use runtime_model::{Model, ModelError, collect};
use tracing::{Instrument, Span, field};

use crate::{LiveSink, TurnDelta};

/// Who watches which call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched<'run> {
    pub(crate) scope: &'run ExecutionScope,
    pub(crate) live: &'run dyn LiveSink,
}

pub(crate) async fn attempt(
    model: &dyn Model,
    watched: Watched<'_>,
    call: ReplayKey,
    request: ModelRequest,
    context: AttemptContext,
) -> Result<EffectOutput, ExecutorError> {
    let span = tracing::info_span!(
        "chat",
        otel.name = format!("chat {}", request.model),
        otel.kind = "client",
        gen_ai.operation.name = "chat",
        gen_ai.provider.name = model.provider(),
        gen_ai.request.model = request.model,
        gen_ai.response.finish_reasons = field::Empty,
        gen_ai.usage.input_tokens = field::Empty,
        gen_ai.usage.output_tokens = field::Empty,
        attempt = context.attempt,
        error.r#type = field::Empty,
    );
    let answer = answer(model, watched, call, request, context.attempt);
    match answer.instrument(span.clone()).await {
        Ok(response) => {
            tell(&span, &response);
            Ok(EffectOutput::LlmCall(response))
        }
        Err(error) => {
            span.record("error.type", error.code());
            // Tokens may have been spent; a model call may be repeated all the same.
            Err(ExecutorError {
                error: named(&error, context.attempt),
                applied: Applied::Unknown,
            })
        }
    }
}

async fn answer(
    model: &dyn Model,
    watched: Watched<'_>,
    call: ReplayKey,
    request: ModelRequest,
    attempt: u32,
) -> Result<LlmResponse, ModelError> {
    let asked = request.model.clone();
    let stream = model.stream(request).await?;
    let unfinished = || ModelError {
        provider: model.provider().to_owned(),
        model: asked,
        code: "model_stream_incomplete",
        class: ErrorClass::Unavailable,
        reason: FinishReason::ProviderError,
        message: "the answer ended before its end".to_owned(),
        provider_code: None,
        retry_after: None,
    };
    let mut index = 0;
    let show = |event: &runtime_core::ModelEvent| {
        watched.live.delta(TurnDelta {
            scope: watched.scope.clone(),
            call: call.clone(),
            attempt,
            index,
            event: event.clone(),
        });
        index += 1;
    };
    collect(stream, unfinished, show).await
}

/// The error as it is recorded: it names provider, model and attempt.
fn named(error: &ModelError, attempt: u32) -> WireError {
    let mut wire = error.to_wire();
    wire.message = format!(
        "{} {}, attempt {attempt}: {}",
        error.provider, error.model, error.message
    );
    if let Some(details) = &mut wire.details {
        details["attempt"] = attempt.into();
    }
    wire
}

fn tell(span: &Span, response: &LlmResponse) {
    span.record("gen_ai.usage.input_tokens", response.usage.input_tokens);
    span.record("gen_ai.usage.output_tokens", response.usage.output_tokens);
    span.record(
        "gen_ai.response.finish_reasons",
        field::debug(&response.reason),
    );
}
