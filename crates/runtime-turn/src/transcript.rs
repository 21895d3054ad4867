//! The messages of a session, folded from its events.
//!
//! The messages of a turn are those that its machine had: the same fold of the same recorded
//! outcomes. So there is one definition of a conversation, and its chain digest is the same
//! whether it comes from a running machine or from events read years later.

use std::sync::Arc;

use runtime_core::{
    CallId, EffectCommand, EffectOutcome, EventDraft, EventKind, Message, ReplayKey, Role,
    WaitIdentity,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::sources;
use crate::progress::{Phase, Progress};
use crate::{AbandonedCall, Compacted, ContextMark, History, TurnError, TurnStart};

/// An effect with its outcome, as an event tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedEffect {
    /// Its address in the turn.
    pub key: ReplayKey,
    /// What was to be done.
    pub command: EffectCommand,
    /// How it ended.
    pub outcome: EffectOutcome,
}

#[derive(Deserialize)]
struct Identity {
    key: ReplayKey,
    command: EffectCommand,
}

#[derive(Deserialize)]
struct CarrierPayload {
    identity: Identity,
    outcome: EffectOutcome,
}

impl RecordedEffect {
    /// Reads the effect of a turn that an event carries; none if it carries none.
    ///
    /// # Errors
    /// [`TurnError::EventUndecodable`]: the event should carry one and does not.
    pub fn from_event(event: &EventDraft) -> Result<Option<Self>, TurnError> {
        let carries = matches!(
            event.kind,
            EventKind::EnvironmentSynced
                | EventKind::MessageCommitted
                | EventKind::ModelCallFailed
                | EventKind::ToolCallFinished
                | EventKind::WaitEnded
                | EventKind::InputsJoined
                | EventKind::ContextCompacted
        );
        if !carries || event.turn.is_none() {
            return Ok(None);
        }
        let CarrierPayload { identity, outcome } = read(event, &event.payload)?;
        Ok(Some(Self {
            key: identity.key,
            command: identity.command,
            outcome,
        }))
    }
}

/// Returns the messages that a turn leaves in its session: its input and each round so far. A
/// round that was cut off is closed with results that say so.
///
/// # Errors
/// [`TurnError`]: the outcomes are not those of one turn, in the order of its events.
pub fn messages_of_turn(
    start: &TurnStart,
    outcomes: impl IntoIterator<Item = RecordedEffect>,
) -> Result<Vec<Arc<Message>>, TurnError> {
    let mut progress = Progress::new(start.clone())?;
    for recorded in outcomes {
        take(&mut progress, &recorded)?;
    }
    Ok(progress.into_messages().0)
}

fn take(progress: &mut Progress, recorded: &RecordedEffect) -> Result<(), TurnError> {
    progress.take(&recorded.key, sources(&recorded.command), &recorded.outcome)
}

fn read<'de, T: Deserialize<'de>>(event: &EventDraft, value: &'de Value) -> Result<T, TurnError> {
    T::deserialize(value).map_err(|error| TurnError::EventUndecodable {
        kind: event.kind.to_string(),
        reason: error.to_string(),
    })
}

/// The conversation of a session: a fold of its events, in order.
///
/// An input joins where its turn starts; a System input, which starts no turn (W1), joins before
/// the next turn.
#[derive(Debug, Clone)]
pub struct Conversation {
    history: Vec<Arc<Message>>,
    mark: ContextMark,
    compacted: Option<Compacted>,
    open: Option<Progress>,
    /// The outcomes that the open turn has taken, so that some of them can be set aside (E4).
    taken: Vec<Arc<RecordedEffect>>,
    waiting: Vec<Arc<Message>>,
}

impl Default for Conversation {
    fn default() -> Self {
        Self {
            history: Vec::new(),
            mark: ContextMark::empty(),
            compacted: None,
            open: None,
            taken: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl Conversation {
    /// Starts with the first event of a session.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the messages before the open turn; all of them, when none is open.
    #[must_use]
    pub fn history(&self) -> &[Arc<Message>] {
        &self.history
    }

    /// Returns the place after [`history`](Self::history): what the next turn starts from.
    #[must_use]
    pub const fn mark(&self) -> ContextMark {
        self.mark
    }

    /// Returns the summary that stands for the beginning of the history, if one does.
    #[must_use]
    pub const fn compacted(&self) -> Option<&Compacted> {
        self.compacted.as_ref()
    }

    /// Returns the history as a turn machine takes it.
    #[must_use]
    pub fn to_history(&self) -> History {
        History {
            messages: self.history.clone(),
            compacted: self.compacted.clone(),
        }
    }

    /// Returns the start of the turn that has no terminal event yet.
    #[must_use]
    pub fn open_turn(&self) -> Option<&TurnStart> {
        self.open.as_ref().map(|progress| &progress.start)
    }

    /// Returns the calls of the open turn whose work goes on outside: if the turn ended now, nobody
    /// would hear of it.
    #[must_use]
    pub fn calls_outside(&self) -> Vec<AbandonedCall> {
        self.open
            .as_ref()
            .map(Progress::all_abandoned)
            .unwrap_or_default()
    }

    /// Says whether the open turn would still hear the answer to an approval or a pending call.
    #[must_use]
    pub fn awaits(&self, identity: &WaitIdentity) -> bool {
        match self.open.as_ref().map(|progress| &progress.phase) {
            Some(Phase::Calls(round)) => round.awaits(identity),
            _ => false,
        }
    }

    /// Returns the call of the open turn that waits for this promise.
    #[must_use]
    pub fn call_of(&self, identity: &WaitIdentity) -> Option<CallId> {
        match self.open.as_ref().map(|progress| &progress.phase) {
            Some(Phase::Calls(round)) => round.call_of(identity),
            _ => None,
        }
    }

    /// Returns how many messages the open turn has so far, its input included; none without one.
    #[must_use]
    pub fn open_messages(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |progress| progress.messages.len())
    }

    /// Returns how many System inputs wait for the open turn to end.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the next event of the session.
    ///
    /// # Errors
    /// [`TurnError`]: the event cannot be read or does not follow from those before it; the
    /// conversation is as it was.
    pub fn apply(&mut self, event: &EventDraft) -> Result<(), TurnError> {
        match &event.kind {
            EventKind::InputAccepted => self.input(event),
            EventKind::TurnStarted => self.started(event),
            kind if kind.ends_turn() => {
                self.ended(event);
                Ok(())
            }
            EventKind::ConflictRuled if event.turn.is_some() => self.set_aside(event),
            _ => match RecordedEffect::from_event(event)? {
                Some(recorded) => {
                    take(self.open_progress(event)?, &recorded)?;
                    self.taken.push(Arc::new(recorded));
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    /// A person ruled that the record of some effects counts no more: the turn stands where it
    /// stood before them.
    fn set_aside(&mut self, event: &EventDraft) -> Result<(), TurnError> {
        let set_aside = event.payload["set_aside"].as_array();
        let keys: Vec<&str> = set_aside
            .into_iter()
            .flatten()
            .filter_map(|effect| effect["key"].as_str())
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let mut progress = Progress::new(self.open_progress(event)?.start.clone())?;
        let mut taken = self.taken.clone();
        taken.retain(|recorded| !keys.contains(&recorded.key.as_str()));
        for recorded in &taken {
            take(&mut progress, recorded)?;
        }
        self.open = Some(progress);
        self.taken = taken;
        Ok(())
    }

    fn input(&mut self, event: &EventDraft) -> Result<(), TurnError> {
        let message: Message = read(event, &event.payload["message"])?;
        // Another input comes with the start of its turn.
        if message.role == Role::System {
            let message = Arc::new(message);
            match self.open {
                Some(_) => self.waiting.push(message),
                None => self.push(message),
            }
        }
        Ok(())
    }

    fn started(&mut self, event: &EventDraft) -> Result<(), TurnError> {
        let start: TurnStart = read(event, &event.payload)?;
        if start.history != self.mark || self.open.is_some() {
            return Err(TurnError::HistoryMismatch {
                expected: start.history,
                found: self.mark,
            });
        }
        self.open = Some(Progress::new(start)?);
        self.taken.clear();
        Ok(())
    }

    fn ended(&mut self, event: &EventDraft) {
        // A turn that was cancelled before it started leaves nothing.
        let ends_open = |progress: &Progress| event.turn.as_ref() == Some(&progress.start.turn);
        if !self.open.as_ref().is_some_and(ends_open) {
            return;
        }
        self.taken.clear();
        if let Some(mut progress) = self.open.take() {
            if let Some(compacted) = progress.compacted.take() {
                self.compacted = Some(compacted);
            }
            let (messages, mark) = progress.into_messages();
            self.history.extend(messages);
            self.mark = mark;
        }
        for message in std::mem::take(&mut self.waiting) {
            self.push(message);
        }
    }

    fn open_progress(&mut self, event: &EventDraft) -> Result<&mut Progress, TurnError> {
        let open = self.open.as_mut();
        open.filter(|progress| event.turn.as_ref() == Some(&progress.start.turn))
            .ok_or_else(|| TurnError::NoOpenTurn {
                kind: event.kind.to_string(),
            })
    }

    fn push(&mut self, message: Arc<Message>) {
        self.mark = self.mark.after(&message);
        self.history.push(message);
    }
}
