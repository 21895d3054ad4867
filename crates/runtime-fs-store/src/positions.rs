//! Whether the lines of an export agree on positions. Pure.
//!
//! What a line says is not known to be true: a number that is far too large would fill the memory
//! of whoever opens the store, and a missing event would be damage there.

use runtime_store::StoredEvent;

use crate::record::StreamEnd;

/// Positions after the head must have room, whoever adds to them.
const HEAD_MAX: u64 = u64::MAX >> 1;

/// How far the events of an export have come; an error says what does not agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Positions {
    pub(crate) head: u64,
    pub(crate) pruned: u64,
    /// The position of the next event that is served.
    next: u64,
}

impl Positions {
    pub(crate) fn new(head: u64, pruned: u64) -> Result<Self, String> {
        if head > HEAD_MAX {
            return Err(format!("the head is {head}, over {HEAD_MAX}"));
        }
        if pruned > head {
            return Err(format!("pruned up to {pruned}, but the head is {head}"));
        }
        Ok(Self {
            head,
            pruned,
            next: pruned + 1,
        })
    }

    /// Takes an event of the log: those that are served come one after another, none is missing.
    pub(crate) fn take(&mut self, event: &StoredEvent) -> Result<(), String> {
        let position = event.position.0;
        check_places(event)?;
        if position <= self.pruned {
            return Ok(());
        }
        if position > self.head {
            let head = self.head;
            return Err(format!(
                "an event at {position} comes after the head {head}"
            ));
        }
        if position != self.next {
            let next = self.next;
            return Err(format!(
                "an event at {position} stands where {next} belongs"
            ));
        }
        self.next += 1;
        Ok(())
    }

    /// Looks at the event of a row: the log has it, or retention has removed it there.
    pub(crate) fn check_row_event(&self, event: &StoredEvent) -> Result<(), String> {
        let position = event.position.0;
        check_places(event)?;
        match position < self.next {
            true => Ok(()),
            false => Err(format!(
                "the event of a row is at {position}, where none was yet"
            )),
        }
    }

    /// Looks at a commit before its events.
    pub(crate) fn check_commit(&self, first_position: u64) -> Result<(), String> {
        match (1..=self.next).contains(&first_position) {
            true => Ok(()),
            false => Err(format!(
                "a commit begins at {first_position}; the next event is {}",
                self.next
            )),
        }
    }

    /// Looks at a commit after its events.
    pub(crate) fn check_events(
        &self,
        first_position: u64,
        count: u32,
        events: &[StoredEvent],
    ) -> Result<(), String> {
        let end = first_position.saturating_add(u64::from(count));
        let is_its = |event: &StoredEvent| (first_position..end).contains(&event.position.0);
        match end <= self.next && events.iter().all(is_its) {
            true => Ok(()),
            false => Err(format!(
                "a commit has {count} events from {first_position}; other events follow it"
            )),
        }
    }

    pub(crate) fn check_stream(&self, end: &StreamEnd) -> Result<(), String> {
        match end.head.0 <= end.last.0 && end.last.0 <= self.head {
            true => Ok(()),
            false => Err(format!(
                "stream {} ends with number {} at {}; the head is {}",
                end.stream, end.head.0, end.last.0, self.head
            )),
        }
    }

    /// Looks whether all events were there.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        let last = self.next - 1;
        match last == self.head {
            true => Ok(()),
            false => Err(format!(
                "the events end at {last}, but the head is {}",
                self.head
            )),
        }
    }
}

/// Each event of a stream has a position of its own, so none has a larger number there.
fn check_places(event: &StoredEvent) -> Result<(), String> {
    let position = event.position.0;
    if position == 0 {
        return Err("an event is at 0; they begin at 1".to_owned());
    }
    let is_wrong =
        |place: &&runtime_store::EventPlace| place.seq.0 > position || place.previous.0 >= position;
    match event.places.iter().find(is_wrong) {
        None => Ok(()),
        Some(place) => Err(format!(
            "the event at {position} is number {} of {} after {}",
            place.seq.0, place.stream, place.previous.0
        )),
    }
}
