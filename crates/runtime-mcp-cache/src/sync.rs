//! What the single flight synchronises with: locks and tasks, the real ones or the schedule
//! checker's.
//!
//! Wake-ups come through tokio's channel in both cases: under the checker, which runs one task at
//! a time, it is one indivisible step.

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) use std::sync::PoisonError;

pub(crate) use tokio::sync::watch;
#[cfg(not(shuttle))]
pub(crate) use tokio::task::JoinSet;

/// The faults that the models plant, so that it is shown that each would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A flight leaves the board before its answer is in place.
    LeaveThenStore,
    /// A grounded flight is stored all the same.
    GroundedStores,
    /// A flight forgets that it was declared out of date.
    OutdatedForgotten,
    /// The passengers of an abandoned flight are not released.
    AbandonedStay,
}

/// Says whether a model planted this fault; outside the checker never.
#[cfg(not(shuttle))]
pub(crate) const fn is_planted(_: Fault) -> bool {
    false
}

#[cfg(shuttle)]
pub(crate) use checked::{JoinSet, is_planted, plant};

#[cfg(shuttle)]
mod checked {
    use std::cell::Cell;
    use std::future::Future;

    use shuttle::future::{self, JoinHandle};

    use super::Fault;

    thread_local! {
        // The checker runs all tasks of a model on the thread of its test.
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(crate) fn is_planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    pub(crate) fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    /// As much of tokio's as the cache uses.
    #[derive(Debug, Default)]
    pub(crate) struct JoinSet<T: 'static>(Vec<JoinHandle<T>>);

    impl<T: Send + 'static> JoinSet<T> {
        pub(crate) fn new() -> Self {
            Self(Vec::new())
        }

        pub(crate) fn spawn(&mut self, task: impl Future<Output = T> + Send + 'static) {
            self.0.push(future::spawn(task));
        }

        pub(crate) fn try_join_next(&mut self) -> Option<()> {
            None
        }

        pub(crate) async fn join_next(&mut self) -> Option<()> {
            // Taken off the list only when it is over: dropping this must abort it still.
            let _ = self.0.last_mut()?.await;
            self.0.pop().map(drop)
        }
    }

    impl<T: 'static> Drop for JoinSet<T> {
        fn drop(&mut self) {
            self.0.iter().for_each(JoinHandle::abort);
        }
    }
}
