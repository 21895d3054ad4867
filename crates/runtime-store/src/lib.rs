//! The contract of a store: one atomic [`commit`](Store::commit), reads of what is durable, and
//! attachments; with [`MemoryStore`], the store that lives as long as its process.
//!
//! A store knows no turn, effect or promise. It knows *guards* (what must hold), *rows*
//! (last write wins, by key) and *events* (append only, until a [`Removal`]). What a row means is decided by the crate
//! that owns its [`RowKey::space`].
//!
//! Not here: what events say (`runtime-core`), who reads them (`runtime-events`), what an effect
//! row means (`runtime-effects`). Limits: [`Limits`].
//!
//! ```
//! use runtime_core::{CommitId, Timestamp};
//! use runtime_store::{Commit, MemoryStore, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new("example".parse()?);
//! let id = CommitId::generate(Timestamp::from_millis(1), [0; 10]);
//! let committed = store.commit(Commit::new(id, Timestamp::from_millis(1))).await?;
//! assert!(!committed.repeated);
//! # Ok(())
//! # }
//! ```

mod attachment;
mod clock;
mod commit;
mod error;
mod export;
mod form;
mod key_ring;
mod layer;
mod memory;
mod query;
mod settle;
mod state;
mod store;

pub use attachment::AttachmentStore;
pub use clock::{SystemClock, SystemRandom};
pub use commit::{
    Commit, Committed, Epoch, EventPlace, Guard, NewEvent, Payload, Position, Removal, RowChange,
    RowKey, Seq,
};
pub use error::{AttachmentError, CommitError, Found, ReadError};
pub use export::{
    EXPORT_SCHEMA, ExportError, ExportLine, ExportReader, ExportReport, ExportedBytes,
    ExportedEvent, ExportedPlace, ImportReport, Progress,
};
pub use key_ring::{KeyRing, KeyRingStore, SigningKey};
pub use layer::StoreLayer;
pub use memory::MemoryStore;
pub use query::{EventPage, Page, RetentionUnit, Row, RowPage, RowQuery, StoredEvent};
pub use settle::commit_settled;
pub use store::{Capabilities, CommandInbox, InboxCommand, Limits, Store, StoreIdentity};
