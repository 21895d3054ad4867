//! Answers as real servers give them.

use runtime_core::{FinishReason, ModelEvent, ToolCall, Usage};
use runtime_testkit::{ProviderResponse, ProviderStep};
use serde_json::{Value, json};

use crate::support::{Asked, ask, ask_with, config, request, server};

fn calls(asked: &Asked) -> Vec<&ToolCall> {
    let calls = asked.events.iter().filter_map(|event| match event {
        ModelEvent::ToolCall(call) => Some(call),
        _ => None,
    });
    calls.collect()
}

fn usage(asked: &Asked) -> Option<Usage> {
    asked.events.iter().find_map(|event| match event {
        ModelEvent::Usage(usage) => Some(*usage),
        _ => None,
    })
}

fn fragment(index: usize, arguments: &str) -> Value {
    json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
}

fn begin(index: usize, id: &str, name: &str) -> Value {
    json!({"tool_calls": [{"index": index, "id": id, "type": "function",
        "function": {"name": name, "arguments": ""}}]})
}

async fn whole(response: ProviderResponse) -> Asked {
    let server = server(response);
    ask(config(&server)).await.whole()
}

fn finished(asked: &Asked, expected: FinishReason) {
    let last = asked.events.last();
    assert_eq!(last, Some(&ModelEvent::Finished { reason: expected }));
}

#[tokio::test]
async fn t6_text_comes_in_pieces_and_ends_with_usage() {
    let response = ProviderResponse::stream()
        .delta(&json!({"role": "assistant", "content": ""}))
        .text("Hel")
        .text("lo, wörld")
        .reason("stop")
        .usage(12, 5)
        .done();
    let asked = whole(response).await;
    assert_eq!(
        asked.events,
        [
            ModelEvent::TextDelta {
                text: "Hel".to_owned()
            },
            ModelEvent::TextDelta {
                text: "lo, wörld".to_owned()
            },
            ModelEvent::Usage(Usage {
                input_tokens: 12,
                output_tokens: 5,
                cached_input_tokens: 0
            }),
            ModelEvent::Finished {
                reason: FinishReason::Stop
            },
        ]
    );
}

/// Every cut of the byte stream gives the same answer, in the middle of a character as well.
#[tokio::test]
async fn t6_any_fragmentation_gives_the_same_answer() {
    let response = |bytes| {
        ProviderResponse::stream()
            .fragmented(bytes)
            .text("Grüße, ")
            .text("日本")
            .delta(&begin(0, "call_a", "look_up"))
            .delta(&fragment(0, "{\"city\": \"Os"))
            .delta(&fragment(0, "lo\"}"))
            .reason("tool_calls")
            .usage(3, 4)
            .done()
    };
    let plain = whole(response(usize::MAX)).await;
    assert_eq!(plain.text(), "Grüße, 日本");
    for bytes in [1, 2, 3, 7, 64] {
        assert_eq!(whole(response(bytes)).await.events, plain.events, "{bytes}");
    }
}

#[tokio::test]
async fn t6_lines_may_end_as_they_like_and_comments_are_no_events() {
    let response = ProviderResponse::stream()
        .raw(": keep-alive\r\n\r\n")
        .raw("data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\r\n\r\n")
        .raw(":\n\n")
        .raw("event: message\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n")
        .done();
    assert_eq!(whole(response).await.text(), "hi");
}

#[tokio::test]
async fn t6_parallel_calls_are_told_apart_by_index() {
    let response = ProviderResponse::stream()
        .delta(&begin(0, "call_a", "one"))
        .delta(&begin(1, "call_b", "two"))
        .delta(&fragment(1, "{\"y\""))
        .delta(&fragment(0, "{\"x\": "))
        .delta(&fragment(1, ": 2}"))
        .delta(&fragment(0, "1}"))
        .reason("tool_calls")
        .done();
    let asked = whole(response).await;
    let calls = calls(&asked);
    let shown: Vec<_> = calls
        .iter()
        .map(|c| (c.id.as_str(), c.name.as_str(), &c.arguments))
        .collect();
    assert_eq!(
        shown,
        [
            ("call_a", "one", &json!({"x": 1})),
            ("call_b", "two", &json!({"y": 2}))
        ]
    );
    finished(&asked, FinishReason::ToolUse);
}

/// The pieces of the arguments that are shown, joined, are the arguments.
#[tokio::test]
async fn t6_argument_deltas_are_deltas() {
    let response = ProviderResponse::stream()
        .delta(&begin(0, "call_a", "one"))
        .delta(&fragment(0, "{\"x\": "))
        .delta(&fragment(0, "[1, 2"))
        .delta(&fragment(0, ", 3]}"))
        .reason("tool_calls")
        .done();
    let asked = whole(response).await;
    let pieces = asked.events.iter().filter_map(|event| match event {
        ModelEvent::ToolArgumentsDelta { call, text } => {
            assert_eq!(call.as_str(), "call_a");
            Some(text.as_str())
        }
        _ => None,
    });
    let pieces: Vec<&str> = pieces.collect();
    assert_eq!(pieces, ["{\"x\": ", "[1, 2", ", 3]}"]);
    assert_eq!(calls(&asked)[0].arguments, json!({"x": [1, 2, 3]}));
}

/// What the client library would lose or double: see `frames.rs`.
#[tokio::test]
async fn t6_calls_of_careless_servers_are_neither_lost_nor_doubled() {
    let one_of = |asked: &Asked| {
        let calls = calls(asked);
        calls.iter().map(|c| c.name.clone()).collect::<Vec<_>>()
    };
    let gap = ProviderResponse::stream()
        .call(1, "call_a", "one", &json!({}))
        .reason("tool_calls")
        .done();
    assert_eq!(one_of(&whole(gap).await), ["one"]);

    let same_index = ProviderResponse::stream()
        .call(0, "call_a", "one", &json!({"x": 1}))
        .call(0, "call_b", "two", &json!({"x": 2}))
        .reason("tool_calls")
        .done();
    assert_eq!(one_of(&whole(same_index).await), ["one", "two"]);

    let function = json!({"name": "one", "arguments": "{}"});
    let no_index = ProviderResponse::stream()
        .delta(&json!({"tool_calls": [{"id": "call_a", "function": function}]}))
        .reason("stop")
        .done();
    let asked = whole(no_index).await;
    assert_eq!(one_of(&asked), ["one"]);
    finished(&asked, FinishReason::ToolUse);
}

/// Two calls without ids of their own get some, the same on every attempt and others in the next
/// answer.
#[tokio::test]
async fn t6_calls_without_usable_ids_get_their_own() {
    let response = ProviderResponse::stream()
        .call(0, "", "one", &json!({}))
        .call(1, "", "two", &json!({}))
        .reason("tool_calls")
        .done();
    let server = server(response);
    let ids = |asked: &Asked| {
        let calls = calls(asked);
        calls
            .iter()
            .map(|call| call.id.to_string())
            .collect::<Vec<_>>()
    };
    let first = ids(&ask(config(&server)).await.whole());
    assert_ne!(first[0], first[1]);
    assert_eq!(ids(&ask(config(&server)).await.whole()), first);
    let mut later = request();
    later.idempotency_key = "turn-2/call-1".to_owned();
    assert_ne!(ids(&ask_with(config(&server), later).await.whole()), first);
}

#[tokio::test]
async fn t6_reasoning_is_shown_apart_from_text() {
    for member in ["reasoning_content", "reasoning"] {
        let response = ProviderResponse::stream()
            .delta(&json!({ member: "Let me " }))
            .delta(&json!({ member: "think." }))
            .text("Four.")
            .reason("stop")
            .done();
        let asked = whole(response).await;
        let thoughts = asked.events.iter().filter_map(|event| match event {
            ModelEvent::ReasoningDelta { text } => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(thoughts.collect::<String>(), "Let me think.");
        assert_eq!(asked.text(), "Four.");
    }
}

#[tokio::test]
async fn t6_usage_may_be_absent_or_come_with_the_reason() {
    let absent = ProviderResponse::stream().text("hi").reason("stop").done();
    assert_eq!(usage(&whole(absent).await), None);
    let with_reason = ProviderResponse::stream()
        .text("hi")
        .event(
            &json!({
                "choices": [{"delta": {}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 1,
                    "prompt_tokens_details": {"cached_tokens": 4}},
            })
            .to_string(),
        )
        .done();
    let expected = Usage {
        input_tokens: 9,
        output_tokens: 1,
        cached_input_tokens: 4,
    };
    assert_eq!(usage(&whole(with_reason).await), Some(expected));
}

/// An answer that said why it ends is whole, also without the last marker.
#[tokio::test]
async fn t6_an_answer_may_end_without_the_marker() {
    let unmarked = ProviderResponse::stream()
        .call(0, "call_a", "one", &json!({"x": 1}))
        .reason("tool_calls")
        .usage(1, 2)
        .end();
    let asked = whole(unmarked).await;
    assert_eq!(calls(&asked).len(), 1);
    assert_eq!(usage(&asked).map(|usage| usage.output_tokens), Some(2));
    finished(&asked, FinishReason::ToolUse);
}

#[tokio::test]
async fn t6_an_answer_cut_at_its_limit_keeps_only_whole_calls() {
    let cut = ProviderResponse::stream()
        .text("I will")
        .call(0, "call_a", "one", &json!({"x": 1}))
        .delta(&begin(1, "call_b", "two"))
        .delta(&fragment(1, "{\"y\": "))
        .reason("length")
        .done();
    let asked = whole(cut).await;
    assert_eq!(calls(&asked).len(), 1);
    finished(&asked, FinishReason::OutputLimit);
}

#[tokio::test]
async fn t6_a_withheld_answer_says_so() {
    let withheld = ProviderResponse::stream().reason("content_filter").done();
    finished(&whole(withheld).await, FinishReason::ContentFilter);
}

/// A slow server is not a broken one: signs of life count.
#[tokio::test]
async fn t6_a_pause_within_the_bounds_breaks_nothing() {
    let slow = ProviderResponse::stream()
        .text("a")
        .pause(std::time::Duration::from_millis(50))
        .step(ProviderStep::Pause(std::time::Duration::from_millis(50)))
        .text("b")
        .reason("stop")
        .done();
    assert_eq!(whole(slow).await.text(), "ab");
}
