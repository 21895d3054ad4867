//! The file store: the law of a store, crashes, damage, readers beside the writer.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails has found what its test looks for"
)]
#![cfg(not(feature = "simulation"))]

mod crash;
mod laws;
mod life;
mod support;
