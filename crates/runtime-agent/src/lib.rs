//! The driver of one turn: it runs the effects of a [`TurnMachine`](runtime_turn::TurnMachine)
//! through an [`EffectController`](runtime_effects::EffectController), calls the model and the
//! tools, and gives the outcomes back.
//!
//! [`drive_turn`] is the only loop. It borrows everything and spawns nothing, so it runs inside
//! an engine's handler as well; dropping its future ends the turn's work in this process.
//!
//! Not here: which worker has which agent, when a turn starts and where its terminal event is
//! committed (`runtime-workers`), what runs twice (`runtime-effects`). Limits: the retry policies
//! of an [`Agent`] and its [`ToolOutputLimits`].
//!
//! ```
//! use std::sync::Arc;
//! use runtime_agent::Agent;
//! use runtime_model::{ScriptStep, ScriptedModel};
//!
//! let model = Arc::new(ScriptedModel::new("scripted", vec![ScriptStep::text("hello")]));
//! let agent = Agent::builder("1", model).instructions("Be brief.").build();
//! assert_eq!(&*agent.instructions, "Be brief.");
//! ```

mod abandon;
mod agent;
mod compaction;
mod direct;
mod driver;
mod environment;
mod live;
mod model_call;
mod output;
mod projector;
mod tool_call;

pub use abandon::{Farewell, cancel_calls};
pub use agent::{Agent, AgentBuilder};
pub use compaction::{CompactionRequest, Compactor, SummaryCompactor};
pub use direct::{call_model, run_code};
pub use driver::{InputQueue, TurnRun, drive_turn};
pub use live::{LiveSink, TurnDelta, Unwatched};
pub use output::ToolOutputLimits;
pub use projector::TurnProjector;
