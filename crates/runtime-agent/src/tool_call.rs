//! One attempt of a tool call.

use std::sync::Arc;

use runtime_core::{
    CallId, Classified, Clock, ContentPart, Continuation, EffectOutput, ExecutionScope,
    PendingCall, Reserve, Resolution, Spent, ToolCallOutput, ToolDefinition, ToolResult, Trigger,
    check_schema,
};
use runtime_effects::{Applied, AttemptContext, ExecutorError, TriggerReports};
use runtime_store::AttachmentStore;
use runtime_tools::{
    CompletionKeys, Delegates, Pending, Resumption, ToolContext, ToolError, ToolOutput, Triggers,
};
use serde_json::Value;
use tracing::{Instrument, field};

use crate::ToolOutputLimits;
use crate::environment::LiveTools;
use crate::output::cut;

/// The longest text kept of a failure.
const ERROR_TEXT_BYTES_MAX: usize = 4096;

/// What a call runs with.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'run> {
    pub(crate) scope: &'run ExecutionScope,
    pub(crate) tools: &'run LiveTools<'run>,
    pub(crate) attachments: &'run dyn AttachmentStore,
    pub(crate) clock: &'run dyn Clock,
    pub(crate) limits: ToolOutputLimits,
    pub(crate) completions: Option<&'run Arc<dyn CompletionKeys>>,
    pub(crate) delegates: Option<&'run Arc<dyn Delegates>>,
    /// Whether spans carry arguments and results.
    pub(crate) content: bool,
}

/// A call of a tool, or the going on of one.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) name: String,
    pub(crate) arguments: Value,
    pub(crate) edited: bool,
    pub(crate) definition: Arc<ToolDefinition>,
    pub(crate) resumption: Option<(Continuation, Resolution)>,
    pub(crate) budget: Reserve,
}

pub(crate) async fn attempt(
    bench: Bench<'_>,
    call: Call,
    context: AttemptContext,
) -> Result<EffectOutput, ExecutorError> {
    let span = tracing::info_span!(
        "execute_tool",
        otel.name = format!("execute_tool {}", call.name),
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.name = call.name,
        gen_ai.tool.call.id = call.id.as_str(),
        gen_ai.tool.type = "function",
        gen_ai.tool.call.arguments = field::Empty,
        gen_ai.tool.call.result = field::Empty,
        attempt = context.attempt,
        error.type = field::Empty,
    );
    if bench.content {
        span.record("gen_ai.tool.call.arguments", call.arguments.to_string());
    }
    match run(bench, &call, context).instrument(span.clone()).await {
        Ok(output) => {
            if bench.content {
                span.record("gen_ai.tool.call.result", field::debug(&output));
            }
            recorded(bench, call, output, &span).await
        }
        Err(error) => {
            span.record("error.type", error.code());
            Err(failed(&error))
        }
    }
}

async fn recorded(
    bench: Bench<'_>,
    call: Call,
    output: ToolOutput,
    span: &tracing::Span,
) -> Result<EffectOutput, ExecutorError> {
    let (content, is_error, spent) = match output {
        ToolOutput::Finished { content, is_error } => (content, is_error, None),
        ToolOutput::FinishedSpending {
            content,
            is_error,
            spent,
        } => (content, is_error, Some(spent)),
        ToolOutput::Parked {
            deadline,
            continuation,
        } => {
            let deadline = deadline.map(|deadline| bench.clock.now().after(deadline));
            return Ok(EffectOutput::ToolCall(ToolCallOutput::Parked {
                deadline,
                continuation,
            }));
        }
        ToolOutput::Pending(pending) => {
            let pending = recorded_pending(bench.clock, call.budget, pending);
            return Ok(EffectOutput::ToolCall(ToolCallOutput::Pending(pending)));
        }
        _ => {
            return Err(failed(&ToolError::Failed {
                tool: call.name,
                reason: "its output is of a kind that this version does not know".to_owned(),
                details: None,
            }));
        }
    };
    if is_error {
        span.record("error.type", "tool_error");
    }
    Ok(EffectOutput::ToolCall(
        finished(bench, call.id, content, is_error, spent).await,
    ))
}

async fn finished(
    bench: Bench<'_>,
    call: CallId,
    content: Vec<ContentPart>,
    is_error: bool,
    spent: Option<Spent>,
) -> ToolCallOutput {
    let content = resolvable(bench, content).await;
    let content = spill(bench, content).await;
    let result = ToolResult {
        call,
        content,
        is_error,
    };
    ToolCallOutput::Finished { result, spent }
}

/// Times become absolute, and nothing is set aside that is not there.
fn recorded_pending(clock: &dyn Clock, budget: Reserve, pending: Pending) -> PendingCall {
    let now = clock.now();
    let within = |asked: Option<u64>, left: Option<u64>| match (asked, left) {
        (Some(asked), Some(left)) => Some(asked.min(left)),
        (asked, _) => asked,
    };
    PendingCall {
        deadline: pending.deadline.map(|deadline| now.after(deadline)),
        on_timeout: pending.on_timeout,
        on_cancel: pending.on_cancel,
        question: pending.question,
        handle: pending.handle,
        reports: pending.reports,
        reserve: Reserve {
            tokens: within(pending.reserve.tokens, budget.tokens),
            cost: within(pending.reserve.cost, budget.cost),
        },
    }
}

/// The attempt of a call that a rule of the host forbids.
pub(crate) fn denied(tool: String) -> ExecutorError {
    failed(&ToolError::Denied { tool })
}

/// The attempt of a call that names no tool of the turn.
pub(crate) fn unknown(tool: String) -> ExecutorError {
    failed(&ToolError::NotFound { tool })
}

async fn run(
    bench: Bench<'_>,
    call: &Call,
    context: AttemptContext,
) -> Result<ToolOutput, ToolError> {
    if call.edited {
        // The model's own arguments are for the tool to judge; a person's are checked before
        // anything happens, whatever the tool accepts.
        check_schema(&call.definition.input_schema, &call.arguments).map_err(|violation| {
            ToolError::InvalidArguments {
                tool: call.name.clone(),
                reason: format!("as a person edited them: {violation}"),
            }
        })?;
    }
    let tool = bench.tools.tool(&call.name).await?;
    let triggers: Arc<dyn Triggers> = Arc::new(Reported(context.triggers.clone()));
    let context = ToolContext {
        triggers: Some(triggers),
        scope: bench.scope.clone(),
        call: call.id.clone(),
        idempotency_key: context.idempotency_key,
        attempt: context.attempt,
        fencing_token: context.fencing_token,
        deadline: context.deadline,
        completions: bench.completions.cloned(),
        delegates: bench.delegates.cloned(),
        budget: call.budget,
    };
    let arguments = call.arguments.clone();
    match call.resumption.clone() {
        None => tool.call(arguments, context).await,
        Some((continuation, resolution)) => {
            let resumption = Resumption {
                arguments,
                state: continuation.state,
                resolution,
            };
            tool.resume(resumption, context).await
        }
    }
}

/// What a call reports is heard with its outcome.
#[derive(Debug)]
struct Reported(TriggerReports);

impl Triggers for Reported {
    fn report(&self, trigger: Trigger) {
        self.0.report(trigger);
    }
}

/// Replaces references to attachments that are not there: the commit of the outcome would be
/// refused for them, and the result of a tool that has run would be lost (E18).
async fn resolvable(bench: Bench<'_>, mut content: Vec<ContentPart>) -> Vec<ContentPart> {
    for part in &mut content {
        if let ContentPart::Attachment { digest, .. } = part
            && matches!(bench.attachments.has_attachment(digest).await, Ok(false))
        {
            let text = format!("[attachment_resolution_failed: {digest} is not in the store]");
            *part = ContentPart::Text { text };
        }
    }
    content
}

/// Cuts an output and keeps the whole of it. The tool has run: whatever fails here must not lose
/// its result, so a whole that cannot be kept is only said to be lost.
async fn spill(bench: Bench<'_>, content: Vec<ContentPart>) -> Vec<ContentPart> {
    let output = cut(content, bench.limits);
    let mut content = output.content;
    let Some(whole) = output.whole else {
        return content;
    };
    let bytes = whole.len();
    let stored = bench.attachments.put_attachment(whole.into_bytes().into());
    let note = match stored.await {
        Ok(digest) => {
            content.push(ContentPart::Attachment {
                digest,
                media_type: "text/plain".to_owned(),
                bytes: bytes as u64,
            });
            format!("[cut; the whole output has {bytes} bytes and is kept as {digest}]")
        }
        Err(error) => format!(
            "[cut; the whole output had {bytes} bytes and could not be kept: {}]",
            error.code()
        ),
    };
    content.push(ContentPart::Text { text: note });
    content
}

pub(crate) fn failed(error: &ToolError) -> ExecutorError {
    let mut wire = error.to_wire();
    let end = wire.message.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
    wire.message.truncate(end);
    ExecutorError {
        error: wire,
        applied: if error.did_not_run() {
            Applied::No
        } else {
            Applied::Unknown
        },
    }
}
