//! What a watcher may see, through the runtime as it is wired by a host (V3, V9).

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime::core::{Classified, ErrorClass, EventKind, FinishReason, Topic};
use runtime::events::{Authorizer, DeltaTarget, HubParts, Subscription};
use runtime::model::ModelError;
use runtime::prelude::*;

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
