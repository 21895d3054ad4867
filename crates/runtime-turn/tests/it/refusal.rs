//! Calls that no envelope can name (E3).

use runtime_core::ToolCall;
use serde_json::json;

use crate::world::{asked, call, one, results};

fn named(name: &str) -> ToolCall {
    call("a", name, json!({}))
}

/// E3: a blank or endless name gets an error as result, and the turn goes on.
#[test]
fn e3_a_call_without_a_usable_name_is_answered_without_an_effect() {
    for name in ["", "  ", &"x".repeat(5000), &"\u{1}".repeat(700)] {
        let machine = asked(&[named(name)]);
        let results = results(&machine);
        assert!(results[0].1.starts_with("call cannot be made: "), "{name}");
        assert!(results[0].2);
        assert_eq!(one(&machine).envelope.key().as_str(), "1.llm_call.0");
    }
}
