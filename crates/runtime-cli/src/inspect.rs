//! Reading a runtime, also beside the process that has it open.

use std::sync::Arc;

use futures_util::StreamExt;
use runtime::RuntimeError;
use runtime::core::{RuntimeEvent, SessionId, Topic, WorkerId};
use runtime::effects::PendingKind;
use runtime::events::{Cursor, EventHub, StreamItem};
use runtime::store::{Position, Store, SystemClock, SystemRandom};
use runtime::workers::view::{self, PendingItem};
use runtime::workers::{ParkReason, TurnRecord, TurnStatus, WorkerRecord};
use serde_json::{Value, json};

use crate::args::Common;
use crate::exit::Exit;
use crate::open;
use crate::output::{Output, event_line, event_value};
use crate::tools::hidden;

/// `workers`
pub(crate) async fn workers(common: &Common, output: Output) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    for worker in view::workers(&*store).await? {
        output.print(|| worker_line(&worker), &worker_value(&worker));
    }
    Ok(Exit::Done)
}

/// `show WORKER`
pub(crate) async fn show(common: &Common, output: Output, name: &str) -> anyhow::Result<Exit> {
    let id: WorkerId = name.parse().map_err(RuntimeError::from)?;
    let store = open::read_only(common).await?;
    let worker = view::worker(&*store, &id).await?;
    let turns = view::unfinished_turns(&*store, Some(&id)).await?;
    let pending = pending_of(Arc::clone(&store), Some(&id)).await?;
    let mut value = worker_value(&worker);
    value["turns"] = json!(turns.iter().map(turn_value).collect::<Vec<_>>());
    value["pending"] = json!(pending.iter().map(pending_value).collect::<Vec<_>>());
    output.print(|| show_lines(&worker, &turns, &pending), &value);
    Ok(Exit::Done)
}

/// `pending`
pub(crate) async fn pending(common: &Common, output: Output) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    for item in pending_of(store, None).await? {
        output.print(|| pending_line(&item), &pending_value(&item));
    }
    Ok(Exit::Done)
}

async fn pending_of(
    store: Arc<dyn Store>,
    worker: Option<&WorkerId>,
) -> anyhow::Result<Vec<PendingItem>> {
    let mut pending = view::pending(store).await?;
    pending.retain(|item| worker.is_none() || item.worker.as_ref() == worker);
    Ok(pending)
}

/// What `tail` is told.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) worker: Option<String>,
    pub(crate) from: String,
    pub(crate) cursors: bool,
    pub(crate) follow: bool,
}

/// `tail [WORKER]`
pub(crate) async fn tail(common: &Common, output: Output, tail: Tail) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let topic = match &tail.worker {
        None => Topic::Runtime,
        Some(name) => {
            let id: WorkerId = name.parse().map_err(RuntimeError::from)?;
            view::worker(&*store, &id).await?;
            Topic::Session {
                session: SessionId::from(&id),
            }
        }
    };
    let hub = EventHub::new(store, Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let cursor = match tail.from.as_str() {
        "start" => hub.cursor_from_start(),
        "now" => hub.cursor_now().await.map_err(RuntimeError::from)?,
        cursor => cursor
            .parse::<Cursor>()
            .map_err(|error| RuntimeError::from_part(&error))?,
    };
    let output = TailOutput {
        output,
        hub: &hub,
        cursors: tail.cursors,
    };
    if tail.follow {
        follow_topic(&hub, output, topic, cursor).await
    } else {
        read_topic(&hub, output, topic, cursor).await
    }
}

/// Where `tail` prints.
#[derive(Debug, Clone, Copy)]
struct TailOutput<'a> {
    output: Output,
    hub: &'a EventHub,
    cursors: bool,
}

impl TailOutput<'_> {
    fn event(self, event: &RuntimeEvent) {
        if !self.cursors {
            return self.output.event(event);
        }
        let cursor = self.hub.cursor_after(Position(event.position));
        let mut value = event_value(event);
        value["cursor"] = json!(cursor);
        let line = || format!("{}  cursor {cursor}", event_line(event));
        self.output.print(line, &value);
    }
}

async fn read_topic(
    hub: &EventHub,
    output: TailOutput<'_>,
    topic: Topic,
    mut cursor: Cursor,
) -> anyhow::Result<Exit> {
    loop {
        let read = hub.read(topic.clone(), cursor, 256).await;
        let read = read.map_err(|error| RuntimeError::from_part(&error))?;
        for event in &read.events {
            output.event(event);
        }
        cursor = read.next;
        if !read.has_more {
            return Ok(Exit::Done);
        }
    }
}

async fn follow_topic(
    hub: &EventHub,
    output: TailOutput<'_>,
    topic: Topic,
    cursor: Cursor,
) -> anyhow::Result<Exit> {
    let mut stream = hub.subscribe(topic, cursor);
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(Exit::Done);
            }
            item = stream.next() => match item {
                None => return Ok(Exit::Done),
                Some(Ok(StreamItem::Event(event))) => output.event(&event),
                Some(Ok(StreamItem::Gap { oldest })) => {
                    let line = || format!("events before {oldest} have been removed");
                    output.output.print(line, &json!({ "gap": { "oldest": oldest } }));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(RuntimeError::from_part(&error).into()),
            }
        }
    }
}

/// The line of something that waits.
pub(crate) fn pending_line(item: &PendingItem) -> String {
    let worker = item
        .worker
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let call = item
        .call
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let tool = item.tool.as_deref().unwrap_or("");
    let mut line = format!("{:<9} {worker:<8} {tool} call {call}", kind_name(item.kind));
    if let Some(asks) = &item.asks {
        line.push_str(&format!("\n          asks  {}", visible(asks)));
    }
    if let Some(definition) = &item.definition {
        line.push_str(&format!(
            "\n          does  {}\n          takes {}",
            visible(&definition.description),
            visible(&definition.input_schema.to_string())
        ));
        let hidden = hidden(&json!(definition));
        if !hidden.is_empty() {
            let hidden = hidden.join(" ");
            line.push_str(&format!(
                "\n          WARNING its definition has characters that nobody sees: {hidden}"
            ));
        }
    }
    if let Some(token) = &item.token {
        line.push_str(&format!("\n          token {token}"));
    }
    line
}

/// The words of a tool server, with everything in them that nobody would see written out: a
/// description can read one way to a person and another way to a model.
pub(crate) fn visible(text: &str) -> String {
    let shown = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    text.chars().map(shown).collect()
}

fn kind_name(kind: PendingKind) -> &'static str {
    match kind {
        PendingKind::Approval => "approval",
        PendingKind::InDoubt => "in doubt",
        _ => "wait",
    }
}

/// The JSON of something that waits.
pub(crate) fn pending_value(item: &PendingItem) -> Value {
    let mut value = json!(item);
    if let Some(definition) = &item.definition {
        value["hidden"] = json!(hidden(&json!(definition)));
    }
    value
}

fn worker_value(worker: &WorkerRecord) -> Value {
    json!({
        "worker": worker.id(),
        "status": worker.status,
        "intent": worker.request.intent,
        "inputs": worker.inputs,
        "unfinished": worker.unfinished,
        "messages": worker.context.messages,
        "usage": worker.usage,
    })
}

fn worker_line(worker: &WorkerRecord) -> String {
    format!(
        "{:<16} {:<10} {} inputs, {} unfinished, {} messages, {} tokens",
        worker.id(),
        worker.status.as_str(),
        worker.inputs,
        worker.unfinished,
        worker.context.messages,
        worker.usage.total(),
    )
}

fn turn_value(turn: &TurnRecord) -> Value {
    let mut value = json!(turn);
    value["on_restart"] = json!(on_restart(&turn.status));
    value
}

/// What the next process to open the runtime does with a turn.
fn on_restart(status: &TurnStatus) -> &'static str {
    match status {
        TurnStatus::Queued => "starts when the turns before it have ended",
        TurnStatus::Running => "goes on from what is recorded; what is recorded is not run again",
        TurnStatus::Parked { reason, .. } => match reason {
            ParkReason::Waiting { .. } => "waits again, or goes on if the answer has come",
            ParkReason::InDoubt { .. } => "stays parked until somebody rules by `in-doubt`",
            _ => "stays parked",
        },
        _ => "goes on",
    }
}

fn show_lines(worker: &WorkerRecord, turns: &[TurnRecord], pending: &[PendingItem]) -> String {
    let mut lines = vec![worker_line(worker)];
    for turn in turns {
        let status = match &turn.status {
            TurnStatus::Queued => "queued".to_owned(),
            TurnStatus::Running => "running".to_owned(),
            TurnStatus::Parked { since, .. } => format!("parked since {since}"),
            _ => "unfinished".to_owned(),
        };
        lines.push(format!("  turn {} {status}", turn.turn));
        lines.push(format!(
            "    after a restart it {}",
            on_restart(&turn.status)
        ));
    }
    for item in pending {
        lines.push(format!("  waits for {}", pending_line(item)));
    }
    lines.join("\n")
}
