//! Grants, wakes and deleted sessions (E15).

use runtime_core::{
    Classified, ExecutionScope, ProcessOutcome, ProcessStatus, RecoveryDisposition,
    SessionDeletion, WaitIdentity,
};
use runtime_effects::{
    AppendAnswer, AwaitEvents, GrantFilter, ProcessError, Revocation, TokenRights,
};
use serde_json::json;

use super::desk::{Desk, event_type, function, process, session};
use crate::Fault;
use crate::store_laws::StoreFixture;

/// E15: grants are given, revoked and transferred; revoked ones stay listed.
pub async fn e15_grants_are_given_revoked_and_transferred(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let (table, p) = (&desk.processes, process("p"));
    let [a, b, c] = ["a", "b", "c"].map(session);
    table
        .start(&function("p", json!(1)), Some(&a))
        .await
        .expect("starts");
    assert!(table.grant(&p, &b).await.expect("grants"));
    assert!(!table.grant(&p, &b).await.expect("again"));
    let live = table.grants(&p, GrantFilter::Live).await.expect("reads");
    let owners: Vec<_> = live
        .iter()
        .map(|grant| (grant.session.as_str(), grant.owner))
        .collect();
    assert_eq!(owners, [("a", true), ("b", false)]);
    // The owner goes with the grant.
    assert!(table.transfer(&p, &a, &c).await.expect("transfers"));
    assert!(!table.transfer(&p, &a, &c).await.expect("again"));
    let refused = table.transfer(&p, &a, &session("d")).await;
    assert!(
        matches!(refused, Err(ProcessError::NotGranted { .. })),
        "{refused:?}"
    );
    assert!(table.revoke(&p, &b).await.expect("revokes"));
    assert!(!table.revoke(&p, &b).await.expect("again"));
    let all = table.grants(&p, GrantFilter::All).await.expect("reads");
    assert_eq!(
        (
            all.len(),
            all.iter().filter(|grant| grant.is_live()).count()
        ),
        (3, 1)
    );
    let owner = all
        .iter()
        .find(|grant| grant.is_live())
        .expect("c holds it");
    assert_eq!((&owner.session, owner.owner), (&c, true));
    let held = table.held_by(&c).await.expect("reads");
    assert_eq!((held.len(), held[0].status), (1, ProcessStatus::Running));
    assert!(table.held_by(&a).await.expect("reads").is_empty());
    // Grants outlive the process.
    desk.end("p", json!(1)).await;
    assert!(
        desk.processes
            .transfer(&p, &c, &a)
            .await
            .expect("transfers")
    );
}

/// E15: deleting a session revokes its grants, ends nothing by itself, and says what became of
/// what; repeating it says the same, also after a crash in the middle.
pub async fn e15_deleting_a_session_reports_what_became_of_its_processes(
    fixture: &dyn StoreFixture,
) {
    let mut desk = Desk::new(fixture).await;
    let (a, b) = (session("a"), session("b"));
    for id in ["alone", "bound", "shared", "theirs"] {
        let mut registration = function(id, json!(1));
        if id == "bound" {
            registration = registration.with_disposition(RecoveryDisposition::OwnerBound);
        }
        let owner = if id == "theirs" { &b } else { &a };
        desk.processes
            .start(&registration, Some(owner))
            .await
            .expect("starts");
    }
    desk.processes
        .grant(&process("shared"), &b)
        .await
        .expect("grants");
    // What was given away is not part of the report.
    desk.processes
        .grant(&process("theirs"), &a)
        .await
        .expect("grants");
    desk.processes
        .revoke(&process("theirs"), &a)
        .await
        .expect("revokes");
    let commits = desk.world.store.commits();
    desk.world.store.fault_at(commits + 2, Fault::CrashAfter);
    desk.processes.delete_session(&a).await.expect_err("dies");
    desk.restart().await;
    let expected = SessionDeletion {
        revoked: ["alone", "bound", "shared"].map(process).to_vec(),
        orphaned: ["alone", "bound"].map(process).to_vec(),
        preserved: vec![process("shared")],
    };
    for _ in 0..2 {
        let report = desk.processes.delete_session(&a).await.expect("deletes");
        assert_eq!(report, expected);
    }
    assert!(desk.processes.held_by(&a).await.expect("reads").is_empty());
    for (id, cancelled) in [("alone", false), ("bound", true), ("shared", false)] {
        let record = desk
            .processes
            .get(&process(id))
            .await
            .expect("reads")
            .record;
        assert_eq!(record.status, ProcessStatus::Running, "{id}");
        assert_eq!(record.cancel.is_some(), cancelled, "{id}");
    }
}

/// E15: a declared wake event becomes one input of the owner's session, whatever is repeated.
pub async fn e15_a_wake_event_becomes_one_input_of_the_owner(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let mut progress = event_type("progress", None);
    progress.wakes = true;
    let mut registration = function("p", json!(1))
        .declaring(progress)
        .declaring(event_type("quiet", None));
    registration.end_wakes = true;
    let (a, b, p) = (session("a"), session("b"), process("p"));
    desk.processes
        .start(&registration, Some(&a))
        .await
        .expect("starts");
    let told = desk
        .processes
        .append(&p, "progress", &json!(50), "half", None)
        .await;
    assert_eq!(told.expect("appends"), AppendAnswer::Appended);
    let told = desk
        .processes
        .append(&p, "progress", &json!(50), "half", None)
        .await;
    assert_eq!(told.expect("is known"), AppendAnswer::AlreadyAppended);
    desk.processes
        .append(&p, "quiet", &json!(1), "q", None)
        .await
        .expect("appends");
    desk.world
        .clock
        .advance(std::time::Duration::from_millis(5));
    desk.processes
        .transfer(&p, &a, &b)
        .await
        .expect("transfers");
    desk.restart().await;
    desk.world
        .clock
        .advance(std::time::Duration::from_millis(5));
    desk.end("p", json!("done")).await;
    let wakes = desk.processes.wakes(None, 10).await.expect("reads");
    let told: Vec<_> = wakes
        .iter()
        .map(|wake| (wake.session.as_str(), &*wake.text))
        .collect();
    let expected = [
        ("a", "process p (order) told progress: 50"),
        ("b", "process p (order) succeeded: \"done\""),
    ];
    assert_eq!(told, expected);
    assert_ne!(wakes[0].submission, wakes[1].submission);
    let again = desk.processes.wakes(None, 10).await.expect("reads");
    assert_eq!(again, wakes, "a wake has one identity");
    desk.processes
        .wake_taken(&wakes[0])
        .await
        .expect("is forgotten");
    let left = desk.processes.wakes(None, 10).await.expect("reads");
    assert_eq!(left, wakes[1..]);
}

/// E15: a process that nobody holds tells nobody.
pub async fn e15_an_orphan_wakes_nobody(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let mut registration = function("p", json!(1));
    registration.end_wakes = true;
    let a = session("a");
    desk.processes
        .start(&registration, Some(&a))
        .await
        .expect("starts");
    desk.processes
        .revoke(&process("p"), &a)
        .await
        .expect("revokes");
    let claim = desk.processes.claim(&process("p")).await.expect("is there");
    let failed = ProcessOutcome::Failure {
        class: runtime_core::ErrorClass::Terminal,
        code: "broken".into(),
        message: "it broke".into(),
        raw: None,
    };
    desk.processes.end(&claim, &failed).await.expect("ends");
    assert!(
        desk.processes
            .wakes(None, 10)
            .await
            .expect("reads")
            .is_empty()
    );
}

/// E13: revoking a session reaches its processes that no live grant of another session holds: those
/// that wait are woken, and only those; nothing wears off, and a grant elsewhere that ends later
/// leaves them revoked.
pub async fn e13_revoking_a_session_reaches_the_processes_it_alone_holds(
    fixture: &dyn StoreFixture,
) {
    let mut desk = Desk::new(fixture).await;
    let (a, b) = (session("a"), session("b"));
    for (id, owner) in [("alone", &a), ("shared", &a), ("theirs", &b)] {
        desk.processes
            .start(&function(id, json!(1)), Some(owner))
            .await
            .expect("starts");
    }
    desk.processes
        .grant(&process("shared"), &b)
        .await
        .expect("grants");
    let scope = |id: &str| ExecutionScope::Process {
        process: process(id),
    };
    let custom = WaitIdentity::Custom {
        key: "answer".to_owned(),
    };
    let promises = desk.host.await_events().await.expect("loads");
    let token = promises
        .mint(&scope("alone"), &custom, TokenRights::ALL, None)
        .await
        .expect("mints");
    let revoked = promises.revoke(Revocation::Session(a.clone()), None).await;
    assert!(revoked.expect("revokes"));
    let refused = promises.verify(token.expose()).await;
    assert_eq!(refused.expect_err("is revoked").code(), "token_refused");
    let mints = async |promises: &AwaitEvents, id: &str| {
        let scope = scope(id);
        let minted = promises.mint(&scope, &custom, TokenRights::ALL, None);
        minted.await.is_ok()
    };
    desk.restart().await;
    let promises = desk.host.await_events().await.expect("loads");
    assert!(!mints(&promises, "alone").await);
    assert!(mints(&promises, "shared").await);
    assert!(mints(&promises, "theirs").await);
    desk.processes
        .revoke(&process("shared"), &b)
        .await
        .expect("revokes");
    assert!(!mints(&promises, "shared").await);
    assert!(mints(&promises, "theirs").await);
    // What it starts later is revoked from the start.
    desk.processes
        .start(&function("later", json!(1)), Some(&a))
        .await
        .expect("starts");
    assert!(!mints(&promises, "later").await);
}
