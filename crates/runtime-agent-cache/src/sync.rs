//! What leases and builds synchronise with: locks and tasks, the real ones or the schedule
//! checker's.
//!
//! Wake-ups come through tokio's channel in both cases: under the checker, which runs one task at
//! a time, it is one indivisible step.

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic::AtomicBool};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicBool};

#[cfg(not(shuttle))]
pub(crate) use tokio::runtime::Handle;

/// The faults that the models plant, so that it is shown that each would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A build ends before what it built is in place.
    LeaveThenPlace,
    /// A build that was evicted or overtaken is kept all the same.
    LateBuildKept,
    /// An older version replaces a newer one.
    OlderReplaces,
    /// A retired object is no longer counted although it is leased.
    LeasedIsDoomed,
    /// A retired object is forgotten.
    RetiredIsLost,
}

/// Says whether a model planted this fault; outside the checker never.
#[cfg(not(shuttle))]
pub(crate) const fn is_planted(_: Fault) -> bool {
    false
}

#[cfg(shuttle)]
pub(crate) use checked::{Handle, is_planted, plant};

#[cfg(shuttle)]
mod checked {
    use std::cell::Cell;
    use std::future::Future;

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
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Handle;

    impl Handle {
        pub(crate) const fn current() -> Self {
            Self
        }

        pub(crate) fn spawn(self, task: impl Future<Output = ()> + Send + 'static) {
            // A model that has failed already is being torn down.
            if !std::thread::panicking() {
                drop(shuttle::future::spawn(task));
            }
        }
    }
}
