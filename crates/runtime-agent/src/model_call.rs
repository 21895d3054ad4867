//! One attempt of a model call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime_core::{
    Classified, Clock, EffectOutput, ErrorClass, ExecutionScope, FinishReason, LlmResponse,
    ModelRequest, ReplayKey, WireError,
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
    pub(crate) clock: &'run dyn Clock,
    pub(crate) stopwatch: &'run Stopwatch,
    /// Whether spans carry what is said.
    pub(crate) content: bool,
}

/// Measures how long a turn runs between two model answers; parked time is left out.
#[derive(Debug)]
pub(crate) struct Stopwatch(Mutex<Duration>);

impl Stopwatch {
    pub(crate) fn start(clock: &dyn Clock) -> Self {
        Self(Mutex::new(clock.monotonic()))
    }

    /// Leaves out the time since then.
    pub(crate) fn leave_out(&self, since: Duration, clock: &dyn Clock) {
        let waited = clock.monotonic().saturating_sub(since);
        let mut from = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *from = from.saturating_add(waited);
    }

    /// Returns the milliseconds since the last lap.
    fn lap_ms(&self, clock: &dyn Clock) -> u64 {
        let now = clock.monotonic();
        let mut from = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lap = now.saturating_sub(*from);
        *from = now;
        u64::try_from(lap.as_millis()).unwrap_or(u64::MAX)
    }
}

pub(crate) async fn attempt(
    model: &Arc<dyn Model>,
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
        gen_ai.usage.cache_read.input_tokens = field::Empty,
        gen_ai.input.messages = field::Empty,
        gen_ai.output.messages = field::Empty,
        attempt = context.attempt,
        error.type = field::Empty,
    );
    if watched.content {
        let messages: Vec<_> = request.messages.iter().map(|message| &**message).collect();
        let messages = serde_json::to_string(&messages).unwrap_or_default();
        span.record("gen_ai.input.messages", messages);
    }
    let answer = answer(&**model, watched, call, request, context.attempt);
    match answer.instrument(span.clone()).await {
        Ok(mut response) => {
            tell(&span, &response, watched.content);
            response.ended = Some(watched.clock.now());
            response.provider = Some(model.provider().to_owned());
            response.running_ms = watched.stopwatch.lap_ms(watched.clock);
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
    watched.live.started(watched.scope, &call, attempt);
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

fn tell(span: &Span, response: &LlmResponse, content: bool) {
    if content {
        let message = serde_json::to_string(&[&response.message]).unwrap_or_default();
        span.record("gen_ai.output.messages", message);
    }
    span.record("gen_ai.usage.input_tokens", response.usage.input_tokens);
    span.record("gen_ai.usage.output_tokens", response.usage.output_tokens);
    let cached = response.usage.cached_input_tokens;
    span.record("gen_ai.usage.cache_read.input_tokens", cached);
    // The conventions want a list; a field of a span holds its text.
    let reasons = serde_json::to_string(&[response.reason]).unwrap_or_default();
    span.record("gen_ai.response.finish_reasons", reasons);
}
