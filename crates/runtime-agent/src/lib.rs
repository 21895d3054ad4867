//! The driver of one turn: machine, effects, model and tools.
