//! What a store keeps of a server: its list across restarts (M1), and its pins (M7).

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use runtime_core::{Clock, Random, ScopeId, Timestamp};
use runtime_mcp::{McpServerConfig, McpSource};
use runtime_mcp_cache::{CacheConfig, DiscoveryCache, StoreArchive, StorePins};
use runtime_store::{MemoryStore, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};
use runtime_tools::{SourceListing, ToolSource};

use crate::fixture::{fixture_context, fixture_program, nothing};
use crate::waiting::until_some;

/// Two processes, one after the other, are two of these over one store.
struct Process {
    source: McpSource,
    pins: Arc<StorePins>,
}

impl Process {
    async fn start(store: &MemoryStore, directory: &Path, pinned: bool) -> Self {
        let clock: Arc<dyn Clock> =
            Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000_000)));
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(7));
        let store: Arc<dyn Store> = Arc::new(store.reopen());
        let scope = ScopeId::new("tool-servers").expect("a scope");
        let cache = DiscoveryCache::new(
            CacheConfig::default(),
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        let archive = StoreArchive::new(
            Arc::clone(&store),
            scope.clone(),
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        cache
            .keep_in(Arc::new(archive))
            .await
            .expect("it is readable");
        let pins = StorePins::new(store, scope, Arc::clone(&clock), Arc::clone(&random));
        let pins = Arc::new(pins);
        let program = directory.join("server");
        let config = McpServerConfig::stdio("fixture", program.to_str().expect("a UTF-8 path"))
            .arg("modern")
            .arg(directory.join("calls").to_str().expect("a UTF-8 path"));
        let source = McpSource::new(config, clock, random, cache).expect("the entry is right");
        let source = match pinned {
            true => source.pinned_by(Arc::clone(&pins)),
            false => source,
        };
        Self { source, pins }
    }
}

fn has(listing: &SourceListing, name: &str) -> bool {
    let public = format!("fixture__{name}");
    let mut tools = listing.tools.iter();
    tools.any(|tool| tool.definition().name == public)
}

/// Waits until a list comes with a diagnostic.
async fn until_told(source: &McpSource) -> SourceListing {
    until_some(async || {
        let listing = source.list().await;
        listing.diagnostic.is_some().then_some(listing)
    })
    .await
}

#[tokio::test]
async fn m1_after_a_restart_the_list_is_there_although_the_server_is_not() {
    let store = MemoryStore::new("kept".parse().expect("an id"));
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("server");
    symlink(fixture_program(), &program).expect("a link");
    let first = Process::start(&store, directory.path(), false).await;
    assert!(has(&first.source.list().await, "echo"));
    // The list is written beside the answer.
    let spaces = async || {
        let page = runtime_store::Page::after(None, 9);
        let query = runtime_store::RowQuery::space("mcp-catalogue");
        store.rows(query, page).await.expect("readable").rows.len()
    };
    while spaces().await == 0 {
        tokio::task::yield_now().await;
    }
    first.source.close().await;
    drop(first);

    std::fs::remove_file(&program).expect("it was there");
    let second = Process::start(&store, directory.path(), false).await;
    let listing = second.source.list().await;
    assert!(has(&listing, "echo"), "{:?}", listing.diagnostic);
    // It is old, and said to be as soon as that is known.
    let listing = until_told(&second.source).await;
    let state = listing.diagnostic.as_ref().map(|found| &*found.state);
    assert_eq!(state, Some("stale"));
    assert!(has(&listing, "echo"));
}

#[tokio::test]
async fn m7_a_tool_that_comes_later_is_not_callable_before_it_is_approved() {
    let store = MemoryStore::new("kept".parse().expect("an id"));
    let directory = tempfile::tempdir().expect("a directory");
    symlink(fixture_program(), directory.path().join("server")).expect("a link");
    let process = Process::start(&store, directory.path(), true).await;
    let listing = process.source.list().await;
    assert!(listing.diagnostic.is_none() && has(&listing, "change"));
    let call = |listing: &SourceListing, name: &str| {
        let public = format!("fixture__{name}");
        let mut tools = listing.tools.iter();
        let tool = tools.find(|tool| tool.definition().name == public);
        Arc::clone(tool.expect("it is listed"))
    };
    let change = call(&listing, "change");
    change
        .call(nothing(), fixture_context())
        .await
        .expect("it is pinned");

    let withheld = until_told(&process.source).await;
    let diagnostic = withheld.diagnostic.as_ref().expect("it is there");
    let error = diagnostic.error.as_ref().expect("a reason");
    assert_eq!(error.code, "mcp_tools_withheld");
    assert!(has(&withheld, "echo") && !has(&withheld, "late"));

    let servers = process.pins.servers().await.expect("readable");
    let waiting = &servers[0].withheld[0];
    assert_eq!(waiting.name, "late");
    let pins = &process.pins;
    let approved = pins.approve("fixture", "late", &waiting.definition).await;
    approved.expect("it waits");
    let listing = process.source.list().await;
    assert!(listing.diagnostic.is_none());
    let late = call(&listing, "late");
    // Revoked between the list and the call: it is looked at right before the call.
    assert!(pins.revoke("fixture", "late").await.expect("writable"));
    let refused = late.call(nothing(), fixture_context()).await;
    assert!(refused.expect_err("a refusal").did_not_run());
    process.source.close().await;
}

/// M3: a changed command, argument, variable, URL, header or trust is another connection: what was
/// listed over the old one is not served over the new one.
#[tokio::test]
async fn m3_another_connection_is_another_list() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000_000)));
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(7));
    let cache = DiscoveryCache::new(
        CacheConfig::default(),
        Arc::clone(&clock),
        Arc::clone(&random),
    );
    let source = |config: McpServerConfig| {
        let (clock, random) = (Arc::clone(&clock), Arc::clone(&random));
        McpSource::new(config, clock, random, cache.clone()).expect("the entry is right")
    };
    let program = fixture_program();
    let program = program.to_str().expect("a UTF-8 path");
    let base = || McpServerConfig::stdio("fixture", program).arg("modern");
    let first = source(base());
    assert!(has(&first.list().await, "echo"));
    assert!(source(base()).peek().is_some(), "the same connection");
    let link = directory.path().join("server");
    symlink(program, &link).expect("a link");
    let changed = [
        McpServerConfig {
            name: "other".to_owned(),
            ..base()
        },
        McpServerConfig {
            command: link.display().to_string(),
            ..base()
        },
        base().arg("more"),
        base().env("A", "1"),
        base().trusted(),
        McpServerConfig {
            env_allow: vec!["PATH".to_owned()],
            ..base()
        },
        McpServerConfig {
            directory: Some(directory.path().to_owned()),
            ..base()
        },
        McpServerConfig {
            lifecycle: runtime_mcp::Lifecycle::Handshake,
            ..base()
        },
    ];
    for config in changed {
        let said = format!("{config:?}");
        assert!(source(config).peek().is_none(), "{said}");
    }
    // What does not touch the connection keeps the list.
    let same = McpServerConfig {
        required: true,
        call_timeout_ms: 1,
        ..base()
    };
    assert!(source(same.pinned()).peek().is_some());
    first.close().await;
}

/// M7: an entry that is to be pinned, in a program that keeps no pins, offers nothing.
#[tokio::test]
async fn m7_without_pins_a_pinned_entry_offers_nothing() {
    let fixture = crate::fixture::fixture_with("plain", McpServerConfig::pinned);
    let listing = fixture.list().await;
    assert!(listing.tools.is_empty());
    let error = listing.diagnostic.and_then(|diagnostic| diagnostic.error);
    assert_eq!(error.expect("a reason").code, "mcp_pins_missing");
    fixture.source.close().await;
}
