//! The runtime entity: a catalogue of workers, their sessions and queues, and the turns that go
//! on after a crash.
//!
//! [`Runtime::open`] takes a store and whatever resolves a worker to its agent; from then on every
//! accepted input becomes a turn, and every turn ends exactly once, whatever happens to the
//! process in between. [`view`] reads the same catalogue without being its owner, for instance
//! beside a running process.
//!
//! Not here: which store (the crates at the edge), what a turn does (`runtime-turn`), how an
//! effect is recorded (`runtime-effects`).
//!
//! Not yet: a bound on the turns that run at once. Limits: [`RuntimeLimits`], which are kept with the runtime, and [`RuntimeConfig`].
//!
//! Where the store is shared by processes, each instance keeps one lease; what a dead one drove
//! goes on in the others.
//!
//! ```
//! use std::sync::Arc;
//! use runtime_agent::Agent;
//! use runtime_model::{ScriptStep, ScriptedModel};
//! use runtime_store::MemoryStore;
//! use runtime_workers::{Runtime, RuntimeParts};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new("example".parse()?));
//! let model = ScriptedModel::new("scripted", vec![ScriptStep::text("Hello, {input}!")]);
//! let agent = Agent::builder("1", Arc::new(model)).build();
//! let runtime = Runtime::open(RuntimeParts::new(store, Arc::new(agent))).await?;
//! let worker = runtime.worker("desk").await?;
//! assert_eq!(worker.ask("world").await?, "Hello, world!");
//! runtime.close().await?;
//! # Ok(())
//! # }
//! ```

mod agents;
mod answers;
mod background;
mod carried;
mod catalogue;
mod command;
mod config;
mod delegate;
mod deployment;
mod details;
mod diagnostic;
mod drive;
mod ending;
mod entity;
mod error;
mod handle;
mod history;
mod housekeeping;
mod instance;
mod intake;
mod peers;
mod places;
mod process_view;
mod receipt;
mod runtime;
mod session;
mod stoppable;
mod transcript;
mod turn;
pub mod view;
mod worker;

pub use agents::{
    Admission, AgentFactory, AgentLease, AgentResolver, CachedAgents, unknown_profile,
};
pub use carried::event_hub;
pub use command::{Command, CommandAnswer, ConflictRuling, InDoubtRuling};
pub use config::{RuntimeConfig, RuntimeLimits};
pub use delegate::Parent;
pub use deployment::OtherDeployment;
pub use diagnostic::{Diagnostic, Severity};
pub use entity::{RuntimeStatus, RuntimeSummary, WorkerCounts};
pub use error::RuntimeError;
pub use handle::{TurnStream, Worker};
pub use intake::WhenBusy;
pub use receipt::{InputReceipt, RuntimeReceipt, SystemInputReceipt, WorkerReceipt};
pub use runtime::{CloseReport, Failures, Runtime, RuntimeParts};
pub use transcript::{TRANSCRIPT_PAGE_MAX, Transcript, TranscriptItem};
pub use turn::{ParkReason, TurnRecord, TurnStatus};
pub use worker::{
    BundleReference, CapabilityRequest, CreateWorker, ResourceReference, WorkerIntent,
    WorkerProfile, WorkerRecord, WorkerStatus,
};
