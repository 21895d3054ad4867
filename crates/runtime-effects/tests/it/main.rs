//! The laws of effects and promises (E1–E14) on the store in memory, and what is about hosts
//! and stores of other kinds.

mod edges;
mod laws;
mod owner;
mod processes;
mod reliability;
mod shared;
mod token;
