//! What a turn is told at its start, and does by it: prices, fallbacks, a schema for its answer,
//! compaction, inputs that join (T1, T2, E3).

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    EffectOutcome, EffectOutput, ErrorClass, JoinedMessage, LlmResponse, Message, Role, Timestamp,
    Usage, WireError,
};
use runtime_turn::{
    Compacted, CompactionPolicy, Conversation, History, ModelPrice, TurnBudgets, TurnEnd,
    TurnError, TurnMachine, TurnStart, Work,
};
use serde_json::{Value, json};

use crate::transcript::{started, told};
use crate::world::{
    PROMPT, READ, answer, call, catalogue, effects, end, finished, one, ready, start, synced,
};

fn failure(end: &TurnEnd) -> &str {
    match end {
        TurnEnd::Failed { error, .. } => &error.code,
        other => panic!("it should fail, but {other:?}"),
    }
}

fn budgets(change: impl FnOnce(&mut TurnBudgets)) -> TurnStart {
    let mut budgets = TurnBudgets::default();
    change(&mut budgets);
    start().with_budgets(budgets)
}

/// An answer that took so long and so many tokens.
fn answered(outcome: EffectOutcome, change: impl FnOnce(&mut LlmResponse)) -> EffectOutcome {
    match outcome {
        EffectOutcome::Completed(EffectOutput::LlmCall(mut response)) => {
            change(&mut response);
            EffectOutcome::Completed(EffectOutput::LlmCall(response))
        }
        other => other,
    }
}

fn says(text: &str) -> EffectOutcome {
    answered(answer(&[]), |response| {
        response.message = Message::text(Role::Assistant, text);
    })
}

fn record(machine: &mut TurnMachine, outcome: &EffectOutcome) {
    let key = one(machine).envelope.key().clone();
    machine.record(&key, outcome).unwrap();
}

/// T2: prices are per million tokens, cached ones apart, rounded up once.
#[test]
fn t2_a_price_table_gives_the_cost() {
    let price = ModelPrice {
        input: 3_000_000,
        output: 15_000_000,
        cached_input: 300_000,
    };
    let usage = Usage {
        input_tokens: 1_000,
        output_tokens: 10,
        cached_input_tokens: 900,
    };
    assert_eq!(price.cost(usage), 300 + 270 + 150);
    let one = Usage {
        input_tokens: 1,
        ..Usage::default()
    };
    let cheap = ModelPrice {
        input: 1,
        ..ModelPrice::default()
    };
    assert_eq!(cheap.cost(one), 1);
}

#[test]
fn t2_a_turn_over_its_cost_runs_no_further_tool() {
    let mut start = budgets(|budgets| budgets.cost_max = Some(100));
    let price = ModelPrice {
        input: 10_000_000,
        ..ModelPrice::default()
    };
    start.prices.insert("scripted".into(), price);
    let mut machine = ready(start);
    // 10 input tokens cost 100: not over yet.
    record(&mut machine, &answer(&[call("a", READ, json!({}))]));
    record(&mut machine, &finished("x"));
    record(&mut machine, &answer(&[call("b", READ, json!({}))]));
    let end = end(&machine);
    assert_eq!(failure(&end), "budget_cost_exhausted");
    let payload = end.to_event(machine.scope()).payload;
    assert_eq!(payload["cost"], 200);
}

#[test]
fn t2_a_budget_of_cost_needs_the_price_of_every_model() {
    let mut start = budgets(|budgets| budgets.cost_max = Some(100));
    start
        .prices
        .insert("scripted".into(), ModelPrice::default());
    start.fallbacks.push("second".into());
    let machine = TurnMachine::new(start, Vec::new()).unwrap();
    assert_eq!(failure(&end(&machine)), "budget_cost_unpriced");
}

/// T1: what counts is the running time that the record tells, not parked time.
#[test]
fn t1_a_turn_over_its_running_time_runs_no_further_tool() {
    let mut machine = ready(budgets(|budgets| {
        budgets.running_max = Some(Duration::from_millis(100));
    }));
    let took = |ms: u64, id: &str| {
        answered(answer(&[call(id, READ, json!({ "id": id }))]), |response| {
            response.running_ms = ms;
        })
    };
    record(&mut machine, &took(100, "a"));
    record(&mut machine, &finished("x"));
    record(&mut machine, &took(1, "b"));
    assert_eq!(failure(&end(&machine)), "budget_running_time_exhausted");
}

fn schema() -> Value {
    json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } })
}

/// T2: an answer that does not fit is corrected once.
#[test]
fn t2_a_structured_answer_is_checked_and_corrected_once() {
    let mut start = start();
    start.output_schema = Some(schema());
    let mut machine = ready(start.clone());
    match &one(&machine).work {
        Work::Model { output_schema, .. } => {
            assert_eq!(**output_schema.as_ref().unwrap(), schema())
        }
        other => panic!("a model call expected, found {other:?}"),
    }
    record(&mut machine, &says("{\"n\": \"four\"}"));
    let told = machine.messages().last().unwrap().plain_text();
    assert!(told.contains("/n: it is not of type"), "{told}");
    record(&mut machine, &says("```json\n{\"n\": 4}\n```"));
    match end(&machine) {
        TurnEnd::Completed { output, .. } => assert_eq!(output, Some(json!({ "n": 4 }))),
        other => panic!("it should complete, but {other:?}"),
    }

    let mut machine = ready(start);
    record(&mut machine, &says("four"));
    record(&mut machine, &says("still four"));
    assert_eq!(failure(&end(&machine)), "output_schema_mismatch");
}

fn broken() -> EffectOutcome {
    EffectOutcome::Failed(WireError::new("broken", ErrorClass::Terminal, "it broke"))
}

/// T6: another model is another effect, in the open; the turn stays with the one that answers.
#[test]
fn t6_the_next_model_is_asked_when_one_fails_for_good() {
    let mut start = start();
    start.fallbacks = vec!["second".into(), "third".into()];
    let mut machine = ready(start);
    record(&mut machine, &broken());
    let second = one(&machine);
    assert_eq!(second.envelope.key().as_str(), "0.llm_call.1");
    assert!(matches!(&second.work, Work::Model { model, .. } if model == "second"));
    record(&mut machine, &answer(&[call("a", READ, json!({}))]));
    record(&mut machine, &finished("x"));
    let next = one(&machine);
    assert_eq!(next.envelope.key().as_str(), "1.llm_call.0");
    assert!(matches!(&next.work, Work::Model { model, .. } if model == "second"));
    record(&mut machine, &broken());
    record(&mut machine, &broken());
    assert_eq!(failure(&end(&machine)), "broken");
}

fn compacting(max: u64, kept: u32) -> TurnStart {
    let mut start = start();
    start.compaction = Some(CompactionPolicy {
        context_tokens_max: max,
        messages_kept: kept,
    });
    start
}

fn summary(covered: u32, text: &str) -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::DurableStep {
        value: json!(Compacted {
            covered,
            summary: Arc::new(Message::text(Role::User, text)),
            usage: Usage::default(),
            model: None,
        }),
    })
}

fn shown(machine: &TurnMachine) -> Vec<Arc<Message>> {
    match one(machine).work {
        Work::Model { messages, .. } => messages,
        other => panic!("a model call expected, found {other:?}"),
    }
}

/// T2: a summary stands for the beginning; what is kept is untouched, a result is not parted from
/// its call, the conversation of the session stays whole, and the next turn begins with it.
#[test]
fn t2_a_long_conversation_is_compacted_by_a_recorded_effect() {
    let start = compacting(14, 1);
    let mut machine = TurnMachine::new(start.clone(), Vec::new()).unwrap();
    let mut conversation = Conversation::new();
    conversation.apply(&started(&start)).unwrap();
    let mut step = |machine: &mut TurnMachine, outcome: EffectOutcome| {
        let planned = one(machine);
        machine.record(planned.envelope.key(), &outcome).unwrap();
        conversation
            .apply(&told(&planned.envelope, &outcome))
            .unwrap();
    };
    step(&mut machine, synced());
    machine.environment(PROMPT, &catalogue()).unwrap();
    step(&mut machine, answer(&[call("a", READ, json!({ "n": 1 }))]));
    step(&mut machine, finished("one"));
    // Input, answer, result: with one to keep and a result not parted, nothing is left to cover
    // but the input.
    let asked = one(&machine);
    assert_eq!(asked.envelope.key().as_str(), "1.durable_step.0");
    let Work::Compact {
        covered, messages, ..
    } = asked.work
    else {
        panic!("a summary is asked for");
    };
    assert_eq!((covered, messages.len()), (1, 1));
    step(&mut machine, summary(1, "they said hello"));
    let before = shown(&machine);
    assert_eq!(before.len(), 3);
    assert_eq!(before[0].plain_text(), "they said hello");
    assert_eq!(before[1..], machine.messages()[1..]);
    // The next answer is long again: an earlier summary is part of what is summarised.
    step(&mut machine, answer(&[call("b", READ, json!({ "n": 2 }))]));
    step(&mut machine, finished("two"));
    let Work::Compact {
        covered, messages, ..
    } = one(&machine).work
    else {
        panic!("a summary is asked for");
    };
    assert_eq!((covered, messages.len()), (3, 3));
    step(&mut machine, summary(3, "they said hello and read one"));
    step(&mut machine, says("done"));
    let TurnEnd::Completed { .. } = end(&machine) else {
        panic!("it should complete");
    };
    conversation
        .apply(&end(&machine).to_event(machine.scope()))
        .unwrap();
    assert_eq!(
        conversation.history(),
        machine.messages(),
        "nothing is lost"
    );

    let mut next = start;
    next.turn = "2".parse().unwrap();
    next.history = conversation.mark();
    let history = conversation.to_history();
    // The record says whether a summary belongs to it.
    let missing = TurnMachine::new(next.clone(), history.clone());
    assert!(matches!(missing, Err(TurnError::SummaryMismatch { .. })));
    next.compacted = conversation.compacted().map(Compacted::mark);
    let mut machine = TurnMachine::new(next, history).unwrap();
    let sync = one(&machine);
    machine.record(sync.envelope.key(), &synced()).unwrap();
    machine.environment(PROMPT, &catalogue()).unwrap();
    let shown = shown(&machine);
    assert_eq!(shown[0].plain_text(), "they said hello and read one");
    assert_eq!(shown.len(), 1 + 3 + 1);
}

/// T2: a model that refuses the conversation as too long gets a shorter one, once.
#[test]
fn t2_a_conversation_that_a_model_refuses_is_compacted_once() {
    let mut start = compacting(1_000_000, 1);
    let history: Vec<_> = (0..4)
        .map(|n| Arc::new(Message::text(Role::User, format!("note {n}"))))
        .collect();
    start.history = runtime_turn::ContextMark::of(history.iter().map(AsRef::as_ref));
    let mut machine = TurnMachine::new(start, History::from(history)).unwrap();
    record(&mut machine, &synced());
    machine.environment(PROMPT, &catalogue()).unwrap();
    let overflow = EffectOutcome::Failed(WireError {
        details: Some(json!({ "reason": "context_overflow" })),
        ..WireError::new("model_refused", ErrorClass::Invalid, "too long")
    });
    record(&mut machine, &overflow);
    assert!(matches!(
        one(&machine).work,
        Work::Compact { covered: 4, .. }
    ));
    record(&mut machine, &summary(4, "notes"));
    assert_eq!(shown(&machine).len(), 2);
    assert_eq!(one(&machine).envelope.key().as_str(), "0.llm_call.1");
    record(&mut machine, &overflow);
    assert_eq!(failure(&end(&machine)), "model_refused");
}

/// E3: what is queued joins before the turn completes; each input joins once.
#[test]
fn e3_queued_inputs_join_before_the_turn_completes() {
    let mut start = start();
    start.inputs_join = true;
    let mut machine = ready(start);
    record(&mut machine, &says("first"));
    let checkpoint = one(&machine);
    assert_eq!(checkpoint.envelope.key().as_str(), "1.turn_checkpoint.0");
    let joined = |turn: &str| JoinedMessage {
        message: Message::text(Role::User, format!("input of {turn}")),
        turn: Some(turn.parse().unwrap()),
    };
    let joins = |turns: &[&str]| {
        EffectOutcome::Completed(EffectOutput::TurnCheckpoint {
            joined: turns.iter().map(|turn| joined(turn)).collect(),
        })
    };
    record(&mut machine, &joins(&["2", "3"]));
    assert_eq!(shown(&machine).len(), 4);
    record(&mut machine, &says("second"));
    let checkpoint = one(&machine);
    assert_eq!(checkpoint.envelope.key().as_str(), "2.turn_checkpoint.0");
    match checkpoint.work {
        Work::Checkpoint { joined } => assert_eq!(joined.len(), 2),
        other => panic!("a checkpoint expected, found {other:?}"),
    }
    // What has joined before does not join again.
    record(&mut machine, &joins(&["3"]));
    match end(&machine) {
        TurnEnd::Completed {
            account, message, ..
        } => {
            assert_eq!(account.joined.len(), 2);
            assert_eq!(message.plain_text(), "second");
        }
        other => panic!("it should complete, but {other:?}"),
    }
}

/// T3: an approval is due so long after the answer that asked for it.
#[test]
fn t3_an_approval_that_nobody_gives_in_time_is_a_denial() {
    use crate::world::{WRITE, results, sources, wait};
    use runtime_core::{WaitOutput, WaitSource};
    let mut machine = ready(budgets(|budgets| {
        budgets.approval_expiry = Some(Duration::from_millis(50));
    }));
    let asked = answered(answer(&[call("a", WRITE, json!({}))]), |response| {
        response.ended = Some(Timestamp::from_millis(1_000));
    });
    record(&mut machine, &asked);
    let due = Timestamp::from_millis(1_050);
    let waiting = wait(&machine);
    assert_eq!(sources(&waiting)[0], WaitSource::Until { due });
    let elapsed = EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Elapsed {
        source: 0,
        due,
    }));
    machine.record(waiting.key(), &elapsed).unwrap();
    assert_eq!(results(&machine)[0].1, "nobody approved this call in time");
}

/// T3: rules over arguments run, ask or forbid; what is forbidden no edit allows.
#[test]
fn t3_rules_over_arguments_run_ask_or_forbid() {
    use crate::world::{RULED, asked, resolved, wait};
    use runtime_turn::ApprovalDecision;
    let calls = [
        call("a", RULED, json!({ "n": 1 })),
        call("b", RULED, json!({ "n": 2 })),
        call("c", RULED, json!({ "n": 3 })),
    ];
    let mut machine = asked(&calls);
    let planned = effects(&machine);
    assert_eq!(planned.len(), 2);
    assert!(matches!(planned[0].work, Work::Tool { .. }));
    assert!(matches!(planned[1].work, Work::DeniedTool { .. }));
    machine
        .record(planned[0].envelope.key(), &finished("ran"))
        .unwrap();
    machine
        .record(planned[1].envelope.key(), &broken())
        .unwrap();
    let waiting = wait(&machine);
    let edit = ApprovalDecision::Edit {
        arguments: json!({ "n": 3 }),
    };
    machine
        .record(waiting.key(), &resolved(0, edit.to_resolution()))
        .unwrap();
    assert!(matches!(one(&machine).work, Work::DeniedTool { .. }));
}

/// T1: what is set aside for a call is not there for others, and what it spent is spent.
#[test]
fn t1_a_reserve_is_set_aside_and_settled_by_what_was_spent() {
    use crate::world::{WRITE, resolved, results, wait};
    use runtime_core::{CallReport, PendingCall, Reserve, Resolution, Spent, ToolCallOutput};
    use runtime_turn::ApprovalDecision;
    let mut machine = ready(budgets(|budgets| budgets.tokens_max = Some(1_015)));
    let calls = [
        call("a", READ, json!({ "n": 1 })),
        call("b", READ, json!({ "n": 2 })),
        call("c", WRITE, json!({})),
    ];
    record(&mut machine, &answer(&calls));
    let batch = effects(&machine);
    let share = |work: &Work| match work {
        Work::Tool { budget, .. } => budget.tokens,
        other => panic!("a tool call expected, found {other:?}"),
    };
    // 15 are spent; the rest is shared.
    assert_eq!(share(&batch[0].work), Some(500));
    let pending = PendingCall {
        reports: true,
        reserve: Reserve {
            tokens: Some(500),
            cost: None,
        },
        ..PendingCall::default()
    };
    let pending =
        EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(pending)));
    machine.record(batch[0].envelope.key(), &pending).unwrap();
    assert_eq!(share(&one(&machine).work), Some(500));
    machine
        .record(batch[1].envelope.key(), &finished("x"))
        .unwrap();
    // The approved call gets what the pending one has left, then what it has not spent.
    let waiting = wait(&machine);
    let report = CallReport {
        text: "done".into(),
        is_error: false,
        spent: Spent {
            usage: Usage {
                input_tokens: 700,
                ..Usage::default()
            },
            cost: 0,
        },
    };
    let value = json!(report);
    machine
        .record(waiting.key(), &resolved(0, Resolution::Ok { value }))
        .unwrap();
    let waiting = wait(&machine);
    let approve = ApprovalDecision::Approve.to_resolution();
    machine
        .record(waiting.key(), &resolved(0, approve))
        .unwrap();
    assert_eq!(share(&one(&machine).work), Some(300));
    record(&mut machine, &finished("written"));
    assert_eq!(results(&machine)[0].1, "done");
    record(&mut machine, &says("so"));
    match end(&machine) {
        TurnEnd::Completed { usage, .. } => assert_eq!(usage.total(), 15 + 700 + 15),
        other => panic!("it should complete, but {other:?}"),
    }
}
