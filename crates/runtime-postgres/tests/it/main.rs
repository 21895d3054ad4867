//! Everything that is tested through the public face of the store, on a real server.

mod clock;
mod effects;
mod laws;
mod load;
mod model;
mod processes;
mod restart;
mod schema;
mod support;
mod tls;
