//! The file store: the law of a store, crashes, damage, readers beside the writer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails has found what its test looks for; rows of the scoreboard are printed"
)]

#[cfg(not(feature = "simulation"))]
mod care;
#[cfg(not(feature = "simulation"))]
mod crash;
#[cfg(not(feature = "simulation"))]
mod effects;
#[cfg(not(feature = "simulation"))]
mod events;
#[cfg(not(feature = "simulation"))]
mod golden;
#[cfg(not(feature = "simulation"))]
mod laws;
#[cfg(not(feature = "simulation"))]
mod life;
#[cfg(feature = "simulation")]
mod power;
#[cfg(not(feature = "simulation"))]
mod processes;
mod support;
