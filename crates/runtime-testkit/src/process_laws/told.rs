//! Events and signals (E15).

use std::pin::pin;

use runtime_core::{EventKind, Resolution, Timestamp};
use runtime_effects::{AppendAnswer, ProcessError, SignalAnswer};
use runtime_store::{Commit, CommitError, Position, Removal, Store};
use serde_json::json;

use super::desk::{Desk, event_type, function, process};
use crate::effect_laws::fresh_id;
use crate::store_laws::StoreFixture;

fn declared(id: &str) -> runtime_core::ProcessRegistration {
    let schema = json!({
        "type": "object",
        "properties": { "percent": { "type": "integer", "minimum": 0, "maximum": 100 } },
        "required": ["percent"],
        "additionalProperties": false,
    });
    function(id, json!(1)).declaring(event_type("progress", Some(schema)))
}

/// E15: an event is appended only if its type is declared and its payload fits the schema; what
/// is wrong is named by place, never by value.
pub async fn e15_events_are_checked_against_their_schema(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&declared("p"), None)
        .await
        .expect("starts");
    let before = desk.world.events().await.len();
    let undeclared = desk
        .processes
        .append(&p, "other", &json!({}), "1", None)
        .await;
    assert!(
        matches!(undeclared, Err(ProcessError::EventUndeclared { .. })),
        "{undeclared:?}"
    );
    for payload in [
        json!({ "percent": "secret" }),
        json!({ "percent": 101 }),
        json!({}),
        json!(7),
    ] {
        let refused = desk
            .processes
            .append(&p, "progress", &payload, "1", None)
            .await;
        let Err(ProcessError::EventPayload { reasons, .. }) = refused else {
            panic!("{payload} was not refused: {refused:?}");
        };
        assert!(
            !reasons.is_empty() && !reasons.concat().contains("secret"),
            "{reasons:?}"
        );
    }
    assert_eq!(desk.world.events().await.len(), before);
    let told = desk
        .processes
        .append(&p, "progress", &json!({ "percent": 7 }), "1", None)
        .await;
    assert_eq!(told.expect("fits"), AppendAnswer::Appended);
}

/// E15: an event is appended once for each replay key; other content under the key is a conflict.
pub async fn e15_an_event_is_appended_once_for_each_key(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&declared("p"), None)
        .await
        .expect("starts");
    let seven = json!({ "percent": 7 });
    for expected in [AppendAnswer::Appended, AppendAnswer::AlreadyAppended] {
        let told = desk
            .processes
            .append(&p, "progress", &seven, "k", None)
            .await;
        assert_eq!(told.expect("appends"), expected);
        desk.restart().await;
    }
    let other = json!({ "percent": 8 });
    let conflict = desk
        .processes
        .append(&p, "progress", &other, "k", None)
        .await;
    assert!(
        matches!(conflict, Err(ProcessError::EventConflict { .. })),
        "{conflict:?}"
    );
    // A zombie tells nothing.
    let zombie = desk.processes.claim(&p).await.expect("is there");
    desk.processes.take_over(&p).await.expect("takes over");
    let fenced = desk
        .processes
        .append(&p, "progress", &other, "l", Some(&zombie))
        .await;
    assert!(
        matches!(fenced, Err(ProcessError::Commit(CommitError::Fenced))),
        "{fenced:?}"
    );
    desk.end("p", json!(1)).await;
    let late = desk
        .processes
        .append(&p, "progress", &other, "m", None)
        .await;
    assert!(matches!(late, Err(ProcessError::Ended { .. })), "{late:?}");
    let kinds = desk.world.kinds().await;
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "process_event").count(),
        1
    );
}

/// E15: events are dense for each process and read after a sequence, among those of others.
pub async fn e15_events_are_dense_and_read_after_a_sequence(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    for id in ["p", "q"] {
        desk.processes
            .start(&declared(id), None)
            .await
            .expect("starts");
    }
    for index in 0..10 {
        let payload = json!({ "percent": index });
        for id in ["p", "q", "q"] {
            let key = format!("{index}-{}", desk.world.store.commits());
            let id = process(id);
            let told = desk.processes.append(&id, "progress", &payload, &key, None);
            told.await.expect("appends");
        }
    }
    for (id, count) in [("p", 12), ("q", 22)] {
        for after in 0..=count + 1 {
            let page = desk
                .processes
                .events(&process(id), after, 5)
                .await
                .expect("reads");
            let seqs: Vec<u64> = page.events.iter().filter_map(|event| event.seq).collect();
            let expected: Vec<u64> = (after + 1..=count).take(5).collect();
            assert_eq!(seqs, expected, "{id} after {after}");
            assert_eq!(page.has_more, after + 5 < count, "{id} after {after}");
        }
    }
}

/// E15: waiting for the next event ends with it, and with the end of the process.
pub async fn e15_waiting_for_the_next_event_ends_with_it(fixture: &dyn StoreFixture) {
    let desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&declared("p"), None)
        .await
        .expect("starts");
    let first = desk.processes.next_event(&p, 0).await.expect("is there");
    assert_eq!(
        (first.kind(), first.seq),
        (&EventKind::ProcessRegistered, Some(1))
    );
    let mut next = pin!(desk.processes.next_event(&p, 2));
    assert!(desk.world.stands_still(next.as_mut()).await);
    let one = json!({ "percent": 1 });
    let told = desk.processes.append(&p, "progress", &one, "1", None);
    told.await.expect("appends");
    let next = next.await.expect("comes");
    assert_eq!((next.kind(), next.seq), (&EventKind::ProcessEvent, Some(3)));
    desk.end("p", json!(1)).await;
    let last = desk.processes.next_event(&p, 3).await.expect("comes");
    assert_eq!(last.kind(), &EventKind::ProcessSucceeded);
    let none = desk.processes.next_event(&p, 4).await;
    assert!(matches!(none, Err(ProcessError::Ended { .. })), "{none:?}");
}

/// E15: the first signal of a name and ordinal stands, also before anybody waits for it.
pub async fn e15_the_first_signal_of_an_ordinal_stands(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let p = process("p");
    desk.processes
        .start(&function("p", json!(1)), None)
        .await
        .expect("starts");
    for (name, ordinal, code) in [
        ("", 1, "process_name_invalid"),
        ("a b", 1, "process_name_invalid"),
        ("päd", 1, "process_name_invalid"),
        ("go", 0, "process_signal_ordinal"),
    ] {
        let refused = desk
            .processes
            .signal(&p, name, ordinal, json!(1), None)
            .await;
        let refused = refused.expect_err("is refused");
        assert_eq!(runtime_core::Classified::code(&refused), code);
    }
    let unknown = desk
        .processes
        .signal(&process("q"), "go", 1, json!(1), None)
        .await;
    assert!(
        matches!(unknown, Err(ProcessError::NotFound { .. })),
        "{unknown:?}"
    );
    for (value, expected) in [
        (1, SignalAnswer::Accepted),
        (2, SignalAnswer::AlreadySignalled),
    ] {
        let answer = desk
            .processes
            .signal(&p, "go_on-1", 1, json!(value), None)
            .await;
        assert_eq!(answer.expect("is decided"), expected);
        desk.restart().await;
    }
    for expected in 1..=7 {
        let ordinal = desk
            .processes
            .signal_next(&p, "next", &json!(expected), None)
            .await;
        assert_eq!(ordinal.expect("is decided"), Some(expected));
    }
    let told = desk.world.events().await;
    let first = told
        .iter()
        .find(|event| event.kind() == &EventKind::PromiseResolved);
    let first = first.expect("is told").draft.payload["resolution"].clone();
    assert_eq!(first, json!(Resolution::Ok { value: json!(1) }));
    desk.end("p", json!(1)).await;
    let late = desk
        .processes
        .signal(&p, "late", 1, json!(1), None)
        .await
        .expect("is decided");
    assert_eq!(late, SignalAnswer::Ended);
    assert_eq!(
        desk.processes
            .signal_next(&p, "next", &json!(1), None)
            .await
            .expect("decides"),
        None
    );
}

/// E15, V9: a reader of events that retention removed is told of the gap, once, and goes on with
/// what is left.
pub async fn e15_a_reader_is_told_of_pruned_events(fixture: &dyn StoreFixture) {
    let mut desk = Desk::new(fixture).await;
    let p = process("p");
    let started = desk.processes.start(&declared("p"), None).await;
    started.expect("starts");
    for percent in 0..5 {
        let (payload, key) = (json!({ "percent": percent }), percent.to_string());
        let told = desk
            .processes
            .append(&p, "progress", &payload, &key, None)
            .await;
        told.expect("appends");
    }
    let all = desk.processes.events(&p, 0, 256).await.expect("reads");
    assert!(!all.gap, "nothing is removed");
    let pruned = &all.events[3];
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(2))
        .remove(Removal::Through(Position(pruned.position)));
    desk.world.store.commit(commit).await.expect("prunes");
    for restarted in [false, true] {
        if restarted {
            desk.restart().await;
        }
        let last = all.events.len() as u64;
        for (after, gap) in [(0, true), (2, true), (3, true), (4, false), (last, false)] {
            let page = desk.processes.events(&p, after, 256).await.expect("reads");
            let seqs: Vec<u64> = page.events.iter().filter_map(|event| event.seq).collect();
            let expected: Vec<u64> = (after.max(4) + 1..=last).collect();
            assert_eq!((seqs, page.gap), (expected, gap), "after {after}");
        }
        let next = desk.processes.next_event(&p, 0).await.expect("is there");
        assert_eq!(next.seq, Some(5), "the first that is left");
    }
    let last = all.events.last().expect("some are left");
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(3))
        .remove(Removal::Through(Position(last.position)));
    desk.world.store.commit(commit).await.expect("prunes");
    let seen = all.events.len() as u64;
    for (of, after, gap) in [("p", 0, true), ("p", seen, false), ("unknown", 0, false)] {
        let page = desk.processes.events(&process(of), after, 256).await;
        let page = page.expect("reads");
        assert_eq!(
            (page.events.len(), page.gap),
            (0, gap),
            "{of} after {after}"
        );
    }
}
