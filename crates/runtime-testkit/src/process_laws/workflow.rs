//! Processes that are Rust functions with durable steps (E15).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime_core::{
    Classified, EffectOutcome, EffectOutput, ErrorClass, ExecutionScope, ProcessOutcome,
    ProcessRegistration, ProcessStatus, RecoveryDisposition, ReplayKey, Resolution, WireError,
};
use runtime_effects::{
    ConflictRuling, Failure, Functions, ProcessError, Revocation, Ruling, Wait, WorkflowConfig,
    WorkflowContext, WorkflowHost,
};
use runtime_store::Page;
use serde_json::{Value, json};

use super::desk::{Desk, event_type, process, session};
use crate::store_laws::StoreFixture;

/// How often the bodies of steps ran, by the name of the step.
#[derive(Debug, Clone, Default)]
pub(super) struct Bodies(Arc<Mutex<BTreeMap<String, u32>>>);

impl Bodies {
    pub(super) fn ran(&self, name: &str) -> u32 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    }

    pub(super) fn count(&self, name: &str) -> u32 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(name).copied().unwrap_or_default()
    }

    /// A body that gives a value.
    pub(super) async fn gives(&self, name: &str, value: u32) -> Result<u32, Failure> {
        self.ran(name);
        Ok(value)
    }
}

impl Desk<'_> {
    /// Opens an instance that drives processes.
    pub(super) async fn workflows(&self, functions: Functions) -> WorkflowHost {
        let (host, processes) = (self.host.clone(), self.processes.clone());
        let clock = Arc::new(self.world.clock.clone());
        // Nothing to look after: simulated time moves in fewer steps.
        let config = WorkflowConfig {
            housekeeping_interval: Duration::from_secs(3600),
            ..WorkflowConfig::default()
        };
        let opened = WorkflowHost::over(host, processes, clock, functions, config);
        self.work(opened).await.expect("opens")
    }

    /// Ends the process of the operating system, opens the next one, and an instance in it.
    pub(super) async fn next_instance(
        &mut self,
        instance: WorkflowHost,
        functions: Functions,
    ) -> WorkflowHost {
        drop(instance);
        self.restart().await;
        self.workflows(functions).await
    }
}

fn order(bodies: &Bodies) -> Functions {
    let bodies = bodies.clone();
    let order = move |context: WorkflowContext, input: u32| {
        let bodies = bodies.clone();
        async move {
            let charged = context
                .step("charge", || bodies.gives("charge", input))
                .await?;
            context.sleep(Duration::from_secs(60)).await;
            let mut sum = charged;
            for _ in 0..3 {
                let add = context.step("add", || bodies.gives("add", 1));
                sum += add.retry_safe().await?;
            }
            let approved: u32 = context.signal("approved").await?;
            let parts = (1..=2).map(|part| {
                let name = format!("pack-{part}");
                let bodies = bodies.clone();
                context.step(&name.clone(), move || {
                    let (bodies, name) = (bodies.clone(), name.clone());
                    async move { bodies.gives(&name, part).await }
                })
            });
            let packed: u32 = context
                .all(parts.collect::<Vec<_>>())
                .await?
                .into_iter()
                .sum();
            Ok::<_, Failure>(sum + approved + packed)
        }
    };
    Functions::default().function("order", order)
}

/// E15: a workflow goes on after a crash where it was: no step runs twice, a sleep keeps its due
/// time, steps in a loop are told apart, a signal before and after the wait counts.
pub async fn e15_a_workflow_goes_on_where_it_was(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let bodies = Bodies::default();
    let instance = desk.workflows(order(&bodies)).await;
    let p = process("order-17");
    let started = desk.world.now();
    let run = instance.start(&p, "order", &40).await.expect("starts");
    desk.work(instance.settled()).await;
    assert_eq!(bodies.count("charge"), 1);
    drop(run);
    let instance = desk.next_instance(instance, order(&bodies)).await;
    desk.work(instance.settled()).await;
    assert_eq!(bodies.count("add"), 0, "it sleeps");
    desk.world.clock.advance(
        started
            .after(Duration::from_secs(60))
            .since(desk.world.now()),
    );
    desk.work_until(|| bodies.count("add") == 3).await;
    desk.work(instance.settled()).await;
    let instance = desk.next_instance(instance, order(&bodies)).await;
    let signal = instance
        .processes()
        .signal(&p, "approved", 1, json!(10), None);
    desk.work(signal).await.expect("signals");
    let value = desk.work(instance.run(&p).value::<u32>()).await;
    assert_eq!(value.expect("ends"), 40 + 3 + 10 + 3);
    for (name, count) in [("charge", 1), ("add", 3), ("pack-1", 1), ("pack-2", 1)] {
        assert_eq!(bodies.count(name), count, "{name}");
    }
    // Starting it again is known, also under another instance.
    let again = desk
        .work(instance.start(&p, "order", &40))
        .await
        .expect("is known");
    assert_eq!(
        desk.work(again.value::<u32>()).await.expect("is recorded"),
        56
    );
    let other = desk.work(instance.start(&p, "order", &41)).await;
    assert!(
        matches!(other, Err(ProcessError::Conflict { .. })),
        "{other:?}"
    );
    let report = desk.work(instance.close()).await;
    assert_eq!((report.interrupted, report.failures), (0, Vec::new()));
}

/// E7, E15: a step that must not run twice and was cut off parks the process, and a ruling lets it
/// go on.
pub async fn e15_a_step_in_doubt_parks_the_workflow(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let bodies = Bodies::default();
    let functions = || {
        let bodies = bodies.clone();
        Functions::default().function("once", move |context: WorkflowContext, (): ()| {
            let bodies = bodies.clone();
            async move {
                let pay = context.step("pay", || async {
                    // The first time it never ends.
                    match bodies.ran("pay") {
                        1 => std::future::pending().await,
                        run => Ok::<_, Failure>(run),
                    }
                });
                pay.await
            }
        })
    };
    let p = process("p");
    let instance = desk.workflows(functions()).await;
    instance.start(&p, "once", &()).await.expect("starts");
    desk.work_until(|| bodies.count("pay") == 1).await;
    let instance = desk.next_instance(instance, functions()).await;
    let parked = desk.work(instance.run(&p).value::<u32>()).await;
    assert_eq!(parked.expect_err("is parked").code, "effect_in_doubt");
    let record = instance.processes().get(&p).await.expect("reads").record;
    assert_eq!(record.status, ProcessStatus::Parked);
    // The next instance asks nobody twice.
    let instance = desk.next_instance(instance, functions()).await;
    desk.work(instance.settled()).await;
    let pending = desk
        .work(instance.effects().pending(Page::after(None, 10)))
        .await;
    let pending = pending.expect("reads").items;
    assert_eq!(pending.len(), 1);
    let value = EffectOutput::DurableStep { value: json!(7) };
    let ruling = Ruling::RecordOutcome(EffectOutcome::Completed(value));
    let scope = pending[0].scope.scope_id();
    let ruled = instance
        .effects()
        .rule_in_doubt(&scope, &pending[0].key, ruling, None);
    desk.work(ruled).await.expect("rules");
    // Until the ruling has driven it on, it is parked.
    let ended = desk.work(instance.run(&p).ended()).await.expect("ends");
    assert_eq!(ended, ProcessOutcome::Success { value: json!(7) });
    assert_eq!(bodies.count("pay"), 1);
}

/// E9, E15: cancelling a workflow interrupts what runs in it and in what it spawned, records the
/// first reason, and leaves nothing waiting.
pub async fn e15_cancelling_a_workflow_cancels_its_children(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let functions = Functions::default()
        .function("parent", |context: WorkflowContext, (): ()| async move {
            let child = context.spawn("child", &1).await?;
            context.join::<u32>(&child).await
        })
        .function("child", |context: WorkflowContext, _: u32| async move {
            context.signal::<u32>("never").await
        });
    let instance = desk.workflows(functions).await;
    let p = process("p");
    instance.start(&p, "parent", &()).await.expect("starts");
    desk.work(instance.settled()).await;
    let children = desk
        .work(instance.processes().children(&p))
        .await
        .expect("reads");
    assert_eq!(children.len(), 1);
    desk.work(instance.processes().cancel(&p, "enough", None))
        .await
        .expect("cancels");
    let ended = desk.work(instance.run(&p).ended()).await.expect("ends");
    let cancelled = |message: &str| ProcessOutcome::Cancelled {
        message: message.to_owned(),
        raw: None,
    };
    assert_eq!(ended, cancelled("enough"));
    let child = desk
        .work(instance.run(&children[0]).ended())
        .await
        .expect("ends");
    assert_eq!(child, cancelled("process p was cancelled: enough"));
    let pending = desk
        .work(instance.effects().pending(Page::after(None, 10)))
        .await;
    assert_eq!(pending.expect("reads").items, []);
}

/// E15: a workflow spawns processes and waits for them, also across a crash.
pub async fn e15_a_workflow_waits_for_what_it_spawned(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let bodies = Bodies::default();
    let functions = || {
        let bodies = bodies.clone();
        let child = move |context: WorkflowContext, input: u32| {
            let bodies = bodies.clone();
            async move {
                context.sleep(Duration::from_secs(u64::from(input))).await;
                let doubled = context.step("double", || bodies.gives("double", 2 * input));
                doubled.await
            }
        };
        Functions::default().function("child", child).function(
            "parent",
            |context: WorkflowContext, (): ()| async move {
                let mut children = Vec::new();
                for input in [30, 20, 10] {
                    children.push(context.spawn("child", &input).await?);
                }
                let mut sum = 0;
                for child in &children {
                    sum += context.join::<u32>(child).await?;
                }
                Ok::<u32, Failure>(sum)
            },
        )
    };
    let instance = desk.workflows(functions()).await;
    let p = process("p");
    instance.start(&p, "parent", &()).await.expect("starts");
    desk.work(instance.settled()).await;
    let instance = desk.next_instance(instance, functions()).await;
    desk.work(instance.settled()).await;
    assert_eq!(
        desk.work(instance.run(&p).value::<u32>())
            .await
            .expect("ends"),
        120
    );
    assert_eq!(bodies.count("double"), 3);
    let page = instance
        .processes()
        .list(ProcessStatus::Succeeded, Page::after(None, 10));
    assert_eq!(desk.work(page).await.expect("reads").processes.len(), 4);
}

/// E8, E15: the winner of a race is recorded, so that replay picks the same one; a signal that
/// lost is there for the next wait.
pub async fn e8_a_race_has_the_same_winner_when_it_is_driven_again(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let bodies = Bodies::default();
    let functions = || {
        let bodies = bodies.clone();
        Functions::default().function("race", move |context: WorkflowContext, (): ()| {
            let bodies = bodies.clone();
            async move {
                let waits = [Wait::signal("go"), Wait::After(Duration::from_secs(5))];
                let (first, _) = context.race(waits).await;
                let (second, value) = context
                    .any([Wait::signal("stop"), Wait::signal("go")])
                    .await?;
                let steps = [5, 1, 3].map(|turns| {
                    let bodies = bodies.clone();
                    let step = context.step(&format!("s{turns}"), move || {
                        let bodies = bodies.clone();
                        async move {
                            for _ in 0..turns {
                                tokio::task::yield_now().await;
                            }
                            match turns {
                                1 => Err(Failure::new("lost", "it is the first to end")),
                                _ => bodies.gives("won", turns).await,
                            }
                        }
                    });
                    step.retry_safe()
                });
                let (third, turns) = context.any_step(steps).await?;
                let quick = context
                    .step("quick", || bodies.gives("quick", 1))
                    .retry_safe();
                let slow = context.step("slow", std::future::pending::<Result<u32, Failure>>);
                let (fourth, _): (usize, u32) =
                    context.race_steps([slow.retry_safe(), quick]).await?;
                context.signal::<Value>("end").await?;
                Ok::<_, Failure>(json!([first, second, value, third, turns, fourth]))
            }
        })
    };
    let p = process("p");
    let instance = desk.workflows(functions()).await;
    instance.start(&p, "race", &()).await.expect("starts");
    desk.work(instance.settled()).await;
    desk.world.clock.advance(Duration::from_secs(6));
    desk.rest().await;
    desk.work(instance.processes().signal(&p, "go", 1, json!("g"), None))
        .await
        .expect("signals");
    desk.work_until(|| bodies.count("quick") == 1).await;
    desk.work(instance.settled()).await;
    let instance = desk.next_instance(instance, functions()).await;
    desk.work(instance.processes().signal(&p, "end", 1, json!(0), None))
        .await
        .expect("signals");
    let value = desk.work(instance.run(&p).value::<Value>()).await;
    assert_eq!(value.expect("ends"), json!([1, 1, "g", 2, 3, 1]));
    assert_eq!((bodies.count("won"), bodies.count("quick")), (1, 1));
}

/// E9, C3: a failed step is recorded and answered again; a step that may pass is tried again; a
/// panic ends the process with its text, and nothing else.
pub async fn e15_failures_of_steps_and_workflows_are_recorded(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let bodies = Bodies::default();
    let counted = bodies.clone();
    let functions = Functions::default()
        .function("fails", move |context: WorkflowContext, (): ()| {
            let bodies = counted.clone();
            async move {
                let retried = context.step("retried", || async {
                    match bodies.ran("retried") {
                        1 | 2 => Err(Failure::retry("not yet")),
                        run => Ok(run),
                    }
                });
                let retried = retried.attempts(3).await?;
                let failed = context.step("failed", || async {
                    bodies.ran("failed");
                    Err::<(), _>(Failure::new("no_stock", "nothing is left"))
                });
                let failed = failed.await.expect_err("it failed");
                context.sleep(Duration::from_secs(1)).await;
                Err::<(), _>(Failure::new(&failed.code, format!("{retried}: {failed}")))
            }
        })
        .function("panics", |context: WorkflowContext, (): ()| async move {
            context.sleep(Duration::from_secs(1)).await;
            let number: u32 = "none".parse().expect("the text is there");
            Ok::<u32, Failure>(number)
        });
    let instance = desk.workflows(functions).await;
    let run = instance
        .start(&process("f"), "fails", &())
        .await
        .expect("starts");
    let failed = desk.work(run.value::<()>()).await.expect_err("fails");
    assert_eq!(
        (failed.code.as_str(), failed.message.as_str()),
        ("no_stock", "3: nothing is left")
    );
    assert_eq!((bodies.count("retried"), bodies.count("failed")), (3, 1));
    let run = instance
        .start(&process("p"), "panics", &())
        .await
        .expect("starts");
    let failed = desk.work(run.value::<u32>()).await.expect_err("panics");
    assert_eq!(
        (failed.code.as_str(), failed.class),
        ("process_panicked", ErrorClass::Terminal)
    );
    assert!(failed.message.contains("the text is there"), "{failed}");
}

/// E4, E15: a workflow whose code changed under an open process parks it, and goes on when the
/// code fits again; what an instance does not know waits for one that does.
pub async fn e15_changed_code_parks_the_workflow_until_it_fits(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let version = |input: u32| {
        Functions::default().function(
            "order",
            move |context: WorkflowContext, (): ()| async move {
                let step = context.step("price", || async { Ok::<_, Failure>(1) });
                let price: u32 = step.input(&input).await?;
                context.signal::<u32>("go").await?;
                Ok::<u32, Failure>(price)
            },
        )
    };
    let p = process("p");
    let instance = desk.workflows(version(1)).await;
    instance.start(&p, "order", &()).await.expect("starts");
    desk.work(instance.settled()).await;
    let unknown = instance
        .start(&process("q"), "none", &())
        .await
        .expect_err("is refused");
    assert_eq!(unknown.code(), "process_function_unknown");
    let wrong = instance
        .start(&process("q"), "order", &17)
        .await
        .expect_err("is refused");
    assert_eq!(wrong.code(), "process_input_invalid");
    let mut instance = desk.next_instance(instance, version(2)).await;
    desk.work(instance.processes().signal(&p, "go", 1, json!(0), None))
        .await
        .expect("signals");
    for (functions, code) in [
        (Functions::default(), "effect_conflict"),
        (version(1), "process_function_unknown"),
    ] {
        let parked = desk
            .work(instance.run(&p).value::<u32>())
            .await
            .expect_err("is parked");
        assert_eq!(parked.code, code);
        instance = desk.next_instance(instance, functions).await;
        desk.work(instance.settled()).await;
    }
    let ended = desk.work(instance.run(&p).ended()).await.expect("ends");
    assert_eq!(ended, ProcessOutcome::Success { value: json!(1) });
}

/// E4: a workflow whose code changed goes on as a person rules: with the recorded value, anew from
/// there, or with a failure.
pub async fn e4_a_conflict_of_a_workflow_is_ruled(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let version = |version: u32| {
        Functions::default().function(
            "order",
            move |context: WorkflowContext, (): ()| async move {
                let price = context.step("price", || async { Ok::<_, Failure>(version) });
                let price = price.input(&version).await.map_err(|error| error.code);
                let tax = context.step("tax", || async { Ok::<_, Failure>(version) });
                let tax: u32 = tax.await?;
                context.signal::<u32>("go").await?;
                Ok::<_, Failure>(json!([price, tax]))
            },
        )
    };
    let failed = WireError::new("ruled_failed", ErrorClass::Terminal, "ruled");
    let cases = [
        (
            "accepted",
            ConflictRuling::AcceptRecorded,
            json!([{ "Ok": 1 }, 1]),
        ),
        ("forked", ConflictRuling::Fork, json!([{ "Ok": 2 }, 2])),
        (
            "failed",
            ConflictRuling::Fail(failed),
            json!([{ "Err": "ruled_failed" }, 2]),
        ),
    ];
    let instance = desk.workflows(version(1)).await;
    for (id, _, _) in &cases {
        instance
            .start(&process(id), "order", &())
            .await
            .expect("starts");
    }
    desk.work(instance.settled()).await;
    let instance = desk.next_instance(instance, version(2)).await;
    desk.work(instance.settled()).await;
    let price = ReplayKey::step("price", 0).expect("legal");
    for (id, ruling, value) in cases {
        let run = instance.run(&process(id));
        // It waits; woken, it asks for what it did before that.
        let processes = instance.processes();
        desk.work(processes.signal(run.id(), "go", 1, json!(0), None))
            .await
            .expect("signals");
        desk.work(instance.settled()).await;
        let parked = desk
            .work(run.value::<Value>())
            .await
            .expect_err("is parked");
        assert_eq!(parked.code, "effect_conflict");
        let scope = ExecutionScope::Process {
            process: process(id),
        };
        let scope = scope.scope_id();
        let ruled = instance
            .effects()
            .rule_conflict(&scope, &price, ruling, None);
        desk.work(ruled).await.expect("rules");
        desk.work(instance.settled()).await;
        let ended = desk.work(run.value::<Value>()).await;
        assert_eq!(ended.expect("ends"), value, "{id}");
    }
}

/// E15: what is bound to its owner ends with the instance that drove it; what is done elsewhere
/// stays.
pub async fn e15_recovery_follows_the_disposition(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let functions = || {
        Functions::default().function("waits", |context: WorkflowContext, (): ()| async move {
            context.signal::<u32>("go").await
        })
    };
    let instance = desk.workflows(functions()).await;
    for (id, disposition) in [
        ("rerunnable", RecoveryDisposition::Rerunnable),
        ("bound", RecoveryDisposition::OwnerBound),
        ("external", RecoveryDisposition::External),
    ] {
        let registration = ProcessRegistration::function(process(id), "waits", Value::Null);
        let registration = registration.with_disposition(disposition);
        instance
            .start_process(&registration, None)
            .await
            .expect("starts");
    }
    desk.work(instance.settled()).await;
    let instance = desk.next_instance(instance, functions()).await;
    let lost = desk
        .work(instance.run(&process("bound")).value::<u32>())
        .await;
    assert_eq!(lost.expect_err("is lost").code, "process_owner_lost");
    for id in ["rerunnable", "external"] {
        let record = instance
            .processes()
            .get(&process(id))
            .await
            .expect("reads")
            .record;
        assert_eq!(record.status, ProcessStatus::Running, "{id}");
        desk.work(
            instance
                .processes()
                .signal(&process(id), "go", 1, json!(7), None),
        )
        .await
        .expect("signals");
    }
    let went_on = desk
        .work(instance.run(&process("rerunnable")).value::<u32>())
        .await;
    assert_eq!(went_on.expect("ends"), 7);
    let record = instance
        .processes()
        .get(&process("external"))
        .await
        .expect("reads")
        .record;
    assert_eq!(record.status, ProcessStatus::Running);
}

/// E10, E15: a promise of a workflow is resolved from outside by its token; an event is told once
/// however often the workflow is driven.
pub async fn e15_a_workflow_tells_events_and_is_told_by_token(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let token = Arc::new(Mutex::new(String::new()));
    let functions = || {
        let token = Arc::clone(&token);
        Functions::default().function("asks", move |context: WorkflowContext, (): ()| {
            let token = Arc::clone(&token);
            async move {
                for percent in [10, 20] {
                    context.emit("progress", &json!(percent)).await?;
                }
                let minted = context.token("answer").await?;
                *token.lock().unwrap_or_else(PoisonError::into_inner) = minted.expose().to_owned();
                let answer = context.wait(Wait::promise("answer")).await?;
                context.emit("progress", &json!(100)).await?;
                Ok::<_, Failure>(answer)
            }
        })
    };
    let instance = desk.workflows(functions()).await;
    let p = process("p");
    let mut progress = event_type("progress", Some(json!({ "maximum": 100 })));
    progress.wakes = true;
    let registration = ProcessRegistration::function(p.clone(), "asks", Value::Null);
    let registration = registration.declaring(progress);
    let owner = session("desk");
    instance
        .start_process(&registration, Some(&owner))
        .await
        .expect("starts");
    desk.work(instance.settled()).await;
    let instance = desk.next_instance(instance, functions()).await;
    desk.work(instance.settled()).await;
    let minted = token.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let resolution = Resolution::Ok {
        value: json!("yes"),
    };
    let resolved = instance.promises().resolve(&minted, resolution, None);
    desk.work(resolved).await.expect("resolves");
    let value = desk.work(instance.run(&p).value::<String>()).await;
    assert_eq!(value.expect("ends"), "yes");
    let wakes = desk
        .work(instance.processes().wakes(None, 10))
        .await
        .expect("reads");
    assert_eq!(wakes.len(), 3);
}

/// E15: two steps of a workflow at once are refused, unless they go through `all`.
pub async fn e15_steps_that_overlap_park_the_workflow(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let functions =
        Functions::default().function("both", |context: WorkflowContext, (): ()| async move {
            let slow = || async {
                tokio::task::yield_now().await;
                Ok::<u32, Failure>(1)
            };
            let (one, two) = (context.step("one", slow), context.step("two", slow));
            let both = futures_util::future::try_join(one.into_future(), two.into_future());
            let (one, two) = both.await?;
            Ok::<u32, Failure>(one + two)
        });
    let instance = desk.workflows(functions).await;
    let run = instance
        .start(&process("p"), "both", &())
        .await
        .expect("starts");
    let parked = desk.work(run.value::<u32>()).await.expect_err("is parked");
    assert_eq!(parked.code, "workflow_steps_overlap");
}

/// E13, E15: revoking a session ends no process. One that it alone holds and that waits sees its
/// promise cancelled, at once, and says itself how it ends; one that somebody else holds too goes on
/// waiting. So it is also if nobody drives them meanwhile.
pub async fn e13_a_workflow_that_waits_is_told_that_its_owner_is_gone(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let bodies = Bodies::default();
    let functions = || {
        let bodies = bodies.clone();
        Functions::default().function("asks", move |context: WorkflowContext, name: String| {
            let bodies = bodies.clone();
            async move {
                bodies.ran(&name);
                let answer = context.wait(Wait::promise("answer")).await;
                let class = answer.err().map(|error| error.class);
                Ok::<_, Failure>(json!({ "gave up": class }))
            }
        })
    };
    let mut instance = desk.workflows(functions()).await;
    for driven in [true, false] {
        let (owner, other) = (session(&format!("owner-{driven}")), session("other"));
        let names = ["alone", "shared"].map(|name| format!("{name}-{driven}"));
        let [alone, shared] = [process(&names[0]), process(&names[1])];
        for id in [&alone, &shared] {
            let asks = ProcessRegistration::function(id.clone(), "asks", json!(id.as_str()));
            let started = instance.start_process(&asks, Some(&owner));
            desk.work(started).await.expect("starts");
        }
        let granted = desk.processes.grant(&shared, &other);
        assert!(desk.work(granted).await.expect("grants"));
        desk.work(instance.settled()).await;
        if driven {
            let promises = desk.host.await_events().await.expect("loads");
            let revoked = promises.revoke(Revocation::Session(owner), None);
            assert!(desk.work(revoked).await.expect("revokes"));
        } else {
            drop(instance);
            desk.restart().await;
            let promises = desk.host.await_events().await.expect("loads");
            let revoked = promises.revoke(Revocation::Session(owner), None);
            assert!(desk.work(revoked).await.expect("revokes"));
            instance = desk.workflows(functions()).await;
        }
        // Time stands still: it is woken, not found later.
        desk.rest().await;
        let ended = desk.work(desk.processes.get(&alone)).await;
        let ended = ended.expect("is there").record.status;
        assert_eq!(ended, ProcessStatus::Succeeded, "{alone}");
        let run = instance.run(&alone);
        let value = desk.work(run.value::<Value>()).await;
        let gave_up = json!({ "gave up": ErrorClass::Cancelled });
        assert_eq!(value.expect("its own value"), gave_up);
        let waits = desk.work(desk.processes.get(&shared)).await;
        let waits = waits.expect("is there").record.status;
        assert_eq!(waits, ProcessStatus::Running, "{shared}");
        assert_eq!(bodies.count(&names[1]), 1, "is not driven in vain");
    }
    drop(instance);
}
