//! What most programs need.

pub use runtime_agent::Agent;
pub use runtime_core::{ApprovalPolicy, EventKind, RuntimeEvent, Topic, WorkerId};
pub use runtime_events::StreamItem;
pub use runtime_model::{Model, ScriptStep, ScriptedModel};
#[cfg(feature = "schemars")]
pub use runtime_tools::FunctionTool;
pub use runtime_tools::{Tool, ToolContext, ToolError, ToolOutput};
pub use runtime_turn::ApprovalDecision;
pub use runtime_workers::{Command, CreateWorker, Runtime, RuntimeError, Worker};

pub use crate::OpenError;
