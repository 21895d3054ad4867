//! The hub: what is committed goes to whoever watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use runtime_core::{Clock, Random, Topic};
use runtime_store::{Page, Position, ReadError, Store};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::observe::ObservedStore;
use crate::progress::Progress;
use crate::sync::{Mutex, lock};
use crate::{
    Authorizer, CarryForward, Cursor, Delta, EventConfig, EventStream, LiveAdapter, LiveDelta,
    LiveMessage, Room, StreamAdapter, Subscription, follow,
};

/// What is committed through [`store`](Self::store) goes to whoever subscribes here.
///
/// Clones share one hub. Reading needs no task; a small one (started with the first subscription
/// if there is a tokio runtime) watches for what other processes write, and is awaited by
/// [`close`](Self::close).
#[derive(Debug, Clone)]
pub struct EventHub {
    pub(crate) shared: Arc<Shared>,
}

/// The parts of a hub that a host may replace.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HubParts {
    /// The bounds.
    pub config: EventConfig,
    /// The live fan-out; [`LiveAdapter`] if none.
    pub adapter: Option<Arc<dyn StreamAdapter>>,
    /// Who may read; everyone if none.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Who saves what is still needed before retention removes it; nobody if none.
    pub carry_forward: Option<Arc<dyn CarryForward>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) config: EventConfig,
    pub(crate) adapter: Arc<dyn StreamAdapter>,
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) carry_forward: Option<Arc<dyn CarryForward>>,
    pub(crate) progress: Mutex<Progress>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) append_permits: Arc<Semaphore>,
    pub(crate) closing: AtomicBool,
    pub(crate) follower: Mutex<Option<JoinHandle<()>>>,
    /// The follower has seen the head of the log within the last recheck.
    pub(crate) follower_is_current: AtomicBool,
    pub(crate) streams_open: AtomicUsize,
    /// Streams that somebody awaits, or has polled since the hub is closing.
    pub(crate) streams_awaited: AtomicUsize,
    /// Told when `streams_awaited` falls to zero.
    pub(crate) streams_gone: Notify,
    pub(crate) counters: Counters,
}

/// What the follower waits for; it holds these, and not the hub, while it waits.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Commits of this process between their start and their publication.
    pub(crate) in_flight: AtomicUsize,
    /// Told when `in_flight` falls to zero.
    pub(crate) settled: Notify,
    /// Wakes the follower for its end.
    pub(crate) stop: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events_published: AtomicU64,
    pub(crate) events_repaired: AtomicU64,
    pub(crate) publish_failures: AtomicU64,
    pub(crate) deltas_published: AtomicU64,
    pub(crate) live_skipped: AtomicU64,
    pub(crate) pages_read: AtomicU64,
    pub(crate) follow_failures: AtomicU64,
    pub(crate) streams_opened: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// What a hub has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubCounts {
    /// Events that were published live.
    pub events_published: u64,
    /// Those of them that came from the log: written by another process, or by a commit whose
    /// caller was gone when it ended.
    pub events_repaired: u64,
    /// Messages that the adapter did not take; readers have the events from the log.
    pub publish_failures: u64,
    /// Deltas that were published.
    pub deltas_published: u64,
    /// Live messages that readers were too slow for; they had the events from the log.
    pub live_skipped: u64,
    /// Pages that readers read from the log.
    pub pages_read: u64,
    /// Failed looks at the head of the log.
    pub follow_failures: u64,
    /// Streams that were opened.
    pub streams_opened: u64,
    /// Streams that are open now.
    pub streams_open: usize,
}

impl EventHub {
    /// Makes a hub before a store, with the parts of this crate.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self::with_parts(store, clock, random, HubParts::default())
    }

    /// Makes a hub before a store.
    #[must_use]
    pub fn with_parts(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        parts: HubParts,
    ) -> Self {
        let live = parts.config.live;
        let adapter = parts
            .adapter
            .unwrap_or_else(|| Arc::new(LiveAdapter::new(live)));
        Self {
            shared: Arc::new(Shared {
                store,
                clock,
                random,
                config: parts.config,
                adapter,
                authorizer: parts.authorizer,
                carry_forward: parts.carry_forward,
                progress: Mutex::default(),
                signals: Arc::default(),
                append_permits: Arc::new(Semaphore::new(parts.config.appends_in_flight_max)),
                closing: AtomicBool::new(false),
                follower: Mutex::new(None),
                follower_is_current: AtomicBool::new(false),
                streams_open: AtomicUsize::new(0),
                streams_awaited: AtomicUsize::new(0),
                streams_gone: Notify::new(),
                counters: Counters::default(),
            }),
        }
    }

    /// Returns the store, watched: what is committed through it is published, log first. What is
    /// committed past it arrives as well, but later.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(ObservedStore::new(Arc::clone(&self.shared)))
    }

    /// Gives everything of a topic after a cursor: replay, then live, as one stream without a
    /// gap or a repetition (V4).
    ///
    /// The stream owns what it needs and does nothing unless polled.
    #[must_use]
    pub fn subscribe(&self, topic: Topic, cursor: Cursor) -> EventStream {
        self.subscribe_with(Subscription::new(topic, cursor))
    }

    /// Gives what a subscription asks for.
    #[must_use]
    pub fn subscribe_with(&self, subscription: Subscription) -> EventStream {
        EventStream::open(Arc::clone(&self.shared), subscription)
    }

    /// Publishes a delta to those who watch its turn, its session or the runtime right now. It
    /// is lost for everyone else (V3).
    pub fn publish_delta(&self, delta: Delta) {
        let shared = &self.shared;
        let turn = Topic::Turn {
            session: delta.session.clone(),
            turn: delta.turn.clone(),
        };
        let session = Topic::Session {
            session: delta.session.clone(),
        };
        let at = lock(&shared.progress).head();
        let delta = Arc::new(LiveDelta { delta, at });
        for topic in [turn, session, Topic::Runtime] {
            let message = LiveMessage::Delta(Arc::clone(&delta));
            shared.publish(&Room::from(&topic), message);
        }
        Counters::add(&shared.counters.deltas_published, 1);
    }

    /// The cursor before the first event.
    #[must_use]
    pub fn cursor_from_start(&self) -> Cursor {
        self.cursor_after(Position(0))
    }

    /// The cursor right after a position.
    #[must_use]
    pub fn cursor_after(&self, position: Position) -> Cursor {
        Cursor::after(self.shared.store.identity(), position)
    }

    /// The cursor after the last event that is stored now.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn cursor_now(&self) -> Result<Cursor, ReadError> {
        let end = Page::after(Position(u64::MAX), 1);
        let head = self.shared.store.events(None, end).await?.head;
        Ok(self.cursor_after(head))
    }

    /// Returns what the hub has done so far.
    #[must_use]
    pub fn counts(&self) -> HubCounts {
        self.shared.counts()
    }

    /// Lets readers take what is stored, ends their streams, stops the hub's task, and reports.
    ///
    /// It waits for the readers that wait for an item now, or take one while it waits. Those that
    /// nobody polls, and those that have not ended after [`EventConfig::close_grace`], are left
    /// alone; the report counts them, and their cursors lead to the rest. Commits through [`store`](Self::store) still work, unheard. Closing twice
    /// waits again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the hub closing; call it again to wait.
    pub async fn close(&self) -> HubCounts {
        let shared = &self.shared;
        shared.closing.store(true, Ordering::SeqCst);
        shared.adapter.close();
        shared.signals.stop.notify_one();
        let mut grace = shared.clock.sleep(shared.config.close_grace);
        let follower = lock(&shared.follower).take();
        if let Some(mut follower) = follower {
            tokio::select! {
                // A follower that panicked has nothing left to wait for.
                _ = &mut follower => {}
                // The store does not answer: the hub must not hang on it.
                () = &mut grace => follower.abort(),
            }
        }
        tokio::select! {
            () = shared.no_stream_awaited() => {}
            () = shared.clock.sleep(shared.config.close_grace) => {}
        }
        shared.counts()
    }
}

impl Shared {
    pub(crate) fn counts(&self) -> HubCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        HubCounts {
            events_published: read(&counters.events_published),
            events_repaired: read(&counters.events_repaired),
            publish_failures: read(&counters.publish_failures),
            deltas_published: read(&counters.deltas_published),
            live_skipped: read(&counters.live_skipped),
            pages_read: read(&counters.pages_read),
            follow_failures: read(&counters.follow_failures),
            streams_opened: read(&counters.streams_opened),
            streams_open: self.streams_open.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Publishes a message; a failure is counted and repaired by the readers (V7).
    pub(crate) fn publish(&self, room: &Room, message: LiveMessage) {
        if self.adapter.publish(room, message).is_err() {
            Counters::add(&self.counters.publish_failures, 1);
        }
    }

    /// Returns the last position of the log if it is known without reading it.
    pub(crate) fn known_head(&self) -> Option<Position> {
        // Its tokio runtime may be gone, and the follower with it.
        let runs = lock(&self.follower)
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        let current = runs && self.follower_is_current.load(Ordering::SeqCst);
        current.then(|| lock(&self.progress).head())
    }

    /// Returns how many events a page may have.
    pub(crate) fn page_limit(&self) -> usize {
        let store = self.store.capabilities().limits.page_entries_max;
        self.config.page_events_max.min(store).max(1)
    }

    /// Starts the follower if there is none and a tokio runtime to run it. `head` is what the
    /// log reached when a reader that listens already read it: what follows is to be published.
    pub(crate) fn ensure_follower(self: &Arc<Self>, head: Position) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut follower = lock(&self.follower);
        let runs = follower.as_ref().is_some_and(|task| !task.is_finished());
        if !runs && !self.is_closing() {
            lock(&self.progress).start(head);
            self.follower_is_current.store(true, Ordering::SeqCst);
            *follower = Some(runtime.spawn(follow::follow(Arc::downgrade(self))));
        }
    }

    async fn no_stream_awaited(&self) {
        loop {
            let gone = self.streams_gone.notified();
            tokio::pin!(gone);
            // Registered before the count is read, so that the last stream's call is heard.
            gone.as_mut().enable();
            if self.streams_awaited.load(Ordering::SeqCst) == 0 {
                return;
            }
            gone.await;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A hub that was dropped without `close` leaves no task behind.
        if let Some(follower) = lock(&self.follower).take() {
            follower.abort();
        }
    }
}
