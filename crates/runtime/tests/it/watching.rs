//! What a watcher may see, through the runtime as it is wired by a host (V3, V9).

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime::core::{Classified, ErrorClass, EventKind, FinishReason, RuntimeEvent, Topic};
use runtime::events::{Authorizer, DeltaTarget, EventHub, HubParts, Subscription};
use runtime::fs_store::{FsStore, FsStoreOptions};
use runtime::model::ModelError;
use runtime::prelude::*;
use runtime::store::{SystemClock, SystemRandom};

fn overloaded() -> ModelError {
    ModelError {
        provider: "scripted".into(),
        model: "scripted".into(),
        code: "model_overloaded",
        class: ErrorClass::Unavailable,
        reason: FinishReason::ProviderError,
        message: "later".into(),
        provider_code: None,
        retry_after: None,
    }
}

/// V3: an attempt that breaks off has shown what will not be; the beginning of the next one voids
/// it, and what is shown after that is what is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_a_new_attempt_voids_what_the_broken_one_has_shown() {
    const ANSWER: &str = "A log is a list of what happened.";
    let steps = vec![ScriptStep::text(ANSWER).breaking_first(2, overloaded())];
    let model = ScriptedModel::new("scripted", steps);
    let agent = Agent::builder("1", Arc::new(model)).build();
    let runtime = runtime::builder().agent(agent).open().await.unwrap();
    let desk = runtime.worker("desk").await.unwrap();
    let mut stream = desk.stream("What is a log?").await.unwrap();
    let (mut attempts, mut shown) = (Vec::new(), String::new());
    let mut committed = None;
    while let Some(item) = stream.next().await {
        match item.unwrap() {
            StreamItem::Delta(delta) if delta.target == DeltaTarget::Started => {
                attempts.push(delta.attempt);
                shown.clear();
            }
            StreamItem::Delta(delta) => {
                assert_eq!(Some(&delta.attempt), attempts.last());
                shown.push_str(delta.answer_text());
            }
            StreamItem::Event(event) if *event.kind() == EventKind::MessageCommitted => {
                committed = Some(event.draft.payload.to_string());
            }
            _ => {}
        }
    }
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(shown, ANSWER);
    assert!(committed.unwrap().contains(ANSWER));
    runtime.close().await.unwrap();
}

/// V4, S4: whoever watches a log on files of which an event is damaged is told where, once, and is
/// given all others in order.
#[tokio::test]
async fn v4_a_watcher_of_a_damaged_log_is_told_where_and_given_the_rest() {
    const ANSWER: &str = "The first answer of all.";
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("store");
    let steps = [ANSWER, "The second."].map(ScriptStep::text);
    let model = ScriptedModel::new("scripted", steps.to_vec());
    let agent = Agent::builder("1", Arc::new(model)).build();
    let builder = runtime::builder().directory(&directory).agent(agent);
    let runtime = builder.open().await.unwrap();
    let desk = runtime.worker("desk").await.unwrap();
    for question in ["What is first?", "And then?"] {
        desk.ask(question).await.unwrap();
    }
    runtime.close().await.unwrap();
    let hub = || {
        let options = FsStoreOptions::new(&directory);
        let store = FsStore::open_read_only(&options).unwrap();
        let clock = Arc::new(SystemClock::new());
        EventHub::new(Arc::new(store), clock, Arc::new(SystemRandom))
    };
    let whole = hub();
    let start = whole.cursor_from_start();
    let whole = whole.read(Topic::Runtime, start, 256).await.unwrap();
    assert!(!whole.has_more);
    let says_it = |event: &RuntimeEvent| event.draft.payload.to_string().contains(ANSWER);
    let lost: Vec<u64> = whole
        .events
        .iter()
        .filter(|event| says_it(event))
        .map(|event| event.position)
        .collect();

    let segment = directory.join("segments/0000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let places: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(ANSWER.as_bytes()))
        .collect();
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&segment, bytes).unwrap();

    let hub = hub();
    let mut stream = hub.subscribe(Topic::Runtime, hub.cursor_from_start());
    let (mut given, mut told) = (Vec::new(), Vec::new());
    while stream.cursor() != whole.next {
        match stream.next().await.unwrap().unwrap() {
            StreamItem::Event(event) => given.push(event.position),
            StreamItem::Corrupt { from, to } => told.extend(from.0..=to.0),
            other => panic!("{other:?}"),
        }
    }
    assert!(!lost.is_empty() && lost.iter().all(|position| told.contains(position)));
    let all = whole.events.iter().map(|event| event.position);
    let rest: Vec<u64> = all.filter(|position| !told.contains(position)).collect();
    assert_eq!(given, rest);
    assert!(given.last() > told.last(), "it goes on behind the damage");
}

/// Lets a subject read its own session and nothing else.
#[derive(Debug)]
struct OwnSession;

#[async_trait]
impl Authorizer for OwnSession {
    async fn authorize(&self, topic: &Topic, subject: Option<&str>) -> Result<(), String> {
        match (topic, subject) {
            (_, None) => Ok(()),
            (Topic::Session { session }, Some(subject)) if session.as_str() == subject => Ok(()),
            _ => Err("this is not yours".to_owned()),
        }
    }
}

/// V9: a host that gives an authoriser to the builder has every reader asked about, and the
/// runtime's own work is not in its way.
#[tokio::test]
async fn v9_an_authoriser_given_to_the_builder_sees_each_subscription() {
    let model = ScriptedModel::new("scripted", vec![ScriptStep::text("yes")]);
    let agent = Agent::builder("1", Arc::new(model)).build();
    let mut parts = HubParts::default();
    parts.authorizer = Some(Arc::new(OwnSession));
    let runtime = runtime::builder()
        .agent(agent)
        .events(parts)
        .open()
        .await
        .unwrap();
    let desk = runtime.worker("desk").await.unwrap();
    desk.ask("is it so?").await.unwrap();
    let start = runtime.events().cursor_from_start();
    for (topic, allowed) in [
        (
            Topic::Session {
                session: desk.id().into(),
            },
            true,
        ),
        (
            Topic::Session {
                session: "other".parse().unwrap(),
            },
            false,
        ),
        (Topic::Runtime, false),
    ] {
        let subscription = Subscription::new(topic.clone(), start).on_behalf_of("desk");
        let mut stream = runtime.events().subscribe_with(subscription);
        match stream.next().await.unwrap() {
            Ok(item) => {
                assert!(allowed, "{topic:?}");
                assert!(matches!(item, StreamItem::Event(_)));
            }
            Err(error) => {
                assert!(!allowed, "{topic:?}");
                assert_eq!(error.code(), "subscribe_refused");
                assert!(stream.next().await.is_none(), "it ends");
            }
        }
    }
    runtime.close().await.unwrap();
}
