//! The contract of a model: a streaming trait, and a scripted model for tests and first use.
