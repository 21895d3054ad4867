//! The turn of an agent as a state machine without I/O (T1).
//!
//! [`TurnMachine`] says which effects come next and takes their recorded outcomes; it never runs
//! one. Its only inputs are the [`TurnStart`] record and recorded outcomes, so the same record
//! gives the same effects in every process. [`project_outcome`] says which events tell of an
//! effect, [`Conversation`] folds such events back into the messages of a session.
//!
//! Not here: running effects (`runtime-agent` drives a machine through `runtime-effects`), and
//! clocks. Limits: [`TurnBudgets`]; one envelope of a wait names as many calls as fit in it, the
//! rest is asked afterwards. Not yet: budgets of cost and wall time, compaction, inputs that join
//! a running turn.
//!
//! ```
//! use runtime_core::{Message, Role};
//! use runtime_turn::{ContextMark, Next, TurnMachine, TurnStart};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let input = Message::text(Role::User, "hello");
//! let start = TurnStart::new("desk".parse()?, "1".parse()?, "scripted", input, ContextMark::empty());
//! let machine = TurnMachine::new(start, Vec::new())?;
//! let Next::Effects(first) = machine.next() else { panic!("a new turn begins with an effect") };
//! assert_eq!(first[0].envelope.key().as_str(), "0.sync_execution_environment.0");
//! # Ok(())
//! # }
//! ```

mod approval;
mod end;
mod error;
mod guard;
mod machine;
mod progress;
mod project;
mod round;
mod start;
mod transcript;

pub use approval::ApprovalDecision;
pub use end::{TurnEnd, TurnFailure};
pub use error::TurnError;
pub use machine::{Next, Planned, TurnMachine, Work};
pub use project::{project_outcome, project_started};
pub use start::{ContextMark, TurnBudgets, TurnStart};
pub use transcript::{Conversation, RecordedEffect, messages_of_turn};
