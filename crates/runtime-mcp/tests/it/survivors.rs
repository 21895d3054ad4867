//! Servers that outlive their owner (E7).

use std::path::Path;
use std::process::{Child, Command};

use runtime_mcp::end_survivors;
use runtime_tools::ToolSource;
use serde_json::{Value, json};

use crate::fixture::fixture;
use crate::waiting::until;

fn record(directory: &Path) -> (std::path::PathBuf, Value) {
    let mut entries = std::fs::read_dir(directory).expect("records").flatten();
    let path = entries.next().expect("a record").path();
    let bytes = std::fs::read(&path).expect("a record");
    (path, serde_json::from_slice(&bytes).expect("JSON"))
}

fn is_running(process: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A process of its own group that does nothing.
fn sleeper() -> Child {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("sleep");
    command.arg("600").process_group(0);
    command.spawn().expect("sleep")
}

/// E7: what a killed owner left behind is ended, with its grandchildren; what lives is let live.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn e7_servers_of_an_owner_that_is_gone_are_ended_and_no_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let records = directory.path().join("running");
    assert_eq!(end_survivors(&records).expect("nothing yet"), []);
    let fixture = fixture("plain");
    let source = fixture
        .source
        .clone()
        .recording_processes(&records)
        .expect("a directory");
    source.list().await;
    let (path, mut recorded) = record(&records);
    assert_eq!(recorded["owner"], json!(std::process::id()));

    // Its owner runs: it is let alone.
    assert_eq!(end_survivors(&records).expect("records"), []);
    assert!(path.exists() && is_running(&recorded["process"]));

    // The owner is gone, and its number was given to another process.
    recorded["owner_started"] = json!("1");
    std::fs::write(&path, recorded.to_string()).expect("a record");
    let ended = end_survivors(&records).expect("records");
    assert_eq!(ended.len(), 1);
    assert_eq!(
        (ended[0].server.as_str(), json!(ended[0].process)),
        ("fixture", recorded["process"].clone())
    );
    until(|| !is_running(&recorded["process"])).await;
    assert!(!path.exists());

    // The server is gone, and its number was given to another process: that one is let alone.
    let mut bystander = sleeper();
    let stale = json!({
        "server": "s", "process": bystander.id(), "started": "1",
        "owner": 1, "owner_started": "0",
    });
    std::fs::write(records.join("1.json"), stale.to_string()).expect("a record");
    std::fs::write(records.join("2.json"), "no record").expect("a file");
    assert_eq!(end_survivors(&records).expect("records"), []);
    assert!(is_running(&json!(bystander.id())));
    bystander.kill().expect("it runs");
    bystander.wait().expect("it ends");
}
