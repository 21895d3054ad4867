//! Which events tell of an effect: pure, so that the same record gives the same events.

use runtime_core::{
    EffectCommand, EffectEnvelope, EffectOutcome, EffectOutput, EventDraft, EventKind, LlmResponse,
    Resolution, StreamKey, ToolCallOutput, WaitIdentity, WaitOutput, WaitSource,
};
use serde_json::json;

use crate::Compacted;

/// Returns the event that carries an outcome, and further events of the same commit. The
/// controller sets the carrier's payload: `{"identity": …, "outcome": …}`.
#[must_use]
pub fn project_outcome(
    envelope: &EffectEnvelope,
    outcome: &EffectOutcome,
) -> (EventDraft, Vec<EventDraft>) {
    let failed = matches!(outcome, EffectOutcome::Failed(_));
    let kind = match envelope.command() {
        EffectCommand::LlmCall(_) if failed => EventKind::ModelCallFailed,
        EffectCommand::LlmCall(_) => EventKind::MessageCommitted,
        EffectCommand::ToolCall(_) => EventKind::ToolCallFinished,
        EffectCommand::SyncExecutionEnvironment { .. } => EventKind::EnvironmentSynced,
        EffectCommand::AwaitEvent { .. } => EventKind::WaitEnded,
        EffectCommand::TurnCheckpoint => EventKind::InputsJoined,
        EffectCommand::DurableStep { name, .. } if name == Compacted::STEP => {
            EventKind::ContextCompacted
        }
        _ => EventKind::EffectFinished,
    };
    let mut carrier = EventDraft::new(kind)
        .in_scope(envelope.scope())
        .with_message(outcome_line(envelope.command(), outcome));
    carrier.provider = provider(envelope.command(), outcome);
    (carrier, reports(envelope, outcome))
}

/// The provider that a model call tells of (V2): whoever watches it hears of its answers and of
/// its failures.
fn provider(command: &EffectCommand, outcome: &EffectOutcome) -> Option<StreamKey> {
    let EffectCommand::LlmCall(_) = command else {
        return None;
    };
    let name = match outcome {
        EffectOutcome::Completed(EffectOutput::LlmCall(response)) => response.provider.as_deref(),
        EffectOutcome::Failed(error) => error.details.as_ref()?.get("provider")?.as_str(),
        EffectOutcome::Completed(_) => None,
    };
    StreamKey::new(format!("provider/{}", name?)).ok()
}

/// Returns the event of an intent or of a wait that begins, and further events of the same
/// commit. The controller sets the carrier's payload: `{"identity": …}`.
#[must_use]
pub fn project_started(envelope: &EffectEnvelope) -> (EventDraft, Vec<EventDraft>) {
    let (kind, line) = match envelope.command() {
        EffectCommand::ToolCall(call) => (
            EventKind::ToolCallStarted,
            format!("tool {} starts", call.tool),
        ),
        EffectCommand::AwaitEvent { sources } if sources.iter().any(is_approval) => (
            EventKind::ApprovalRequested,
            format!("approval needed for {}", tools(sources)),
        ),
        EffectCommand::AwaitEvent { sources } => (
            EventKind::WaitStarted,
            format!("waiting for {}", tools(sources)),
        ),
        other => (EventKind::EffectStarted, format!("{} starts", other.kind())),
    };
    let carrier = EventDraft::new(kind)
        .in_scope(envelope.scope())
        .with_message(line);
    (carrier, Vec::new())
}

/// One diagnostic for each tool server that the catalogue lacks (M1).
fn reports(envelope: &EffectEnvelope, outcome: &EffectOutcome) -> Vec<EventDraft> {
    let EffectOutcome::Completed(EffectOutput::SyncExecutionEnvironment { reports, .. }) = outcome
    else {
        return Vec::new();
    };
    let told = reports.iter().map(|report| {
        let mut told = EventDraft::new(EventKind::Diagnostic)
            .in_scope(envelope.scope())
            .with_message(format!("tools of {}: {}", report.source, report.state))
            .with_payload(json!({ "tool_source": report }));
        // For those who watch one server (V4); none for a name that is no bounded text.
        told.provider = StreamKey::new(format!("provider/{}", report.source)).ok();
        told
    });
    told.collect()
}

fn outcome_line(command: &EffectCommand, outcome: &EffectOutcome) -> String {
    let output = match outcome {
        EffectOutcome::Completed(output) => output,
        EffectOutcome::Failed(error) => {
            return format!("{} failed: {}", subject(command), error.code);
        }
    };
    match output {
        EffectOutput::LlmCall(response) => answer_line(response),
        EffectOutput::ToolCall(ToolCallOutput::Finished { result, .. }) if result.is_error => {
            format!("{} answered with an error", subject(command))
        }
        EffectOutput::ToolCall(ToolCallOutput::Parked { continuation, .. })
            if continuation.question.is_some() =>
        {
            format!("{} asks for input", subject(command))
        }
        EffectOutput::ToolCall(ToolCallOutput::Pending(_) | ToolCallOutput::Parked { .. }) => {
            format!("{} will answer later", subject(command))
        }
        EffectOutput::AwaitEvent(seen) => wait_line(command, seen),
        EffectOutput::TurnCheckpoint { joined } => match joined.len() {
            0 => "no input joins the turn".to_owned(),
            count => format!("{count} inputs join the turn"),
        },
        _ => format!("{} done", subject(command)),
    }
}

fn answer_line(response: &LlmResponse) -> String {
    let calls: Vec<&str> = response
        .message
        .tool_calls()
        .map(|call| call.name.as_str())
        .collect();
    if calls.is_empty() {
        "model answered".to_owned()
    } else {
        format!("model asks for {}", calls.join(", "))
    }
}

fn wait_line(command: &EffectCommand, seen: &WaitOutput) -> String {
    let WaitOutput::Resolved { source, resolution } = seen else {
        return format!("waited long enough for {}", subject(command));
    };
    let sources = crate::machine::sources(command);
    let source = usize::try_from(*source).ok().and_then(|at| sources.get(at));
    let tool = source.and_then(tool).unwrap_or("a promise");
    let how = match resolution {
        Resolution::Ok { .. } => "answered",
        Resolution::Err { .. } => "failed",
        Resolution::Timeout => "timed out",
        _ => "cancelled",
    };
    let what = match source {
        Some(source) if is_approval(source) => "approval of ",
        _ => "",
    };
    format!("{what}{tool} {how}")
}

fn subject(command: &EffectCommand) -> String {
    match command {
        EffectCommand::LlmCall(_) => "model call".to_owned(),
        EffectCommand::ToolCall(call) => format!("tool {}", call.tool),
        EffectCommand::SyncExecutionEnvironment { .. } => "environment".to_owned(),
        EffectCommand::AwaitEvent { sources } => format!("wait for {}", tools(sources)),
        EffectCommand::DurableStep { name, .. } if name == Compacted::STEP => {
            "compacting the conversation".to_owned()
        }
        EffectCommand::DurableStep { name, .. } => format!("step {name}"),
        other => other.kind().to_string(),
    }
}

fn is_approval(source: &WaitSource) -> bool {
    matches!(
        source,
        WaitSource::Promise { identity: WaitIdentity::Custom { key }, .. }
            if key.starts_with("approval:")
    )
}

fn tool(source: &WaitSource) -> Option<&str> {
    match source {
        WaitSource::Promise { tool, .. } => tool.as_deref(),
        _ => None,
    }
}

fn tools(sources: &[WaitSource]) -> String {
    let names: Vec<&str> = sources.iter().filter_map(tool).collect();
    if names.is_empty() {
        "what was asked for".to_owned()
    } else {
        names.join(", ")
    }
}
