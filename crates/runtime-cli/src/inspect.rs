//! Reading a runtime, also beside the process that has it open.

use std::sync::Arc;

use futures_util::StreamExt;
use runtime::RuntimeError;
use runtime::core::{RuntimeEvent, SessionId, Topic, WorkerId};
use runtime::effects::{PendingKind, UnfinishedEffect};
use runtime::events::{Cursor, CursorError, EventHub, StreamItem, SubscribeError};
use runtime::fs_store;
use runtime::store::{Position, ReadError, Store, SystemClock, SystemRandom};
use runtime::workers::view::{self, PendingItem};
use runtime::workers::{ParkReason, TurnRecord, TurnStatus, WorkerRecord, WorkerStatus};
use serde_json::{Value, json};

use crate::args::Common;
use crate::exit::Exit;
use crate::interrupt::Interrupts;
use crate::open;
use crate::output::{Output, event_line, event_value, since, when};
use crate::style::{Paint, Tone};
use crate::tools::hidden;

/// `workers`
pub(crate) async fn workers(common: &Common, output: Output) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let workers = view::workers(&*store).await?;
    if workers.is_empty() {
        output.say("no workers");
    }
    for worker in workers {
        let line = || worker_line(&worker, output.paint());
        output.print(line, &worker_value(&worker));
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
    let mut shown = Vec::new();
    for turn in turns {
        let begun = view::begun(&*store, &turn).await?;
        let waits = pending
            .iter()
            .filter(|item| item.turn.as_ref() == Some(&turn.turn));
        let waits = waits.count();
        shown.push(ShownTurn { turn, begun, waits });
    }
    let mut value = worker_value(&worker);
    value["turns"] = json!(shown.iter().map(ShownTurn::value).collect::<Vec<_>>());
    value["pending"] = json!(pending.iter().map(pending_value).collect::<Vec<_>>());
    let holder = holder(common);
    value["holder"] = json!(holder);
    let lines = || {
        let mut lines = show_lines(&worker, &shown, &pending, output.paint());
        if !shown.is_empty() {
            lines.push_str(&format!("\n  {}", held(holder.as_ref(), common)));
        }
        lines
    };
    output.print(lines, &value);
    Ok(Exit::Done)
}

/// `pending`
pub(crate) async fn pending(common: &Common, output: Output) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let pending = pending_of(store, None).await?;
    if pending.is_empty() {
        output.say("nothing waits for anybody");
    }
    for item in pending {
        let line = || pending_line(&item, output.paint());
        output.print(line, &pending_value(&item));
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

/// Who has the directory open for writing; of a database nobody knows.
fn holder(common: &Common) -> Option<fs_store::Holder> {
    match common.database() {
        Some(_) => None,
        // Who cannot be read is not told of.
        None => fs_store::holder(&common.store_dir()).unwrap_or_default(),
    }
}

/// Whether anybody is there to go on with what is unfinished.
fn held(holder: Option<&fs_store::Holder>, common: &Common) -> String {
    match holder {
        Some(holder) => format!("process {} has the runtime open", holder.pid),
        None if common.database().is_some() => "any process on the database goes on with it".into(),
        None => "no process has the runtime open: `resume` lets it go on".to_owned(),
    }
}

/// A turn as `show` tells of it.
struct ShownTurn {
    turn: TurnRecord,
    /// What it has begun and not ended.
    begun: Vec<UnfinishedEffect>,
    /// How much it waits for that somebody could answer.
    waits: usize,
}

impl ShownTurn {
    fn value(&self) -> Value {
        let mut value = json!(self.turn);
        value["begun"] = json!(self.begun);
        value["on_restart"] = json!(self.on_restart());
        value
    }

    /// What the next process to open the runtime does with it.
    fn on_restart(&self) -> String {
        match &self.turn.status {
            TurnStatus::Parked {
                reason: ParkReason::Waiting { .. },
                ..
            } if self.waits == 0 && self.begun.is_empty() => {
                "goes on: what it waited for has come".to_owned()
            }
            TurnStatus::Running
            | TurnStatus::Parked {
                reason: ParkReason::Waiting { .. },
                ..
            } if !self.begun.is_empty() => {
                let begun = self.begun.iter().map(after_a_restart);
                let begun = begun.collect::<Vec<_>>().join("; ");
                format!("goes on from what is recorded, and {begun}")
            }
            status => on_restart(status).to_owned(),
        }
    }
}

/// What an effect is, as people call it.
fn subject(effect: &UnfinishedEffect) -> String {
    match (&effect.tool, &effect.call) {
        (Some(tool), Some(call)) => format!("{tool} call {call}"),
        _ => format!("{} {}", effect.effect, effect.key),
    }
}

fn after_a_restart(effect: &UnfinishedEffect) -> String {
    let subject = subject(effect);
    match effect.next_attempt {
        Some(due) => format!("tries {subject} again at {}", when(due)),
        None => format!("reports {subject} in doubt: it began and may not happen twice"),
    }
}

pub(crate) fn begun_line(effect: &UnfinishedEffect) -> String {
    let (subject, at, attempts) = (subject(effect), since(effect.since), effect.attempts);
    match (&effect.error, effect.next_attempt) {
        (Some(error), Some(due)) => format!(
            "{subject}: attempt {attempts} failed at {at}, the next is at {}: {} [{}]",
            when(due),
            visible(&error.message),
            error.code
        ),
        _ => format!("{subject}: under way since {at}"),
    }
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
        return follow_topic(&hub, output, topic, cursor).await;
    }
    let read = match read_topic(&hub, output, topic.clone(), cursor).await {
        // Whoever asks for the start has no cursor to go on from. Who brings one is refused.
        Err(SubscribeError::Cursor(CursorError::Pruned { oldest })) if tail.from == "start" => {
            output.gap(oldest);
            let before = hub.cursor_after(Position(oldest.0.saturating_sub(1)));
            read_topic(&hub, output, topic, before).await
        }
        read => read,
    };
    Ok(read.map_err(|error| RuntimeError::from_part(&error))?)
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
        let line = || {
            format!(
                "{}  cursor {cursor}",
                event_line(event, self.output.paint())
            )
        };
        self.output.print(line, &value);
    }

    fn gap(self, oldest: Position) {
        let line = || format!("events before {oldest} have been removed");
        self.output
            .print(line, &json!({ "gap": { "oldest": oldest } }));
    }

    fn corrupt(self, from: Position, to: Position) {
        self.output.print(
            || damaged_line(from, to),
            &json!({ "corrupt": { "from": from, "to": to } }),
        );
    }
}

async fn read_topic(
    hub: &EventHub,
    output: TailOutput<'_>,
    topic: Topic,
    mut cursor: Cursor,
) -> Result<Exit, SubscribeError> {
    loop {
        let read = match hub.read(topic.clone(), cursor, 256).await {
            Err(SubscribeError::Read(ReadError::CorruptEvents { from, to, .. })) => {
                output.corrupt(from, to);
                cursor = hub.cursor_after(to);
                continue;
            }
            read => read?,
        };
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
    let mut interrupts = Interrupts::listen()?;
    let mut stream = hub.subscribe(topic, cursor);
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(Exit::Done),
            item = stream.next() => match item {
                None => return Ok(Exit::Done),
                Some(Ok(StreamItem::Event(event))) => output.event(&event),
                Some(Ok(StreamItem::Gap { oldest })) => output.gap(oldest),
                Some(Ok(StreamItem::Corrupt { from, to })) => output.corrupt(from, to),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(RuntimeError::from_part(&error).into()),
            }
        }
    }
}

/// The line of events that are damaged.
pub(crate) fn damaged_line(from: Position, to: Position) -> String {
    format!("events from {from} to {to} are damaged; `verify` says more")
}

/// The line of something that waits.
pub(crate) fn pending_line(item: &PendingItem, paint: Paint) -> String {
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
    let kind = paint.text(Tone::Notice, format!("{:<9}", kind_name(item.kind)));
    let tool = paint.text(Tone::Strong, tool);
    let mut line = format!("{kind} {worker:<8} {tool} call {call}");
    line.push_str(&format!("\n          since {}", since(item.since)));
    if let Some(due) = item.due {
        line.push_str(&format!(
            "\n          until {}, then it goes on by itself",
            when(due)
        ));
    }
    if matches!(item.kind, PendingKind::InDoubt | PendingKind::Conflict) {
        line.push_str(&format!("\n          effect {}#{}", item.scope, item.key));
    }
    if let Some(mismatch) = &item.mismatch {
        let paths = mismatch.paths.join(", ");
        line.push_str(&format!("\n          differs at {}", visible(&paths)));
    }
    if let Some(asks) = &item.asks {
        line.push_str(&format!("\n          asks  {}", visible(asks)));
    }
    if let Some(arguments) = &item.arguments {
        let arguments = visible(&arguments.to_string());
        line.push_str(&format!(
            "\n          with  {}",
            paint.text(Tone::Strong, arguments)
        ));
    }
    if let Some(definition) = &item.definition {
        line.push_str(&format!(
            "\n          does  {}\n          takes {}",
            visible(&definition.description),
            visible(&definition.input_schema.to_string())
        ));
    }
    if let Some(warning) = warning(item) {
        line.push_str(&format!("\n          {warning}"));
    }
    if let Some(token) = &item.token {
        line.push_str(&format!("\n          token {token}"));
    }
    line
}

/// What whoever answers must be told of the definition of a tool (M10), if anything.
pub(crate) fn warning(item: &PendingItem) -> Option<String> {
    let hidden = hidden(&json!(item.definition.as_ref()?));
    let hidden = (!hidden.is_empty()).then(|| hidden.join(" "));
    hidden.map(|hidden| format!("WARNING its definition has characters that nobody sees: {hidden}"))
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

pub(crate) fn kind_name(kind: PendingKind) -> &'static str {
    match kind {
        PendingKind::Approval => "approval",
        PendingKind::InDoubt => "in doubt",
        PendingKind::Conflict => "conflict",
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

pub(crate) fn worker_value(worker: &WorkerRecord) -> Value {
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

pub(crate) fn worker_line(worker: &WorkerRecord, paint: Paint) -> String {
    let tone = match worker.status {
        WorkerStatus::Running => Tone::Good,
        WorkerStatus::Stopped => Tone::Notice,
        _ => Tone::Faint,
    };
    format!(
        "{} {} {} inputs, {} unfinished, {} messages, {} tokens",
        paint.text(Tone::Strong, format!("{:<16}", worker.id())),
        paint.text(tone, format!("{:<10}", worker.status.as_str())),
        worker.inputs,
        worker.unfinished,
        worker.context.messages,
        worker.usage.total(),
    )
}

/// What the next process to open the runtime does with a turn.
fn on_restart(status: &TurnStatus) -> &'static str {
    match status {
        TurnStatus::Queued => "starts when the turns before it have ended",
        TurnStatus::Running => "goes on from what is recorded; what is recorded is not run again",
        TurnStatus::Parked { reason, .. } => match reason {
            ParkReason::Waiting { .. } => "waits again, or goes on if the answer has come",
            ParkReason::InDoubt { .. } => "stays parked until somebody rules by `in-doubt`",
            ParkReason::CrashLoop { .. } => {
                "tries again, and counts the processes that die in it from zero"
            }
            ParkReason::Stalled { .. } => {
                "tries again, and stays parked if that fails the same way"
            }
            ParkReason::OtherDeployment { .. } => {
                "goes on if it started under the deployment that is here then, or the policy says so"
            }
            ParkReason::Conflict { .. } => {
                "asks again, and stays parked until somebody rules by `conflict` if it still differs"
            }
            _ => "stays parked",
        },
        _ => "goes on",
    }
}

fn show_lines(
    worker: &WorkerRecord,
    turns: &[ShownTurn],
    pending: &[PendingItem],
    paint: Paint,
) -> String {
    let mut lines = vec![worker_line(worker, paint)];
    for shown in turns {
        let turn = &shown.turn;
        lines.push(format!("  turn {} {}", turn.turn, turn_status(turn, paint)));
        lines.extend(
            shown
                .begun
                .iter()
                .map(|effect| format!("    {}", begun_line(effect))),
        );
        lines.push(format!("    after a restart it {}", shown.on_restart()));
        let waits = pending
            .iter()
            .filter(|item| item.turn.as_ref() == Some(&turn.turn));
        for item in waits {
            lines.push(format!("  waits for {}", pending_line(item, paint)));
        }
    }
    let others = |item: &&PendingItem| {
        !turns
            .iter()
            .any(|shown| item.turn.as_ref() == Some(&shown.turn.turn))
    };
    for item in pending.iter().filter(others) {
        lines.push(format!("  waits for {}", pending_line(item, paint)));
    }
    lines.join("\n")
}

/// Where a turn stands, and since when it waits.
pub(crate) fn turn_status(turn: &TurnRecord, paint: Paint) -> String {
    match &turn.status {
        TurnStatus::Queued => "queued".to_owned(),
        TurnStatus::Running if turn.let_go => {
            paint.text(Tone::Notice, "unfinished; nobody drives it")
        }
        TurnStatus::Running => paint.text(Tone::Work, "running"),
        TurnStatus::Parked { reason, since: at } => {
            let why = match reason {
                ParkReason::Waiting { .. } => "parked, waits".to_owned(),
                ParkReason::InDoubt { .. } => "parked, an effect is in doubt".to_owned(),
                ParkReason::Conflict { error } => {
                    format!("parked by a conflict: {}", error.message)
                }
                ParkReason::CrashLoop { error } => {
                    format!("parked, processes died in it: {}", error.message)
                }
                ParkReason::Stalled { error } => format!("parked, needs repair: {}", error.message),
                _ => "parked".to_owned(),
            };
            format!("{}, since {}", paint.text(Tone::Notice, why), since(*at))
        }
        _ => "unfinished".to_owned(),
    }
}
