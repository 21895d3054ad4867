//! The memory store against the law of a store.

mod memory;
