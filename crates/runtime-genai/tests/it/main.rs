//! A real client against a server on this machine that speaks the protocol, well and badly.

mod answers;
mod failures;
mod requests;
mod setup;
mod support;
