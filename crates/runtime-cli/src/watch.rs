//! `watch`: what a runtime does, live, beside whoever has it open; answers what it asks with a key.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use runtime::RuntimeError;
use runtime::core::{Clock, RuntimeEvent, Timestamp, Topic};
use runtime::effects::PendingKind;
use runtime::events::{EventHub, StreamItem};
use runtime::store::{Store, SystemClock, SystemRandom};
use runtime::turn::ApprovalDecision;
use runtime::workers::view::{self, PendingItem};
use runtime::workers::{Command, InDoubtRuling, TurnRecord, WorkerRecord};
use serde_json::{Value, json};

use crate::answer;
use crate::args::Common;
use crate::exit::Exit;
use crate::inspect::{kind_name, turn_status, worker_line};
use crate::interrupt::Interrupts;
use crate::open;
use crate::output::{Output, ago, event_line};
use crate::style::{Paint, Tone};
use crate::terminal::{self, Key, Screen};

/// How many events are remembered for the lower part of the screen.
const EVENTS: usize = 64;
/// Changes that come closer together are shown as one.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the times are brought up to date where nothing happens.
const TICK: Duration = Duration::from_secs(1);
const KEYS: &str = "\u{2191}\u{2193} choose  a approve  d deny  r run again  f fail  q quit";

/// What is seen.
#[derive(Debug, Default)]
struct Seen {
    workers: Vec<WorkerRecord>,
    turns: Vec<TurnRecord>,
    pending: Vec<PendingItem>,
    events: VecDeque<Arc<RuntimeEvent>>,
    /// Which of the pending is chosen, by its name: it stays so when others come or go.
    chosen: Option<Name>,
    /// What became of the last key.
    told: String,
}

/// What tells one thing that waits from every other.
type Name = (String, Option<String>);

fn name(item: &PendingItem) -> Name {
    (ruled(item), item.token.clone())
}

/// An effect as a ruling names it, whatever its call is called.
fn ruled(item: &PendingItem) -> String {
    format!("{}#{}", item.scope, item.key)
}

/// What a key asks for.
#[derive(Debug, PartialEq)]
enum Act {
    Quit,
    Answer(Command),
}

impl Seen {
    async fn look(&mut self, store: &Arc<dyn Store>) -> anyhow::Result<()> {
        self.workers = view::workers(&**store).await?;
        self.turns = view::unfinished_turns(&**store, None).await?;
        self.pending = view::pending(Arc::clone(store)).await?;
        self.keep_choice();
        Ok(())
    }

    /// What is no longer there is chosen no more; then the first is, and no key answers it before
    /// it was seen.
    fn keep_choice(&mut self) {
        if self.chosen_at().is_none() {
            self.chosen = self.pending.first().map(name);
        }
    }

    fn chosen_at(&self) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        self.pending.iter().position(|item| name(item) == *chosen)
    }

    fn choose(&mut self, by: isize) {
        let at = self.chosen_at().unwrap_or(0).saturating_add_signed(by);
        let at = at.min(self.pending.len().saturating_sub(1));
        self.chosen = self.pending.get(at).map(name);
    }

    fn note(&mut self, event: Arc<RuntimeEvent>) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// What a key does; the choice moves here, everything else is for the caller.
    fn press(&mut self, key: Key) -> Option<Act> {
        match key {
            Key::Interrupt | Key::Character('q') => return Some(Act::Quit),
            Key::Up | Key::Character('k') => self.choose(-1),
            Key::Down | Key::Character('j') => self.choose(1),
            Key::Character(character) => {
                let item = self.pending.get(self.chosen_at()?)?;
                return command_of(item, character).map(Act::Answer);
            }
        }
        None
    }

    /// The frame: workers with their turns, what waits, and what happened last, as far as they
    /// fit. What waits for a person has the first right to the room.
    fn frame(&self, columns: usize, rows: usize, paint: Paint, now: Timestamp) -> Vec<String> {
        let tokens: u64 = self.workers.iter().map(|worker| worker.usage.total()).sum();
        let mut top = vec![format!(
            "{}  {} workers, {} unfinished turns, {} waiting, {tokens} tokens",
            paint.text(Tone::Strong, "agent-runtime"),
            self.workers.len(),
            self.turns.len(),
            self.pending.len(),
        )];
        let mut waiting = Vec::new();
        for item in &self.pending {
            waiting.extend(self.pending_lines(item, paint, now));
        }
        let mut workers = Vec::new();
        // Those that do something first.
        let mut order: Vec<&WorkerRecord> = self.workers.iter().collect();
        order.sort_by_key(|worker| worker.unfinished == 0);
        for worker in order {
            workers.push(worker_line(worker, paint));
            let turns = self.turns.iter().filter(|turn| turn.worker == *worker.id());
            workers.extend(turns.map(|turn| {
                let status = turn_status(turn, paint);
                format!("  turn {} {status}", turn.turn)
            }));
        }
        let room = rows.saturating_sub(top.len() + 2);
        waiting.truncate(room);
        workers.truncate(room.saturating_sub(waiting.len()).div_ceil(2).max(1));
        let left = room.saturating_sub(waiting.len() + workers.len());
        let events = self.events.iter().rev().take(left);
        let mut events: Vec<String> = events.map(|event| event_line(event, paint)).collect();
        events.reverse();
        top.extend(workers);
        top.extend(waiting);
        top.extend(events);
        top.truncate(rows.saturating_sub(2));
        top.push(paint.text(Tone::Notice, &self.told));
        top.push(paint.text(Tone::Faint, KEYS));
        top.iter().map(|line| cut(line, columns)).collect()
    }

    fn pending_lines(&self, item: &PendingItem, paint: Paint, now: Timestamp) -> Vec<String> {
        let is_chosen = self.chosen.as_ref() == Some(&name(item));
        let mark = if is_chosen { ">" } else { " " };
        let worker = item.worker.as_ref().map(ToString::to_string);
        let call = item.call.as_ref().map(ToString::to_string);
        let first = format!(
            "{mark} {} {} {} call {}, for {}",
            paint.text(Tone::Notice, kind_name(item.kind)),
            worker.unwrap_or_default(),
            paint.text(Tone::Strong, item.tool.as_deref().unwrap_or_default()),
            call.unwrap_or_default(),
            ago(item.since, now),
        );
        let asks = item.asks.as_deref().map(crate::inspect::visible);
        let asks = asks.map(|asks| format!("    {asks}"));
        let with = item.arguments.as_ref().map(ToString::to_string);
        let with = with.map(|with| format!("    with {}", crate::inspect::visible(&with)));
        let does = item.definition.as_ref();
        let does = does.map(|does| crate::inspect::visible(&does.description));
        let does = does.map(|does| format!("    does {does}"));
        let warning = crate::inspect::warning(item).map(|warning| format!("    {warning}"));
        let more = [asks, with, does, warning];
        std::iter::once(first)
            .chain(more.into_iter().flatten())
            .collect()
    }

    fn value(&self) -> Value {
        json!({
            "workers": self.workers.iter().map(crate::inspect::worker_value).collect::<Vec<_>>(),
            "turns": self.turns,
            "pending": self.pending.iter().map(crate::inspect::pending_value).collect::<Vec<_>>(),
        })
    }
}

/// The command of a key, for what waits; none where it means nothing.
fn command_of(item: &PendingItem, character: char) -> Option<Command> {
    let decide = |decision| {
        let target = item.token.clone()?;
        Some(Command::Decide { target, decision })
    };
    let rule = |ruling| {
        let call = ruled(item);
        Some(Command::RuleInDoubt { call, ruling })
    };
    match (item.kind, character) {
        (PendingKind::Approval, 'a') => decide(ApprovalDecision::Approve),
        (PendingKind::Approval, 'd') => decide(ApprovalDecision::Deny { reason: None }),
        (PendingKind::InDoubt, 'r') => rule(InDoubtRuling::RunAgain),
        (PendingKind::InDoubt, 'f') => rule(InDoubtRuling::Fail),
        _ => None,
    }
}

/// Cuts a line to the columns of the screen; the codes of colours have no width.
fn cut(line: &str, columns: usize) -> String {
    let (mut width, mut in_code, mut coloured) = (0, false, false);
    for (at, character) in line.char_indices() {
        match character {
            '\u{1b}' => (in_code, coloured) = (true, true),
            'm' if in_code => in_code = false,
            _ if in_code => {}
            _ if width == columns => {
                let end = if coloured { "\u{1b}[0m" } else { "" };
                return format!("{}{end}", &line[..at]);
            }
            _ => width += 1,
        }
    }
    line.to_owned()
}

/// `watch`
pub(crate) async fn watch(common: &Common, output: Output, once: bool) -> anyhow::Result<Exit> {
    let store = open::read_only(common).await?;
    let mut seen = Seen::default();
    seen.look(&store).await?;
    let is_screen = output.is_interactive();
    if once || (!is_screen && !output.is_json()) {
        let frame = || {
            let lines = seen.frame(usize::MAX, usize::MAX, output.paint(), now());
            lines[..lines.len() - 2].join("\n")
        };
        output.print(frame, &seen.value());
        return Ok(Exit::Done);
    }
    let hub = EventHub::new(
        Arc::clone(&store),
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
    );
    let cursor = hub.cursor_now().await.map_err(RuntimeError::from)?;
    let mut events = hub.subscribe(Topic::Runtime, cursor);
    let screen = is_screen.then(Screen::open).transpose()?;
    let mut keys = match std::io::stdin().is_terminal() && is_screen {
        true => terminal::pressed(),
        false => tokio::sync::mpsc::channel(1).1,
    };
    let mut interrupts = Interrupts::listen()?;
    loop {
        show(screen.as_ref(), output, &seen)?;
        tokio::select! {
            () = interrupts.next() => return Ok(Exit::Done),
            item = events.next() => {
                let Some(item) = item else { return Ok(Exit::Done) };
                let item = item.map_err(|error| RuntimeError::from_part(&error))?;
                if let StreamItem::Event(event) = item {
                    seen.note(event);
                }
                // What follows at once is one change.
                let more = tokio::time::timeout(SETTLE, async {
                    while let Some(Ok(item)) = events.next().await {
                        if let StreamItem::Event(event) = item {
                            seen.note(event);
                        }
                    }
                });
                let _ = more.await;
                seen.look(&store).await?;
            }
            Some(key) = keys.recv() => match seen.press(key) {
                None => {}
                Some(Act::Quit) => return Ok(Exit::Done),
                Some(Act::Answer(command)) => {
                    seen.told = match answer::answer(common, command).await {
                        Ok(answered) => answered.line(),
                        Err(error) => crate::output::wire(&error).message,
                    };
                    seen.look(&store).await?;
                }
            },
            () = tokio::time::sleep(TICK), if screen.is_some() => {}
        }
    }
}

fn show(screen: Option<&Screen>, output: Output, seen: &Seen) -> anyhow::Result<()> {
    match screen {
        Some(screen) => {
            let (columns, rows) = screen.size();
            screen.show(&seen.frame(columns, rows, output.paint(), now()))?;
        }
        None => output.print(String::new, &seen.value()),
    }
    Ok(())
}

fn now() -> Timestamp {
    SystemClock::new().now()
}

#[cfg(test)]
mod tests {
    use runtime::core::ReplayKey;

    use super::*;

    fn item(kind: PendingKind, call: &str) -> PendingItem {
        let item = json!({
            "worker": "desk", "turn": "t-1", "call": call, "tool": "pay",
            "since": 1_000, "token": format!("token-{call}"),
        });
        PendingItem {
            kind,
            worker: serde_json::from_value(item["worker"].clone()).ok(),
            turn: serde_json::from_value(item["turn"].clone()).ok(),
            call: serde_json::from_value(item["call"].clone()).ok(),
            tool: Some("pay".to_owned()),
            asks: Some("Pay 40 to Ada?\u{202e}".to_owned()),
            arguments: Some(json!({ "amount": 40 })),
            definition: None,
            token: item["token"].as_str().map(str::to_owned),
            since: Timestamp::from_millis(1_000),
            due: None,
            key: ReplayKey::turn(0, runtime::core::EffectKind::ToolCall, 0),
            scope: format!("turn/desk/{call}").parse().unwrap(),
            reason: None,
            mismatch: None,
        }
    }

    fn seen() -> Seen {
        let mut seen = Seen {
            pending: vec![
                item(PendingKind::Approval, "c-1"),
                item(PendingKind::InDoubt, "c-2"),
            ],
            ..Seen::default()
        };
        seen.keep_choice();
        seen
    }

    /// Something else that begins to wait, or has been answered, must not come under the finger.
    #[test]
    fn the_choice_stays_with_what_was_chosen() {
        let mut seen = seen();
        seen.press(Key::Down);
        seen.pending.insert(0, item(PendingKind::InDoubt, "c-0"));
        seen.keep_choice();
        let call = "turn/desk/c-2#0.tool_call.0".to_owned();
        let ruling = InDoubtRuling::RunAgain;
        let rule = Act::Answer(Command::RuleInDoubt { call, ruling });
        assert_eq!(seen.press(Key::Character('r')), Some(rule));
        // Gone before the screen was drawn anew: the key means nothing.
        seen.pending
            .retain(|item| item.call.as_ref().is_none_or(|call| call.as_str() != "c-2"));
        assert_eq!(seen.press(Key::Character('r')), None);
        seen.keep_choice();
        let frame = seen.frame(80, 24, Paint(false), Timestamp::from_millis(62_000));
        assert!(
            frame
                .iter()
                .any(|line| line.starts_with("> in doubt desk pay call c-0"))
        );
    }

    #[test]
    fn a_key_answers_what_is_chosen_and_nothing_else() {
        let mut seen = seen();
        let target = "token-c-1".to_owned();
        let decision = ApprovalDecision::Approve;
        let approve = Act::Answer(Command::Decide { target, decision });
        assert_eq!(seen.press(Key::Character('a')), Some(approve));
        assert_eq!(
            seen.press(Key::Character('r')),
            None,
            "an approval is not run again"
        );
        assert_eq!(seen.press(Key::Down), None);
        assert_eq!(
            seen.press(Key::Character('a')),
            None,
            "a ruling is no approval"
        );
        let call = "turn/desk/c-2#0.tool_call.0".to_owned();
        let rule = Command::RuleInDoubt {
            call,
            ruling: InDoubtRuling::RunAgain,
        };
        assert_eq!(seen.press(Key::Character('r')), Some(Act::Answer(rule)));
        seen.press(Key::Down);
        assert_eq!(seen.chosen_at(), Some(1), "there is no third");
        seen.press(Key::Up);
        assert_eq!(seen.chosen_at(), Some(0));
        assert_eq!(seen.press(Key::Interrupt), Some(Act::Quit));
        seen.pending.clear();
        assert_eq!(seen.press(Key::Character('a')), None, "nothing waits");
    }

    #[test]
    fn a_frame_fits_whatever_the_screen() {
        let mut seen = seen();
        seen.told = "done".to_owned();
        for (columns, rows) in [(80, 24), (20, 5), (1, 3), (200, 60), (80, 2)] {
            for paint in [Paint(false), Paint(true)] {
                let frame = seen.frame(columns, rows, paint, Timestamp::from_millis(62_000));
                assert!(frame.len() <= rows.max(2), "{columns}x{rows}: {frame:?}");
                let plain = seen.frame(columns, rows, Paint(false), Timestamp::from_millis(62_000));
                assert!(plain.iter().all(|line| line.chars().count() <= columns));
            }
        }
        let frame = seen
            .frame(80, 24, Paint(false), Timestamp::from_millis(62_000))
            .join("\n");
        assert!(
            frame.contains("> approval desk pay call c-1, for 1m 1s"),
            "{frame}"
        );
        assert!(frame.contains("  in doubt desk pay call c-2"), "{frame}");
        assert!(
            frame.contains("Pay 40 to Ada?\\u{202e}"),
            "what nobody sees is written out: {frame}"
        );
        assert!(frame.contains("with {\"amount\":40}"), "{frame}");
        assert!(frame.contains("a approve"), "{frame}");
    }
}
