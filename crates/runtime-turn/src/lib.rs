//! The turn of an agent as a state machine without I/O.
