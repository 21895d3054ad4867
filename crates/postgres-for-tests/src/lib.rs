//! A private PostgreSQL server for tests and benches: from the binaries of the distribution, as
//! an unprivileged user, in a directory of its own, on a free loopback port, with fsync on.
//!
//! Start with [`PostgresServer::start`], or with [`url_for_tests`] for the one that
//! `cargo xtask services up` has started. It is not for production: whoever reaches the port is
//! let in. Limits: [`CONNECTIONS_MAX`] connections.
//!
//! ```
//! use postgres_for_tests::{PostgresServer, StartError};
//!
//! match PostgresServer::start() {
//!     Ok(server) => assert!(server.url().starts_with("postgres://")),
//!     Err(StartError::NoBinaries) => println!("no server is installed here"),
//!     Err(error) => panic!("{error}"),
//! }
//! ```

mod account;
mod error;
mod server;
mod url;

pub use error::StartError;
pub use server::{CONNECTIONS_MAX, PostgresServer, StopMode};
pub use url::{URL_VARIABLE, keep_url, kept_url_file, url_for_tests};
