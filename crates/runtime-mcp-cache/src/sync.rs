//! What the single-flight protocol synchronises with, in one place.
//!
//! `flight.rs` takes its lock and its channel from here and nowhere else, so a schedule checker
//! can include that file beside a `sync` module of its own.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::sync::watch;
