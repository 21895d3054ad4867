//! Tests against real child processes (`examples/fixture_server.rs`, and servers of others), and
//! against a server over HTTP inside the test.

mod fixture;
mod hostile;
mod http;
mod kept;
mod real;
mod reliability;
mod source;
mod survivors;
mod waiting;
mod web;
mod web_changes;
