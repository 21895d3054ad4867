//! The contract of a tool: a definition that a model and a person see, and a call.
//!
//! [`Tool`] is one callable thing, [`SubAgentTool`] one that another agent answers, [`ToolSource`] a changing set of them (a tool server),
//! [`Toolbox`] the fixed catalogue of one turn. Typed Rust functions become tools by
//! `FunctionTool` (feature `schemars`). A tool may answer later: [`ToolOutput::Pending`] leaves the
//! result to whoever holds the promise of the call, [`ToolOutput::Parked`] lets the tool itself go
//! on with the answer.
//!
//! Not here: tool servers (`runtime-mcp`), the decision to ask a person (`runtime-turn`, from
//! [`ToolDefinition::needs_approval`](runtime_core::ToolDefinition::needs_approval)), and whether
//! a call runs twice (`runtime-effects`).
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use runtime_core::{ApprovalPolicy, ToolDefinition, ToolHints};
//! use runtime_tools::{Tool, ToolContext, ToolError, ToolOutput, Toolbox};
//! use serde_json::{Value, json};
//!
//! #[derive(Debug)]
//! struct Echo(ToolDefinition);
//!
//! #[async_trait]
//! impl Tool for Echo {
//!     fn definition(&self) -> &ToolDefinition {
//!         &self.0
//!     }
//!
//!     async fn call(&self, arguments: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
//!         Ok(ToolOutput::text(arguments.to_string()))
//!     }
//! }
//!
//! let echo: Arc<dyn Tool> = Arc::new(Echo(ToolDefinition {
//!     name: "echo".to_owned(),
//!     display_name: None,
//!     description: "Says it again.".to_owned(),
//!     input_schema: json!({"type": "object"}),
//!     output_schema: None,
//!     category: None,
//!     approval: ApprovalPolicy::ByDeclaration,
//!     hints: ToolHints::default(),
//!     deferrable: false,
//! }));
//! let (toolbox, refused) = Toolbox::gather([echo]);
//! assert!(refused.is_empty());
//! assert!(toolbox.tool("echo").is_some_and(|tool| tool.definition().needs_approval()));
//! ```

mod code;
mod delegate;
mod error;
#[cfg(feature = "schemars")]
mod function;
mod tool;

pub use code::{Code, CodeContext, CodeExecutor};
pub use delegate::{Delegates, Delegation, SubAgentTool};
pub use error::ToolError;
#[cfg(feature = "schemars")]
pub use function::{FunctionError, FunctionTool, IntoToolOutput};
pub use tool::{
    CompletionKeys, Pending, Resumption, SourceDiagnostic, SourceListing, Tool, ToolContext,
    ToolOutput, ToolSource, Toolbox, Triggers,
};
