//! The discovery cache, driven by a simulated clock.

mod archive;
mod catalogue;
mod interleavings;
mod names;
mod pins;
mod states;
mod storms;
mod world;
