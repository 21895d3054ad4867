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
use runtime::workers::{self, Command, CommandAnswer, InDoubtRuling, view};
use serde_json::{Value, json};

use crate::args::{Common, ConflictRuling, Ruling};
use crate::exit::Exit;
use crate::open;
use crate::output::Output;
use crate::work::{Drive, open_runtime};

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

/// `conflict EFFECT …`
pub(crate) fn conflict(effect: String, ruling: ConflictRuling) -> Command {
    let ruling = match ruling {
        ConflictRuling::AcceptRecorded => workers::ConflictRuling::AcceptRecorded,
        ConflictRuling::Fork => workers::ConflictRuling::Fork,
        ConflictRuling::Fail => workers::ConflictRuling::Fail,
    };
    Command::RuleConflict { effect, ruling }
}

pub(crate) fn json_argument(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        let message = format!("{text:?} is not JSON ({error}); quote a text twice: '\"text\"'");
        WireError::new("argument_not_json", ErrorClass::Invalid, message).into()
    })
}

/// Who carried a command out.
#[derive(Debug)]
pub(crate) enum Answered {
    /// This process; and what a person reads of it.
    Here {
        answer: CommandAnswer,
        done: &'static str,
    },
    /// The process that has the store open; its event tells of it.
    There(Arc<RuntimeEvent>),
    /// Nobody yet: it lies in the inbox.
    Left(CommitId),
}

impl Answered {
    /// What a person reads.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Here {
                answer: CommandAnswer::AlreadyDone,
                ..
            } => "done before; nothing has changed".to_owned(),
            Self::Here { done, .. } => (*done).to_owned(),
            Self::There(event) => {
                let position = event.position;
                if event.draft.payload["answer"] == "already_done" {
                    return "done before; nothing has changed".to_owned();
                }
                format!("done by the process that has the store open, as event {position}")
            }
            Self::Left(_) => {
                "left in the inbox; the process that has the store open has not taken it yet"
                    .to_owned()
            }
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Here { answer, .. } => json!(answer),
            Self::There(event) => {
                // Only what changed nothing is told by an event of its own.
                let repeated = event.draft.payload["answer"] == "already_done";
                let answer = if repeated { "already_done" } else { "done" };
                json!({ "answer": answer, "event": event.position })
            }
            Self::Left(id) => json!({ "answer": "left", "command": id }),
        }
    }
}

/// Carries a command out, here or by the process that has the store open, and prints the answer.
pub(crate) async fn carry_out(
    common: &Common,
    output: Output,
    command: Command,
) -> anyhow::Result<Exit> {
    let answered = answer(common, command).await?;
    output.print(|| answered.line(), &answered.value());
    Ok(match answered {
        Answered::Left(_) => Exit::Busy,
        _ => Exit::Done,
    })
}

/// Carries a command out, here or by the process that has the store open.
pub(crate) async fn answer(common: &Common, command: Command) -> anyhow::Result<Answered> {
    view::check(open::read_only(common).await?, &command).await?;
    let (drive, done) = match &command {
        Command::Decide { .. }
        | Command::Resolve { .. }
        | Command::RuleInDoubt { .. }
        | Command::RuleConflict { .. } => (Drive::Nothing, "done; `resume` lets the turn go on"),
        // Whoever knows the function of the process goes on with it.
        Command::SignalProcess { .. } => (Drive::Nothing, "done"),
        // A worker that is cancelled ends its turns.
        _ => (Drive::Turns, "done"),
    };
    match open_runtime(common, drive).await {
        Ok(runtime) => {
            let answer = runtime.apply(command).await;
            runtime.close().await?;
            Ok(Answered::Here {
                answer: answer?,
                done,
            })
        }
        Err(error) if open::is_busy(&error) => leave(common, &command).await,
        Err(error) => Err(error),
    }
}

/// Leaves a command in the inbox and waits for the event that tells what became of it.
async fn leave(common: &Common, command: &Command) -> anyhow::Result<Answered> {
    let clock = Arc::new(SystemClock::new());
    let store = open::read_only(common).await?;
    // The clock may be behind the store's newest commit.
    let id = CommitId::generate(store.id_time(clock.now()), SystemRandom.ten());
    let hub = EventHub::new(store, Arc::clone(&clock) as _, Arc::new(SystemRandom));
    let cursor = hub.cursor_now().await.map_err(RuntimeError::from)?;
    let events = hub.subscribe(Topic::Runtime, cursor);
    let body = serde_json::to_vec(command).expect("a command is plain data");
    open::submit(common, id, &body)?;
    match tokio::time::timeout(PATIENCE, caused_by(events, id)).await {
        Ok(event) => told(event?),
        Err(_) => Ok(Answered::Left(id)),
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

fn told(event: Arc<RuntimeEvent>) -> anyhow::Result<Answered> {
    if *event.kind() != EventKind::CommandRefused {
        return Ok(Answered::There(event));
    }
    let error = event.draft.payload.get("error");
    let error = error.cloned().unwrap_or_default();
    let error: WireError = serde_json::from_value(error).context("the refusal is unreadable")?;
    Err(RuntimeError::Part(error).into())
}
