//! Budgets and the repeated-call guard (T2).

use runtime_core::{EventKind, Role, ToolCall};
use runtime_turn::{TurnBudgets, TurnEnd, TurnMachine};
use serde_json::json;

use crate::world::{READ, answer, call, effects, end, finished, one, ready, results, start};

/// Answers `rounds` model calls with this call, and each call with a result.
fn rounds(machine: &mut TurnMachine, rounds: u32, asked: impl Fn(u32) -> Vec<ToolCall>) {
    for round in 0..rounds {
        let model = one(machine);
        machine
            .record(model.envelope.key(), &answer(&asked(round)))
            .unwrap();
        for planned in effects(machine) {
            machine
                .record(planned.envelope.key(), &finished("x"))
                .unwrap();
        }
    }
}

fn code(machine: &TurnMachine) -> (String, u32) {
    match end(machine) {
        TurnEnd::Failed {
            error, iterations, ..
        } => (error.code, iterations),
        other => panic!("it should fail, but {other:?}"),
    }
}

#[test]
fn t2_the_iterations_of_a_turn_are_bounded() {
    let budgets = TurnBudgets {
        iterations_max: 4,
        ..TurnBudgets::default()
    };
    let mut machine = ready(start().with_budgets(budgets));
    rounds(&mut machine, 4, |n| {
        vec![call(&format!("{n}"), READ, json!({ "n": n }))]
    });
    assert_eq!(code(&machine), ("budget_iterations_exhausted".into(), 4));
    let event = end(&machine).to_event(machine.scope());
    assert_eq!(event.kind, EventKind::TurnFailed);
    assert_eq!(event.payload["error"]["class"], "terminal");
}

/// Each answer takes 15 tokens; the third is over, so its call does not run.
#[test]
fn t2_tokens_over_the_budget_run_no_further_tool() {
    let budgets = TurnBudgets {
        tokens_max: Some(30),
        ..TurnBudgets::default()
    };
    let mut machine = ready(start().with_budgets(budgets));
    let asked = |n| vec![call(&format!("{n}"), READ, json!({ "n": n }))];
    rounds(&mut machine, 2, asked);
    let mut completing = machine.clone();
    let model = one(&machine);
    machine
        .record(model.envelope.key(), &answer(&asked(2)))
        .unwrap();
    assert_eq!(code(&machine), ("budget_tokens_exhausted".into(), 3));
    assert!(results(&machine)[0].1.starts_with("not run: "));

    completing
        .record(model.envelope.key(), &answer(&[]))
        .unwrap();
    assert!(matches!(end(&completing), TurnEnd::Completed { .. }));
}

#[test]
fn t2_the_same_call_again_and_again_is_a_loop() {
    let same = |n: u32| vec![call(&format!("{n}"), READ, json!({ "path": "x" }))];
    let mut machine = ready(start());
    rounds(&mut machine, 3, same);
    let model = one(&machine);
    machine
        .record(model.envelope.key(), &answer(&same(3)))
        .unwrap();
    assert_eq!(code(&machine), ("loop_detected".into(), 4));
    // The refused call has a result all the same: no provider takes it without.
    assert_eq!(machine.messages().last().unwrap().role, Role::Tool);
}

/// Parallel calls, other arguments, and a pause in between are no loop.
#[test]
fn t2_calls_that_differ_are_no_loop() {
    let mut machine = ready(start());
    rounds(&mut machine, 12, |n| {
        let arguments = json!({ "n": n % 2 });
        vec![
            call(&format!("{n}a"), READ, arguments.clone()),
            call(&format!("{n}b"), READ, arguments),
        ]
    });
    assert_eq!(one(&machine).envelope.key().as_str(), "12.llm_call.0");
}

/// A message cannot start more calls than its budget; each call has a result all the same.
#[test]
fn t2_the_calls_of_a_message_are_bounded() {
    let budgets = TurnBudgets {
        calls_max: 2,
        ..TurnBudgets::default()
    };
    let mut machine = ready(start().with_budgets(budgets));
    rounds(&mut machine, 1, |_| {
        let call = |n: u32| call(&format!("{n}"), READ, json!({ "n": n }));
        (0..4).map(call).collect()
    });
    let texts: Vec<_> = results(&machine).into_iter().map(|one| one.1).collect();
    let refused = "not run: a message may ask for 2 calls";
    assert_eq!(texts, ["x", "x", refused, refused]);
}
