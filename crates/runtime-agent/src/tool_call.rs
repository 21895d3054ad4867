//! One attempt of a tool call.

use runtime_core::{
    CallId, Classified, Clock, ContentPart, Continuation, EffectOutput, ExecutionScope, Resolution,
    ToolCallOutput, ToolResult,
};
use runtime_effects::{Applied, AttemptContext, ExecutorError};
use runtime_store::AttachmentStore;
use runtime_tools::{Resumption, ToolContext, ToolError, ToolOutput};
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
}

/// What is run of a call.
#[derive(Clone)]
pub(crate) enum Call {
    /// The call itself, with these arguments.
    First(Value),
    /// A parked call goes on.
    Resumed(Resumption),
}

impl Call {
    pub(crate) fn new(arguments: Value, resumption: Option<(Continuation, Resolution)>) -> Self {
        match resumption {
            None => Self::First(arguments),
            Some((continuation, resolution)) => Self::Resumed(Resumption {
                arguments,
                state: continuation.state,
                resolution,
            }),
        }
    }
}

pub(crate) async fn attempt(
    bench: Bench<'_>,
    call: CallId,
    name: String,
    work: Call,
    context: AttemptContext,
) -> Result<EffectOutput, ExecutorError> {
    let span = tracing::info_span!(
        "execute_tool",
        otel.name = format!("execute_tool {name}"),
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.name = name,
        gen_ai.tool.call.id = call.as_str(),
        attempt = context.attempt,
        error.r#type = field::Empty,
    );
    let ran = run(bench, &call, &name, work, context);
    match ran.instrument(span.clone()).await {
        Ok(ToolOutput::Finished { content, is_error }) => {
            if is_error {
                span.record("error.type", "tool_error");
            }
            let content = resolvable(bench, content).await;
            let content = spill(bench, content).await;
            let result = ToolResult {
                call,
                content,
                is_error,
            };
            Ok(EffectOutput::ToolCall(ToolCallOutput::Finished { result }))
        }
        Ok(ToolOutput::Pending { deadline }) => {
            let deadline = deadline.map(|deadline| bench.clock.now().after(deadline));
            Ok(EffectOutput::ToolCall(ToolCallOutput::Pending { deadline }))
        }
        Ok(ToolOutput::Parked {
            deadline,
            continuation,
        }) => Ok(EffectOutput::ToolCall(ToolCallOutput::Parked {
            deadline: deadline.map(|deadline| bench.clock.now().after(deadline)),
            continuation,
        })),
        Ok(_) => Err(failed(&ToolError::Failed {
            tool: name,
            reason: "its output is of a kind that this version does not know".to_owned(),
            details: None,
        })),
        Err(error) => {
            span.record("error.type", error.code());
            Err(failed(&error))
        }
    }
}

/// The attempt of a call that names no tool of the turn.
pub(crate) fn unknown(tool: String) -> ExecutorError {
    failed(&ToolError::NotFound { tool })
}

async fn run(
    bench: Bench<'_>,
    call: &CallId,
    name: &str,
    work: Call,
    context: AttemptContext,
) -> Result<ToolOutput, ToolError> {
    let tool = bench.tools.tool(name).await?;
    let context = ToolContext {
        scope: bench.scope.clone(),
        call: call.clone(),
        idempotency_key: context.idempotency_key,
        attempt: context.attempt,
        fencing_token: context.fencing_token,
        deadline: context.deadline,
    };
    match work {
        Call::First(arguments) => tool.call(arguments, context).await,
        Call::Resumed(resumption) => tool.resume(resumption, context).await,
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

fn failed(error: &ToolError) -> ExecutorError {
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
