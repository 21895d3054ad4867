//! Processes at their bounds: what has its largest size, what is repeated late, what is read by
//! pages (E15, E16).

use std::time::Duration;

use runtime_core::{
    Classified, EffectEnvelope, EffectKind, EventDraft, EventKind, ExecutionScope,
    ProcessEventType, ProcessOutcome, ProcessStatus, ReplayKey, RequestId, SessionId, Timestamp,
    Trigger,
};
use runtime_effects::{
    GrantFilter, ProcessError, ProcessLimits, ProcessRecord, Processes, SignalAnswer, Subscription,
};
use runtime_store::{Commit, Page, Position, Removal, RowChange, RowKey, RowQuery, Store};
use runtime_testkit::effect_laws::{World, custom, fresh_id, wait_for};
use serde_json::{Value, json};

use crate::edges::{id, order, processes, success};
use crate::laws::Memory;

pub(crate) fn session(name: &str) -> SessionId {
    name.parse().expect("legal")
}

pub(crate) fn arrived(occurrence: &str) -> Trigger {
    Trigger {
        source_type: "mailbox".into(),
        source_key: "inbox".into(),
        occurrence: occurrence.into(),
        payload: Value::Null,
        idempotency_key: None,
    }
}

pub(crate) fn subscription(name: &str) -> Subscription {
    Subscription {
        id: RequestId::new(name).expect("legal"),
        session: session("desk"),
        source_type: "mailbox".into(),
        source_key: "inbox".into(),
        function: "order".into(),
        input: json!(1),
    }
}

fn scope(process: &str) -> ExecutionScope {
    ExecutionScope::Process {
        process: id(process),
    }
}

async fn end(table: &Processes, name: &str, outcome: &ProcessOutcome) {
    table.start(&order(name), None).await.expect("starts");
    let claim = table.claim(&id(name)).await.expect("is there");
    table.end(&claim, outcome).await.expect("ends");
}

async fn listed(table: &Processes, status: ProcessStatus, limit: usize) -> Vec<String> {
    let page = table.list(status, Page::after(None, limit)).await;
    let page = page.expect("reads").processes;
    page.iter()
        .map(|record| record.process.to_string())
        .collect()
}

fn is_too_large<T>(answer: &Result<T, ProcessError>) -> bool {
    matches!(answer, Err(ProcessError::TooLarge { .. }))
}

/// E15, E16: an event that wakes the owner becomes an input of bounded size, cut between two
/// characters.
#[tokio::test]
async fn e16_a_wake_is_cut_between_two_characters() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    let registration = order("p").declaring(ProcessEventType {
        name: "told".to_owned(),
        schema: None,
        wakes: true,
    });
    let started = table.start(&registration, Some(&session("desk"))).await;
    started.expect("starts");
    // The cut falls on each byte of a character once.
    for before in ["", "-", "--"] {
        let payload = json!(format!("{before}{}", "€".repeat(6_000)));
        let told = table.append(&id("p"), "told", &payload, before, None).await;
        told.expect("appends");
    }
    let wakes = table.wakes(None, 8).await.expect("reads");
    let mut cut: Vec<usize> = wakes
        .iter()
        .map(|wake| 16 * 1024 - wake.text.len())
        .collect();
    cut.sort_unstable();
    assert_eq!(cut, [0, 1, 2]);
}

/// E15: so many sessions may have held a process; one that did takes no other place.
#[tokio::test]
async fn e15_a_process_has_so_many_holders() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let limits = ProcessLimits {
        grants_max: 2,
        ..ProcessLimits::default()
    };
    let table = processes(&world, limits).await;
    let (p, a, b, c) = (id("p"), session("a"), session("b"), session("c"));
    table.start(&order("p"), Some(&a)).await.expect("starts");
    assert!(table.grant(&p, &b).await.expect("grants"));
    assert!(is_too_large(&table.grant(&p, &c).await));
    assert!(is_too_large(&table.transfer(&p, &a, &c).await));
    assert!(table.revoke(&p, &b).await.expect("revokes"));
    assert!(table.grant(&p, &b).await.expect("is known"));
}

/// E15: a hold is given to one who has one already; given to oneself, it stays.
#[tokio::test]
async fn e15_a_hold_is_given_to_another_holder_and_not_to_oneself() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    let (p, a, b) = (id("p"), session("a"), session("b"));
    table.start(&order("p"), Some(&a)).await.expect("starts");
    table.grant(&p, &b).await.expect("grants");
    let live = async || {
        let grants = table.grants(&p, GrantFilter::Live).await.expect("reads");
        let grants = grants.into_iter();
        grants
            .map(|grant| (grant.session, grant.owner))
            .collect::<Vec<_>>()
    };
    assert!(!table.transfer(&p, &a, &a).await.expect("answers"));
    assert_eq!(live().await, [(a.clone(), true), (b.clone(), false)]);
    assert!(table.transfer(&p, &a, &b).await.expect("transfers"));
    assert_eq!(live().await, [(b, true)]);
    assert_eq!(table.held_by(&a).await.expect("reads"), []);
}

/// E15, E16: the outcome of a process has a limit; one that is refused ends nothing.
#[tokio::test]
async fn e16_an_outcome_over_the_limit_ends_no_process() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let largest = serde_json::to_vec(&success(9)).expect("is plain data");
    let limits = ProcessLimits {
        outcome_bytes_max: largest.len(),
        ..ProcessLimits::default()
    };
    let table = processes(&world, limits).await;
    table.start(&order("p"), None).await.expect("starts");
    let claim = table.claim(&id("p")).await.expect("is there");
    assert!(is_too_large(&table.end(&claim, &success(10)).await));
    assert_eq!(listed(&table, ProcessStatus::Running, 8).await, ["p"]);
    table.end(&claim, &success(9)).await.expect("ends");
}

/// E16: what ended is retired so many at a time, whatever its end.
#[tokio::test]
async fn e16_what_ended_is_retired_so_many_at_a_time() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    let failed = ProcessOutcome::from(ProcessError::OrdinalZero.to_wire());
    end(&table, "a", &success(1)).await;
    end(&table, "b", &failed).await;
    end(&table, "c", &failed).await;
    for retired in [2, 1, 0] {
        let count = table.retire_ended(world.now(), 2).await;
        assert_eq!(count.expect("retires"), retired);
    }
}

/// E16: the id of a retired process is free when its events are gone and its retention is over.
#[tokio::test]
async fn e16_the_id_of_a_retired_process_is_free_when_its_retention_is_over() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let limits = ProcessLimits {
        retention: Duration::from_secs(60),
        ..ProcessLimits::default()
    };
    let table = processes(&world, limits).await;
    end(&table, "p", &success(1)).await;
    table.retire(&id("p")).await.expect("retires");
    let pruned = Removal::Through(Position(u64::MAX));
    let commit = Commit::new(fresh_id(), world.now()).remove(pruned);
    world.store.commit(commit).await.expect("prunes");
    for (passed, is_free) in [(59, false), (1, true)] {
        world.clock.advance(Duration::from_secs(passed));
        let none = table.retire_ended(world.now(), 8).await;
        assert_eq!(none.expect("forgets"), 0);
        let started = table.start(&order("p"), None).await;
        match is_free {
            true => assert!(!started.expect("is free").repeated),
            false => assert_eq!(started.expect_err("is not").code(), "process_retired"),
        }
    }
}

/// E9, E15: of several requests to end, the record keeps the reason of the first.
#[test]
fn e15_the_fold_keeps_the_first_reason_of_a_cancellation() {
    let now = Timestamp::from_millis(1);
    let asked = |reason: &str| {
        EventDraft::new(EventKind::ProcessCancelRequested).with_payload(json!({ "reason": reason }))
    };
    let record = ProcessRecord::registered(&order("p"), now)
        .applied(&asked("first"), now)
        .applied(&asked("second"), now);
    assert_eq!(record.cancel.as_deref(), Some("first"));
}

/// E15: a record of a later version is not guessed at.
#[tokio::test]
async fn e15_a_record_of_a_later_form_is_not_read() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    table.start(&order("p"), None).await.expect("starts");
    let key = RowKey::new("process", scope("p").scope_id(), "");
    let row = world.store.row(&key).await.expect("reads");
    let mut body: Value = serde_json::from_slice(&row.expect("is there").body).expect("is JSON");
    body["schema"] = json!(2);
    let later = RowChange::put(key, body.to_string().into_bytes());
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(2)).row(later);
    world.store.commit(commit).await.expect("commits");
    let refused = table.get(&id("p")).await.expect_err("is of a later form");
    assert_eq!(refused.code(), "process_record_corrupt");
}

/// E15: on a page of one status nothing of another status takes a place.
#[tokio::test]
async fn e15_a_page_of_one_status_is_filled_with_that() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    for ended in ["a", "b"] {
        end(&table, ended, &success(1)).await;
    }
    for runs in ["c", "d"] {
        table.start(&order(runs), None).await.expect("starts");
    }
    assert_eq!(listed(&table, ProcessStatus::Running, 2).await, ["c", "d"]);
    assert_eq!(
        listed(&table, ProcessStatus::Succeeded, 2).await,
        ["a", "b"]
    );
}

/// E10, E15: the end of a process takes all its waits from the list of what waits.
#[tokio::test]
async fn e10_the_end_of_a_process_takes_all_its_waits_with_it() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.park_after = Duration::ZERO;
    let (host, scope) = (world.host(), scope("p"));
    let table = processes(&world, ProcessLimits::default()).await;
    table.start(&order("p"), None).await.expect("starts");
    let controller = world.open(&host, &scope).await;
    for (ordinal, promise) in [(0, "a"), (1, "b")] {
        let key = ReplayKey::turn(1, EffectKind::AwaitEvent, ordinal);
        let command = wait_for(&scope, &custom(promise), None).command().clone();
        let wait = EffectEnvelope::new(scope.clone(), key, command).expect("consistent");
        controller.wait_any(wait).await.expect_err("parks");
    }
    let waiting = async || {
        let page = Page::after(None, 8);
        let page = host.pending_of(&scope.scope_id(), page).await;
        page.expect("reads").items.len()
    };
    assert_eq!(waiting().await, 2);
    let claim = table.claim(&id("p")).await.expect("is there");
    table.end(&claim, &success(1)).await.expect("ends");
    assert_eq!(waiting().await, 0);
}

/// E15: the ordinal of the next signal is found by few looks, however many were sent.
#[tokio::test]
async fn e15_the_next_signal_of_many_is_found_by_few_looks() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.early_resolutions_max = 1_000;
    let table = processes(&world, ProcessLimits::default()).await;
    table.start(&order("p"), None).await.expect("starts");
    for ordinal in 1..=200 {
        let sent = table.signal(&id("p"), "go", ordinal, json!(1), None).await;
        assert_eq!(sent.expect("decides"), SignalAnswer::Accepted);
    }
    let before = world.store.reads();
    let next = table.signal_next(&id("p"), "go", &json!(1), None).await;
    assert_eq!(next.expect("decides"), Some(201));
    let reads = world.store.reads() - before;
    assert!(reads < 100, "{reads} reads");
}

/// E15, C1: the names of what happened are bounded, each of them.
#[tokio::test]
async fn e15_the_names_of_what_happened_are_bounded() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    let named: [fn(&mut Trigger, String); 4] = [
        |trigger, name| trigger.source_type = name,
        |trigger, name| trigger.source_key = name,
        |trigger, name| trigger.occurrence = name,
        |trigger, name| trigger.idempotency_key = Some(name),
    ];
    for (number, rename) in named.into_iter().enumerate() {
        for (bytes, is_taken) in [(512, true), (513, false)] {
            let mut trigger = arrived(&format!("m{number}"));
            rename(&mut trigger, "n".repeat(bytes));
            let occurred = table.occurred(&trigger).await;
            assert_eq!(occurred.is_ok(), is_taken, "{number}: {occurred:?}");
            assert_eq!(is_too_large(&occurred), !is_taken);
        }
    }
}

/// E15: an occurrence that is reported once more after it was forgotten starts nothing that it has
/// started before: neither what is still there nor what is retired.
#[tokio::test]
async fn e15_a_forgotten_occurrence_starts_no_process_again() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.occurrence_retention = Duration::from_secs(60);
    let table = processes(&world, ProcessLimits::default()).await;
    table
        .subscribe(&subscription("s"))
        .await
        .expect("subscribes");
    let started = table.occurred(&arrived("m1")).await.expect("occurs");
    let [process] = &started[..] else {
        panic!("{started:?}");
    };
    let forget = async || {
        world.clock.advance(Duration::from_secs(60));
        let none = table.retire_ended(Timestamp::from_millis(0), 8).await;
        assert_eq!(none.expect("forgets"), 0);
    };
    forget().await;
    assert_eq!(table.occurred(&arrived("m1")).await.expect("is over"), []);
    let claim = table.claim(process).await.expect("is there");
    table.end(&claim, &success(1)).await.expect("ends");
    table.retire(process).await.expect("retires");
    forget().await;
    assert_eq!(table.occurred(&arrived("m1")).await.expect("is over"), []);
    // Its tombstone goes as well; its events are kept, and their stream is closed for good.
    world.clock.advance(ProcessLimits::default().retention);
    forget().await;
    assert_eq!(table.occurred(&arrived("m1")).await.expect("is over"), []);
}

/// E15: a source has so many subscriptions; one that is there is replaced all the same.
#[tokio::test]
async fn e15_a_source_has_so_many_subscriptions() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let limits = ProcessLimits {
        subscriptions_max: 2,
        ..ProcessLimits::default()
    };
    let table = processes(&world, limits).await;
    for name in ["a", "b"] {
        let subscribed = table.subscribe(&subscription(name)).await;
        assert!(subscribed.expect("subscribes"));
    }
    assert!(is_too_large(&table.subscribe(&subscription("c")).await));
    let replaced = Subscription {
        input: json!(2),
        ..subscription("a")
    };
    assert!(table.subscribe(&replaced).await.expect("replaces"));
    let left = table.subscriptions("mailbox", "inbox").await;
    assert_eq!(left.expect("reads"), [replaced, subscription("b")]);
}

/// E9, E15: what ends waits for nothing any more, however much it waited for.
#[tokio::test]
async fn e15_the_end_of_a_process_ends_all_its_waits() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let table = processes(&world, ProcessLimits::default()).await;
    table.start(&order("p"), None).await.expect("starts");
    let waits = world.store.capabilities().limits.page_entries_max + 1;
    let mut commit = Commit::new(fresh_id(), world.now());
    for number in 0..waits {
        let key = RowKey::new("pending", scope("p").scope_id(), number.to_string());
        commit = commit.row(RowChange::put(key, Vec::new()));
    }
    world.store.commit(commit).await.expect("waits");
    let claim = table.claim(&id("p")).await.expect("is there");
    table.end(&claim, &success(1)).await.expect("ends");
    let left = RowQuery::scope("pending", scope("p").scope_id());
    let left = world.store.rows(left, Page::after(None, 1)).await;
    assert_eq!(left.expect("reads").rows, []);
}
