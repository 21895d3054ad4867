//! The follower: publishes what stands in the log and was not published by this process.
//!
//! Other processes write to the same log, and a commit may outlive its caller. One task for each
//! hub looks for such events, so that readers need not: ten thousand of them cost one look.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use runtime_core::Clock;
use runtime_store::{Page, Position, ReadError, Store};

use crate::LiveEvent;
use crate::hub::{Counters, Shared, Signals};
use crate::sync::lock;

/// Runs until the hub closes or is gone. Where to begin is set already: at the head that the
/// first reader saw, which listened before it read.
pub(crate) async fn follow(hub: Weak<Shared>) {
    let Some(shared) = hub.upgrade() else { return };
    let wait = Wait {
        store: Arc::clone(&shared.store),
        clock: Arc::clone(&shared.clock),
        signals: Arc::clone(&shared.signals),
        recheck: shared.config.live_recheck,
    };
    drop(shared);
    loop {
        let Some(seen) = hub.upgrade().map(|shared| lock(&shared.progress).head()) else {
            return;
        };
        let woken = wait.for_change(seen).await;
        let Some(shared) = hub.upgrade() else { return };
        if woken == Woken::Stop {
            shared.follower_is_current.store(false, Ordering::SeqCst);
            return;
        }
        if !is_published(&shared, woken) {
            let caught_up = catch_up(&shared).await;
            note(&shared, caught_up.is_ok());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// The log reaches so far.
    Head(Position),
    /// A recheck is due.
    Silence,
    Stop,
}

/// Waits without holding the hub, so that a hub that is dropped is gone at once.
struct Wait {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    signals: Arc<Signals>,
    recheck: Duration,
}

impl Wait {
    /// Waits for a change of the log, at most for one recheck.
    async fn for_change(&self, seen: Position) -> Woken {
        let changed = async {
            let head = self.store.changed(seen).await;
            if head <= seen {
                // A store that says so without a change must not make this spin.
                std::future::pending::<()>().await;
            }
            head
        };
        let head = tokio::select! {
            () = self.signals.stop.notified() => return Woken::Stop,
            head = changed => head,
            () = self.clock.sleep(self.recheck) => return Woken::Silence,
        };
        // Most changes are commits of this process, which publishes them itself; reading the log
        // for each would be waste. If it never rests, a recheck later the log is read anyway.
        if self.signals.in_flight.load(Ordering::SeqCst) > 0 {
            tokio::select! {
                () = self.signals.stop.notified() => return Woken::Stop,
                () = self.signals.settled.notified() => {}
                () = self.clock.sleep(self.recheck) => {}
            }
        }
        Woken::Head(head)
    }
}

fn is_published(shared: &Shared, woken: Woken) -> bool {
    let mut progress = lock(&shared.progress);
    match woken {
        Woken::Head(head) => {
            progress.stored(head);
            head <= progress.contiguous()
        }
        Woken::Silence | Woken::Stop => false,
    }
}

fn note(shared: &Shared, succeeded: bool) {
    // While this fails, readers look for themselves, and are told the error.
    shared
        .follower_is_current
        .store(succeeded, Ordering::SeqCst);
    if !succeeded {
        Counters::add(&shared.counters.follow_failures, 1);
    }
}

/// Publishes what is in the log after the last position without a hole before it.
async fn catch_up(shared: &Shared) -> Result<(), ReadError> {
    loop {
        let after = lock(&shared.progress).contiguous();
        let page = Page::after(after, shared.page_limit());
        let page = match shared.store.events(None, page).await {
            // There is nothing to publish; readers meet the hole before the next event.
            Err(ReadError::CorruptEvents { to, .. }) => {
                lock(&shared.progress).start(to);
                continue;
            }
            page => page?,
        };
        let mut previous = after;
        for stored in page.events {
            let position = stored.position;
            shared.publish_event(LiveEvent::new(stored, Some(previous)));
            Counters::add(&shared.counters.events_repaired, 1);
            previous = position;
        }
        let mut progress = lock(&shared.progress);
        progress.start(page.next);
        progress.stored(page.head);
        drop(progress);
        if !page.has_more || shared.is_closing() {
            return Ok(());
        }
    }
}
