//! The store for many processes: one PostgreSQL database, the same law as every store.
//!
//! Start with [`PostgresStore::open`] and [`PostgresOptions`]. Several processes may open the
//! same runtime; each commits over one connection, many commits in one call of the server, and
//! no lock outlives such a call. A lost connection and a restart of the server are survived: a
//! commit whose answer was lost is looked up by its id, never made twice and never forgotten.
//! [`schema`] gives the tables as text for whoever may not make them.
//!
//! Not here: what rows and events mean; who owns a worker. Limits: [`PostgresLimits`],
//! [`Limits`](runtime_store::Limits); one runtime commits one batch at a time, more runtimes in
//! one database do not wait for each other. Space names hold no NUL, times lie before the year
//! 292,000,000.
//!
//! ```
//! use runtime_core::{CommitId, ScopeId, Timestamp};
//! use runtime_postgres::{PostgresOptions, PostgresStore};
//! use runtime_store::{Commit, RowChange, RowKey, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "postgres://app@db.example.com/app?runtime=support";
//! # let Some(server) = postgres_for_tests::url_for_tests() else { return Ok(()) };
//! # let own = std::process::id();
//! # let url = &format!("{server}?schema=agent_runtime_tests&runtime=example-{own}");
//! let store = PostgresStore::open(PostgresOptions::new(url)?).await?;
//! let key = RowKey::new("note", ScopeId::new("desk")?, "first");
//! let now = Timestamp::from_millis(1);
//! let commit = Commit::new(CommitId::generate(now, [0; 10]), now)
//!     .row(RowChange::put(key, *b"hello"));
//! store.commit(commit).await?;
//! store.close().await?;
//! # Ok(())
//! # }
//! ```

mod attachments;
mod batch;
mod call;
mod clock;
mod committer;
mod config;
mod connect;
mod error;
mod export;
mod head;
mod import;
mod keys;
mod open;
mod read;
mod readers;
mod schema;
mod store;
mod tls;
mod transfer;

pub use clock::DatabaseClock;
pub use config::{PostgresLimits, PostgresOptions};
pub use error::OpenError;
pub use export::export;
pub use import::import;
pub use schema::{SCHEMA_DEFAULT, SCHEMA_VERSION, schema};
pub use store::PostgresStore;
pub use transfer::TransferError;
