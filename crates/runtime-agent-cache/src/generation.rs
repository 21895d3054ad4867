//! Generations, their leases, and their one disposal (G1).
//!
//! The entry of a key and each lease hold one `Arc` of the generation. Retiring is nothing but
//! dropping the entry's; whoever drops the last one hands the object to its disposal. So "once,
//! and only when retired and unused" holds by construction, without a count of our own that a
//! late release could get wrong.

use std::fmt;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use runtime_core::Clock;
use tokio::sync::watch;

use crate::counters::Counters;
use crate::sync::{AtomicBool, Handle};
use crate::{AgentKey, DisposalFailure, DisposalReason, Dispose};

/// One built object.
pub(crate) struct Generation<V: Send + 'static> {
    pub(crate) key: AgentKey,
    pub(crate) version: u64,
    pub(crate) number: u64,
    /// Taken only by `drop`.
    value: Option<V>,
    doomed: AtomicBool,
    grave: Arc<Disposals<V>>,
}

impl<V: Send + 'static> Drop for Generation<V> {
    fn drop(&mut self) {
        let value = self.value.take().expect("nothing else takes the value");
        let disposal = Disposal {
            failure: Some(DisposalFailure {
                key: self.key.clone(),
                generation: self.number,
                version: self.version,
                reason: DisposalReason::Aborted,
            }),
            grave: Arc::clone(&self.grave),
        };
        self.grave.counters.disposals.add(1);
        self.doom();
        self.grave.spawn(disposal.run(value));
    }
}

/// An object in use: bound to one generation, which is not disposed of before this is dropped.
pub struct Lease<V: Send + 'static>(pub(crate) Arc<Generation<V>>);

impl<V: Send + 'static> Lease<V> {
    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &AgentKey {
        &self.0.key
    }

    /// Returns the version that the object was built at.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// Returns the number of the generation: no two objects of a cache have the same.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.number
    }
}

impl<V: Send + 'static> Clone for Lease<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V: Send + 'static> Deref for Lease<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.0
            .value
            .as_ref()
            .expect("only dropping takes the value")
    }
}

impl<V: Send + 'static> fmt::Debug for Lease<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.0.key)
            .field("version", &self.0.version)
            .field("generation", &self.0.number)
            .finish_non_exhaustive()
    }
}

/// What is not over yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outstanding {
    /// Cached, or retired and still leased.
    pub(crate) alive: usize,
    pub(crate) disposing: usize,
    /// Builds, and the sweeper.
    pub(crate) tasks: usize,
}

/// Where objects end. It knows nothing of the cache, so a lease may outlive it.
pub(crate) struct Disposals<V> {
    dispose: Arc<dyn Dispose<V>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// Leases are dropped anywhere, so the runtime is remembered.
    handle: Handle,
    pub(crate) outstanding: watch::Sender<Outstanding>,
    pub(crate) counters: Counters,
}

impl<V: Send + 'static> Disposals<V> {
    pub(crate) fn new(
        dispose: Arc<dyn Dispose<V>>,
        clock: Arc<dyn Clock>,
        timeout: Duration,
        handle: Handle,
    ) -> Self {
        Self {
            dispose,
            clock,
            timeout,
            handle,
            outstanding: watch::Sender::default(),
            counters: Counters::default(),
        }
    }

    /// Runs a task; it is counted in `outstanding`, which is what `close` waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    pub(crate) fn generation(
        self: &Arc<Self>,
        key: AgentKey,
        version: u64,
        number: u64,
        value: V,
    ) -> Arc<Generation<V>> {
        self.outstanding
            .send_modify(|outstanding| outstanding.alive += 1);
        Arc::new(Generation {
            key,
            version,
            number,
            value: Some(value),
            doomed: AtomicBool::new(false),
            grave: Arc::clone(self),
        })
    }
}

impl<V: Send + 'static> Generation<V> {
    /// Stops counting it as alive, a moment before it is dropped: called under the lock of the
    /// cache when nobody else can lease it any more, so that its seat is free at once.
    pub(crate) fn doom(&self) {
        if !self.doomed.swap(true, Ordering::Relaxed) {
            self.grave
                .outstanding
                .send_modify(|outstanding| outstanding.doom());
        }
    }
}

impl Outstanding {
    fn doom(&mut self) {
        self.alive -= 1;
        self.disposing += 1;
    }

    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// One disposal; dropped before it ended, it counts as failed.
struct Disposal<V: Send + 'static> {
    /// None once it ended well.
    failure: Option<DisposalFailure>,
    grave: Arc<Disposals<V>>,
}

impl<V: Send + 'static> Disposal<V> {
    async fn run(mut self, value: V) {
        let grave = Arc::clone(&self.grave);
        let work = AssertUnwindSafe(async { grave.dispose.dispose(value).await }).catch_unwind();
        let deadline = grave.clock.sleep(grave.timeout);
        let reason = match select(Box::pin(work), deadline).await {
            Either::Left((Ok(Ok(())), _)) => {
                self.failure = None;
                return;
            }
            Either::Left((Ok(Err(error)), _)) => DisposalReason::Failed(error),
            Either::Left((Err(_), _)) => DisposalReason::Panicked,
            Either::Right(_) => DisposalReason::TimedOut,
        };
        if let Some(failure) = &mut self.failure {
            failure.reason = reason;
        }
    }
}

impl<V: Send + 'static> Drop for Disposal<V> {
    fn drop(&mut self) {
        let counters = &self.grave.counters;
        if let Some(failure) = self.failure.take() {
            match failure.reason {
                DisposalReason::TimedOut => counters.disposal_timeouts.add(1),
                _ => counters.disposal_failures.add(1),
            }
            tracing::warn!(
                tenant = failure.key.tenant(),
                name = failure.key.name(),
                generation = failure.generation,
                reason = %failure.reason,
                "an object could not be disposed of"
            );
            // A host that panics here must not keep `close` waiting.
            let told = AssertUnwindSafe(|| self.grave.dispose.failed(failure));
            let _ = std::panic::catch_unwind(told);
        }
        self.grave
            .outstanding
            .send_modify(|outstanding| outstanding.disposing -= 1);
    }
}
