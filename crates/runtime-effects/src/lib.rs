//! Durable effects: a controller that runs each effect at most once per claim, records its
//! outcome once per key, and answers a replay from the record.
//!
//! [`EffectHost`] opens a scope and gives a [`ScopedEffectController`]; its three verbs are
//! [`execute_effect`](EffectController::execute_effect),
//! [`execute_batch`](EffectController::execute_batch) and
//! [`wait_any`](EffectController::wait_any).

mod controller;
mod executor;
mod interrupt;

pub use controller::{
    Addressing, Concurrency, EffectController, EffectHost, Projection, Projector, ScopeOpening,
    ScopedEffectController, WaitRequest,
};
pub use executor::{Applied, AttemptContext, ExecutorError, LocalExecutor};
pub use interrupt::{EffectError, Interrupt, Mismatch};
