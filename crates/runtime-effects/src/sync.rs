//! The locks of the protocols that are model-checked: the real ones, or the checker's.

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Arc, Mutex};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Arc, Mutex};
