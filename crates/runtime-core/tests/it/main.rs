//! The kernel against its specification (C1–C6, E2–E4).
#![allow(
    clippy::unwrap_used,
    reason = "a test may also panic in the functions around it"
)]

mod encoding;
mod envelope;
mod error;
mod event;
mod id;
mod scope;
