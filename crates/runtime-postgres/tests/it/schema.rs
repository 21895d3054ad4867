//! Who makes the tables, and what is refused.

use postgres_for_tests::url_for_tests;
use runtime_core::Classified as _;
use runtime_postgres::{OpenError, PostgresOptions, PostgresStore, schema};
use runtime_store::{AttachmentStore as _, KeyRingStore as _, Store as _};

use crate::support::{fresh_runtime, or_skip};

fn sql(statements: &str) {
    let server = url_for_tests().expect("there was a server");
    let output = std::process::Command::new("psql")
        .args([server.as_str(), "-v", "ON_ERROR_STOP=1", "-qc", statements])
        .output()
        .expect("psql comes with the server");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A schema of its own, gone when dropped.
struct Own(String);

impl Own {
    fn new() -> Option<Self> {
        url_for_tests()?;
        let id = fresh_runtime().to_string().replace('-', "_");
        Some(Self(format!("own_{id}")))
    }

    fn options(&self, user: &str, runtime: &str) -> PostgresOptions {
        let server = url_for_tests().expect("there was a server");
        let server = server.replacen("postgres@", &format!("{user}@"), 1);
        let url = format!("{server}?schema={}{runtime}", self.0);
        PostgresOptions::new(&url).expect("a URL")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        sql(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.0));
    }
}

/// An account that may make no tables uses those that somebody else has made from the text.
#[tokio::test]
async fn an_account_without_the_right_to_make_tables_uses_those_that_are_there() {
    let own = or_skip!(Own::new());
    let (name, user) = (&own.0, format!("user_{}", own.0));
    sql(&format!(
        "CREATE ROLE {user} LOGIN; REVOKE CREATE ON DATABASE postgres FROM PUBLIC"
    ));
    let refused = PostgresStore::open(own.options(&user, "&runtime=one")).await;
    let refused = refused.expect_err("there are no tables");
    assert_eq!(refused.code(), "postgres_schema_missing", "{refused}");
    assert!(refused.to_string().contains("schema --print"), "{refused}");

    sql(&schema(name, 0).expect("a plain name"));
    sql(&format!(
        "GRANT USAGE ON SCHEMA {name} TO {user}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {name} TO {user}"
    ));
    let store = PostgresStore::open(own.options(&user, "&runtime=one"))
        .await
        .expect("a store");
    store
        .commit(crate::load::commit("user", 1, 0))
        .await
        .expect("an append");
    store.close().await.expect("closed");
    drop(store);
    sql(&format!("DROP SCHEMA {name} CASCADE; DROP ROLE {user}"));
}

/// Processes that open a new database at the same moment make its tables once, and one runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_open_a_new_database_at_once_make_its_tables_once() {
    let own = or_skip!(Own::new());
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..8 {
        opening.spawn(PostgresStore::open(own.options("postgres", "&runtime=one")));
    }
    let mut stores = Vec::new();
    while let Some(opened) = opening.join_next().await {
        stores.push(opened.expect("no panic").expect("a store"));
    }
    for (number, store) in (1_u64..).zip(&stores) {
        assert_eq!(store.identity(), stores[0].identity());
        let commit = crate::load::commit("opener", number, 0);
        let made = store.commit(commit).await.expect("an append");
        assert_eq!(made.positions.start, number);
    }
}

/// The tables that opening makes are those of the text.
#[tokio::test]
async fn tables_of_a_later_version_and_other_tables_are_refused() {
    let own = or_skip!(Own::new());
    let open = async || PostgresStore::open(own.options("postgres", "&runtime=one")).await;
    open().await.expect("made").close().await.expect("closed");
    sql(&format!(
        "UPDATE {}.schema_version SET digest = 'other'",
        own.0
    ));
    let differs = open().await.expect_err("other tables");
    assert_eq!(differs.code(), "postgres_schema_differs");
    sql(&format!("UPDATE {}.schema_version SET version = 99", own.0));
    let newer = open().await.expect_err("later tables");
    assert!(
        matches!(newer, OpenError::SchemaNewer { found: 99, .. }),
        "{newer}"
    );
}

/// Without a name the only runtime is meant, or a fresh one; with several, none is guessed.
#[tokio::test]
async fn the_runtime_that_is_meant_is_never_guessed() {
    let own = or_skip!(Own::new());
    let open = async |runtime: &str, create| {
        PostgresStore::open(own.options("postgres", runtime).create(create)).await
    };
    let missing = open("", false).await.expect_err("nothing is there");
    assert_eq!(missing.code(), "postgres_schema_missing");
    let first = open("", true).await.expect("a fresh one");
    let again = open("", false).await.expect("the only one");
    assert_eq!(first.identity(), again.identity());
    let other = open("&runtime=other", false).await.expect_err("not there");
    assert_eq!(other.code(), "postgres_no_runtime");
    let other = open("&runtime=other", true).await.expect("made");
    let several = open("", true).await.expect_err("two are there");
    assert!(several.to_string().contains("other"), "{several}");

    // Two runtimes of one database share nothing.
    let commit = crate::load::commit("one", 1, 0);
    first.commit(commit.clone()).await.expect("an append");
    assert_eq!(crate::load::log(&other).await.len(), 0);
    assert_eq!(other.committed(&commit.id).await.expect("an answer"), None);
    assert!(!other.commit(commit).await.expect("an append").repeated);
    let rings = (
        first.key_ring().await.expect("keys"),
        other.key_ring().await.expect("keys"),
    );
    assert_ne!(rings.0, rings.1);
    let digest = first.put_attachment((*b"x").into()).await.expect("put");
    assert!(!other.has_attachment(&digest).await.expect("an answer"));
}

/// A server that is not there is an error of its own, and names itself.
#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let options = PostgresOptions::new("postgres://u:hunter2@127.0.0.1:1/a").expect("a URL");
    let error = PostgresStore::open(options)
        .await
        .expect_err("nobody listens");
    assert_eq!(error.code(), "postgres_unreachable");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}
