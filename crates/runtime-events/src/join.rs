//! The join of replay and live: pure decisions, no I/O (V4).
//!
//! The log is the truth and live is a hint. A live event is given only if it is certainly the
//! next one of the topic; in every other case it is thrown away and the log is read, which has
//! it already, because nothing is published before it is stored. So nothing is ever buffered
//! here, and no order of live messages can lose, repeat or reorder an event.

use runtime_store::Position;

/// An event of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<E> {
    pub(crate) position: Position,
    /// The position of the event before it in the topic; none where nobody knows.
    pub(crate) previous: Option<Position>,
    /// It is the last event of the topic (V5).
    pub(crate) ends: bool,
    /// What it says; none if it cannot be read.
    pub(crate) event: Option<E>,
}

/// What one read of the log gave.
#[derive(Debug, Clone)]
pub(crate) struct LogPage<E> {
    pub(crate) entries: Vec<Entry<E>>,
    pub(crate) next: Position,
    pub(crate) has_more: bool,
    pub(crate) pruned: Position,
}

/// What the reader is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given<E> {
    Event(Position, E),
    /// Retention removed events before this position.
    Gap {
        oldest: Position,
    },
    /// What stood from here to there is damaged.
    Corrupt {
        from: Position,
        to: Position,
    },
}

/// What the join wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A page of the log after this position.
    Read { after: Position },
    /// The next live message.
    Listen,
    /// Nothing any more.
    Ended,
}

/// What to do with a live event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one: give it.
    Give,
    /// It was given before: forget it.
    Forget,
    /// Something is missing before it: forget it and read the log.
    Read,
}

/// Where a reader stands in its topic.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Everything of the topic up to here was given, or does not exist.
    last: Position,
    need: Need,
}

impl Join {
    /// Starts after a position, with a read of the log: the caller listens to live *before* it
    /// reads, so that what is stored during the read is heard.
    pub(crate) const fn after(last: Position) -> Self {
        Self {
            last,
            need: Need::Read { after: last },
        }
    }

    pub(crate) const fn need(&self) -> Need {
        self.need
    }

    pub(crate) const fn last(&self) -> Position {
        self.last
    }

    /// Decides on a live event. `Entry::event` is not looked at.
    pub(crate) fn live<E>(&mut self, entry: &Entry<E>) -> Verdict {
        if entry.position <= self.last {
            return Verdict::Forget;
        }
        match entry.previous {
            // Everything up to `last` was given and nothing is between `previous` and this one.
            Some(previous) if previous <= self.last => {
                self.advance(entry.position, entry.ends);
                Verdict::Give
            }
            _ => {
                self.read();
                Verdict::Read
            }
        }
    }

    /// Live messages were lost.
    pub(crate) fn lagged(&mut self) {
        self.read();
    }

    /// Nothing was heard for a while. `head` is the last position of the log, if it is known:
    /// when it was reached already, the log need not be read.
    pub(crate) fn silent(&mut self, head: Option<Position>) {
        if head.is_none_or(|head| head > self.last) {
            self.read();
        }
    }

    /// The topic ended before the position that this reader started after.
    pub(crate) fn ended_before(&mut self) {
        self.need = Need::Ended;
    }

    /// Takes a page that was read after [`last`](Self::last).
    pub(crate) fn page<E>(&mut self, page: LogPage<E>) -> Vec<Given<E>> {
        let mut given = Vec::with_capacity(page.entries.len());
        if page.entries.is_empty() && page.pruned > self.last {
            // Whether the topic had events there nobody can tell any more.
            given.push(Given::Gap {
                oldest: page.pruned.next(),
            });
            self.last = page.pruned;
        }
        for entry in page.entries {
            if entry.position <= self.last || self.need == Need::Ended {
                continue;
            }
            given.extend(self.hole_before(&entry, page.pruned));
            given.push(match entry.event {
                Some(event) => Given::Event(entry.position, event),
                None => Given::Corrupt {
                    from: entry.position,
                    to: entry.position,
                },
            });
            self.advance(entry.position, entry.ends);
        }
        self.last = self.last.max(page.next);
        if self.need != Need::Ended {
            self.need = if page.has_more {
                Need::Read { after: self.last }
            } else {
                Need::Listen
            };
        }
        given
    }

    /// The log itself has a hole before this entry: by retention, or by damage.
    fn hole_before<E>(&self, entry: &Entry<E>, pruned: Position) -> Option<Given<E>> {
        let missing_up_to = match entry.previous {
            Some(previous) => previous,
            None => pruned,
        };
        if missing_up_to <= self.last {
            None
        } else if missing_up_to <= pruned {
            Some(Given::Gap {
                oldest: entry.position,
            })
        } else {
            Some(Given::Corrupt {
                from: self.last.max(pruned).next(),
                to: Position(entry.position.0 - 1),
            })
        }
    }

    fn advance(&mut self, position: Position, ends: bool) {
        self.last = position;
        if ends {
            self.need = Need::Ended;
        }
    }

    fn read(&mut self) {
        if self.need != Need::Ended {
            self.need = Need::Read { after: self.last };
        }
    }
}
