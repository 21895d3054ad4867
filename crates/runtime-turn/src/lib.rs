//! The turn of an agent as a state machine without I/O (T1).
//!
//! [`TurnMachine`] says which effects come next and takes their recorded outcomes; it never runs
//! one. Its only inputs are the [`TurnStart`] record and recorded outcomes, so the same record
//! gives the same effects in every process. [`project_outcome`] says which events tell of an
//! effect, [`Conversation`] folds such events back into the messages of a session.
//!
//! Not here: running effects (`runtime-agent` drives a machine through `runtime-effects`), and
//! clocks. Limits: [`TurnBudgets`]; one envelope of a wait names as many calls as fit in it, the
//! rest is asked afterwards.
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
mod compact;
mod end;
mod error;
mod guard;
mod machine;
mod output;
mod progress;
mod project;
mod round;
mod start;
mod transcript;

pub use approval::ApprovalDecision;
pub use compact::{Compacted, CompactionMark, CompactionPolicy};
pub use end::{Account, TurnEnd, TurnFailure};
pub use error::TurnError;
pub use machine::{History, Next, Planned, TurnMachine, Work};
pub use project::{project_outcome, project_started};
pub use round::AbandonedCall;
pub use start::{ContextMark, ModelPrice, TurnBudgets, TurnStart};
pub use transcript::{Conversation, RecordedEffect, messages_of_turn};
