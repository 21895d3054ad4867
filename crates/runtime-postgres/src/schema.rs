//! The tables: as text, made, and checked.

use runtime_core::Digest;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::OpenError;
use crate::error::{Failure, text};

/// The schema that holds the tables unless another is named.
pub const SCHEMA_DEFAULT: &str = "agent_runtime";

/// What each version of the tables adds: the first to nothing, a later one to the one before it.
/// What has been released is never changed: the tables remember the digest of each.
const VERSIONS: &[&str] = &[include_str!("schema/1.sql")];

/// The version of the tables that this program makes and knows.
pub const SCHEMA_VERSION: u32 = VERSIONS.len() as u32;

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
/// the right to run them; or, after `from` versions, those that bring them to this one. A role that
/// only uses the tables needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on its
/// tables.
///
/// # Errors
/// [`OpenError::Url`] for a name that is no plain one; [`OpenError::SchemaNewer`] if `from` is
/// later than [`SCHEMA_VERSION`].
pub fn schema(name: &str, from: u32) -> Result<String, OpenError> {
    let tables = Tables::new(name)?;
    if from > tables.version() {
        return Err(tables.newer(from));
    }
    let made = match from {
        0 => format!("CREATE SCHEMA IF NOT EXISTS {name};\n"),
        _ => String::new(),
    };
    Ok(format!(
        "BEGIN;\n{made}SET LOCAL search_path TO {name};\n\n{}COMMIT;\n",
        tables.statements_after(from)
    ))
}

/// Makes sure that the tables are there, are ours and are of this version.
pub(crate) async fn prepare(
    client: &mut Client,
    name: &str,
    create: bool,
) -> Result<(), OpenError> {
    Tables::new(name)?.prepare(client, create).await
}

/// The tables in a schema, as some versions make them.
struct Tables<'a> {
    schema: &'a str,
    versions: &'a [&'a str],
}

impl<'a> Tables<'a> {
    fn new(schema: &'a str) -> Result<Self, OpenError> {
        Ok(Self {
            schema: checked_name(schema)?,
            versions: VERSIONS,
        })
    }

    fn version(&self) -> u32 {
        u32::try_from(self.versions.len()).expect("a few versions")
    }

    fn statements_after(&self, version: u32) -> String {
        let mut statements = match version {
            0 => "-- Which version of the tables these are, and by which text they were made.\n\
                 CREATE TABLE schema_version (\n    version integer PRIMARY KEY,\n    \
                 digest text NOT NULL,\n    made timestamptz NOT NULL DEFAULT now()\n);\n"
                .to_owned(),
            _ => String::new(),
        };
        for (text, number) in self.versions.iter().zip(1_u32..) {
            if number > version {
                let digest = digest(text);
                let noted = format!(
                    "INSERT INTO schema_version (version, digest) VALUES ({number}, '{digest}');\n\n"
                );
                statements += &noted;
                statements += text;
            }
        }
        statements
    }

    async fn prepare(&self, client: &mut Client, create: bool) -> Result<(), OpenError> {
        let found = self.check(client).await?;
        if found == self.version() {
            return Ok(());
        }
        if !create {
            return Err(self.behind(found, "it was not to be changed"));
        }
        self.bring_up(client).await.map_err(|error| {
            let refused = [
                SqlState::INSUFFICIENT_PRIVILEGE,
                SqlState::READ_ONLY_SQL_TRANSACTION,
            ];
            match error.code() {
                Some(state) if refused.contains(state) => self.behind(found, text(&error)),
                _ => unreachable(error),
            }
        })?;
        match self.check(client).await? {
            found if found == self.version() => Ok(()),
            found => Err(self.behind(found, "another program changes it")),
        }
    }

    /// Several processes may open a database at once: one makes or changes the tables, the others
    /// wait and find them.
    async fn bring_up(&self, client: &mut Client) -> Result<(), tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        let lock =
            "SELECT pg_advisory_xact_lock(hashtextextended('agent-runtime schema ' || $1, 0))";
        transaction.execute(lock, &[&self.schema]).await?;
        let there = "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.schema_version') IS NOT NULL";
        let row = transaction.query_one(there, &[&self.schema]).await?;
        let (schema, tables_there): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        if !schema {
            transaction
                .batch_execute(&format!("CREATE SCHEMA {}", self.schema))
                .await?;
        }
        let mut found = 0;
        if tables_there {
            let latest = "SELECT COALESCE(max(version), 0) FROM schema_version";
            found = transaction.query_one(latest, &[]).await?.try_get(0)?;
        }
        let found = u32::try_from(found).unwrap_or(0);
        if found < self.version() {
            transaction
                .batch_execute(&self.statements_after(found))
                .await?;
        }
        transaction.commit().await
    }

    /// Says which version the tables have, 0 if they are not there; checks that each version was
    /// made by its text.
    async fn check(&self, client: &Client) -> Result<u32, OpenError> {
        let there = "SELECT to_regclass($1 || '.schema_version') IS NOT NULL";
        let row = match client.query_one(there, &[&self.schema]).await {
            Ok(row) => row,
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                return Err(self.behind(0, text(&error)));
            }
            Err(error) => return Err(unreachable(error)),
        };
        if !row.try_get::<_, bool>(0).map_err(unreachable)? {
            return Ok(0);
        }
        let made = "SELECT version, digest FROM schema_version ORDER BY version";
        let rows = client.query(made, &[]).await.map_err(unreachable)?;
        let mut found = 0;
        for row in &rows {
            let version: i32 = row.try_get(0).map_err(unreachable)?;
            let version = u32::try_from(version).unwrap_or(0);
            if version > self.version() {
                return Err(self.newer(version));
            }
            let text = self.versions.get(found as usize);
            let made_by: &str = row.try_get(1).map_err(unreachable)?;
            let is_ours = text.is_some_and(|text| digest(text) == made_by);
            found += 1;
            if version != found || !is_ours {
                return Err(self.differs(version));
            }
        }
        match found {
            0 => Err(self.differs(0)),
            found => Ok(found),
        }
    }

    /// The tables are not there, or not of this version yet.
    fn behind(&self, found: u32, reason: impl std::fmt::Display) -> OpenError {
        let (schema, reason) = (self.schema.to_owned(), reason.to_string());
        match found {
            0 => OpenError::SchemaMissing { schema, reason },
            found => OpenError::SchemaOlder {
                schema,
                found,
                known: self.version(),
                reason,
            },
        }
    }

    fn newer(&self, found: u32) -> OpenError {
        OpenError::SchemaNewer {
            found,
            known: self.version(),
        }
    }

    fn differs(&self, version: u32) -> OpenError {
        OpenError::SchemaDiffers {
            schema: self.schema.to_owned(),
            version,
        }
    }
}

fn digest(text: &str) -> String {
    Digest::of_bytes(text.as_bytes()).to_string()
}

pub(crate) fn unreachable(error: tokio_postgres::Error) -> OpenError {
    OpenError::Unreachable {
        reason: Failure::from(error).reason(),
    }
}

#[cfg(test)]
mod tests {
    use postgres_for_tests::url_for_tests;
    use runtime_core::Classified as _;
    use tokio_postgres::NoTls;

    use super::*;

    const FIRST: &str = "CREATE TABLE thing (id integer PRIMARY KEY);\n";
    const SECOND: &str = "ALTER TABLE thing ADD COLUMN name text NOT NULL DEFAULT 'none';\n";

    /// Connects for a schema that is not there yet; none where there is no server.
    async fn connect(schema: &str) -> Option<Client> {
        let url = url_for_tests()?;
        let (client, connection) = tokio_postgres::connect(&url, NoTls)
            .await
            .expect("connects");
        tokio::spawn(connection);
        let begin = format!("DROP SCHEMA IF EXISTS {schema} CASCADE; SET search_path TO {schema}");
        client.batch_execute(&begin).await.expect("begins");
        Some(client)
    }

    fn tables<'a>(schema: &'a str, versions: &'a [&'a str]) -> Tables<'a> {
        Tables { schema, versions }
    }

    async fn drop_schema(client: &Client, schema: &str) {
        let end = format!("DROP SCHEMA {schema} CASCADE");
        client.batch_execute(&end).await.expect("drops");
    }

    /// Tables of an earlier version get what is new, keep what they hold, and end as those that
    /// were made at once; an earlier program then refuses them.
    #[tokio::test]
    async fn tables_of_an_earlier_version_are_brought_up() {
        let schema = format!("migrated_{}", std::process::id());
        let Some(mut client) = connect(&schema).await else {
            return;
        };
        let (old, new) = ([FIRST], [FIRST, SECOND]);
        let (old, new) = (tables(&schema, &old), tables(&schema, &new));
        old.prepare(&mut client, true).await.expect("made");
        client
            .execute("INSERT INTO thing VALUES (7)", &[])
            .await
            .expect("holds");

        let refused = new
            .prepare(&mut client, false)
            .await
            .expect_err("not asked to");
        assert_eq!(refused.code(), "postgres_schema_older", "{refused}");
        assert!(refused.to_string().contains("--from 1"), "{refused}");
        new.prepare(&mut client, true).await.expect("brought up");
        new.prepare(&mut client, false)
            .await
            .expect("is of this version");
        let row = client
            .query_one("SELECT id, name FROM thing", &[])
            .await
            .expect("is there");
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (7, "none"));

        let refused = old.prepare(&mut client, true).await.expect_err("is later");
        assert_eq!(refused.code(), "postgres_schema_newer", "{refused}");
        let other = [FIRST, "-- something else\n"];
        let refused = tables(&schema, &other).prepare(&mut client, true).await;
        let refused = refused.expect_err("was made by another text");
        assert_eq!(refused.code(), "postgres_schema_differs", "{refused}");
        drop_schema(&client, &schema).await;
    }

    /// Processes of the new version that open old tables at the same moment change them once; a
    /// change that fails leaves the tables as they were.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_happens_once_and_whole() {
        let schema = format!("raced_{}", std::process::id());
        let Some(mut client) = connect(&schema).await else {
            return;
        };
        tables(&schema, &[FIRST])
            .prepare(&mut client, true)
            .await
            .expect("made");
        let broken = [
            FIRST,
            "ALTER TABLE thing ADD COLUMN name text;\nSELECT nothing;\n",
        ];
        let failed = tables(&schema, &broken).prepare(&mut client, true).await;
        assert!(failed.is_err());
        tables(&schema, &[FIRST])
            .prepare(&mut client, true)
            .await
            .expect("is as it was");

        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let schema = schema.clone();
            opening.spawn(async move {
                let url = url_for_tests().expect("there was a server");
                let (mut client, connection) = tokio_postgres::connect(&url, NoTls)
                    .await
                    .expect("connects");
                tokio::spawn(connection);
                let path = format!("SET search_path TO {schema}");
                client.batch_execute(&path).await.expect("looks there");
                tables(&schema, &[FIRST, SECOND])
                    .prepare(&mut client, true)
                    .await
            });
        }
        while let Some(opened) = opening.join_next().await {
            opened.expect("no panic").expect("brought up");
        }
        drop_schema(&client, &schema).await;
    }

    /// The text for whoever has the right to run it: all of it, what is new, and nothing.
    #[test]
    fn the_text_holds_what_is_missing() {
        let (all, [one, two]) = ([FIRST, SECOND], [FIRST, SECOND]);
        let tables = tables("app", &all);
        let (whole, rest) = (tables.statements_after(0), tables.statements_after(1));
        assert!(
            whole.contains(one)
                && whole.contains(two)
                && whole.contains("CREATE TABLE schema_version")
        );
        assert!(!rest.contains(one) && rest.contains(two) && rest.contains("VALUES (2, "));
        assert_eq!(tables.statements_after(2), "");
        let newer = schema("app", SCHEMA_VERSION + 1).expect_err("is not known");
        assert_eq!(newer.code(), "postgres_schema_newer");
    }
}
