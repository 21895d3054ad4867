//! Which processes an instance holds, and which of them go next. No I/O.
//!
//! The order that loses no wake-up: whoever drives a process marks it running *before* it looks
//! into the store; whoever commits something wakes it *after*. A wake of a running process is
//! kept, and drives it once more when it would park.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use runtime_core::{ProcessId, Timestamp};
use runtime_store::Epoch;

/// Where a held process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It goes as soon as there is room.
    Ready,
    /// It is driven; `again` says that it was woken meanwhile.
    Running { again: bool },
    /// It waits, at the latest until `due`.
    Parked { due: Option<Timestamp> },
}

#[derive(Debug)]
struct Held {
    state: State,
    /// The epoch under which this instance drives it; none until it has taken it over.
    epoch: Option<Epoch>,
    /// How often in a row driving it failed in a way that may pass.
    failures: u32,
    /// The processes whose end it waits for.
    waits_for: Vec<ProcessId>,
}

/// The processes of an instance.
#[derive(Debug, Default)]
pub(super) struct Desk {
    held: HashMap<ProcessId, Held>,
    ready: VecDeque<ProcessId>,
    timers: BTreeSet<(Timestamp, ProcessId)>,
    /// Who waits for the end of which process.
    waiters: HashMap<ProcessId, HashSet<ProcessId>>,
    running: usize,
}

/// A process to drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) process: ProcessId,
    pub(super) epoch: Option<Epoch>,
}

impl Desk {
    /// Holds a process that is to be driven; with the epoch under which it was started here.
    pub(super) fn add(&mut self, process: &ProcessId, epoch: Option<Epoch>) {
        if self.hold(process, epoch) {
            self.ready.push_back(process.clone());
        } else {
            self.wake(process);
        }
    }

    /// Holds a process that waits. Look whether it still does only after this.
    pub(super) fn add_parked(&mut self, process: &ProcessId, due: Option<Timestamp>) {
        if self.hold(process, None) {
            self.rest(process, due);
        }
    }

    fn hold(&mut self, process: &ProcessId, epoch: Option<Epoch>) -> bool {
        if self.held.contains_key(process) {
            return false;
        }
        let held = Held {
            state: State::Ready,
            epoch,
            failures: 0,
            waits_for: Vec::new(),
        };
        self.held.insert(process.clone(), held);
        true
    }

    /// Something may have changed for a process.
    pub(super) fn wake(&mut self, process: &ProcessId) {
        let Some(held) = self.held.get_mut(process) else {
            return;
        };
        match held.state {
            State::Ready => {}
            State::Running { .. } => held.state = State::Running { again: true },
            State::Parked { due } => {
                held.state = State::Ready;
                if let Some(due) = due {
                    self.timers.remove(&(due, process.clone()));
                }
                self.ready.push_back(process.clone());
            }
        }
    }

    /// Wakes the held processes that `meant` names.
    pub(super) fn wake_where(&mut self, meant: impl Fn(&ProcessId) -> bool) {
        let meant: Vec<ProcessId> = self.held.keys().filter(|id| meant(id)).cloned().collect();
        meant.iter().for_each(|process| self.wake(process));
    }

    /// A process has ended: wakes who waits for that.
    pub(super) fn ended(&mut self, process: &ProcessId) {
        let waiters = self.waiters.remove(process).unwrap_or_default();
        waiters.iter().for_each(|waiter| self.wake(waiter));
    }

    /// Notes that a process waits for the end of another. Look at that one only after this.
    pub(super) fn waits_for(&mut self, waiter: &ProcessId, process: &ProcessId) {
        let Some(held) = self.held.get_mut(waiter) else {
            return;
        };
        let waiters = self.waiters.entry(process.clone()).or_default();
        if waiters.insert(waiter.clone()) {
            held.waits_for.push(process.clone());
        }
    }

    /// Takes the next process to drive, if fewer than `running_max` are driven.
    pub(super) fn take(&mut self, running_max: usize) -> Option<Next> {
        while self.running < running_max {
            let process = self.ready.pop_front()?;
            // What was forgotten meanwhile is passed over.
            let Some(held) = self.held.get_mut(&process) else {
                continue;
            };
            if held.state != State::Ready {
                continue;
            }
            held.state = State::Running { again: false };
            self.running += 1;
            let epoch = held.epoch;
            return Some(Next { process, epoch });
        }
        None
    }

    /// A driven process parks, unless it was woken meanwhile: then it is ready again.
    pub(super) fn park(
        &mut self,
        process: &ProcessId,
        epoch: Option<Epoch>,
        due: Option<Timestamp>,
    ) {
        let Some(held) = self.held.get_mut(process) else {
            return;
        };
        let State::Running { again } = held.state else {
            return;
        };
        self.running -= 1;
        held.epoch = epoch;
        if again {
            held.state = State::Ready;
            self.ready.push_back(process.clone());
        } else {
            self.rest(process, due);
        }
    }

    fn rest(&mut self, process: &ProcessId, due: Option<Timestamp>) {
        if let Some(held) = self.held.get_mut(process) {
            held.state = State::Parked { due };
            self.timers.extend(due.map(|due| (due, process.clone())));
        }
    }

    /// A process got further, or failed once more in a way that may pass; says how often in a row.
    pub(super) fn failed(&mut self, process: &ProcessId, failed: bool) -> u32 {
        let Some(held) = self.held.get_mut(process) else {
            return 0;
        };
        held.failures = if failed { held.failures + 1 } else { 0 };
        held.failures
    }

    /// Lets a process go: it has ended, or another instance drives it.
    pub(super) fn forget(&mut self, process: &ProcessId) {
        let Some(held) = self.held.remove(process) else {
            return;
        };
        match held.state {
            State::Running { .. } => self.running -= 1,
            State::Parked { due: Some(due) } => drop(self.timers.remove(&(due, process.clone()))),
            _ => {}
        }
        for awaited in held.waits_for {
            if let Some(waiters) = self.waiters.get_mut(&awaited) {
                waiters.remove(process);
                if waiters.is_empty() {
                    self.waiters.remove(&awaited);
                }
            }
        }
    }

    /// Wakes what is due.
    pub(super) fn due(&mut self, now: Timestamp) {
        while let Some((due, process)) = self.timers.first().cloned() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            if let Some(held) = self.held.get_mut(&process) {
                held.state = State::Ready;
                self.ready.push_back(process);
            }
        }
    }

    /// When the next process is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Says whether something is ready or driven.
    pub(super) fn is_busy(&self) -> bool {
        self.running > 0 || !self.ready.is_empty()
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// The processes that are parked.
    pub(super) fn parked(&self) -> Vec<ProcessId> {
        let parked = self
            .held
            .iter()
            .filter(|(_, held)| matches!(held.state, State::Parked { .. }));
        parked.map(|(process, _)| process.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn process(index: usize) -> ProcessId {
        ProcessId::new(format!("p{index}")).expect("legal")
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn e9_a_wake_of_a_running_process_drives_it_once_more() {
        let mut desk = Desk::default();
        desk.add(&process(1), Some(Epoch(1)));
        let next = desk.take(1).expect("is ready");
        assert_eq!(next.epoch, Some(Epoch(1)));
        desk.wake(&process(1));
        desk.park(&process(1), Some(Epoch(2)), None);
        assert_eq!(desk.take(1).expect("was woken").epoch, Some(Epoch(2)));
        desk.park(&process(1), Some(Epoch(2)), None);
        assert_eq!(desk.take(1), None);
        desk.wake(&process(1));
        assert!(desk.take(1).is_some());
    }

    #[test]
    fn e15_an_end_wakes_who_waits_for_it_running_or_parked() {
        let mut desk = Desk::default();
        desk.add(&process(1), None);
        desk.take(1).expect("is ready");
        desk.waits_for(&process(1), &process(2));
        // It ends after the look, before the waiter has parked.
        desk.ended(&process(2));
        desk.park(&process(1), None, None);
        assert!(desk.take(1).is_some());
        desk.waits_for(&process(1), &process(2));
        desk.park(&process(1), None, Some(at(9)));
        desk.ended(&process(2));
        assert!(desk.take(1).is_some());
        assert_eq!(desk.next_due(), None);
    }

    proptest! {
        /// Every held process is ready, driven or parked, exactly once; a wake is never lost.
        #[test]
        fn e9_the_desk_keeps_each_process_once(steps in prop::collection::vec((0..9u8, 0..4usize, 0..20u64), 0..200)) {
            let mut desk = Desk::default();
            let mut woken: HashSet<ProcessId> = HashSet::new();
            let mut driven: HashSet<ProcessId> = HashSet::new();
            for (step, index, time) in steps {
                let id = process(index);
                match step {
                    0 => { desk.add(&id, None); woken.insert(id); }
                    1 => desk.add_parked(&id, Some(at(time))),
                    2 => { desk.wake(&id); if desk.held.contains_key(&id) { woken.insert(id); } }
                    3 | 4 => if let Some(next) = desk.take(2) {
                        prop_assert!(driven.insert(next.process.clone()), "driven twice");
                        woken.remove(&next.process);
                    },
                    5 => if driven.remove(&id) { desk.park(&id, None, Some(at(time))); },
                    6 => { driven.remove(&id); woken.remove(&id); desk.forget(&id); }
                    7 => desk.due(at(time)),
                    _ => desk.waits_for(&id, &process((index + 1) % 4)),
                }
                prop_assert_eq!(desk.running, driven.len());
                for (id, held) in &desk.held {
                    let queued = desk.ready.iter().filter(|ready| *ready == id).count();
                    let timed = desk.timers.iter().filter(|(_, timed)| timed == id).count();
                    match held.state {
                        State::Ready => prop_assert!(queued >= 1 && timed == 0),
                        State::Running { again } => {
                            prop_assert!(driven.contains(id) && timed == 0);
                            prop_assert!(again || !woken.contains(id), "a wake is lost");
                        }
                        State::Parked { due } => {
                            prop_assert_eq!(timed, usize::from(due.is_some()));
                            prop_assert!(!woken.contains(id), "a wake is lost");
                        }
                    }
                }
            }
        }
    }
}
