//! The laws of effects, promises (E1–E14) and processes (E15) on PostgreSQL: between two processes
//! the store is closed and opened again.

use crate::support::{Database, or_skip};

runtime_testkit::effect_laws!(or_skip!(Database::new()));

mod processes {
    use super::*;

    runtime_testkit::process_laws!(or_skip!(Database::new()));
}
