//! What a law is run with, and what it answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_store::{AttachmentError, CommitError, ReadError, Store};

/// One storage of the kind under test, empty at first; it cleans up when it is dropped.
///
/// One law makes two times [`remembered_commits`](runtime_store::Limits::remembered_commits)
/// commits, another a commit of `commit_bytes_max`: limits of some thousands run faster.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// Opens the storage. Called a second time only after the first store was closed.
    async fn open(&self) -> Arc<dyn Store>;

    /// Closes the store and opens the storage again.
    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        // A store that fails to close fails to open, which says more.
        let _closed = store.close().await;
        drop(store);
        self.open().await
    }

    /// How long a hint may take before it counts as lost. Only a broken store takes so long.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What a store does against its law.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LawBroken {
    what: String,
}

impl LawBroken {
    /// Names the place of the clause and what was found instead.
    #[must_use]
    pub fn at(file: &str, line: u32, what: impl std::fmt::Display) -> Self {
        Self {
            what: format!("{file}:{line}: {what}"),
        }
    }

    /// Names an error where there must be none.
    #[must_use]
    pub fn refused(error: &dyn std::error::Error) -> Self {
        Self {
            what: format!("the store refused what it must do: {error}"),
        }
    }
}

impl std::fmt::Display for LawBroken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for LawBroken {}

macro_rules! from_error {
    ($($error:ty),+) => {
        $(impl From<$error> for LawBroken {
            fn from(error: $error) -> Self {
                Self::refused(&error)
            }
        })+
    };
}

from_error!(CommitError, ReadError, AttachmentError);

impl From<tokio::task::JoinError> for LawBroken {
    fn from(error: tokio::task::JoinError) -> Self {
        Self {
            what: format!("the store panicked: {error}"),
        }
    }
}

/// A law at work.
pub type LawFuture<'fixture> = Pin<Box<dyn Future<Output = Result<(), LawBroken>> + 'fixture>>;

/// A law by its name.
pub type Law = (
    &'static str,
    for<'fixture> fn(&'fixture dyn StoreFixture) -> LawFuture<'fixture>,
);

/// Every law of a store.
pub const ALL: &[Law] = crate::store_laws!(@laws [list]);

/// Runs a law on two threads of its own, so that writers really race.
///
/// # Errors
/// What the law found.
///
/// # Panics
/// When the machine gives no threads.
pub fn run<F>(law: impl FnOnce() -> F) -> Result<(), LawBroken>
where
    F: Future<Output = Result<(), LawBroken>>,
{
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the machine gives two threads")
        .block_on(law())
}
