//! A turn goes on where the record ends (T4, E4).

use runtime_core::EffectKind;
use runtime_effects::{Addressing, Interrupt};
use runtime_turn::{Conversation, TurnEnd};

use crate::desk::{Desk, ORDINAL, script, start, words};

/// T2, T3: two reads side by side, an approval, a write, the last word.
#[tokio::test]
async fn t2_a_turn_with_parallel_tools_and_an_approval_runs_to_its_end() {
    let desk = Desk::new(script());
    desk.approve_all().await;
    assert_eq!((desk.read.calls(), desk.write.calls()), (2, 0));
    assert_eq!(words(desk.drive().await), "done: wrote \"x\"");
    assert_eq!((desk.read.calls(), desk.write.calls()), (2, 1));
    assert_eq!(desk.journal.ran_of(EffectKind::LlmCall), 2);
}

/// T4: stopped before each record in turn, and driven again, nothing recorded runs again; the
/// same on a keyed, concurrent controller and on an ordinal, serial one (E1).
#[tokio::test]
async fn t4_every_prefix_of_a_turn_goes_on_without_running_a_record_again() {
    for addressing in [Addressing::Keyed, Addressing::Ordinal] {
        // sync, model, two reads, approval, write, model
        for crash in 0..7 {
            let mut desk = Desk::new(script());
            desk.addressing = addressing;
            let agent = desk.builder().build();
            let controller = desk.controller().crashing_after(crash);
            let crashed = desk.drive_with(&agent, &controller).await;
            assert!(crashed.is_err(), "{crash}: {crashed:?}");
            if crash < 5 {
                desk.approve_all().await;
                let controller = desk.controller().crashing_after(crash);
                assert!(desk.drive_with(&agent, &controller).await.is_err());
            }
            if crash > 4 {
                desk.approve_all().await;
            }
            let before = desk.journal.records();
            let ran_before = desk.journal.ran().len();
            assert_eq!(words(desk.drive().await), "done: wrote \"x\"", "{crash}");
            let ran_after = desk.journal.ran().len() - ran_before;
            // Each new record but the approval is one run; nothing else ran.
            let approval = usize::from(before < 5);
            assert_eq!(ran_after, 7 - before - approval, "{addressing:?} {crash}");
        }
    }
}

/// T4: a turn that is over is answered from the record alone.
#[tokio::test]
async fn t4_a_finished_turn_replays_without_a_model_or_tool() {
    let desk = Desk::new(script());
    desk.approve_all().await;
    let first = desk.drive().await.unwrap();
    let ran = desk.journal.ran();
    assert_eq!(desk.drive().await.unwrap(), first);
    assert_eq!(desk.journal.ran(), ran);
}

/// T4: the events of the turn fold to what the next turn starts from.
#[tokio::test]
async fn t4_the_events_fold_to_the_next_turns_history() {
    let desk = Desk::new(script());
    desk.approve_all().await;
    let end = desk.drive().await.unwrap();
    let mut conversation = Conversation::new();
    let start = start();
    let started = runtime_core::EventDraft::new(runtime_core::EventKind::TurnStarted)
        .in_scope(&start.scope())
        .with_payload(serde_json::to_value(&start).unwrap());
    conversation.apply(&started).unwrap();
    for event in desk.journal.events() {
        conversation.apply(&event).unwrap();
    }
    conversation.apply(&end.to_event(&start.scope())).unwrap();
    assert_eq!(conversation.history().len(), 4);
    let asked = &desk.model.requests()[1].messages;
    assert_eq!(conversation.history()[..3], asked[..]);
    let TurnEnd::Completed { message, .. } = end else {
        panic!("it should complete");
    };
    assert_eq!(conversation.history()[3], message);
}

/// T4: another conversation than the recorded one is refused before anything runs.
#[tokio::test]
async fn t4_another_history_is_refused_before_anything_runs() {
    let desk = Desk::new(script());
    let agent = desk.builder().build();
    let controller = desk.controller();
    let foreign = runtime_core::Message::text(runtime_core::Role::User, "forged");
    let run = runtime_agent::TurnRun {
        start: start(),
        history: vec![foreign.into()].into(),
        agent: &agent,
        controller: &controller,
        attachments: &desk.store,
        live: &runtime_agent::Unwatched,
        clock: &runtime_testkit::SimulatedClock::new(Default::default()),
        completions: None,
        delegates: None,
        inputs: None,
    };
    match runtime_agent::drive_turn(run).await {
        Err(Interrupt::Terminal(error)) => assert_eq!(error.code, "turn_history_mismatch"),
        other => panic!("it should be refused, but {other:?}"),
    }
    assert!(desk.journal.ran().is_empty());
}

/// T4: a turn of 200 iterations, resumed at random points, runs nothing again.
#[tokio::test]
async fn t4_a_long_turn_resumes_without_running_anything_again() {
    use runtime_core::Random;
    use runtime_model::ScriptStep;
    use runtime_turn::TurnBudgets;
    let budgets = TurnBudgets {
        iterations_max: 300,
        ..TurnBudgets::default()
    };
    let random = runtime_testkit::SeededRandom::new(21);
    for addressing in [Addressing::Keyed, Addressing::Ordinal] {
        let mut steps: Vec<ScriptStep> = (0..200)
            .map(|n| ScriptStep::call("c", "read", serde_json::json!({ "path": n.to_string() })))
            .collect();
        steps.push(ScriptStep::text("end"));
        let mut desk = Desk::new(steps);
        desk.addressing = addressing;
        let agent = desk.builder().build();
        let mut crashes: Vec<usize> = (0..8)
            .map(|_| {
                let drawn = random.ten();
                usize::from(u16::from_le_bytes([drawn[0], drawn[1]])) % 402
            })
            .collect();
        crashes.sort_unstable();
        crashes.push(usize::MAX);
        for crash in crashes {
            let controller = desk.controller().crashing_after(crash);
            let clock = runtime_testkit::SimulatedClock::new(Default::default());
            let end = runtime_agent::drive_turn(runtime_agent::TurnRun {
                start: start().with_budgets(budgets),
                history: runtime_turn::History::default(),
                agent: &agent,
                controller: &controller,
                attachments: &desk.store,
                live: &runtime_agent::Unwatched,
                clock: &clock,
                completions: None,
                delegates: None,
                inputs: None,
            })
            .await;
            assert_eq!(end.is_ok(), crash == usize::MAX, "{crash}");
        }
        // Environment, 201 answers, 200 reads, and nothing twice.
        assert_eq!(desk.journal.ran().len(), 402);
        assert_eq!(desk.read.calls(), 200);
    }
}

/// E1: every test of this suite once more, on a controller that addresses by place and runs one
/// effect after another. An engine that replays a history fits the trait as it is.
#[test]
fn e1_every_turn_test_holds_on_an_ordinal_serial_controller() {
    if std::env::var_os(ORDINAL).is_some() {
        return;
    }
    let suite = std::env::current_exe().unwrap();
    let ran = std::process::Command::new(suite)
        .env(ORDINAL, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}");
    let passed = told.split(" passed").next().and_then(|text| {
        let number = text.rsplit(' ').next()?;
        number.parse::<usize>().ok()
    });
    assert!(passed > Some(40), "{told}");
}
