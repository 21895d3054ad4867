//! The driver against its specification (T2–T7, E1, E4), on a controller that lives in memory.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may also panic in the functions around it; rows of the scoreboard are printed"
)]

mod approval;
mod desk;
mod direct;
mod durable;
mod environment;
mod features;
mod files;
mod growth;
mod live;
mod matrix;
mod parked;
mod replay;
mod tools;
mod tracing_spans;
