//! Durable effects over any store: an effect is run, its outcome recorded once, and from then on
//! answered from the record, in any process. And promises resolved from outside by signed tokens.
//!
//! [`EffectHost`] opens a scope and gives a [`ScopedEffectController`]; its three verbs are
//! [`execute_effect`](EffectController::execute_effect),
//! [`execute_batch`](EffectController::execute_batch) and
//! [`wait_any`](EffectController::wait_any). [`StoreEffectHost`] is the host over a
//! [`Store`](runtime_store::Store), [`AwaitEvents`] its promises, [`Processes`] its background
//! work: registered and started in one commit, with events, signals, grants and one end.
//! [`WorkflowHost`] drives processes that are Rust functions with durable steps, so that this
//! crate and a store are a durable-execution library by themselves (`docs/guides`).
//!
//! An effect whose outcome is recorded is never executed again. One that was in flight at a crash
//! runs again only if it is declared `retry_safe`; otherwise it is reported in doubt and waits
//! for a [`Ruling`]. Instances that share a store keep a lease each ([`LeaseKeeper`]); what a dead
//! one drove is taken over by the others. The bounds of all this are [`EffectLimits`].
//!
//! Not here: what a turn does next (`runtime-turn`), who drives it (`runtime-agent`).
//!
//! ```
//! use std::sync::Arc;
//!
//! use runtime_core::{
//!     EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, EventDraft,
//!     EventKind, ExecutionScope, ReplayKey, Timestamp, CommitId,
//! };
//! use runtime_effects::{EffectHost, EffectLimits, LocalExecutor, Projection, Projector};
//! use runtime_effects::{ScopeOpening, StoreEffectHost};
//! use runtime_store::{
//!     Commit, Epoch, Guard, MemoryStore, RowChange, RowKey, Store, SystemClock, SystemRandom,
//! };
//!
//! /// Says which events tell of an effect: here one when it starts, one when it ends.
//! #[derive(Debug)]
//! struct Plain;
//!
//! impl Projector for Plain {
//!     fn outcome(&self, effect: &EffectEnvelope, _: &EffectOutcome) -> Projection {
//!         let carrier = EventDraft::new(EventKind::EffectFinished).in_scope(effect.scope());
//!         Projection { carrier, further: Vec::new() }
//!     }
//!     fn started(&self, effect: &EffectEnvelope) -> Projection {
//!         let carrier = EventDraft::new(EventKind::EffectStarted).in_scope(effect.scope());
//!         Projection { carrier, further: Vec::new() }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new("example".parse()?));
//! let host = StoreEffectHost::new(
//!     store.clone(),
//!     Arc::new(SystemClock::new()),
//!     Arc::new(SystemRandom),
//!     EffectLimits::default(),
//! );
//!
//! // Whoever starts a scope puts its first epoch.
//! let scope = ExecutionScope::Process { process: "roll-the-dice".parse()? };
//! let epoch = RowKey::epoch(scope.scope_id());
//! let start = CommitId::generate(Timestamp::from_millis(1), [1; 10]);
//! store
//!     .commit(
//!         Commit::new(start, Timestamp::from_millis(1))
//!             .guard(Guard::Absent(epoch.clone()))
//!             .row(RowChange::put(epoch, Vec::new())),
//!     )
//!     .await?;
//! let controller = host.scoped(ScopeOpening::new(scope.clone(), Epoch(1), Arc::new(Plain)))?;
//!
//! // Asked twice, it runs once: the second answer comes from the record.
//! let mut outcomes = Vec::new();
//! for roll in [4, 6] {
//!     let step = EffectCommand::DurableStep { name: "roll".to_owned(), input: None };
//!     let envelope = EffectEnvelope::new(scope.clone(), ReplayKey::step("roll", 0)?, step)?;
//!     let executor = LocalExecutor::new(EffectKind::DurableStep, move |_attempt| async move {
//!         Ok(EffectOutput::DurableStep { value: roll.into() })
//!     });
//!     outcomes.push(controller.execute_effect(envelope, executor).await?);
//! }
//! assert_eq!(outcomes[1], outcomes[0]);
//! let four = EffectOutput::DurableStep { value: 4.into() };
//! assert_eq!(outcomes[1], EffectOutcome::Completed(four));
//! # Ok(())
//! # }
//! ```

mod attempt;
mod cancellation;
mod claims;
mod conflict;
mod controller;
mod executor;
mod interrupt;
mod journal;
mod lease;
mod lease_keeper;
mod limits;
mod pending;
mod process;
mod promise;
mod promise_deadline;
mod recording;
mod registry;
mod ruling;
#[cfg(test)]
#[cfg(shuttle)]
mod schedules;
mod store_controller;
mod store_host;
mod sync;
mod token;
mod wait;
mod workflow;

pub use conflict::{ConflictRuling, conflict_of, forgets_conflict};
pub use controller::{
    Addressing, Concurrency, EffectController, EffectHost, Projection, Projector, ScopeOpening,
    ScopedEffectController, WaitRequest,
};
pub use executor::{Applied, AttemptContext, ExecutorError, LocalExecutor, TriggerReports};
pub use interrupt::{EffectError, Interrupt, Mismatch};
pub use lease::{Lease, LeaseConfig, LeaseError};
pub use lease_keeper::{Beat, HeldPage, LeaseKeeper, crashes, with_crashes};
pub use limits::EffectLimits;
pub use pending::{PendingEffect, PendingKind, PendingPage, PendingPromise, UnfinishedEffect};
pub use process::{
    AppendAnswer, CancelAnswer, EndAnswer, Grant, GrantFilter, ProcessClaim, ProcessError,
    ProcessEventPage, ProcessLimits, ProcessListener, ProcessOperation, ProcessPage, ProcessRecord,
    ProcessStart, ProcessView, ProcessWake, Processes, SignalAnswer, Subscription,
};
pub use promise::{AwaitEvents, ResolveAnswer, ResolveError, Revocation, TokenError};
pub use promise_deadline::PromiseDeadline;
pub use ruling::{Ruling, RulingAnswer, RulingError};
pub use store_host::{DueScope, StoreEffectHost};
pub use token::{Token, TokenRights, VerifiedToken};
pub use workflow::{
    Child, Failure, Functions, ProcessRunner, Step, Wait, WorkflowCloseReport, WorkflowConfig,
    WorkflowContext, WorkflowHost, WorkflowHostBuilder, WorkflowRun,
};
