//! What the laws leave out of what a workflow is given: steps that compete, waits, events, errors
//! (C3, E8, E15).

use std::num::ParseIntError;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    ErrorClass, ExecutionScope, ProcessEventType, ProcessRegistration, ProcessStatus, Resolution,
    WireError,
};
use runtime_effects::{Failure, Functions, Wait, WorkflowContext};
use runtime_store::Commit;
use runtime_testkit::Fault;
use runtime_testkit::effect_laws::{World, custom};
use serde_json::{Value, json};

use crate::laws::Memory;
use crate::workflow_edges::{Notes, Office, id, quiet};

type Named = Result<(usize, String), WireError>;

/// Lets steps compete, in the way that its input names.
async fn compete(context: WorkflowContext, how: String) -> Result<Value, Failure> {
    let fails = |name: &'static str, turns: u32| {
        let step = context.step(name, move || async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            Err::<String, _>(Failure::new(name, "it is so"))
        });
        step.retry_safe()
    };
    let wins = |name: &'static str| {
        let step = context.step(name, move || async move {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            Ok::<_, Failure>(name.to_owned())
        });
        step.retry_safe()
    };
    let unsafe_one = context.step("unsafe", || async { Ok::<_, Failure>(String::new()) });
    let ended: Named = match how.as_str() {
        "any-succeeds" => context.any_step([fails("a", 0), wins("b")]).await,
        "any-fails" => context.any_step([fails("a", 2), fails("b", 0)]).await,
        "race-fails" => context.race_steps([wins("a"), fails("b", 0)]).await,
        "race-of-none" => context.race_steps([]).await,
        _ => context.any_step([wins("a"), unsafe_one]).await,
    };
    Ok(json!(ended.map_err(|error| error.code)))
}

/// E8: of steps that compete, the first that succeeds wins, or the first that ends, well or not;
/// when each failed, the last failure counts. There must be one, and each must be retry-safe.
#[tokio::test]
async fn e8_steps_that_compete_end_with_the_first_or_the_last() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let functions = Functions::default().function("compete", compete);
    let instance = office.instance(functions, quiet()).await;
    for (how, ended) in [
        ("any-succeeds", Ok(json!({ "Ok": [1, "b"] }))),
        ("any-fails", Ok(json!({ "Err": "a" }))),
        ("race-fails", Ok(json!({ "Err": "b" }))),
        ("race-of-none", Err("workflow_race_unsafe")),
        ("any-of-what-is-unsafe", Err("workflow_race_unsafe")),
    ] {
        let started = instance.start(&id(how), "compete", &how).await;
        let run = started.expect("starts");
        let found = office.work(run.value::<Value>()).await;
        let found = found.map_err(|error| error.code);
        assert_eq!(found, ended.map_err(str::to_owned), "{how}");
    }
}

/// E8, E10: of several waits the first that succeeds counts; when none does, the last error, as
/// whoever resolved it said it.
#[tokio::test]
async fn e8_any_of_several_waits_ends_with_a_value_or_the_last_error() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let any = |context: WorkflowContext, (): ()| async move {
        let waits = ["first", "second"].map(Wait::promise);
        let (index, value) = context.any(waits).await?;
        Ok::<_, Failure>(json!([index, value]))
    };
    let functions = Functions::default().function("any", any);
    let instance = office.instance(functions, quiet()).await;
    let refused = Resolution::Err {
        code: "no_credit".into(),
        message: "the card is refused".into(),
        raw: Some(json!({ "reason": 7 })),
    };
    let refusal = WireError {
        details: Some(json!({ "reason": 7 })),
        ..WireError::new("no_credit", ErrorClass::Terminal, "the card is refused")
    };
    let late = WireError::new(
        "promise_timed_out",
        ErrorClass::TimedOut,
        "the promise's own deadline passed",
    );
    let paid = Resolution::Ok {
        value: json!("yes"),
    };
    for (name, first, second, ended) in [
        ("won", &refused, &paid, Ok(json!([1, "yes"]))),
        ("refused", &Resolution::Timeout, &refused, Err(refusal)),
        ("late", &refused, &Resolution::Timeout, Err(late)),
    ] {
        let process = id(name);
        let run = instance.start(&process, "any", &()).await.expect("starts");
        let scope = ExecutionScope::Process { process };
        for (key, resolution) in [("first", first), ("second", second)] {
            office.work(instance.settled()).await;
            let (promise, resolution) = (custom(key), resolution.clone());
            let promises = instance.promises();
            let resolved = promises.resolve_identity(&scope, &promise, resolution, None);
            resolved.await.expect("resolves");
        }
        assert_eq!(office.work(run.value::<Value>()).await, ended, "{name}");
    }
}

/// E15: signals of one name are taken in their order, one by each wait, also when the workflow is
/// driven anew; and so is the time that it was told.
#[tokio::test]
async fn e15_each_wait_takes_the_next_signal() {
    let fixture = Memory::new();
    let mut office = Office::new(&fixture).await;
    let functions = || {
        let counts = |context: WorkflowContext, (): ()| async move {
            let began = context.now().await?;
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.push(context.signal::<u32>("count").await?);
            }
            let ended = context.now().await?;
            Ok::<_, Failure>((taken, began, ended))
        };
        Functions::default().function("counts", counts)
    };
    let mut instance = office.instance(functions(), quiet()).await;
    let began = office.world.now();
    let started = instance.start(&id("p"), "counts", &()).await;
    started.expect("starts");
    for (ordinal, value) in [(2, 20), (1, 10), (3, 30)] {
        office.work(instance.settled()).await;
        drop(instance);
        office = office.restart().await;
        instance = office.instance(functions(), quiet()).await;
        office.world.clock.advance(Duration::from_secs(60));
        office.signal("p", "count", ordinal, json!(value)).await;
    }
    let value = office.work(instance.run(&id("p")).value::<Value>()).await;
    let ended = began.after(Duration::from_secs(180));
    assert_eq!(value.expect("ends"), json!([[10, 20, 30], began, ended]));
}

/// E15: a workflow is told of an event that it may not append. One that could not be stored is
/// stored later, once, and the workflow never sees that.
#[tokio::test]
async fn e15_a_workflow_is_told_of_an_event_that_is_refused() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.commit_tries_max = 1;
    let office = Office::of(world).await;
    let emits = |context: WorkflowContext, (): ()| async move {
        let undeclared = context.emit("other", &json!(1)).await;
        context.emit("progress", &json!(1)).await?;
        Ok::<_, Failure>(undeclared.map_err(|error| error.to_string()))
    };
    let functions = Functions::default().function("emits", emits);
    let instance = office.instance(functions, quiet()).await;
    let is_event = |commit: &Commit| {
        let mut events = commit.events.iter();
        events.any(|event| String::from_utf8_lossy(&event.body).contains("\"process_event\""))
    };
    office
        .world
        .store
        .fault_when(is_event, 1, Fault::FailBefore);
    let progress = ProcessEventType {
        name: "progress".into(),
        schema: None,
        wakes: false,
    };
    let emits = ProcessRegistration::function(id("p"), "emits", Value::Null).declaring(progress);
    let started = instance.start_process(&emits, None).await;
    let run = started.expect("starts");
    let value = office.work(run.value::<Value>()).await;
    let refused = "process p has declared no event type other";
    assert_eq!(value.expect("ends"), json!({ "Err": refused }));
    assert_eq!(
        office.told("p").await,
        [
            "process_registered",
            "process_started",
            "process_event",
            "process_succeeded"
        ]
    );
}

/// E5: a workflow that tells an event after another owner took its process over has no say any
/// more: it neither goes on nor parks it.
#[tokio::test]
async fn e5_a_workflow_that_was_taken_over_tells_nothing() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let (gate, notes) = (Arc::new(tokio::sync::Notify::new()), Notes::default());
    let (opens, noted) = (Arc::clone(&gate), notes.clone());
    let functions =
        Functions::default().function("emits", move |context: WorkflowContext, (): ()| {
            let (gate, notes) = (Arc::clone(&opens), noted.clone());
            async move {
                gate.notified().await;
                let told = context.emit("progress", &json!(1)).await;
                notes.add("went on");
                told.map_err(Failure::from)
            }
        });
    let instance = office.instance(functions, quiet()).await;
    let progress = ProcessEventType {
        name: "progress".into(),
        schema: None,
        wakes: false,
    };
    let emits = ProcessRegistration::function(id("p"), "emits", Value::Null).declaring(progress);
    office.start(&emits).await;
    office.rest().await;
    office.take_over("p").await;
    let commits = office.world.store.commits();
    gate.notify_one();
    office.work(instance.settled()).await;
    assert_eq!(notes.all(), [""; 0]);
    let commits = office.world.store.commits() - commits;
    assert_eq!(commits, 1, "the event is refused, nothing else is tried");
    assert_eq!(office.status("p").await, ProcessStatus::Running);
    assert_eq!(
        office.told("p").await,
        ["process_registered", "process_started", "process_resumed"]
    );
    let report = office.work(instance.close()).await;
    assert_eq!(report.failures, []);
}

/// E6, E9: of steps side by side that pause, the one with the shortest pause decides when the
/// workflow goes on.
#[tokio::test]
async fn e9_the_shortest_of_several_pauses_counts() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let retries = move |context: WorkflowContext, (): ()| {
        let notes = noted.clone();
        async move {
            let steps = [("slow", 3_600), ("quick", 10), ("middling", 600)].map(|(name, pause)| {
                let notes = notes.clone();
                let step = context.step(name, move || {
                    let notes = notes.clone();
                    async move {
                        notes.add(name);
                        match notes.all().iter().filter(|note| *note == name).count() {
                            1 => Err(Failure::retry("not yet")),
                            _ => Ok(name.to_owned()),
                        }
                    }
                });
                let pause = Duration::from_secs(pause);
                step.attempts(2).backoff(pause, pause)
            });
            context.all(steps).await
        }
    };
    let functions = Functions::default().function("retries", retries);
    let instance = office.instance(functions, quiet()).await;
    let started = instance.start(&id("p"), "retries", &()).await;
    let run = started.expect("starts");
    office.work(instance.settled()).await;
    assert_eq!(notes.all(), ["slow", "quick", "middling"]);
    // Pauses are spread by a tenth.
    office.pass(Duration::from_secs(11)).await;
    assert_eq!(notes.all()[3..], ["quick"]);
    office.pass(Duration::from_secs(660)).await;
    assert_eq!(notes.all()[4..], ["middling"]);
    let ended = office.work(run.value::<Vec<String>>()).await;
    assert_eq!(ended.expect("ends"), ["slow", "quick", "middling"]);
}

/// E15: the log tells steps and waits of a workflow apart, and when each began.
#[tokio::test]
async fn e15_the_log_tells_steps_and_waits_apart() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let both = |context: WorkflowContext, (): ()| async move {
        let step = context.step("step", || async { Ok::<_, Failure>(1) });
        let one: u32 = step.await?;
        context.wait(Wait::After(Duration::from_secs(1))).await?;
        Ok::<_, Failure>(one)
    };
    let functions = Functions::default().function("both", both);
    let instance = office.instance(functions, quiet()).await;
    let run = instance.start(&id("p"), "both", &()).await.expect("starts");
    office.work(run.value::<u32>()).await.expect("ends");
    assert_eq!(
        office.told("p").await,
        [
            "process_registered",
            "process_started",
            "effect_started",
            "effect_finished",
            "wait_started",
            "wait_ended",
            "process_succeeded"
        ]
    );
}

#[derive(Debug, thiserror::Error)]
#[error("the order cannot be read")]
struct Unreadable(#[source] ParseIntError);

/// C3: every error becomes a failure that says what caused it; what was recorded below keeps its
/// code and class.
#[test]
fn c3_a_failure_says_what_caused_it() {
    let cause = "x".parse::<u32>().expect_err("is no number");
    let failure = Failure::from(Unreadable(cause));
    let text = "the order cannot be read: invalid digit found in string";
    assert_eq!(
        failure.error,
        WireError::new("workflow_failed", ErrorClass::Terminal, text)
    );
    assert_eq!(failure.to_string(), failure.error.to_string());
    assert!(failure.to_string().contains(text));
    assert_eq!(format!("{failure:?}"), format!("workflow_failed: {text}"));
    let below = WireError::new("effect_in_doubt", ErrorClass::Indeterminate, "parked");
    assert_eq!(Failure::from(below.clone()).error, below);
}

/// What is printed of a workflow names it and its steps, and shows nothing that it works on.
#[tokio::test]
async fn what_is_printed_of_a_workflow_shows_no_values() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let prints = |context: WorkflowContext, input: String| async move {
        let step = context.step("pay", || {
            let input = input.clone();
            async move { Ok::<_, Failure>(input) }
        });
        let step = step.input(&"secret").retry_safe();
        let printed = format!("{step:?} {context:?}");
        step.await?;
        Ok::<_, Failure>(printed)
    };
    let functions = Functions::default()
        .function("prints", prints)
        .function("compete", compete);
    let printed = format!("{functions:?}");
    assert!(printed.contains(r#"["compete", "prints"]"#), "{printed}");
    let instance = office.instance(functions, quiet()).await;
    let order = id("order-17");
    let started = instance.start(&order, "prints", &"secret").await;
    let run = started.expect("starts");
    let printed: String = office.work(run.value()).await.expect("ends");
    for named in ["pay", "retry_safe: true", "order-17"] {
        assert!(printed.contains(named), "{printed}");
    }
    assert!(!printed.contains("secret"), "{printed}");
}
