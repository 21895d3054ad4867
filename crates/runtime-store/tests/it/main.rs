//! The memory store against the law of a store, and exports.

mod export;
mod memory;
