//! `processes` and `process …`: background work, its signals and its end (E15).

use clap::Subcommand;
use runtime::RuntimeError;
use runtime::core::{ProcessId, ProcessStatus, RecoveryDisposition};
use runtime::effects::ProcessRecord;
use runtime::workers::Command;
use runtime::workers::view::{self, ProcessDetail};
use serde_json::{Value, json};

use crate::answer::json_argument;
use crate::args::Common;
use crate::exit::Exit;
use crate::open;
use crate::output::{Output, when};

/// What can be done with one process.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ProcessCommand {
    /// Show a process: what it is, what it waits for, what a restart would do.
    Show {
        /// The process.
        process: String,
    },
    /// Ask a process to end; the first reason stands.
    Cancel {
        /// The process.
        process: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Send a process a signal. The first of each ordinal stands.
    #[command(after_help = "\
Examples:
  agent-runtime process signal order-17 paid '{\"amount\": 30}'
  agent-runtime process signal order-17 paid --ordinal 1     twice is once")]
    Signal {
        /// The process.
        process: String,
        /// The name of the signal.
        name: String,
        /// Its value (JSON).
        #[arg(default_value = "null")]
        value: String,
        /// Which signal of that name, from 1; without it, the next one.
        #[arg(long, value_name = "NUMBER")]
        ordinal: Option<u64>,
    },
}

/// Prints what there is to see, or gives the command that has to be carried out.
pub(crate) async fn process(
    common: &Common,
    output: Output,
    command: ProcessCommand,
) -> anyhow::Result<Result<Exit, Command>> {
    Ok(match command {
        ProcessCommand::Show { process } => Ok(show(common, output, id(&process)?).await?),
        ProcessCommand::Cancel { process, reason } => Err(Command::CancelProcess {
            process: id(&process)?,
            reason,
        }),
        ProcessCommand::Signal {
            process,
            name,
            value,
            ordinal,
        } => Err(Command::SignalProcess {
            process: id(&process)?,
            name,
            ordinal,
            value: json_argument(&value)?,
        }),
    })
}

fn id(process: &str) -> anyhow::Result<ProcessId> {
    Ok(process.parse().map_err(RuntimeError::from)?)
}

/// `processes [--all]`
pub(crate) async fn processes(common: &Common, output: Output, all: bool) -> anyhow::Result<Exit> {
    let statuses = ProcessStatus::ALL.into_iter();
    let statuses: Vec<_> = statuses
        .filter(|status| all || !status.is_ended())
        .collect();
    let store = open::read_only(common).await?;
    for record in view::processes(store, &statuses).await? {
        output.print(|| line(&record), &value(&record));
    }
    Ok(Exit::Done)
}

async fn show(common: &Common, output: Output, process: ProcessId) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let detail = view::process(store, &process).await?;
    let mut shown = value(&detail.record);
    shown["input"] = json!(detail.registration.input);
    shown["grants"] = json!(detail.grants);
    shown["children"] = json!(detail.children);
    shown["waits"] = json!(detail.waits);
    shown["outcome"] = json!(detail.outcome);
    shown["restart"] = json!(after_a_restart(&detail.record));
    output.print(|| lines(&detail), &shown);
    Ok(Exit::Done)
}

fn value(record: &ProcessRecord) -> Value {
    json!({
        "process": record.process,
        "title": record.title,
        "kind": record.input_kind,
        "status": record.status,
        "disposition": record.disposition,
        "parent": record.parent,
        "registered": record.registered,
        "ended": record.ended,
        "cancel": record.cancel,
        "parked": record.parked,
    })
}

fn line(record: &ProcessRecord) -> String {
    let status = record.status;
    let mut line = format!("{}  {status}  {}", record.process, record.title);
    if let Some(error) = &record.parked {
        line.push_str(&format!("  parked: {}", error.code));
    }
    if let Some(reason) = record.cancel.as_ref().filter(|_| !status.is_ended()) {
        line.push_str(&format!("  is asked to end: {reason}"));
    }
    line
}

fn lines(detail: &ProcessDetail) -> String {
    let record = &detail.record;
    let mut lines = vec![line(record)];
    lines.push(format!("  registered {}", when(record.registered)));
    if let Some(ended) = record.ended {
        lines.push(format!("  ended {}", when(ended)));
    }
    for grant in detail.grants.iter().filter(|grant| grant.is_live()) {
        lines.push(format!("  held by {}", grant.session));
    }
    for child in &detail.children {
        lines.push(format!("  has spawned {child}"));
    }
    for effect in &detail.waits {
        lines.push(format!(
            "  waits in {} since {}",
            effect.key,
            when(effect.since)
        ));
    }
    if let Some(outcome) = &detail.outcome {
        lines.push(format!("  outcome {}", json!(outcome)));
    }
    lines.push(format!("  after a restart {}", after_a_restart(record)));
    lines.join("\n")
}

/// What the next opening does with a process.
fn after_a_restart(record: &ProcessRecord) -> &'static str {
    match record.status {
        status if status.is_ended() => "nothing: it has ended",
        ProcessStatus::Registered => "nothing: it has not been started",
        _ if record.is_driven_elsewhere() && record.input_kind == "session_turn" => {
            "its turn goes on, and it ends with that"
        }
        _ if record.disposition == RecoveryDisposition::External => {
            "nothing: its end is reported from outside"
        }
        _ if record.cancel.is_some() => "it ends, as it was asked to",
        _ if record.disposition == RecoveryDisposition::OwnerBound => {
            "it ends, as it is bound to whoever drives it"
        }
        ProcessStatus::Parked => "it is tried again, and parks again unless somebody has ruled",
        _ => "it goes on where it was, in a program that knows its function",
    }
}
