//! Who waits in this process for which promise (E14).
//!
//! The order that loses no wake-up: a waiter registers, *then* looks into the store; a resolver
//! commits, *then* wakes. A wake-up that comes before the waiter sleeps is kept in its signal.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use runtime_core::ScopeId;

use crate::process::Listeners;
use crate::sync::{Arc, Mutex};

/// A promise as the registry knows it: its scope and its public name.
pub(crate) type PromiseKey = (ScopeId, String);

/// One waiter's bell: rung once or often, heard once.
#[derive(Debug, Default)]
struct Signal {
    state: Mutex<SignalState>,
}

#[derive(Debug, Default)]
struct SignalState {
    rung: bool,
    waker: Option<Waker>,
}

impl Signal {
    fn ring(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rung = true;
        let waker = state.waker.take();
        drop(state);
        // Waking runs an executor's code, so not under the lock.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_heard(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.rung) {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The waiters of this process.
#[derive(Debug, Default)]
pub(crate) struct WaitRegistry {
    waiters: Mutex<HashMap<PromiseKey, Vec<Arc<Signal>>>>,
    /// Who drives what is parked: it has no waiter here.
    pub(crate) listeners: Listeners,
}

/// A registered interest in some promises; dropping it ends the interest.
#[derive(Debug)]
pub(crate) struct Interest {
    registry: Arc<WaitRegistry>,
    keys: Vec<PromiseKey>,
    signal: Arc<Signal>,
}

impl WaitRegistry {
    /// Registers interest. Look into the store only after this.
    pub(crate) fn register(self: &Arc<Self>, keys: Vec<PromiseKey>) -> Interest {
        let signal = Arc::new(Signal::default());
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            let signals = waiters.entry(key.clone()).or_default();
            signals.push(Arc::clone(&signal));
        }
        drop(waiters);
        Interest {
            registry: Arc::clone(self),
            keys,
            signal,
        }
    }

    /// Wakes those who wait for a promise, and whoever drives its scope. Call it only after its
    /// commit.
    pub(crate) fn wake(&self, key: &PromiseKey) {
        self.ring(key);
        self.listeners.tell(|listener| listener.scope_woken(&key.0));
    }

    /// Wakes those who wait for something. Call it only after its commit.
    pub(crate) fn ring(&self, key: &PromiseKey) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let signals = waiters.get(key).cloned().unwrap_or_default();
        drop(waiters);
        signals.iter().for_each(|signal| signal.ring());
    }

    /// Wakes those whose promise is meant; looks at every waiter, so for revocation only.
    pub(crate) fn wake_where(&self, meant: impl Fn(&PromiseKey) -> bool) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let signals: Vec<Arc<Signal>> = waiters
            .iter()
            .filter(|(key, _)| meant(key))
            .flat_map(|(_, signals)| signals.iter().cloned())
            .collect();
        drop(waiters);
        signals.iter().for_each(|signal| signal.ring());
        // What is meant is decided by the scope alone, so any name will do.
        let meant = |scope: &ScopeId| meant(&(scope.clone(), String::new()));
        self.listeners
            .tell(|listener| listener.scopes_woken(&meant));
    }
}

impl Interest {
    /// Is ready when something was woken since it was last ready.
    pub(crate) fn woken(&self) -> impl Future<Output = ()> + Send + '_ {
        Heard(&self.signal)
    }
}

struct Heard<'a>(&'a Signal);

impl Future for Heard<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_heard(context)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let waiters = &self.registry.waiters;
        let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some(signals) = waiters.get_mut(key) {
                signals.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
                if signals.is_empty() {
                    waiters.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn e14_a_dropped_interest_leaves_nothing() {
        let registry = Arc::new(WaitRegistry::default());
        let key = ("turn/desk/1".parse().expect("legal"), "p".to_owned());
        let [first, second] = [(); 2].map(|()| registry.register(vec![key.clone()]));
        drop(first);
        assert_eq!(registry.waiters.lock().expect("is whole")[&key].len(), 1);
        drop(second);
        assert!(registry.waiters.lock().expect("is whole").is_empty());
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod model;
