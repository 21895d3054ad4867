//! Following turns to their end, and answering what they ask on the way.

use std::collections::HashSet;
use std::io::BufRead;

use futures_util::StreamExt;
use runtime::core::{EffectKind, EventKind, RuntimeEvent, SessionId, Topic, WorkerId};
use runtime::effects::{PendingKind, UnfinishedEffect};
use runtime::events::{Cursor, DeltaTarget, EventStream, StreamItem};
use runtime::turn::ApprovalDecision;
use runtime::workers::view::{self, PendingItem};
use runtime::workers::{Command, ParkReason, TurnRecord, TurnStatus};
use runtime::{Runtime, RuntimeError};
use tokio::sync::mpsc;

use crate::exit::Exit;
use crate::inspect::{begun_line, damaged_line, pending_line, pending_value, turn_status};
use crate::interrupt::Interrupts;
use crate::output::Output;

/// What the person is asked.
const QUESTION: &str = "approve? [y/N] ";

/// Who answers requests for approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Approver {
    /// Everything is approved.
    Yes,
    /// The person at the terminal.
    Person,
    /// Nobody here.
    Nobody,
}

/// Follows unfinished turns until each has ended, or waits for somebody who is not here.
pub(crate) struct Follower<'a> {
    runtime: &'a Runtime,
    output: Output,
    approver: Approver,
    wait: bool,
    /// Whose turns; without one, everybody's.
    worker: Option<&'a WorkerId>,
    stream: EventStream,
    seen: Cursor,
    /// Tokens of the approvals that were answered from here.
    answered: HashSet<String>,
    /// The approval that the person is asked about.
    asked: Option<PendingItem>,
    /// A piece of an answer has been shown, and its line not ended.
    in_line: bool,
    /// How the worst turn ended.
    exit: Exit,
}

impl<'a> Follower<'a> {
    /// Follows what happens from now on, to one worker or to all. It has joined when this
    /// returns: no piece of an answer to what is sent afterwards is missed. With `wait` it stays
    /// when turns wait for others.
    pub(crate) async fn join(
        runtime: &'a Runtime,
        output: Output,
        approver: Approver,
        wait: bool,
        worker: Option<&'a WorkerId>,
    ) -> anyhow::Result<Self> {
        let seen = runtime.cursor_now().await?;
        let mut stream = runtime.subscribe(topic(worker), Some(seen));
        let joined = stream.join().await;
        joined.map_err(|error| RuntimeError::from_part(&error))?;
        Ok(Self {
            runtime,
            output,
            approver,
            wait,
            worker,
            stream,
            seen,
            answered: HashSet::new(),
            asked: None,
            in_line: false,
            exit: Exit::Done,
        })
    }

    /// Shows what happens until there is nothing left to follow.
    pub(crate) async fn follow(mut self, interrupts: &mut Interrupts) -> anyhow::Result<Exit> {
        let mut lines = self.lines();
        // Whether somebody may still type something.
        let mut types = true;
        let mut failures = self.runtime.failures();
        // Whether something has happened since the last look at what is left.
        let mut look = true;
        loop {
            tokio::select! {
                biased;
                () = interrupts.next() => {
                    self.output.say("\ninterrupted; what is unfinished goes on when run again");
                    return Ok(Exit::Error);
                }
                item = self.stream.next() => {
                    let Some(item) = item else { return Err(RuntimeError::Closed.into()) };
                    self.show(item.map_err(|error| RuntimeError::from_part(&error))?).await?;
                    look = true;
                }
                error = failures.next() => return Err(RuntimeError::Part(error).into()),
                line = lines.recv(), if types || self.asked.is_some() => match line {
                    line if self.asked.is_some() => {
                        self.decide(line).await?;
                        look = true;
                    }
                    // Typed before anything was asked: it answers nothing.
                    Some(_) => {}
                    None => types = false,
                },
                () = self.runtime.settled(), if look => {
                    look = false;
                    if let Some(exit) = self.left().await? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    /// The lines that the person types. The thread ends with the process: a blocked read of a
    /// terminal cannot be taken back.
    fn lines(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(16);
        if self.approver == Approver::Person {
            std::thread::spawn(move || {
                for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                    if sender.blocking_send(line).is_err() {
                        return;
                    }
                }
            });
        }
        receiver
    }

    async fn show(&mut self, item: StreamItem) -> anyhow::Result<()> {
        match item {
            StreamItem::Event(event) => self.event(&event).await,
            StreamItem::Delta(delta) => {
                if delta.target == DeltaTarget::Text {
                    self.in_line = true;
                    self.output.stream(&delta.text);
                }
                Ok(())
            }
            StreamItem::Gap { oldest } => {
                self.output
                    .say(&format!("events before {oldest} have been removed"));
                Ok(())
            }
            StreamItem::Corrupt { from, to } => {
                self.output.say(&damaged_line(from, to));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn event(&mut self, event: &RuntimeEvent) -> anyhow::Result<()> {
        let asking = self.asked.is_some();
        if asking {
            self.output.stream("\n");
        }
        self.end_line();
        self.output.event(event);
        if asking {
            // What happened has pushed the question away.
            self.output.stream(QUESTION);
        }
        self.seen = self.runtime.cursor_after(event.position);
        match event.kind() {
            EventKind::ApprovalRequested => self.answer().await,
            EventKind::TurnFailed | EventKind::TurnCancelled => {
                self.exit = Exit::Error;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.in_line) {
            self.output.stream("\n");
        }
    }

    /// Nothing is driven: says how to end, if there is nothing to wait for.
    async fn left(&mut self) -> anyhow::Result<Option<Exit>> {
        self.answer().await?;
        let turns = view::unfinished_turns(self.runtime.store(), self.worker).await?;
        if turns.is_empty() {
            self.show_rest().await?;
            return Ok(Some(self.exit));
        }
        let mut parked = Vec::new();
        for turn in turns {
            if matches!(turn.status, TurnStatus::Parked { .. }) {
                let begun = view::begun(self.runtime.store(), &turn).await?;
                parked.push((turn, begun));
            }
        }
        let pending = self.pending().await?;
        parked.retain(|(turn, begun)| !goes_on(turn, begun, &pending));
        let answered_here = self.approver != Approver::Nobody
            && pending
                .iter()
                .any(|item| item.kind == PendingKind::Approval);
        let by_itself = !pending.is_empty() && pending.iter().all(|item| item.due.is_some());
        if parked.is_empty() || self.wait || answered_here || by_itself {
            return Ok(None);
        }
        self.show_rest().await?;
        self.tell_parked(&parked, &pending);
        Ok(Some(Exit::Parked))
    }

    /// Shows what is stored and has not come through the stream yet.
    async fn show_rest(&mut self) -> anyhow::Result<()> {
        loop {
            let read = self
                .runtime
                .read(topic(self.worker), self.seen, 256)
                .await?;
            for event in &read.events {
                self.event(event).await?;
            }
            if !read.has_more {
                self.end_line();
                return Ok(());
            }
        }
    }

    fn tell_parked(&self, parked: &[(TurnRecord, Vec<UnfinishedEffect>)], pending: &[PendingItem]) {
        self.output.say("\nparked; it waits for:");
        for item in pending {
            self.output.print(
                || pending_line(item, self.output.paint()),
                &pending_value(item),
            );
        }
        if pending.is_empty() {
            for (turn, begun) in parked {
                let status = turn_status(turn, self.output.paint());
                self.output.say(&format!("  turn {} {status}", turn.turn));
                for effect in begun {
                    self.output.say(&format!("    {}", begun_line(effect)));
                }
            }
            return self
                .output
                .say("`resume` tries again; `show WORKER` says more");
        }
        self.output
            .say("answer with `approve`, `deny`, `resolve` or `in-doubt`, then `resume`");
    }

    async fn pending(&self) -> anyhow::Result<Vec<PendingItem>> {
        let mut pending = self.runtime.pending().await?;
        pending.retain(|item| self.worker.is_none() || item.worker.as_ref() == self.worker);
        Ok(pending)
    }

    /// Answers what is asked for, or asks the person.
    async fn answer(&mut self) -> anyhow::Result<()> {
        if self.approver == Approver::Nobody || self.asked.is_some() {
            return Ok(());
        }
        for item in self.pending().await? {
            let Some(token) = item
                .token
                .clone()
                .filter(|_| item.kind == PendingKind::Approval)
            else {
                continue;
            };
            if self.answered.contains(&token) {
                continue;
            }
            if self.approver == Approver::Person {
                self.end_line();
                let line = pending_line(&item, self.output.paint());
                self.output.stream(&format!("{line}\n{QUESTION}"));
                self.asked = Some(item);
                return Ok(());
            }
            self.answered.insert(token.clone());
            self.apply(token, ApprovalDecision::Approve).await?;
        }
        Ok(())
    }

    /// Takes what the person typed; the end of the input is a no.
    async fn decide(&mut self, line: Option<String>) -> anyhow::Result<()> {
        let Some(token) = self.asked.take().and_then(|item| item.token) else {
            return Ok(());
        };
        self.answered.insert(token.clone());
        let typed = line.unwrap_or_default();
        let decision = match typed.trim() {
            "y" | "Y" | "yes" => ApprovalDecision::Approve,
            _ => ApprovalDecision::Deny { reason: None },
        };
        self.apply(token, decision).await?;
        self.answer().await
    }

    async fn apply(&self, target: String, decision: ApprovalDecision) -> anyhow::Result<()> {
        // Somebody else may have answered first: then there is nothing left to say.
        match self
            .runtime
            .apply(Command::Decide { target, decision })
            .await
        {
            Ok(_)
            | Err(RuntimeError::NothingPending { .. } | RuntimeError::AnsweredOtherwise { .. }) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a parked turn goes on without anybody: it was answered and only has to be woken, or it
/// tries again soon. A tool server that is required is waited for elsewhere: that has no end.
fn goes_on(turn: &TurnRecord, begun: &[UnfinishedEffect], pending: &[PendingItem]) -> bool {
    let TurnStatus::Parked {
        reason: ParkReason::Waiting { .. },
        ..
    } = &turn.status
    else {
        return false;
    };
    let waits = |item: &PendingItem| item.turn.as_ref() == Some(&turn.turn);
    !pending.iter().any(waits)
        && begun
            .iter()
            .all(|effect| effect.effect != EffectKind::SyncExecutionEnvironment)
}

fn topic(worker: Option<&WorkerId>) -> Topic {
    match worker {
        Some(worker) => Topic::Session {
            session: SessionId::from(worker),
        },
        None => Topic::Runtime,
    }
}
