//! Real tool servers of others, from entries of the configuration file (M11). Where they are not
//! installed the test says that it was skipped; under `CI=true` that is a failure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use runtime_testkit::{ProviderResponse, ProviderServer, RealServer};
use serde_json::{Value, json};

use crate::command_line::Home;

/// Runs one turn in which the model calls one tool; returns the tools that it was offered and
/// what the call gave.
fn call(
    server: RealServer,
    arguments: &[&str],
    env: &[(&str, &str)],
    tool: &str,
    given: Value,
) -> Option<(BTreeSet<String>, String)> {
    let installed = server.find()?;
    let home = Home::new();
    fs::create_dir_all(home.path()).expect("the folder can be made");
    let name = format!("{}__{tool}", server.name());
    let asked = name.clone();
    let provider = ProviderServer::start(move |request| {
        let messages = request.body["messages"].as_array().expect("messages");
        if messages.iter().any(|message| message["role"] == "tool") {
            ProviderResponse::stream()
                .text("done")
                .reason("stop")
                .done()
        } else {
            let response = ProviderResponse::stream().call(0, "call_a", &asked, &given);
            response.reason("tool_calls").done()
        }
    });
    let mut args = installed.args;
    args.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let mut variables = installed.env;
    variables.extend(
        env.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let variables = variables
        .iter()
        .map(|(name, value)| format!("{name} = {value:?}"));
    let variables: Vec<String> = variables.collect();
    let text = format!(
        "[model]\nname = \"openai::fake\"\nbase_url = {:?}\n[approval]\ndefault = \"never\"\n\
         [mcp_servers.{}]\ntype = \"stdio\"\ncommand = {:?}\nargs = {args:?}\nenv = {{ {} }}\n\
         required = true\n",
        provider.base_url(),
        server.name(),
        installed.program.display().to_string(),
        variables.join(", "),
    );
    fs::write(home.path().join("agent-runtime.toml"), text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_agent-runtime"))
        .current_dir(home.path())
        .args(["run", "--worker", "desk", "go"])
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
    let requests = provider.requests();
    assert_eq!(requests.len(), 2, "{said}");
    let offered = requests[0].body["tools"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let offered = offered.iter().map(|tool| &tool["function"]["name"]);
    let offered: BTreeSet<String> = offered
        .map(|name| name.as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(offered.contains(&name), "{name} is not among {offered:?}");
    let messages = requests[1].body["messages"]
        .as_array()
        .expect("messages")
        .clone();
    let result = messages
        .into_iter()
        .find(|message| message["role"] == "tool");
    let result = result.expect("the model reads the result")["content"].to_string();
    Some((offered, result))
}

#[test]
fn m9_server_everything_is_listed_and_called() {
    let given = json!({"message": "hello there"});
    if let Some((offered, result)) = call(RealServer::Everything, &[], &[], "echo", given) {
        assert!(offered.len() >= 5, "{offered:?}");
        assert!(result.contains("hello there"), "{result}");
    }
}

#[test]
fn m9_server_filesystem_is_listed_and_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("it is there");
    fs::write(root.join("note.txt"), "milk and bread").expect("written");
    let root = root.to_string_lossy().into_owned();
    let given = json!({"path": format!("{root}/note.txt")});
    if let Some((_, result)) = call(
        RealServer::Filesystem,
        &[&root],
        &[],
        "read_text_file",
        given,
    ) {
        assert!(result.contains("milk and bread"), "{result}");
    }
}

#[test]
fn m9_server_memory_is_listed_and_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder
        .path()
        .join("memory.json")
        .to_string_lossy()
        .into_owned();
    let entity = json!({"name": "Oslo", "entityType": "city", "observations": ["it rains"]});
    let given = json!({"entities": [entity]});
    let env = [("MEMORY_FILE_PATH", file.as_str())];
    if let Some((_, result)) = call(RealServer::Memory, &[], &env, "create_entities", given) {
        assert!(result.contains("Oslo"), "{result}");
        let kept = fs::read_to_string(&file).expect("the server wrote it");
        assert!(kept.contains("it rains"), "{kept}");
    }
}

#[test]
fn m9_server_time_is_listed_and_called() {
    let given = json!({"timezone": "Europe/Oslo"});
    if let Some((_, result)) = call(RealServer::Time, &[], &[], "get_current_time", given) {
        assert!(result.contains("Europe/Oslo"), "{result}");
    }
}

#[test]
fn m9_server_git_is_listed_and_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let git = |arguments: &[&str]| {
        let done = Command::new("git")
            .current_dir(folder.path())
            .args(arguments)
            .output();
        done.is_ok_and(|output| output.status.success())
    };
    if !git(&["init", "--quiet"]) {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "git is needed");
        return;
    }
    fs::write(Path::new(folder.path()).join("new.txt"), "x").expect("written");
    let root = folder.path().to_string_lossy().into_owned();
    let given = json!({"repo_path": root});
    if let Some((_, result)) = call(
        RealServer::Git,
        &["--repository", &root],
        &[],
        "git_status",
        given,
    ) {
        assert!(result.contains("new.txt"), "{result}");
    }
}
