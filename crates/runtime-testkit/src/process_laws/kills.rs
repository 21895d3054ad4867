//! One workflow, killed at every one of its commits (R4, E15).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, ErrorClass, EventKind, ProcessId};
use runtime_effects::{
    Failure, Functions, PendingKind, Ruling, Wait, WorkflowContext, WorkflowHost,
};
use runtime_store::Page;
use serde_json::{Value, json};

use super::desk::{Desk, process};
use super::workflow::Bodies;
use crate::Fault;
use crate::effect_laws::{Breakage, BrokenStore, Tally};
use crate::store_laws::StoreFixture;

/// What goes wrong, besides dying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowFault {
    /// The store forgets what was recorded of effects: each drive begins anew.
    ForgetsEffects,
}

/// The names of the steps, each of which runs once in a workflow that nobody kills.
const STEPS: [&str; 7] = [
    "charge", "reserve", "pack-1", "pack-2", "child", "fast", "ship",
];

const FAULTS: [Fault; 4] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::LoseResponse,
    Fault::FailBefore,
];

fn functions(bodies: &Bodies) -> Functions {
    let (parents, children) = (bodies.clone(), bodies.clone());
    let child = move |context: WorkflowContext, input: u32| {
        let bodies = children.clone();
        async move {
            let step = context.step("child", || bodies.gives("child", 2 * input));
            Ok::<u32, Failure>(step.retry_safe().await?)
        }
    };
    let order = move |context: WorkflowContext, input: u32| {
        let bodies = parents.clone();
        async move {
            let charged = context
                .step("charge", || bodies.gives("charge", input))
                .await?;
            let reserve = context.step("reserve", || bodies.gives("reserve", 1));
            let reserved = reserve.retry_safe().await?;
            context.sleep(Duration::from_secs(60)).await;
            let spawned = context.spawn("child", &input).await?;
            let packs = [("pack-1", true), ("pack-2", false)].map(|(name, safe)| {
                let bodies = bodies.clone();
                let pack = context.step(name, move || {
                    let bodies = bodies.clone();
                    async move { bodies.gives(name, 1).await }
                });
                if safe { pack.retry_safe() } else { pack }
            });
            let packed: u32 = context.all(packs).await?.into_iter().sum();
            let doubled: u32 = context.join(&spawned).await?;
            context
                .emit("progress", &json!({ "packed": packed }))
                .await?;
            let fast = context.step("fast", || bodies.gives("fast", 1));
            let slow = context.step("slow", std::future::pending::<Result<u32, Failure>>);
            let (_, won): (usize, u32) = context
                .any_step([slow.retry_safe(), fast.retry_safe()])
                .await?;
            let waits = [
                Wait::signal("approved"),
                Wait::After(Duration::from_secs(3600)),
            ];
            let (winner, _) = context.race(waits).await;
            let shipped = context.step("ship", || bodies.gives("ship", 1)).await?;
            Ok::<_, Failure>(json!([
                charged, reserved, packed, doubled, won, winner, shipped
            ]))
        }
    };
    Functions::default()
        .function("order", order)
        .function("child", child)
}

/// What one run came to.
struct Run {
    value: Value,
    bodies: Bodies,
    commits: usize,
    crashed: bool,
    /// How often it was killed in the body of which step: after it ran, before it was recorded.
    killed_in: BTreeMap<&'static str, u32>,
    events: Vec<(EventKind, String)>,
}

/// Runs the workflow under an id of its own, with a fault at one of its commits, as many processes
/// of the operating system as it takes.
async fn run(
    desk: &mut Desk<'_>,
    id: &ProcessId,
    fault: Option<(usize, Fault)>,
    planted: Option<WorkflowFault>,
) -> Run {
    let bodies = Bodies::default();
    desk.restart().await;
    if let Some((number, fault)) = fault {
        desk.world.store.fault_at(number, fault);
    }
    let mut crashed = false;
    let mut killed_in = BTreeMap::new();
    let mut commits = 0;
    let value = loop {
        let ended = one_instance(desk, id, &bodies, planted).await;
        commits += desk.world.store.commits();
        match ended {
            Some(value) => break value,
            None => {
                crashed = true;
                desk.restart().await;
                for step in unrecorded(desk, id, &bodies).await {
                    *killed_in.entry(step).or_default() += 1;
                }
            }
        }
    };
    let events = told(desk, id).await;
    Run {
        value,
        bodies,
        commits,
        crashed,
        killed_in,
        events,
    }
}

/// The events of a process: their kinds, and the keys of the effects that they tell of.
async fn told(desk: &Desk<'_>, id: &ProcessId) -> Vec<(EventKind, String)> {
    let page = desk.processes.events(id, 0, 256).await.expect("reads");
    let told = page.events.into_iter().map(|event| {
        let key = event.draft.payload["identity"]["key"].as_str();
        (event.draft.kind.clone(), key.unwrap_or_default().to_owned())
    });
    told.collect()
}

/// The steps whose body ran, and whose outcome is not recorded.
async fn unrecorded(desk: &Desk<'_>, id: &ProcessId, bodies: &Bodies) -> Vec<&'static str> {
    let mut events = told(desk, id).await;
    for child in desk.processes.children(id).await.expect("reads") {
        events.extend(told(desk, &child).await);
    }
    let is_recorded = |step: &str| {
        let step = if step == "fast" {
            "any(slow,fast)"
        } else {
            step
        };
        let key = format!("step.durable_step.0.{step}");
        let mut outcomes = events.iter();
        outcomes.any(|(kind, told)| *kind == EventKind::EffectFinished && *told == key)
    };
    let ran = STEPS.into_iter().filter(|step| bodies.count(step) > 0);
    ran.filter(|step| !is_recorded(step)).collect()
}

/// Drives the workflow until it ends; none when the process of the operating system dies.
async fn one_instance(
    desk: &mut Desk<'_>,
    id: &ProcessId,
    bodies: &Bodies,
    planted: Option<WorkflowFault>,
) -> Option<Value> {
    if planted == Some(WorkflowFault::ForgetsEffects) {
        let store = Arc::clone(&desk.world.store);
        let forgetful = BrokenStore::over(store, Breakage::ForgetsEffects);
        desk.reopen_over(forgetful).await;
    }
    let instance = desk.workflows(functions(bodies)).await;
    let store = Arc::clone(&desk.world.store);
    let ended = async {
        loop {
            match drive(desk, &instance, id).await {
                Ok(value) => {
                    // It may have been read before the commit that made it was answered, and
                    // that answer may be the death of this process.
                    desk.rest().await;
                    return (!store.is_crashed()).then_some(value);
                }
                Err(_) if store.is_crashed() => return None,
                Err(class) if class.is_retryable() => {}
                // A fault that was planted; the row says so.
                Err(class) => return Some(json!({ "gave up": class })),
            }
        }
    };
    ended.await
}

/// Does everything that somebody outside does, once or again: starts it, signals it, rules.
async fn drive(
    desk: &Desk<'_>,
    instance: &WorkflowHost,
    id: &ProcessId,
) -> Result<Value, ErrorClass> {
    let progress = super::desk::event_type("progress", None);
    let registration = runtime_core::ProcessRegistration::function(id.clone(), "order", json!(40));
    let registration = registration.declaring(progress);
    let started = instance.start_process(&registration, None);
    let run = desk.work(started).await.map_err(|error| error.class())?;
    let signal = instance
        .processes()
        .signal(id, "approved", 1, json!(true), None);
    desk.work(signal).await.map_err(|error| error.class())?;
    loop {
        let store = Arc::clone(&desk.world.store);
        let died = std::future::poll_fn(|_| match store.is_crashed() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        });
        let value = std::pin::pin!(run.value::<Value>());
        let ended = futures_util::future::select(value, died);
        let error = match desk.work(ended).await {
            futures_util::future::Either::Left((Ok(value), _)) => return Ok(value),
            futures_util::future::Either::Left((Err(error), _)) => error,
            futures_util::future::Either::Right(_) => return Err(ErrorClass::Unavailable),
        };
        if error.code != "effect_in_doubt" {
            return Err(error.class);
        }
        let pending = desk
            .work(instance.effects().pending(Page::after(None, 256)))
            .await;
        for item in pending.map_err(|error| error.class())?.items {
            if item.kind == PendingKind::InDoubt {
                let scope = item.scope.scope_id();
                let ruling = Ruling::RunAgain;
                let ruled = instance
                    .effects()
                    .rule_in_doubt(&scope, &item.key, ruling, None);
                desk.work(ruled).await.map_err(|error| error.class())?;
            }
        }
        desk.rest().await;
    }
}

/// Says what is wrong with a run, if something is.
fn wrong(golden: &Run, run: &Run) -> Option<String> {
    if run.value != golden.value {
        return Some(format!("ended with {}", run.value));
    }
    let ends = run
        .events
        .iter()
        .filter(|(kind, _)| kind.ends_process())
        .count();
    if ends != 1 {
        return Some(format!("{ends} ends"));
    }
    let mut recorded: BTreeMap<&str, u32> = BTreeMap::new();
    for (kind, key) in &run.events {
        if matches!(kind, EventKind::EffectFinished | EventKind::WaitEnded) {
            *recorded.entry(key).or_default() += 1;
        }
    }
    if let Some((key, count)) = recorded.iter().find(|(_, count)| **count != 1) {
        return Some(format!("{key} is recorded {count} times"));
    }
    let appended = run.events.iter();
    let appended = appended.filter(|(kind, _)| *kind == EventKind::ProcessEvent);
    let appended = appended.count();
    if appended != 1 {
        return Some(format!("told {appended} events"));
    }
    let too_often = STEPS.into_iter().find(|step| {
        let kills = run.killed_in.get(step).copied().unwrap_or_default();
        !(1..=1 + kills).contains(&run.bodies.count(step))
    });
    too_often.map(|step| format!("the body of {step} ran {} times", run.bodies.count(step)))
}

/// R4, E15: a workflow that is killed at any of its commits, before it or after it, and one whose
/// answer from the store is lost or refused, ends as it would have: each step is recorded once,
/// and its body ran at most once more than it was killed in it.
pub async fn killed_at_every_commit(
    fixture: &dyn StoreFixture,
    planted: Option<WorkflowFault>,
) -> Tally {
    let mut desk = Desk::new(fixture).await;
    let golden = run(&mut desk, &process("golden"), None, None).await;
    assert_eq!(
        golden.value,
        json!([40, 1, 2, 80, 1, 0, 1]),
        "nobody killed it"
    );
    assert!(STEPS.iter().all(|step| golden.bodies.count(step) == 1));
    let mut tally = Tally::default();
    // A planted fault shows at once; it need not be planted everywhere.
    let every = if planted.is_some() { 6 } else { 1 };
    for number in (1..=golden.commits).step_by(every) {
        for fault in FAULTS {
            let id = process(&format!("p{number}-{fault:?}"));
            let killed = run(&mut desk, &id, Some((number, fault)), planted).await;
            let dies = matches!(fault, Fault::CrashBefore | Fault::CrashAfter);
            let wrong = match wrong(&golden, &killed) {
                None if killed.crashed != dies => Some("the fault did not come".to_owned()),
                wrong => wrong,
            };
            let passed = wrong.is_none();
            tally.count(passed, || {
                format!("commit {number} {fault:?}: {}", wrong.unwrap_or_default())
            });
        }
    }
    tally
}
