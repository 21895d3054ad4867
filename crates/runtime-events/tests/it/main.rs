//! Tests of `runtime-events` against the store in memory and a simulated clock.

mod adapter;
mod bench;
mod bridge;
mod consumer;
mod edges;
mod gap;
mod hub;
mod join;
mod laws;
mod log;
mod many;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts every byte, for what a reader costs (R14).
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Returns how many bytes are allocated now.
fn allocated_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
