//! Occurrences that start processes, and operations on processes as effects (E3, E15).

use runtime_core::{
    EffectKind, EffectOutcome, EffectOutput, ProcessAnswer, ProcessListing, ProcessOutcome,
    ProcessStatus, ReplayKey, RequestId, Trigger,
};
use runtime_effects::{LocalExecutor, ProcessOperation, Subscription};
use runtime_store::Page;
use serde_json::json;

use super::desk::{Desk, function, process, session};
use crate::Fault;
use crate::effect_laws::{self, result, tool_call};
use crate::store_laws::StoreFixture;

fn arrived(occurrence: &str, idempotency_key: Option<&str>) -> Trigger {
    Trigger {
        source_type: "mailbox".into(),
        source_key: "inbox".into(),
        occurrence: occurrence.into(),
        payload: json!({ "subject": occurrence }),
        idempotency_key: idempotency_key.map(str::to_owned),
    }
}

fn subscription(id: &str) -> Subscription {
    Subscription {
        id: RequestId::new(id).expect("legal"),
        session: session("desk"),
        source_type: "mailbox".into(),
        source_key: "inbox".into(),
        function: "order".into(),
        input: json!({ "folder": id }),
    }
}

/// A tool that reports what arrived.
fn reports<'run>(triggers: Vec<Trigger>) -> LocalExecutor<'run> {
    LocalExecutor::new(EffectKind::ToolCall, move |attempt| {
        for trigger in &triggers {
            attempt.triggers.report(trigger.clone());
        }
        async { Ok(result("done")) }
    })
}

async fn running(desk: &Desk<'_>) -> Vec<String> {
    let page = desk
        .processes
        .list(ProcessStatus::Running, Page::after(None, 100))
        .await;
    let page = page.expect("reads").processes;
    page.into_iter()
        .map(|record| record.process.to_string())
        .collect()
}

/// E15: recording a tool's outcome and starting what is subscribed to what it reports is one
/// commit: a crash leaves both or neither, and a repeated occurrence starts nothing.
pub async fn e15_an_outcome_and_what_it_triggers_are_one_commit(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    for id in ["first", "second"] {
        assert!(
            desk.processes
                .subscribe(&subscription(id))
                .await
                .expect("subscribes")
        );
        assert!(
            !desk
                .processes
                .subscribe(&subscription(id))
                .await
                .expect("is known")
        );
    }
    let done = Ok(EffectOutcome::Completed(result("done")));
    let mut started = 0;
    let faults = [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::LoseResponse,
        Fault::FailBefore,
    ];
    for (number, fault) in (0..).zip(faults) {
        let scope = effect_laws::turn("desk", &format!("t{number}"));
        let call = || tool_call(&scope, 0, "fetch").retry_safe(true);
        let mail = arrived(&format!("m{number}"), None);
        // Twice in one outcome is once.
        let mails = vec![mail.clone(), mail.clone()];
        let controller = desk.world.open(&desk.host, &scope).await;
        let commits = desk.world.store.commits();
        desk.world.store.fault_at(commits + 1, fault);
        let ran = controller.execute_effect(call(), reports(mails.clone()));
        let ran = desk.world.drive(ran).await;
        drop(controller);
        if desk.world.store.is_crashed() {
            ran.expect_err("the process died");
            desk.restart().await;
            let both = fault == Fault::CrashAfter;
            assert_eq!(
                running(&desk).await.len(),
                started + if both { 2 } else { 0 },
                "{fault:?}"
            );
            let controller = desk.world.open(&desk.host, &scope).await;
            let again = controller.execute_effect(call(), reports(mails));
            assert_eq!(desk.world.drive(again).await, done, "{fault:?}");
        } else {
            assert_eq!(ran, done, "{fault:?}");
        }
        started += 2;
        assert_eq!(running(&desk).await.len(), started, "{fault:?}");
        // Another turn fetches the same mail again.
        let scope = effect_laws::turn("desk", &format!("u{number}"));
        let controller = desk.world.open(&desk.host, &scope).await;
        let again = controller.execute_effect(tool_call(&scope, 0, "fetch"), reports(vec![mail]));
        assert_eq!(desk.world.drive(again).await, done);
        assert_eq!(running(&desk).await.len(), started, "it starts nothing");
    }
    let held = desk
        .processes
        .held_by(&session("desk"))
        .await
        .expect("reads");
    assert_eq!(held.len(), started);
    let view = desk.processes.get(&held[0].process).await.expect("reads");
    let input = json!(view.registration.input)["input"].clone();
    assert!(input["input"]["folder"].is_string() && input["trigger"]["occurrence"].is_string());
}

/// E15: an occurrence that no tool reports starts the same, once, also by its idempotency key; a
/// subscription that ended starts nothing, nor do those of a deleted session.
pub async fn e15_an_occurrence_starts_its_subscriptions_once(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    desk.processes
        .subscribe(&subscription("s"))
        .await
        .expect("subscribes");
    let first = desk
        .processes
        .occurred(&arrived("m1", Some("k1")))
        .await
        .expect("occurs");
    assert_eq!(first.len(), 1);
    desk.restart().await;
    for again in [arrived("m1", None), arrived("m2", Some("k1"))] {
        let started = desk.processes.occurred(&again).await.expect("is known");
        assert_eq!(started, []);
    }
    let id = RequestId::new("s").expect("legal");
    assert!(
        desk.processes
            .unsubscribe("mailbox", "inbox", &id)
            .await
            .expect("ends")
    );
    assert!(
        !desk
            .processes
            .unsubscribe("mailbox", "inbox", &id)
            .await
            .expect("is known")
    );
    assert_eq!(
        desk.processes
            .occurred(&arrived("m3", None))
            .await
            .expect("occurs"),
        []
    );
    desk.processes
        .subscribe(&subscription("s"))
        .await
        .expect("subscribes");
    desk.processes
        .delete_session(&session("desk"))
        .await
        .expect("deletes");
    let left = desk
        .processes
        .subscriptions("mailbox", "inbox")
        .await
        .expect("reads");
    assert_eq!(left, []);
}

/// E3, E15: operations on processes are effects: recorded once, answered from the record, and
/// harmless when they were cut off.
pub async fn e3_operations_on_processes_are_effects(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let (a, b, p) = (session("a"), session("b"), process("p"));
    let registration = function("p", json!(1));
    let start = ProcessOperation::Start {
        registration,
        owner: Some(a.clone()),
    };
    let listing = ProcessListing {
        process: p.clone(),
        title: "order".into(),
        status: ProcessStatus::Running,
    };
    let transfer = ProcessOperation::Transfer {
        process: p.clone(),
        from: a.clone(),
        to: b.clone(),
    };
    let signal = ProcessOperation::Signal {
        process: p.clone(),
        name: "go".into(),
        ordinal: 1,
        value: json!(1),
    };
    let cancel = |reason: &str| ProcessOperation::Cancel {
        process: p.clone(),
        reason: reason.to_owned(),
    };
    let cancelled = ProcessAnswer::CancelRequested {
        reason: "first".into(),
    };
    let operations = [
        (start, ProcessAnswer::Started { process: p.clone() }),
        (
            ProcessOperation::List { session: a.clone() },
            ProcessAnswer::Listed {
                processes: vec![listing],
            },
        ),
        (transfer, ProcessAnswer::Transferred),
        (signal, ProcessAnswer::Signalled { accepted: true }),
        (cancel("first"), cancelled.clone()),
        (cancel("second"), cancelled),
        (
            ProcessOperation::DeleteSession { session: b.clone() },
            ProcessAnswer::SessionDeleted {
                report: runtime_core::SessionDeletion {
                    revoked: vec![p.clone()],
                    orphaned: vec![p.clone()],
                    preserved: Vec::new(),
                },
            },
        ),
    ];
    let scope = effect_laws::desk();
    for (ordinal, (operation, answer)) in (0..).zip(operations) {
        let key = || ReplayKey::turn(1, EffectKind::Process, ordinal);
        let expected = Ok(EffectOutcome::Completed(EffectOutput::Process(answer)));
        // Cut off between what it does and the record of it.
        let controller = desk.world.open(&desk.host, &scope).await;
        let writes = usize::from(!matches!(operation, ProcessOperation::List { .. }));
        let second_cancel = ordinal == 5;
        let number = desk.world.store.commits() + if second_cancel { 1 } else { 1 + writes };
        desk.world.store.fault_at(number, Fault::CrashBefore);
        let died = desk
            .processes
            .execute(&*controller, &scope, key(), operation.clone());
        desk.world.drive(died).await.expect_err("the process died");
        drop(controller);
        desk.restart().await;
        for _ in 0..2 {
            let controller = desk.world.open(&desk.host, &scope).await;
            let ran = desk
                .processes
                .execute(&*controller, &scope, key(), operation.clone());
            assert_eq!(desk.world.drive(ran).await, expected, "{operation:?}");
        }
    }
    desk.end("p", json!(7)).await;
    let key = ReplayKey::turn(1, EffectKind::Process, 99);
    let awaits = ProcessOperation::Await {
        process: p,
        until: None,
    };
    let controller = desk.world.open(&desk.host, &scope).await;
    let ended = desk.processes.execute(&*controller, &scope, key, awaits);
    let outcome = ProcessOutcome::Success { value: json!(7) };
    let answer = EffectOutput::Process(ProcessAnswer::Ended { outcome });
    assert_eq!(
        desk.world.drive(ended).await,
        Ok(EffectOutcome::Completed(answer))
    );
}
