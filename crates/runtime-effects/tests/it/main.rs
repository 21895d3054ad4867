//! The laws of effects and promises (E1–E14) on the store in memory, and what is about hosts
//! and stores of other kinds.

mod edges;
mod laws;
mod leases;
mod owner;
mod process_edges;
mod processes;
mod records;
mod reliability;
mod shared;
mod token;
mod workflow_context_edges;
mod workflow_edges;
mod workflow_store_edges;
