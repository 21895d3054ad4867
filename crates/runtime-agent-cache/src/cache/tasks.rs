//! What a cache does by itself: it sweeps, and it hears of invalidations.

use std::sync::{Arc, Weak};

use futures_util::future::{Either, select};
use runtime_store::Position;
use tokio::sync::watch;

use super::{AgentCache, Inner};
use crate::Invalidations;
use crate::generation::Disposals;
use crate::invalidations::{Heard, deliver};

/// Counts a task for as long as it runs.
pub(super) struct TaskGuard<V: Send + 'static>(Arc<Disposals<V>>);

impl<V: Send + 'static> TaskGuard<V> {
    pub(super) fn new(disposals: &Arc<Disposals<V>>) -> Self {
        disposals
            .outstanding
            .send_modify(|outstanding| outstanding.tasks += 1);
        Self(Arc::clone(disposals))
    }
}

impl<V: Send + 'static> Drop for TaskGuard<V> {
    fn drop(&mut self) {
        self.0
            .outstanding
            .send_modify(|outstanding| outstanding.tasks -= 1);
    }
}

pub(super) async fn keep_sweeping<V: Send + Sync + 'static>(
    cache: Weak<Inner<V>>,
    mut closing: watch::Receiver<bool>,
    guard: TaskGuard<V>,
) {
    loop {
        // Held only while it sweeps, so that it does not keep a dropped cache alive.
        let Some(inner) = cache.upgrade() else { break };
        let pause = inner.clock.sleep(inner.config.sweep_interval);
        AgentCache(inner).sweep();
        let closed = Box::pin(closing.wait_for(|&closing| closing));
        match select(closed, pause).await {
            Either::Left(_) => break,
            Either::Right(_) => {}
        }
    }
    drop(guard);
}

/// Reads announcements and delivers them, until the cache is dropped.
pub(super) async fn keep_following<V: Send + Sync + 'static>(
    cache: Weak<Inner<V>>,
    invalidations: Invalidations,
    mut after: Position,
) {
    let mut failures = 0;
    loop {
        let heard = invalidations.read(after).await;
        // Held only while it is told, so that following keeps no dropped cache alive.
        let Some(inner) = cache.upgrade() else { return };
        match heard {
            Ok(Heard::News(news, next)) => {
                failures = 0;
                let pause = inner.config.retry_base;
                let cache = AgentCache(inner);
                for (key, version) in news {
                    cache.0.disposals.counters.invalidations_heard.add(1);
                    while !deliver(&cache, &key, version) {
                        // As many builds as may be are under way: this one is not lost for that.
                        cache.0.clock.sleep(pause).await;
                    }
                }
                after = next;
            }
            Ok(Heard::Missed(next)) => {
                failures = 0;
                inner.disposals.counters.invalidations_missed.add(1);
                AgentCache(inner).retire_all();
                after = next;
            }
            Ok(Heard::Nothing(next)) => {
                failures = 0;
                after = next;
                drop(inner);
                invalidations.changed(after).await;
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "invalidations cannot be read; it is tried again");
                let pause = inner.clock.sleep(inner.backoff(failures));
                drop(inner);
                pause.await;
            }
        }
    }
}
