//! The discovery cache, driven by a simulated clock.

mod states;
mod storms;
mod world;
