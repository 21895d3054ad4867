//! The discovery cache, driven by a simulated clock.

mod archive;
mod catalogue;
mod interleavings;
mod keys;
mod names;
mod pins;
mod states;
mod storms;
mod world;
