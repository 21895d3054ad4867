//! Deltas: ephemeral pieces of a streaming answer (V3).

use std::collections::VecDeque;

use runtime_core::{CallId, EventKind, ModelEvent, RuntimeEvent, SessionId, TurnId};
use runtime_store::Position;
use serde::{Deserialize, Serialize};

/// What a delta adds to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeltaTarget {
    /// Nothing yet: an attempt of the model call begins. It has neither text nor pieces, and voids
    /// what an earlier attempt has shown.
    Started,
    /// The text of the answer.
    Text,
    /// The reasoning.
    Reasoning,
    /// The arguments of a tool call, for display only.
    ToolArguments {
        /// The tool call.
        call: CallId,
    },
}

/// More of a streaming answer. It is live only and never stored: whoever reconnects is correct
/// without it, since the committed message that ends the answer has it whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The session.
    pub session: SessionId,
    /// The turn.
    pub turn: TurnId,
    /// Which effect of the turn streams: its replay key.
    pub call: String,
    /// Which attempt of it, from 1. A delta of a new attempt voids all of earlier ones.
    pub attempt: u32,
    /// Which piece of the attempt this is, from 0; the first one if it was coalesced.
    pub index: u64,
    /// How many pieces it is made of. The next delta has the index `index + pieces`, unless
    /// some were lost. 0 where the attempt only begins.
    pub pieces: u64,
    /// What it adds to.
    pub target: DeltaTarget,
    /// What is added.
    pub text: String,
}

impl Delta {
    /// Tells that an attempt of a model call begins.
    #[must_use]
    pub const fn started(session: SessionId, turn: TurnId, call: String, attempt: u32) -> Self {
        Self {
            session,
            turn,
            call,
            attempt,
            index: 0,
            pieces: 0,
            target: DeltaTarget::Started,
            text: String::new(),
        }
    }

    /// Returns the target and the text of a model event, if it is a delta.
    #[must_use]
    pub fn parts(event: &ModelEvent) -> Option<(DeltaTarget, &str)> {
        match event {
            ModelEvent::TextDelta { text } => Some((DeltaTarget::Text, text)),
            ModelEvent::ReasoningDelta { text } => Some((DeltaTarget::Reasoning, text)),
            ModelEvent::ToolArgumentsDelta { call, text } => {
                Some((DeltaTarget::ToolArguments { call: call.clone() }, text))
            }
            _ => None,
        }
    }

    /// Returns what of it belongs to the answer that a person reads: nothing of reasoning, nor of
    /// the arguments of calls.
    #[must_use]
    pub fn answer_text(&self) -> &str {
        match self.target {
            DeltaTarget::Text => &self.text,
            _ => "",
        }
    }

    /// Says whether `next` can be made one with this delta within a bound of text.
    pub(crate) fn takes(&self, next: &Self, bytes_max: usize) -> bool {
        self.turn == next.turn
            && self.call == next.call
            && self.attempt == next.attempt
            && self.target == next.target
            && self.session == next.session
            && self.index + self.pieces == next.index
            && self.text.len() + next.text.len() <= bytes_max
    }

    pub(crate) fn append(&mut self, next: &Self) {
        self.pieces += next.pieces;
        self.text.push_str(&next.text);
    }
}

/// How many answers a reader tells apart at once.
const ANSWERS_MAX: usize = 64;

/// Decides which deltas a reader may still be given.
#[derive(Debug, Default)]
pub(crate) struct DeltaFilter {
    /// The latest attempt of each answer.
    attempts: VecDeque<(TurnId, String, u32)>,
    /// Where in the log each turn's last answer ended.
    ended: VecDeque<(TurnId, Position)>,
}

impl DeltaFilter {
    /// Notes an event that the reader was given: one that ends an answer voids its deltas.
    pub(crate) fn event(&mut self, event: &RuntimeEvent) {
        let ends_answer = matches!(
            event.kind(),
            EventKind::MessageCommitted | EventKind::ModelCallFailed
        ) || event.kind().ends_turn();
        let Some(turn) = event.draft.turn.as_ref().filter(|_| ends_answer) else {
            return;
        };
        self.ended.retain(|(ended, _)| ended != turn);
        if self.ended.len() == ANSWERS_MAX {
            self.ended.pop_front();
        }
        self.ended
            .push_back((turn.clone(), Position(event.position)));
        if self.attempts.iter().any(|(of, ..)| of == turn) {
            self.attempts.retain(|(of, ..)| of != turn);
        }
    }

    /// Says whether a delta that was published when the log ended at `at` is still of use.
    pub(crate) fn passes(&mut self, delta: &Delta, at: Position) -> bool {
        let mut ended = self.ended.iter();
        if ended.any(|(turn, position)| *turn == delta.turn && *position > at) {
            return false;
        }
        let same = |(turn, call, _): &&mut (TurnId, String, u32)| {
            *turn == delta.turn && *call == delta.call
        };
        if let Some((.., latest)) = self.attempts.iter_mut().find(same) {
            *latest = (*latest).max(delta.attempt);
            return *latest == delta.attempt;
        }
        if self.attempts.len() == ANSWERS_MAX {
            self.attempts.pop_front();
        }
        self.attempts
            .push_back((delta.turn.clone(), delta.call.clone(), delta.attempt));
        true
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::{EventDraft, EventId, Timestamp};

    use super::*;

    fn delta(attempt: u32, index: u64) -> Delta {
        Delta {
            session: SessionId::new("desk").expect("a session id"),
            turn: TurnId::new("1").expect("a turn id"),
            call: "0.llm_call.0".to_owned(),
            attempt,
            index,
            pieces: 1,
            target: DeltaTarget::Text,
            text: "x".to_owned(),
        }
    }

    fn message_committed(turn: &str, position: u64) -> RuntimeEvent {
        let mut draft = EventDraft::new(EventKind::MessageCommitted);
        draft.turn = Some(TurnId::new(turn).expect("a turn id"));
        RuntimeEvent {
            position,
            seq: Some(2),
            id: EventId::generate(Timestamp::from_millis(1), [0; 10]),
            time: Timestamp::from_millis(1),
            draft,
        }
    }

    #[test]
    fn v3_a_new_attempt_voids_the_deltas_of_the_earlier_one() {
        let mut filter = DeltaFilter::default();
        assert!(filter.passes(&delta(1, 0), Position(3)));
        assert!(filter.passes(&delta(2, 0), Position(3)));
        assert!(!filter.passes(&delta(1, 1), Position(3)));
        assert!(filter.passes(&delta(2, 1), Position(3)));
    }

    #[test]
    fn v3_the_committed_message_voids_what_was_published_before_it() {
        let mut filter = DeltaFilter::default();
        filter.event(&message_committed("1", 4));
        assert!(!filter.passes(&delta(1, 9), Position(3)));
        assert!(filter.passes(&delta(1, 0), Position(4)));
    }

    #[test]
    fn v3_a_turn_that_said_its_message_forgets_its_attempts_and_no_others() {
        let mut filter = DeltaFilter::default();
        let other = |attempt, index| Delta {
            turn: TurnId::new("2").expect("a turn id"),
            ..delta(attempt, index)
        };
        assert!(filter.passes(&delta(2, 0), Position(3)));
        assert!(filter.passes(&other(2, 0), Position(3)));
        filter.event(&message_committed("1", 4));
        assert!(filter.passes(&delta(1, 0), Position(4)));
        assert!(!filter.passes(&other(1, 0), Position(4)));
        assert!(filter.passes(&other(2, 1), Position(3)));
    }

    #[test]
    fn v3_only_the_text_is_part_of_the_answer() {
        let of = |target| Delta {
            target,
            ..delta(1, 0)
        };
        let call = CallId::new("a").expect("a call id");
        assert_eq!(of(DeltaTarget::Text).answer_text(), "x");
        assert_eq!(of(DeltaTarget::Reasoning).answer_text(), "");
        assert_eq!(of(DeltaTarget::ToolArguments { call }).answer_text(), "");
    }

    #[test]
    fn v3_only_neighbours_of_one_attempt_are_coalesced() {
        let mut first = delta(1, 0);
        assert!(!first.takes(&delta(1, 2), 100), "a piece is missing");
        assert!(!first.takes(&delta(2, 1), 100), "another attempt");
        assert!(!first.takes(&delta(1, 1), 1), "too long");
        assert!(first.takes(&delta(1, 1), 100));
        first.append(&delta(1, 1));
        assert_eq!((first.pieces, first.text.as_str()), (2, "xx"));
        assert!(first.takes(&delta(1, 2), 100));
    }

    #[test]
    fn v3_the_parts_of_an_answer_are_told_apart() {
        let call = CallId::new("a").expect("a call id");
        let text = || "x".to_owned();
        let arguments = ModelEvent::ToolArgumentsDelta {
            call: call.clone(),
            text: text(),
        };
        let target = DeltaTarget::ToolArguments { call };
        assert_eq!(Delta::parts(&arguments), Some((target, "x")));
        let answer = ModelEvent::TextDelta { text: text() };
        assert_eq!(Delta::parts(&answer), Some((DeltaTarget::Text, "x")));
        let reasoning = ModelEvent::ReasoningDelta { text: text() };
        assert_eq!(
            Delta::parts(&reasoning),
            Some((DeltaTarget::Reasoning, "x"))
        );
    }

    #[test]
    fn v3_pieces_of_two_answers_are_never_one() {
        let first = delta(1, 0);
        let other_turn = Delta {
            turn: TurnId::new("2").expect("a turn id"),
            ..delta(1, 1)
        };
        let other_call = Delta {
            call: "0.llm_call.1".to_owned(),
            ..delta(1, 1)
        };
        assert!(!first.takes(&other_turn, 100));
        assert!(!first.takes(&other_call, 100));
    }

    #[test]
    fn v3_answers_that_ended_are_told_apart_up_to_a_bound() {
        let mut filter = DeltaFilter::default();
        let of = |turn: usize| Delta {
            turn: TurnId::new(turn.to_string()).expect("a turn id"),
            ..delta(1, 0)
        };
        for turn in 0..ANSWERS_MAX {
            filter.event(&message_committed(&turn.to_string(), 4));
        }
        assert!((0..ANSWERS_MAX).all(|turn| !filter.passes(&of(turn), Position(3))));
        filter.event(&message_committed("more", 4));
        assert!(filter.passes(&of(0), Position(3)), "the oldest is let go");
        assert!(!filter.passes(&of(1), Position(3)));
    }

    #[test]
    fn v3_a_turn_alone_forgets_its_attempts_when_its_message_is_said() {
        let mut filter = DeltaFilter::default();
        assert!(filter.passes(&delta(2, 0), Position(3)));
        filter.event(&message_committed("1", 4));
        assert!(filter.passes(&delta(1, 0), Position(4)));
    }
}
