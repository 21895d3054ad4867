//! Servers over HTTP that behave, in both eras (M9, M10).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{Continuation, ErrorClass, Resolution, Secret, Timestamp};
use runtime_mcp::{AuthError, AuthProvider, McpServerConfig, McpSource, TokenRequest};
use runtime_tools::{Resumption, Tool, ToolContext, ToolError, ToolOutput, ToolSource};
use serde_json::{Value, json};

use crate::fixture::{fixture_context, text_of};
use crate::waiting::until;
use crate::web::{Answers, Reply, Speaks, Web, source, source_with, tool};

/// The context of a call that has more than a day.
pub(crate) fn context() -> ToolContext {
    ToolContext {
        deadline: Timestamp::from_millis(1_000_000).after(Duration::from_secs(100_000)),
        ..fixture_context()
    }
}

pub(crate) async fn work(source: &McpSource) -> Arc<dyn Tool> {
    let listing = source.list().await;
    let mut tools = listing.tools.into_iter();
    let found = tools.find(|tool| tool.definition().name == "web__work");
    found.unwrap_or_else(|| panic!("not listed; {:?}", listing.diagnostic))
}

async fn call(source: &McpSource, arguments: Value) -> Result<ToolOutput, ToolError> {
    work(source).await.call(arguments, context()).await
}

fn parked(answer: Result<ToolOutput, ToolError>) -> (Option<Duration>, Continuation) {
    match answer {
        Ok(ToolOutput::Parked {
            deadline,
            continuation,
        }) => (deadline, continuation),
        other => panic!("it should park, not {other:?}"),
    }
}

async fn resume(
    source: &McpSource,
    continuation: &Continuation,
    resolution: Resolution,
) -> Result<ToolOutput, ToolError> {
    let resumption = Resumption {
        arguments: json!({"a": 1}),
        state: continuation.state.clone(),
        resolution,
    };
    work(source).await.resume(resumption, context()).await
}

fn ok(value: Value) -> Resolution {
    Resolution::Ok { value }
}

#[tokio::test]
async fn m9_both_eras_list_and_answer_over_http() {
    for speaks in [Speaks::Old, Speaks::New] {
        let web = Web::start(speaks, |_| None).await;
        let (source, _) = source(web.config().header("X-Api-Key", "k"));
        let answer = call(&source, json!({"a": [1, "ä"]})).await;
        assert_eq!(text_of(answer.expect("an answer")), r#"{"a":[1,"ä"]}"#);
        source.close().await;
        let seen = web.seen();
        assert!(seen.iter().all(|seen| seen.headers["x-api-key"] == "k"));
        let called = seen
            .iter()
            .find(|seen| seen.method() == "tools/call")
            .expect("a call");
        let header = |name: &str| called.headers.get(name).map(String::as_str);
        match speaks {
            Speaks::Old => {
                assert_eq!(header("mcp-protocol-version"), Some("2025-11-25"));
                assert_eq!(header("mcp-session-id"), Some("session-1"));
                let last = seen.last().expect("requests");
                assert_eq!(last.verb, "DELETE", "the session is ended");
            }
            Speaks::New => {
                assert_eq!(header("mcp-protocol-version"), Some("2026-07-28"));
                assert_eq!(
                    (header("mcp-method"), header("mcp-name")),
                    (Some("tools/call"), Some("work"))
                );
                assert_eq!(header("mcp-session-id"), None);
            }
        }
    }
}

#[tokio::test]
async fn m9_headers_that_changed_are_learnt_and_the_call_made_once_more() {
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lists);
    let web = Web::start(Speaks::New, move |seen| match seen.method() {
        "tools/list" => {
            let header = match counted.fetch_add(1, Ordering::Relaxed) {
                0 => json!({"type": "string"}),
                _ => json!({"type": "string", "x-mcp-header": "Region"}),
            };
            let schema = json!({"type": "object", "properties": {"region": header}});
            Some(Reply::Result(json!({
                "tools": [tool(schema)], "ttlMs": 3_600_000, "cacheScope": "public",
                "resultType": "complete",
            })))
        }
        "tools/call" if !seen.headers.contains_key("mcp-param-region") => {
            Some(Reply::Error(400, -32020, "a header is missing"))
        }
        _ => None,
    })
    .await;
    let (source, _) = source(web.config());
    let answer = call(&source, json!({"region": "eu"})).await;
    assert_eq!(text_of(answer.expect("an answer")), r#"{"region":"eu"}"#);
    assert_eq!((web.count("tools/list"), web.count("tools/call")), (2, 2));
}

#[tokio::test]
async fn m9_a_server_that_wants_what_nobody_can_give_is_asked_twice_and_no_more() {
    let web = Web::start(Speaks::New, |seen| {
        (seen.method() == "tools/call").then_some(Reply::Error(400, -32020, "a header is missing"))
    })
    .await;
    let (source, _) = source(web.config());
    let error = call(&source, json!({})).await.expect_err("refused");
    assert!(matches!(error, ToolError::Failed { .. }), "{error}");
    assert_eq!(web.count("tools/call"), 2);
}

#[tokio::test]
async fn e7_a_call_whose_connection_breaks_is_indeterminate_and_sent_once() {
    for speaks in [Speaks::Old, Speaks::New] {
        let web = Web::start(speaks, |seen| {
            (seen.method() == "tools/call").then_some(Reply::Break)
        })
        .await;
        let (source, _) = source(web.config());
        let error = call(&source, json!({})).await.expect_err("it broke");
        assert!(matches!(error, ToolError::Indeterminate { .. }), "{error}");
        assert!(!error.did_not_run());
        assert_eq!(web.count("tools/call"), 1);
    }
}

#[tokio::test]
async fn m9_an_expired_session_is_begun_anew_and_nothing_is_sent_twice() {
    let expired = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&expired);
    let web = Web::start(Speaks::Old, move |seen| {
        let expires = seen.method() == "tools/call" && counted.fetch_add(1, Ordering::Relaxed) == 0;
        expires.then(|| Reply::Raw(404, Vec::new(), Vec::new()))
    })
    .await;
    let (source, _) = source(web.config());
    let error = call(&source, json!({})).await.expect_err("it expired");
    assert!(error.did_not_run(), "{error}");
    assert!(error.to_string().contains("expired"), "{error}");
    call(&source, json!({})).await.expect("a new session");
    assert_eq!((web.count("initialize"), web.count("tools/call")), (2, 2));
}

#[tokio::test]
async fn m9_a_call_without_an_answer_times_out_over_http() {
    let web = Web::start(Speaks::New, |seen| {
        (seen.method() == "tools/call").then_some(Reply::Hang)
    })
    .await;
    let (source, clock) = source(web.config());
    let tool = work(&source).await;
    let calling = tokio::spawn(async move { tool.call(json!({}), context()).await });
    until(|| web.count("tools/call") == 1).await;
    clock.advance(Duration::from_secs(60));
    let error = calling.await.expect("no panic").expect_err("no answer");
    assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn m10_a_private_address_is_refused_unless_the_entry_allows_it() {
    let web = Web::start(Speaks::New, |_| None).await;
    let mut config = web.config();
    config.allow_private_addresses = false;
    config.url = config.url.replace("http:", "https:");
    let clock = Arc::new(runtime_testkit::SimulatedClock::new(
        Timestamp::from_millis(0),
    ));
    let random = Arc::new(runtime_testkit::SeededRandom::new(1));
    let cache = runtime_mcp_cache::DiscoveryCache::new(
        runtime_mcp_cache::CacheConfig::default(),
        clock.clone(),
        random.clone(),
    );
    let made = McpSource::new(config.clone(), clock, random, cache);
    assert!(made.expect_err("refused").to_string().contains("private"));
    // A name that stands for such an address is found out where it is resolved, at each refresh.
    config.url = config.url.replace("127.0.0.1", "ip6-localhost");
    if tokio::net::lookup_host("ip6-localhost:0").await.is_ok() {
        let (source, _) = source(config);
        for _ in 0..2 {
            let error = source.list().await.diagnostic.and_then(|found| found.error);
            let error = error.expect("an error");
            assert!(error.message.contains("private"), "{error}");
        }
    }
    assert!(web.seen().is_empty());
}

/// Gives tokens from a list, and notes what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) give: Vec<&'static str>,
    pub(crate) asked: Mutex<Vec<TokenRequest>>,
}

#[async_trait]
impl AuthProvider for Tokens {
    fn account(&self) -> String {
        "ada".to_owned()
    }

    async fn token(&self, request: TokenRequest) -> Result<Option<Secret>, AuthError> {
        let mut asked = self.asked.lock().expect("no panic");
        let refused = asked
            .iter()
            .filter(|request| request.challenge.is_some())
            .count();
        let refused = refused + usize::from(request.challenge.is_some());
        asked.push(request);
        match self.give.get(refused) {
            Some(token) => Ok(Some(Secret::new(*token))),
            None => Err(AuthError::new("log in again")),
        }
    }
}

fn wants(token: &'static str) -> impl Fn(&crate::web::Seen) -> Option<Reply> + Send + Sync {
    move |seen| {
        let given = seen.headers.get("authorization").map(String::as_str);
        let fits = given.is_some_and(|given| given == format!("Bearer {token}"));
        let header = ("www-authenticate", "Bearer scope=\"work\"".to_owned());
        (!fits).then(|| Reply::Raw(401, vec![header], Vec::new()))
    }
}

#[tokio::test]
async fn m9_the_credential_is_asked_anew_for_each_connection_and_discovery() {
    let web = Web::start(Speaks::New, wants("second")).await;
    let tokens = Arc::new(Tokens {
        give: vec!["first", "second"],
        ..Tokens::default()
    });
    let source = source_with(web.config(), tokens.clone());
    call(&source, json!({})).await.expect("an answer");
    let asked = tokens.asked.lock().expect("no panic").clone();
    // The connection, the refusal, the discovery.
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(asked[0].challenge, None);
    let challenge = asked[1].challenge.clone().expect("a challenge");
    assert_eq!(
        (challenge.status, challenge.www_authenticate.as_str()),
        (401, "Bearer scope=\"work\"")
    );
    assert_eq!(asked[2].challenge, None);
}

#[tokio::test]
async fn m1_a_refused_credential_blocks_until_there_is_a_new_one() {
    let web = Web::start(Speaks::New, wants("right")).await;
    let tokens = Arc::new(Tokens {
        give: vec!["wrong", "wrong"],
        ..Tokens::default()
    });
    let source = source_with(web.config(), tokens);
    let diagnostic = source.list().await.diagnostic.expect("a diagnostic");
    let error = diagnostic.error.expect("an error");
    assert_eq!(
        (diagnostic.state.as_str(), error.code.as_str()),
        ("blocked", "mcp_unauthorised")
    );
    assert_eq!(error.class, ErrorClass::Terminal);
    let before = web.seen().len();
    source.list().await;
    assert_eq!(web.seen().len(), before, "it fails closed");
    source.credential_changed();
    source.list().await;
    assert!(web.seen().len() > before);
}

#[tokio::test]
async fn x2_a_token_follows_no_redirect_to_another_server() {
    let thief = Web::start(Speaks::New, |_| None).await;
    let target = format!("http://{}/mcp", thief.address);
    for status in [301, 302, 303, 307, 308] {
        let target = target.clone();
        let web = Web::start(Speaks::New, move |seen| {
            let header = vec![("location", target.clone())];
            (seen.method() == "tools/call").then(|| Reply::Raw(status, header, Vec::new()))
        })
        .await;
        let tokens = Arc::new(Tokens {
            give: vec!["canary"],
            ..Tokens::default()
        });
        let source = source_with(web.config(), tokens);
        let error = call(&source, json!({}))
            .await
            .expect_err("it is not followed");
        assert!(error.did_not_run(), "{error}");
        assert!(
            !error.to_string().contains(&thief.address.to_string()),
            "{error}"
        );
    }
    assert!(thief.seen().is_empty());
}

fn asks() -> Value {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "city": {"type": "string", "default": "Bern"},
    }});
    json!({"method": "elicitation/create", "params": {
        "mode": "form", "message": "Who are you?", "requestedSchema": schema,
    }})
}

#[tokio::test]
async fn m9_a_round_of_input_goes_on_in_another_process() {
    let web = Web::start(Speaks::New, |seen| {
        let params = &seen.body["params"];
        match (seen.method(), params["requestState"].as_str()) {
            ("tools/call", None) => Some(Reply::Result(json!({
                "resultType": "input_required", "requestState": "one",
                "inputRequests": {"who": asks()},
            }))),
            // Nobody needs to be asked in this round.
            ("tools/call", Some("one")) => Some(Reply::Result(json!({
                "resultType": "input_required", "requestState": format!("two {}", params["inputResponses"]),
            }))),
            ("tools/call", Some(state)) => Some(Reply::Result(json!({
                "resultType": "complete", "content": [{"type": "text", "text": state}],
            }))),
            _ => None,
        }
    })
    .await;
    let (first, _) = source(web.config());
    let (deadline, continuation) = parked(call(&first, json!({"a": 1})).await);
    assert_eq!(deadline, None);
    assert_eq!(
        continuation.question.as_deref(),
        Some("web asks \"Who are you?\" (city, name)")
    );
    first.close().await;
    drop(first);

    let (second, _) = source(web.config());
    // What is no answer is asked for again; nothing is sent for it.
    let (_, again) = parked(resume(&second, &continuation, ok(json!(7))).await);
    assert!(
        again
            .question
            .expect("a question")
            .starts_with("not understood")
    );
    assert_eq!(web.count("tools/call"), 1);
    let answer = resume(&second, &continuation, ok(json!({"name": "Ada"}))).await;
    let text = text_of(answer.expect("the result"));
    let sent: Value = serde_json::from_str(text.strip_prefix("two ").expect("the state"))
        .expect("the answers are JSON");
    let content = json!({"city": "Bern", "name": "Ada"});
    assert_eq!(
        sent,
        json!({"who": {"action": "accept", "content": content}})
    );
    assert_eq!(web.count("tools/call"), 3);
}

#[tokio::test]
async fn m9_a_task_is_looked_at_until_it_is_over_in_whichever_process() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let web = Web::start(Speaks::New, move |seen| {
        let task = |status: &str, more: Value| {
            let mut task = json!({
                "taskId": "t/1", "status": status, "createdAt": "2026-01-01T00:00:00Z",
                "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttlMs": null, "pollIntervalMs": 5_000,
                "resultType": "complete",
            });
            for (name, value) in more.as_object().into_iter().flatten() {
                task[name] = value.clone();
            }
            Some(Reply::Result(task))
        };
        match seen.method() {
            "tools/call" => task("working", json!({"resultType": "task"})),
            "tasks/update" => Some(Reply::Result(json!({"resultType": "complete"}))),
            "tasks/get" => match counted.fetch_add(1, Ordering::Relaxed) {
                0 => task("working", json!({})),
                1 => task("input_required", json!({"inputRequests": {"who": asks()}})),
                _ => task(
                    "completed",
                    json!({"result": {"content": [{"type": "text", "text": "done"}]}}),
                ),
            },
            _ => None,
        }
    })
    .await;
    let (first, _) = source(web.config());
    let (deadline, continuation) = parked(call(&first, json!({"a": 1})).await);
    assert_eq!(deadline, Some(Duration::from_secs(5)));
    assert!(continuation.retry_safe, "looking changes nothing");
    drop(first);
    let (second, _) = source(web.config());
    let (deadline, continuation) =
        parked(resume(&second, &continuation, Resolution::Timeout).await);
    assert_eq!(deadline, Some(Duration::from_secs(5)));
    let (deadline, continuation) =
        parked(resume(&second, &continuation, Resolution::Timeout).await);
    assert_eq!(deadline, None, "a person is asked");
    assert!(continuation.question.is_some());
    let answer = resume(&second, &continuation, ok(json!({"name": "Ada"}))).await;
    assert_eq!(text_of(answer.expect("the result")), "done");
    assert_eq!((web.count("tools/call"), web.count("tasks/update")), (1, 1));
    let update = web
        .seen()
        .into_iter()
        .find(|seen| seen.method() == "tasks/update");
    let update = update.expect("an update");
    assert_eq!(update.headers["mcp-name"], "t/1");
    assert_eq!(
        update.body["params"]["inputResponses"]["who"]["content"]["name"],
        "Ada"
    );
}

#[tokio::test]
async fn m9_a_task_has_its_time_and_can_be_cancelled() {
    let web = Web::start(Speaks::New, |seen| {
        let task = json!({"taskId": "t", "status": "working", "resultType": "task"});
        match seen.method() {
            "tools/call" | "tasks/get" => Some(Reply::Result(task)),
            "tasks/cancel" => Some(Reply::Result(json!({"resultType": "complete"}))),
            _ => None,
        }
    })
    .await;
    let (source, clock) = source(McpServerConfig {
        task_timeout_ms: 60_000,
        ..web.config()
    });
    let (_, continuation) = parked(call(&source, json!({"a": 1})).await);
    let cancelled = resume(&source, &continuation, Resolution::Cancelled).await;
    assert!(matches!(
        cancelled,
        Ok(ToolOutput::Finished { is_error: true, .. })
    ));
    assert_eq!(web.count("tasks/cancel"), 1);
    clock.advance(Duration::from_secs(60));
    let late = resume(&source, &continuation, Resolution::Timeout).await;
    assert!(matches!(late, Err(ToolError::TimedOut { .. })), "{late:?}");
}

#[tokio::test]
async fn m9_a_question_of_the_older_era_parks_the_call_while_its_connection_lives() {
    let answers = Arc::<Answers>::default();
    let given = Arc::clone(&answers);
    let web = Web::start(Speaks::Old, move |seen| {
        if let Some(reply) = given.take(seen) {
            return Some(reply);
        }
        let mut asked = asks();
        asked["jsonrpc"] = json!("2.0");
        asked["id"] = json!("q1");
        (seen.method() == "tools/call").then(|| Reply::Ask(asked, Arc::clone(&given)))
    })
    .await;
    let (first, _) = source(web.config());
    let (_, continuation) = parked(call(&first, json!({"a": 1})).await);
    assert!(
        continuation
            .question
            .as_deref()
            .is_some_and(|text| text.contains("Who are you?"))
    );
    // Another process has not the connection: whether the call ran on, nobody knows.
    let (second, _) = source(web.config());
    let lost = resume(&second, &continuation, ok(json!({"name": "Ada"}))).await;
    assert!(
        matches!(lost, Err(ToolError::Indeterminate { .. })),
        "{lost:?}"
    );
    let answer = resume(&first, &continuation, ok(json!({"name": "Ada"}))).await;
    let text = text_of(answer.expect("the result"));
    assert!(
        text.contains(r#""name":"Ada""#) && text.contains(r#""city":"Bern""#),
        "{text}"
    );
    assert_eq!(web.count("tools/call"), 1);
}
