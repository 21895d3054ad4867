//! The process of a server: its own process group, ended with it.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use runtime_core::Clock;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::survivors::{ProcessRecord, owner_variable};
use crate::{McpError, McpServerConfig, ServerStderr};

/// A running server. Dropping it kills its whole process group at once.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    /// The group, until it was killed.
    group: Option<Pid>,
    record: Option<ProcessRecord>,
    clock: Arc<dyn Clock>,
    grace: Duration,
}

/// A server that was just started, and the two ends of its pipe.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: ServerProcess,
    pub(crate) output: ChildStdout,
    pub(crate) input: ChildStdin,
}

/// Starts the server of an entry: no shell, only allowed variables, a process group of its own.
///
/// With `records` it is written down before it is used, so that it can be ended if this process
/// is killed (E7).
pub(crate) fn start(
    config: &McpServerConfig,
    records: Option<&Path>,
    clock: Arc<dyn Clock>,
) -> Result<Started, McpError> {
    let not_started = |reason: String| McpError::NotStarted {
        server: config.name.clone(),
        reason,
    };
    let mut command = command(config);
    if let Some((name, value)) = records.and_then(|_| owner_variable()) {
        command.env(name, value);
    }
    let mut child = command
        .spawn()
        .map_err(|error| not_started(error.to_string()))?;
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    let record = match (records, child.id()) {
        (Some(records), Some(id)) => {
            let recorded = ProcessRecord::write(records, id, &config.name);
            let reason = |error: io::Error| not_started(format!("it cannot be recorded: {error}"));
            Some(recorded.map_err(reason)?)
        }
        _ => None,
    };
    let pipes = child.stdout.take().zip(child.stdin.take());
    let process = ServerProcess {
        child,
        group,
        record,
        clock,
        grace: Duration::from_millis(config.shutdown_grace_ms),
    };
    let (output, input) = pipes.ok_or_else(|| not_started("it has no pipe".to_owned()))?;
    Ok(Started {
        process,
        output,
        input,
    })
}

fn command(config: &McpServerConfig) -> Command {
    let mut command = Command::new(&config.command);
    command.args(&config.args).env_clear();
    for name in &config.env_allow {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(&config.env);
    if let Some(directory) = &config.directory {
        command.current_dir(directory);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(match config.stderr {
            ServerStderr::Discard => Stdio::null(),
            ServerStderr::Inherit => Stdio::inherit(),
        })
        // A Ctrl-C at the terminal is for us: we end the server in order.
        .process_group(0)
        .kill_on_drop(true);
    command
}

impl ServerProcess {
    /// Waits for the server to end by itself, its input being closed, then kills what is left of
    /// its group. Returns how it ended, for people.
    pub(crate) async fn end(&mut self) -> String {
        let grace = self.clock.sleep(self.grace);
        let exited = match select(Box::pin(self.child.wait()), grace).await {
            Either::Left((status, _)) => Some(status),
            Either::Right(_) => None,
        };
        if let Some(status) = exited {
            self.kill_group();
            return told(status);
        }
        self.kill().await
    }

    /// Kills the whole group at once. Returns how the server ended, for people.
    pub(crate) async fn kill(&mut self) -> String {
        self.kill_group();
        told(self.child.wait().await)
    }

    /// Kills the whole group; does nothing if that was done before.
    pub(crate) fn kill_group(&mut self) {
        // At most once: later the number may belong to others. Even after the leader was waited
        // for, the number stays taken while a grandchild of its group runs.
        if let Some(group) = self.group.take() {
            // An error means that nobody is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
        // Nobody is left to be ended later.
        self.record.take();
    }
}

fn told(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(
        |error| format!("its status is unknown: {error}"),
        |status| status.to_string(),
    )
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill_group();
    }
}
