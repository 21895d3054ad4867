//! What the test-kit promises to the tests that use it.

mod fault_store;
