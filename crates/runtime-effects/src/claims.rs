//! Claims: who runs which effect in this process right now. They live in memory only (E5).

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use runtime_core::{ReplayKey, ScopeId};
use runtime_store::Epoch;

use crate::EffectError;
use crate::sync::Mutex;

type ClaimKey = Arc<(ScopeId, Epoch, ReplayKey)>;

/// The effects that run now.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    running: Mutex<HashSet<ClaimKey>>,
}

/// The right to run one effect; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    key: ClaimKey,
}

impl Claims {
    /// Claims an effect for its runner.
    pub(crate) fn claim(
        self: &Arc<Self>,
        scope: &ScopeId,
        epoch: Epoch,
        key: &ReplayKey,
    ) -> Result<Claim, EffectError> {
        let claimed = Arc::new((scope.clone(), epoch, key.clone()));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !running.insert(Arc::clone(&claimed)) {
            return Err(EffectError::Duplicate { key: key.clone() });
        }
        Ok(Claim {
            claims: Arc::clone(self),
            key: claimed,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let running = &self.claims.running;
        running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
