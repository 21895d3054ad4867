//! The connection is encrypted and the server's certificate checked.

use postgres_for_tests::{PostgresServer, StartError};
use runtime_core::Classified as _;
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::Store as _;

#[tokio::test]
async fn the_certificate_of_the_server_is_checked() {
    let server = match PostgresServer::start() {
        Err(StartError::NoBinaries) => {
            return assert!(postgres_for_tests::url_for_tests().is_none());
        }
        started => started.expect("a server"),
    };
    let certificate = server.encrypt().expect("a certificate");
    let open = async |host: &str, query: &str| {
        let port = server.port();
        let url = format!("postgres://postgres@{host}:{port}/postgres?{query}");
        PostgresStore::open(PostgresOptions::new(&url).expect("a URL")).await
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    let store = open("localhost", &trusted).await.expect("it is trusted");
    let commit = crate::load::commit("secret", 1, 0);
    store.commit(commit).await.expect("an append");
    assert_eq!(crate::load::log(&store).await.len(), 1);

    // Not signed by anybody that this machine trusts; made for another name.
    for (host, query) in [
        ("localhost", "sslmode=require"),
        ("127.0.0.1", trusted.as_str()),
    ] {
        let refused = open(host, query).await.expect_err("it is not trusted");
        let codes = ["postgres_unreachable", "postgres_certificates"];
        assert!(codes.contains(&refused.code()), "{refused}");
    }
}
