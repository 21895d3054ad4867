//! The protocol of leases under a schedule checker (E5, R10).
//!
//! The store is a table whose commits are one step each, time is a counter that any schedule may
//! move; the lease and the observations are the real ones. An overlap of two owners at work, or a
//! stale write, fails the run.

use std::time::Duration;

use runtime_core::{Clock, InstanceId, Sleep, Timestamp};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::{Lease, Observations, SeenLease};

/// Schedules of each scenario.
const SCHEDULES: usize = 20_000;
/// The term of a lease, in ticks.
const TTL: u64 = 4;
/// How long before its end nothing is started, in ticks.
const MARGIN: u64 = 1;
/// How often time moves on.
const TICKS: u64 = 10;

/// Time that a schedule moves.
#[derive(Debug, Clone, Default)]
struct Ticks(Arc<AtomicU64>);

impl Ticks {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }

    fn monotonic(&self) -> Duration {
        self.now()
    }

    fn sleep(&self, _: Duration) -> Sleep {
        Box::pin(std::future::pending())
    }
}

/// What the store holds of one lease, one scope and its effect.
#[derive(Debug, Default)]
struct Table {
    /// The version of the lease row; each renewal puts it.
    version: u64,
    /// Declared dead: nothing in its name happens any more.
    dead: bool,
    /// The epoch of the scope.
    epoch: u64,
    /// Who recorded an outcome.
    outcomes: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
struct World {
    table: Arc<Mutex<Table>>,
    ticks: Ticks,
    /// How many owners are at work right now.
    at_work: Arc<AtomicU64>,
}

/// What is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The holder counts its term from after the renewal.
    CountsFromTheAnswer,
    /// The observer declares dead without looking whether the lease was renewed in between.
    NoVersionGuard,
    /// The store does not look at the epoch of who records.
    NoFence,
}

impl World {
    fn table<T>(&self, step: impl FnOnce(&mut Table) -> T) -> T {
        step(&mut self.table.lock().expect("no thread panics"))
    }

    /// Works one tick's worth, if the lease allows; no other owner may be at work meanwhile.
    fn work(&self, may: bool) {
        if !may {
            return;
        }
        let others = self.at_work.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "two owners are at work");
        thread::yield_now();
        self.at_work.fetch_sub(1, Ordering::SeqCst);
    }

    /// The holder: renews, works while its lease lasts, records at the end.
    fn holder(&self, fault: Fault) {
        let name: InstanceId = "a".parse().expect("legal");
        let clock = std::sync::Arc::new(self.ticks.clone());
        let lease = Lease::new(clock, Duration::from_secs(MARGIN));
        let ttl = Duration::from_secs(TTL);
        lease.granted(name.clone(), self.ticks.now() + ttl);
        for _ in 0..6 {
            // A tick of work is as short as the margin: what is started in time ends in time.
            let now = self.ticks.now();
            if lease.holds(Some(&name)) {
                self.work(self.ticks.now() == now);
            }
            let before = self.ticks.now();
            let renewed = self.table(|table| {
                if !table.dead {
                    table.version += 1;
                }
                !table.dead
            });
            let from = match fault {
                Fault::CountsFromTheAnswer => self.ticks.now(),
                _ => before,
            };
            let ok = match fault {
                // The planted holder does not notice either that it was too late.
                Fault::CountsFromTheAnswer if renewed => {
                    lease.granted(name.clone(), from + ttl);
                    true
                }
                _ => renewed && lease.renewed(&name, from + ttl),
            };
            if !ok {
                lease.lost();
                break;
            }
        }
        // It stands still here for as long as the schedule likes, then records.
        self.record(1, fault);
    }

    fn record(&self, epoch: u64, fault: Fault) {
        self.table(|table| {
            if table.epoch == epoch || fault == Fault::NoFence {
                table.outcomes.push(epoch);
            }
        });
    }

    /// The observer: looks until time is over; takes over what ran out.
    fn observer(&self, fault: Fault) {
        let mut seen = Observations::default();
        loop {
            let last = self.ticks.now() >= Duration::from_secs(TICKS);
            let version = self.table(|table| table.version);
            let lease = SeenLease {
                instance: "a".parse().expect("legal"),
                version,
                ttl: Duration::from_secs(TTL),
            };
            // What was read may be old by the time that the clock is looked at.
            thread::yield_now();
            let now = self.ticks.now();
            for expired in seen.observe(now, vec![lease]) {
                let declared = self.table(|table| {
                    let same = table.version == expired.version;
                    table.dead |= same || fault == Fault::NoVersionGuard;
                    if table.dead {
                        table.epoch = 2;
                    }
                    table.dead
                });
                if declared {
                    self.work(true);
                    self.record(2, fault);
                    return;
                }
            }
            if last {
                return;
            }
        }
    }
}

/// Checks the protocol under random schedules: at most one owner is at work, and the outcomes are
/// those of the last owner alone.
fn check(fault: Fault) {
    let scenario = move || {
        let world = World::default();
        world.table(|table| table.epoch = 1);
        let run = |body: fn(&World, Fault)| {
            let world = world.clone();
            thread::spawn(move || body(&world, fault))
        };
        let holder = run(World::holder);
        let observer = run(World::observer);
        let ticks = world.ticks.clone();
        let time = thread::spawn(move || {
            for _ in 0..TICKS {
                ticks.0.fetch_add(1, Ordering::SeqCst);
                thread::yield_now();
            }
        });
        for thread in [holder, observer, time] {
            thread.join().expect("ends");
        }
        world.table(|table| {
            let later = table.outcomes.iter().position(|epoch| *epoch == 2);
            let stale = later.is_some_and(|at| table.outcomes[at..].contains(&1));
            assert!(!stale, "a stale owner recorded: {:?}", table.outcomes);
        });
    };
    shuttle::check_random(scenario, SCHEDULES);
}

#[test]
fn r10_two_owners_of_a_lease_never_work_at_once() {
    check(Fault::None);
}

#[test]
#[should_panic(expected = "two owners are at work")]
fn r10_planted_a_term_counted_from_the_answer_overlaps() {
    check(Fault::CountsFromTheAnswer);
}

#[test]
#[should_panic(expected = "two owners are at work")]
fn r10_planted_declaring_dead_without_a_guard_overlaps() {
    check(Fault::NoVersionGuard);
}

#[test]
#[should_panic(expected = "a stale owner recorded")]
fn r10_planted_without_a_fence_a_stale_owner_records() {
    check(Fault::NoFence);
}
