//! Live objects by reference count: built once, leased by generation, disposed exactly once.
