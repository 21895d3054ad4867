//! Whether the lines of an export agree with each other. Pure.
//!
//! What a line says is not known to be true: a number that is far too large would fill the memory
//! of whoever opens the store that is made of it, and a missing event would be damage there.

use super::{EXPORT_SCHEMA, ExportLine, ExportedEvent, ExportedPlace};
use crate::{Position, Seq};

/// Positions after the head must have room, whoever adds to them.
const HEAD_MAX: u64 = u64::MAX >> 1;

/// How far an export has come; an error says what does not agree.
#[derive(Debug)]
pub(super) struct Agreement {
    head: u64,
    pruned: u64,
    /// The position of the next event that is served.
    next: u64,
    /// The commit whose events come now.
    commit: Option<Events>,
}

/// The events of a commit.
#[derive(Debug, Clone, Copy)]
struct Events {
    first: u64,
    count: u32,
    /// So many lines of them are still to come.
    left: u32,
}

impl Agreement {
    /// Begins with the first line.
    pub(super) fn begin(line: &ExportLine) -> Result<Self, String> {
        let ExportLine::Store {
            schema: EXPORT_SCHEMA,
            head,
            pruned,
            ..
        } = *line
        else {
            return Err("it is no export of this version".to_owned());
        };
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
            commit: None,
        })
    }

    /// Takes a further line, before which so many came.
    pub(super) fn take(&mut self, line: &ExportLine, before: u64) -> Result<(), String> {
        if let (Some(commit), false) = (self.commit, matches!(line, ExportLine::Event(_))) {
            let left = commit.left;
            return Err(format!("{left} events of the commit before are missing"));
        }
        match line {
            ExportLine::Store { .. } => Err("a second export begins".to_owned()),
            ExportLine::Commit {
                first_position,
                events,
                following,
                ..
            } => self.commit(*first_position, *events, *following),
            ExportLine::Event(event) => self.event(event),
            ExportLine::Row { version, event, .. } => {
                self.end()?;
                if *version == u64::MAX {
                    return Err("the version of a row leaves none after it".to_owned());
                }
                event.as_ref().map_or(Ok(()), |event| self.row_event(event))
            }
            ExportLine::Stream {
                stream, head, last, ..
            } => {
                self.end()?;
                let (Seq(number), Position(last)) = (*head, *last);
                match number <= last && last <= self.head {
                    true => Ok(()),
                    false => Err(format!(
                        "stream {stream} ends with number {number} at {last}; the head is {}",
                        self.head
                    )),
                }
            }
            ExportLine::Attachment { .. } => Ok(()),
            ExportLine::End { lines } if *lines != before => {
                Err(format!("{lines} lines were written, {before} are here"))
            }
            ExportLine::End { .. } => self.end(),
        }
    }

    fn commit(&mut self, first: u64, count: u32, left: u32) -> Result<(), String> {
        if !(1..=self.next).contains(&first) {
            let next = self.next;
            return Err(format!(
                "a commit begins at {first}; the next event is {next}"
            ));
        }
        let commit = Events { first, count, left };
        self.commit = Some(commit);
        self.commit_goes_on(commit)
    }

    /// Those that are served come one after another, none is missing.
    fn event(&mut self, event: &ExportedEvent) -> Result<(), String> {
        let Position(position) = event.position;
        check_places(event)?;
        if position > self.head {
            let head = self.head;
            return Err(format!(
                "an event at {position} comes after the head {head}"
            ));
        }
        if position > self.pruned {
            if position != self.next {
                let next = self.next;
                return Err(format!(
                    "an event at {position} stands where {next} belongs"
                ));
            }
            self.next += 1;
        }
        let Some(commit) = self.commit else {
            return Ok(());
        };
        if !(commit.first..commit.end()).contains(&position) {
            return Err(commit.other_events());
        }
        self.commit_goes_on(Events {
            left: commit.left - 1,
            ..commit
        })
    }

    fn commit_goes_on(&mut self, commit: Events) -> Result<(), String> {
        self.commit = Some(commit).filter(|commit| commit.left > 0);
        match self.commit.is_some() || commit.end() <= self.next {
            true => Ok(()),
            false => Err(commit.other_events()),
        }
    }

    /// The event of a row: the log has it, or retention has removed it there.
    fn row_event(&self, event: &ExportedEvent) -> Result<(), String> {
        let Position(position) = event.position;
        check_places(event)?;
        match position < self.next {
            true => Ok(()),
            false => Err(format!(
                "the event of a row is at {position}, where none was yet"
            )),
        }
    }

    /// All events were there: streams and rows come after them, at the head.
    fn end(&self) -> Result<(), String> {
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

impl Events {
    const fn end(self) -> u64 {
        self.first.saturating_add(self.count as u64)
    }

    fn other_events(self) -> String {
        let Self { first, count, .. } = self;
        format!("a commit has {count} events from {first}; other events follow it")
    }
}

/// Each event of a stream has a position of its own, so none has a larger number there.
fn check_places(event: &ExportedEvent) -> Result<(), String> {
    let Position(position) = event.position;
    if position == 0 {
        return Err("an event is at 0; they begin at 1".to_owned());
    }
    let is_wrong = |place: &&ExportedPlace| place.seq.0 > position || place.previous.0 >= position;
    match event.places.iter().find(is_wrong) {
        None => Ok(()),
        Some(place) => Err(format!(
            "the event at {position} is number {} of {} after {}",
            place.seq.0, place.stream, place.previous.0
        )),
    }
}
