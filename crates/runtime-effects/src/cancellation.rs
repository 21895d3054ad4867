//! Cancelling what runs in a scope (E9).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use runtime_core::ScopeId;
use tokio::sync::watch;

/// The scopes that are open in this process. An entry lives as long as its controllers.
#[derive(Debug, Default)]
pub(crate) struct Cancellations {
    open: Mutex<HashMap<ScopeId, Vec<Arc<watch::Sender<bool>>>>>,
}

/// Whether one opening of a scope was cancelled.
#[derive(Debug)]
pub(crate) struct Cancellation {
    cancellations: Arc<Cancellations>,
    scope: ScopeId,
    sender: Arc<watch::Sender<bool>>,
}

impl Cancellations {
    /// Lets an opening of the scope be cancelled.
    pub(crate) fn open(self: &Arc<Self>, scope: &ScopeId) -> Cancellation {
        let sender = Arc::new(watch::Sender::new(false));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.entry(scope.clone())
            .or_default()
            .push(Arc::clone(&sender));
        Cancellation {
            cancellations: Arc::clone(self),
            scope: scope.clone(),
            sender,
        }
    }

    /// Cancels every opening of the scope; says whether there was one.
    pub(crate) fn cancel(&self, scope: &ScopeId) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = open.get(scope).cloned().unwrap_or_default();
        drop(open);
        for sender in &senders {
            sender.send_replace(true);
        }
        !senders.is_empty()
    }
}

impl Cancellation {
    /// Says whether it was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        *self.sender.borrow()
    }

    /// Waits until it is cancelled.
    pub(crate) async fn cancelled(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender is alive as long as `self`, so this never ends with an error.
        let _ = receiver.wait_for(|cancelled| *cancelled).await;
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        let open = &self.cancellations.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = open.get_mut(&self.scope) {
            senders.retain(|sender| !Arc::ptr_eq(sender, &self.sender));
            if senders.is_empty() {
                open.remove(&self.scope);
            }
        }
    }
}
