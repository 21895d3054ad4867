//! Cancel, end, await, retire (E15, E16).

use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use runtime_core::{
    Classified, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, ErrorClass,
    EventKind, ProcessAnswer, ProcessCommand, ProcessInput, ProcessOutcome, ProcessRegistration,
    ProcessStatus, ReplayKey, WaitOutput, WaitSource,
};
use runtime_effects::{
    CancelAnswer, EndAnswer, GrantFilter, Interrupt, ProcessError, ProcessLimits, ProcessRecord,
};
use runtime_store::CommitError;
use serde_json::json;

use super::desk::{Desk, function, process, session};
use crate::effect_laws;
use crate::store_laws::StoreFixture;

fn success(value: u32) -> ProcessOutcome {
    ProcessOutcome::Success {
        value: json!(value),
    }
}

/// E15: the first reason of a cancellation stands; cancelling what has ended changes nothing.
pub async fn e15_the_first_reason_of_a_cancellation_stands(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    let first = desk
        .processes
        .cancel(&p, "first", None)
        .await
        .expect("cancels");
    assert_eq!(first, CancelAnswer::Requested);
    desk.restart().await;
    let second = desk
        .processes
        .cancel(&p, "second", None)
        .await
        .expect("is known");
    let reason = "first".to_owned();
    assert_eq!(second, CancelAnswer::AlreadyRequested { reason });
    desk.end("p", json!(7)).await;
    let late = desk
        .processes
        .cancel(&p, "third", None)
        .await
        .expect("is known");
    assert_eq!(
        late,
        CancelAnswer::AlreadyEnded {
            outcome: success(7)
        }
    );
    // What never started is over at once.
    desk.processes
        .register(&function("r", json!(1)))
        .await
        .expect("registers");
    desk.processes
        .cancel(&process("r"), "unwanted", None)
        .await
        .expect("cancels");
    let view = desk.processes.get(&process("r")).await.expect("reads");
    assert_eq!(view.record.status, ProcessStatus::Cancelled);
    let kinds = desk.world.kinds().await;
    let requests = kinds
        .iter()
        .filter(|kind| *kind == "process_cancel_requested")
        .count();
    assert_eq!(requests, 1);
}

/// E15: whoever ends a process at once with others, there is one terminal event, the last of its
/// stream, and everybody learns of that one.
pub async fn e15_a_process_has_one_terminal_event(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    let claim = desk.processes.claim(&p).await.expect("is there");
    let outcomes: Vec<_> = (0..6).map(success).collect();
    let ends = outcomes
        .iter()
        .map(|outcome| desk.processes.end(&claim, outcome));
    let ends = desk.world.drive(join_all(ends)).await;
    let winner = desk
        .processes
        .get(&p)
        .await
        .expect("reads")
        .outcome
        .expect("has ended");
    let mut recorded = 0;
    for (outcome, end) in outcomes.iter().zip(ends) {
        match end.expect("is decided") {
            EndAnswer::Recorded => {
                recorded += 1;
                assert_eq!(*outcome, winner);
            }
            EndAnswer::AlreadyEnded { outcome } => assert_eq!(outcome, winner),
        }
    }
    assert_eq!(recorded, 1);
    let events = desk
        .processes
        .events(&p, 0, 100)
        .await
        .expect("reads")
        .events;
    let ends = events.iter().filter(|event| event.kind().ends_process());
    assert_eq!(ends.count(), 1);
    assert!(events.last().expect("has events").kind().ends_process());
}

/// E15, E5: an earlier driver's end is refused, and so is what it says to park.
pub async fn e15_a_zombies_end_is_refused(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    let zombie = desk.processes.claim(&p).await.expect("is there");
    let owner = desk.processes.take_over(&p).await.expect("takes over");
    assert_eq!(owner.epoch, zombie.epoch.next());
    let refused = desk.processes.end(&zombie, &success(1)).await;
    assert!(
        matches!(refused, Err(ProcessError::Commit(CommitError::Fenced))),
        "{refused:?}"
    );
    let why = runtime_core::WireError::new("stuck", ErrorClass::Conflict, "is stuck");
    let refused = desk.processes.park(&zombie, &why).await;
    assert!(
        matches!(refused, Err(ProcessError::Commit(CommitError::Fenced))),
        "{refused:?}"
    );
    desk.processes.park(&owner, &why).await.expect("parks");
    let parked = desk.processes.get(&p).await.expect("reads").record;
    assert_eq!(
        (parked.status, parked.parked),
        (ProcessStatus::Parked, Some(why))
    );
    assert_eq!(
        desk.processes.end(&owner, &success(2)).await.expect("ends"),
        EndAnswer::Recorded
    );
    let late = desk.processes.take_over(&p).await;
    assert!(matches!(late, Err(ProcessError::Ended { .. })), "{late:?}");
}

/// E15: the end of an external process is reported from outside, once; that of another is not.
pub async fn e15_the_end_of_an_external_process_is_reported(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let input = ProcessInput::External {
        backend: "ci".into(),
        id: "7".into(),
        metadata: json!({}),
    };
    let external = ProcessRegistration::new(process("e"), input);
    desk.processes.start(&external, None).await.expect("starts");
    desk.processes
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    let first = desk
        .processes
        .report_end(&process("e"), &success(1))
        .await
        .expect("ends");
    assert_eq!(first, EndAnswer::Recorded);
    let second = desk
        .processes
        .report_end(&process("e"), &success(2))
        .await
        .expect("is known");
    assert_eq!(
        second,
        EndAnswer::AlreadyEnded {
            outcome: success(1)
        }
    );
    let refused = desk.processes.report_end(&process("p"), &success(1)).await;
    assert_eq!(
        refused.expect_err("is refused").code(),
        "process_not_external"
    );
}

/// E11, E15: waiting for the end is ready in the order end, cancel, deadline, and neither of the
/// latter ends the process.
pub async fn e15_waiting_for_the_end_ends_in_order(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let (table, p) = (&desk.processes, process("p"));
    table
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    let past = Some(desk.world.now());
    let cancelled = desk.world.drive(table.ended(&p, past, ready(()))).await;
    assert!(cancelled.is_err());
    let cancelled = desk.world.drive(table.ended(&p, None, ready(()))).await;
    assert!(
        matches!(cancelled, Err(ProcessError::WaitCancelled { .. })),
        "{cancelled:?}"
    );
    let soon = Some(desk.world.now().after(Duration::from_secs(5)));
    let late = desk.world.drive(table.ended(&p, soon, pending())).await;
    assert!(
        matches!(late, Err(ProcessError::WaitTimedOut { .. })),
        "{late:?}"
    );
    let mut waiting = pin!(table.ended(&p, None, pending()));
    assert!(desk.world.stands_still(waiting.as_mut()).await);
    desk.end("p", json!(7)).await;
    assert_eq!(waiting.await.expect("ended"), success(7));
    // It has ended: neither the deadline nor the cancellation comes first.
    let ended = desk.world.drive(table.ended(&p, past, ready(()))).await;
    assert_eq!(ended.expect("ended"), success(7));
    let unknown = table.ended(&process("q"), None, pending()).await;
    assert!(
        matches!(unknown, Err(ProcessError::NotFound { .. })),
        "{unknown:?}"
    );
}

/// E1, E15: a turn waits for a process as for a promise: it parks, is listed, is answered when
/// the process ends, and replay sees the same.
pub async fn e15_an_effect_waits_for_the_end_of_a_process(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    let scope = effect_laws::desk();
    let sources = vec![
        WaitSource::After {
            duration: Duration::from_secs(3600),
        },
        WaitSource::Process { process: p.clone() },
    ];
    let key = ReplayKey::turn(1, EffectKind::AwaitEvent, 0);
    let command = EffectCommand::AwaitEvent { sources };
    let wait = EffectEnvelope::new(scope.clone(), key, command).expect("consistent");
    let operation = ProcessCommand::Await {
        process: p.clone(),
        until: None,
    };
    let key = ReplayKey::turn(1, EffectKind::Process, 0);
    let command = EffectCommand::Process { command: operation };
    let operation = EffectEnvelope::new(scope.clone(), key, command).expect("consistent");
    let controller = desk.world.open(&desk.host, &scope).await;
    for envelope in [&wait, &operation] {
        let parked = desk
            .world
            .drive(controller.wait_any(envelope.clone()))
            .await;
        assert!(
            matches!(parked, Err(Interrupt::Suspended { .. })),
            "{parked:?}"
        );
    }
    let page = runtime_store::Page::after(None, 10);
    let pending = desk
        .host
        .pending_of(&scope.scope_id(), page)
        .await
        .expect("reads");
    assert!(
        pending
            .items
            .iter()
            .all(|item| item.processes == [p.clone()]),
        "{pending:?}"
    );
    let mut waiting = Box::pin(controller.wait_any(wait.clone()));
    assert!(desk.world.stands_still(waiting.as_mut()).await);
    desk.end("p", json!(7)).await;
    let outcome = success(7);
    let seen = WaitOutput::ProcessEnded {
        source: 1,
        outcome: outcome.clone(),
    };
    let seen = EffectOutcome::Completed(EffectOutput::AwaitEvent(seen));
    assert_eq!(waiting.as_mut().await.expect("ended"), seen);
    drop(waiting);
    let answer = EffectOutput::Process(ProcessAnswer::Ended { outcome });
    let answered = desk.world.drive(controller.wait_any(operation)).await;
    assert_eq!(answered.expect("ended"), EffectOutcome::Completed(answer));
    drop(controller);
    // Replay agrees, though the process is gone.
    desk.processes.retire(&p).await.expect("retires");
    let controller = desk.world.open(&desk.host, &scope).await;
    let replayed = desk.world.drive(controller.wait_any(wait)).await;
    assert_eq!(replayed.expect("is recorded"), seen);
}

/// E16: what has ended is retired in one commit: everything but its events goes, and its id is
/// not free within the retention window.
pub async fn e16_a_retired_process_leaves_only_its_events(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let (p, a) = (process("p"), session("a"));
    let registration = function("p", json!(1));
    desk.processes
        .start(&registration, Some(&a))
        .await
        .expect("starts");
    desk.processes
        .signal(&p, "go", 1, json!(1), None)
        .await
        .expect("signals");
    let early = desk.processes.retire(&p).await;
    assert_eq!(early.expect_err("runs").code(), "process_not_ended");
    desk.end("p", json!(1)).await;
    let events = desk
        .processes
        .events(&p, 0, 100)
        .await
        .expect("reads")
        .events;
    let commits = desk.world.store.commits();
    let now = desk.world.now();
    assert_eq!(
        desk.processes.retire_ended(now, 10).await.expect("retires"),
        1
    );
    assert_eq!(desk.world.store.commits(), commits + 1);
    let gone = desk.processes.get(&p).await;
    assert!(
        matches!(gone, Err(ProcessError::NotFound { .. })),
        "{gone:?}"
    );
    let gone = desk.processes.grants(&p, GrantFilter::All).await;
    assert!(
        matches!(gone, Err(ProcessError::NotFound { .. })),
        "{gone:?}"
    );
    assert!(desk.processes.held_by(&a).await.expect("reads").is_empty());
    let page = desk.processes.list(
        ProcessStatus::Succeeded,
        runtime_store::Page::after(None, 9),
    );
    assert!(page.await.expect("reads").processes.is_empty());
    let left = desk
        .processes
        .events(&p, 0, 100)
        .await
        .expect("reads")
        .events;
    assert_eq!(left, events);
    let again = desk.processes.start(&registration, None).await;
    assert!(
        matches!(again, Err(ProcessError::Retired { .. })),
        "{again:?}"
    );
    // The window passes; then the id is only taken by its stream, which is closed for good.
    desk.world.clock.advance(ProcessLimits::default().retention);
    let now = desk.world.now();
    assert_eq!(
        desk.processes.retire_ended(now, 10).await.expect("sweeps"),
        0
    );
    // A closed stream takes no second life, and trying again would not help.
    let again = desk.processes.start(&registration, None).await;
    assert_eq!(again.expect_err("taken").code(), "process_retired");
    let again = desk.processes.register(&registration).await;
    assert_eq!(again.expect_err("taken").code(), "process_retired");
}

/// E15, W3: the record of a process is the fold of its events.
pub async fn e15_the_record_is_the_fold_of_its_events(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let table = &desk.processes;
    let why = runtime_core::WireError::new("stuck", ErrorClass::Conflict, "is stuck");
    for (index, end) in [
        success(1),
        why.clone().into(),
        ProcessOutcome::Cancelled {
            message: "enough".into(),
            raw: None,
        },
    ]
    .into_iter()
    .enumerate()
    {
        let p = process(&format!("p{index}"));
        table
            .start(&function(p.as_str(), json!(1)), None)
            .await
            .expect("starts");
        let claim = table.take_over(&p).await.expect("takes over");
        table.park(&claim, &why).await.expect("parks");
        desk.world.clock.advance(Duration::from_millis(3));
        let claim = table.take_over(&p).await.expect("takes over");
        table.cancel(&p, "enough", None).await.expect("cancels");
        for ended in [false, true] {
            if ended {
                table.end(&claim, &end).await.expect("ends");
            }
            let view = table.get(&p).await.expect("reads");
            let events = table.events(&p, 0, 100).await.expect("reads").events;
            assert_eq!(events[0].kind(), &EventKind::ProcessRegistered);
            let first = ProcessRecord::registered(&view.registration, events[0].time);
            let folded = events[1..].iter().fold(first, |record, event| {
                record.applied(&event.draft, event.time)
            });
            assert_eq!(folded, view.record);
            assert_eq!(view.record.status.is_ended(), ended);
        }
    }
}
