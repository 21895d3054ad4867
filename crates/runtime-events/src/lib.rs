//! The event log and its streams: replay, join and live as one unbroken sequence.
//!
//! An [`EventHub`] stands before a store. What is committed through
//! [`EventHub::store`] is published, log first, and [`EventHub::subscribe`] gives everything of
//! a topic after a [`Cursor`] as one ordered stream without a gap or a repetition: the log is the
//! truth, live messages are only a hint, and a reader that was too slow, or missed a message,
//! catches up from the log by itself.
//!
//! Not here: what events say (`runtime-core`), where they are stored (`runtime-store`), who
//! commits them. Bounds: [`EventConfig`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use futures_util::StreamExt;
//! use runtime_core::{Clock, EventDraft, EventId, EventKind, Topic};
//! use runtime_events::{EventHub, StreamItem};
//! use runtime_store::{Commit, MemoryStore, NewEvent, SystemClock, SystemRandom};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new("example".parse()?));
//! let clock = Arc::new(SystemClock::new());
//! let hub = EventHub::new(store, clock.clone(), Arc::new(SystemRandom));
//!
//! let id = EventId::generate(clock.now(), [0; 10]);
//! let event = NewEvent::from_draft(id, &EventDraft::new(EventKind::RuntimeOpened));
//! let commit = Commit::new("019a9f6e-0000-7000-8000-000000000001".parse()?, clock.now());
//! hub.store().commit(commit.event(event)).await?;
//!
//! let mut events = hub.subscribe(Topic::Runtime, hub.cursor_from_start());
//! let Some(Ok(StreamItem::Event(event))) = events.next().await else { panic!() };
//! assert_eq!(event.kind(), &EventKind::RuntimeOpened);
//! # Ok(())
//! # }
//! ```

mod bridge;
mod config;
mod consumer;
mod cursor;
mod delta;
mod error;
mod follow;
mod hub;
mod join;
mod live;
mod log;
mod memory;
#[cfg(test)]
#[cfg(shuttle)]
mod model;
mod observe;
mod progress;
mod read;
mod retention;
mod stream;
mod subscription;
mod sync;

pub use bridge::{BridgeConfig, BridgeCounts, BridgeHandle, BridgeInput, BridgeSender};
pub use config::{EventConfig, LiveConfig};
pub use consumer::{Consumer, ConsumerState};
pub use cursor::Cursor;
pub use delta::{Delta, DeltaTarget};
pub use error::{
    AppendError, BridgeError, ConsumerError, CursorError, ListenError, PublishError, SubscribeError,
};
pub use hub::{EventHub, HubCounts, HubParts};
pub use live::{LiveDelta, LiveError, LiveEvent, LiveMessage, LiveReceiver, Room, StreamAdapter};
pub use log::{Appended, EventBatch, EventLog, LogEvent};
pub use memory::LiveAdapter;
pub use read::EventRead;
pub use retention::{CarryForward, Retained, RetentionError, RetentionPolicy};
pub use runtime_store::RetentionUnit;
pub use stream::{EventStream, StreamItem};
pub use subscription::{Authorizer, Subscription};
