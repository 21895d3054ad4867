//! A source of tools (M1, M4, M8–M11) at a server that behaves.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{Classified, ErrorClass};
use runtime_mcp::{McpServerConfig, McpSource};
use runtime_mcp_cache::{CacheConfig, DiscoveryCache};
use runtime_testkit::{SeededRandom, SimulatedClock};
use runtime_tools::{ToolError, ToolSource};
use rustix::process::Signal;
use serde_json::json;

use crate::fixture::{fixture, fixture_with, nothing, text_of};
use crate::waiting::{until, until_some};

#[tokio::test]
async fn m9_both_eras_list_all_pages_and_answer_calls() {
    for mode in ["plain", "modern"] {
        let fixture = fixture(mode);
        let listing = fixture.list().await;
        assert_eq!(listing.tools.len(), 16, "{mode}: {:?}", listing.diagnostic);
        assert_eq!(listing.diagnostic, None);
        let said = fixture.call("echo", json!({"a": [1, "ä"]})).await;
        assert_eq!(said.expect("an answer"), r#"{"a":[1,"ä"]}"#);
        // E7: the key of the call reaches the server.
        assert_eq!(
            fixture.call("lookup", nothing()).await.expect("an answer"),
            "key-1"
        );
        assert_eq!(
            fixture.call("set", nothing()).await.expect("an answer"),
            r#"{"set":true}"#
        );
        fixture.source.close().await;
    }
}

#[tokio::test]
async fn m10_hints_count_only_of_a_trusted_server() {
    let untrusted = fixture("plain");
    let tool = untrusted.tool("lookup").await;
    assert!(tool.definition().needs_approval());
    assert!(!tool.definition().is_retry_safe());

    let trusted = fixture_with("plain", McpServerConfig::trusted);
    let lookup = trusted.tool("lookup").await;
    assert!(!lookup.definition().needs_approval());
    assert!(lookup.definition().is_retry_safe());
    let set = trusted.tool("set").await;
    assert!(set.definition().needs_approval());
    assert!(set.definition().is_retry_safe());
    let echo = trusted.tool("echo").await;
    assert!(echo.definition().needs_approval());
    assert!(!echo.definition().is_retry_safe());
}

#[tokio::test]
async fn m10_only_allowed_variables_reach_the_server() {
    let fixture = fixture_with("plain", |config| McpServerConfig {
        env_allow: vec!["PATH".to_owned()],
        ..config.env("CANARY_TOKEN", "s3cret")
    });
    // Cargo sets dozens of variables for this test; none of them may pass.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let names = fixture
        .call("environment", nothing())
        .await
        .expect("an answer");
    assert_eq!(names, "CANARY_TOKEN PATH");
    assert!(!format!("{:?}", fixture.source).contains("s3cret"));
}

#[tokio::test]
async fn m4_a_change_of_the_list_is_heard_in_both_eras_and_a_storm_costs_one_fetch() {
    for mode in ["plain", "modern"] {
        let fixture = fixture(mode);
        let pages = if mode == "plain" { 2 } else { 1 };
        fixture.call("change", nothing()).await.expect("an answer");
        assert_eq!(fixture.count("list"), pages);
        fixture.clock.advance(Duration::from_secs(2));
        // The stale copy is served while it is fetched anew.
        let late = |tools: &[Arc<dyn runtime_tools::Tool>]| {
            tools
                .iter()
                .any(|tool| tool.definition().name == "fixture__late")
        };
        until_some(async || late(&fixture.list().await.tools).then_some(())).await;
        assert!(
            fixture.count("list") <= 2 * pages,
            "{mode}: {:?}",
            fixture.noted()
        );
        fixture.source.close().await;
    }
}

#[tokio::test]
async fn m9_the_server_and_its_children_end_with_the_source() {
    let alive = |pid: &str| std::path::Path::new("/proc").join(pid).join("cwd").exists();
    let mut fixture = fixture("plain");
    let grandchild = fixture
        .call("change", nothing())
        .await
        .expect("a process id");
    assert!(alive(&grandchild));
    fixture.source.close().await;
    until(|| !alive(&grandchild)).await;
    let error = fixture.call("echo", nothing()).await.expect_err("closed");
    assert!(matches!(error, ToolError::Unavailable { .. }), "{error}");

    // The same without `close`.
    fixture = self::fixture("plain");
    let grandchild = fixture
        .call("change", nothing())
        .await
        .expect("a process id");
    drop(fixture);
    until(|| !alive(&grandchild)).await;
}

#[tokio::test]
async fn m9_a_server_that_does_not_end_by_itself_is_killed_after_its_grace() {
    let fixture = fixture("stubborn");
    fixture.call("echo", nothing()).await.expect("an answer");
    let source = fixture.source.clone();
    let closing = tokio::spawn(async move { source.close().await });
    // It waits for the server; the clock stands still, so only the kill can end it.
    let clock = Arc::clone(&fixture.clock);
    until(|| {
        clock.advance(Duration::from_secs(2));
        closing.is_finished()
    })
    .await;
    closing.await.expect("closed");
}

#[tokio::test]
async fn e6_a_call_under_way_when_the_server_dies_is_indeterminate_and_never_sent_again() {
    let fixture = fixture("plain");
    let error = fixture
        .call("die", nothing())
        .await
        .expect_err("the server dies");
    assert!(matches!(error, ToolError::Indeterminate { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Indeterminate);
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    assert_eq!(fixture.count("die"), 1);
    // M9: the next call finds a new server, at once after a first accident.
    assert_eq!(
        fixture.call("echo", nothing()).await.expect("a new server"),
        "{}"
    );
    // A server that dies again and again is not started again and again.
    fixture
        .call("die", nothing())
        .await
        .expect_err("the server dies");
    let error = fixture.call("echo", nothing()).await.expect_err("not yet");
    assert!(matches!(error, ToolError::Unavailable { .. }), "{error}");
    assert!(error.did_not_run());
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(
        fixture
            .call("echo", nothing())
            .await
            .expect("a third server"),
        "{}"
    );
    assert_eq!(fixture.count("die"), 2);
}

#[tokio::test]
async fn m4_a_call_that_opens_a_new_connection_makes_the_list_stale() {
    let fixture = fixture("plain");
    fixture.list().await;
    assert_eq!(fixture.count("list"), 2);
    fixture
        .call("die", nothing())
        .await
        .expect_err("the server dies");
    fixture.list().await;
    assert_eq!(fixture.count("list"), 2);
    fixture.call("echo", nothing()).await.expect("a new server");
    // The copy is served, and fetched once more: two pages.
    fixture.list().await;
    fixture.noted_times("list", 4).await;
    fixture.list().await;
    assert_eq!(fixture.count("list"), 4);
    fixture.source.close().await;
}

#[tokio::test]
async fn e6_a_server_killed_in_mid_call_leaves_the_call_indeterminate_in_both_eras() {
    for mode in ["plain", "modern"] {
        let fixture = fixture(mode);
        let process = fixture.call("process", nothing()).await.expect("its id");
        let tool = fixture.tool("hang").await;
        let context = fixture.context();
        let calling = tokio::spawn(async move { tool.call(nothing(), context).await });
        fixture.noted_times("hang", 1).await;
        let id = rustix::process::Pid::from_raw(process.parse().expect("an id"));
        let killed = rustix::process::kill_process(id.expect("an id"), Signal::KILL);
        killed.expect("the server is there");
        let error = calling.await.expect("no panic").expect_err("killed");
        assert!(matches!(error, ToolError::Indeterminate { .. }), "{error}");
        assert!(error.to_string().contains("signal: 9"), "{error}");
        let next = fixture
            .call("process", nothing())
            .await
            .expect("a new server");
        assert_ne!(next, process);
        assert_eq!(fixture.count("hang"), 1, "{mode}");
    }
}

#[tokio::test]
async fn m9_a_call_without_an_answer_times_out_and_the_server_is_told() {
    let fixture = fixture("plain");
    let tool = fixture.tool("hang").await;
    let context = fixture.context();
    let calling = tokio::spawn(async move { tool.call(nothing(), context).await });
    fixture.noted_times("hang", 1).await;
    fixture.clock.advance(Duration::from_secs(60));
    let error = calling.await.expect("no panic").expect_err("no answer");
    assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
    assert!(!error.did_not_run());
    fixture.noted_times("cancelled", 1).await;
    // The connection is as good as before.
    assert_eq!(
        fixture.call("echo", nothing()).await.expect("an answer"),
        "{}"
    );
}

#[tokio::test]
async fn m9_a_dropped_call_is_cancelled_at_the_server() {
    let fixture = fixture("plain");
    let tool = fixture.tool("hang").await;
    let context = fixture.context();
    let calling = tokio::spawn(async move { tool.call(nothing(), context).await });
    fixture.noted_times("hang", 1).await;
    calling.abort();
    fixture.noted_times("cancelled", 1).await;
}

#[tokio::test]
async fn m4_an_answer_about_the_arguments_fetches_the_list_again() {
    let fixture = fixture("plain");
    let tool = fixture.tool("refuse").await;
    assert_eq!(fixture.count("list"), 2);
    fixture.clock.advance(Duration::from_secs(2));
    let error = tool
        .call(nothing(), fixture.context())
        .await
        .expect_err("refused");
    assert!(
        matches!(error, ToolError::InvalidArguments { .. }),
        "{error}"
    );
    fixture.noted_times("list", 4).await;
}

#[tokio::test]
async fn m1_a_server_that_does_not_start_is_a_diagnostic_and_no_empty_list() {
    let fixture = fixture_with("plain", |config| McpServerConfig {
        command: "/nowhere/at/all".to_owned(),
        ..config
    });
    let listing = fixture.list().await;
    assert!(listing.tools.is_empty());
    let diagnostic = listing.diagnostic.expect("a diagnostic");
    assert_eq!(
        (diagnostic.source.as_str(), diagnostic.state.as_str()),
        ("fixture", "negative")
    );
    let error = diagnostic.error.expect("an error");
    assert_eq!(
        (error.code.as_str(), error.class),
        ("mcp_not_started", ErrorClass::Unavailable)
    );
    assert!(diagnostic.next_retry.is_some());
}

#[tokio::test]
async fn m9_calls_side_by_side_get_their_own_answers() {
    let fixture = fixture("plain");
    let echo = fixture.tool("echo").await;
    let calls = (0..200).map(|n| {
        let (echo, context) = (Arc::clone(&echo), fixture.context());
        async move { echo.call(json!({ "n": n }), context).await }
    });
    let answers = futures_util::future::join_all(calls).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(
            text_of(answer.expect("an answer")),
            json!({ "n": n }).to_string()
        );
    }
    assert_eq!(fixture.count("echo"), 200);
}

#[tokio::test]
async fn m9_one_process_serves_all_who_ask_at_once() {
    let fixture = fixture("plain");
    let lists = (0..20).map(|_| fixture.list());
    let listings = futures_util::future::join_all(lists).await;
    assert!(listings.iter().all(|listing| listing.tools.len() == 16));
    assert_eq!(fixture.count("list"), 2, "two pages, once");
}

#[test]
fn m11_an_entry_is_refused_with_what_to_change() {
    let clock = Arc::new(SimulatedClock::new(runtime_core::Timestamp::from_millis(0)));
    let random = Arc::new(SeededRandom::new(1));
    let cache = DiscoveryCache::new(CacheConfig::default(), clock.clone(), random.clone());
    let wrong = [
        McpServerConfig::stdio("", "x"),
        McpServerConfig::stdio("a\nb", "x"),
        McpServerConfig::stdio("a", " "),
        McpServerConfig::stdio("a", "x").arg("\0"),
        McpServerConfig::stdio("a", "x").env("A=B", "c"),
        McpServerConfig::stdio("a", "sh").arg("-c"),
        McpServerConfig::stdio("a", "x").header("A", "b"),
        McpServerConfig::http("a", ""),
        McpServerConfig::http("a", "no url"),
        McpServerConfig::http("a", "http://example.com/"),
        McpServerConfig::http("a", "https://10.0.0.1/"),
        McpServerConfig::http("a", "https://example.com/").arg("x"),
        McpServerConfig::http("a", "https://example.com/").header("Host", "b"),
        McpServerConfig {
            call_timeout_ms: 0,
            ..McpServerConfig::stdio("a", "x")
        },
    ];
    for config in wrong {
        let made = McpSource::new(config.clone(), clock.clone(), random.clone(), cache.clone());
        assert_eq!(
            made.expect_err("refused").code(),
            "mcp_config_invalid",
            "{config:?}"
        );
    }
    for unknown in [r#"{"trsted": true}"#, r#"{"type": "pigeon", "name": "a"}"#] {
        assert!(
            serde_json::from_str::<McpServerConfig>(unknown).is_err(),
            "{unknown}"
        );
    }
}

#[test]
fn m11_a_later_layer_replaces_an_entry_of_the_same_name_whole() {
    let runtime = [
        McpServerConfig::stdio("files", "files").trusted(),
        McpServerConfig::stdio("git", "git"),
    ];
    let profile = [McpServerConfig::http("web", "https://example.com/mcp")];
    let worker = [McpServerConfig::stdio("files", "other")];
    let layered = McpServerConfig::layered([&runtime[..], &profile, &worker]);
    let names: Vec<_> = layered.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["files", "git", "web"]);
    assert_eq!(layered[0], McpServerConfig::stdio("files", "other"));
}

#[tokio::test]
async fn m11_a_server_without_discovery_is_not_even_started() {
    let fixture = fixture_with("plain", |config| McpServerConfig {
        discovery: false,
        ..config
    });
    let listing = fixture.list().await;
    assert!(listing.tools.is_empty() && listing.diagnostic.is_none());
    assert!(fixture.noted().is_empty());
}
