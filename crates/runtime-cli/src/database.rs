//! A runtime in PostgreSQL: opened for every command alike, since processes share it.

use std::sync::Arc;

use runtime::OpenError;
use runtime::core::{ErrorClass, WireError};
use runtime::postgres::{PostgresOptions, PostgresStore, schema};
use runtime::store::Store;
use serde_json::json;

use crate::args::Postgres;
use crate::exit::Exit;
use crate::output::Output;

/// Opens the runtime of a URL; makes it when it is not there, if so told.
pub(crate) async fn open(url: &str, create: bool) -> anyhow::Result<Arc<dyn Store>> {
    let options = PostgresOptions::new(url).map_err(OpenError::from)?;
    let store = PostgresStore::open(options.create(create)).await;
    Ok(Arc::new(store.map_err(OpenError::from)?))
}

/// `postgres …`
pub(crate) fn run(output: Output, command: &Postgres) -> anyhow::Result<Exit> {
    let Postgres::Schema {
        schema: name, from, ..
    } = command;
    let statements = schema(name, *from).map_err(OpenError::from)?;
    output.print(|| statements.clone(), &json!({ "statements": statements }));
    Ok(Exit::Done)
}

/// Why a command that reads files has nothing to read.
pub(crate) fn not_files() -> anyhow::Error {
    let message = "this command works on the files of a store; a database has its own tools (pg_amcheck, pg_dump)";
    WireError::new("store_not_files", ErrorClass::Unsupported, message).into()
}
