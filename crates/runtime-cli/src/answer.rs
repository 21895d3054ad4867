//! Commands that change something: carried out here, or left in the inbox of the process that
//! has the store open (S8).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use runtime::RuntimeError;
use runtime::core::{
    Clock, CommitId, ErrorClass, EventKind, Random, Resolution, RuntimeEvent, Topic, WireError,
};
use runtime::events::{EventHub, EventStream, StreamItem};
use runtime::store::{SystemClock, SystemRandom};
use runtime::turn::ApprovalDecision;
use runtime::workers::{Command, InDoubtRuling, view};
use serde_json::{Value, json};

use crate::args::{Common, Ruling};
use crate::exit::Exit;
use crate::open;
use crate::output::Output;
use crate::work::open_runtime;

/// How long a sender waits for the holder of the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// `approve TOKEN|CALL`
pub(crate) fn approve(target: String, arguments: Option<&str>) -> anyhow::Result<Command> {
    let decision = match arguments {
        None => ApprovalDecision::Approve,
        Some(text) => ApprovalDecision::Edit {
            arguments: json_argument(text)?,
        },
    };
    Ok(Command::Decide { target, decision })
}

/// `resolve TOKEN JSON`
pub(crate) fn resolve(token: String, value: &str) -> anyhow::Result<Command> {
    Ok(Command::Resolve {
        token,
        resolution: Resolution::Ok {
            value: json_argument(value)?,
        },
    })
}

/// `in-doubt CALL …`
pub(crate) fn in_doubt(call: String, ruling: Ruling) -> anyhow::Result<Command> {
    let ruling = match ruling {
        Ruling::RunAgain => InDoubtRuling::RunAgain,
        Ruling::Done { value } => InDoubtRuling::Done {
            value: json_argument(&value)?,
        },
        Ruling::Fail => InDoubtRuling::Fail,
    };
    Ok(Command::RuleInDoubt { call, ruling })
}

fn json_argument(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        let message = format!("{text:?} is not JSON ({error}); quote a text twice: '\"text\"'");
        WireError::new("argument_not_json", ErrorClass::Invalid, message).into()
    })
}

/// Carries a command out, here or by the process that has the store open.
pub(crate) async fn carry_out(
    common: &Common,
    output: Output,
    command: Command,
) -> anyhow::Result<Exit> {
    view::check(open::read_only(common).await?, &command).await?;
    let done = match &command {
        Command::Host { .. } => "done",
        _ => "done; `resume` lets the turn go on",
    };
    match open_runtime(common).await {
        Ok(runtime) => {
            let answer = runtime.apply(command).await;
            runtime.close().await?;
            let answer = answer?;
            output.print(|| done.to_owned(), &json!(answer));
            Ok(Exit::Done)
        }
        Err(error) if open::is_busy(&error) => leave(common, output, &command).await,
        Err(error) => Err(error),
    }
}

/// Leaves a command in the inbox and waits for the event that tells what became of it.
async fn leave(common: &Common, output: Output, command: &Command) -> anyhow::Result<Exit> {
    let clock = Arc::new(SystemClock::new());
    let id = CommitId::generate(clock.now(), SystemRandom.ten());
    let store = open::read_only(common).await?;
    let hub = EventHub::new(store, Arc::clone(&clock) as _, Arc::new(SystemRandom));
    let cursor = hub.cursor_now().await.map_err(RuntimeError::from)?;
    let events = hub.subscribe(Topic::Runtime, cursor);
    let body = serde_json::to_vec(command).expect("a command is plain data");
    open::submit(common, id, &body)?;
    match tokio::time::timeout(PATIENCE, caused_by(events, id)).await {
        Ok(event) => told(output, event?.as_ref()),
        Err(_) => {
            let said =
                "left in the inbox; the process that has the store open has not taken it yet";
            output.print(
                || said.to_owned(),
                &json!({ "answer": "left", "command": id }),
            );
            Ok(Exit::Busy)
        }
    }
}

async fn caused_by(mut events: EventStream, id: CommitId) -> anyhow::Result<Arc<RuntimeEvent>> {
    let id = id.to_string();
    loop {
        let item = events.next().await.context("the stream of events ended")?;
        let item = item.map_err(|error| RuntimeError::from_part(&error))?;
        if let StreamItem::Event(event) = item
            && event.draft.caused_by.as_deref() == Some(&id)
        {
            return Ok(event);
        }
    }
}

fn told(output: Output, event: &RuntimeEvent) -> anyhow::Result<Exit> {
    if *event.kind() == EventKind::CommandRefused {
        let error = event
            .draft
            .payload
            .get("error")
            .cloned()
            .unwrap_or_default();
        let error: WireError =
            serde_json::from_value(error).context("the refusal is unreadable")?;
        return Err(RuntimeError::Part(error).into());
    }
    output.print(
        || {
            format!(
                "done by the process that has the store open, as event {}",
                event.position
            )
        },
        &json!({ "answer": "done", "event": event.position }),
    );
    Ok(Exit::Done)
}
