//! Who wants to hear that something can go on in a scope.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use runtime_core::{ProcessId, ScopeId};

/// Hears, after the commit, that something may go on. What it is told is a hint to look into the
/// store: it may come twice, and for nothing.
///
/// It is called by whoever committed: it must not wait.
pub trait ProcessListener: fmt::Debug + Send + Sync {
    /// A promise of the scope was settled, or the scope was cancelled.
    fn scope_woken(&self, _scope: &ScopeId) {}

    /// Promises of many scopes were revoked: those that `meant` names.
    fn scopes_woken(&self, _meant: &dyn Fn(&ScopeId) -> bool) {}

    /// A process has started in this runtime.
    fn process_started(&self, _process: &ProcessId) {}

    /// A process was asked to end.
    fn process_cancelled(&self, _process: &ProcessId) {}

    /// A process has ended.
    fn process_ended(&self, _process: &ProcessId) {}

    /// An event of a process is to become an input of a session.
    fn session_woken(&self) {}
}

/// The listeners of a host; those that are gone are let go.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    all: Mutex<Vec<Weak<dyn ProcessListener>>>,
}

impl Listeners {
    pub(crate) fn add(&self, listener: &Arc<dyn ProcessListener>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|listener| listener.strong_count() > 0);
        all.push(Arc::downgrade(listener));
    }

    /// Tells each, outside the lock.
    pub(crate) fn tell(&self, what: impl Fn(&dyn ProcessListener)) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners: Vec<Arc<dyn ProcessListener>> =
            all.iter().filter_map(Weak::upgrade).collect();
        drop(all);
        listeners.iter().for_each(|listener| what(&**listener));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Deaf;

    impl ProcessListener for Deaf {}

    #[test]
    fn e15_listeners_that_are_gone_are_let_go() {
        let listeners = Listeners::default();
        let new = || -> Arc<dyn ProcessListener> { Arc::new(Deaf) };
        let [first, second, third] = [(); 3].map(|()| new());
        listeners.add(&first);
        listeners.add(&second);
        drop(first);
        listeners.add(&third);
        let all = listeners.all.lock().expect("is whole");
        let left: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        assert_eq!(all.len(), 2);
        assert!(Arc::ptr_eq(&left[0], &second) && Arc::ptr_eq(&left[1], &third));
    }
}
