//! The laws of processes (E15, E16) on files.

use crate::effects::Files;

runtime_testkit::process_laws!(Files::new());
