//! A newcomer sees the whole answer as it comes, however fast it comes (U2).

use std::sync::Arc;

use futures_util::StreamExt;
use runtime::Builder;
use runtime::prelude::*;

const ANSWER: &str = "A log is a list of what happened, in the order in which it happened.";

/// The model answers at once. Deltas are live only, so this is about a reader who reads; one who
/// looks when the turn is over finds the whole message as an event.
fn agent() -> Agent {
    let model = ScriptedModel::new("scripted", vec![ScriptStep::text(ANSWER)]);
    Agent::builder("1", Arc::new(model)).build()
}

async fn whole_answer(builder: Builder) {
    let runtime = builder.agent(agent()).open().await.unwrap();
    for turn in 0..20 {
        let desk = runtime.worker("desk").await.unwrap();
        let mut stream = desk.stream("What is a log?").await.unwrap();
        let mut text = String::new();
        while let Some(item) = stream.next().await {
            if let StreamItem::Delta(delta) = item.unwrap() {
                text.push_str(delta.answer_text());
            }
        }
        assert_eq!(text, ANSWER, "turn {turn}");
    }
    runtime.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u2_a_stream_has_every_delta_of_its_turn() {
    whole_answer(runtime::builder().memory()).await;
    let folder = tempfile::tempdir().unwrap();
    whole_answer(runtime::builder().directory(folder.path().join("store"))).await;
}
