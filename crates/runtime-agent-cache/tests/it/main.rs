//! The cache of live objects, driven by a simulated clock.

mod interleavings;
mod invalidations;
mod leases;
mod swap_under_load;
mod world;
