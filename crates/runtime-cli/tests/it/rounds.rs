//! A tool that asks back: the process may die between the rounds of its questions (M9).

use std::cell::RefCell;
use std::fs;

use runtime_testkit::{ProviderResponse, ProviderServer};
use serde_json::{Value, json};

use crate::command_line::{Home, completed, text, wait_until};

/// A tool server of the newer era in a few lines. `book` asks who travels, then where to, and is
/// done when it has heard both; it notes each call that reaches it.
const SERVER: &str = r#"#!/bin/sh
cd "$1" || exit 9
reply() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
ask() {
  printf '{"resultType":"input_required","requestState":"%s","inputRequests":{"%s":{"method":"elicitation/create","params":{"mode":"form","message":"%s","requestedSchema":{"type":"object","properties":{"answer":{"type":"string"}}}}}}}' "$1" "$1" "$2"
}
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"server/discover"'*) reply "$id" '{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private","resultType":"complete"}' ;;
    *'"tools/list"'*) reply "$id" '{"tools":[{"name":"book","description":"Books.","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}],"ttlMs":3600000,"cacheScope":"public","resultType":"complete"}' ;;
    *'"requestState":"where"'*) echo "booked" >> calls; reply "$id" '{"resultType":"complete","content":[{"type":"text","text":"booked"}]}' ;;
    *'"requestState":"who"'*) echo "where" >> calls; reply "$id" "$(ask where 'Where to?')" ;;
    *'"tools/call"'*) echo "who" >> calls; reply "$id" "$(ask who 'Who travels?')" ;;
    *'"id":'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}\n' "$id" ;;
  esac
done
"#;

/// M9, E7: between two rounds nothing but the store holds the call. Its process is killed while it
/// waits, the answer comes from another process, and a third one goes on with the next round; no
/// round is sent twice.
#[test]
fn m9_a_kill_between_two_rounds_of_an_elicitation_loses_and_repeats_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("server");
    fs::write(&program, SERVER).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let provider = ProviderServer::start(|request| {
        let answered = request.body["messages"].to_string().contains("booked");
        let response = ProviderResponse::stream();
        match answered {
            true => response.text("You are booked.").reason("stop").done(),
            false => response
                .call(0, "call-1", "travel__book", &json!({}))
                .reason("tool_calls")
                .done(),
        }
    });
    let config = folder.path().join("agent-runtime.toml");
    let lines = format!(
        "[model]\nname = \"openai::fake\"\nbase_url = {:?}\n\
         [mcp_servers.travel]\ntype = \"stdio\"\ncommand = {:?}\nargs = [{:?}]\ntrusted = true\n",
        provider.base_url(),
        program.display().to_string(),
        folder.path().display().to_string(),
    );
    fs::write(&config, lines).expect("written");
    let home = Home::new();
    let config = config.display().to_string();
    let with = |arguments: &[&str]| -> Vec<String> {
        let all = ["--config", &config]
            .into_iter()
            .chain(arguments.iter().copied());
        all.map(str::to_owned).collect()
    };
    let calls = || fs::read_to_string(folder.path().join("calls")).unwrap_or_default();

    let mut expected = String::new();
    for (round, (asked, answer)) in [("Who travels?", "Ada"), ("Where to?", "Bern")]
        .into_iter()
        .enumerate()
    {
        let arguments = match round {
            0 => with(&["run", "--worker", "desk", "--wait", "book it"]),
            _ => with(&["resume", "--wait"]),
        };
        let mut waiting = home.spawn(&borrowed(&arguments));
        let question = until_asked(&home, asked);
        waiting.kill().expect("it runs");
        waiting.wait().expect("it ends");
        expected.push_str(["who\n", "where\n"][round]);
        assert_eq!(calls(), expected);

        // The question is there without the process that asked it.
        let left = home.pending();
        assert_eq!(left.len(), 1, "{left:?}");
        let token = text(&question["token"]);
        let answer = json!({"answer": answer}).to_string();
        home.run(&["resolve", &token, &answer]).expect(0);
        let again = home.run(&["resolve", &token, &answer, "--json"]).expect(0);
        assert_eq!(again.json()[0]["answer"], "already_done");
        assert_eq!(calls(), expected, "an answer lets nothing go on by itself");
    }
    let ended = home.run(&borrowed(&with(&["resume"]))).expect(0);
    assert!(ended.stdout.contains("You are booked."), "{}", ended.stdout);
    assert_eq!(calls(), "who\nwhere\nbooked\n");
    let events = home.events();
    assert_eq!(completed(&events), 1);
    // Each round is recorded once, and the last has the result.
    let rounds = events
        .iter()
        .filter(|event| event["kind"] == "tool_call_finished");
    let booked: Vec<bool> = rounds
        .map(|event| event["payload"].to_string().contains("booked"))
        .collect();
    assert_eq!(booked, [false, false, true]);
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// What waits, once it asks this.
fn until_asked(home: &Home, question: &str) -> Value {
    let found = RefCell::new(Value::Null);
    wait_until(|| {
        // The store may not be there yet.
        let ended = home.run(&["pending", "--json"]);
        let pending = match ended.code {
            Some(0) => ended.json(),
            _ => Vec::new(),
        };
        let asks = |item: &&Value| {
            let asks = item["asks"].as_str();
            asks.is_some_and(|asks| asks.contains(question))
        };
        *found.borrow_mut() = pending.iter().find(asks).cloned().unwrap_or_default();
        !found.borrow().is_null()
    });
    found.into_inner()
}
