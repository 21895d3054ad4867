//! The law of a store (R18), equal to that of memory and files.

use crate::support::{Database, or_skip};

runtime_testkit::store_laws!(or_skip!(Database::small()));

/// The laws of the event log and its streams (V1–V9).
mod events {
    use super::{Database, or_skip};

    runtime_testkit::event_laws!(or_skip!(Database::new()));
}
