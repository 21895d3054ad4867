//! What the cache is generic over: the value, and the way to get one.

use std::future::Future;

use async_trait::async_trait;
use runtime_core::Digest;

use crate::{FetchError, FetchLimits, Hints};

/// What can be cached.
///
/// The four questions are asked once per fetch, in the task of the fetch and outside every lock.
pub trait CacheValue: Send + Sync + 'static {
    /// Returns the digest of the content: equal digests mean that nothing changed.
    fn digest(&self) -> Digest;

    /// Returns the bytes that the value counts for.
    fn bytes(&self) -> u64;

    /// Returns the number of tools in it.
    fn tools(&self) -> usize;

    /// Returns what changed since an earlier value.
    fn changes_since(&self, earlier: &Self) -> Changes;
}

/// The names that changed between two values, each list in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is new.
    pub added: Vec<String>,
    /// What is gone.
    pub removed: Vec<String>,
    /// What is there under the same name with another definition.
    pub changed: Vec<String>,
}

/// What a fetch brought.
#[derive(Debug, Clone)]
pub struct Fetched<V> {
    /// The value.
    pub value: V,
    /// What the server says about how long it holds.
    pub hints: Hints,
}

/// The way to get a value: asks the server, whatever that takes.
///
/// Any `Fn(FetchLimits) -> impl Future<Output = Result<Fetched<V>, FetchError>>` is one.
#[async_trait]
pub trait Fetch<V>: Send + Sync + 'static {
    /// Fetches the value. Credentials are asked for anew here, not kept: a background refresh
    /// runs long after the first call.
    ///
    /// # Errors
    /// [`FetchError`]; a refused credential must be told apart from all else.
    ///
    /// # Cancel safety
    /// The cache drops the future at its deadline and at `close`; dropping it cancels the fetch.
    async fn fetch(&self, limits: FetchLimits) -> Result<Fetched<V>, FetchError>;
}

#[async_trait]
impl<V, F, T> Fetch<V> for F
where
    V: Send + 'static,
    F: Fn(FetchLimits) -> T + Send + Sync + 'static,
    T: Future<Output = Result<Fetched<V>, FetchError>> + Send + 'static,
{
    async fn fetch(&self, limits: FetchLimits) -> Result<Fetched<V>, FetchError> {
        self(limits).await
    }
}
