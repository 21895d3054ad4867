//! The protocol of waiting and resolving under a model checker (E14, R10).
//!
//! The store is a table whose commits are one step each; the registry is the real one. A lost
//! wake-up shows as a deadlock: a waiter that sleeps for ever.

use std::collections::{HashMap, HashSet};

use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::{future, thread};

use super::{Interest, PromiseKey, WaitRegistry};

/// Schedules of each scenario.
const SCHEDULES: usize = 20_000;

/// What a waiter sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Resolved(u32),
    Revoked,
    Cancelled,
}

/// What the store holds.
#[derive(Debug, Default)]
struct Table {
    resolved: HashMap<PromiseKey, u32>,
    revoked: HashSet<String>,
}

/// A process with its registry; the table outlives it.
#[derive(Debug, Clone, Default)]
struct Process {
    table: Arc<Mutex<Table>>,
    registry: Arc<WaitRegistry>,
    cancelled: Arc<AtomicBool>,
}

impl Process {
    /// The next process over the same table.
    fn restarted(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            ..Self::default()
        }
    }

    /// Commits a resolution if it is the first, then wakes.
    fn resolve(&self, key: &PromiseKey, value: u32) -> bool {
        let mut table = self.table.lock().expect("no thread panics");
        let first = !table.revoked.contains(key.0.as_str()) && !table.resolved.contains_key(key);
        if first {
            table.resolved.insert(key.clone(), value);
        }
        drop(table);
        if first {
            self.registry.wake(key);
        }
        first
    }

    /// Commits a revocation of a scope, then wakes whoever waits in it.
    fn revoke(&self, scope: &str) {
        let mut table = self.table.lock().expect("no thread panics");
        table.revoked.insert(scope.to_owned());
        drop(table);
        self.registry.wake_where(|key| key.0.as_str() == scope);
    }

    /// Cancels the waits of the process, then wakes them.
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.registry.wake_where(|_| true);
    }

    fn look(&self, keys: &[PromiseKey]) -> Option<Seen> {
        let table = self.table.lock().expect("no thread panics");
        let resolved = keys.iter().find_map(|key| table.resolved.get(key));
        let revoked = || {
            keys.iter()
                .any(|key| table.revoked.contains(key.0.as_str()))
        };
        match resolved {
            Some(value) => Some(Seen::Resolved(*value)),
            None if revoked() => Some(Seen::Revoked),
            None if self.cancelled.load(Ordering::SeqCst) => Some(Seen::Cancelled),
            None => None,
        }
    }

    /// Waits as a controller does: interest first, the look second.
    fn wait(&self, keys: &[PromiseKey]) -> Seen {
        let interest = self.registry.register(keys.to_vec());
        future::block_on(self.until_seen(&interest, keys))
    }

    async fn until_seen(&self, interest: &Interest, keys: &[PromiseKey]) -> Seen {
        loop {
            if let Some(seen) = self.look(keys) {
                return seen;
            }
            interest.woken().await;
        }
    }

    /// The planted fault: the look first, the interest second.
    fn wait_wrongly(&self, keys: &[PromiseKey]) -> Seen {
        if let Some(seen) = self.look(keys) {
            return seen;
        }
        let interest = self.registry.register(keys.to_vec());
        future::block_on(async {
            interest.woken().await;
            self.until_seen(&interest, keys).await
        })
    }
}

fn promise(scope: &str, name: &str) -> PromiseKey {
    (scope.parse().expect("legal"), name.to_owned())
}

fn spawn<T: Send + 'static>(
    process: &Process,
    body: impl FnOnce(Process) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let process = process.clone();
    thread::spawn(move || body(process))
}

fn joined<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("ends")
}

/// Checks a scenario under random schedules.
fn check(scenario: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(scenario, SCHEDULES);
}

#[test]
fn r10_resolve_and_resolve_have_one_winner() {
    check(|| {
        let process = Process::default();
        let racers = [1, 2, 3].map(|value| {
            spawn(&process, move |process| {
                process.resolve(&promise("a", "p"), value)
            })
        });
        let winners = racers.map(joined).into_iter().filter(|won| *won).count();
        assert_eq!(winners, 1);
    });
}

#[test]
fn r10_resolve_and_wait_lose_no_wake_up() {
    check(|| {
        let process = Process::default();
        let waiter = spawn(&process, |process| process.wait(&[promise("a", "p")]));
        let resolver = spawn(&process, |process| process.resolve(&promise("a", "p"), 1));
        assert!(joined(resolver));
        assert_eq!(joined(waiter), Seen::Resolved(1));
    });
}

#[test]
fn r10_every_waiter_is_woken_and_sees_the_same() {
    check(|| {
        let process = Process::default();
        let waiters =
            [(); 2].map(|()| spawn(&process, |process| process.wait(&[promise("a", "p")])));
        let racers = [1, 2].map(|value| {
            spawn(&process, move |process| {
                process.resolve(&promise("a", "p"), value)
            })
        });
        let [first, second] = racers.map(joined);
        assert_ne!(first, second);
        let winner = if first { 1 } else { 2 };
        assert_eq!(waiters.map(joined), [Seen::Resolved(winner); 2]);
    });
}

#[test]
fn r10_a_wait_for_either_of_two_sees_one() {
    check(|| {
        let process = Process::default();
        let keys = [promise("a", "p"), promise("a", "q")];
        let waiter = spawn(&process, move |process| process.wait(&keys));
        let resolver = spawn(&process, |process| process.resolve(&promise("a", "q"), 2));
        assert!(joined(resolver));
        assert_eq!(joined(waiter), Seen::Resolved(2));
    });
}

#[test]
fn r10_cancel_and_resolve_both_wake() {
    check(|| {
        let process = Process::default();
        let waiter = spawn(&process, |process| process.wait(&[promise("a", "p")]));
        let canceller = spawn(&process, |process| process.cancel());
        let resolver = spawn(&process, |process| process.resolve(&promise("a", "p"), 1));
        joined(canceller);
        assert!(joined(resolver));
        let seen = joined(waiter);
        assert!(
            matches!(seen, Seen::Cancelled | Seen::Resolved(1)),
            "{seen:?}"
        );
    });
}

#[test]
fn r10_revoking_wakes_its_owners_waiters_and_leaves_others() {
    check(|| {
        let process = Process::default();
        let revoked = spawn(&process, |process| process.wait(&[promise("a", "p")]));
        let other = spawn(&process, |process| process.wait(&[promise("b", "p")]));
        let revoker = spawn(&process, |process| process.revoke("a"));
        assert_eq!(joined(revoked), Seen::Revoked);
        joined(revoker);
        assert!(process.resolve(&promise("b", "p"), 1));
        assert_eq!(joined(other), Seen::Resolved(1));
    });
}

#[test]
fn r10_a_dropped_wait_leaves_nothing_and_disturbs_nobody() {
    check(|| {
        let process = Process::default();
        // A deadline that passes drops the interest, whatever rings at the same time.
        let dropped = spawn(&process, |process| {
            drop(process.registry.register(vec![promise("a", "p")]));
        });
        let waiter = spawn(&process, |process| process.wait(&[promise("a", "p")]));
        let resolver = spawn(&process, |process| process.resolve(&promise("a", "p"), 1));
        joined(dropped);
        assert!(joined(resolver));
        assert_eq!(joined(waiter), Seen::Resolved(1));
        let left = process.registry.waiters.lock().expect("no thread panics");
        assert!(left.is_empty());
    });
}

#[test]
fn r10_a_restart_forgets_bells_and_keeps_resolutions() {
    check(|| {
        let before = Process::default();
        let after = before.restarted();
        // Resolved through the old process: the new one's waiter sees it, or was not there yet
        // and is rung by its own resolver.
        let old = spawn(&before, |process| process.resolve(&promise("a", "p"), 1));
        let waiter = spawn(&after, |process| {
            process.wait(&[promise("a", "p"), promise("a", "q")])
        });
        let new = spawn(&after, |process| process.resolve(&promise("a", "q"), 2));
        assert!(joined(old) && joined(new));
        let seen = joined(waiter);
        assert!(matches!(seen, Seen::Resolved(1 | 2)), "{seen:?}");
    });
}

/// The twin that must fail: with the look before the interest the checker finds the sleeper.
#[test]
#[should_panic(expected = "deadlock")]
fn r10_planted_looking_before_registering_loses_a_wake_up() {
    check(|| {
        let process = Process::default();
        let waiter = spawn(&process, |process| {
            process.wait_wrongly(&[promise("a", "p")])
        });
        let resolver = spawn(&process, |process| process.resolve(&promise("a", "p"), 1));
        joined(resolver);
        joined(waiter);
    });
}
