//! Real servers of others, through a kill in the middle of a call and a restart (M9, E7).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::Clock;
use runtime_mcp::{McpServerConfig, McpSource};
use runtime_mcp_cache::{CacheConfig, DiscoveryCache};
use runtime_store::{SystemClock, SystemRandom};
use runtime_testkit::RealServer;
use runtime_tools::{ToolContext, ToolError, ToolOutput, ToolSource};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How a server is set up, and a call that it answers.
fn entry(server: RealServer, directory: &Path) -> Option<(McpServerConfig, &'static str, Value)> {
    let installed = server.find()?;
    let program = installed.program.to_string_lossy().into_owned();
    let mut config = McpServerConfig::stdio(server.name(), program);
    config.args = installed.args;
    config.env.extend(installed.env);
    let place = directory.to_string_lossy().into_owned();
    let (tool, arguments) = match server {
        RealServer::Everything => ("echo", json!({"message": "hello"})),
        RealServer::Filesystem => {
            config = config.arg(place);
            ("list_allowed_directories", json!({}))
        }
        RealServer::Memory => {
            let file = directory.join("memory.json");
            config = config.env("MEMORY_FILE_PATH", file.to_string_lossy());
            ("read_graph", json!({}))
        }
        RealServer::Time => ("get_current_time", json!({"timezone": "UTC"})),
        RealServer::Git => {
            let made = std::process::Command::new("git")
                .args(["init", "-q", &place])
                .status();
            assert!(made.is_ok_and(|status| status.success()), "git is needed");
            ("git_status", json!({"repo_path": place}))
        }
    };
    Some((config, tool, arguments))
}

fn context() -> ToolContext {
    let context = crate::http::context();
    ToolContext {
        deadline: SystemClock::new().now().after(Duration::from_secs(60)),
        completions: None,
        delegates: None,
        triggers: None,
        budget: runtime_core::Reserve::default(),
        ..context
    }
}

/// The process that is recorded as running.
fn running(records: &Path) -> Pid {
    let entries = std::fs::read_dir(records).expect("records");
    let names = entries.flatten().map(|entry| entry.path());
    let mut numbers = names.filter_map(|path| path.file_stem()?.to_str()?.parse::<i32>().ok());
    let number = numbers.next().expect("one process is recorded");
    assert_eq!(numbers.next(), None, "one process per server");
    Pid::from_raw(number).expect("a process")
}

async fn killed_in_the_middle(server: RealServer) {
    let directory = tempfile::tempdir().expect("a directory");
    let records = tempfile::tempdir().expect("a directory");
    let Some((config, tool, arguments)) = entry(server, directory.path()) else {
        return;
    };
    let clock = Arc::new(SystemClock::new());
    let random = Arc::new(SystemRandom);
    let cache = DiscoveryCache::new(CacheConfig::default(), clock.clone(), random.clone());
    let source = McpSource::new(config, clock, random, cache).expect("the entry is right");
    let source = source
        .recording_processes(records.path())
        .expect("a directory");
    let listing = source.list().await;
    let public = runtime_mcp_cache::public_name(server.name(), tool);
    let found = listing
        .tools
        .iter()
        .find(|tool| tool.definition().name == public);
    let found = found.unwrap_or_else(|| panic!("{}: {:?}", server.name(), listing));
    let answered = |output: &ToolOutput| {
        matches!(
            output,
            ToolOutput::Finished {
                is_error: false,
                ..
            }
        )
    };
    let output = found
        .call(arguments.clone(), context())
        .await
        .expect("an answer");
    assert!(answered(&output), "{output:?}");

    // It reads nothing any more, so the call is surely under way when it dies.
    let process = running(records.path());
    kill_process(process, Signal::STOP).expect("it runs");
    let (calling, sent) = (Arc::clone(found), arguments.clone());
    let calling = tokio::spawn(async move { calling.call(sent, context()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    kill_process(process, Signal::KILL).expect("it runs");
    let error = calling
        .await
        .expect("no panic")
        .expect_err("its server died");
    assert!(matches!(error, ToolError::Indeterminate { .. }), "{error}");

    let output = found
        .call(arguments, context())
        .await
        .expect("a new process");
    assert!(answered(&output), "{output:?}");
    assert_ne!(running(records.path()), process);
    source.close().await;
    let left = std::fs::read_dir(records.path()).expect("records").count();
    assert_eq!(left, 0, "an ended process is recorded no more");
}

#[tokio::test]
async fn m9_everything_survives_a_kill_in_the_middle_of_a_call() {
    killed_in_the_middle(RealServer::Everything).await;
}

#[tokio::test]
async fn m9_filesystem_survives_a_kill_in_the_middle_of_a_call() {
    killed_in_the_middle(RealServer::Filesystem).await;
}

#[tokio::test]
async fn m9_memory_survives_a_kill_in_the_middle_of_a_call() {
    killed_in_the_middle(RealServer::Memory).await;
}

#[tokio::test]
async fn m9_time_survives_a_kill_in_the_middle_of_a_call() {
    killed_in_the_middle(RealServer::Time).await;
}

#[tokio::test]
async fn m9_git_survives_a_kill_in_the_middle_of_a_call() {
    killed_in_the_middle(RealServer::Git).await;
}
