//! The contract of a tool: a definition that a model and a person see, and a call.
//!
//! [`Tool`] is one callable thing, [`ToolSource`] a changing set of them (a tool server),
//! [`Toolbox`] the fixed catalogue of one turn. Typed Rust functions become tools by
//! [`FunctionTool`] (feature `schemars`).
//!
//! Not here: tool servers (`runtime-mcp`), the decision to ask a person (`runtime-turn`, from
//! [`ToolDefinition::needs_approval`](runtime_core::ToolDefinition::needs_approval)), and whether
//! a call runs twice (`runtime-effects`).

mod error;
mod tool;

pub use error::ToolError;
pub use tool::{
    SourceDiagnostic, SourceListing, Tool, ToolContext, ToolOutput, ToolSource, Toolbox,
};
