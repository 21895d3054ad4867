//! The law of a store (R18), equal to that of memory and files.

use crate::support::{Database, or_skip};

runtime_testkit::store_laws!(or_skip!(Database::small()));
