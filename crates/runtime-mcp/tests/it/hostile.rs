//! Servers that mean harm (X4): a typed error, bounded memory, the session unharmed.

use std::time::{Duration, Instant};

use runtime_core::ErrorClass;
use runtime_mcp::McpServerConfig;
use runtime_tools::{SourceDiagnostic, ToolError, ToolSource};

use crate::fixture::{Fixture, fixture, fixture_with, nothing};
use crate::reliability::row;
use crate::waiting::{pause, until};

async fn refused(fixture: &Fixture) -> SourceDiagnostic {
    let listing = fixture.list().await;
    assert!(listing.tools.is_empty());
    listing.diagnostic.expect("a diagnostic")
}

async fn refused_with(mode: &str, code: &str, class: ErrorClass) {
    let fixture = fixture(mode);
    let error = refused(&fixture).await.error.expect("an error");
    assert_eq!(
        (error.code.as_str(), error.class),
        (code, class),
        "{mode}: {error}"
    );
    assert!(!error.message.chars().any(char::is_control), "{error}");
}

#[tokio::test]
async fn x4_lists_without_end_or_measure_are_errors() {
    refused_with("cycle", "mcp_answer_invalid", ErrorClass::Terminal).await;
    refused_with("endless", "discovery_too_large", ErrorClass::Terminal).await;
    refused_with("many", "discovery_too_large", ErrorClass::Terminal).await;
    refused_with("unlistable", "mcp_refused", ErrorClass::Terminal).await;
    refused_with("exits", "mcp_handshake_failed", ErrorClass::Unavailable).await;
}

#[tokio::test]
async fn x4_names_that_come_twice_are_refused_and_told_of() {
    let listing = fixture("twins").list().await;
    let names: Vec<_> = listing
        .tools
        .iter()
        .map(|tool| tool.definition().name.clone())
        .collect();
    assert_eq!(names, ["fixture__b"]);
    let error = listing
        .diagnostic
        .and_then(|diagnostic| diagnostic.error)
        .expect("an error");
    assert_eq!(error.code, "mcp_tools_refused");
}

#[tokio::test]
async fn x4_a_server_that_never_answers_the_handshake_times_out() {
    let fixture = fixture("mute");
    let source = fixture.source.clone();
    let listing = tokio::spawn(async move { source.list().await });
    until(|| {
        fixture.clock.advance(Duration::from_secs(31));
        listing.is_finished()
    })
    .await;
    let diagnostic = listing
        .await
        .expect("no panic")
        .diagnostic
        .expect("a diagnostic");
    assert_eq!(
        diagnostic.error.expect("an error").class,
        ErrorClass::TimedOut
    );
}

#[tokio::test]
async fn x4_a_message_over_the_limit_ends_the_connection_but_not_the_session() {
    let fixture = fixture_with("plain", |config| McpServerConfig {
        message_bytes_max: 1 << 20,
        ..config
    });
    let error = fixture
        .call("huge", nothing())
        .await
        .expect_err("a gigabyte");
    assert!(matches!(error, ToolError::Indeterminate { .. }), "{error}");
    assert!(
        error.to_string().contains("more than 1048576 bytes"),
        "{error}"
    );
    assert_eq!(
        fixture.call("echo", nothing()).await.expect("a new server"),
        "{}"
    );
    assert_eq!(fixture.count("huge"), 1);
}

#[tokio::test]
async fn x4_an_answer_that_cannot_be_read_fails_its_call_at_once() {
    let fixture = fixture("plain");
    for unreadable in ["deep", "garbled"] {
        let error = fixture
            .call(unreadable, nothing())
            .await
            .expect_err(unreadable);
        assert!(matches!(error, ToolError::Failed { .. }), "{error}");
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
    assert_eq!(
        fixture.call("echo", nothing()).await.expect("still there"),
        "{}"
    );
}

#[tokio::test]
async fn x4_answers_to_nobody_and_noise_disturb_no_call() {
    let fixture = fixture("plain");
    assert_eq!(
        fixture
            .call("wrong_id", nothing())
            .await
            .expect("an answer"),
        "for you"
    );
    assert_eq!(
        fixture.call("noise", nothing()).await.expect("an answer"),
        "through the noise"
    );
}

#[tokio::test]
async fn x4_a_server_that_asks_without_reading_is_cut_off() {
    let fixture = fixture("plain");
    let error = fixture.call("flood", nothing()).await.expect_err("cut off");
    assert!(matches!(error, ToolError::Indeterminate { .. }), "{error}");
    assert!(error.to_string().contains("asked more"), "{error}");
    assert_eq!(
        fixture.call("echo", nothing()).await.expect("a new server"),
        "{}"
    );
}

#[tokio::test]
async fn m10_a_result_bomb_is_cut() {
    let fixture = fixture_with("plain", |config| McpServerConfig {
        result_bytes_max: 5,
        ..config
    });
    let text = fixture.call("lookup", nothing()).await.expect("an answer");
    assert_eq!(text, "key-1");
    let text = fixture.call("noise", nothing()).await.expect("an answer");
    assert_eq!(text, "throu\n[the result was cut: 5 of 17 bytes are shown]");
}

#[tokio::test]
async fn m10_a_definition_with_hidden_characters_is_told_of() {
    let fixture = fixture("sly");
    for _ in 0..2 {
        let listing = fixture.list().await;
        assert_eq!(listing.tools.len(), 1);
        let error = listing.diagnostic.and_then(|diagnostic| diagnostic.error);
        assert_eq!(error.expect("an error").code, "mcp_tools_deceptive");
    }
}

#[tokio::test]
async fn x4_a_gigabyte_in_one_line_costs_no_more_than_the_limit() {
    let fixture = fixture("plain");
    fixture
        .call("huge", nothing())
        .await
        .expect_err("a gigabyte");
    // Only where the system tells the peak of this process, in kibibytes.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
    if let Some(peak) = peak {
        assert!(peak < 128 * 1024, "the peak was {peak} KiB");
    }
}

#[tokio::test]
async fn x2_credentials_of_an_entry_are_in_no_error_and_no_debug_text() {
    let canary = "canary-7f3a";
    for mode in ["exits", "unlistable", "cycle", "plain"] {
        let fixture = fixture_with(mode, |config| config.arg(canary).env("TOKEN", canary));
        let listing = fixture.list().await;
        let mut said = format!(
            "{:?} {:?} {listing:?}",
            fixture.source,
            fixture.source.config()
        );
        if mode == "plain" {
            let died = fixture
                .call("die", nothing())
                .await
                .expect_err("the server dies");
            said.push_str(&format!("{died} {died:?}"));
        }
        assert!(!said.contains(canary), "{said}");
    }
}

/// How a child process may greet and list.
const MODES: &[&str] = &[
    "cycle",
    "endless",
    "many",
    "million",
    "unlistable",
    "exits",
    "dies",
    "mute",
    "silent",
    "wrong_list",
    "no_list",
    "deep_list",
    "garbled_list",
    "huge_list",
];

/// Those that never answer: only a deadline ends them.
const MUTE: &[&str] = &["mute", "silent", "wrong_list"];

/// What a child process may do to a call.
const CALLS: &[&str] = &[
    "die", "hang", "huge", "deep", "garbled", "wrong_id", "noise", "flood", "refuse",
];

/// Those that answer all the same.
const ANSWERED: &[&str] = &["wrong_id", "noise"];

/// Real time that one case may take: it never comes near, or it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn is_plain(text: &str) -> bool {
    text.len() <= 2_048 && !text.chars().any(char::is_control)
}

/// Says what is wrong with how a hostile list was taken; nothing if all is as it should be.
async fn list_case(era: &str, mode: &str) -> Option<String> {
    let fixture = fixture(&format!("{era}{mode}"));
    let source = fixture.source.clone();
    let listing = tokio::spawn(async move { source.list().await });
    let start = Instant::now();
    while !listing.is_finished() {
        if start.elapsed() > PATIENCE {
            return Some(format!("{era}{mode}: it hangs"));
        }
        if MUTE.contains(&mode) {
            fixture.clock.advance(Duration::from_secs(31));
        }
        pause().await;
    }
    let listing = listing.await.expect("no panic");
    let error = listing.diagnostic.and_then(|found| found.error);
    match error {
        _ if !listing.tools.is_empty() => Some(format!("{era}{mode}: tools were offered")),
        None => Some(format!("{era}{mode}: no error")),
        Some(error) if !is_plain(&error.message) => Some(format!("{era}{mode}: {error}")),
        Some(_) => None,
    }
}

async fn call_case(era: &str, what: &str) -> Option<String> {
    let fixture = fixture(era);
    let tool = fixture.tool(what).await;
    let context = fixture.context();
    let calling = tokio::spawn(async move { tool.call(nothing(), context).await });
    let start = Instant::now();
    while !calling.is_finished() {
        if start.elapsed() > PATIENCE {
            return Some(format!("{era} {what}: it hangs"));
        }
        if what == "hang" && fixture.count("hang") == 1 {
            fixture.clock.advance(Duration::from_secs(61));
        }
        pause().await;
    }
    match calling.await.expect("no panic") {
        Ok(_) if ANSWERED.contains(&what) => {}
        Ok(output) => return Some(format!("{era} {what}: an answer: {output:?}")),
        Err(error) if !is_plain(&error.to_string()) => {
            return Some(format!("{era} {what}: {error}"));
        }
        Err(_) if ANSWERED.contains(&what) => return Some(format!("{era} {what}: no answer")),
        Err(_) => {}
    }
    if fixture.count(what) != 1 {
        return Some(format!("{era} {what}: sent {} times", fixture.count(what)));
    }
    // The session is unharmed: the next call is answered.
    match fixture.call("echo", nothing()).await {
        Ok(answer) if answer == "{}" => None,
        other => Some(format!("{era} {what}: afterwards {other:?}")),
    }
}

/// The row over child processes, in both eras.
#[tokio::test]
async fn x4_a_hostile_child_process_does_no_harm() {
    let started = Instant::now();
    let (mut cases, mut failures) = (0, Vec::new());
    for era in ["", "modern:"] {
        for mode in MODES {
            cases += 1;
            failures.extend(list_case(era, mode).await);
        }
    }
    for era in ["plain", "modern"] {
        for what in CALLS {
            cases += 1;
            failures.extend(call_case(era, what).await);
        }
    }
    row("X4-stdio", cases, &failures, 46, started);
}

/// The twin: a server that does no harm is a failure of the row, so the row can fail.
#[tokio::test]
async fn x4_twin_a_row_over_child_processes_that_lets_everything_pass_is_noticed() {
    assert!(list_case("", "plain").await.is_some());
    assert!(list_case("modern:", "plain").await.is_some());
    assert!(call_case("plain", "echo").await.is_some());
}
