//! What a turn keeps beside its record.

use runtime_core::{ContentPart, EffectOutcome, EffectOutput, ToolCallOutput};
use runtime_turn::RecordedEffect;

use super::{Desk, Place, TALK, TALKED, desk, events};

/// T2: of a long output the model is shown a part; the whole is in the store, also for the next
/// process.
pub(crate) async fn t2_a_long_output_is_cut_and_kept_whole(place: &dyn Place) {
    let world = Desk::new();
    let runtime = world.open_worker(place).await;
    runtime.ask(&desk(), TALK).await.unwrap();
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let events = events(runtime.store()).await;
    let recorded = events
        .iter()
        .filter_map(|event| RecordedEffect::from_event(&event.draft).unwrap());
    let content = recorded.filter_map(|recorded| match recorded.outcome {
        EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Finished {
            result,
            ..
        })) => Some(result.content),
        _ => None,
    });
    let content: Vec<ContentPart> = content.flatten().collect();
    let shown: usize = content
        .iter()
        .map(|part| match part {
            ContentPart::Text { text } => text.len(),
            _ => 0,
        })
        .sum();
    assert!(shown < TALKED, "{shown}");
    let whole = content.iter().find_map(|part| match part {
        ContentPart::Attachment { digest, .. } => Some(*digest),
        _ => None,
    });
    let whole = runtime.store().attachment(&whole.unwrap()).await.unwrap();
    assert_eq!(&whole[..], "word ".repeat(TALKED / 5).as_bytes());
    runtime.close().await.unwrap();
}
