//! What a law of the event log is run with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use runtime_core::{
    EventDraft, EventKind, ExecutionScope, RuntimeEvent, SessionId, Timestamp, Topic, TurnId,
};
use runtime_events::{
    AppendError, Appended, ConsumerError, CursorError, EventBatch, EventConfig, EventHub,
    EventStream, HubParts, LiveAdapter, LiveConfig, LogEvent, RetentionError, StreamAdapter,
    StreamItem, SubscribeError,
};
use runtime_store::Store;

use super::{FlakyAdapter, Weather};
use crate::store_laws::{LawBroken, StoreFixture};
use crate::{SeededRandom, SimulatedClock};

/// One empty storage, and the live fan-out before it.
#[derive(Clone, Copy)]
pub struct EventFixture<'fixture> {
    storage: &'fixture dyn StoreFixture,
    adapter: fn(LiveConfig) -> Arc<dyn StreamAdapter>,
}

impl std::fmt::Debug for EventFixture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventFixture").finish_non_exhaustive()
    }
}

impl<'fixture> EventFixture<'fixture> {
    /// Puts a live fan-out before a storage.
    #[must_use]
    pub fn new(
        storage: &'fixture dyn StoreFixture,
        adapter: fn(LiveConfig) -> Arc<dyn StreamAdapter>,
    ) -> Self {
        Self { storage, adapter }
    }

    /// The live fan-out in memory.
    #[must_use]
    pub fn in_memory(config: LiveConfig) -> Arc<dyn StreamAdapter> {
        Arc::new(LiveAdapter::new(config))
    }

    /// Opens the storage with a hub before it.
    pub(super) async fn watch(&self, setting: Setting) -> Watch {
        self.watch_store(self.storage.open().await, setting)
    }

    /// Closes everything and opens the storage again.
    pub(super) async fn reopen(&self, watch: Watch, setting: Setting) -> Watch {
        watch.hub.close().await;
        let store = Arc::clone(&watch.store);
        drop(watch);
        self.watch_store(self.storage.reopen(store).await, setting)
    }

    fn watch_store(&self, store: Arc<dyn Store>, setting: Setting) -> Watch {
        let clock = SimulatedClock::new(Timestamp::from_millis(1_000_000));
        let live = LiveConfig {
            buffer_messages: setting.buffer_messages,
            ..LiveConfig::default()
        };
        let mut parts = HubParts::default();
        parts.config = EventConfig {
            page_events_max: setting.page_events_max,
            live,
            ..EventConfig::default()
        };
        let adapter = FlakyAdapter::new((self.adapter)(live), setting.weather, setting.seed);
        parts.adapter = Some(Arc::new(adapter));
        let random = Arc::new(SeededRandom::new(setting.seed));
        let hub = EventHub::with_parts(Arc::clone(&store), Arc::new(clock.clone()), random, parts);
        Watch {
            store,
            hub,
            clock,
            patience: self.storage.patience(),
        }
    }
}

/// How a hub is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) page_events_max: usize,
    pub(super) buffer_messages: usize,
    pub(super) weather: Weather,
    /// Of the ids that it makes: two hubs over one storage need two seeds.
    pub(super) seed: u64,
}

impl Setting {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            page_events_max: 4,
            buffer_messages: 8,
            weather: Weather::Fair,
            seed,
        }
    }

    pub(super) const fn in_weather(mut self, weather: Weather) -> Self {
        self.weather = weather;
        self
    }
}

/// A hub before a store, on a clock that stands still unless somebody waits.
pub(super) struct Watch {
    pub(super) store: Arc<dyn Store>,
    pub(super) hub: EventHub,
    pub(super) clock: SimulatedClock,
    patience: Duration,
}

/// How long a reader is given to take what is there already, before it counts as waiting.
const TURN: Duration = Duration::from_millis(20);

impl Watch {
    /// Appends so many events to a turn, each in a batch of its own.
    pub(super) async fn append(&self, turn: &Topic, events: usize) -> Result<(), AppendError> {
        for _ in 0..events {
            self.append_one(turn, EventKind::MessageCommitted).await?;
        }
        Ok(())
    }

    pub(super) async fn append_one(
        &self,
        turn: &Topic,
        kind: EventKind,
    ) -> Result<Appended, AppendError> {
        let log = self.hub.log();
        let event = log.event(draft(kind, turn));
        log.append(EventBatch::new([event])).await
    }

    pub(super) fn event(&self, turn: &Topic) -> LogEvent {
        self.hub
            .log()
            .event(draft(EventKind::MessageCommitted, turn))
    }

    /// Everything of a topic from its start.
    pub(super) fn replay(&self, topic: &Topic) -> EventStream {
        self.hub
            .subscribe(topic.clone(), self.hub.cursor_from_start())
    }

    /// Takes the next event. Where none comes, simulated time passes: a reader repairs itself
    /// after a second of silence.
    pub(super) async fn next(
        &self,
        stream: &mut EventStream,
    ) -> Result<Option<Arc<RuntimeEvent>>, LawBroken> {
        let started = Instant::now();
        loop {
            match tokio::time::timeout(TURN, stream.next()).await {
                Ok(Some(Ok(StreamItem::Event(event)))) => {
                    // A stub belongs to nothing any more.
                    let key = stream.topic().stream_key();
                    let belongs = key.is_none_or(|key| event.draft.streams().contains(&key));
                    if belongs || *event.kind() == EventKind::Erased {
                        return Ok(Some(event));
                    }
                    return Err(broken("a stream gave an event of another topic"));
                }
                Ok(Some(Ok(StreamItem::Delta(_)))) => {}
                Ok(None) => return Ok(None),
                Ok(Some(other)) => {
                    return Err(broken(format!(
                        "a stream gave {other:?} instead of an event"
                    )));
                }
                Err(_) if started.elapsed() > self.patience => {
                    return Err(broken("an event that is stored never arrived"));
                }
                Err(_) => self.clock.advance(EventConfig::default().live_recheck),
            }
        }
    }

    /// Takes the next item, whatever it is; none if none comes in time.
    pub(super) async fn item(
        &self,
        stream: &mut EventStream,
    ) -> Option<Option<Result<StreamItem, SubscribeError>>> {
        tokio::time::timeout(self.patience, stream.next())
            .await
            .ok()
    }

    /// Takes so many events and returns their positions.
    pub(super) async fn take(
        &self,
        stream: &mut EventStream,
        events: usize,
    ) -> Result<Vec<u64>, LawBroken> {
        let mut positions = Vec::with_capacity(events);
        for _ in 0..events {
            match self.next(stream).await? {
                Some(event) => positions.push(event.position),
                None => return Err(broken("a stream ended before its time")),
            }
        }
        Ok(positions)
    }

    /// Reads a topic to its end in pages of that limit.
    pub(super) async fn read_all(
        &self,
        topic: &Topic,
        limit: usize,
    ) -> Result<Vec<Arc<RuntimeEvent>>, LawBroken> {
        let (mut events, mut cursor) = (Vec::new(), self.hub.cursor_from_start());
        for _ in 0..1_000 {
            let page = self.hub.read(topic.clone(), cursor, limit).await?;
            events.extend(page.events);
            cursor = page.next;
            if !page.has_more {
                return Ok(events);
            }
        }
        Err(broken("pages of a small log do not end"))
    }
}

pub(super) fn broken(what: impl std::fmt::Display) -> LawBroken {
    LawBroken::at(file!(), line!(), what)
}

pub(super) fn turn(session: &str, turn: &str) -> Topic {
    Topic::Turn {
        session: SessionId::new(session).expect("a session id"),
        turn: TurnId::new(turn).expect("a turn id"),
    }
}

pub(super) fn session(session: &str) -> Topic {
    Topic::Session {
        session: SessionId::new(session).expect("a session id"),
    }
}

pub(super) fn draft(kind: EventKind, turn: &Topic) -> EventDraft {
    let Topic::Turn { session, turn } = turn.clone() else {
        panic!("the laws append to turns");
    };
    EventDraft::new(kind).in_scope(&ExecutionScope::Turn { session, turn })
}

pub(super) fn positions(events: &[Arc<RuntimeEvent>]) -> Vec<u64> {
    events.iter().map(|event| event.position).collect()
}

macro_rules! from_error {
    ($($error:ty),+) => {
        $(impl From<$error> for LawBroken {
            fn from(error: $error) -> Self {
                Self::refused(&error)
            }
        })+
    };
}

from_error!(
    AppendError,
    SubscribeError,
    CursorError,
    ConsumerError,
    RetentionError
);
