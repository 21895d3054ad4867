//! Tests against a real child process: `examples/fixture_server.rs`.

mod fixture;
mod hostile;
mod source;
