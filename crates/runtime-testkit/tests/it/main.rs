//! What the test-kit promises to the tests that use it.

mod broken;
mod broken_events;
mod fault_store;
