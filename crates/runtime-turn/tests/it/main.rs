//! The turn machine against its specification (T1–T3, E3, E4).
#![allow(
    clippy::unwrap_used,
    reason = "a test may also panic in the functions around it"
)]

mod approval;
mod budget;
mod files;
mod flow;
mod pending;
mod projection;
mod property;
mod refusal;
mod start;
mod transcript;
mod world;
