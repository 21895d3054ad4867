//! Tests of `runtime-events` against the store in memory and a simulated clock.

mod adapter;
mod bench;
mod bridge;
mod consumer;
mod gap;
mod hub;
mod join;
mod laws;
mod log;
mod many;
