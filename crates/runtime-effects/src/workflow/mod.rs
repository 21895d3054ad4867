//! Workflows: processes that are Rust functions with durable steps (E15).

mod config;
mod context;
mod desk;
mod failure;
mod function;
mod host;
mod projector;
mod step;

pub use config::{WorkflowCloseReport, WorkflowConfig};
pub use context::{Child, Wait, WorkflowContext};
pub use failure::Failure;
pub use function::{Functions, ProcessRunner};
pub use host::{WorkflowHost, WorkflowHostBuilder, WorkflowRun};
pub use step::Step;
