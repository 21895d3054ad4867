//! The laws of processes on the store in memory; those on files stand with the file store.

use crate::laws::Memory;

runtime_testkit::process_laws!(Memory::new());
