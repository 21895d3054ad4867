//! Workflows: processes that are Rust functions with durable steps (E15).

mod context;
mod desk;
mod failure;
mod function;
mod host;
mod step;

pub use context::{Child, Wait, WorkflowContext};
pub use failure::Failure;
pub use function::{Functions, ProcessRunner};
pub use host::{
    WorkflowCloseReport, WorkflowConfig, WorkflowHost, WorkflowHostBuilder, WorkflowRun,
};
pub use step::Step;
