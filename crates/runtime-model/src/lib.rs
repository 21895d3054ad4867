//! The contract of a model: a request goes in, a stream of [`ModelEvent`](runtime_core::ModelEvent)s
//! comes out. With [`ScriptedModel`], a model that answers from a script, for tests and first use:
//! no key, no network, no service.
//!
//! Not here: real providers (the crates at the edge), retries (each attempt is an attempt of the
//! effect, visible to everyone), and what a turn does with the answer (`runtime-turn`).
//!
//! Start with [`Model`], [`collect`] and [`ScriptedModel`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use runtime_core::{FinishReason, Message, ModelRequest, Role};
//! use runtime_model::{Model, ScriptStep, ScriptedModel};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), runtime_model::ModelError> {
//! let model = ScriptedModel::new(
//!     "demo",
//!     vec![
//!         ScriptStep::text("Let me look.").tool_call("a", "lookup", json!({"city": "{input}"})),
//!         ScriptStep::text("It says: {last_tool_result}"),
//!     ],
//! );
//! let request = ModelRequest {
//!     model: "demo".to_owned(),
//!     instructions: Arc::from("Be brief."),
//!     messages: vec![Arc::new(Message::text(Role::User, "Oslo"))],
//!     tools: Arc::from([]),
//!     idempotency_key: "turn-1/call-1".to_owned(),
//!     output_schema: None,
//! };
//! let stream = model.stream(request).await?;
//! let answer = runtime_model::collect(stream, || unreachable!("it ends"), |_| ()).await?;
//! assert_eq!(answer.reason, FinishReason::ToolUse);
//! let call = answer.message.tool_calls().next().expect("the script calls a tool");
//! assert_eq!(call.arguments["city"], "Oslo");
//! # Ok(())
//! # }
//! ```

mod model;
mod script;
mod scripted;

pub use model::{Model, ModelError, ModelStream, collect};
pub use script::ScriptStep;
pub use scripted::ScriptedModel;
