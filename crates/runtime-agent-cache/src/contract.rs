//! What the host gives: how to build an object, how to dispose of one, and who is told.

use std::fmt;
use std::future::Future;

use async_trait::async_trait;
use runtime_core::WireError;

use crate::AgentKey;

/// The way to build an object.
///
/// Any `Fn(u64) -> impl Future<Output = Result<Option<V>, WireError>>` is one.
#[async_trait]
pub trait Build<V>: Send + Sync + 'static {
    /// Builds the object at a version; none if there is no such object any more.
    ///
    /// # Errors
    /// Whatever the builder says; everybody who waits for the build gets it.
    ///
    /// # Cancel safety
    /// The cache drops the future at its deadline and at `close`; what is half built goes with it.
    async fn build(&self, version: u64) -> Result<Option<V>, WireError>;
}

#[async_trait]
impl<V, F, T> Build<V> for F
where
    V: Send + 'static,
    F: Fn(u64) -> T + Send + Sync + 'static,
    T: Future<Output = Result<Option<V>, WireError>> + Send + 'static,
{
    async fn build(&self, version: u64) -> Result<Option<V>, WireError> {
        self(version).await
    }
}

/// The way to dispose of objects: called once for each, when nobody uses it any more.
#[async_trait]
pub trait Dispose<V>: Send + Sync + 'static {
    /// Disposes of an object.
    ///
    /// # Errors
    /// What went wrong; it is counted and reported. The object is gone all the same.
    async fn dispose(&self, value: V) -> Result<(), WireError>;

    /// Is told that a disposal failed, panicked or took too long.
    fn failed(&self, failure: DisposalFailure) {
        let _ = failure;
    }
}

/// Disposes of objects by dropping them.
#[derive(Debug, Clone, Copy, Default)]
pub struct DropIt;

#[async_trait]
impl<V: Send + 'static> Dispose<V> for DropIt {
    async fn dispose(&self, value: V) -> Result<(), WireError> {
        drop(value);
        Ok(())
    }
}

/// A disposal that did not go well.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DisposalFailure {
    /// Whose object.
    pub key: AgentKey,
    /// Its generation.
    pub generation: u64,
    /// Its version.
    pub version: u64,
    /// How it failed.
    pub reason: DisposalReason,
}

/// How a disposal failed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DisposalReason {
    /// It said so.
    Failed(WireError),
    /// It panicked.
    Panicked,
    /// It took longer than it may, and was dropped.
    TimedOut,
    /// Its runtime ended before it did.
    Aborted,
}

impl fmt::Display for DisposalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "it failed: {error}"),
            Self::Panicked => f.write_str("it panicked"),
            Self::TimedOut => f.write_str("it took too long"),
            Self::Aborted => f.write_str("its runtime ended first"),
        }
    }
}
