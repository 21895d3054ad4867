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
    /// The page has no entries, since events between these positions are damaged.
    pub(crate) corrupt: Option<(Position, Position)>,
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
    /// The read stops here: what comes after it is waiting on the live side, with the deltas
    /// between. None reads to the head of the log.
    until: Option<Position>,
}

impl Join {
    /// Starts after a position, with a read of the log: the caller listens to live *before* it
    /// reads, so that what is stored during the read is heard.
    pub(crate) const fn after(last: Position) -> Self {
        Self {
            last,
            need: Need::Read { after: last },
            until: None,
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
                self.read(Some(entry.position));
                Verdict::Read
            }
        }
    }

    /// Live messages were lost.
    pub(crate) fn lagged(&mut self) {
        self.read(None);
    }

    /// Nothing was heard for a while. `head` is the last position of the log, if it is known:
    /// when it was reached already, the log need not be read.
    pub(crate) fn silent(&mut self, head: Option<Position>) {
        if head.is_none_or(|head| head > self.last) {
            self.read(None);
        }
    }

    /// The topic ended before the position that this reader started after.
    pub(crate) fn ended_before(&mut self) {
        self.need = Need::Ended;
    }

    /// Takes a page that was read after [`last`](Self::last).
    pub(crate) fn page<E>(&mut self, page: LogPage<E>) -> Vec<Given<E>> {
        let mut given = Vec::with_capacity(page.entries.len());
        if let Some((from, to)) = page.corrupt.filter(|(_, to)| *to > self.last) {
            if from > self.last.next() {
                // The store serves nothing before.
                given.push(Given::Gap { oldest: from });
            }
            let from = from.max(self.last.next());
            given.push(Given::Corrupt { from, to });
            self.last = to;
        }
        // Retention took what the read was for: the log has to be read to its head after all.
        let until = self.until.filter(|until| *until > page.pruned);
        for entry in page.entries {
            let is_later = until.is_some_and(|until| entry.position > until);
            if entry.position <= self.last || is_later || self.need == Need::Ended {
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
        if !page.has_more && self.need != Need::Ended && self.last < page.pruned {
            // Whether the topic had more events up to there nobody can tell any more.
            given.push(Given::Gap {
                oldest: page.pruned.next(),
            });
            self.last = page.pruned;
        }
        let reached = until.map_or(page.next, |until| page.next.min(until));
        self.last = self.last.max(reached);
        if self.need != Need::Ended {
            let is_there = until.is_some_and(|until| self.last >= until);
            self.need = if page.has_more && !is_there {
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

    fn read(&mut self, until: Option<Position>) {
        if self.need != Need::Ended {
            self.need = Need::Read { after: self.last };
            self.until = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    use super::*;

    /// What the world does, in any order.
    #[derive(Debug, Clone)]
    enum Act {
        /// An event is stored, of the topic or of another, and published: on time, late (after
        /// the next one), twice, or never.
        Append { in_topic: bool, fate: Fate },
        /// The reader does what it wants next; a page has at most so many events.
        Step { limit: usize },
        /// The reader hears nothing for a while; it may know the head of the log.
        Silence { knows_head: bool },
        /// The buffer overflows.
        Overflow,
        /// Retention removes everything up to here, as a share of the log, except what it
        /// carries forward: every third position.
        Prune { percent: u64 },
    }

    #[derive(Debug, Clone, Copy)]
    enum Fate {
        OnTime,
        Late,
        Twice,
        Lost,
    }

    fn act() -> impl Strategy<Value = Act> {
        let fate = prop_oneof![
            6 => Just(Fate::OnTime),
            2 => Just(Fate::Late),
            1 => Just(Fate::Twice),
            2 => Just(Fate::Lost),
        ];
        prop_oneof![
            6 => (any::<bool>(), fate).prop_map(|(in_topic, fate)| Act::Append { in_topic, fate }),
            6 => (1usize..5).prop_map(|limit| Act::Step { limit }),
            1 => any::<bool>().prop_map(|knows_head| Act::Silence { knows_head }),
            1 => Just(Act::Overflow),
        ]
    }

    type Decide = fn(&mut Join, &Entry<u64>) -> Verdict;

    /// A log, a live channel that loses, repeats and reorders, and one reader.
    struct World {
        decide: Decide,
        knows_previous: bool,
        log: Vec<Entry<u64>>,
        head: u64,
        last_in_topic: Position,
        pruned: u64,
        live: VecDeque<Option<Entry<u64>>>,
        late: Option<Entry<u64>>,
        join: Join,
        given: Vec<Given<u64>>,
    }

    impl World {
        fn new(decide: Decide, knows_previous: bool) -> Self {
            Self {
                decide,
                knows_previous,
                log: Vec::new(),
                head: 0,
                last_in_topic: Position(0),
                pruned: 0,
                live: VecDeque::new(),
                late: None,
                join: Join::after(Position(0)),
                given: Vec::new(),
            }
        }

        fn act(&mut self, act: &Act) {
            match *act {
                Act::Append { in_topic, fate } => self.append(in_topic, fate),
                Act::Step { limit } => self.step(limit),
                Act::Silence { knows_head } => {
                    if self.join.need() == Need::Listen && self.live.is_empty() {
                        self.join.silent(knows_head.then_some(Position(self.head)));
                    }
                }
                Act::Overflow => {
                    self.live.clear();
                    self.live.push_back(None);
                }
                Act::Prune { percent } => {
                    self.pruned = self.pruned.max(self.head * percent / 100);
                    let pruned = self.pruned;
                    self.log
                        .retain(|entry| entry.position.0 > pruned || entry.position.0 % 3 == 0);
                }
            }
        }

        fn append(&mut self, in_topic: bool, fate: Fate) {
            self.head += 1;
            if !in_topic {
                return;
            }
            let entry = Entry {
                position: Position(self.head),
                previous: self.knows_previous.then_some(self.last_in_topic),
                ends: false,
                event: Some(self.head),
            };
            self.last_in_topic = entry.position;
            self.log.push(entry.clone());
            let late = self.late.take();
            match fate {
                Fate::OnTime => self.live.push_back(Some(entry)),
                Fate::Late => self.late = Some(entry),
                Fate::Twice => self.live.extend([Some(entry.clone()), Some(entry)]),
                Fate::Lost => {}
            }
            self.live.extend(late.map(Some));
        }

        fn step(&mut self, limit: usize) {
            match self.join.need() {
                Need::Read { after } => {
                    let rest = self.log.iter().filter(|entry| entry.position > after);
                    let mut entries: Vec<_> = rest.cloned().collect();
                    let has_more = entries.len() > limit;
                    entries.truncate(limit);
                    let end = entries.last().map_or(after, |entry| entry.position);
                    let next = if has_more { end } else { Position(self.head) };
                    self.given.extend(self.join.page(LogPage {
                        entries,
                        next,
                        has_more,
                        pruned: Position(self.pruned),
                        corrupt: None,
                    }));
                }
                Need::Listen => match self.live.pop_front() {
                    Some(Some(entry)) => {
                        let verdict = (self.decide)(&mut self.join, &entry);
                        let event = entry.event.filter(|_| verdict == Verdict::Give);
                        let given = event.map(|event| Given::Event(entry.position, event));
                        self.given.extend(given);
                    }
                    Some(None) => self.join.lagged(),
                    None => {}
                },
                Need::Ended => {}
            }
        }

        /// Lets the reader catch up with a log that stands still.
        fn settle(&mut self) {
            for _ in 0..self.live.len() + 2 * self.log.len() + 8 {
                self.step(3);
                self.act(&Act::Silence { knows_head: true });
            }
        }

        fn given_positions(&self) -> Vec<u64> {
            let event = |given: &Given<u64>| match given {
                Given::Event(position, event) => {
                    assert_eq!(position.0, *event);
                    Some(*event)
                }
                _ => None,
            };
            self.given.iter().filter_map(event).collect()
        }
    }

    fn run(decide: Decide, knows_previous: bool, acts: &[Act]) -> Result<(), String> {
        let mut world = World::new(decide, knows_previous);
        acts.iter().for_each(|act| world.act(act));
        world.settle();
        let stored: Vec<_> = world.log.iter().map(|entry| entry.position.0).collect();
        if world.given_positions() == stored && world.given.len() == stored.len() {
            Ok(())
        } else {
            Err(format!("stored {stored:?}, given {:?}", world.given))
        }
    }

    /// Planted fault: a live event is given whenever it is new.
    fn trusts_live(join: &mut Join, entry: &Entry<u64>) -> Verdict {
        if entry.position <= join.last {
            return Verdict::Forget;
        }
        join.advance(entry.position, entry.ends);
        Verdict::Give
    }

    /// Planted fault: what was given already is given again.
    fn repeats(join: &mut Join, entry: &Entry<u64>) -> Verdict {
        if entry.previous.is_some_and(|previous| previous <= join.last) {
            return Verdict::Give;
        }
        join.live(entry)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn v4_every_event_once_and_in_order_r11(
            acts in proptest::collection::vec(act(), 0..120),
            knows_previous: bool,
        ) {
            prop_assert_eq!(run(Join::live, knows_previous, &acts), Ok(()));
        }

        /// V9: with retention, what is given is still in order and once, and every event that is
        /// missing lies behind a gap that was told.
        #[test]
        fn v9_what_retention_removed_is_told(
            acts in proptest::collection::vec(prop_oneof![
                8 => act(),
                1 => (0u64..=100).prop_map(|percent| Act::Prune { percent }),
            ], 0..120),
        ) {
            let mut world = World::new(Join::live, true);
            let mut appended = Vec::new();
            for act in &acts {
                world.act(act);
                if matches!(act, Act::Append { in_topic: true, .. }) {
                    appended.push(world.head);
                }
            }
            world.settle();
            let mut expected = appended.into_iter().peekable();
            for given in &world.given {
                match *given {
                    Given::Event(_, event) => prop_assert_eq!(expected.next(), Some(event)),
                    Given::Gap { oldest } => {
                        while expected.next_if(|&at| at < oldest.0).is_some() {}
                    }
                    Given::Corrupt { from, to } => {
                        return Err(TestCaseError::fail(format!("{from}..{to} is not damaged")));
                    }
                }
            }
            prop_assert_eq!(expected.next(), None);
        }
    }

    #[test]
    fn the_simulation_finds_planted_faults() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for fault in [trusts_live as Decide, repeats] {
            let found = (0..200).any(|_| {
                let acts = proptest::collection::vec(act(), 120).new_tree(&mut runner);
                let acts = acts.expect("a case").current();
                run(fault, true, &acts).is_err()
            });
            assert!(found);
        }
    }

    fn stored(position: u64, previous: u64) -> Entry<u64> {
        Entry {
            position: Position(position),
            previous: Some(Position(previous)),
            ends: false,
            event: Some(position),
        }
    }

    fn page(entries: Vec<Entry<u64>>, pruned: u64) -> LogPage<u64> {
        let next = entries.last().map_or(Position(0), |entry| entry.position);
        LogPage {
            entries,
            next,
            has_more: false,
            pruned: Position(pruned),
            corrupt: None,
        }
    }

    #[test]
    fn v6_a_topic_that_lost_nothing_to_retention_has_no_gap() {
        let mut join = Join::after(Position(0));
        let given = join.page(page(vec![stored(120, 0)], 100));
        assert_eq!(given, [Given::Event(Position(120), 120)]);
    }

    #[test]
    fn v9_events_that_retention_carried_forward_stand_between_gaps() {
        let mut join = Join::after(Position(0));
        let given = join.page(page(vec![stored(40, 39), stored(101, 100)], 100));
        let gap = |oldest| Given::Gap {
            oldest: Position(oldest),
        };
        let event = |at| Given::Event(Position(at), at);
        assert_eq!(given, [gap(40), event(40), gap(101), event(101)]);
    }

    #[test]
    fn v9_what_may_be_missing_at_the_end_is_told() {
        let mut join = Join::after(Position(0));
        let mut last = page(vec![stored(40, 39)], 100);
        last.next = Position(150);
        let given = join.page(last);
        assert_eq!(
            given.last(),
            Some(&Given::Gap {
                oldest: Position(101)
            })
        );
        assert_eq!(join.page(page(Vec::new(), 100)), []);
    }

    #[test]
    fn v4_a_hole_that_retention_did_not_make_is_damage() {
        let mut join = Join::after(Position(3));
        let mut unreadable = stored(8, 7);
        unreadable.event = None;
        let given = join.page(page(vec![stored(7, 6), unreadable], 0));
        let corrupt = |from, to| Given::Corrupt {
            from: Position(from),
            to: Position(to),
        };
        let event = Given::Event(Position(7), 7);
        assert_eq!(given, [corrupt(4, 6), event, corrupt(8, 8)]);
    }

    /// V3: the read that a live event out of order asks for does not run ahead of the live side,
    /// so that the deltas which wait there are not void when their turn comes.
    #[test]
    fn v3_a_live_event_out_of_order_is_read_up_to_and_no_further() {
        let all = || (5..=8).map(|at| stored(at, at - 1)).collect::<Vec<_>>();
        let positions = |given: Vec<Given<u64>>| -> Vec<u64> {
            let event = |given| match given {
                Given::Event(_, event) => Some(event),
                _ => None,
            };
            given.into_iter().filter_map(event).collect()
        };
        let mut join = Join::after(Position(4));
        assert!(join.page(page(Vec::new(), 0)).is_empty());
        assert_eq!(join.live(&stored(6, 5)), Verdict::Read);
        assert_eq!(positions(join.page(page(all(), 0))), [5, 6]);
        assert_eq!(join.need(), Need::Listen);
        assert_eq!(join.live(&stored(5, 4)), Verdict::Forget);
        assert_eq!(join.live(&stored(7, 6)), Verdict::Give);
        // What was lost is read to the head, and so is what retention took meanwhile.
        join.lagged();
        assert_eq!(positions(join.page(page(all(), 0))), [8]);
        let mut join = Join::after(Position(4));
        assert!(join.page(page(Vec::new(), 0)).is_empty());
        assert_eq!(join.live(&stored(6, 5)), Verdict::Read);
        let given = join.page(page(vec![stored(7, 6), stored(8, 7)], 6));
        assert_eq!(
            given[0],
            Given::Gap {
                oldest: Position(7)
            }
        );
        assert_eq!(positions(given), [7, 8]);
    }

    #[test]
    fn v5_nothing_follows_the_last_event_of_a_topic() {
        let mut join = Join::after(Position(0));
        let mut last = stored(2, 1);
        last.ends = true;
        let given = join.page(page(vec![stored(1, 0), last, stored(3, 2)], 0));
        assert_eq!(given.len(), 2);
        assert_eq!(join.need(), Need::Ended);
        join.lagged();
        join.silent(None);
        assert_eq!(join.need(), Need::Ended);
    }
}
