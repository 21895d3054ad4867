//! The laws of the event log and its streams (V1–V9) on files.

runtime_testkit::event_laws!(crate::effects::Files::new());
