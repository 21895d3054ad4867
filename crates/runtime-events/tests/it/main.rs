//! Tests of `runtime-events` against the store in memory and a simulated clock.

mod bench;
mod hub;
mod log;
