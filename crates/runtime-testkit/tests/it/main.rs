//! What the test-kit promises to the tests that use it.

mod broken;
mod fault_store;
