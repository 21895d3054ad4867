//! Transcripts, and inputs of the system.

use std::sync::Arc;

use runtime_core::{Classified, EventKind, Message, Role};
use runtime_workers::{Runtime, Transcript, view};

use super::{
    Desk, GATED, GOLDEN, PLAIN, Place, approve_all, check_context, count, desk, ends, events,
};

async fn whole(runtime: &Runtime) -> Transcript {
    runtime.transcript(&desk(), 1, 1000).await.unwrap()
}

fn roles(transcript: &Transcript) -> Vec<Role> {
    transcript
        .items
        .iter()
        .map(|item| item.message.role)
        .collect()
}

pub(crate) async fn w1_a_transcript_is_dense_and_read_in_pages(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let first = runtime.send(&desk(), GOLDEN).await.unwrap();
    let second = runtime.send(&desk(), PLAIN).await.unwrap();
    assert_eq!((first.sequence, second.sequence), (1, 2));
    assert!(first.position.unwrap() < second.position.unwrap());
    runtime.settled().await;
    approve_all(&runtime).await;
    runtime.settled().await;
    // Turned off and on again, it is the same.
    let before = whole(&runtime).await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let transcript = whole(&runtime).await;
    assert_eq!(transcript, before);
    use Role::{Assistant, Tool, User};
    let golden = [Assistant, Tool, Assistant, Tool, Assistant];
    assert_eq!(
        roles(&transcript),
        [&[User, User], &golden[..], &[Assistant]].concat()
    );
    assert_eq!((transcript.total, transcript.next_start), (8, None));
    let sequences: Vec<u64> = transcript.items.iter().map(|item| item.sequence).collect();
    assert_eq!(sequences, (1..=8).collect::<Vec<_>>());
    // Each entry names its event, and is what the model was told.
    let told = events(runtime.store()).await;
    for item in &transcript.items {
        let event = told.iter().find(|event| event.id == item.event).unwrap();
        assert_eq!(event.draft.session.as_ref().unwrap().as_str(), "desk");
    }
    assert_eq!(transcript.items[0].event, first.event);
    for limit in 1..=9 {
        let mut read = Vec::new();
        let mut start = Some(1);
        while let Some(from) = start {
            let page = runtime.transcript(&desk(), from, limit).await.unwrap();
            assert_eq!((page.start, page.limit), (from, limit));
            assert!(page.items.len() <= limit);
            read.extend(page.items);
            start = page.next_start;
        }
        assert_eq!(read, transcript.items);
    }
    let past = runtime.transcript(&desk(), 9, 5).await.unwrap();
    assert_eq!(
        (past.items.len(), past.total, past.next_start),
        (0, 8, None)
    );
    let zero = runtime.transcript(&desk(), 1, 0).await.unwrap_err();
    assert_eq!(zero.code(), "limit_zero");
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_a_system_input_joins_the_next_turn_and_starts_none(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    let id = |text: &str| text.parse().unwrap();
    let told = runtime
        .submit_system(&desk(), id("s1"), "it is late")
        .await
        .unwrap();
    assert_eq!((told.sequence, told.repeated), (1, false));
    let again = runtime
        .submit_system(&desk(), id("s1"), "it is late")
        .await
        .unwrap();
    assert!(again.repeated);
    assert_eq!((again.event, again.position), (told.event, told.position));
    let other = runtime
        .submit_system(&desk(), id("s1"), "it is early")
        .await
        .unwrap_err();
    assert_eq!(other.code(), "submission_conflict");
    runtime.settled().await;
    assert_eq!(world.model_calls(), 0);
    runtime.ask(&desk(), PLAIN).await.unwrap();
    check_context(&runtime).await;
    // One that comes during a turn is heard by the next.
    runtime.send(&desk(), GATED).await.unwrap();
    world.gate.entered().await;
    runtime
        .submit_system(&desk(), id("s2"), "hurry")
        .await
        .unwrap();
    world.gate.pass(1);
    runtime.settled().await;
    check_context(&runtime).await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    runtime.ask(&desk(), PLAIN).await.unwrap();
    check_context(&runtime).await;
    let transcript = whole(&runtime).await;
    let texts = |role: Role| {
        let of_role = transcript
            .items
            .iter()
            .filter(move |item| item.message.role == role);
        of_role
            .map(|item| item.message.plain_text())
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(Role::System), ["it is late", "hurry"]);
    assert_eq!(texts(Role::User), [PLAIN, GATED, PLAIN]);
    let worker = view::worker(runtime.store(), &desk()).await.unwrap();
    assert_eq!((worker.inputs, worker.transcript), (3, transcript.total));
    assert_eq!(ends(&events(runtime.store()).await).len(), 3);
    runtime.close().await.unwrap();
}

pub(crate) async fn w1_a_system_input_between_queued_turns_is_heard_once(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    // Inputs of both kinds, as fast as they come: the conversation is the fold all the same.
    let runtime = Arc::new(runtime);
    let mut sending = Vec::new();
    for at in 0..12 {
        let runtime = Arc::clone(&runtime);
        sending.push(tokio::spawn(async move {
            let id = format!("i{at}").parse().unwrap();
            if at % 2 == 0 {
                runtime.submit(&desk(), id, PLAIN).await.map(|_| ())
            } else {
                runtime.submit_system(&desk(), id, "note").await.map(|_| ())
            }
        }));
    }
    for sent in sending {
        sent.await.unwrap().unwrap();
    }
    runtime.settled().await;
    check_context(&runtime).await;
    let told = events(runtime.store()).await;
    assert_eq!(ends(&told).len(), 6);
    assert_eq!(count(&told, &EventKind::InputAccepted), 12);
    let transcript = whole(&runtime).await;
    assert_eq!(transcript.total, 18);
    let notes = transcript
        .items
        .iter()
        .filter(|item| *item.message == Message::text(Role::System, "note"));
    assert_eq!(notes.count(), 6);
    runtime.close().await.unwrap();
}
