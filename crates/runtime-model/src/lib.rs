//! The contract of a model: a request goes in, a stream of [`ModelEvent`](runtime_core::ModelEvent)s
//! comes out. With [`ScriptedModel`], a model that answers from a script, for tests and first use:
//! no key, no network, no service.
//!
//! Not here: real providers (the crates at the edge), retries (each attempt is an attempt of the
//! effect, visible to everyone), and what a turn does with the answer (`runtime-turn`).

mod model;

pub use model::{Model, ModelError, ModelStream, collect};
