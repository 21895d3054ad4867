//! Workers and the runtime itself: what changes where they stand, and what tells of them.

use clap::Subcommand;
use runtime::RuntimeError;
use runtime::core::WorkerId;
use runtime::workers::{Command, Severity, view};
use serde_json::json;

use crate::args::Common;
use crate::exit::Exit;
use crate::open;
use crate::output::Output;

/// What `worker` does.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Stop it: it takes no inputs, and its turns stay where they are, until it is resumed.
    Stop {
        /// The worker.
        worker: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a stopped worker go on, in a new run generation.
    Resume {
        /// The worker.
        worker: String,
    },
    /// Cancel it and what it does, for good.
    Cancel {
        /// The worker.
        worker: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete it, for good: what it does is cancelled, and only its history stays.
    Delete {
        /// The worker.
        worker: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Give it a System input: it joins the conversation before the next turn and starts none.
    Inform {
        /// The worker.
        worker: String,
        /// What is said.
        text: String,
        /// Names the input: sending the same again does not repeat it.
        #[arg(long, value_name = "ID")]
        submission: Option<String>,
    },
}

impl WorkerCommand {
    pub(crate) fn into_command(self) -> anyhow::Result<Command> {
        let id = |name: &str| name.parse::<WorkerId>().map_err(RuntimeError::from);
        Ok(match self {
            Self::Stop { worker, reason } => Command::StopWorker {
                worker: id(&worker)?,
                reason,
            },
            Self::Resume { worker } => Command::ResumeWorker {
                worker: id(&worker)?,
            },
            Self::Cancel { worker, reason } => Command::CancelWorker {
                worker: id(&worker)?,
                reason,
            },
            Self::Delete { worker, reason } => Command::DeleteWorker {
                worker: id(&worker)?,
                reason,
            },
            Self::Inform {
                worker,
                text,
                submission,
            } => Command::SystemInput {
                worker: id(&worker)?,
                submission: crate::work::submission_id(submission.as_deref())?,
                text,
            },
        })
    }
}

/// `status`
pub(crate) async fn status(common: &Common, output: Output) -> anyhow::Result<Exit> {
    let summary = view::summary(&*open::read_only(common).await?).await?;
    let line = || {
        let workers = &summary.workers;
        format!(
            "runtime {} is {}; {} running, {} stopped, {} cancelled, {} deleted workers; \
             {} diagnostics",
            summary
                .display_name
                .as_deref()
                .unwrap_or(summary.id.as_str()),
            summary.status.as_str(),
            workers.running,
            workers.stopped,
            workers.cancelled,
            workers.deleted,
            summary.diagnostics,
        )
    };
    output.print(line, &json!(summary));
    Ok(Exit::Done)
}

/// `diagnostics [WORKER]`
pub(crate) async fn diagnostics(
    common: &Common,
    output: Output,
    worker: Option<&str>,
) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let worker = worker.map(known_worker).transpose()?;
    if let Some(worker) = &worker {
        view::worker(&*store, worker).await?;
    }
    for told in view::diagnostics(&*store, worker.as_ref()).await? {
        let line = || {
            let severity = match told.severity {
                Severity::Info => "info",
                Severity::Warning => "warning",
                _ => "error",
            };
            let of = told.worker.as_ref().map_or("runtime", WorkerId::as_str);
            format!("{severity}  {of}  {}  {}", told.code, told.message)
        };
        output.print(line, &json!(told));
    }
    Ok(Exit::Done)
}

/// `transcript WORKER`
pub(crate) async fn transcript(
    common: &Common,
    output: Output,
    worker: &str,
    start: u64,
    limit: usize,
) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let page = view::transcript(&*store, &known_worker(worker)?, start, limit).await?;
    for item in &page.items {
        let role = json!(item.message.role);
        let role = role.as_str().unwrap_or_default();
        let line = || format!("{:>5}  {role:<9}  {}", item.sequence, said(item));
        output.print(line, &json!(item));
    }
    if let Some(next) = page.next_start {
        output.say(&format!(
            "{} of {}; more by --start {next}",
            page.items.len(),
            page.total
        ));
    }
    Ok(Exit::Done)
}

/// One line of what was said; what is no text is its JSON.
fn said(item: &runtime::workers::TranscriptItem) -> String {
    let text = item.message.plain_text();
    if text.is_empty() {
        return json!(item.message.content).to_string();
    }
    text.replace('\n', "\n                  ")
}

fn known_worker(name: &str) -> Result<WorkerId, RuntimeError> {
    name.parse().map_err(RuntimeError::from)
}
