//! Registering and starting (E15).

use futures_util::future::join_all;
use runtime_core::{ProcessInput, ProcessRegistration, ProcessStatus};
use runtime_effects::{GrantFilter, ProcessError, ProcessLimits};
use runtime_store::Page;
use serde_json::json;

use super::desk::{Desk, function, process, session};
use crate::Fault;
use crate::store_laws::StoreFixture;

/// E15: registering twice is once; another registration under the id is a conflict.
pub async fn e15_registering_is_idempotent_by_its_hash(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let registration = function("p", json!({ "a": 1 }));
    let first = desk
        .processes
        .register(&registration)
        .await
        .expect("registers");
    assert_eq!(
        (first.repeated, first.record.status),
        (false, ProcessStatus::Registered)
    );
    let again = desk.processes.register(&registration).await.expect("again");
    assert_eq!((again.repeated, &again.record), (true, &first.record));
    let other = desk
        .processes
        .register(&function("p", json!({ "a": 2 })))
        .await;
    assert!(
        matches!(other, Err(ProcessError::Conflict { .. })),
        "{other:?}"
    );
    let view = desk.processes.get(&process("p")).await.expect("reads");
    assert_eq!((view.registration, view.outcome), (registration, None));
    let unknown = desk.processes.get(&process("q")).await;
    assert!(
        matches!(unknown, Err(ProcessError::NotFound { .. })),
        "{unknown:?}"
    );
}

/// E15: start is register, grant and schedule in one commit; a crash leaves all of it or nothing.
pub async fn e15_a_start_is_one_commit(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let (owner, registration) = (session("desk"), function("p", json!(1)));
    for (fault, happened) in [(Fault::CrashBefore, false), (Fault::CrashAfter, true)] {
        let id = format!("{fault:?}");
        let registration = function(&id, json!(1));
        let commits = desk.world.store.commits();
        desk.world.store.fault_at(commits + 1, fault);
        let died = desk.processes.start(&registration, Some(&owner)).await;
        assert!(died.is_err() && desk.world.store.is_crashed(), "{died:?}");
        desk.restart().await;
        let held = desk.processes.held_by(&owner).await.expect("reads");
        let held = held.iter().any(|held| held.process == process(&id));
        let found = desk.processes.get(&process(&id)).await;
        let running = found.is_ok_and(|found| found.record.status == ProcessStatus::Running);
        assert_eq!((running, held), (happened, happened), "{fault:?}");
        let again = desk.processes.start(&registration, Some(&owner)).await;
        assert_eq!(again.expect("starts").repeated, happened, "{fault:?}");
    }
    for fault in [Fault::LoseResponse, Fault::FailBefore] {
        let registration = function(&format!("{fault:?}"), json!(1));
        let commits = desk.world.store.commits();
        desk.world.store.fault_at(commits + 1, fault);
        let start = desk.processes.start(&registration, Some(&owner));
        let start = desk.world.drive(start).await.expect("is settled");
        assert_eq!(start.record.status, ProcessStatus::Running);
    }
    let commits = desk.world.store.commits();
    desk.processes
        .start(&registration, Some(&owner))
        .await
        .expect("starts");
    assert_eq!(desk.world.store.commits(), commits + 1);
}

/// E15: a process that was only registered is started once, and held by whoever started it.
pub async fn e15_a_registered_process_is_started_once(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let registration = function("p", json!(1));
    desk.processes
        .register(&registration)
        .await
        .expect("registers");
    let owner = session("desk");
    let started = desk
        .processes
        .start(&registration, Some(&owner))
        .await
        .expect("starts");
    assert_eq!(
        (started.repeated, started.record.status),
        (false, ProcessStatus::Running)
    );
    let again = desk
        .processes
        .start(&registration, Some(&session("other")))
        .await;
    assert!(again.expect("is known").repeated);
    let grants = desk
        .processes
        .grants(&process("p"), GrantFilter::All)
        .await
        .expect("reads");
    assert_eq!(grants.len(), 1);
    assert_eq!((&grants[0].session, grants[0].owner), (&owner, true));
}

/// E15: of many who start the same process at once, one does.
pub async fn e15_starting_at_once_starts_once(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let registration = function("p", json!(1));
    let owner = session("desk");
    let starts = (0..8).map(|_| desk.processes.start(&registration, Some(&owner)));
    let starts = desk.world.drive(join_all(starts)).await;
    let fresh = starts
        .iter()
        .filter(|start| !start.as_ref().expect("starts").repeated);
    assert_eq!(fresh.count(), 1);
    let kinds = desk.world.kinds().await;
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "process_started")
            .count(),
        1
    );
}

/// E15: processes are listed by their status, a page at a time.
pub async fn e15_processes_are_listed_by_status(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    for index in 0..5 {
        let registration = function(&format!("p{index}"), json!(index));
        desk.processes
            .start(&registration, None)
            .await
            .expect("starts");
    }
    desk.processes
        .register(&function("r", json!(0)))
        .await
        .expect("registers");
    desk.end("p1", json!("done")).await;
    let mut running = Vec::new();
    let mut after = None;
    loop {
        let page = desk
            .processes
            .list(ProcessStatus::Running, Page::after(after, 2));
        let page = page.await.expect("reads");
        assert!(page.processes.len() <= 2);
        running.extend(
            page.processes
                .into_iter()
                .map(|record| record.process.to_string()),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(running, ["p0", "p2", "p3", "p4"]);
    for (status, expected) in [
        (ProcessStatus::Succeeded, "p1"),
        (ProcessStatus::Registered, "r"),
    ] {
        let page = desk
            .processes
            .list(status, Page::after(None, 10))
            .await
            .expect("reads");
        let ids: Vec<_> = page
            .processes
            .iter()
            .map(|record| record.process.as_str())
            .collect();
        assert_eq!(ids, [expected]);
    }
}

/// E15: what is over its limit, or misnamed, is refused before anything is written.
pub async fn e15_a_registration_is_checked_before_it_is_written(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    desk.reopen(ProcessLimits {
        registration_bytes_max: 400,
        ..ProcessLimits::default()
    })
    .await;
    let large = function("p", json!("x".repeat(400)));
    let misnamed = function("p", json!(1)).declaring(super::desk::event_type("a.b", None));
    let twice = function("p", json!(1))
        .declaring(super::desk::event_type("a", None))
        .declaring(super::desk::event_type("a", None));
    let schema = json!({ "type": "no such type" });
    let wrong = function("p", json!(1)).declaring(super::desk::event_type("a", Some(schema)));
    let outside = json!({ "$ref": "https://example.org/schema.json" });
    let outside = function("p", json!(1)).declaring(super::desk::event_type("a", Some(outside)));
    for (registration, code) in [
        (large, "process_too_large"),
        (misnamed, "process_name_invalid"),
        (twice, "process_schema_invalid"),
        (wrong, "process_schema_invalid"),
        (outside, "process_schema_invalid"),
    ] {
        let refused = desk.processes.start(&registration, None).await;
        let error = refused.expect_err("is refused");
        assert_eq!(runtime_core::Classified::code(&error), code, "{error}");
    }
    assert!(desk.world.events().await.is_empty());
}

/// E15: every kind of input is kept as it was given.
pub async fn e15_every_kind_of_input_is_kept(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let inputs = [
        ProcessInput::ToolCall {
            tool: "search".into(),
            arguments: json!({ "q": 1 }),
        },
        ProcessInput::Code {
            language: "python".into(),
            source: "1 + 1".into(),
        },
        ProcessInput::SessionTurn {
            session: session("other"),
            text: "hello".into(),
        },
        ProcessInput::Function {
            name: "order".into(),
            input: json!([1, 2]),
        },
        ProcessInput::External {
            backend: "ci".into(),
            id: "17".into(),
            metadata: json!({ "branch": "main" }),
        },
    ];
    for input in inputs {
        let id = process(input.kind());
        let registration = ProcessRegistration::new(id.clone(), input);
        desk.processes
            .start(&registration, None)
            .await
            .expect("starts");
        let view = desk.processes.get(&id).await.expect("reads");
        assert_eq!(view.record.input_kind, registration.input.kind());
        assert_eq!(view.registration, registration);
    }
}
