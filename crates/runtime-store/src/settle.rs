//! Committing until the fate of the commit is known.

use std::time::Duration;

use runtime_core::Clock;

use crate::{Commit, CommitError, Committed, Store};

/// Commits, and settles what the store leaves open: waits while it is unavailable (nothing
/// happened), and asks what became of a commit of unknown fate. What was done for the commit is
/// never done again.
///
/// It tries at most `attempts` times, at least once; `pause` comes after the first and doubles.
///
/// # Errors
/// [`CommitError`]; Indeterminate only if the store itself cannot tell.
///
/// # Cancel safety
/// As for [`Store::commit`]: dropping the future does not withdraw the commit.
pub async fn commit_settled(
    store: &dyn Store,
    clock: &dyn Clock,
    commit: Commit,
    attempts: u32,
    mut pause: Duration,
) -> Result<Committed, CommitError> {
    for _ in 1..attempts {
        match submit(store, commit.clone()).await {
            Err(CommitError::Unavailable { .. }) => clock.sleep(pause).await,
            settled => return settled,
        }
        pause = pause.saturating_mul(2);
    }
    submit(store, commit).await
}

async fn submit(store: &dyn Store, commit: Commit) -> Result<Committed, CommitError> {
    match store.commit(commit).await {
        Err(CommitError::Indeterminate { id, reason, source }) => {
            match store.committed(&id).await {
                Ok(Some(committed)) => Ok(committed),
                // Not there now; whether it appears when the store is reopened is unknown.
                Ok(None) | Err(_) => Err(CommitError::Indeterminate { id, reason, source }),
            }
        }
        settled => settled,
    }
}
