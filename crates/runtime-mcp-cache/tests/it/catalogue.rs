//! Catalogues: pages, limits, order, refusals, rendering (M4, M5, M6, M8).

use runtime_mcp_cache::{
    CacheConfig, CacheValue as _, Catalogue, CatalogueBuilder, Changes, Era, FetchError,
    FetchLimits, Hints,
};
use serde_json::{Value, json};

fn tool(name: &str, description: &str) -> Value {
    json!({"name": name, "description": description, "inputSchema": {"type": "object"}})
}

fn limits() -> FetchLimits {
    CacheConfig::default().fetch_limits()
}

fn catalogue(pages: &[&[Value]]) -> Catalogue {
    let mut list = CatalogueBuilder::new("s", false, limits());
    for page in pages {
        list.page(page.to_vec(), Hints::default())
            .expect("it is within the limits");
    }
    list.finish().value
}

#[test]
fn m8_order_and_digest_do_not_depend_on_the_order_of_the_server() {
    let one = catalogue(&[&[tool("b", "2"), tool("a", "1")], &[tool("c", "3")]]);
    let two = catalogue(&[&[tool("c", "3")], &[], &[tool("a", "1"), tool("b", "2")]]);
    let names: Vec<_> = one.tools().iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(one.digest(), two.digest());
    assert_eq!(one.rendered(), two.rendered());
}

#[test]
fn m8_duplicate_and_malformed_tools_are_refused_with_a_reason() {
    let list = catalogue(&[
        &[tool("twice", "1"), tool("good", "2")],
        &[
            tool("twice", "1"),
            json!({"name": "bare"}),
            json!({"inputSchema": {}}),
            json!(7),
        ],
    ]);
    assert_eq!(list.tools().len(), 1);
    assert_eq!(list.tools()[0].name, "good");
    let refused: Vec<_> = list
        .refused()
        .iter()
        .map(|tool| tool.name.as_str())
        .collect();
    assert_eq!(refused, ["", "", "bare", "twice", "twice"]);
    assert!(list.tool("twice").is_none());
}

#[test]
fn m4_pages_are_bounded_in_number_tools_and_bytes() {
    let of = |limits: FetchLimits, pages: usize| {
        let mut list = CatalogueBuilder::new("s", false, limits);
        (0..pages).try_for_each(|page| list.page([tool(&page.to_string(), "x")], Hints::default()))
    };
    let bytes_of_one = tool("0", "x").to_string().len() as u64;
    assert!(
        of(
            FetchLimits {
                pages_max: 3,
                ..limits()
            },
            3
        )
        .is_ok()
    );
    assert!(
        of(
            FetchLimits {
                tools_max: 3,
                ..limits()
            },
            3
        )
        .is_ok()
    );
    assert!(
        of(
            FetchLimits {
                bytes_max: 3 * bytes_of_one,
                ..limits()
            },
            3
        )
        .is_ok()
    );
    for limits in [
        FetchLimits {
            pages_max: 2,
            ..limits()
        },
        FetchLimits {
            tools_max: 2,
            ..limits()
        },
        FetchLimits {
            bytes_max: 3 * bytes_of_one - 1,
            ..limits()
        },
    ] {
        assert!(
            matches!(of(limits, 3), Err(FetchError::TooLarge { .. })),
            "{limits:?}"
        );
    }
}

#[test]
fn m5_bytes_are_those_that_were_listed() {
    let tools = [tool("a", "1"), tool("b", "2")];
    let expected: usize = tools.iter().map(|tool| tool.to_string().len()).sum();
    assert_eq!(catalogue(&[&tools]).bytes(), expected as u64);
}

#[test]
fn m4_the_hints_of_pages_are_joined() {
    let mut list = CatalogueBuilder::new("s", false, limits());
    for (ttl_ms, private) in [(Some(500), false), (Some(200), true), (Some(900), false)] {
        let hints = Hints {
            era: Era::WithHints,
            ttl_ms,
            private,
        };
        list.page([], hints).unwrap();
    }
    let hints = list.finish().hints;
    assert_eq!((hints.ttl_ms, hints.private), (Some(200), true));
}

#[test]
fn m6_changes_name_what_was_added_removed_and_changed() {
    let before = catalogue(&[&[tool("a", "1"), tool("b", "2"), tool("c", "3")]]);
    let after = catalogue(&[&[tool("b", "2"), tool("c", "new"), tool("d", "4")]]);
    let expected = Changes {
        added: vec!["d".into()],
        removed: vec!["a".into()],
        changed: vec!["c".into()],
    };
    assert_eq!(after.changes_since(&before), expected);
    assert_eq!(after.changes_since(&after), Changes::default());
}

#[test]
fn m6_the_rendered_json_is_what_a_model_request_carries() {
    let list = catalogue(&[&[tool("b.c", "2"), tool("a", "1")]]);
    let rendered: Value = serde_json::from_slice(list.rendered()).unwrap();
    let expected: Vec<_> = list
        .tools()
        .iter()
        .map(|tool| {
            let definition = &tool.definition;
            json!({
                "name": definition.name,
                "description": definition.description,
                "input_schema": definition.input_schema,
            })
        })
        .collect();
    assert_eq!(rendered, Value::Array(expected));
    let one: Value = serde_json::from_slice(list.rendered_tool("b.c").unwrap()).unwrap();
    assert_eq!(one, rendered[1]);
    assert_eq!(
        serde_json::from_slice::<Value>(catalogue(&[]).rendered()).unwrap(),
        json!([])
    );
}

#[test]
fn m10_hints_of_a_server_count_only_if_it_is_trusted() {
    let mut raw = tool("read", "x");
    raw["annotations"] = json!({"readOnlyHint": true});
    for trusted in [false, true] {
        let mut list = CatalogueBuilder::new("s", trusted, limits());
        list.page([raw.clone()], Hints::default())
            .expect("it is within the limits");
        let definition = list.finish().value.tools()[0].definition.clone();
        assert_eq!(definition.needs_approval(), !trusted);
        assert_eq!(definition.is_retry_safe(), trusted);
    }
}
