//! How a connection ended.

use std::sync::{Mutex, PoisonError};

/// How a connection ended, written by its transport, read by those whose calls it cut off.
#[derive(Debug, Default)]
pub(crate) struct Ending(Mutex<Option<String>>, Mutex<Option<String>>);

impl Ending {
    /// The first reason wins: what follows is its consequence.
    pub(crate) fn set(&self, reason: impl Into<String>) {
        let mut ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.get_or_insert_with(|| reason.into());
    }

    pub(crate) fn add(&self, fact: &str) {
        let mut ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *ending {
            Some(reason) => {
                reason.push_str("; ");
                reason.push_str(fact);
            }
            None => *ending = Some(fact.to_owned()),
        }
    }

    /// Notes that the server refused the credential.
    #[cfg(feature = "http")]
    pub(crate) fn set_unauthorised(&self, reason: String) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// Returns how the server refused the credential, if it did.
    pub(crate) fn unauthorised(&self) -> Option<String> {
        self.1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns how it ended.
    pub(crate) fn reason(&self) -> String {
        let ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.clone().unwrap_or_else(|| "it was closed".to_owned())
    }

    /// Says whether it ended.
    pub(crate) fn is_set(&self) -> bool {
        let ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.is_some()
    }
}
