//! The page of limits says what the code does.

use std::collections::BTreeMap;
use std::fmt::Debug;

const PAGE: &str = include_str!("../../../../docs/reference/limits.md");

/// The settings of a value, by name, as `Debug` prints them; values with parts of their own are
/// left to their own table.
fn settings(value: &impl Debug) -> BTreeMap<String, String> {
    let text = format!("{value:#?}");
    let mut settings = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().skip(1) {
        if let Some((name, value)) = &mut open {
            value.push_str(line.trim().trim_end_matches(','));
            if line.starts_with("    )") {
                settings.insert(std::mem::take(name), std::mem::take(value));
                open = None;
            }
            continue;
        }
        let Some(line) = line
            .strip_prefix("    ")
            .filter(|line| !line.starts_with(' '))
        else {
            continue;
        };
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        match value.strip_suffix('(') {
            Some(_) => open = Some((name.to_owned(), value.to_owned())),
            None if value.ends_with('{') => {}
            None => {
                let value = value.trim_end_matches(',').to_owned();
                settings.insert(name.to_owned(), value);
            }
        }
    }
    settings
}

/// The table of a type on the page.
fn table(path: &str) -> BTreeMap<String, String> {
    let (_, rest) = PAGE
        .split_once(&format!("`{path}`\n"))
        .unwrap_or_else(|| panic!("{path}"));
    let rest = rest.split("\n## ").next().unwrap_or_default();
    let rows = rest.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split("` | `");
        let name = cells.next()?;
        let value = cells.next()?.split('`').next()?;
        Some((name.to_owned(), value.to_owned()))
    });
    rows.collect()
}

macro_rules! compare {
    ($($path:path $(, but $($left_out:literal)+)?;)*) => {
        $({
            let path = stringify!($path);
            let mut code = settings(&<$path>::default());
            let left_out: &[&str] = &[$($($left_out),+)?];
            code.retain(|name, _| !left_out.contains(&name.as_str()));
            assert_eq!(table(path), code, "docs/reference/limits.md, {path}");
        })*
    };
}

#[test]
fn limits_of_the_page_are_those_of_the_code() {
    compare! {
        runtime::workers::RuntimeLimits;
        runtime::workers::RuntimeConfig;
        runtime::turn::TurnBudgets;
        runtime::core::RetryPolicy;
        runtime::agent::ToolOutputLimits;
        runtime::effects::EffectLimits;
        runtime::effects::LeaseConfig;
        runtime::effects::ProcessLimits;
        runtime::events::EventConfig;
        runtime::events::LiveConfig;
        runtime::store::Limits;
        runtime::fs_store::FsLimits;
        runtime::agent_cache::AgentCacheConfig;
        runtime::effects::WorkflowConfig;
        runtime::events::BridgeConfig, but "source";
    }
    assert_eq!(runtime::core::ENVELOPE_BYTES_MAX, 4 * 1024);
    assert_eq!(runtime::core::QUESTION_BYTES_MAX, 256);
    assert_eq!(runtime::workers::TRANSCRIPT_PAGE_MAX, 256);
    assert_eq!(runtime::fs_store::INBOX_COMMANDS_MAX, 1024);
    assert_eq!(runtime::fs_store::INBOX_COMMAND_BYTES_MAX, 2 * 1024 * 1024);
}

#[cfg(all(feature = "mcp", feature = "genai"))]
#[test]
fn limits_of_the_borders_are_those_of_the_code() {
    compare! {
        runtime::mcp_cache::CacheConfig;
        runtime::genai::ModelTimeouts;
    }
    // Its `Debug` leaves out most, since credentials are in it.
    let entry = serde_json::to_value(runtime::mcp::McpServerConfig::default()).unwrap();
    let numbers = entry
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| value.is_number());
    let numbers = numbers.map(|(name, value)| (name.clone(), value.to_string()));
    let numbers: BTreeMap<String, String> = numbers.collect();
    assert_eq!(table("runtime::mcp::McpServerConfig"), numbers);
}

#[test]
fn a_planted_difference_is_seen() {
    #[derive(Debug)]
    #[expect(dead_code, reason = "read by `Debug` alone")]
    struct Planted {
        plain: u32,
        some: Option<u32>,
        inner: Option<u64>,
    }
    let planted = Planted {
        plain: 7,
        some: None,
        inner: Some(12),
    };
    let found = settings(&planted);
    assert_eq!(found["plain"], "7");
    assert_eq!(found["some"], "None");
    assert_eq!(found["inner"], "Some(12)");
    assert_eq!(found.len(), 3);
    assert_ne!(table("runtime::turn::TurnBudgets"), found);
}
