//! Processes (E15): background work with its own events, signals and one end.

mod error;
mod grants;
mod life;
mod limits;
mod listener;
mod operation;
mod plan;
mod record;
mod schema;
mod table;
mod told;
mod trigger;
mod wake;

pub use error::ProcessError;
pub use grants::{Grant, GrantFilter};
pub use life::{CancelAnswer, EndAnswer};
pub use limits::ProcessLimits;
pub use listener::ProcessListener;
pub use operation::ProcessOperation;
pub use record::ProcessRecord;
pub use table::{ProcessClaim, ProcessPage, ProcessStart, ProcessView, Processes};
pub use told::{AppendAnswer, ProcessEventPage, SignalAnswer};
pub use trigger::Subscription;
pub use wake::ProcessWake;

pub(crate) use life::{end_of, ended_key};
pub(crate) use listener::Listeners;
pub(crate) use record::{process_of, process_scope};
pub(crate) use table::{grants_of, held_processes};
pub(crate) use told::signal_identity;
pub(crate) use trigger::{Triggered, check_trigger, with_triggers};
