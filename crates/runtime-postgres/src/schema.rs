//! The tables: as text, made, and checked.

use runtime_core::Digest;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::OpenError;
use crate::error::{Failure, text};

/// The schema that holds the tables unless another is named.
pub const SCHEMA_DEFAULT: &str = "agent_runtime";

/// The version of the tables that this program makes and knows.
pub const SCHEMA_VERSION: u32 = 1;

const TABLES: &str = include_str!("schema.sql");

/// How long a name may be in the server.
const NAME_BYTES_MAX: usize = 63;

/// Checks the name of a schema: it stands in statements as it is.
pub(crate) fn checked_name(name: &str) -> Result<&str, OpenError> {
    let mut letters = name.bytes();
    let starts = letters
        .next()
        .is_some_and(|first| first.is_ascii_lowercase() || first == b'_');
    let goes_on = letters
        .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_');
    if starts && goes_on && name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    Err(OpenError::Url {
        reason: format!(
            "schema {name:?} is no plain name; use lower-case letters, digits and _, at most {NAME_BYTES_MAX}"
        ),
    })
}

/// Returns the statements that make the tables in a schema, in one transaction, for whoever has
/// the right to run them. A role that only uses the tables needs USAGE on the schema, and
/// SELECT, INSERT, UPDATE and DELETE on its tables.
///
/// # Errors
/// [`OpenError::Url`] for a name that is no plain one.
pub fn schema(name: &str) -> Result<String, OpenError> {
    let name = checked_name(name)?;
    Ok(format!(
        "BEGIN;\nCREATE SCHEMA IF NOT EXISTS {name};\nSET LOCAL search_path TO {name};\n\n{}COMMIT;\n",
        tables()
    ))
}

fn tables() -> String {
    format!(
        "-- Which version of the tables these are, and by which text they were made.\n\
         CREATE TABLE schema_version (\n    version integer PRIMARY KEY,\n    \
         digest text NOT NULL,\n    made timestamptz NOT NULL DEFAULT now()\n);\n\
         INSERT INTO schema_version (version, digest) VALUES ({SCHEMA_VERSION}, '{}');\n\n{TABLES}",
        digest()
    )
}

fn digest() -> String {
    Digest::of_bytes(TABLES.as_bytes()).to_string()
}

/// Makes sure that the tables are there and are ours.
pub(crate) async fn prepare(
    client: &mut Client,
    name: &str,
    create: bool,
) -> Result<(), OpenError> {
    if check(client, name).await? {
        return Ok(());
    }
    if !create {
        return Err(missing(name, "they were not to be made"));
    }
    make(client, name).await.map_err(|error| {
        let refused = [
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        match error.code() {
            Some(state) if refused.contains(state) => missing(name, text(&error)),
            _ => unreachable(error),
        }
    })?;
    if check(client, name).await? {
        return Ok(());
    }
    Err(missing(name, "they went away again"))
}

/// Several processes may open a new database at once: one makes the tables, the others wait.
async fn make(client: &mut Client, name: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('agent-runtime schema ' || $1, 0))";
    transaction.execute(lock, &[&name]).await?;
    let there =
        "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.schema_version') IS NOT NULL";
    let row = transaction.query_one(there, &[&name]).await?;
    let (schema, tables_there): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if !schema {
        transaction
            .batch_execute(&format!("CREATE SCHEMA {name}"))
            .await?;
    }
    if !tables_there {
        transaction.batch_execute(&tables()).await?;
    }
    transaction.commit().await
}

/// Whether the tables are there.
async fn check(client: &Client, name: &str) -> Result<bool, OpenError> {
    let there = "SELECT to_regclass($1 || '.schema_version') IS NOT NULL";
    let row = match client.query_one(there, &[&name]).await {
        Ok(row) => row,
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            return Err(missing(name, text(&error)));
        }
        Err(error) => return Err(unreachable(error)),
    };
    if !row.try_get::<_, bool>(0).map_err(unreachable)? {
        return Ok(false);
    }
    let version = "SELECT version, digest FROM schema_version ORDER BY version DESC LIMIT 1";
    let row = client.query_opt(version, &[]).await.map_err(unreachable)?;
    let row = row.ok_or_else(|| differs(name, 0))?;
    let found: i32 = row.try_get(0).map_err(unreachable)?;
    let found = u32::try_from(found).unwrap_or(0);
    if found > SCHEMA_VERSION {
        return Err(OpenError::SchemaNewer {
            found,
            known: SCHEMA_VERSION,
        });
    }
    // There is no earlier version yet to come from.
    if found < SCHEMA_VERSION || row.try_get::<_, &str>(1).map_err(unreachable)? != digest() {
        return Err(differs(name, found));
    }
    Ok(true)
}

fn missing(schema: &str, reason: impl std::fmt::Display) -> OpenError {
    OpenError::SchemaMissing {
        schema: schema.to_owned(),
        reason: reason.to_string(),
    }
}

fn differs(schema: &str, version: u32) -> OpenError {
    OpenError::SchemaDiffers {
        schema: schema.to_owned(),
        version,
    }
}

pub(crate) fn unreachable(error: tokio_postgres::Error) -> OpenError {
    OpenError::Unreachable {
        reason: Failure::from(error).reason(),
    }
}
