//! What the conformance suite leaves out, over HTTP and in both eras: changes of the list, their
//! storms, pages with cycles, cancellation, -32020, servers that come and go (M4, M9).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use runtime_core::ErrorClass;
use runtime_mcp::McpSource;
use runtime_tools::{SourceListing, ToolError, ToolSource};
use serde_json::{Value, json};

use crate::http::{context, work};
use crate::waiting::{pause, until, until_some};
use crate::web::{Feed, Reply, Seen, Speaks, Web, source, tool};

const ERAS: [Speaks; 2] = [Speaks::Old, Speaks::New];
const CHANGED: &str = "notifications/tools/list_changed";

/// Whether it is how a client listens for changes in its era.
fn listens(seen: &Seen, speaks: Speaks) -> bool {
    match speaks {
        Speaks::Old => seen.verb == "GET",
        Speaks::New => seen.method() == "subscriptions/listen",
    }
}

/// The greeting of a server that tells of changes.
fn greeting(seen: &Seen) -> Option<Reply> {
    let capabilities = json!({"tools": {"listChanged": true}});
    match seen.method() {
        "server/discover" => Some(Reply::Result(json!({
            "supportedVersions": ["2026-07-28"], "capabilities": capabilities,
            "ttlMs": 0, "cacheScope": "private", "resultType": "complete",
        }))),
        "initialize" => Some(Reply::Result(json!({
            "protocolVersion": "2025-11-25", "capabilities": capabilities,
            "serverInfo": {"name": "web", "version": "1"},
        }))),
        _ => None,
    }
}

fn listed(tools: &[Value], next: Option<&str>) -> Reply {
    let mut result = json!({
        "tools": tools, "ttlMs": 3_600_000, "cacheScope": "public", "resultType": "complete",
    });
    if let Some(next) = next {
        result["nextCursor"] = json!(next);
    }
    Reply::Result(result)
}

fn named(name: &str) -> Value {
    let mut tool = tool(json!({"type": "object"}));
    tool["name"] = json!(name);
    tool
}

/// A server that tells of changes, in the era; `late` says whether it lists another tool by now.
async fn changing(speaks: Speaks, feed: &Arc<Feed>, late: &Arc<AtomicUsize>) -> Web {
    let (feed, late) = (Arc::clone(feed), Arc::clone(late));
    Web::start(speaks, move |seen| {
        if speaks == Speaks::Old && seen.method() == "server/discover" {
            return None;
        }
        if listens(seen, speaks) {
            return Some(Reply::Feed(Arc::clone(&feed)));
        }
        if seen.method() == "tools/list" {
            let mut tools = vec![named("work")];
            if late.load(Ordering::SeqCst) > 0 {
                tools.push(named("late"));
            }
            return Some(listed(&tools, None));
        }
        greeting(seen)
    })
    .await
}

fn names(listing: &SourceListing) -> Vec<String> {
    let names = listing
        .tools
        .iter()
        .map(|tool| tool.definition().name.clone());
    names.collect()
}

/// Waits until the list has a tool.
async fn until_listed(source: &McpSource, name: &str) {
    until_some(async || {
        let listed = names(&source.list().await);
        listed.iter().any(|found| found == name).then_some(())
    })
    .await;
}

#[tokio::test]
async fn m4_a_change_of_the_list_is_heard_over_http_and_a_storm_costs_two_fetches() {
    for speaks in ERAS {
        let (feed, late) = (Feed::new(), Arc::<AtomicUsize>::default());
        let web = changing(speaks, &feed, &late).await;
        let (source, _) = source(web.config());
        assert_eq!(names(&source.list().await), ["web__work"], "{speaks:?}");
        until(|| feed.listeners() == 1).await;
        // Fresh, and asked for again and again: nobody is asked.
        for _ in 0..50 {
            source.list().await;
        }
        assert_eq!(web.count("tools/list"), 1, "{speaks:?}");

        late.store(1, Ordering::SeqCst);
        for _ in 0..1_000 {
            feed.tell(CHANGED);
        }
        until_listed(&source, "web__late").await;
        for _ in 0..50 {
            source.list().await;
            pause().await;
        }
        let fetched = web.count("tools/list") - 1;
        assert!((1..=2).contains(&fetched), "{speaks:?}: {fetched} fetches");
        source.close().await;
    }
}

/// M4: what changes while nobody listens is not lost: when the stream ends, the list counts as
/// changed, and it is listened to again.
#[tokio::test]
async fn m4_a_stream_of_changes_that_ends_makes_the_list_stale_and_is_taken_up_again() {
    for speaks in ERAS {
        let (feed, late) = (Feed::new(), Arc::<AtomicUsize>::default());
        let web = changing(speaks, &feed, &late).await;
        let (source, clock) = source(web.config());
        source.list().await;
        until(|| feed.listeners() == 1).await;
        late.store(1, Ordering::SeqCst);
        feed.tell("");
        until(|| feed.listeners() == 0).await;
        // Its pauses are those of the simulated clock; far less than the hour that the list holds
        // goes by.
        let heard = async {
            for step in 0.. {
                if step < 500 {
                    clock.advance(Duration::from_secs(2));
                }
                if names(&source.list().await).len() == 2 && feed.listeners() == 1 {
                    return;
                }
                pause().await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
        heard.unwrap_or_else(|_| panic!("{speaks:?}: it never came about"));
        source.close().await;
    }
}

#[tokio::test]
async fn m4_all_pages_are_taken_over_http_and_cycles_end_with_an_error() {
    for speaks in ERAS {
        // An empty cursor is one like any other.
        let web = Web::start(speaks, |seen| {
            let cursor = seen.body["params"]["cursor"].as_str();
            (seen.method() == "tools/list").then(|| match cursor {
                None => listed(&[named("a")], Some("")),
                Some("") => listed(&[named("b")], Some("last")),
                Some(_) => listed(&[named("c")], None),
            })
        })
        .await;
        let (whole, _) = source(web.config());
        let listing = whole.list().await;
        assert_eq!(
            names(&listing),
            ["web__a", "web__b", "web__c"],
            "{speaks:?}"
        );
        assert_eq!(web.count("tools/list"), 3);

        for (length, next) in [
            (1, ["x", "x", "x"]),
            (2, ["y", "x", "y"]),
            (3, ["y", "z", "x"]),
        ] {
            let web = Web::start(speaks, move |seen| {
                let cursor = seen.body["params"]["cursor"].as_str();
                (seen.method() == "tools/list").then(|| match cursor {
                    None => listed(&[named("a")], Some("x")),
                    Some("x") => listed(&[], Some(next[0])),
                    Some("y") => listed(&[], Some(next[1])),
                    Some(_) => listed(&[], Some(next[2])),
                })
            })
            .await;
            let (source, _) = source(web.config());
            let listing = source.list().await;
            let diagnostic = listing.diagnostic.expect("no list and no error");
            let error = diagnostic.error.expect("it says why");
            assert!(listing.tools.is_empty(), "{speaks:?} {length}");
            assert_eq!(error.code, "mcp_answer_invalid", "{speaks:?} {length}");
            assert!(web.count("tools/list") <= length + 1, "{speaks:?} {length}");
        }
    }
}

/// M9: cancellation is dropping the call. In the older era the server is told; in the newer one
/// the stream ends, and that says it.
#[tokio::test]
async fn m9_a_dropped_call_is_cancelled_over_http() {
    for speaks in ERAS {
        let dropped = Arc::<AtomicUsize>::default();
        let noted = Arc::clone(&dropped);
        let web = Web::start(speaks, move |seen| {
            (seen.method() == "tools/call").then(|| Reply::UntilDropped(Arc::clone(&noted)))
        })
        .await;
        let (source, _) = source(web.config());
        let tool = work(&source).await;
        let calling = tokio::spawn(async move { tool.call(json!({}), context()).await });
        until(|| web.count("tools/call") == 1).await;
        calling.abort();
        until(|| dropped.load(Ordering::SeqCst) == 1).await;
        match speaks {
            Speaks::Old => until(|| web.count("notifications/cancelled") == 1).await,
            Speaks::New => assert_eq!(web.count("notifications/cancelled"), 0),
        }
        let seen = web.seen();
        let called = seen.iter().find(|seen| seen.method() == "tools/call");
        let told = seen
            .iter()
            .find(|seen| seen.method() == "notifications/cancelled");
        if let Some(told) = told {
            let of = &called.expect("a call").body["id"];
            assert_eq!(&told.body["params"]["requestId"], of);
        }
        // The connection is unharmed.
        assert_eq!(names(&source.list().await), ["web__work"], "{speaks:?}");
    }
}

/// M9: -32020 says that the call has not run. The tools are listed again and the call is made
/// once more, once, in either era.
#[tokio::test]
async fn m9_a_header_mismatch_costs_one_list_and_one_more_call_in_both_eras() {
    for speaks in ERAS {
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let web = Web::start(speaks, move |seen| {
            let first =
                seen.method() == "tools/call" && counted.fetch_add(1, Ordering::SeqCst) == 0;
            first.then_some(Reply::Error(400, -32020, "a header is missing"))
        })
        .await;
        let (source, _) = source(web.config());
        let answer = work(&source).await.call(json!({"a": 1}), context()).await;
        answer.expect("the second call is answered");
        assert_eq!(
            (web.count("tools/list"), web.count("tools/call")),
            (2, 2),
            "{speaks:?}"
        );
    }
}

/// M9: a server that went away is reached again with back-off, with a handshake of its own; a call
/// that could not leave has not run.
#[tokio::test]
async fn m9_a_server_that_comes_back_is_reached_again_in_both_eras() {
    for speaks in ERAS {
        let web = Web::start(speaks, |_| None).await;
        let (address, config) = (web.address, web.config());
        let (source, clock) = source(config);
        let tool = work(&source).await;
        tool.call(json!({}), context()).await.expect("an answer");
        drop(web);
        // The connections that are there break; then nobody listens any more.
        let mut refused = 0;
        for _ in 0..200 {
            match tool.call(json!({}), context()).await {
                Err(ToolError::Unavailable { .. }) => {
                    refused += 1;
                    if refused == 3 {
                        break;
                    }
                }
                Err(ToolError::Indeterminate { .. } | ToolError::Failed { .. }) => {}
                other => panic!("{speaks:?}: {other:?}"),
            }
            pause().await;
        }
        assert_eq!(refused, 3, "{speaks:?}");
        let back = Web::start_at(address, speaks, |_| None).await;
        // Not before its pause is over.
        let early = tool
            .call(json!({}), context())
            .await
            .expect_err("it pauses");
        assert!(early.did_not_run(), "{early}");
        assert_eq!(back.seen().len(), 0, "{speaks:?}");
        clock.advance(Duration::from_secs(60));
        tool.call(json!({}), context()).await.expect("an answer");
        let greeted = back.count("initialize") + back.count("server/discover");
        assert!(greeted >= 1, "{speaks:?}: it is greeted anew");
        assert_eq!(back.count("tools/call"), 1, "{speaks:?}");
        // Another server may answer now: the list was marked stale, and is fetched anew (M4).
        source.list().await;
        until(|| back.count("tools/list") == 1).await;
    }
}

/// M4: hints as they come over HTTP: without a time to live a list of the newer era is stale at
/// once, one of the older era holds for the default.
#[tokio::test]
async fn m4_lists_without_hints_hold_as_their_era_says() {
    for (speaks, lists) in [(Speaks::Old, 1), (Speaks::New, 2)] {
        let web = Web::start(speaks, |seen| {
            let tools = json!({"tools": [named("work")], "resultType": "complete"});
            (seen.method() == "tools/list").then_some(Reply::Result(tools))
        })
        .await;
        let (source, clock) = source(web.config());
        source.list().await;
        clock.advance(Duration::from_secs(2));
        let listing = source.list().await;
        assert_eq!(names(&listing), ["web__work"], "served at once");
        until(|| web.count("tools/list") >= lists).await;
        assert_eq!(web.count("tools/list"), lists, "{speaks:?}");
    }
}

/// M1: a server at a URL that is down is a diagnostic with its class and next retry.
#[tokio::test]
async fn m1_a_server_at_a_url_that_is_down_says_so_and_when_it_is_asked_again() {
    let web = Web::start(Speaks::New, |_| None).await;
    let config = web.config();
    drop(web);
    let (source, _) = source(config);
    let listing = source.list().await;
    let diagnostic = listing.diagnostic.expect("no list and no error");
    let error = diagnostic.error.expect("it says why");
    assert!(listing.tools.is_empty());
    assert_eq!(
        (&*diagnostic.state, error.class),
        ("negative", ErrorClass::Unavailable)
    );
    assert!(diagnostic.next_retry.is_some());
}
