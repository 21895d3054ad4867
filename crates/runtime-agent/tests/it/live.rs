//! Deltas go sideways, as they come (V3).

use std::sync::Mutex;

use runtime_agent::{LiveSink, TurnDelta};
use runtime_core::{ErrorClass, EventKind, ExecutionScope, FinishReason, ModelEvent, ReplayKey};
use runtime_model::{ModelError, ScriptStep};

use crate::desk::{Desk, words};

#[derive(Debug, Default)]
struct Kept(Mutex<Vec<TurnDelta>>, Mutex<Vec<u32>>);

impl LiveSink for Kept {
    fn started(&self, _: &ExecutionScope, call: &ReplayKey, attempt: u32) {
        assert_eq!(call.as_str(), "0.llm_call.0");
        self.1.lock().unwrap().push(attempt);
    }

    fn delta(&self, delta: TurnDelta) {
        self.0.lock().unwrap().push(delta);
    }
}

fn unavailable() -> ModelError {
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

/// V3: a delta names call, attempt and index; a second attempt starts anew. T6: each attempt is
/// one of the effect.
#[tokio::test]
async fn v3_the_deltas_of_each_attempt_are_counted_from_the_start() {
    let desk = Desk::new(vec![
        ScriptStep::text("hello world").breaking_first(1, unavailable()),
    ]);
    let kept = Kept::default();
    let agent = desk.builder().build();
    let end = desk.drive_watched(&agent, &desk.controller(), &kept).await;
    assert_eq!(words(end), "hello world");
    assert_eq!(desk.model.requests().len(), 2, "two attempts");

    assert_eq!(kept.1.into_inner().unwrap(), [1, 2]);
    let deltas = kept.0.into_inner().unwrap();
    for attempt in [1, 2] {
        let of_attempt: Vec<_> = deltas.iter().filter(|d| d.attempt == attempt).collect();
        let indexes: Vec<u64> = of_attempt.iter().map(|delta| delta.index).collect();
        let dense: Vec<u64> = (0..indexes.len() as u64).collect();
        assert_eq!(indexes, dense);
        let text: String = of_attempt
            .iter()
            .filter_map(|delta| match &delta.event {
                ModelEvent::TextDelta { text } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(text, "hello world");
    }
    let event = deltas[0].to_event();
    assert_eq!(event.kind, EventKind::ModelDelta);
    assert_eq!(event.payload["call"], "0.llm_call.0");
}

/// V3: a replay streams nothing: there is nobody to stream it for.
#[tokio::test]
async fn v3_a_replay_streams_nothing() {
    let desk = Desk::new(vec![ScriptStep::text("hello")]);
    desk.drive().await.unwrap();
    let kept = Kept::default();
    let agent = desk.builder().build();
    desk.drive_watched(&agent, &desk.controller(), &kept)
        .await
        .unwrap();
    assert!(kept.0.into_inner().unwrap().is_empty());
}
