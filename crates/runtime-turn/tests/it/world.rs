//! A small world around the machine: a catalogue, answers, and a loop without a controller.

use runtime_core::{
    ApprovalNeed, ApprovalPolicy, ApprovalRule, ArgumentTest, CallId, ContentPart, Digest,
    EffectCommand, EffectEnvelope, EffectOutcome, EffectOutput, FinishReason, LlmResponse, Message,
    Resolution, Role, ToolCall, ToolCallOutput, ToolDefinition, ToolHints, ToolResult, Usage,
    WaitOutput, WaitSource,
};
use runtime_turn::{ContextMark, Next, Planned, RecordedEffect, TurnEnd, TurnMachine, TurnStart};
use serde_json::{Value, json};

pub(crate) const PROMPT: &[u8] = b"be brief";

/// Reads without asking.
pub(crate) const READ: &str = "read";
/// Asks first.
pub(crate) const WRITE: &str = "write";
/// Runs with `n` of at most 1, is forbidden with 3, and asks otherwise.
pub(crate) const RULED: &str = "ruled";

pub(crate) fn definition(name: &str, approval: ApprovalPolicy, read_only: bool) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        display_name: None,
        description: String::new(),
        input_schema: json!({ "type": "object" }),
        output_schema: None,
        category: None,
        approval,
        hints: ToolHints {
            read_only,
            retry_safe: false,
            trusted: true,
        },
        deferrable: false,
    }
}

pub(crate) fn catalogue() -> Vec<u8> {
    serde_json::to_vec(&[
        definition(READ, ApprovalPolicy::ByDeclaration, true),
        definition(WRITE, ApprovalPolicy::ByDeclaration, false),
        definition(RULED, rules(), false),
    ])
    .unwrap()
}

fn rules() -> ApprovalPolicy {
    ApprovalPolicy::ByRules(vec![
        ApprovalRule::new("/n", ArgumentTest::AtMost(1), ApprovalNeed::Run),
        ApprovalRule::new("/n", ArgumentTest::Is("3".into()), ApprovalNeed::Deny),
    ])
}

pub(crate) fn start() -> TurnStart {
    TurnStart::new(
        "desk".parse().unwrap(),
        "1".parse().unwrap(),
        "scripted",
        Message::text(Role::User, "hello"),
        ContextMark::empty(),
    )
}

pub(crate) fn machine() -> TurnMachine {
    TurnMachine::new(start(), Vec::new()).unwrap()
}

/// A machine that is about to call its model for the first time.
pub(crate) fn ready(start: TurnStart) -> TurnMachine {
    let mut machine = TurnMachine::new(start, Vec::new()).unwrap();
    let sync = one(&machine);
    machine.record(sync.envelope.key(), &synced()).unwrap();
    machine.environment(PROMPT, &catalogue()).unwrap();
    machine
}

/// A machine whose model has asked for these calls.
pub(crate) fn asked(calls: &[ToolCall]) -> TurnMachine {
    let mut machine = ready(start());
    let model = one(&machine);
    machine
        .record(model.envelope.key(), &answer(calls))
        .unwrap();
    machine
}

pub(crate) fn synced() -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::SyncExecutionEnvironment {
        prompt: Digest::of_bytes(PROMPT),
        tools: Digest::of_bytes(&catalogue()),
        reports: Vec::new(),
    })
}

pub(crate) fn call(id: &str, name: &str, arguments: Value) -> ToolCall {
    ToolCall {
        id: CallId::new(id).unwrap(),
        name: name.to_owned(),
        arguments,
    }
}

/// An answer that asks for calls; without any it is the last one.
pub(crate) fn answer(calls: &[ToolCall]) -> EffectOutcome {
    let mut content = vec![ContentPart::Text { text: "so".into() }];
    content.extend(calls.iter().cloned().map(ContentPart::ToolCall));
    EffectOutcome::Completed(EffectOutput::LlmCall(LlmResponse {
        message: Message {
            role: Role::Assistant,
            content,
        },
        reason: if calls.is_empty() {
            FinishReason::Stop
        } else {
            FinishReason::ToolUse
        },
        usage: Usage {
            input_tokens: 10,
            output_tokens: 5,
            cached_input_tokens: 0,
        },
        provider: None,
        text_streamed: true,
        ended: None,
        running_ms: 0,
    }))
}

pub(crate) fn finished(text: &str) -> EffectOutcome {
    let call = CallId::new("whatever").unwrap();
    EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Finished {
        result: ToolResult::text(call, text),
        spent: None,
    }))
}

pub(crate) fn resolved(source: u32, resolution: Resolution) -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source,
        resolution,
    }))
}

pub(crate) fn effects(machine: &TurnMachine) -> Vec<Planned> {
    match machine.next() {
        Next::Effects(planned) => planned,
        other => panic!("effects expected, found {other:?}"),
    }
}

pub(crate) fn one(machine: &TurnMachine) -> Planned {
    let mut planned = effects(machine);
    assert_eq!(planned.len(), 1, "one effect expected");
    planned.remove(0)
}

pub(crate) fn wait(machine: &TurnMachine) -> EffectEnvelope {
    match machine.next() {
        Next::Wait(envelope) => envelope,
        other => panic!("a wait expected, found {other:?}"),
    }
}

pub(crate) fn end(machine: &TurnMachine) -> TurnEnd {
    match machine.next() {
        Next::End(end) => end,
        other => panic!("the end expected, found {other:?}"),
    }
}

pub(crate) fn sources(envelope: &EffectEnvelope) -> Vec<WaitSource> {
    match envelope.command() {
        EffectCommand::AwaitEvent { sources } => sources.clone(),
        other => panic!("a wait expected, found {other:?}"),
    }
}

/// The results in the last message, as (call, text, is_error).
pub(crate) fn results(machine: &TurnMachine) -> Vec<(String, String, bool)> {
    let last = machine.messages().last().unwrap();
    assert_eq!(last.role, Role::Tool);
    let results = last.content.iter().map(|part| match part {
        ContentPart::ToolResult(result) => {
            let texts = result.content.iter().map(|part| match part {
                ContentPart::Text { text } => text.as_str(),
                other => panic!("text expected, found {other:?}"),
            });
            let text = texts.collect::<Vec<_>>().join("|");
            (result.call.to_string(), text, result.is_error)
        }
        other => panic!("a result expected, found {other:?}"),
    });
    results.collect()
}

pub(crate) fn recorded(envelope: &EffectEnvelope, outcome: &EffectOutcome) -> RecordedEffect {
    RecordedEffect {
        key: envelope.key().clone(),
        command: envelope.command().clone(),
        outcome: outcome.clone(),
    }
}
