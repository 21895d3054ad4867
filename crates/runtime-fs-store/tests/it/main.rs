//! The file store: the law of a store, crashes, damage, readers beside the writer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails has found what its test looks for; rows of the scoreboard are printed"
)]

#[cfg(not(feature = "simulation"))]
mod attachments;
#[cfg(not(feature = "simulation"))]
mod backups;
#[cfg(not(feature = "simulation"))]
mod caches;
#[cfg(not(feature = "simulation"))]
mod care;
#[cfg(not(feature = "simulation"))]
mod checkpoints;
#[cfg(not(feature = "simulation"))]
mod cleaning;
#[cfg(not(feature = "simulation"))]
mod clock;
#[cfg(not(feature = "simulation"))]
mod copies;
#[cfg(not(feature = "simulation"))]
mod crash;
#[cfg(not(feature = "simulation"))]
mod damage;
#[cfg(not(feature = "simulation"))]
mod effects;
#[cfg(not(feature = "simulation"))]
mod endurance;
#[cfg(not(feature = "simulation"))]
mod events;
#[cfg(not(feature = "simulation"))]
mod failures;
#[cfg(not(feature = "simulation"))]
mod followers;
#[cfg(not(feature = "simulation"))]
mod forgetting;
#[cfg(not(feature = "simulation"))]
mod golden;
#[cfg(not(feature = "simulation"))]
mod imports;
#[cfg(not(feature = "simulation"))]
mod inbox;
#[cfg(not(feature = "simulation"))]
mod kills;
#[cfg(not(feature = "simulation"))]
mod laws;
#[cfg(not(feature = "simulation"))]
mod layouts;
#[cfg(not(feature = "simulation"))]
mod life;
#[cfg(not(feature = "simulation"))]
mod limits;
#[cfg(not(feature = "simulation"))]
mod lives;
#[cfg(not(feature = "simulation"))]
mod memory;
#[cfg(not(feature = "simulation"))]
mod pages;
#[cfg(feature = "simulation")]
mod power;
#[cfg(feature = "simulation")]
mod power_checkpoints;
#[cfg(not(feature = "simulation"))]
mod processes;
#[cfg(not(feature = "simulation"))]
mod reading;
#[cfg(not(feature = "simulation"))]
mod repairs;
#[cfg(not(feature = "simulation"))]
mod replays;
#[cfg(not(feature = "simulation"))]
mod strace;
mod support;
#[cfg(not(feature = "simulation"))]
mod upkeep;

#[cfg(not(feature = "simulation"))]
mod allocations {
    use std::alloc::System;

    use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

    /// Counts every byte, for what a store holds on to (S6, R20).
    #[global_allocator]
    static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

    /// Returns how many bytes are allocated now.
    pub(crate) fn allocated_bytes() -> usize {
        let stats = ALLOCATOR.stats();
        stats.bytes_allocated - stats.bytes_deallocated
    }
}
